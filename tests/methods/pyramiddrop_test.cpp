// SPDX-License-Identifier: Apache-2.0
// PyramidDrop on cases worked out by hand, and against the reference.

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <limits>
#include <numeric>
#include <tokenfold/methods/pyramiddrop.hpp>
#include <tokenfold/tokenfold.hpp>
#include <vector>

#include "reference/pyramiddrop.hpp"
#include "support/outcome.hpp"

namespace {

using support::Random;
using support::Tensor;
using tokenfold::Budget;
using tokenfold::Index;
using tokenfold::PyramidDrop;
using tokenfold::Range;
using tokenfold::TokenLayout;

using Rows = std::vector<Index>;

TEST(PyramidDrop, counts_are_shares_of_the_original_count) {
  EXPECT_EQ(tokenfold::pyramiddrop_counts(576), (Rows{288, 144, 72}));
  EXPECT_EQ(tokenfold::pyramiddrop_counts(50), (Rows{25, 12, 6}));
  EXPECT_EQ(tokenfold::pyramiddrop_counts(1), (Rows{0, 0, 0}));
  EXPECT_EQ(tokenfold::pyramiddrop_counts(0), (Rows{0, 0, 0}));
}

TEST(PyramidDrop, counts_are_rounded_down_in_floating_point) {
  const std::array<double, 4> ratios = {0.58, 0.57, 0.29, 0};
  EXPECT_EQ(tokenfold::pyramiddrop_counts(100, ratios), (Rows{57, 56, 28, 0}));
  EXPECT_EQ(tokenfold::pyramiddrop_counts(10, {}), Rows{});
}

TEST(PyramidDrop, ratios_must_fall_from_at_most_one_to_at_least_zero) {
  const auto refusal = [](const std::vector<double>& ratios) {
    return support::refusal([&] { tokenfold::pyramiddrop_counts(10, ratios); });
  };
  EXPECT_EQ(refusal({1.5}), "pyramiddrop: each ratio must lie in [0, 1], got 1.5");
  EXPECT_EQ(refusal({0.5, 0.75}), "pyramiddrop: each ratio must lie in [0, 0.5], got 0.75");
  EXPECT_EQ(refusal({-0.5}), "pyramiddrop: each ratio must lie in [0, 1], got -0.5");
  EXPECT_EQ(support::refusal([] { tokenfold::pyramiddrop_counts(-1); }),
            "pyramiddrop: negative token count -1");
}

/// One word, four patches, two words of the instruction, and two rows that follow it.
TokenLayout with_rows_after_the_instruction() {
  tokenfold::LayoutDescription d;
  d.tokens = 9;
  d.text_before = {0, 1};
  d.visual = {1, 5};
  d.text_after = {5, 7};
  return TokenLayout(d);
}

TEST(PyramidDrop, last_instruction_token_decides_not_the_last_row) {
  const TokenLayout layout = with_rows_after_the_instruction();
  Tensor<double> attention = Tensor<double>::Zero(9, 9);
  attention.row(6) << 0, 0.1, 0.4, 0.2, 0.3, 0, 0, 0, 0;
  attention.row(8) << 0, 0.4, 0.1, 0.3, 0.2, 0, 0, 0, 0;
  const auto plan = PyramidDrop{}.plan(
      tokenfold::Sequence(layout, tokenfold::head_mean_attention(attention)), Budget::keep(2));
  EXPECT_EQ(support::indices(plan.kept()), (Rows{0, 2, 4, 5, 6, 7, 8}));
}

TEST(PyramidDrop, ties_keep_the_lower_row_and_what_is_not_finite_goes_first) {
  const TokenLayout layout = TokenLayout::decoder(0, 5, 1);
  Tensor<double> attention = Tensor<double>::Constant(6, 6, 0.1);
  attention(5, 0) = std::numeric_limits<double>::quiet_NaN();
  attention(5, 1) = std::numeric_limits<double>::infinity();
  const tokenfold::Sequence sequence(layout, tokenfold::head_mean_attention(attention));
  const auto kept = [&](Index count) {
    return support::indices(PyramidDrop{}.plan(sequence, Budget::keep(count)).kept());
  };
  EXPECT_EQ(kept(2), (Rows{2, 3, 5}));
  EXPECT_EQ(kept(4), (Rows{0, 2, 3, 4, 5}));
  EXPECT_EQ(kept(0), (Rows{5}));
  EXPECT_EQ(kept(5), (Rows{0, 1, 2, 3, 4, 5}));
}

/// Three steps, each with its own queries and keys over what the step before has left;
/// grouped-query heads, which the release cannot do; positions packed after each.
template <class T>
void follows_the_reference() {
  Random random(11);
  const std::size_t before = 3;
  const std::size_t visual = 40;
  const std::size_t after = 6;
  std::size_t left = visual;
  Index step = 0;
  for (const Index keep : tokenfold::pyramiddrop_counts(visual)) {
    const std::size_t p = before + left + after;
    reference::PyramidDropInput input;
    input.query = support::normal_heads<T>(4, 1, 8, random);
    input.keys = support::normal_heads<T>(step == 2 ? 4 : 2, p, 8, random);
    input.query_row = p - 1;
    input.visual_begin = before;
    input.visual_count = left;
    const auto expected = reference::pyramiddrop(input, static_cast<std::size_t>(keep));

    const TokenLayout layout = TokenLayout::decoder(before, static_cast<Index>(left), after);
    const std::vector<T> query = support::cast<T>(input.query.values);
    const std::vector<T> keys = support::cast<T>(input.keys.values);
    const Index rows = layout.tokens();
    const tokenfold::QueryKeyAttention<T> attention(
        tokenfold::HeadsView<const T>(query.data(), {4, 1, 8}, {8, 8}),
        tokenfold::HeadsView<const T>(keys.data(), {step == 2 ? 4 : 2, rows, 8}, {rows * 8, 8}),
        {.causal = true, .first_query = rows - 1});
    tokenfold::Workspace workspace;
    tokenfold::ReductionPlan plan;
    PyramidDrop{}.plan(tokenfold::Sequence(layout, attention), Budget::keep(keep), workspace, plan);
    EXPECT_TRUE(support::close(workspace.partition.scores, expected.scores,
                               std::is_same_v<T, float> ? 1e-5 : 1e-12));
    EXPECT_EQ(support::indices(plan.kept()), support::indices(expected.kept));

    std::vector<std::int32_t> in(p);
    std::iota(in.begin(), in.end(), 0);
    std::vector<std::int32_t> out(expected.kept.size());
    plan.positions(tokenfold::PositionRule::packed,
                   tokenfold::MatrixView<const std::int32_t>(in.data(), 1, rows),
                   tokenfold::MatrixView<std::int32_t>(out.data(), 1, plan.output_tokens()));
    EXPECT_EQ(support::indices(out), support::indices(expected.positions));
    left = static_cast<std::size_t>(keep);
    ++step;
  }
  EXPECT_EQ(left, 5u);
}

TEST(PyramidDrop, three_steps_follow_the_reference) {
  follows_the_reference<float>();
  follows_the_reference<double>();
}

}  // namespace
