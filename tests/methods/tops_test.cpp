// SPDX-License-Identifier: Apache-2.0
// TOPS on cases worked out by hand, and against the naive reference.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tokenfold/core/dense_attention.hpp>
#include <tokenfold/methods/tops.hpp>
#include <type_traits>
#include <vector>

#include "reference/tops.hpp"
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
using tokenfold::Token;
using tokenfold::TokenLayout;
using tokenfold::TokenOrder;
using tokenfold::TOPS;
using tokenfold::filter::CriterionScale;

using Rows = std::vector<Index>;
constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

TOPS in_order(TOPS method = {}) {
  method.filter.order = TokenOrder::score;
  return method;
}

/// N tokens and nothing else, relevance given.
template <class T = double>
Outcome tops(const TOPS& method, const Matrix& features, const std::vector<double>& relevance,
             const Budget& budget) {
  const auto x = support::tensor<T>(features);
  const auto r = support::cast<T>(relevance);
  const TokenLayout layout = TokenLayout::decoder(0, static_cast<Index>(features.rows), 0);
  return support::run<T>(
      method, tokenfold::Sequence(layout, tokenfold::Features(x), tokenfold::Relevance(r)), budget,
      Matrix(features.rows, 1));
}

// Tokens 0 and 1 in one direction, 2 orthogonal, 3 in between.
const Matrix four(4, 2, {1, 0, 2, 0, 0, 1, 3, 4});
const std::vector<double> relevance = {4, 3, 1, 2};

// Token 0 first. Of 1, 2, 3: r = 3, 1, 2; nearest pick at 1, 0, 0.6; so
// c = 0, 1 + 0.2, 0.8 + 0.4 and d = 0, 1, 0.4.
TEST(TOPS, criteria_are_divided_by_their_means) {
  const TOPS method = in_order({.filter = {.lambda = 0.5, .alpha = 0.25}});
  const Outcome o = tops(method, four, relevance, Budget::keep(2));
  // 1: 1.5; 2: 0.5 + 0.5 · 1.5 + 0.25 · 1 / (1.4 / 3); 3: 1 + 0.5 · 1.5 + 0.25 · 0.4 / (1.4 / 3).
  EXPECT_EQ(o.preserved, (Rows{0, 3}));
  EXPECT_TRUE(support::close(o.scores, {4, 0, 0, 1.75 + 0.1 / (1.4 / 3)}, 1e-14));
}

TEST(TOPS, text_of_the_paper_normalises_by_minimum_and_maximum) {
  TOPS method = in_order(tokenfold::tops_min_max());
  EXPECT_EQ(method.filter.scale, CriterionScale::min_max);
  // 1: 1; 2: 0.5 + 0.5; 3: 0.5 + 0.5 + 0.5 · 0.4.
  const Outcome o = tops(method, four, relevance, Budget::keep(2));
  EXPECT_EQ(o.preserved, (Rows{0, 3}));
  EXPECT_TRUE(support::close(o.scores, {4, 0, 0, 1.2}, 1e-14));
}

TEST(TOPS, criteria_are_rescaled_over_what_is_left) {
  const TOPS method = in_order({.filter = {.lambda = 0.5, .alpha = 0.25}});
  const Outcome o = tops(method, four, relevance, Budget::keep(3));
  // Of 1 and 2: r = 3, 1; nearest pick at 1, 0.8; c = 0, 0.2; d = 0, 0.2.
  EXPECT_EQ(o.preserved, (Rows{0, 3, 2}));
  EXPECT_NEAR(o.scores[2], 0.5 + 0.5 * 2 + 0.25 * 2, 1e-13);
}

TEST(TOPS, weights_zero_are_relevance_alone) {
  const TOPS method = in_order({.filter = {.lambda = 0, .alpha = 0}});
  EXPECT_EQ(tops(method, four, relevance, Budget::keep(3)).preserved, (Rows{0, 1, 3}));
}

TEST(TOPS, needs_cls_attention_or_relevance) {
  const TokenLayout layout = TokenLayout::encoder({1, 4});
  Tensor<double> x = Tensor<double>::Zero(5, 2);
  x.bottomRows(4) = support::tensor<double>(four);
  std::vector<double> heads(2 * 5 * 5, 0.5);
  const std::vector<double> first = {0.2, 0.3, 0.1, 0.1, 0.3};
  const std::vector<double> second = {0.3, 0.1, 0.2, 0.0, 0.4};
  std::copy(first.begin(), first.end(), heads.begin());
  std::copy(second.begin(), second.end(), heads.begin() + 25);
  const tokenfold::DenseAttention<double> attention(
      tokenfold::HeadsView<const double>(heads.data(), {2, 5, 5}, {25, 5}));
  const Outcome o = support::run<double>(
      in_order(), tokenfold::Sequence(layout, tokenfold::Features(x), attention), Budget::keep(3),
      Matrix(5, 1));
  const Outcome same = tops(in_order(), four, {0.4, 0.3, 0.1, 0.7}, Budget::keep(3));
  EXPECT_EQ(o.kept.front(), 0);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(o.preserved[i], same.preserved[i] + 1);
  EXPECT_TRUE(support::close(o.scores, same.scores, 1e-13));

  const TokenLayout without = TokenLayout::encoder({1, 5}, ClsToken::none);
  EXPECT_EQ(support::refusal([&] {
              TOPS{}.plan(tokenfold::Sequence(without, tokenfold::Features(x), attention),
                          Budget::keep(1));
            }),
            "tops: give relevance, or a layout with a [CLS] row");
}

