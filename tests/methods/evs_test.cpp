// SPDX-License-Identifier: Apache-2.0
// EVS on cases worked out by hand, and against the reference.

#include "tokenfold/methods/evs.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "reference/evs.hpp"
#include "support/outcome.hpp"
#include "tokenfold/core/survivors.hpp"

namespace {

using support::Outcome;
using support::Random;
using support::Tensor;
using tokenfold::Budget;
using tokenfold::EVS;
using tokenfold::evs_keep_count;
using tokenfold::Features;
using tokenfold::Grid;
using tokenfold::Index;
using tokenfold::Sequence;
using tokenfold::Token;
using tokenfold::TokenLayout;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
using Rows = std::vector<Index>;

/// Unit vectors in the plane at these angles, in degrees: cos(x_i, x_j) = cos(angle_i − angle_j).
reference::Matrix at_angles(const std::vector<double>& degrees) {
  reference::Matrix x(degrees.size(), 2);
  for (std::size_t i = 0; i < degrees.size(); ++i) {
    const double angle = degrees[i] * 3.14159265358979323846 / 180;
    x(i, 0) = std::cos(angle);
    x(i, 1) = std::sin(angle);
  }
  return x;
}

Outcome evs(const TokenLayout& layout, const reference::Matrix& x, Index keep) {
  const Tensor<double> features = support::tensor<double>(x);
  return support::run<double>(EVS{}, Sequence(layout, Features(features)), Budget::keep(keep), x);
}

TokenLayout incomplete_video(Index frames, Grid grid, const std::vector<Token>& cells) {
  tokenfold::LayoutDescription d;
  d.tokens = static_cast<Index>(cells.size());
  d.visual = {0, d.tokens};
  d.grid = grid;
  d.frames = frames;
  d.cells = cells;
  return TokenLayout(d);
}

TEST(EVS, keeps_the_first_frame_and_what_changes_most) {
  // Three frames of two cells: cell 0 turns by 60 then 0 degrees, cell 1 by 10 then 90.
  const auto x = at_angles({0, 0, 60, 10, 60, 100});
  const auto layout = TokenLayout::video(3, {1, 2});
  const Outcome o = evs(layout, x, 4);
  EXPECT_TRUE(support::close(
      o.scores, {255, 255, 0.5, 1 - std::cos(3.14159265358979323846 / 18), 0, 1}, 1e-12, 1e-15));
  EXPECT_EQ(o.kept, (Rows{0, 1, 2, 5}));
  EXPECT_EQ(o.discarded, (Rows{3, 4}));
  EXPECT_TRUE(support::close(
      o.output.values, {x(0, 0), x(0, 1), x(1, 0), x(1, 1), x(2, 0), x(2, 1), x(5, 0), x(5, 1)}, 0,
      0));
}

TEST(EVS, length_does_not_matter) {
  auto x = at_angles({0, 0, 60, 10});
  for (const std::size_t c : {0u, 1u}) {
    x(2, c) *= 7;
    x(1, c) *= 1e-3;
  }
  EXPECT_NEAR(evs(TokenLayout::video(2, {2, 1}), x, 3).scores[2], 0.5, 1e-12);
}

TEST(EVS, ties_go_to_the_earlier_token) {
  const auto x = at_angles({0, 0, 0, 30, 30, 30, 60, 60, 60});
  EXPECT_EQ(evs(TokenLayout::video(3, {1, 3}), x, 5).kept, (Rows{0, 1, 2, 3, 4}));
}

TEST(EVS, a_static_video_keeps_its_first_frame) {
  const auto x = at_angles({0, 45, 0, 45, 0, 45});
  EXPECT_EQ(evs(TokenLayout::video(3, {1, 2}), x, 2).kept, (Rows{0, 1}));
}

TEST(EVS, a_budget_below_the_first_frame_is_refused_but_for_none) {
  const auto x = at_angles({0, 0, 0, 30, 30, 30});
  const auto layout = TokenLayout::video(2, {1, 3});
  EXPECT_EQ(support::refusal([&] { evs(layout, x, 2); }),
            "frame dissimilarity: the first frame's 3 tokens are always preserved, cannot keep 2; "
            "evs_keep_count() takes care of it");
  EXPECT_EQ(evs(layout, x, 0).kept, Rows{});
  EXPECT_EQ(evs(layout, x, 3).kept, (Rows{0, 1, 2}));
}

TEST(EVS, an_image_is_a_first_frame) {
  const auto x = at_angles({0, 10, 20});
  EXPECT_EQ(evs(TokenLayout::video(1, {1, 3}), x, 3).kept, (Rows{0, 1, 2}));
  EXPECT_EQ(evs(TokenLayout::decoder(0, 3, 0), x, 3).scores, (std::vector<double>{255, 255, 255}));
  EXPECT_NE(support::refusal([&] { evs(TokenLayout::decoder(0, 3, 0), x, 2); }), "");
}

TEST(EVS, keeping_all_is_the_identity) {
  const auto x = at_angles({0, 0, 60, 10});
  const auto layout = TokenLayout::video(2, {1, 2});
  const Tensor<double> features = support::tensor<double>(x);
  EXPECT_TRUE(EVS{}.plan(Sequence(layout, Features(features)), Budget::keep(4)).is_identity());
}

TEST(EVS, no_visual_tokens_is_the_identity) {
  const auto layout = TokenLayout::decoder(2, 0, 1);
  const Tensor<double> features(3, 2);
  EXPECT_TRUE(EVS{}.plan(Sequence(layout, Features(features)), Budget::keep(0)).is_identity());
}

TEST(EVS, where_the_previous_frame_lost_the_cell_the_latest_one_counts) {
  // One cell over four frames; frame 2 is gone, so frame 3 is compared with frame 1.
  const auto layout = incomplete_video(4, {1, 1}, {0, 1, 3});
  const Outcome o = evs(layout, at_angles({0, 90, 150}), 2);
  EXPECT_TRUE(support::close(o.scores, {255, 1, 0.5}, 1e-12));
  EXPECT_EQ(o.kept, (Rows{0, 1}));
}

TEST(EVS, a_cell_that_no_earlier_frame_has_is_new) {
  // Two cells; frame 0 has only cell 0, frame 1 both, frame 2 only cell 1.
  const auto layout = incomplete_video(3, {1, 2}, {0, 2, 3, 5});
  const auto x = at_angles({0, 60, 0, 90});
  const Outcome o = evs(layout, x, 3);
  EXPECT_TRUE(support::close(o.scores, {255, 0.5, 255, 1}, 1e-12));
  EXPECT_EQ(o.kept, (Rows{0, 2, 3}));
  EXPECT_NE(support::refusal([&] { evs(layout, x, 1); }), "");
}

TEST(EVS, a_token_without_a_cell_is_new) {
  const std::vector<Token> cells = {0, -1};
  const auto layout = TokenLayout::decoder(0, cells, 0, {1, 1});
  EXPECT_EQ(evs(layout, at_angles({0, 0}), 2).scores, (std::vector<double>{255, 255}));
}

TEST(EVS, rows_may_come_in_any_order) {
  // The second frame stands first.
  const auto layout = incomplete_video(2, {1, 2}, {2, 3, 0, 1});
  const Outcome o = evs(layout, at_angles({90, 10, 0, 0}), 3);
  EXPECT_EQ(o.kept, (Rows{0, 2, 3}));
  EXPECT_NEAR(o.scores[0], 1, 1e-12);
}

TEST(EVS, a_second_step_goes_on_with_the_survivors) {
  const auto x = at_angles({0, 0, 5, 60, 60, 60});
  tokenfold::Survivors survivors(TokenLayout::video(3, {1, 2}));
  const Tensor<double> features = support::tensor<double>(x);
  const auto first = EVS{}.plan(Sequence(survivors.layout(), Features(features)), Budget::keep(4));
  EXPECT_EQ(support::indices(first.kept()), (Rows{0, 1, 3, 4}));
  survivors.advance(first);
  const Tensor<double> left = support::tensor<double>(support::apply<double>(first, x));
  const auto second = EVS{}.plan(Sequence(survivors.layout(), Features(left)), Budget::keep(3));
  // Cells 0, 1, then frame 1 cell 1 (60 degrees from 0) and frame 2 cell 0 (60 from frame 0).
  EXPECT_EQ(support::indices(second.kept()), (Rows{0, 1, 2}));
}

TEST(EVS, zero_rows_are_like_nothing) {
  auto x = at_angles({0, 0, 0, 0, 0, 0});
  x(2, 0) = 0;  // frame 1, cell 0
  const Outcome o = evs(TokenLayout::video(3, {1, 2}), x, 4);
  EXPECT_TRUE(support::close(o.scores, {255, 255, 1, 0, 1, 0}, 1e-12, 1e-15));
  EXPECT_EQ(o.kept, (Rows{0, 1, 2, 4}));
}

TEST(EVS, tokens_that_are_not_finite_go_first_and_are_compared_with_by_nobody) {
  auto x = at_angles({0, 0, 0, 0, 60, 0});
  x(0, 0) = nan;                                      // so row 2 is the first of its cell
  x(3, 1) = std::numeric_limits<double>::infinity();  // so row 5 is compared with row 1
  const Outcome o = evs(TokenLayout::video(3, {1, 2}), x, 4);
  EXPECT_TRUE(std::isnan(o.scores[0]));
  EXPECT_TRUE(std::isnan(o.scores[3]));
  EXPECT_EQ(o.scores[2], 255);
  EXPECT_NEAR(o.scores[4], 0.5, 1e-12);
  EXPECT_NEAR(o.scores[5], 0, 1e-12);
  EXPECT_EQ(o.kept, (Rows{1, 2, 4, 5}));
}

TEST(EVS, large_finite_features_do_not_overflow) {
  const auto layout = TokenLayout::video(2, {1, 2});
  Tensor<float> x(4, 2);
  x << 1e30f, 0, 0, 1e30f, 1e30f, 1e30f, 0, 2e30f;
  tokenfold::Workspace workspace;
  tokenfold::ReductionPlan plan;
  EVS{}.plan(Sequence(layout, Features(x)), Budget::keep(3), workspace, plan);
  EXPECT_EQ(support::indices(plan.kept()), (Rows{0, 1, 2}));
  EXPECT_NEAR(workspace.partition.scores[2], 1 - std::sqrt(0.5), 1e-6);
}

TEST(EVS, features_may_begin_at_the_video) {
  tokenfold::LayoutDescription d;
  d.tokens = 7;
  d.visual = {2, 6};
  d.grid = {1, 2};
  d.frames = 2;
  d.text_before = {0, 2};
  d.text_after = {6, 7};
  const TokenLayout layout(d);
  const Tensor<double> features = support::tensor<double>(at_angles({0, 0, 10, 60}));
  const auto plan = EVS{}.plan(Sequence(layout, Features(features, 2)), Budget::keep(3));
  EXPECT_EQ(support::indices(plan.kept()), (Rows{0, 1, 2, 3, 5, 6}));
  EXPECT_NE(
      support::refusal([&] { EVS{}.plan(Sequence(layout, Features(features)), Budget::keep(3)); }),
      "");
}

TEST(EVS, an_adaptive_budget_is_refused) {
  const auto layout = TokenLayout::video(2, {1, 1});
  const Tensor<double> x = Tensor<double>::Ones(2, 2);
  EXPECT_NE(
      support::refusal([&] { EVS{}.plan(Sequence(layout, Features(x)), Budget::adaptive()); }), "");
}

TEST(EVSKeepCount, is_the_floor_in_double_but_at_least_a_frame) {
  EXPECT_EQ(evs_keep_count(10, 100, 0.9), 99 + 1) << "the first frame";
  EXPECT_EQ(evs_keep_count(20, 50, 0.9), 99) << "1000 * (1 - 0.9) lies below 100";
  EXPECT_EQ(evs_keep_count(4, 36, 0.5), 72);
  EXPECT_EQ(evs_keep_count(3, 35, 0.9), 35);
  EXPECT_EQ(evs_keep_count(3, 35, 0), 105);
  EXPECT_EQ(evs_keep_count(3, 35, 1), 35);
  EXPECT_NE(support::refusal([] { evs_keep_count(0, 35, 0.5); }), "");
  EXPECT_NE(support::refusal([] { evs_keep_count(3, 35, 1.1); }), "");
  EXPECT_NE(support::refusal([] { evs_keep_count(3, 35, nan); }), "");
}

/// Videos of random shape, some incomplete, in any row order, some with rows that are zero or not
/// finite; consecutive frames are alike.
template <class T>
void random_videos_give_what_the_reference_gives(double margin) {
  Random random(11);
  int compared = 0;
  constexpr int cases = 200;
  for (int trial = 0; trial < cases; ++trial) {
    const Index frames = 1 + random.below(6);
    const Grid grid = {1 + random.below(4), 1 + random.below(5)};
    const auto dim = static_cast<std::size_t>(1 + random.below(9));
    std::vector<Token> cells;
    for (Index cell = 0; cell < frames * grid.cells(); ++cell) {
      if (trial % 2 == 0 || random.chance(0.7)) cells.push_back(static_cast<Token>(cell));
    }
    if (trial % 3 == 0) random.shuffle(cells);
    if (cells.empty()) continue;
    const std::size_t n = cells.size();
    const auto base =
        support::normal_matrix<T>(static_cast<std::size_t>(grid.cells()), dim, random);
    reference::Matrix x(n, dim);
    std::vector<reference::Place> places;
    std::vector<bool> seen(static_cast<std::size_t>(grid.cells()), false);
    Index new_tokens = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const auto cell = static_cast<std::size_t>(cells[i] % grid.cells());
      places.push_back({static_cast<std::size_t>(cells[i] / grid.cells()), cell});
      new_tokens += seen[cell] ? 0 : 1;
      seen[cell] = true;
      const bool zero = random.chance(0.03);
      for (std::size_t c = 0; c < dim; ++c) {
        x(i, c) = zero ? 0 : static_cast<double>(static_cast<T>(base(cell, c) + random.normal()));
      }
      if (trial % 5 == 0 && random.chance(0.05)) x(i, 0) = nan;
    }
    const auto count = static_cast<Index>(n);
    const Index keep = new_tokens + random.below(count - new_tokens + 1);
    const auto expected = reference::evs(x, places, static_cast<std::size_t>(keep));
    // The gap between the last kept and the first dropped score, unless the scores are no
    // cosines: those of new tokens, of zero rows and of rows that are not finite are exact.
    std::vector<double> ranked;
    for (const double s : expected.scores) ranked.push_back(std::isnan(s) ? -10 : s);
    std::sort(ranked.rbegin(), ranked.rend());
    if (keep > 0 && keep < count) {
      const double above = ranked[static_cast<std::size_t>(keep - 1)];
      const double below = ranked[static_cast<std::size_t>(keep)];
      const bool exact = above == below && (above == 255 || above == 1 || above == -10);
      if (!exact && above - below < margin) continue;
    }
    ++compared;
    const auto layout = incomplete_video(frames, grid, cells);
    const Tensor<T> features = support::tensor<T>(x);
    const Outcome o =
        support::run<T>(EVS{}, Sequence(layout, Features(features)), Budget::keep(keep), x);
    EXPECT_EQ(o.kept, support::indices(expected.kept)) << "trial " << trial;
    EXPECT_TRUE(support::close(o.scores, expected.scores, margin, 0, margin)) << "trial " << trial;
  }
  EXPECT_GT(compared, cases * 3 / 4);
}

