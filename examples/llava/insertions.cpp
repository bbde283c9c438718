// SPDX-License-Identifier: Apache-2.0
// The three places where an engine can shorten its visual tokens, with one method each. The parts
// between the markers are shown in the README; `llava` does the same for every method by name.
#include <cstdio>

#include "model.hpp"
#include "tokenfold/tokenfold.hpp"

namespace tf = tokenfold;

namespace {

/// LLaVA-1.5's depth and patch grid; narrow, so that it runs in a moment.
llava::Config narrow_model() {
  llava::Config config;
  config.encoder = {.layers = 24, .width = 32, .heads = 2, .ffn = 64};
  config.decoder = {.layers = 4,
                    .width = 48,
                    .heads = 4,
                    .key_value_heads = 2,
                    .head_dim = 12,
                    .ffn = 96,
                    .vocabulary = 100};
  return config;
}

bool expect(const char* what, tf::Index actual, tf::Index expected) {
  if (actual != expected) {
    std::fprintf(stderr, "insertions: %s: expected %td, got %td\n", what, expected, actual);
  }
  return actual == expected;
}

}  // namespace

int main() {
  const llava::Model model(narrow_model(), llava::Weights::random(1));
  const llava::Encoder& encoder = model.encoder;
  const llava::Matrix pixels = llava::Matrix::Random(3, 336 * 336);
  const std::vector<std::int64_t> system(35, 7), question(25, 9);
  tf::Workspace workspace;
  tf::ReductionPlan plan;

  // [in-encoder]
  // In the encoder, between attention and MLP: FiCoCo-V from layer 11 on, 16 patches a layer.
  tf::Survivors patches(tf::TokenLayout::encoder({24, 24}));
  const auto encoded = encoder.run(pixels, [&](llava::LayerStep& step) {
    if (step.layer < tf::ficoco_v_first_layer) return;
    const tf::Sequence sequence(patches.layout(), tf::QueryKeyAttention(step.queries, step.keys));
    tf::FiCoCoV{}.plan(sequence, tf::Budget::discard(16), workspace, plan);
    step.shorten(plan);
    patches.advance(plan, workspace);
  });
  // [/in-encoder]

  // [behind-encoder]
  // Between encoder and projector: PruMerge, by queries and keys of the layer behind.
  const auto whole = encoder.run(pixels);
  const auto layout = tf::TokenLayout::encoder({24, 24});
  const auto [queries, keys] = encoder.project(23, whole.hidden);
  const tf::QueryKeyAttention attention(encoder.heads(queries), encoder.heads(keys));
  tf::PruMerge{}.plan(tf::Sequence(layout, attention), tf::Budget::keep(32), workspace, plan);
  llava::Matrix kept(plan.visual().size(), whole.hidden.cols());
  plan.apply_rows(plan.visual(), whole.hidden, kept);
  const llava::Matrix image = model.projector.run(kept);
  // [/behind-encoder]

  const llava::Matrix input = llava::splice(model.decoder, {system, question}, image);

  llava::Cache cache = model.decoder.empty_cache();

  // [in-decoder]
  // In the decoder, behind its second layer: FastV. Positions keep their gaps.
  const auto sequence = tf::TokenLayout::decoder(35, image.rows(), 25);
  const auto prune = [&](llava::LayerStep& step) {
    if (step.layer != 1) return;
    const tf::QueryKeyAttention seen(step.queries, step.keys, {.causal = true});
    tf::FastV{}.plan(tf::Sequence(sequence, seen), tf::Budget::keep(8), workspace, plan);
    step.shorten(plan, tf::PositionRule::original);
  };
  const llava::Matrix hidden = model.decoder.prefill(input, cache, {.after_layer = prune});
  // [/in-decoder]

  const llava::Vector logits = model.decoder.logits(hidden);
  const bool fine = expect("left by FiCoCo-V", encoded.hidden.rows(), 1 + 576 - 12 * 16) &&
                    expect("left by PruMerge", image.rows(), 32 + 1) &&
                    expect("left by FastV", hidden.rows(), 35 + 8 + 25) &&
                    expect("cached before", cache[1].length, 35 + 33 + 25) &&
                    expect("cached behind", cache[2].length, 35 + 8 + 25) &&
                    expect("logits", logits.size(), 100);
  std::printf("encoder %d -> %d, projector %d, decoder %d -> %d tokens\n", 577,
              static_cast<int>(encoded.hidden.rows()), static_cast<int>(image.rows()),
              static_cast<int>(input.rows()), static_cast<int>(hidden.rows()));
  return fine ? 0 : 1;
}
