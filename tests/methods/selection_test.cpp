// SPDX-License-Identifier: Apache-2.0
// EViT and FastV on cases worked out by hand, and against naive sums.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tokenfold/tokenfold.hpp>
#include <vector>

#include "support/outcome.hpp"

namespace {

using support::Outcome;
using support::Tensor;
using tokenfold::Budget;
using tokenfold::EViT;
using tokenfold::FastV;
using tokenfold::Index;
using tokenfold::TokenLayout;
using tokenfold::TokenOrder;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

/// [CLS] and as many patches as `a` has; only the [CLS] row of the attention matters.
Outcome evit(const EViT& method, const std::vector<double>& a, const Budget& budget) {
  const Index n = static_cast<Index>(a.size());
  const TokenLayout layout = TokenLayout::encoder({1, n});
  Tensor<double> attention = Tensor<double>::Constant(n + 1, n + 1, 0.5);
  attention(0, 0) = 0;
  std::copy(a.begin(), a.end(), attention.data() + 1);
  reference::Matrix tokens(static_cast<std::size_t>(n + 1), 1);
  for (std::size_t i = 0; i <= a.size(); ++i) {
    tokens(i, 0) = std::pow(10.0, static_cast<double>(i));
  }
  return support::run<double>(
      method, tokenfold::Sequence(layout, tokenfold::head_mean_attention(attention)), budget,
      tokens);
}

using Rows = std::vector<Index>;
constexpr Index extra = tokenfold::no_token;

TEST(EViT, keeps_the_highest_and_fuses_the_rest) {
  const Outcome o = evit({}, {0.1, 0.4, 0.2, 0.3}, Budget::keep(2));
  EXPECT_EQ(o.kept, (Rows{0, 2, 4, extra}));
  EXPECT_EQ(o.discarded, (Rows{1, 3}));
  EXPECT_TRUE(support::close(o.output.values, {1, 100, 10000, 0.1 * 10 + 0.2 * 1000}, 1e-6));
}

TEST(EViT, released_order_is_by_falling_attention) {
  const Outcome o = evit(tokenfold::evit_released(), {0.1, 0.3, 0.2, 0.4}, Budget::keep(3));
  EXPECT_EQ(o.kept, (Rows{0, 4, 2, 3, extra}));
}

TEST(EViT, fused_token_can_be_a_mean) {
  const EViT method{.compress = {.rule = tokenfold::Aggregate::mean}};
  const Outcome o = evit(method, {0.1, 0.4, 0.3}, Budget::keep(1));
  EXPECT_TRUE(support::close(o.output.values, {1, 100, (0.1 * 10 + 0.3 * 1000) / 0.4}, 1e-6));
}

TEST(EViT, ties_preserve_the_lower_row) {
  EXPECT_EQ(evit({}, {0.2, 0.2, 0.2, 0.2}, Budget::keep(2)).kept, (Rows{0, 1, 2, extra}));
}

TEST(EViT, keeping_all_is_the_identity) {
  for (const EViT& method : {EViT{}, tokenfold::evit_released()}) {
    const Outcome o = evit(method, {0.2, 0.3}, Budget::keep(2));
    EXPECT_EQ(o.kept, (Rows{0, 1, 2}));
    EXPECT_TRUE(support::close(o.output.values, {1, 10, 100}, 0, 0));
  }
}

TEST(EViT, keeping_none_fuses_all) {
  EXPECT_EQ(evit({}, {0.2, 0.3}, Budget::keep(0)).kept, (Rows{0, extra}));
}

TEST(EViT, attention_that_is_not_finite_goes_first_and_weighs_nothing) {
  const Outcome o = evit({}, {nan, 0.1, 0.3, 0.2}, Budget::keep(2));
  EXPECT_EQ(o.kept, (Rows{0, 3, 4, extra}));
  EXPECT_TRUE(support::close(o.output.values, {1, 1000, 10000, 0.1 * 100}, 1e-6));
}

TEST(EViT, fused_token_of_an_earlier_layer_competes_as_a_visual_token) {
  const TokenLayout layout = TokenLayout::encoder({1, 3});
  const Tensor<double> first = (Tensor<double>(1, 4) << 0, 0.3, 0.2, 0.1).finished();
  tokenfold::Survivors survivors(layout);
  survivors.advance(EViT{}.plan(tokenfold::Sequence(layout, tokenfold::head_mean_attention(first)),
                                Budget::keep(2)));
  EXPECT_EQ(survivors.layout().visual_count(), 3);
  const auto second =
      EViT{}.plan(tokenfold::Sequence(survivors.layout(), tokenfold::head_mean_attention(first)),
                  Budget::keep(2));
  EXPECT_EQ(support::indices(second.kept()), (Rows{0, 1, 2, extra}));
  survivors.advance(second);
  // The second fused token holds 0.1 of the first, which held 0.1 of patch 3.
  const auto& total = survivors.total();
  EXPECT_EQ(support::indices(total.kept()), (Rows{0, 1, 2, extra}));
  EXPECT_NEAR(support::dense_weights(total)(3, 3), 0.01, 1e-8);
}

TEST(EViT, needs_a_cls_row) {
  const TokenLayout layout = TokenLayout::encoder({1, 3}, tokenfold::ClsToken::none);
  const Tensor<double> attention = Tensor<double>::Constant(3, 3, 0.3);
  EXPECT_EQ(support::refusal([&] {
              EViT{}.plan(tokenfold::Sequence(layout, tokenfold::head_mean_attention(attention)),
                          Budget::keep(2));
            }),
            "cls attention: the layout has no [CLS] row");
}

/// Two words, four patches, two words; attention as given.
std::vector<Index> fastv(const FastV& method, const Tensor<double>& attention, Index keep) {
  const TokenLayout layout = TokenLayout::decoder(2, 4, 2);
  return support::indices(
      method
          .plan(tokenfold::Sequence(layout, tokenfold::head_mean_attention(attention)),
                Budget::keep(keep))
          .kept());
}

TEST(FastV, last_row_decides) {
  Tensor<double> attention = Tensor<double>::Zero(8, 8);
  attention.row(6) << 0, 0, 9, 8, 7, 6, 0, 0;
  attention.row(7) << 5, 5, 0.1, 0.4, 0.2, 0.3, 5, 5;
  EXPECT_EQ(fastv({}, attention, 2), (Rows{0, 1, 3, 5, 6, 7}));
}

TEST(FastV, published_score_is_the_mean_of_what_is_received) {
  Tensor<double> attention = Tensor<double>::Zero(8, 8);
  attention.row(6) << 0, 0, 9, 8, 7, 6, 0, 0;
  attention.row(7) << 5, 5, 0.1, 0.4, 0.2, 0.3, 5, 5;
  EXPECT_EQ(fastv(tokenfold::fastv_published(), attention, 2), (Rows{0, 1, 2, 3, 6, 7}));
}

TEST(FastV, without_text_the_last_row_of_the_sequence_decides) {
  const TokenLayout layout = TokenLayout::decoder(0, 3, 0);
  Tensor<double> attention = Tensor<double>::Zero(3, 3);
  attention.row(2) << 0.1, 0.5, 0.4;
  const auto plan = FastV{}.plan(
      tokenfold::Sequence(layout, tokenfold::head_mean_attention(attention)), Budget::keep(1));
  EXPECT_EQ(support::indices(plan.kept()), (Rows{1}));
}

TEST(FastV, original_and_packed_positions) {
  Tensor<double> attention = Tensor<double>::Zero(8, 8);
  attention.row(7) << 0, 0, 0.1, 0.4, 0.2, 0.3, 0, 0;
  const TokenLayout layout = TokenLayout::decoder(2, 4, 2);
  const auto plan = FastV{}.plan(
      tokenfold::Sequence(layout, tokenfold::head_mean_attention(attention)), Budget::keep(2));
  const std::vector<std::int32_t> in = {10, 11, 12, 13, 14, 15, 16, 17};
  std::vector<std::int32_t> out(6);
  const tokenfold::MatrixView<const std::int32_t> from(in.data(), 1, 8);
  const tokenfold::MatrixView<std::int32_t> to(out.data(), 1, 6);
  EXPECT_EQ(plan.positions(tokenfold::PositionRule::original, from, to), 18);
  EXPECT_EQ(out, (std::vector<std::int32_t>{10, 11, 13, 15, 16, 17}));
  EXPECT_EQ(plan.positions(tokenfold::PositionRule::packed, from, to), 16);
  EXPECT_EQ(out, (std::vector<std::int32_t>{10, 11, 12, 13, 14, 15}));
}

TEST(FastV, no_visual_tokens_is_the_identity) {
  const TokenLayout layout = TokenLayout::decoder(2, 0, 1);
  const Tensor<double> attention = Tensor<double>::Constant(3, 3, 0.3);
  const auto plan = FastV{}.plan(
      tokenfold::Sequence(layout, tokenfold::head_mean_attention(attention)), Budget::keep(0));
  EXPECT_TRUE(plan.is_identity());
}

/// Queries and keys, grouped heads, causal: the naive reference's last row and column means.
TEST(FastV, scores_from_queries_and_keys_equal_the_reference) {
  support::Random random(5);
  const std::size_t p = 23;
  const Index d = 4;
  reference::Heads q(4, p, 4);
  reference::Heads k(2, p, 4);
  for (double& value : q.values) value = random.normal();
  for (double& value : k.values) value = random.normal();
  const reference::Matrix a = reference::mean_probabilities(q, k, {.scale = {}, .causal = true});
  const Index rows = static_cast<Index>(p);
  const TokenLayout layout = TokenLayout::decoder(4, 14, 5);
  const tokenfold::QueryKeyAttention<double> attention(
      tokenfold::HeadsView<const double>(q.values.data(), {4, rows, d}, {rows * d, d}),
      tokenfold::HeadsView<const double>(k.values.data(), {2, rows, d}, {rows * d, d}),
      {.causal = true});
  for (const bool published : {false, true}) {
    tokenfold::Workspace workspace;
    tokenfold::ReductionPlan plan;
    (published ? tokenfold::fastv_published() : FastV{})
        .plan(tokenfold::Sequence(layout, attention), Budget::keep(5), workspace, plan);
    std::vector<double> expected;
    for (std::size_t i = 4; i < 18; ++i) {
      double sum = 0;
      for (std::size_t row = 0; row < p; ++row) sum += a(row, i) / static_cast<double>(p);
      expected.push_back(published ? sum : a(p - 1, i));
    }
    EXPECT_TRUE(support::close(workspace.partition.scores, expected, 1e-12));
  }
}

}  // namespace
