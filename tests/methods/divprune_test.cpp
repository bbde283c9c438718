// SPDX-License-Identifier: Apache-2.0
// DivPrune on cases worked out by hand, and against the naive reference.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>
#include <string>
#include <tokenfold/methods/divprune.hpp>
#include <vector>

#include "reference/divprune.hpp"
#include "support/outcome.hpp"

namespace {

using reference::Matrix;
using support::Outcome;
using tokenfold::Budget;
using tokenfold::DivPrune;
using tokenfold::Index;
using tokenfold::TokenLayout;
using tokenfold::TokenOrder;
using tokenfold::filter::FirstPick;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

using Rows = std::vector<Index>;

Matrix matrix(const std::vector<std::vector<double>>& rows) {
  Matrix m(rows.size(), rows.empty() ? 0 : rows[0].size());
  for (std::size_t i = 0; i < m.rows; ++i) {
    for (std::size_t c = 0; c < m.cols; ++c) m(i, c) = rows[i][c];
  }
  return m;
}

/// Vectors of the plane at these angles, in degrees, of length 1 (or as given).
Matrix at_angles(const std::vector<double>& degrees, std::vector<double> lengths = {}) {
  lengths.resize(degrees.size(), 1);
  Matrix m(degrees.size(), 2);
  for (std::size_t i = 0; i < degrees.size(); ++i) {
    const double angle = degrees[i] * std::numbers::pi / 180;
    m(i, 0) = lengths[i] * std::cos(angle);
    m(i, 1) = lengths[i] * std::sin(angle);
  }
  return m;
}

double distance_at(double degrees) { return 1 - std::cos(degrees * std::numbers::pi / 180); }

template <class T = double>
Outcome divprune(const DivPrune& method, const Matrix& tokens, Index keep) {
  const TokenLayout layout = TokenLayout::decoder(0, static_cast<Index>(tokens.rows), 0);
  const auto features = support::tensor<T>(tokens);
  return support::run<T>(method, tokenfold::Sequence(layout, tokenfold::Features(features)),
                         Budget::keep(keep), tokens);
}

DivPrune picking(FirstPick first) { return {.filter = {.first_pick = first}}; }
const DivPrune in_order{.filter = {.order = TokenOrder::score}};

TEST(DivPrune, most_isolated_first_then_farthest_from_the_preserved) {
  const Matrix tokens = at_angles({0, 10, 90, 100, 220}, {1, 3, 0.5, 2, 1});
  const Outcome o = divprune({}, tokens, 3);
  EXPECT_EQ(o.kept, (Rows{1, 3, 4}));
  EXPECT_EQ(o.discarded, (Rows{0, 2}));
  EXPECT_EQ(divprune(in_order, tokens, 3).kept, (Rows{4, 1, 3}));
  // 4 is picked for its nearest neighbour, 1 for 4, 3 for 1; 0 and 2 lose the last round.
  EXPECT_TRUE(support::close(
      o.scores,
      {distance_at(10), distance_at(150), distance_at(80), distance_at(90), distance_at(120)},
      1e-12));
}

TEST(DivPrune, first_pick_alone) {
  const Matrix tokens = at_angles({0, 5, 10, 60, 180, 185}, {1, 4, 1, 1, 1, 1});
  EXPECT_EQ(divprune({}, tokens, 1).kept, (Rows{3}));
  EXPECT_EQ(divprune(picking(FirstPick::farthest_from_mean), tokens, 1).kept, (Rows{5}));
  EXPECT_EQ(divprune(picking(FirstPick::highest_norm), tokens, 1).kept, (Rows{1}));
  EXPECT_TRUE(support::close(divprune({}, tokens, 1).scores,
                             {distance_at(5), distance_at(5), distance_at(5), distance_at(50),
                              distance_at(5), distance_at(5)},
                             1e-12));
  EXPECT_NEAR(divprune(picking(FirstPick::highest_norm), tokens, 1).scores[1], 4, 1e-12);
  const double mean =
      (distance_at(185) + distance_at(180) + distance_at(175) + distance_at(125) + distance_at(5)) /
      5;
  EXPECT_NEAR(divprune(picking(FirstPick::farthest_from_mean), tokens, 1).scores[5], mean, 1e-12);
}

TEST(DivPrune, ties_go_to_the_lower_row) {
  const Matrix basis = matrix({{1, 0, 0}, {0, 2, 0}, {0, 0, 1}});
  for (const FirstPick first : {FirstPick::most_isolated, FirstPick::farthest_from_mean}) {
    EXPECT_EQ(divprune(picking(first), basis, 2).kept, (Rows{0, 1}));
  }
}

TEST(DivPrune, identical_tokens_are_preserved_once_each_by_row) {
  const Matrix same = matrix({{1, 2, 3}, {1, 2, 3}, {1, 2, 3}, {1, 2, 3}});
  EXPECT_EQ(divprune({}, same, 3).kept, (Rows{0, 1, 2}));
  EXPECT_EQ(divprune<float>({}, same, 3).kept, (Rows{0, 1, 2}));
  // Pairs: 0, then the other pair, then a token at distance 0.
  const Matrix pairs = matrix({{3, 1}, {3, 1}, {1, 7}, {1, 7}});
  EXPECT_EQ(divprune(in_order, pairs, 3).kept, (Rows{0, 2, 1}));
  EXPECT_EQ(divprune<float>(in_order, pairs, 3).kept, (Rows{0, 2, 1}));
}

TEST(DivPrune, identical_tokens_as_released_stand_twice_in_the_output) {
  const Matrix pairs = matrix({{3, 1}, {3, 1}, {1, 7}, {1, 7}});
  const Outcome o = divprune(tokenfold::divprune_released(), pairs, 3);
  EXPECT_EQ(o.kept, (Rows{0, 0, 2}));
  EXPECT_EQ(o.discarded, (Rows{1, 3}));
  EXPECT_TRUE(support::close(o.output.values, {3, 1, 3, 1, 1, 7}, 0, 0));
  EXPECT_EQ(o.scores[0], 0);  // of its first pick; its nearest neighbour is its twin
  EXPECT_GT(o.scores[2], 0.5);
}

TEST(DivPrune, released_keeps_the_score_of_the_first_pick) {
  const Matrix tokens = matrix({{1, 0}, {1, 0}, {0, 1}});
  // 2 is isolated, then 0, then all are at distance 0 of the set: 0 once more.
  const Outcome o = divprune(tokenfold::divprune_released(), tokens, 2);
  EXPECT_EQ(o.kept, (Rows{0, 2}));
  EXPECT_TRUE(support::close(o.scores, {1, 1, 1}, 1e-12));
}

TEST(DivPrune, zero_token_is_at_distance_one_of_all) {
  const Matrix tokens = matrix({{1, 0}, {1, 0.1}, {0, 0}, {0, 0}});
  // The zero tokens are the isolated ones; either is at distance 1 of everything.
  const Outcome o = divprune({}, tokens, 3);
  EXPECT_EQ(o.kept, (Rows{0, 2, 3}));
  EXPECT_TRUE(support::close(o.scores, {1, 1 - 1 / std::sqrt(1.01), 1, 1}, 1e-12));
  const DivPrune released{.filter = {.mask_chosen = false, .order = TokenOrder::score}};
  EXPECT_EQ(divprune(released, tokens, 3).kept, (Rows{2, 0, 3}));
}

TEST(DivPrune, tokens_that_are_not_finite_come_last_and_count_as_nobodys_neighbour) {
  const Matrix tokens =
      matrix({{nan, 0}, {1, 0}, {1, 0.2}, {infinity, 1}, {0, 1}, {-1, -1}, {nan, nan}});
  for (const bool mask : {true, false}) {
    const DivPrune method{.filter = {.mask_chosen = mask, .order = TokenOrder::score}};
    const Outcome o = divprune(method, tokens, 3);
    EXPECT_EQ(o.kept, (Rows{5, 2, 4}));
    EXPECT_TRUE(std::isnan(o.scores[0]) && std::isnan(o.scores[3]) && std::isnan(o.scores[6]));
    EXPECT_TRUE(std::isfinite(o.scores[1]));
  }
  EXPECT_EQ(divprune(in_order, tokens, 6).kept, (Rows{5, 2, 4, 1, 0, 3}));
  const Matrix one = matrix({{nan, 0}, {1, 1}, {nan, 0}});
  EXPECT_EQ(divprune({}, one, 1).kept, (Rows{1}));
  EXPECT_EQ(divprune({}, one, 1).scores[1], 2);  // no neighbour: as far as an opposite
  const Matrix none = matrix({{nan, 0}, {nan, 1}, {nan, 0}});
  EXPECT_EQ(divprune({}, none, 2).kept, (Rows{0, 1}));
  EXPECT_EQ(divprune(tokenfold::divprune_released(), none, 2).kept, (Rows{0, 1}));
}

TEST(DivPrune, keeping_all_or_none) {
  const Matrix tokens = at_angles({0, 0, 90});
  for (const DivPrune& method : {DivPrune{}, tokenfold::divprune_released(), in_order}) {
    EXPECT_EQ(divprune(method, tokens, 3).kept, (Rows{0, 1, 2}));
    EXPECT_EQ(divprune(method, tokens, 3).scores, (std::vector<double>{0, 0, 0}));
    EXPECT_EQ(divprune(method, tokens, 0).kept, (Rows{}));
    EXPECT_EQ(divprune(method, tokens, 0).discarded, (Rows{0, 1, 2}));
    EXPECT_EQ(divprune(method, matrix({}), 0).kept, (Rows{}));
  }
}

TEST(DivPrune, without_visual_tokens_nothing_is_read) {
  const TokenLayout layout = TokenLayout::decoder(2, 0, 1);
  const tokenfold::Features<float> empty{tokenfold::MatrixView<const float>()};
  EXPECT_TRUE(
      DivPrune{}.plan(tokenfold::Sequence(layout, empty), Budget::keep_ratio(0.1)).is_identity());
}

/// Text before and after, and separators between the visual rows: same picks among the same tokens.
TEST(DivPrune, visual_rows_need_not_be_consecutive) {
  support::Random random(3);
  const Matrix visual = support::normal_matrix<float>(12, 5, random);
  const Outcome expected = divprune(in_order, visual, 5);
  tokenfold::LayoutDescription d;
  d.tokens = 20;
  d.visual = {3, 18};
  Matrix tokens = support::normal_matrix<float>(20, 5, random);
  Rows row_of;
  for (Index row = 3; row < 18; ++row) {
    const bool separator = (row - 3) % 5 == 4;
    d.cells.push_back(separator ? -1 : static_cast<tokenfold::Token>(row_of.size()));
    if (separator) continue;
    for (std::size_t c = 0; c < 5; ++c) {
      tokens(static_cast<std::size_t>(row), c) = visual(row_of.size(), c);
    }
    row_of.push_back(row);
  }
  d.grid = {3, 4};
  const TokenLayout layout(d);
  const auto features = support::tensor<float>(tokens);
  const auto o =
      support::run<float>(in_order, tokenfold::Sequence(layout, tokenfold::Features(features)),
                          Budget::keep(5), tokens);
  Rows rows;
  for (const Index v : expected.preserved) rows.push_back(row_of[static_cast<std::size_t>(v)]);
  EXPECT_EQ(o.preserved, rows);
}

TEST(DivPrune, refuses_features_that_do_not_cover_the_visual_tokens) {
  const TokenLayout layout = TokenLayout::decoder(2, 5, 1);
  const support::Tensor<float> features = support::Tensor<float>::Zero(5, 3);
  EXPECT_EQ(support::refusal([&] {
              DivPrune{}.plan(tokenfold::Sequence(layout, tokenfold::Features(features)),
                              Budget::keep(2));
            }),
            "divprune: features: rows [0, 5) were given, but the visual tokens lie in rows [2, 7)");
}

TEST(DivPrune, refuses_an_adaptive_budget) {
  const TokenLayout layout = TokenLayout::decoder(0, 5, 0);
  const support::Tensor<float> features = support::Tensor<float>::Zero(5, 3);
  EXPECT_EQ(support::refusal([&] {
              DivPrune{}.plan(tokenfold::Sequence(layout, tokenfold::Features(features)),
                              Budget::adaptive());
            }),
            "budget: this method has no rule of its own; give keep, discard or keep_ratio");
}

TEST(DivPrune, never_holds_all_pairs) {
  support::Random random(8);
  const Index n = 1000;
  const TokenLayout layout = TokenLayout::decoder(0, n, 0);
  const auto features = support::tensor<float>(support::normal_matrix<float>(1000, 4, random));
  tokenfold::Workspace workspace;
  tokenfold::ReductionPlan plan;
  DivPrune{}.plan(tokenfold::Sequence(layout, tokenfold::Features(features)), Budget::keep(50),
                  workspace, plan);
  EXPECT_EQ(plan.output_tokens(), 50);
  EXPECT_LT(workspace.peak(), std::size_t{1000 * 1000});  // a fourth of N × N floats
}

/// Tokens of a few kinds, most of them near one of the kind: what bounds tell apart quickly.
template <class T>
Matrix of_a_few_kinds(std::size_t n, std::size_t d, support::Random& random) {
  const Matrix kinds = support::normal_matrix<T>(5, d, random);
  Matrix tokens = support::normal_matrix<T>(n, d, random);
  for (std::size_t i = 0; i < n; ++i) {
    const auto kind = static_cast<std::size_t>(random.below(5));
    for (std::size_t c = 0; c < d; ++c) {
      tokens(i, c) = static_cast<double>(static_cast<T>(kinds(kind, c) + 0.3 * tokens(i, c)));
    }
  }
  return tokens;
}

TEST(DivPrune, many_tokens_equal_the_reference) {
  support::Random random(12);
  for (const std::size_t n : std::vector<std::size_t>{31, 64, 97, 300}) {
    for (const bool kinds : {false, true}) {
      const Matrix tokens = kinds ? of_a_few_kinds<double>(n, 24, random)
                                  : support::normal_matrix<double>(n, 24, random);
      const Index keep = static_cast<Index>(n) / 3;
      const auto expected =
          reference::divprune(tokens, static_cast<std::size_t>(keep), {.centering = {}});
      const Outcome o = divprune(in_order, tokens, keep);
      EXPECT_EQ(o.preserved, support::indices(expected.picks)) << n;
      EXPECT_TRUE(support::close(o.scores, expected.scores, 1e-10, 1e-12)) << n;
    }
  }
}

/// Two tokens that are each other's nearest neighbour tie, though their cosine may be computed from
/// either side.
template <class T>
void lower_of_two_neighbours_first() {
  support::Random random(13);
  for (int trial = 0; trial < 40; ++trial) {
    Matrix tokens = support::normal_matrix<T>(80, 33, random);
    const auto a = static_cast<std::size_t>(random.below(80));
    const auto b = (a + 1 + static_cast<std::size_t>(random.below(79))) % 80;
    for (std::size_t i = 0; i < 80; ++i) {
      tokens(i, 0) = i == a || i == b ? -9 : 9;
      if (i == b) tokens(i, 1) += 12;  // d_ab is larger than any within the others
    }
    const Outcome o = divprune<T>({}, tokens, 1);
    EXPECT_EQ(o.preserved[0], static_cast<Index>(std::min(a, b)));
    DivPrune bounds = in_order;
    bounds.filter.score_discarded = false;
    EXPECT_EQ(divprune<T>(bounds, tokens, 3).preserved[0], static_cast<Index>(std::min(a, b)));
  }
}
TEST(DivPrune, float_takes_the_lower_of_two_neighbours) { lower_of_two_neighbours_first<float>(); }
TEST(DivPrune, double_takes_the_lower_of_two_neighbours) {
  lower_of_two_neighbours_first<double>();
}

TEST(DivPrune, picks_and_their_scores_do_not_depend_on_the_scores_of_others) {
  support::Random random(14);
  for (int trial = 0; trial < 20; ++trial) {
    const Matrix tokens = trial % 2 == 0 ? of_a_few_kinds<float>(150, 40, random)
                                         : support::normal_matrix<float>(150, 40, random);
    DivPrune method = in_order;
    method.filter.mask_chosen = trial % 3 != 0;
    const Index keep = 1 + random.below(60);
    const Outcome all = divprune<float>(method, tokens, keep);
    method.filter.score_discarded = false;
    const Outcome some = divprune<float>(method, tokens, keep);
    EXPECT_EQ(some.preserved, all.preserved);
    for (const Index v : all.preserved) {
      EXPECT_EQ(some.scores[static_cast<std::size_t>(v)], all.scores[static_cast<std::size_t>(v)]);
    }
    for (const Index v : all.discarded) {
      EXPECT_GE(some.scores[static_cast<std::size_t>(v)], all.scores[static_cast<std::size_t>(v)]);
    }
  }
}

TEST(DivPrune, options_by_name) {
  DivPrune method;
  std::vector<std::string> names;
  method.options([&](const char* name, auto&, const char*) { names.emplace_back(name); });
  EXPECT_EQ(names, (std::vector<std::string>{"first_pick", "mask_chosen", "order", "center",
                                             "distinctness", "standardize", "center_first_pick",
                                             "score_discarded"}));
}

/// Half and bfloat16 pick as float does from the same values.
template <class T>
void narrow_equals_float() {
  support::Random random(21);
  for (int trial = 0; trial < 5; ++trial) {
    Matrix tokens = support::normal_matrix<float>(90, 12, random);
    for (double& value : tokens.values) {
      value = static_cast<double>(static_cast<float>(static_cast<T>(static_cast<float>(value))));
    }
    const Outcome wide = divprune<float>(in_order, tokens, 9);
    const TokenLayout layout = TokenLayout::decoder(0, 90, 0);
    support::Tensor<T> features(90, 12);
    for (Index i = 0; i < features.size(); ++i) {
      features.data()[i] =
          static_cast<T>(static_cast<float>(tokens.values[static_cast<std::size_t>(i)]));
    }
    const auto o =
        support::run<float>(in_order, tokenfold::Sequence(layout, tokenfold::Features(features)),
                            Budget::keep(9), tokens);
    EXPECT_EQ(o.preserved, wide.preserved);
    EXPECT_TRUE(support::close(o.scores, wide.scores, 1e-5, 1e-6));
  }
}
TEST(DivPrune, half_picks_as_float) { narrow_equals_float<Eigen::half>(); }
TEST(DivPrune, bfloat16_picks_as_float) { narrow_equals_float<Eigen::bfloat16>(); }

template <class T>
void equals_reference() {
  support::Random random(77);
  int compared = 0;
  for (int trial = 0; trial < 60; ++trial) {
    const auto n = static_cast<std::size_t>(1 + random.below(trial % 5 == 0 ? 150 : 30));
    Matrix tokens =
        support::normal_matrix<T>(n, static_cast<std::size_t>(2 + random.below(9)), random);
    for (std::size_t i = 0; i < n; ++i) {
      const double offset = trial % 3 == 0 ? 2 : 0;  // tokens in a cone
      for (std::size_t c = 0; c < tokens.cols; ++c) {
        tokens(i, c) = static_cast<double>(static_cast<T>(tokens(i, c) + offset));
        if (random.chance(0.003)) tokens(i, c) = nan;
      }
    }
    const Index keep = random.below(static_cast<Index>(n));
    if (keep == 0) continue;
    for (const auto first :
         {FirstPick::most_isolated, FirstPick::farthest_from_mean, FirstPick::highest_norm}) {
      const bool mask = random.chance(0.7);
      const auto expected = reference::divprune(
          tokens, static_cast<std::size_t>(keep),
          {.first = static_cast<reference::DivPruneFirst>(first), .mask = mask, .centering = {}});
      // In float, rounding decides between criteria that differ by less.
      if (std::is_same_v<T, float> && expected.margin < 1e-5) continue;
      ++compared;
      const Outcome o = divprune<T>(
          {.filter = {.first_pick = first, .mask_chosen = mask, .order = TokenOrder::score}},
          tokens, keep);
      EXPECT_EQ(o.preserved, support::indices(expected.picks));
      EXPECT_TRUE(
          support::close(o.scores, expected.scores, std::is_same_v<T, float> ? 1e-4 : 1e-10, 1e-6));
    }
  }
  EXPECT_GT(compared, 100);
}
TEST(DivPrune, float_equals_the_reference) { equals_reference<float>(); }
TEST(DivPrune, double_equals_the_reference) { equals_reference<double>(); }

}  // namespace