TEST(EVS, random_videos_in_double) { random_videos_give_what_the_reference_gives<double>(1e-12); }
TEST(EVS, random_videos_in_float) { random_videos_give_what_the_reference_gives<float>(2e-6); }

TEST(EVS, half_and_bfloat16_are_read) {
  const auto layout = TokenLayout::video(2, {1, 2});
  const auto x = at_angles({0, 0, 60, 5});
  const Tensor<Eigen::half> half = support::tensor<Eigen::half>(x);
  const Tensor<Eigen::bfloat16> brain = support::tensor<Eigen::bfloat16>(x);
  EXPECT_EQ(support::indices(EVS{}.plan(Sequence(layout, Features(half)), Budget::keep(3)).kept()),
            (Rows{0, 1, 2}));
  EXPECT_EQ(support::indices(EVS{}.plan(Sequence(layout, Features(brain)), Budget::keep(3)).kept()),
            (Rows{0, 1, 2}));
}

/// Rows longer than what is read at a time, in a sequence with separators between the frames.
template <class T>
void wide_rows_give_what_the_reference_gives(double margin) {
  Random random(12);
  for (const std::size_t dim : {31u, 32u, 65u, 512u, 1123u}) {
    const reference::Matrix tokens = support::normal_matrix<T>(15, dim, random);
    std::vector<Token> cells;
    reference::Matrix x(12, dim);
    for (std::size_t row = 0; row < 15; ++row) {
      const std::size_t frame = row / 5;
      const bool separator = row % 5 == 4;
      cells.push_back(separator ? -1 : static_cast<Token>(row - frame));
      for (std::size_t c = 0; c < dim && !separator; ++c) x(row - frame, c) = tokens(row, c);
    }
    const auto layout = incomplete_video(3, {2, 2}, cells);
    const auto expected = reference::evs(x, reference::all_places(3, 4), 6);
    const Tensor<T> features = support::tensor<T>(tokens);
    tokenfold::Workspace workspace;
    tokenfold::ReductionPlan plan;
    EVS{}.plan(Sequence(layout, Features(features)), Budget::keep(6), workspace, plan);
    EXPECT_TRUE(support::close(workspace.partition.scores, expected.scores, margin, 0, margin))
        << dim << " channels";
  }
}

