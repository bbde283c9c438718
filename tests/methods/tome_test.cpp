// SPDX-License-Identifier: Apache-2.0
// ToMe on cases worked out by hand, and against naive loops.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>
#include <string>
#include <tokenfold/methods/tome.hpp>
#include <tokenfold/tokenfold.hpp>
#include <vector>

#include "reference/tome.hpp"
#include "support/outcome.hpp"
#include "support/random.hpp"

namespace {

using support::Outcome;
using support::Random;
using support::Tensor;
using tokenfold::Budget;
using tokenfold::ClsToken;
using tokenfold::Index;
using tokenfold::Keys;
using tokenfold::LayoutDescription;
using tokenfold::Sequence;
using tokenfold::Sizes;
using tokenfold::TokenLayout;
using tokenfold::ToMe;
using tokenfold::filter::BipartiteOrder;
using tokenfold::filter::BipartiteSimilarity;

using Rows = std::vector<Index>;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double no_match = BipartiteSimilarity::no_match;

/// Keys of one head at these angles in degrees, one per row; NaN: a key that is not finite.
Tensor<double> keys_at(const std::vector<double>& degrees) {
  Tensor<double> keys(static_cast<Index>(degrees.size()), 2);
  for (std::size_t i = 0; i < degrees.size(); ++i) {
    const double angle = degrees[i] * std::acos(-1.0) / 180;
    keys.row(static_cast<Index>(i)) << std::cos(angle), std::sin(angle);
  }
  return keys;
}

double cos_of(double degrees) { return std::cos(degrees * std::acos(-1.0) / 180); }

/// Tokens 1, 10, 100, …
reference::Matrix powers_of_ten(Index rows) {
  reference::Matrix tokens(static_cast<std::size_t>(rows), 1);
  for (std::size_t i = 0; i < tokens.rows; ++i) {
    tokens(i, 0) = std::pow(10.0, static_cast<double>(i));
  }
  return tokens;
}

template <class Method = ToMe>
Outcome run(const TokenLayout& layout, const Tensor<double>& keys, const Budget& budget,
            const Method& method = {}) {
  return support::run<double>(method, Sequence(layout, Keys(tokenfold::split_heads(keys, 1))),
                              budget, powers_of_ten(layout.tokens()));
}

TokenLayout patches(Index n) { return TokenLayout::encoder({1, n}, ClsToken::none); }

// Positions 0, 2, 4 are A, positions 1, 3, 5 are B.
const std::vector<double> six_angles = {0, 100, 90, 5, 200, 220};

TEST(ToMe, merges_the_most_similar_even_token_into_its_odd_one) {
  const Outcome o = run(patches(6), keys_at(six_angles), Budget::discard(1));
  // 0 is 5 degrees from 3, 2 is 10 from 1, 4 is 20 from 5.
  EXPECT_TRUE(support::close(
      o.scores, {cos_of(5), no_match, cos_of(10), no_match, cos_of(20), no_match}, 1e-12));
  EXPECT_EQ(o.discarded, (Rows{0}));
  EXPECT_EQ(o.kept, (Rows{2, 4, 1, 3, 5}));
  EXPECT_TRUE(support::close(o.output.values, {100, 10000, 10, 500.5, 100000}, 1e-7));
}

TEST(ToMe, several_may_share_one_target) {
  const Outcome o = run(patches(6), keys_at({0, 90, 80, 85, 70, 200}), Budget::discard(2));
  EXPECT_EQ(o.discarded, (Rows{2, 4}));
  EXPECT_EQ(o.kept, (Rows{0, 1, 3, 5}));
  EXPECT_TRUE(support::close(o.output.values, {1, 10, (100 + 1000 + 10000) / 3.0, 100000}, 1e-7));
}

TEST(ToMe, what_is_left_of_a_falls_by_similarity_without_cls) {
  const std::vector<double> angles = {90, 100, 0, 1, 200, 205, 300, 330};
  const Outcome o = run(patches(8), keys_at(angles), Budget::discard(1));
  EXPECT_EQ(o.discarded, (Rows{2}));
  EXPECT_EQ(o.kept, (Rows{4, 0, 6, 1, 3, 5, 7}));
  EXPECT_EQ(run(patches(8), keys_at(angles), Budget::discard(1), tokenfold::tome_raster()).kept,
            (Rows{0, 1, 3, 4, 5, 6, 7}));
}

TEST(ToMe, what_is_left_of_a_ascends_with_cls) {
  // [CLS] is like row 3, but it is a token of neither A nor B.
  const std::vector<double> angles = {0, 100, 0, 1, 200, 205, 90, 330, 91};
  const Outcome o = run(TokenLayout::encoder({1, 8}), keys_at(angles), Budget::discard(1));
  // A: 2, 4, 6, 8 at 0, 200, 90, 91; B: 1, 3, 5, 7 at 100, 1, 205, 330.
  EXPECT_EQ(o.discarded, (Rows{2}));
  EXPECT_EQ(o.kept, (Rows{0, 4, 6, 8, 1, 3, 5, 7}));
}

TEST(ToMe, cls_last_shifts_no_position) {
  const TokenLayout layout = TokenLayout::encoder({1, 6}, ClsToken::last);
  std::vector<double> angles = six_angles;
  angles.push_back(0);  // [CLS], at an even position, like token 0
  const Outcome o = run(layout, keys_at(angles), Budget::discard(3));
  EXPECT_EQ(o.discarded, (Rows{0, 2, 4}));
  EXPECT_EQ(o.kept, (Rows{1, 3, 5, 6}));
  // Ascending, because there is a [CLS] row, though 4 is the less similar one.
  EXPECT_EQ(run(layout, keys_at(angles), Budget::discard(1)).kept, (Rows{2, 4, 1, 3, 5, 6}));
}

TEST(ToMe, protected_rows_absorb_nothing_and_go_nowhere) {
  // [CLS] and a distillation token at position 1, of B, which everybody is most like.
  const TokenLayout layout = TokenLayout::encoder({1, 4}, ClsToken::first, 1);
  const Outcome o = run(layout, keys_at({0, 0, 0, 60, 1, 90}), Budget::discard(2));
  EXPECT_EQ(o.discarded, (Rows{2, 4}));
  EXPECT_EQ(o.kept, (Rows{0, 1, 3, 5}));
  EXPECT_TRUE(support::close(o.output.values, {1, 10, (100 + 1000 + 10000) / 3.0, 100000}, 1e-7));
}

TEST(ToMe, text_before_the_image_does_not_count_as_a_position) {
  for (const Index text : {0, 1, 2}) {
    const TokenLayout layout = TokenLayout::decoder(text, 6, 1);
    std::vector<double> angles(static_cast<std::size_t>(text), nan);
    angles.insert(angles.end(), six_angles.begin(), six_angles.end());
    angles.push_back(nan);
    EXPECT_EQ(run(layout, keys_at(angles), Budget::discard(1)).discarded, (Rows{text}));
  }
}

TEST(ToMe, a_special_row_before_text_is_a_position) {
  LayoutDescription d;
  d.tokens = 9;
  d.text_before = {1, 3};
  d.visual = {3, 9};
  const TokenLayout layout(d);
  // The patches stand at positions 1 … 6, so the second, fourth and sixth are A.
  std::vector<double> angles(3, 0.0);
  angles.insert(angles.end(), {100, 90, 5, 0, 220, 200});
  EXPECT_EQ(run(layout, keys_at(angles), Budget::discard(1)).discarded, (Rows{6}));
}

TEST(ToMe, padding_is_no_position_but_a_separator_is) {
  LayoutDescription d;
  d.tokens = 7;
  d.visual = {0, 7};
  for (const auto cell : {tokenfold::padding_cell, tokenfold::no_token}) {
    d.cells = {0, 1, cell, 2, 3, 4, 5};
    const TokenLayout layout(d);
    const bool padded = cell == tokenfold::padding_cell;
    std::vector<double> angles = six_angles;
    angles.insert(angles.begin() + 2, nan);
    const Outcome o = run(layout, keys_at(angles), Budget::discard(1));
    if (padded) {
      EXPECT_EQ(o.discarded, (Rows{0}));
      EXPECT_EQ(o.kept, (Rows{3, 5, 1, 4, 6}));
    } else {
      // A: rows 0, 4, 6 at 0, 5, 220; B: rows 1, 3, 5 at 100, 90, 200.
      EXPECT_EQ(o.discarded, (Rows{6}));
      EXPECT_EQ(o.kept, (Rows{2, 4, 0, 1, 3, 5}));
    }
  }
}

TEST(ToMe, separators_may_leave_a_or_b_empty) {
  LayoutDescription d;
  d.tokens = 6;
  d.visual = {0, 6};
  for (const bool even : {true, false}) {
    d.cells = even ? std::vector<tokenfold::Token>{0, -1, 1, -1, 2, -1}
                   : std::vector<tokenfold::Token>{-1, 0, -1, 1, -1, 2};
    const TokenLayout layout(d);
    const Outcome o = run(layout, keys_at({0, 0, 0, 0, 0, 0}), Budget::discard(1));
    EXPECT_EQ(o.discarded, Rows{});
    EXPECT_EQ(o.kept, (Rows{0, 1, 2, 3, 4, 5}));
  }
}

TEST(ToMe, discards_no_more_than_half) {
  for (const Index n : {1, 2, 5, 6, 7}) {
    const std::vector<double> angles(static_cast<std::size_t>(n + 1), 10.0);
    for (const ClsToken cls : {ClsToken::none, ClsToken::first, ClsToken::last}) {
      const TokenLayout layout = TokenLayout::encoder({1, n}, cls);
      const auto keys = keys_at({angles.begin(), angles.begin() + layout.tokens()});
      const Outcome o = run(layout, keys, Budget::keep(0));
      EXPECT_EQ(static_cast<Index>(o.discarded.size()), n / 2);
      EXPECT_EQ(static_cast<Index>(o.kept.size()), layout.tokens() - n / 2);
      // r is a wish, as in the release: more than there are is no error either.
      EXPECT_EQ(run(layout, keys, Budget::discard(n + 5)).kept, o.kept);
      ToMe strict;
      strict.filter.clamp = false;
      EXPECT_EQ(run(layout, keys, Budget::discard(n / 2), strict).discarded, o.discarded);
      const std::string half = std::to_string(n / 2);
      EXPECT_EQ(support::refusal([&] { run(layout, keys, Budget::discard(n / 2 + 1), strict); }),
                "bipartite similarity: cannot merge " + std::to_string(n / 2 + 1) + " of " +
                    std::to_string(n) + " visual tokens into the others, at most " + half +
                    " (clamp merges that many)");
    }
  }
}

TEST(ToMe, budgets_are_exact_up_to_half) {
  const std::vector<double> angles = {3, 50, 60, 200, 210, 99, 310, 12, 7};
  const TokenLayout layout = TokenLayout::encoder({1, 8});
  for (Index keep = 4; keep <= 8; ++keep) {
    for (const ToMe& method : {ToMe{}, tokenfold::tome_raster()}) {
      EXPECT_EQ(
          static_cast<Index>(run(layout, keys_at(angles), Budget::keep(keep), method).kept.size()),
          keep + 1);
    }
  }
  EXPECT_EQ(support::refusal([&] { run(layout, keys_at(angles), Budget::keep(9)); }),
            "budget: cannot keep 9 of 8 visual tokens");
  EXPECT_EQ(support::refusal([&] { run(layout, keys_at(angles), Budget::discard(-1)); }),
            "budget: cannot discard -1 of 8 visual tokens");
  EXPECT_EQ(support::refusal([&] { run(layout, keys_at(angles), Budget::adaptive()); }),
            "budget: this method has no rule of its own; give keep, discard or keep_ratio");
}

TEST(ToMe, keeping_all_is_the_identity) {
  for (const TokenLayout& layout : {patches(6), TokenLayout::encoder({1, 5})}) {
    const auto keys = keys_at(six_angles);
    const Sequence sequence(layout, Keys(tokenfold::split_heads(keys, 1)));
    EXPECT_TRUE(ToMe{}.plan(sequence, Budget::discard(0)).is_identity());
  }
  const Outcome o = run(patches(6), keys_at(six_angles), Budget::keep(6));
  EXPECT_EQ(o.scores, std::vector<double>(6, no_match));
}

TEST(ToMe, no_visual_tokens_is_the_identity) {
  const TokenLayout layout = TokenLayout::decoder(2, 0, 1);
  const auto keys = keys_at({0, 1, 2});
  const Sequence sequence(layout, Keys(tokenfold::split_heads(keys, 1)));
  EXPECT_TRUE(ToMe{}.plan(sequence, Budget::keep(0)).is_identity());
}

TEST(ToMe, ties_go_to_the_lower_row) {
  // Exact in any order of summation: axis-aligned keys. All of A have a twin in B, at 1 and 3.
  Tensor<double> keys(6, 2);
  keys << 1, 0, 2, 0, 4, 0, 1, 0, 8, 0, 0, 1;
  const Outcome o = run(patches(6), keys, Budget::discard(2));
  EXPECT_EQ(o.scores, (std::vector<double>{1, no_match, 1, no_match, 1, no_match}));
  EXPECT_EQ(o.discarded, (Rows{0, 2}));
  EXPECT_EQ(o.kept, (Rows{4, 1, 3, 5}));
  EXPECT_TRUE(support::close(o.output.values, {10000, (1 + 10 + 100) / 3.0, 1000, 100000}, 1e-7));
  EXPECT_EQ(run(patches(6), keys, Budget::discard(1)).kept, (Rows{2, 4, 1, 3, 5}));
}

TEST(ToMe, zero_keys_are_orthogonal_to_everything) {
  Tensor<double> keys = keys_at({0, 120, 0, 240, 10, 135});
  keys.row(0).setZero();
  const Outcome a = run(patches(6), keys, Budget::discard(2));
  // 0 has similarity 0 to all, 2 has cos 120 = cos 240 = -1/2 up to rounding, 4 has cos 110.
  EXPECT_NEAR(a.scores[0], 0, 0);
  EXPECT_NEAR(a.scores[2], -0.5, 1e-12);
  EXPECT_EQ(a.discarded, (Rows{0, 4}));
  EXPECT_TRUE(support::close({a.output.values[1]}, {(1 + 10 + 10000) / 3.0}, 1e-7));
  keys.row(3).setZero();
  // As a target it beats everybody at an obtuse angle.
  EXPECT_EQ(run(patches(6), keys, Budget::discard(3)).links.back().target, 3);
}

TEST(ToMe, keys_that_are_not_finite_go_first_and_reach_nobody) {
  Tensor<double> keys = keys_at(six_angles);
  keys(4, 1) = nan;
  const Outcome o = run(patches(6), keys, Budget::discard(2));
  EXPECT_TRUE(std::isnan(o.scores[4]));
  EXPECT_EQ(o.discarded, (Rows{0, 4}));
  ASSERT_EQ(o.links.size(), 1u);
  EXPECT_EQ(o.links[0].source, 0);
  EXPECT_TRUE(support::close(o.output.values, {100, 10, 500.5, 100000}, 1e-7));

  keys = keys_at(six_angles);
  keys.row(3).setConstant(infinity);  // of B: nobody's target any more
  const Outcome b = run(patches(6), keys, Budget::discard(3));
  EXPECT_NEAR(b.scores[0], cos_of(100), 1e-12);
  EXPECT_EQ(b.kept, (Rows{1, 3, 5}));
  EXPECT_TRUE(support::close(b.output.values, {37, 1000, 55000}, 1e-6));
}

TEST(ToMe, without_a_finite_target_what_goes_is_dropped) {
  Tensor<double> keys = keys_at(six_angles);
  for (const Index row : {1, 3, 5}) keys(row, 0) = nan;
  const Outcome o = run(patches(6), keys, Budget::discard(2));
  EXPECT_EQ(o.scores, std::vector<double>(6, no_match));
  EXPECT_EQ(o.discarded, (Rows{0, 2}));
  EXPECT_TRUE(o.links.empty());
  EXPECT_TRUE(support::close(o.output.values, {10000, 10, 1000, 100000}, 0, 0));
}

template <class T>
class ToMeScalars : public testing::Test {};
using Scalars = testing::Types<float, double, Eigen::half, Eigen::bfloat16>;
TYPED_TEST_SUITE(ToMeScalars, Scalars);

TYPED_TEST(ToMeScalars, decide_alike) {
  const TokenLayout layout = patches(6);
  const Tensor<TypeParam> keys = keys_at(six_angles).cast<TypeParam>();
  const auto plan =
      ToMe{}.plan(Sequence(layout, Keys(tokenfold::split_heads(keys, 2))), Budget::discard(0));
  EXPECT_TRUE(plan.is_identity());
  EXPECT_EQ(support::indices(ToMe{}
                                 .plan(Sequence(layout, Keys(tokenfold::split_heads(keys, 1))),
                                       Budget::discard(2))
                                 .kept()),
            (Rows{4, 1, 3, 5}));
}

// --- sizes

/// Everything merged into one token of B: n tokens, the last of which stays.
Outcome merge_all_into_last(const std::vector<float>& sizes, const reference::Matrix& tokens) {
  const auto n = static_cast<Index>(tokens.rows);
  const TokenLayout layout = patches(n);
  const Tensor<double> keys = Tensor<double>::Ones(n, 2);
  return support::run<double>(tokenfold::ToMeEveryKth{},
                              Sequence(layout, Keys(tokenfold::split_heads(keys, 1)), Sizes(sizes)),
                              Budget::keep(1), tokens);
}

TEST(SizeWeightedMean, weighs_by_what_tokens_stand_for) {
  const reference::Matrix tokens(3, 1, {10, 20, 50});
  EXPECT_TRUE(support::close(merge_all_into_last({}, tokens).output.values, {80 / 3.0}, 1e-6));
  EXPECT_TRUE(
      support::close(merge_all_into_last({1, 1, 1}, tokens).output.values, {80 / 3.0}, 1e-6));
  EXPECT_TRUE(
      support::close(merge_all_into_last({3, 1, 4}, tokens).output.values, {250 / 8.0}, 1e-6));
}

TEST(SizeWeightedMean, a_token_that_stands_for_nothing_weighs_nothing) {
  const reference::Matrix tokens(3, 1, {10, 20, nan});
  EXPECT_TRUE(support::close(merge_all_into_last({3, 1, 0}, tokens).output.values, {12.5}, 1e-6));
  EXPECT_EQ(merge_all_into_last({0, 0, 0}, reference::Matrix(3, 1, {nan, nan, 7})).output.values,
            std::vector<double>{7});
}

TEST(SizeWeightedMean, refuses_sizes_that_cannot_be) {
  const reference::Matrix tokens(3, 1);
  EXPECT_EQ(support::refusal([&] {
              merge_all_into_last({1, 1}, tokens);
            }),
            "size-weighted mean: 2 sizes were given for 3 tokens");
  EXPECT_EQ(support::refusal([&] {
              merge_all_into_last({1, -2, 1}, tokens);
            }),
            "size-weighted mean: the size of row 1 must be finite and not negative, got -2");
  EXPECT_EQ(support::refusal([&] {
              merge_all_into_last({1, 1, static_cast<float>(infinity)}, tokens);
            }),
            "size-weighted mean: the size of row 2 must be finite and not negative, got inf");
}

/// Links written by hand.
std::vector<double> merged(const std::vector<std::vector<std::pair<tokenfold::Token, double>>>& to,
                           const std::vector<float>& sizes) {
  const auto n = static_cast<Index>(sizes.size());
  const TokenLayout layout = patches(n);
  tokenfold::Partition partition;
  tokenfold::Correlation correlation;
  const auto sources = static_cast<tokenfold::Token>(to.size());
  for (tokenfold::Token row = 0; row < n; ++row) {
    (row < sources ? partition.discarded : partition.preserved).push_back(row);
  }
  for (tokenfold::Token source = 0; source < sources; ++source) {
    correlation.begin_source(source);
    for (const auto& [target, strength] : to[static_cast<std::size_t>(source)]) {
      correlation.link(target, strength);
    }
  }
  tokenfold::Workspace workspace;
  tokenfold::ReductionPlan plan;
  tokenfold::PlanWriter writer(layout, plan);
  tokenfold::compress::SizeWeightedMean{}(Sequence(layout, Sizes(sizes)), partition, correlation,
                                          writer, workspace);
  writer.finish(workspace);
  return support::dense_weights(plan).values;
}

TEST(SizeWeightedMean, divides_a_source_among_several_targets) {
  // Source 0 of size 4 gives a quarter to 2 and three to 3; source 1 of size 2 all to 3.
  EXPECT_TRUE(support::close(merged({{{2, 1}, {3, 3}}, {{3, 0.1}}}, {4, 2, 1, 5}),
                             {1 / 2.0, 0, 1 / 2.0, 0,  //
                              3 / 10.0, 2 / 10.0, 0, 5 / 10.0},
                             1e-7));
  // No strength, no merging.
  EXPECT_TRUE(support::close(merged({{{2, 0}, {3, 0}}, {{3, nan}}}, {4, 2, 1, 5}),
                             {0, 0, 1, 0, 0, 0, 0, 1}));
}

// --- the other matchers

TEST(ToMeEveryKth, merges_into_the_last_token_of_each_run) {
  const Outcome thirds = run(patches(9), keys_at({0, 1, 2, 100, 101, 102, 10, 5, 200}),
                             Budget::keep(3), tokenfold::ToMeEveryKth{});
  EXPECT_EQ(thirds.kept, (Rows{2, 5, 8}));
  EXPECT_EQ(thirds.scores, (std::vector<double>{1, 1, 0, 1, 1, 0, 1, 1, 0}));
  EXPECT_TRUE(support::close(thirds.output.values,
                             {(1 + 10 + 100 + 1e6 + 1e7) / 5, (1e3 + 1e4 + 1e5) / 3, 1e8}, 1e-6));
  // Runs as equal as possible, and nothing is lost where they are not.
  const Outcome odd =
      run(patches(7), keys_at({0, 0, 0, 0, 0, 0, 0}), Budget::keep(3), tokenfold::ToMeEveryKth{});
  EXPECT_EQ(odd.kept, (Rows{1, 3, 6}));
  EXPECT_EQ(odd.links.size(), 4u);
}

TEST(ToMeEveryKth, all_none_and_cls) {
  const auto keys = keys_at({0, 30, 60, 90, 120});
  const TokenLayout layout = TokenLayout::encoder({2, 2});
  const tokenfold::ToMeEveryKth method;
  EXPECT_EQ(run(layout, keys, Budget::keep(4), method).kept, (Rows{0, 1, 2, 3, 4}));
  EXPECT_EQ(run(layout, keys, Budget::keep(2), method).kept, (Rows{0, 2, 4}));
  EXPECT_EQ(run(layout, keys, Budget::keep(0), method).kept, (Rows{0}));
  EXPECT_EQ(run(TokenLayout::decoder(1, 0, 4), keys, Budget::keep(0), method).kept,
            (Rows{0, 1, 2, 3, 4}));
}

TEST(ToMeRandom, one_seed_one_choice) {
  const TokenLayout layout = TokenLayout::encoder({4, 4});
  const Tensor<double> keys = Tensor<double>::Ones(17, 2);
  tokenfold::ToMeRandom method;
  // SplitMix64 worked out elsewhere: the choice must be the same on every machine.
  EXPECT_EQ(run(layout, keys, Budget::keep(4), method).kept, (Rows{0, 2, 11, 12, 14}));
  std::set<Rows> choices;
  std::vector<int> times(17, 0);
  for (Index seed = 0; seed < 200; ++seed) {
    method.filter.seed = seed;
    const Outcome o = run(layout, keys, Budget::keep(4), method);
    EXPECT_EQ(o.kept.size(), 5u);
    EXPECT_TRUE(std::is_sorted(o.kept.begin(), o.kept.end()));
    choices.insert(o.kept);
    for (const Index row : o.kept) ++times[static_cast<std::size_t>(row)];
  }
  EXPECT_GT(choices.size(), 150u);
  for (std::size_t row = 1; row < 17; ++row) {  // 50 on average, deviation 6
    EXPECT_GT(times[row], 20);
    EXPECT_LT(times[row], 80);
  }
  EXPECT_EQ(run(layout, keys, Budget::keep(0), method).kept, (Rows{0}));
  EXPECT_EQ(run(layout, keys, Budget::keep(16), method).kept.size(), 17u);
}

// --- against the reference

template <class T>
struct Case {
  TokenLayout layout;
  reference::TomeInput input;
  std::vector<T> keys;
  std::vector<float> sizes;