TEST(TOPS, ties_pick_the_lower_row) {
  const Matrix equal(5, 1, {1, 1, 1, 1, 1});
  for (const TOPS& method : {TOPS{}, tokenfold::tops_min_max()}) {
    EXPECT_EQ(tops(in_order(method), equal, {1, 1, 2, 1, 1}, Budget::keep(4)).preserved,
              (Rows{2, 0, 1, 3}));
  }
}

// Once one of each kind is picked, cosines of 1 ± rounding are all that coverage and diversity see.
TEST(TOPS, rounding_errors_do_not_outweigh_relevance) {
  Random random(11);
  const Matrix kinds = support::normal_matrix<float>(3, 50, random);
  Matrix rows(24, 50);
  std::vector<double> r;
  for (std::size_t i = 0; i < rows.rows; ++i) {
    const double length = 1 + random.uniform();
    for (std::size_t c = 0; c < rows.cols; ++c) rows(i, c) = length * kinds(i % 3, c);
    r.push_back(static_cast<double>(24 - i));
  }
  for (const TOPS& method : {TOPS{}, tokenfold::tops_min_max()}) {
    const Rows expected = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    EXPECT_EQ(tops<float>(method, rows, r, Budget::keep(12)).preserved, expected);
    EXPECT_EQ(tops<double>(method, rows, r, Budget::keep(12)).preserved, expected);
  }
}

TEST(TOPS, relevance_of_zero_says_nothing) {
  const Outcome o = tops(in_order(), four, {0, 0, 0, 0}, Budget::keep(2));
  EXPECT_EQ(o.preserved, (Rows{0, 2}));  // coverage 1.2 of both 2 and 3, more diverse
  EXPECT_NEAR(o.scores[2], 0.5 * 1.5 + 0.5 / (1.4 / 3), 1e-13);
}

TEST(TOPS, keeping_all_or_none) {
  EXPECT_EQ(tops(in_order(), four, {1, 2, 3, 4}, Budget::keep(4)).kept, (Rows{0, 1, 2, 3}));
  EXPECT_EQ(tops({}, four, {1, 2, 3, 4}, Budget::keep(0)).kept, (Rows{}));
  EXPECT_EQ(tops({}, Matrix(0, 2), {}, Budget::keep(0)).kept, (Rows{}));
}

TEST(TOPS, zero_rows_are_similar_to_nothing) {
  const Matrix rows(4, 2, {0, 0, 1, 0, 1, 0.1, 0, 0});
  const std::vector<double> r = {1, 3, 2, 1};
  const reference::TopsResult expected = reference::tops(rows, r, 3, {});
  const Outcome o = tops(in_order(), rows, r, Budget::keep(3));
  EXPECT_EQ(o.preserved, support::indices(expected.picks));
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(o.scores[expected.picks[i]], expected.values[i], 1e-13);
  }
}

TEST(TOPS, tokens_that_are_not_finite_are_picked_last_and_change_no_mean) {
  for (const double bad : {nan, infinity, -infinity}) {
    const Matrix rows(6, 2, {1, 0, bad, 0, 2, 0, 0, 1, 1, 1, 3, 4});
    for (const TOPS& method : {TOPS{}, tokenfold::tops_min_max()}) {
      const Outcome o = tops(in_order(method), rows, {4, 9, 3, 1, bad, 2}, Budget::keep(5));
      Rows first(o.preserved.begin(), o.preserved.begin() + 4);
      std::sort(first.begin(), first.end());
      EXPECT_EQ(first, (Rows{0, 2, 3, 5}));
      EXPECT_EQ(o.preserved[4], 1);
      for (const double score : o.scores) EXPECT_TRUE(std::isfinite(score));
    }
    // Nothing to cover in a row that is not finite: the finite ones decide as if alone.
    const Matrix with(5, 2, {1, 0, bad, bad, 2, 0, 0, 1, 3, 4});
    const Outcome o = tops(in_order(), with, {4, 9, 3, 1, 2}, Budget::keep(2));
    const Outcome alone = tops(in_order(), four, relevance, Budget::keep(2));
    EXPECT_EQ(alone.preserved, (Rows{0, 2}));
    EXPECT_EQ(o.preserved, (Rows{0, 3}));
    EXPECT_NEAR(o.scores[3], alone.scores[2], 1e-13);
  }
  EXPECT_EQ(tops(in_order(), Matrix(3, 1, {nan, nan, nan}), {1, 2, 3}, Budget::keep(2)).preserved,
            (Rows{0, 1}));
}

