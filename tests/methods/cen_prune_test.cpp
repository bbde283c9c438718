// SPDX-License-Identifier: Apache-2.0
// Cen-Prune's parts on cases worked out by hand, and both methods with it against the reference.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <tokenfold/methods/cen_prune.hpp>
#include <vector>

#include "reference/cdpruner.hpp"
#include "support/outcome.hpp"

namespace {

using reference::Matrix;
using support::Outcome;
using tokenfold::Budget;
using tokenfold::CDPruner;
using tokenfold::DivPrune;
using tokenfold::Index;
using tokenfold::TokenLayout;
using tokenfold::TokenOrder;
using tokenfold::filter::Centering;
using tokenfold::filter::Distinctness;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

using Rows = std::vector<Index>;
using Numbers = std::vector<double>;

Matrix matrix(const std::vector<Numbers>& rows) {
  Matrix m(rows.size(), rows.at(0).size());
  for (std::size_t i = 0; i < m.rows; ++i) {
    for (std::size_t c = 0; c < m.cols; ++c) m(i, c) = rows[i][c];
  }
  return m;
}

/// Picks in their order, by DivPrune or, with a relevance of 1 or as given, by CDPruner.
template <class T = double, class Method>
Outcome run(Method method, const Matrix& tokens, Index keep, Numbers relevance = {}) {
  method.filter.order = TokenOrder::score;
  relevance.resize(tokens.rows, 1);
  const TokenLayout layout = TokenLayout::decoder(0, static_cast<Index>(tokens.rows), 0);
  const auto features = support::tensor<T>(tokens);
  const auto given = support::cast<T>(relevance);
  return support::run<T>(
      method,
      tokenfold::Sequence(layout, tokenfold::Features(features), tokenfold::Relevance(given)),
      Budget::keep(keep), tokens);
}

DivPrune divprune(const Centering& centering) {
  return {.filter = {.centering = centering, .center_first_pick = true}};
}
CDPruner cdpruner(const Centering& centering) { return {.filter = {.centering = centering}}; }

/// g~ and the cosines between the tokens, as a filter gets them.
struct Space {
  Numbers weights;
  Matrix cosines;
};
template <class T = double>
Space space(const Centering& centering, const Matrix& tokens) {
  using namespace tokenfold::detail;
  tokenfold::Workspace workspace;
  tokenfold::Workspace::Frame frame(workspace);
  const auto x = support::tensor<T>(tokens);
  Space result;
  result.cosines = Matrix(tokens.rows, tokens.rows);
  const CosineRows<T> plain(tokenfold::MatrixView<const T>(x), workspace);
  with_centering(centering, plain, workspace, [&](const auto& cosines, auto weights) {
    result.weights.assign(weights.begin(), weights.end());
    std::vector<T> row(tokens.rows);
    for (std::size_t i = 0; i < tokens.rows; ++i) {
      cosines.row(static_cast<Index>(i), tokenfold::Span<T>(row), workspace);
      for (std::size_t j = 0; j < tokens.rows; ++j) {
        result.cosines(i, j) = static_cast<double>(row[j]);
      }
    }
  });
  return result;
}

TEST(CenPrune, centred_cosines) {
  // The mean is (2, 1): centred tokens (1, 0), (0, 2), (-1, 0), (0, -2), (0, 0).
  const Matrix tokens = matrix({{3, 1}, {2, 3}, {1, 1}, {2, -1}, {2, 1}});
  EXPECT_TRUE(support::close(space({.center = true}, tokens).cosines.values, {1,  0,  -1, 0,  0,  //
                                                                              0,  1,  0,  -1, 0,  //
                                                                              -1, 0,  1,  0,  0,  //
                                                                              0,  -1, 0,  1,  0,  //
                                                                              0,  0,  0,  0,  0},
                             1e-12, 1e-12));
  EXPECT_TRUE(space({.center = true}, tokens).weights.empty());
}

TEST(CenPrune, token_equal_to_the_mean_up_to_rounding_has_no_direction) {
  const Matrix tokens = matrix({{0.1, 0.7}, {0.1, 0.7}, {0.1, 0.7}});
  EXPECT_EQ(space({.center = true}, tokens).cosines.values, Numbers(9, 0));
  EXPECT_EQ(space<float>({.center = true}, tokens).cosines.values, Numbers(9, 0));
}

TEST(CenPrune, channels_are_standardised) {
  // Centred: ±1 and ±100 in the first two channels; the third is the same everywhere.
  const Matrix tokens = matrix({{1, 500, 7}, {1, 300, 7}, {-1, 500, 7}, {-1, 300, 7}});
  const Space s = space({.center = true, .standardize = true}, tokens);
  EXPECT_TRUE(support::close(s.cosines.values, {1, 0, 0, -1, 0, 1, -1, 0, 0, -1, 1, 0, -1, 0, 0, 1},
                             1e-12, 1e-12));
  // Not centred, the first channel is 1 and the second 4 standard deviations.
  const Space uncentred = space({.standardize = true}, tokens);
  EXPECT_NEAR(uncentred.cosines(0, 2), (-1 + 25) / 26.0, 1e-12);
}

TEST(CenPrune, distinctness_is_scaled_to_one_or_through_a_sigmoid) {
  // g = -(0 + c) / 2, -(0 + c) / 2, -c with c = 1/√2.
  const Matrix tokens = matrix({{1, 0}, {0, 3}, {2, 2}});
  const double c = std::sqrt(0.5);
  const Space scaled = space({.distinctness = Distinctness::min_max}, tokens);
  const double highest = (c / 2) / (c / 2 + 1e-6);
  EXPECT_TRUE(support::close(scaled.weights, {highest, highest, 0}, 1e-12, 1e-12));
  // Mean -2c/3, deviations c/6, c/6, -c/3, standard deviation c/√12.
  const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  const double deviation = c / std::sqrt(12.0) + 1e-6;
  EXPECT_TRUE(support::close(
      space({.distinctness = Distinctness::sigmoid}, tokens).weights,
      {sigmoid(c / 6 / deviation), sigmoid(c / 6 / deviation), sigmoid(-c / 3 / deviation)},
      1e-12));
}

TEST(CenPrune, distinctness_is_that_of_uncentred_tokens) {
  support::Random random(6);
  Matrix tokens = support::normal_matrix<double>(9, 4, random);
  for (double& value : tokens.values) value += 3;
  const Centering alone{.distinctness = Distinctness::min_max};
  const Centering centred{.center = true, .distinctness = Distinctness::min_max};
  EXPECT_EQ(space(alone, tokens).weights, space(centred, tokens).weights);
  // With standardised channels, of the standardised ones.
  const Centering standardised{
      .center = true, .distinctness = Distinctness::min_max, .standardize = true};
  const auto expected = reference::centered(
      tokens, {.center = true, .gate = reference::Gate::min_max, .standardize = true});
  EXPECT_TRUE(support::close(space(standardised, tokens).weights, expected.gates, 1e-9, 1e-9));
}

TEST(CenPrune, equal_distinctness_weighs_equally) {
  const Matrix basis = matrix({{1, 0, 0}, {0, 2, 0}, {0, 0, 3}});
  for (const auto rule : {Distinctness::min_max, Distinctness::sigmoid}) {
    EXPECT_EQ(space({.distinctness = rule}, basis).weights, Numbers(3, 1));
    EXPECT_EQ(space<float>({.distinctness = rule}, basis).weights, Numbers(3, 1));
  }
}

TEST(CenPrune, common_offset_and_channel_scales_do_not_matter) {
  support::Random random(12);
  const Matrix tokens = support::normal_matrix<double>(40, 6, random);
  Matrix moved = tokens;
  Matrix scaled = tokens;
  for (std::size_t i = 0; i < tokens.rows; ++i) {
    for (std::size_t c = 0; c < tokens.cols; ++c) {
      moved(i, c) += 10 + static_cast<double>(c);
      scaled(i, c) = 5 + tokens(i, c) * std::pow(10.0, static_cast<double>(c));
    }
  }
  const Centering center{.center = true};
  const Centering both{.center = true, .standardize = true};
  EXPECT_EQ(run(divprune(center), moved, 9).preserved, run(divprune(center), tokens, 9).preserved);
  EXPECT_NE(run(divprune({}), moved, 9).preserved, run(divprune({}), tokens, 9).preserved);
  EXPECT_EQ(run(divprune(both), scaled, 9).preserved, run(divprune(both), tokens, 9).preserved);
  EXPECT_EQ(run(cdpruner(center), moved, 5).preserved, run(cdpruner(center), tokens, 5).preserved);
  EXPECT_EQ(run(cdpruner(both), scaled, 5).preserved, run(cdpruner(both), tokens, 5).preserved);
  EXPECT_NE(run(cdpruner(center), scaled, 5).preserved, run(cdpruner(center), tokens, 5).preserved);
}

TEST(CenPrune, first_pick_is_divprunes_own_unless_asked) {
  support::Random random(13);
  int different = 0;
  for (int trial = 0; trial < 10; ++trial) {
    Matrix tokens = support::normal_matrix<double>(30, 5, random);
    for (double& value : tokens.values) value += 2;
    DivPrune method = tokenfold::cen_divprune();
    const Rows own = run(DivPrune{}, tokens, 1).preserved;
    EXPECT_EQ(run(method, tokens, 1).preserved, own);
    method.filter.center_first_pick = true;
    const auto expected =
        reference::divprune(tokens, 1, {.centering = {.center = true}, .center_first = true});
    EXPECT_EQ(run(method, tokens, 1).preserved, support::indices(expected.picks));
    different += run(method, tokens, 1).preserved != own ? 1 : 0;
  }
  EXPECT_GT(different, 3);
}

TEST(CenPrune, identical_tokens_go_by_row) {
  const Matrix same = matrix({{0.1, 2}, {0.1, 2}, {0.1, 2}, {0.1, 2}});
  EXPECT_EQ(run(tokenfold::cen_divprune(), same, 3).preserved, (Rows{0, 1, 2}));
  EXPECT_EQ(run(tokenfold::cen_divprune_dynamic(), same, 3).preserved, (Rows{0, 1, 2}));
  EXPECT_EQ(run(tokenfold::cen_cdpruner(), same, 3).preserved, (Rows{0, 1, 2}));
  EXPECT_EQ(run(tokenfold::cen_cdpruner_dynamic(), same, 3).preserved, (Rows{0, 1, 2}));
  EXPECT_EQ(run<float>(tokenfold::cen_divprune(), same, 3).preserved, (Rows{0, 1, 2}));
  EXPECT_EQ(run<float>(tokenfold::cen_cdpruner_dynamic(), same, 3).preserved, (Rows{0, 1, 2}));
}

TEST(CenPrune, tokens_that_are_not_finite_change_nothing) {
  support::Random random(14);
  const Matrix tokens = support::normal_matrix<double>(20, 5, random);
  Matrix longer(22, 5);
  std::copy(tokens.values.begin(), tokens.values.end(), longer.values.begin());
  longer(20, 2) = nan;
  longer(21, 0) = std::numeric_limits<double>::infinity();
  for (const Centering& centering : {tokenfold::cen_prune(), tokenfold::cen_prune_dynamic()}) {
    EXPECT_EQ(run(divprune(centering), longer, 6).preserved,
              run(divprune(centering), tokens, 6).preserved);
    EXPECT_EQ(run(cdpruner(centering), longer, 4).preserved,
              run(cdpruner(centering), tokens, 4).preserved);
    const Outcome o = run(divprune(centering), longer, 21);
    EXPECT_EQ(o.discarded, (Rows{21}));
    EXPECT_TRUE(std::isnan(o.scores[20]) && std::isnan(o.scores[21]));
  }
  Matrix one(3, 2, Numbers(6, nan));
  one(1, 0) = one(1, 1) = 1;
  for (const Centering& centering : {tokenfold::cen_prune(), tokenfold::cen_prune_dynamic()}) {
    EXPECT_EQ(run(divprune(centering), one, 2).preserved, (Rows{1, 0}));
    EXPECT_EQ(run(cdpruner(centering), one, 2).preserved, (Rows{1, 0}));
  }
}

TEST(CenPrune, keeping_all_or_none) {
  const Matrix tokens = matrix({{1, 0}, {0, 1}, {1, 1}});
  EXPECT_EQ(run(tokenfold::cen_divprune(), tokens, 3).kept, (Rows{0, 1, 2}));
  EXPECT_EQ(run(tokenfold::cen_cdpruner(), tokens, 3).kept, (Rows{0, 1, 2}));
  EXPECT_EQ(run(tokenfold::cen_divprune(), tokens, 0).kept, (Rows{}));
  EXPECT_EQ(run(tokenfold::cen_cdpruner(), tokens, 0).kept, (Rows{}));
}

TEST(CenPrune, presets) {
  EXPECT_TRUE(tokenfold::cen_divprune().filter.centering.center);
  EXPECT_EQ(tokenfold::cen_cdpruner().filter.centering.distinctness, Distinctness::min_max);
  EXPECT_FALSE(tokenfold::cen_cdpruner().filter.centering.standardize);
  EXPECT_EQ(tokenfold::cen_divprune_dynamic().filter.centering.distinctness, Distinctness::sigmoid);
  EXPECT_TRUE(tokenfold::cen_cdpruner_dynamic().filter.centering.standardize);
  EXPECT_FALSE(DivPrune{}.filter.centering.center);
  EXPECT_EQ(CDPruner{}.filter.centering.distinctness, Distinctness::none);
}

/// The narrow types are centred in double and compared in float.
TEST(CenPrune, half_picks_as_float) {
  support::Random random(15);
  Matrix tokens = support::normal_matrix<float>(70, 12, random);
  support::Tensor<Eigen::half> narrow(70, 12);
  for (std::size_t i = 0; i < tokens.values.size(); ++i) {
    const auto value = static_cast<Eigen::half>(static_cast<float>(tokens.values[i] + 1));
    narrow.data()[i] = value;
    tokens.values[i] = static_cast<double>(static_cast<float>(value));
  }
  const TokenLayout layout = TokenLayout::decoder(0, 70, 0);
  for (DivPrune method : {tokenfold::cen_divprune(), tokenfold::cen_divprune_dynamic()}) {
    method.filter.order = TokenOrder::score;
    const auto o = support::run<float>(
        method, tokenfold::Sequence(layout, tokenfold::Features(narrow)), Budget::keep(9), tokens);
    EXPECT_EQ(o.preserved, run<float>(method, tokens, 9).preserved);
  }
}

template <class T>
void equals_reference() {
  constexpr bool is_float = std::is_same_v<T, float>;
  support::Random random(99);
  int compared = 0;
  for (int trial = 0; trial < 60; ++trial) {
    const auto n = static_cast<std::size_t>(2 + random.below(trial % 6 == 0 ? 90 : 25));
    Matrix tokens =
        support::normal_matrix<T>(n, static_cast<std::size_t>(3 + random.below(9)), random);
    const double offset = 2 * random.uniform();
    for (double& value : tokens.values) {
      value = static_cast<double>(static_cast<T>(value + offset));
    }
    if (random.chance(0.2)) tokens(1, 0) = nan;
    const auto rule = static_cast<Distinctness>(trial % 3);
    const Centering centering{
        .center = random.chance(0.7), .distinctness = rule, .standardize = random.chance(0.4)};
    const reference::CenteringOptions options{.center = centering.center,
                                              .gate = static_cast<reference::Gate>(rule),
                                              .standardize = centering.standardize};
    const Index keep = 1 + random.below(std::min<Index>(static_cast<Index>(n) - 1, 15));
    const auto count = static_cast<std::size_t>(keep);
    const double relative = is_float ? 1e-3 : 1e-9;
    const double floor = is_float ? 1e-5 : 1e-12;

    const bool center_first = random.chance(0.5);
    const auto picks =
        reference::divprune(tokens, count, {.centering = options, .center_first = center_first});
    // In float, rounding decides between criteria that differ by less.
    if (!is_float || picks.margin > 1e-4) {
      ++compared;
      const DivPrune method{.filter = {.centering = centering, .center_first_pick = center_first}};
      const Outcome o = run<T>(method, tokens, keep);
      EXPECT_EQ(o.preserved, support::indices(picks.picks)) << trial;
      EXPECT_TRUE(support::close(o.scores, picks.scores, relative, floor)) << trial;
    }
    Numbers relevance;
    for (std::size_t i = 0; i < n; ++i) {
      relevance.push_back(static_cast<double>(static_cast<T>(random.uniform())));
    }
    const auto gains = reference::cdpruner(tokens, relevance, count, {.centering = options});
    if (!is_float || gains.margin > 1e-4) {
      ++compared;
      const Outcome o = run<T>(cdpruner(centering), tokens, keep, relevance);
      EXPECT_EQ(o.preserved, support::indices(gains.picks)) << trial;
      EXPECT_TRUE(support::close(o.scores, gains.scores, relative, floor)) << trial;
    }
  }
  EXPECT_GT(compared, is_float ? 60 : 119);
}
TEST(CenPrune, float_equals_the_reference) { equals_reference<float>(); }
TEST(CenPrune, double_equals_the_reference) { equals_reference<double>(); }

}  // namespace
