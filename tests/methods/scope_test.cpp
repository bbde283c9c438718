// SPDX-License-Identifier: Apache-2.0
// SCOPE on cases worked out by hand, and against the naive reference.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tokenfold/core/dense_attention.hpp>
#include <tokenfold/core/query_key_attention.hpp>
#include <tokenfold/methods/scope.hpp>
#include <type_traits>
#include <vector>

#include "reference/scope.hpp"
#include "support/outcome.hpp"
#include "support/random.hpp"

namespace {

using reference::Matrix;
using support::Outcome;
using support::Random;
using support::Tensor;
using tokenfold::Budget;
using tokenfold::ClsToken;
using tokenfold::Index;
using tokenfold::SCOPE;
using tokenfold::Token;
using tokenfold::TokenLayout;
using tokenfold::TokenOrder;
using tokenfold::filter::SaliencyUse;

using Rows = std::vector<Index>;
constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

SCOPE in_order(SCOPE method = {}) {
  method.filter.order = TokenOrder::score;
  return method;
}

/// N patches without [CLS], saliency given.
template <class T = double>
Outcome scope(const SCOPE& method, const Matrix& features, const std::vector<double>& saliency,
              const Budget& budget) {
  const auto x = support::tensor<T>(features);
  const auto a = support::cast<T>(saliency);
  const TokenLayout layout = TokenLayout::decoder(0, static_cast<Index>(features.rows), 0);
  return support::run<T>(
      method, tokenfold::Sequence(layout, tokenfold::Features(x), tokenfold::Relevance(a)), budget,
      Matrix(features.rows, 1));
}

// Tokens 0 and 1 in one direction, 2 orthogonal, 3 in between, 4 opposite to 0.
const Matrix five(5, 2, {1, 0, 2, 0, 0, 1, 3, 4, -1, 0});

TEST(SCOPE, gains_are_saliency_times_what_is_not_covered_yet) {
  const Outcome o = scope(in_order(), five, {1, 1, 2, 1.5, 1}, Budget::keep(3));
  // Row sums of max(0, cos): 2.6, 2.6, 1.8, 0.6 + 0.6 + 0.8 + 1, 1; times saliency: 3 wins at 4.5.
  // Then what it leaves: 0.4 + 0.4, the same, 0.2, -, 1 times saliency: 4 at 1.
  // Then 0 and 1 at 0.8 each: the lower.
  EXPECT_EQ(o.preserved, (Rows{3, 4, 0}));
  EXPECT_TRUE(support::close(o.scores, {0.8, 0, 0, 4.5, 1}, 1e-14));
  EXPECT_EQ(scope({}, five, {1, 1, 2, 1.5, 1}, Budget::keep(3)).kept, (Rows{0, 3, 4}));
}

TEST(SCOPE, saliency_can_be_added) {
  SCOPE method = in_order(tokenfold::scope_additive());
  method.filter.alpha = 2;
  const Outcome o = scope(method, five, {1, 1, 2, 1, 1}, Budget::keep(2));
  // 1 + 2.6, 1 + 2.6, 4 + 1.8, 1 + 3, 1 + 1; then 0 has 1 + 1 + 1, 3 has 1 + 0.6 + 0.6 + 0.2.
  EXPECT_EQ(o.preserved, (Rows{2, 0}));
  EXPECT_TRUE(support::close(o.scores, {3, 0, 5.8, 0, 0}, 1e-14));
}

TEST(SCOPE, exponent_zero_is_coverage_alone) {
  const SCOPE method = in_order({.filter = {.alpha = 0}});
  EXPECT_EQ(scope(method, five, {9, 0, 9, 0.1, 9}, Budget::keep(2)).preserved, (Rows{3, 4}));
}

TEST(SCOPE, cls_attention_is_summed_over_the_heads) {
  const TokenLayout layout = TokenLayout::encoder({1, 3}, ClsToken::last);
  const Tensor<double> x = (Tensor<double>(4, 3) << 1, 0, 0, 0, 1, 0, 0, 0, 1, 9, 9, 9).finished();
  std::vector<double> heads(2 * 4 * 4, 0.5);
  const std::vector<double> first = {0.1, 0.2, 0.3, 0.4};
  const std::vector<double> second = {0.3, 0.3, 0.1, 0.3};
  std::copy(first.begin(), first.end(), heads.begin() + 12);
  std::copy(second.begin(), second.end(), heads.begin() + 28);
  const tokenfold::DenseAttention<double> attention(
      tokenfold::HeadsView<const double>(heads.data(), {2, 4, 4}, {16, 4}));
  const tokenfold::Sequence sequence(layout, tokenfold::Features(x), attention);
  const Outcome o = support::run<double>(in_order(), sequence, Budget::keep(2), Matrix(4, 1));
  EXPECT_EQ(o.kept, (Rows{1, 0, 3}));  // 0.5 · 1, then 0.4 twice: the lower row
  EXPECT_TRUE(support::close(o.scores, {0.4, 0.5, 0}, 1e-14));
  const Outcome sum = support::run<double>(in_order(tokenfold::scope_additive()), sequence,
                                           Budget::keep(1), Matrix(4, 1));
  EXPECT_TRUE(support::close(sum.scores, {0, 1.5, 0}, 1e-14));

  // Relevance goes before attention, unless it is empty.
  const std::vector<double> relevance = {0, 0, 1};
  const tokenfold::Sequence both(layout, tokenfold::Features(x), attention,
                                 tokenfold::Relevance(relevance));
  EXPECT_EQ(support::run<double>(SCOPE{}, both, Budget::keep(1), Matrix(4, 1)).kept, (Rows{2, 3}));
  const tokenfold::Sequence none(layout, tokenfold::Features(x), attention,
                                 tokenfold::Relevance(std::vector<double>{}));
  EXPECT_EQ(support::run<double>(SCOPE{}, none, Budget::keep(1), Matrix(4, 1)).kept, (Rows{1, 3}));
}

TEST(SCOPE, reads_the_cls_row_of_queries_and_keys) {
  Random random(8);
  const reference::Heads q = support::normal_heads<double>(4, 10, 3, random);
  const reference::Heads k = support::normal_heads<double>(2, 10, 3, random);
  const Matrix x = support::normal_matrix<double>(10, 5, random);
  const Matrix a = reference::mean_probabilities(q, k);
  const auto features = support::tensor<double>(x);
  const TokenLayout layout = TokenLayout::encoder({3, 3});
  const tokenfold::QueryKeyAttention<double> attention(
      tokenfold::HeadsView<const double>(q.values.data(), {4, 10, 3}, {30, 3}),
      tokenfold::HeadsView<const double>(k.values.data(), {2, 10, 3}, {30, 3}));
  const Outcome o = support::run<double>(
      in_order(tokenfold::scope_additive()),
      tokenfold::Sequence(layout, tokenfold::Features(features), attention), Budget::keep(4), x);
  Matrix patches(9, 5, {x.values.begin() + 5, x.values.end()});
  std::vector<double> sum;
  for (std::size_t i = 1; i < 10; ++i) sum.push_back(4 * a(0, i));
  const reference::ScopeResult expected = reference::scope(patches, sum, 4, {.additive = true});
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(o.preserved[i], static_cast<Index>(expected.picks[i]) + 1);
    EXPECT_NEAR(o.scores[expected.picks[i]], expected.gains[i], 1e-12);
  }
}