  Case(Index n, ClsToken cls, Index registers, Random& random)
      : layout(TokenLayout::encoder({1, n}, cls, registers)) {
    const auto p = static_cast<std::size_t>(layout.tokens());
    input.tokens = support::normal_matrix<T>(p, 6, random);
    input.keys = support::normal_heads<T>(3, p, 5, random);
    keys = support::cast<T>(input.keys.values);
    for (std::size_t row = 0; row < p; ++row) {
      input.rows.push_back(row);
      if (layout.ordinal(static_cast<Index>(row)) < 0) input.protected_rows.push_back(row);
      sizes.push_back(static_cast<float>(1 + random.below(4)));
    }
    input.sizes.assign(sizes.begin(), sizes.end());
    input.class_token = layout.cls().has_value();
  }
  auto sequence() const {
    const Index p = layout.tokens();
    return Sequence(layout, Keys(tokenfold::HeadsView<const T>(keys.data(), {3, p, 5}, {p * 5, 5})),
                    Sizes(sizes));
  }
};

/// Would rounding errors change the decisions?
bool is_determined(const reference::TomeInput& input, std::size_t r, Random& random) {
  const reference::TomeResult exact = reference::tome(input, r);
  for (int trial = 0; trial < 3; ++trial) {
    reference::TomeInput other = input;
    other.keys.values = support::perturbed(other.keys.values, 1e-6, random);
    const reference::TomeResult result = reference::tome(other, r);
    if (result.kept != exact.kept || result.merged != exact.merged ||
        result.destinations != exact.destinations) {
      return false;
    }
  }
  return true;
}

template <class T>
void compare_with_reference() {
  Random random(61);
  const double tolerance = std::is_same_v<T, float> ? 1e-5 : 1e-6;
  int compared = 0;
  constexpr int cases = 120;
  for (int i = 0; i < cases; ++i) {
    const Index n = i < 100 ? 1 + random.below(30) : 150 + random.below(200);
    const ClsToken cls = i % 3 == 0   ? ClsToken::first
                         : i % 3 == 1 ? ClsToken::none
                                      : ClsToken::last;
    const Case<T> c(n, cls, random.below(3), random);
    const auto r = static_cast<std::size_t>(random.below(n + 1));
    if (std::is_same_v<T, float> && !is_determined(c.input, r, random)) continue;
    ++compared;
    const reference::TomeResult expected = reference::tome(c.input, r);
    tokenfold::Workspace workspace;
    tokenfold::ReductionPlan plan;
    const ToMe method;
    method.plan(c.sequence(), Budget::discard(static_cast<Index>(r)), workspace, plan);
    ASSERT_EQ(support::indices(plan.kept()), support::indices(expected.kept)) << "case " << i;
    EXPECT_TRUE(
        support::close(support::dense_weights(plan).values, expected.weights.values, tolerance));
    const reference::Matrix output = support::apply<T>(plan, c.input.tokens);
    EXPECT_TRUE(support::close(output.values, expected.output.values, tolerance, 1e-6));
    std::vector<float> sizes(expected.sizes.size());
    plan.sizes(c.sizes, sizes);
    EXPECT_TRUE(support::close({sizes.begin(), sizes.end()}, expected.sizes, 1e-6));
    Tensor<T> back(plan.input_tokens(), static_cast<Index>(output.cols));
    plan.unmerge(support::tensor<T>(expected.output), back);
    EXPECT_TRUE(support::close(std::vector<double>(back.data(), back.data() + back.size()),
                               reference::tome_unmerge(expected, c.input.tokens.rows).values,
                               tolerance));
    for (std::size_t a = 0; a < expected.similarity.size(); ++a) {
      const Index v = c.layout.ordinal(static_cast<Index>(expected.a[a]));
      EXPECT_NEAR(workspace.partition.scores[static_cast<std::size_t>(v)], expected.similarity[a],
                  tolerance);
    }
  }
  EXPECT_GE(compared, cases * 9 / 10);
}

TEST(ToMeReference, float_gives_the_same) { compare_with_reference<float>(); }
TEST(ToMeReference, double_gives_the_same) { compare_with_reference<double>(); }

TEST(ToMeReference, other_splits_give_the_same) {
  Random random(62);
  for (const Index n : {1, 7, 40, 130}) {
    const Case<double> c(n, ClsToken::none, 0, random);
    for (const Index keep : {Index{0}, n / 3, n}) {
      const auto check = [&](const auto& method) {
        const Outcome o =
            support::run<double>(method, c.sequence(), Budget::keep(keep), c.input.tokens);
        reference::Rows sources(o.discarded.begin(), o.discarded.end());
        reference::Rows targets(o.preserved.begin(), o.preserved.end());
        EXPECT_EQ(static_cast<Index>(targets.size()), keep);
        EXPECT_EQ(static_cast<Index>(sources.size()), n - keep);
        const auto expected = reference::tome_with_split(c.input, sources, targets);
        EXPECT_TRUE(support::close(o.weights.values, expected.weights.values, 1e-6));
      };
      check(tokenfold::ToMeEveryKth{});
      check(tokenfold::ToMeRandom{.filter = {.seed = n}, .correlate = {}, .compress = {}});
    }
  }
}

/// The next layer splits what the layer before left, in that order, and weighs by its sizes.
TEST(ToMeReference, layer_after_layer_gives_the_same) {
  Random random(63);
  for (const ClsToken cls : {ClsToken::first, ClsToken::none, ClsToken::last}) {
    Case<double> c(60, cls, 0, random);
    tokenfold::Survivors survivors(c.layout);
    Rows originals(c.input.rows.begin(), c.input.rows.end());
    for (int layer = 0; layer < 4; ++layer) {
      // What the encoder would compute from the current tokens.
      const TokenLayout& layout = survivors.layout();
      c.input.keys = support::normal_heads<double>(3, c.input.rows.size(), 5, random);
      c.keys = c.input.keys.values;
      const Index p = layout.tokens();
      const auto plan = ToMe{}.plan(
          Sequence(layout,
                   Keys(tokenfold::HeadsView<const double>(c.keys.data(), {3, p, 5}, {p * 5, 5})),
                   Sizes(c.sizes)),
          Budget::discard(9));
      const reference::TomeResult expected = reference::tome(c.input, 9);
      ASSERT_EQ(support::indices(plan.kept()), support::indices(expected.kept));
      EXPECT_TRUE(support::close(support::apply<double>(plan, c.input.tokens).values,
                                 expected.output.values, 1e-6));
      std::vector<float> sizes(static_cast<std::size_t>(plan.output_tokens()));
      plan.sizes(c.sizes, sizes);
      EXPECT_TRUE(support::close({sizes.begin(), sizes.end()}, expected.sizes, 1e-6));
      survivors.advance(plan);

      Rows next_originals;
      for (const std::size_t row : expected.kept) next_originals.push_back(originals[row]);
      originals = next_originals;
      EXPECT_EQ(support::indices(survivors.total().kept()), originals);
      c.sizes = sizes;
      c.input.sizes = expected.sizes;
      c.input.tokens = expected.output;
      c.input.rows.resize(expected.kept.size());
      for (std::size_t& row : c.input.protected_rows) {
        row = static_cast<std::size_t>(std::find(expected.kept.begin(), expected.kept.end(), row) -
                                       expected.kept.begin());
      }
    }
    double total = 0;
    for (const float size : c.sizes) total += static_cast<double>(size);
    EXPECT_EQ(total, std::accumulate(c.input.sizes.begin(), c.input.sizes.end(), 0.0));
  }
}

TEST(ToMe, a_warm_call_takes_no_more_memory) {
  Random random(64);
  const Case<float> c(300, ClsToken::first, 0, random);
  tokenfold::Workspace workspace;
  tokenfold::ReductionPlan plan;
  const ToMe method;
  method.plan(c.sequence(), Budget::discard(100), workspace, plan);
  const std::size_t held = workspace.capacity();
  method.plan(c.sequence(), Budget::discard(100), workspace, plan);
  EXPECT_EQ(workspace.capacity(), held);
  // Nothing of size N × N, not even of A × B.
  EXPECT_LT(workspace.peak(), std::size_t{150 * 150 * 4});
}

TEST(ProportionalAttentionBias, is_the_log_of_the_sizes) {
  std::vector<float> bias(3);
  tokenfold::proportional_attention_bias(std::vector<float>{1, 4, 0}, bias);
  EXPECT_EQ(bias[0], 0);
  EXPECT_FLOAT_EQ(bias[1], 1.3862944f);
  EXPECT_EQ(bias[2], -std::numeric_limits<float>::infinity());
  EXPECT_EQ(support::refusal([&] {
              tokenfold::proportional_attention_bias(std::vector<float>{1, 4}, bias);
            }),
            "proportional attention: 3 biases were asked for, but there are 2 sizes");
  EXPECT_EQ(support::refusal([&] {
              tokenfold::proportional_attention_bias(std::vector<float>{1, -4, 0}, bias);
            }),
            "proportional attention: the size of row 1 must not be negative, got -4");
}

}  // namespace
