// SPDX-License-Identifier: Apache-2.0

// Reduction layer after layer: Survivors and composed plans against the reference run on what is
// left.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <numeric>
#include <tokenfold/tokenfold.hpp>
#include <utility>
#include <vector>

#include "reference/ficoco.hpp"
#include "support/ficoco_cases.hpp"
#include "support/outcome.hpp"
#include "support/random.hpp"

namespace {

using support::Random;
using support::Tensor;
using tokenfold::Budget;
using tokenfold::Index;
using tokenfold::ReductionPlan;
using tokenfold::Survivors;
using tokenfold::Token;
using tokenfold::TokenLayout;

// The reference's own bookkeeping: which original row each current row is, and the product of all
// W.
struct ReferenceRun {
  reference::FicocoInput input;
  reference::Rows originals;
  reference::Matrix total;

  explicit ReferenceRun(reference::FicocoInput start)
      : input(std::move(start)),
        originals(input.tokens.rows),
        total(input.tokens.rows, input.tokens.rows) {
    std::iota(originals.begin(), originals.end(), std::size_t{0});
    for (std::size_t i = 0; i < total.rows; ++i) total(i, i) = 1;
  }
  void advance(const reference::FicocoResult& step) {
    reference::FicocoInput next = input;
    next.tokens = step.output;
    total = reference::multiply(step.weights, total);
    reference::Rows kept_originals;
    next.visual_rows.clear();
    next.grid_cells.clear();
    next.text_rows.clear();
    for (std::size_t row = 0; row < step.kept.size(); ++row) {
      const std::size_t before = step.kept[row];
      kept_originals.push_back(originals[before]);
      const auto visual = std::find(input.visual_rows.begin(), input.visual_rows.end(), before);
      if (visual != input.visual_rows.end()) {
        next.visual_rows.push_back(row);
        if (!input.grid_cells.empty()) {
          next.grid_cells.push_back(
              input.grid_cells[static_cast<std::size_t>(visual - input.visual_rows.begin())]);
        }
      }
      const auto& text = input.text_rows;
      if (std::find(text.begin(), text.end(), before) != text.end()) next.text_rows.push_back(row);
    }
    originals = kept_originals;
    input = next;
  }
};

void expect_same_state(const Survivors& survivors, const Tensor<double>& tokens,
                       const Tensor<double>& first_tokens, const ReferenceRun& expected) {
  const TokenLayout& layout = survivors.layout();
  EXPECT_EQ(support::indices(survivors.total().kept()), support::indices(expected.originals));
  EXPECT_EQ(support::indices(layout.visual()), support::indices(expected.input.visual_rows));
  EXPECT_EQ(layout.tokens(), static_cast<Index>(expected.originals.size()));
  if (layout.has_grid()) {
    EXPECT_EQ(support::indices(layout.cells()), support::indices(expected.input.grid_cells));
  }
  EXPECT_TRUE(support::close(support::dense_weights(survivors.total()).values,
                             expected.total.values, 1e-5, 1e-6));
  Tensor<double> at_once(survivors.total().output_tokens(), first_tokens.cols());
  survivors.total().apply(first_tokens, at_once);
  EXPECT_TRUE(at_once.isApprox(tokens, 1e-5));
  EXPECT_TRUE(tokens.isApprox(support::tensor<double>(expected.input.tokens), 1e-5));
}

TEST(StepByStep, ficoco_v_over_six_layers_is_the_reference_run_on_the_survivors) {
  for (std::uint64_t seed = 41; seed < 51; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const TokenLayout layout = TokenLayout::encoder({7, 9}, tokenfold::ClsToken::first, 2);
    Survivors survivors(layout);
    const auto count = static_cast<std::size_t>(layout.tokens());
    const reference::Matrix first = support::normal_matrix<double>(count, 6, random);
    const Tensor<double> first_tokens = support::tensor<double>(first);
    Tensor<double> tokens = first_tokens;
    ReferenceRun expected(support::ficoco_input(layout, first, reference::Matrix(), false));
    tokenfold::Workspace workspace;
    ReductionPlan plan;
    for (int layer = 0; layer < 6; ++layer) {
      SCOPED_TRACE(layer);
      const auto now = static_cast<std::size_t>(survivors.layout().tokens());
      expected.input.attention = support::random_probabilities<double>(now, random);
      const Tensor<double> attention = support::tensor<double>(expected.input.attention);
      tokenfold::FiCoCoV{}.plan(
          tokenfold::Sequence(survivors.layout(), tokenfold::head_mean_attention(attention)),
          Budget::discard(8), workspace, plan);
      Tensor<double> shorter(plan.output_tokens(), tokens.cols());
      plan.apply(tokens, shorter);
      tokens = shorter;
      survivors.advance(plan, workspace);
      reference::FicocoVOptions options;
      options.discard = 8;
      expected.advance(reference::ficoco_v(expected.input, options));
      EXPECT_EQ(survivors.layout().cls(), 0);
      expect_same_state(survivors, tokens, first_tokens, expected);
    }
    EXPECT_EQ(survivors.layout().visual_count(), 63 - 48);
  }
}

TEST(StepByStep, ficoco_l_over_six_layers_is_the_reference_run_on_the_survivors) {
  for (std::uint64_t seed = 61; seed < 71; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const TokenLayout layout = TokenLayout::decoder(5, 40, 7);
    Survivors survivors(layout);
    const auto count = static_cast<std::size_t>(layout.tokens());
    const reference::Matrix first = support::normal_matrix<double>(count, 6, random);
    const Tensor<double> first_tokens = support::tensor<double>(first);
    Tensor<double> tokens = first_tokens;
    ReferenceRun expected(support::ficoco_input(layout, first, reference::Matrix(), false));
    expected.input.text_rows = support::text_rows(layout, tokenfold::TextTokens::after_image);
    tokenfold::Workspace workspace;
    ReductionPlan plan;
    for (int layer = 0; layer < 6; ++layer) {
      SCOPED_TRACE(layer);
      const auto now = static_cast<std::size_t>(survivors.layout().tokens());
      expected.input.attention = support::random_probabilities<double>(now, random, true);
      const Tensor<double> attention = support::tensor<double>(expected.input.attention);
      tokenfold::FiCoCoL{}.plan(
          tokenfold::Sequence(survivors.layout(), tokenfold::head_mean_attention(attention)),
          Budget::discard(5), workspace, plan);
      Tensor<double> shorter(plan.output_tokens(), tokens.cols());
      plan.apply(tokens, shorter);
      tokens = shorter;
      survivors.advance(plan, workspace);
      reference::FicocoLOptions options;
      options.discard = 5;
      expected.advance(reference::ficoco_l(expected.input, options));
      EXPECT_EQ(survivors.layout().text_before(), (tokenfold::Range{0, 5}));
      EXPECT_EQ(survivors.layout().text_after().size(), 7);
      EXPECT_EQ(survivors.layout().text_after().end, survivors.layout().tokens());
      expect_same_state(survivors, tokens, first_tokens, expected);
    }
    EXPECT_EQ(survivors.layout().visual_count(), 10);
  }
}

// Encoder and decoder in one go: from the patches of the encoder to the tokens after the last
// decoder layer.
TEST(StepByStep, ficoco_vl_composes_from_patches_to_the_last_layer) {
  Random random(81);
  const tokenfold::Grid grid{6, 8};
  const Index before = 3;
  const Index after = 4;
  tokenfold::FiCoCoVL method;
  method.encoder_first_layer = 1;
  method.decoder_first_layer = 1;
  const tokenfold::FiCoCoVLSteps steps = method.steps(grid.cells(), Budget::keep(10), 3, 4);
  tokenfold::Workspace workspace;
  ReductionPlan plan;

  const TokenLayout encoder_layout = TokenLayout::encoder(grid);
  Survivors encoder(encoder_layout);
  Tensor<double> tokens = support::tensor<double>(support::normal_matrix<double>(49, 5, random));
  const Tensor<double> patches = tokens.bottomRows(48);
  const auto reduce = [&](const auto& stage, Survivors& survivors, Index discard, bool causal) {
    const Tensor<double> attention = support::tensor<double>(support::random_probabilities<double>(
        static_cast<std::size_t>(survivors.layout().tokens()), random, causal));
    stage.plan(tokenfold::Sequence(survivors.layout(), tokenfold::head_mean_attention(attention)),
               Budget::discard(discard), workspace, plan);
    Tensor<double> shorter(plan.output_tokens(), tokens.cols());
    plan.apply(tokens, shorter);
    tokens = shorter;
    survivors.advance(plan, workspace);
  };
  for (const Index discard : steps.encoder) reduce(method.encoder, encoder, discard, false);

  // The projector is fed the patches without [CLS]; text goes around them.
  const Tensor<double> image = tokens.bottomRows(encoder.layout().visual_count());
  Tensor<double> prompt(before + image.rows() + after, 5);
  prompt.setRandom();
  prompt.middleRows(before, image.rows()) = image;
  tokens = prompt;
  const TokenLayout decoder_layout =
      TokenLayout::decoder(before, encoder.layout().cells(), after, grid);
  EXPECT_EQ(support::indices(decoder_layout.cells()), support::indices(encoder.layout().cells()));
  Survivors decoder(decoder_layout);
  for (const Index discard : steps.decoder) reduce(method.decoder, decoder, discard, true);
  EXPECT_EQ(decoder.layout().visual_count(), 10);

  const ReductionPlan in_encoder = encoder.total().within(encoder_layout.visual_range());
  const ReductionPlan in_decoder = decoder.total().within(decoder_layout.visual_range());
  EXPECT_EQ(in_encoder.input_tokens(), 48);
  EXPECT_EQ(in_encoder.output_tokens(), in_decoder.input_tokens());
  const ReductionPlan whole = in_encoder.then(in_decoder);
  EXPECT_EQ(whole.input_tokens(), 48);
  EXPECT_EQ(whole.output_tokens(), 10);
  Tensor<double> at_once(10, 5);
  whole.apply(patches, at_once);
  EXPECT_TRUE(at_once.isApprox(tokens.middleRows(before, 10), 1e-5));
  EXPECT_TRUE(tokens.topRows(before).isApprox(prompt.topRows(before), 0));
  EXPECT_TRUE(tokens.bottomRows(after).isApprox(prompt.bottomRows(after), 0));
  // A patch's number is its grid cell.
  EXPECT_EQ(support::indices(whole.kept()), support::indices(decoder.layout().cells()));
  const std::vector<float> ones(48, 1.0f);
  std::vector<float> sizes(10);
  whole.sizes(ones, sizes);
  EXPECT_NEAR(std::accumulate(sizes.begin(), sizes.end(), 0.0f), 48, 1e-4);
}

// --- the schedule of FiCoCo-VL -------------------------------------------------------------------

TEST(FiCoCoVLSteps, sum_to_the_budget_and_differ_by_one_at_most) {
  for (const Index visual : {0, 1, 7, 64, 576, 2880}) {
    for (const double share : {0.0, 0.3, 0.5, 1.0}) {
      for (Index keep = 0; keep <= visual; keep += 1 + visual / 13) {
        tokenfold::FiCoCoVL method;
        method.encoder_share = share;
        const auto steps = method.steps(visual, Budget::keep(keep));
        ASSERT_EQ(steps.encoder.size(), 24);
        ASSERT_EQ(steps.decoder.size(), 32);
        const Index in_encoder =
            std::accumulate(steps.encoder.begin(), steps.encoder.end(), Index{0});
        const Index in_decoder =
            std::accumulate(steps.decoder.begin(), steps.decoder.end(), Index{0});
        EXPECT_EQ(in_encoder + in_decoder, visual - keep);
        EXPECT_NEAR(static_cast<double>(in_encoder), share * static_cast<double>(visual - keep),
                    0.5);
        for (const auto& [layers, first] : {std::pair{steps.encoder, 11}, {steps.decoder, 3}}) {
          EXPECT_EQ(std::count(layers.begin(), layers.begin() + first, 0), first);
          EXPECT_TRUE(std::is_sorted(layers.begin() + first, layers.end(), std::greater<>()));
          EXPECT_LE(layers[first] - layers.end()[-1], 1);
          EXPECT_GE(layers.end()[-1], 0);
        }
      }
    }
  }
}

TEST(FiCoCoVLSteps, refuse_what_cannot_be_scheduled) {
  tokenfold::FiCoCoVL method;
  EXPECT_EQ(support::refusal([&] { (void)method.steps(576, Budget::keep(64), 11); }),
            "ficoco-vl: the encoder has 11 layers, reduction cannot begin in layer 11");
  EXPECT_EQ(support::refusal([&] { (void)method.steps(576, Budget::keep(64), 24, 3); }),
            "ficoco-vl: the decoder has 3 layers, reduction cannot begin in layer 3");
  EXPECT_EQ(support::refusal([&] { (void)method.steps(576, Budget::keep(577)); }),
            "budget: cannot keep 577 of 576 visual tokens");
  method.encoder_first_layer = -1;
  EXPECT_EQ(support::refusal([&] { (void)method.steps(576, Budget::keep(64)); }),
            "ficoco-vl: the encoder has 24 layers, reduction cannot begin in layer -1");
  method.encoder_share = 1.5;
  EXPECT_EQ(support::refusal([&] { (void)method.steps(576, Budget::keep(64)); }),
            "ficoco-vl: encoder_share must lie in [0, 1], got 1.5");
}

}  // namespace