TEST(SCOPE, ties_and_covered_tokens_pick_the_lower_row) {
  const Matrix equal(5, 1, {1, 1, 1, 1, 1});
  EXPECT_EQ(scope(in_order(), equal, {1, 1, 2, 1, 1}, Budget::keep(4)).preserved,
            (Rows{2, 0, 1, 3}));
}

TEST(SCOPE, negative_saliency_counts_as_none) {
  const Outcome o =
      scope(in_order({.filter = {.alpha = 0.5}}), five, {-4, 1, -1, -2, -9}, Budget::keep(3));
  EXPECT_EQ(o.preserved, (Rows{1, 0, 2}));
  EXPECT_EQ(o.scores[0], 0);
}

TEST(SCOPE, keeping_all_or_none) {
  EXPECT_EQ(scope(in_order(), five, {1, 2, 3, 4, 5}, Budget::keep(5)).kept, (Rows{0, 1, 2, 3, 4}));
  EXPECT_EQ(scope({}, five, {1, 2, 3, 4, 5}, Budget::keep(0)).kept, (Rows{}));
  EXPECT_EQ(scope({}, Matrix(0, 2), {}, Budget::keep(0)).kept, (Rows{}));
}

TEST(SCOPE, zero_rows_cover_nothing_and_are_not_covered) {
  const Matrix rows(4, 2, {0, 0, 1, 0, 0, 0, 0, 1});
  const Outcome o = scope(in_order(), rows, {9, 1, 9, 1}, Budget::keep(3));
  EXPECT_EQ(o.preserved, (Rows{1, 3, 0}));
  EXPECT_EQ(o.scores, (std::vector<double>{0, 1, 0, 1}));
}