TEST(TOPS, bad_options_and_shapes_are_refused) {
  const auto refusal = [](const TOPS& method, const Matrix& x, const std::vector<double>& r) {
    return support::refusal([&] { tops(method, x, r, Budget::keep(1)); });
  };
  EXPECT_EQ(refusal({.filter = {.lambda = -1}}, four, relevance),
            "tops: lambda must not be negative, got -1");
  EXPECT_EQ(refusal({.filter = {.alpha = nan}}, four, relevance),
            "tops: alpha must not be negative, got nan");
  EXPECT_EQ(refusal({}, four, {1, 2}),
            "relevance: rows [0, 2) were given, but the visual tokens lie in rows [0, 4)");
  EXPECT_EQ(refusal({}, four, {}), "tops: there is neither relevance nor attention");
}

template <class T>
void compare_with_reference(std::uint64_t seed, int cases, Index most) {
  Random random(seed);
  int compared = 0;
  for (int i = 0; i < cases; ++i) {
    // A decoder's sequence with special rows in the image; features and relevance from row 2 on.
    const Index rows = 1 + random.below(most);
    std::vector<Token> cells(static_cast<std::size_t>(rows));
    const double specials = random.chance(0.5) ? 0 : 0.3;
    for (Token& cell : cells) cell = random.chance(specials) ? tokenfold::no_token : 0;
    const TokenLayout layout({.tokens = rows + 5, .visual = {3, rows + 3}, .cells = cells});
    const std::size_t dim = 2 + static_cast<std::size_t>(random.below(8));
    const Matrix all = support::normal_matrix<T>(static_cast<std::size_t>(rows) + 1, dim, random);
    std::vector<double> given =
        support::normal_matrix<T>(static_cast<std::size_t>(rows) + 1, 1, random).values;
    for (double& value : given) value = std::abs(value);
    Matrix visual(static_cast<std::size_t>(layout.visual_count()), dim);
    std::vector<double> r;
    for (std::size_t v = 0; v < visual.rows; ++v) {
      const auto row = static_cast<std::size_t>(layout.visual()[static_cast<Index>(v)]);
      for (std::size_t c = 0; c < dim; ++c) visual(v, c) = all(row - 2, c);
      r.push_back(given.at(row - 2));
    }

    TOPS method = in_order();
    method.filter.lambda = random.chance(0.5) ? 0.5 : 2 * random.uniform();
    method.filter.alpha = random.chance(0.5) ? 0.5 : 2 * random.uniform();
    const bool min_max = random.chance(0.4);
    method.filter.scale = min_max ? CriterionScale::min_max : CriterionScale::mean;
    const Index keep = random.below(layout.visual_count());
    const reference::TopsResult expected = reference::tops(
        visual, r, static_cast<std::size_t>(keep),
        {.lambda = method.filter.lambda, .alpha = method.filter.alpha, .min_max = min_max});
    // Picks that rounding decides prove nothing.
    if (expected.margin < (std::is_same_v<T, float> ? 1e-4 : 1e-10)) continue;
    ++compared;
    const auto x = support::tensor<T>(all);
    const auto values = support::cast<T>(given);
    const Outcome o = support::run<T>(
        method,
        tokenfold::Sequence(layout, tokenfold::Features(x, 2), tokenfold::Relevance(values, 2)),
        Budget::keep(keep), Matrix(static_cast<std::size_t>(rows) + 5, 1));
    Rows picks;
    std::vector<double> scores(o.scores.size(), 0.0);
    for (std::size_t pick = 0; pick < expected.picks.size(); ++pick) {
      picks.push_back(layout.visual()[static_cast<Index>(expected.picks[pick])]);
      scores.at(expected.picks[pick]) = expected.values[pick];
    }
    EXPECT_EQ(o.preserved, picks) << "case " << i;
    EXPECT_TRUE(support::close(o.scores, scores, std::is_same_v<T, float> ? 1e-4 : 1e-9, 1e-6));
  }
  EXPECT_GT(compared, cases / 2);
}

TEST(TOPS, double_equals_the_reference) {
  compare_with_reference<double>(1, 60, 30);
  compare_with_reference<double>(2, 3, 120);
}
TEST(TOPS, float_equals_the_reference) { compare_with_reference<float>(3, 60, 30); }

template <class T>
class TopsNarrow : public testing::Test {};
using Narrow = testing::Types<Eigen::half, Eigen::bfloat16>;
TYPED_TEST_SUITE(TopsNarrow, Narrow);

TYPED_TEST(TopsNarrow, picks_what_float_picks_for_the_same_values) {
  Random random(4);
  const Matrix x = support::normal_matrix<TypeParam>(30, 8, random);
  std::vector<double> r = support::normal_matrix<TypeParam>(30, 1, random).values;
  for (double& value : r) value = std::abs(value);
  ASSERT_GT(reference::tops(x, r, 10, {}).margin, 1e-4);
  EXPECT_EQ(tops<TypeParam>(in_order(), x, r, Budget::keep(10)).preserved,
            tops<float>(in_order(), x, r, Budget::keep(10)).preserved);
}

}  // namespace