TEST(EVS, wide_rows_in_double) { wide_rows_give_what_the_reference_gives<double>(1e-12); }
TEST(EVS, wide_rows_in_float) { wide_rows_give_what_the_reference_gives<float>(1e-6); }
TEST(EVS, wide_rows_in_half) { wide_rows_give_what_the_reference_gives<Eigen::half>(1e-6); }
TEST(EVS, wide_rows_in_bfloat16) { wide_rows_give_what_the_reference_gives<Eigen::bfloat16>(1e-6); }

TEST(EVS, equal_rows_differ_by_exactly_nothing) {
  Random random(13);
  const auto layout = TokenLayout::video(2, {1, 20});
  Tensor<float> x = support::tensor<float>(support::normal_matrix<float>(40, 77, random));
  x.bottomRows(20) = x.topRows(20);
  tokenfold::Workspace workspace;
  tokenfold::ReductionPlan plan;
  EVS{}.plan(Sequence(layout, Features(x)), Budget::keep(30), workspace, plan);
  for (Index v = 20; v < 40; ++v) EXPECT_EQ(workspace.partition.scores[std::size_t(v)], 0);
  EXPECT_EQ(plan.kept()[29], 29);
}

TEST(EVS, lengths_that_squares_overflow_or_underflow_do_not_matter) {
  // One cell, frames at 0, 60, 60, 90, 150 degrees and of any length.
  const reference::Matrix angles = at_angles({0, 60, 60, 90, 150});
  const std::vector<double> lengths = {1e30, 1e-30, 1, 1e-25, 1e22};
  Tensor<float> x(5, 2);
  for (Index i = 0; i < 5; ++i) {
    for (Index c = 0; c < 2; ++c) {
      const auto row = static_cast<std::size_t>(i);
      x(i, c) = static_cast<float>(angles(row, static_cast<std::size_t>(c)) * lengths[row]);
    }
  }
  const auto layout = TokenLayout::video(5, {1, 1});
  tokenfold::Workspace workspace;
  tokenfold::ReductionPlan plan;
  EVS{}.plan(Sequence(layout, Features(x)), Budget::keep(3), workspace, plan);
  EXPECT_TRUE(support::close(workspace.partition.scores, {255, 0.5, 0, 1 - std::sqrt(0.75), 0.5},
                             1e-6, 0, 1e-7));
}

}  // namespace