TEST(SCOPE, tokens_that_are_not_finite_are_picked_last) {
  for (const double bad : {nan, infinity, -infinity}) {
    const Matrix rows(5, 2, {bad, 0, 1, 0, 0, 1, 1, 1, 0, -1});
    for (const SCOPE& method : {SCOPE{}, tokenfold::scope_additive()}) {
      const Outcome o = scope(in_order(method), rows, {9, 1, 1, bad, 1}, Budget::keep(4));
      Rows first(o.preserved.begin(), o.preserved.begin() + 3);
      std::sort(first.begin(), first.end());
      EXPECT_EQ(first, (Rows{1, 2, 4}));
      EXPECT_EQ(o.preserved[3], 0);
      for (const double score : o.scores) EXPECT_TRUE(std::isfinite(score));
    }
  }
}

TEST(SCOPE, bad_options_and_shapes_are_refused) {
  const Tensor<double> x = Tensor<double>::Ones(3, 2);
  const std::vector<double> a = {1, 2, 3};
  const TokenLayout plain = TokenLayout::encoder({1, 3}, ClsToken::none);
  const auto refusal = [](const SCOPE& method, const auto& sequence) {
    return support::refusal([&] { method.plan(sequence, Budget::keep(1)); });
  };
  const tokenfold::Sequence good(plain, tokenfold::Features(x), tokenfold::Relevance(a));
  EXPECT_EQ(refusal({.filter = {.alpha = -1}}, good), "scope: alpha must not be negative, got -1");
  EXPECT_EQ(refusal({.filter = {.alpha = nan}}, good),
            "scope: alpha must not be negative, got nan");
  const std::vector<double> two = {1, 2};
  EXPECT_EQ(
      refusal({}, tokenfold::Sequence(plain, tokenfold::Features(x), tokenfold::Relevance(two))),
      "relevance: rows [0, 2) were given, but the visual tokens lie in rows [0, 3)");
  EXPECT_EQ(
      refusal({}, tokenfold::Sequence(plain, tokenfold::Features(x, 1), tokenfold::Relevance(a))),
      "scope: features: rows [1, 4) were given, but the visual tokens lie in rows [0, 3)");
  EXPECT_EQ(refusal({}, tokenfold::Sequence(plain, tokenfold::Features(x),
                                            tokenfold::Relevance(std::vector<double>{}))),
            "scope: there is neither relevance nor attention");
  const Tensor<double> attention = Tensor<double>::Ones(3, 3);
  EXPECT_EQ(refusal({}, tokenfold::Sequence(plain, tokenfold::Features(x),
                                            tokenfold::head_mean_attention(attention))),
            "scope: give relevance, or a layout with a [CLS] row");
  const TokenLayout with_cls = TokenLayout::encoder({1, 2});
  EXPECT_EQ(
      refusal({}, tokenfold::Sequence(with_cls, tokenfold::Features(x),
                                      tokenfold::head_mean_attention(
                                          attention, {.kind = tokenfold::AttentionKind::logits}))),
      "scope: the attention must hold probabilities");
}

