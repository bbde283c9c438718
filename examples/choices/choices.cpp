// SPDX-License-Identifier: Apache-2.0
// Methods as types and by name, several images at once, a video, a cache. The parts between the
// markers are shown in the README.
#include <cstdio>
#include <random>
#include <vector>

#include "tokenfold/registry.hpp"
#include "tokenfold/std_threads.hpp"
#include "tokenfold/tokenfold.hpp"

namespace tf = tokenfold;

namespace {

std::vector<float> noise(tf::Index size) {
  std::vector<float> values(static_cast<std::size_t>(size));
  std::mt19937 random(1);
  for (float& value : values) value = static_cast<float>(random()) * 0x1p-31F - 1.0F;
  return values;
}

bool expect(const char* what, tf::Index actual, tf::Index expected) {
  if (actual != expected) std::fprintf(stderr, "choices: %s is not what it should be\n", what);
  return actual == expected;
}

// [mix]
tf::FiCoCoV ablation{.filter = {.lambda = 0.5, .penalty = {.coefficient = 1}}};  // no local penalty
tf::BasicFiCoCoV<tf::correlate::NucleusTargets> adaptive{.correlate = {.targets = {.mass = 0.9}}};
// [/mix]

}  // namespace

int main() {
  const std::vector<float> embeddings = noise(576 * 64);
  const tf::Index width = 64;

  // [by-name]
  const auto patches = tf::TokenLayout::encoder({24, 24}, tf::ClsToken::none);  // no [CLS] any more
  const auto reducer = tf::make_reducer("divprune", {{"preset", "cen"}, {"order", "score"}});
  tf::Inputs<float> inputs(patches);
  inputs.features = {tf::MatrixView(embeddings.data(), 576, width)};
  const tf::ReductionPlan plan = reducer->plan(inputs, tf::Budget::keep(64));
  // [/by-name]

  std::vector<float> cache = noise(2 * 700 * 16);
  const tf::HeadsView keys(cache.data(), {.heads = 2, .tokens = 700, .dim = 16}, {16, 32});
  const std::vector<float> video = noise(8 * 144 * width);
  std::vector<float> packed(static_cast<std::size_t>((3 * 64 + 60) * width));
  const auto crop = tf::MatrixView(embeddings.data(), 576, width);

  // [around]
  // Crops of one image, in parallel: 252 tokens in all, shared in proportion.
  const std::vector<tf::Inputs<float>> crops(4, inputs);
  tf::Batch batch;
  batch.plan(*reducer, crops, tf::SharedBudget(tf::Budget::keep(252)), tf::StdThreads{2});
  batch.apply(std::vector(4, crop), tf::MatrixView(packed.data(), 252, width));

  // After prefill: the caches of the layers that ran before the pruning.
  tf::Workspace workspace;
  tf::compact_cache(plan, keys, workspace);

  // A video: 8 frames of 12 x 12, what repeats is pruned, (t, h, w) of what is left.
  const auto frames = tf::TokenLayout::video(8, {12, 12});
  const tf::Sequence clip(frames, tf::Features(tf::MatrixView(video.data(), 8 * 144, width)));
  const tf::Index keep = tf::evs_keep_count(8, 144, 0.75);
  tf::Survivors survivors(frames);
  survivors.advance(tf::EVS{}.plan(clip, tf::Budget::keep(keep)));
  std::vector<int> thw(static_cast<std::size_t>(3 * keep));
  tf::mrope_positions(survivors.layout(), 0, tf::MatrixView(thw.data(), 3, keep));
  // [/around]

  const bool fine = expect("the plan", plan.output_tokens(), 64) &&
                    expect("the batch", batch.output_tokens(), 252) &&
                    expect("the video", survivors.layout().tokens(), keep) &&
                    expect("an option", ablation.filter.penalty.coefficient == 1, 1) &&
                    expect("a policy", adaptive.correlate.targets.mass == 0.9, 1);
  std::printf("%d -> %d, %d -> %d, %d -> %d tokens\n", 576, 64, 4 * 576, 252, 8 * 144,
              static_cast<int>(keep));
  return fine ? 0 : 1;
}