template <class T>
void compare_with_reference(std::uint64_t seed, int cases, Index most) {
  Random random(seed);
  int compared = 0;
  for (int i = 0; i < cases; ++i) {
    // Patches, some of them with special rows between, behind [CLS].
    const Index rows = 1 + random.below(most);
    std::vector<Token> cells(static_cast<std::size_t>(rows));
    const double specials = random.chance(0.5) ? 0 : 0.3;
    for (Token& cell : cells) cell = random.chance(specials) ? tokenfold::no_token : 0;
    const TokenLayout layout(
        {.tokens = rows + 1, .visual = {1, rows + 1}, .cls = 0, .cells = cells});
    const std::size_t dim = 2 + static_cast<std::size_t>(random.below(8));
    const Matrix all = support::normal_matrix<T>(static_cast<std::size_t>(rows), dim, random);
    const Matrix attention =
        support::random_probabilities<T>(static_cast<std::size_t>(rows) + 1, random);
    Matrix patches(static_cast<std::size_t>(layout.visual_count()), dim);
    std::vector<double> saliency;
    for (std::size_t v = 0; v < patches.rows; ++v) {
      const auto row = static_cast<std::size_t>(layout.visual()[static_cast<Index>(v)]);
      for (std::size_t c = 0; c < dim; ++c) patches(v, c) = all(row - 1, c);
      saliency.push_back(attention(0, row));
    }

    SCOPE method = in_order();
    method.filter.alpha = random.chance(0.5) ? 1 : 2 * random.uniform();
    const bool additive = random.chance(0.3);
    method.filter.use = additive ? SaliencyUse::sum : SaliencyUse::product;
    const Index keep = random.below(layout.visual_count());
    const reference::ScopeResult expected =
        reference::scope(patches, saliency, static_cast<std::size_t>(keep),
                         {.alpha = method.filter.alpha, .additive = additive});
    // Picks that rounding decides prove nothing.
    if (expected.margin < (std::is_same_v<T, float> ? 1e-4 : 1e-10)) continue;
    ++compared;
    const auto x = support::tensor<T>(all);
    const auto a = support::tensor<T>(attention);
    const Outcome o = support::run<T>(
        method,
        tokenfold::Sequence(layout, tokenfold::Features(x, 1), tokenfold::head_mean_attention(a)),
        Budget::keep(keep), Matrix(static_cast<std::size_t>(rows) + 1, 1));
    Rows picks;
    std::vector<double> scores(o.scores.size(), 0.0);
    for (std::size_t pick = 0; pick < expected.picks.size(); ++pick) {
      picks.push_back(layout.visual()[static_cast<Index>(expected.picks[pick])]);
      scores.at(expected.picks[pick]) = expected.gains[pick];
    }
    EXPECT_EQ(o.preserved, picks) << "case " << i;
    EXPECT_TRUE(support::close(o.scores, scores, std::is_same_v<T, float> ? 1e-4 : 1e-10, 1e-6));
  }
  EXPECT_GT(compared, cases / 2);
}

TEST(SCOPE, double_equals_the_reference) {
  compare_with_reference<double>(1, 60, 40);
  compare_with_reference<double>(2, 3, 200);
}
TEST(SCOPE, float_equals_the_reference) { compare_with_reference<float>(3, 60, 40); }

template <class T>
class ScopeNarrow : public testing::Test {};
using Narrow = testing::Types<Eigen::half, Eigen::bfloat16>;
TYPED_TEST_SUITE(ScopeNarrow, Narrow);

TYPED_TEST(ScopeNarrow, picks_what_float_picks_for_the_same_values) {
  Random random(4);
  const Matrix x = support::normal_matrix<TypeParam>(30, 8, random);
  std::vector<double> a = support::normal_matrix<TypeParam>(30, 1, random).values;
  for (double& value : a) value = std::abs(value);
  ASSERT_GT(reference::scope(x, a, 10, {}).margin, 1e-4);
  EXPECT_EQ(scope<TypeParam>(in_order(), x, a, Budget::keep(10)).preserved,
            scope<float>(in_order(), x, a, Budget::keep(10)).preserved);
}

}  // namespace
