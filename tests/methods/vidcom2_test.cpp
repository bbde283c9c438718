// SPDX-License-Identifier: Apache-2.0
// VidCom2 on cases worked out by hand, and against the reference.

#include "tokenfold/methods/vidcom2.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "reference/vidcom2.hpp"
#include "support/outcome.hpp"

namespace {

using support::Outcome;
using support::Random;
using support::Tensor;
using tokenfold::Budget;
using tokenfold::Features;
using tokenfold::Grid;
using tokenfold::Index;
using tokenfold::Sequence;
using tokenfold::Span;
using tokenfold::Token;
using tokenfold::TokenLayout;
using tokenfold::VidCom2;
using tokenfold::vidcom2_keep_count;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
using Rows = std::vector<Index>;

template <class T = double>
Outcome vidcom2(const VidCom2& method, const TokenLayout& layout, const reference::Matrix& x,
                const Budget& budget) {
  const Tensor<T> features = support::tensor<T>(x);
  return support::run<T>(method, Sequence(layout, Features(features)), budget, x);
}

VidCom2 with_all_channels(double retention = 0) {
  VidCom2 method;
  method.filter.channels = 1;
  method.filter.retention = retention;
  return method;
}

/// One entry per token: which of two orthogonal directions it has.
reference::Matrix directions(const std::vector<std::size_t>& which) {
  reference::Matrix x(which.size(), 2);
  for (std::size_t i = 0; i < which.size(); ++i) x(i, which[i]) = 1;
  return x;
}

Rows per_frame(const Rows& kept, Index frames, Index cells) {
  Rows counts(static_cast<std::size_t>(frames), 0);
  for (const Index row : kept) ++counts.at(static_cast<std::size_t>(row / cells));
  return counts;
}

double gaussians(double squared) {
  return std::exp(-4 * squared) + std::exp(-2 * squared) + std::exp(-squared) +
         std::exp(-squared / 2) + std::exp(-squared / 4);
}

TEST(VidCom2, scores_of_two_frames_by_hand) {
  // Frame 0: e0 e0; frame 1: e0 e1. The video's centre is (3/4, 1/4), frame 1's (1/2, 1/2).
  const auto x = directions({0, 0, 0, 1});
  const Outcome o = vidcom2(with_all_channels(), TokenLayout::video(2, {1, 2}), x, Budget::keep(2));
  const double near = gaussians(1.0 / 8);  // (1/4)² + (1/4)²
  const double far = gaussians(9.0 / 8);
  EXPECT_TRUE(support::close(
      o.scores,
      {near + gaussians(0), near + gaussians(0), near + gaussians(0.5), far + gaussians(0.5)},
      1e-12));
  // Frame 1 stands out: p = (0, 1) but for 1e-40, so its share is 1/2 · 3/2 and rounds to 2 (half
  // to even: 1.5), frame 0's 1/4 rounds to 0 and is raised to 1; the total loses row 2.
  EXPECT_EQ(o.kept, (Rows{0, 3}));
  EXPECT_EQ(o.discarded, (Rows{1, 2}));
}

TEST(VidCom2, adaptive_budgets_are_the_frames_numbers) {
  const auto x = directions({0, 0, 0, 1});
  const auto layout = TokenLayout::video(2, {1, 2});
  EXPECT_EQ(vidcom2(with_all_channels(0.5), layout, x, Budget::adaptive()).kept, (Rows{0, 2, 3}));
  EXPECT_EQ(vidcom2(with_all_channels(0.25), layout, x, Budget::adaptive()).kept, (Rows{0, 3}));
  EXPECT_EQ(vidcom2(with_all_channels(1), layout, x, Budget::adaptive()).kept, (Rows{0, 2, 3}));
  EXPECT_EQ(support::refusal([&] { vidcom2(with_all_channels(0), layout, x, Budget::adaptive()); }),
            "video uniqueness: an adaptive budget needs retention");
}

TEST(VidCom2, temperature_evens_the_frames_out) {
  // As above with 4 tokens a frame: frame 1 gets 3/4 of them at 0.01, half at a high temperature.
  const auto x = directions({0, 0, 0, 0, 0, 0, 1, 1});
  const auto layout = TokenLayout::video(2, {1, 4});
  VidCom2 method = with_all_channels(0.5);
  EXPECT_EQ(per_frame(vidcom2(method, layout, x, Budget::adaptive()).kept, 2, 4), (Rows{1, 3}));
  method.filter.temperature = 1e6;
  EXPECT_EQ(per_frame(vidcom2(method, layout, x, Budget::adaptive()).kept, 2, 4), (Rows{2, 2}));
}

TEST(VidCom2, retention_and_budget_are_two_things) {
  // Retention 1/4 gives the frames 0.5 → 1 and 1.5 → 2 tokens; the total is then raised to 6 by the
  // lowest scores.
  const auto x = directions({0, 0, 0, 0, 0, 0, 1, 1});
  const auto layout = TokenLayout::video(2, {1, 4});
  const Outcome o = vidcom2(with_all_channels(0.25), layout, x, Budget::keep(6));
  EXPECT_EQ(o.kept, (Rows{0, 1, 4, 5, 6, 7}));
}

TEST(VidCom2, channels_of_lowest_variance_are_compared) {
  // Channel 1 varies most, channel 3 least, channels 0 and 2 equally: the lower of them counts.
  reference::Matrix x(4, 4, {1, 9, 2, 5, 2, -9, 1, 5, 1, 9, 2, 5, 2, -9, 1, 5});
  const Tensor<double> features = support::tensor<double>(x);
  tokenfold::Workspace workspace;
  const Span<bool> usable = workspace.take<bool>(4);
  const Span<bool> low = workspace.take<bool>(4);
  const auto marked = [&](double share) {
    tokenfold::detail::low_variance_channels(tokenfold::MatrixView<const double>(features), share,
                                             usable, low, workspace);
    return std::vector<bool>(low.begin(), low.end());
  };
  EXPECT_EQ(marked(0.5), (std::vector<bool>{true, false, false, true}));
  EXPECT_EQ(marked(0.3), (std::vector<bool>{false, false, false, true}));
  EXPECT_EQ(marked(0), (std::vector<bool>(4, false)));
  EXPECT_EQ(marked(1), (std::vector<bool>(4, true)));
}

TEST(VidCom2, variance_does_not_drown_in_a_large_mean) {
  Tensor<float> x(4, 2);
  x << 10000.5f, 1, 10000.0f, 2, 10000.5f, 3, 10000.0f, 1;
  tokenfold::Workspace workspace;
  const Span<bool> usable = workspace.take<bool>(4);
  const Span<bool> low = workspace.take<bool>(2);
  tokenfold::detail::low_variance_channels(tokenfold::MatrixView<const float>(x), 0.5, usable, low,
                                           workspace);
  EXPECT_TRUE(low[0]);
  EXPECT_FALSE(low[1]);
}

TEST(VidCom2, one_channel_tells_nothing_and_ties_keep_the_earlier) {
  // ⌊1/2⌋ = 0 channels: all tokens are equal.
  const reference::Matrix x(6, 1, {3, 1, 4, 1, 5, 9});
  const Outcome o = vidcom2({}, TokenLayout::video(2, {1, 3}), x, Budget::keep(4));
  EXPECT_EQ(o.scores, std::vector<double>(6, 10.0));
  EXPECT_EQ(o.kept, (Rows{0, 1, 3, 4}));
}

/// Two frames of two tokens; both tokens of frame 1 resemble everything, so that a total of 2 takes
/// frame 1's only token if frames may be emptied.
TEST(VidCom2, the_last_token_of_a_frame_stays_unless_asked_otherwise) {
  const auto x = directions({0, 1, 0, 0});
  const auto layout = TokenLayout::video(2, {1, 2});
  VidCom2 method = with_all_channels(0.5);  // frame budgets 2 and 1
  EXPECT_EQ(vidcom2(method, layout, x, Budget::adaptive()).kept, (Rows{0, 1, 2}));
  EXPECT_EQ(vidcom2(method, layout, x, Budget::keep(2)).kept, (Rows{1, 2}));
  method.filter.may_empty_frames = true;
  EXPECT_EQ(vidcom2(method, layout, x, Budget::keep(2)).kept, (Rows{0, 1}));
}

TEST(VidCom2, fewer_tokens_than_frames_are_the_best_of_the_frames_best) {
  const auto x = directions({0, 0, 0, 1, 0, 0});
  const auto layout = TokenLayout::video(3, {1, 2});
  EXPECT_EQ(vidcom2(with_all_channels(), layout, x, Budget::keep(1)).kept, (Rows{3}));
  EXPECT_EQ(vidcom2(with_all_channels(), layout, x, Budget::keep(0)).kept, Rows{});
}

TEST(VidCom2, keeping_all_is_the_identity) {
  const auto x = directions({0, 1, 0, 0});
  const auto layout = TokenLayout::video(2, {1, 2});
  const Tensor<double> features = support::tensor<double>(x);
  EXPECT_TRUE(VidCom2{}.plan(Sequence(layout, Features(features)), Budget::keep(4)).is_identity());
}

TEST(VidCom2, no_visual_tokens_is_the_identity) {
  const auto layout = TokenLayout::decoder(2, 0, 1);
  const Tensor<double> features(3, 2);
  const Sequence sequence(layout, Features(features));
  EXPECT_TRUE(VidCom2{}.plan(sequence, Budget::keep(0)).is_identity());
  EXPECT_TRUE(tokenfold::vidcom2_released().plan(sequence, Budget::adaptive()).is_identity());
}

TEST(VidCom2, an_image_is_one_frame_with_or_without_a_grid) {
  const auto x = directions({0, 0, 1, 0});
  for (const auto& layout : {TokenLayout::video(1, {2, 2}), TokenLayout::decoder(0, 4, 0)}) {
    EXPECT_EQ(vidcom2(with_all_channels(), layout, x, Budget::keep(1)).kept, (Rows{2}));
  }
}

TEST(VidCom2, zero_rows_have_no_direction) {
  reference::Matrix x = directions({0, 0, 0, 0});
  x(1, 0) = 0;
  const Outcome o = vidcom2(with_all_channels(), TokenLayout::video(1, {2, 2}), x, Budget::keep(1));
  EXPECT_TRUE(support::close(o.scores,
                             {2 * gaussians(1.0 / 16), 2 * gaussians(9.0 / 16),
                              2 * gaussians(1.0 / 16), 2 * gaussians(1.0 / 16)},
                             1e-12));
  EXPECT_EQ(o.kept, (Rows{1}));
}

TEST(VidCom2, tokens_that_are_not_finite_go_first_and_change_nothing_else) {
  // Rows 1, 5 and the whole of frame 2 are not finite; without them there are frames {0, 1} of two.
  const double infinity = std::numeric_limits<double>::infinity();
  reference::Matrix x = directions({0, 0, 0, 0, 1, 0, 0, 0, 0});
  x(1, 0) = nan;
  x(5, 1) = infinity;
  for (const std::size_t i : {6u, 7u, 8u}) x(i, 0) = nan;
  const auto layout = TokenLayout::video(3, {1, 3});
  const auto clean = directions({0, 0, 0, 1});
  const VidCom2 method = with_all_channels(0.5);
  const Outcome expected =
      vidcom2(method, TokenLayout::video(2, {1, 2}), clean, Budget::adaptive());
  const Outcome o = vidcom2(method, layout, x, Budget::adaptive());
  EXPECT_EQ(expected.kept, (Rows{0, 2, 3}));
  EXPECT_EQ(o.kept, (Rows{0, 3, 4}));
  EXPECT_TRUE(
      support::close({o.scores[0], o.scores[2], o.scores[3], o.scores[4]}, expected.scores, 1e-12));
  for (const std::size_t i : {1u, 5u, 6u, 7u, 8u}) EXPECT_TRUE(std::isnan(o.scores[i]));
  // Only when all four others stay do they come, in order.
  EXPECT_EQ(vidcom2(method, layout, x, Budget::keep(6)).kept, (Rows{0, 1, 2, 3, 4, 5}));
}

TEST(VidCom2, nothing_finite_keeps_the_first) {
  reference::Matrix x(4, 2, std::vector<double>(8, nan));
  EXPECT_EQ(vidcom2({}, TokenLayout::video(2, {1, 2}), x, Budget::keep(3)).kept, (Rows{0, 1, 2}));
}

TEST(VidCom2, frames_that_are_gone_do_not_count) {
  // Frame 1 of three lost all its tokens: as a video of the two others.
  tokenfold::LayoutDescription d;
  d.tokens = 4;
  d.visual = {0, 4};
  d.grid = {1, 2};
  d.frames = 3;
  d.cells = {0, 1, 4, 5};
  const auto x = directions({0, 0, 0, 1});
  const VidCom2 method = with_all_channels(0.5);
  const Outcome o = vidcom2(method, TokenLayout(d), x, Budget::adaptive());
  const Outcome expected = vidcom2(method, TokenLayout::video(2, {1, 2}), x, Budget::adaptive());
  EXPECT_EQ(o.kept, expected.kept);
  EXPECT_EQ(o.scores, expected.scores);
}

TEST(VidCom2, bad_options_are_refused) {
  const auto x = directions({0, 1});
  const auto refused = [&](const VidCom2& method) {
    return support::refusal([&] {
      vidcom2(method, TokenLayout::video(1, {1, 2}), x, Budget::keep(1));
    });
  };
  EXPECT_EQ(refused({.filter = {.retention = 1.5}}),
            "video uniqueness: retention must lie in [0, 1], got 1.5");
  EXPECT_EQ(refused({.filter = {.channels = -0.5}}),
            "video uniqueness: channels must lie in [0, 1], got -0.5");
  EXPECT_EQ(refused({.filter = {.temperature = 0}}),
            "video uniqueness: temperature must be positive, got 0");
  EXPECT_NE(refused({.filter = {.temperature = nan}}), "");
}

TEST(VidCom2KeepCount, is_the_floor_in_double_but_one_for_each_frame) {
  EXPECT_EQ(vidcom2_keep_count(4, 36, 1 - 0.45), 79);
  EXPECT_EQ(vidcom2_keep_count(10, 100, 1 - 0.9), 99);
  EXPECT_EQ(vidcom2_keep_count(8, 4, 0.1), 8);
  EXPECT_EQ(vidcom2_keep_count(8, 4, 1), 32);
  EXPECT_NE(support::refusal([] { vidcom2_keep_count(0, 4, 0.5); }), "");
  EXPECT_NE(support::refusal([] { vidcom2_keep_count(2, 4, -0.5); }), "");
}

/// Videos of random shape, some incomplete, rows in any order; whole frames look alike, so that
/// some stand out.
template <class T>
void random_videos_give_what_the_reference_gives(double margin) {
  Random random(23);
  int compared = 0;
  int emptied = 0;
  constexpr int cases = 300;
  for (int trial = 0; trial < cases; ++trial) {
    const Index frames = 1 + random.below(6);
    const Grid grid = {1 + random.below(3), 1 + random.below(5)};
    const auto dim = static_cast<std::size_t>(3 + random.below(12));
    std::vector<Token> cells;
    for (Index cell = 0; cell < frames * grid.cells(); ++cell) {
      const bool needed = cell % grid.cells() == 0;  // the reference wants every frame
      if (trial % 2 == 0 || needed || random.chance(0.7)) cells.push_back(static_cast<Token>(cell));
    }
    if (trial % 3 == 0) random.shuffle(cells);
    const std::size_t n = cells.size();
    const auto common =
        support::normal_matrix<T>(static_cast<std::size_t>(frames) + 1, dim, random);
    reference::Matrix x(n, dim);
    reference::Rows frame_of;
    for (std::size_t i = 0; i < n; ++i) {
      frame_of.push_back(static_cast<std::size_t>(cells[i] / grid.cells()));
      for (std::size_t c = 0; c < dim; ++c) {
        const double value = common(static_cast<std::size_t>(frames), c) +
                             0.5 * common(frame_of[i], c) + 0.5 * random.normal();
        x(i, c) = static_cast<double>(static_cast<T>(value));
      }
    }
    const auto count = static_cast<Index>(n);
    reference::VidCom2Options options;
    options.retention = 0.05 + 0.9 * random.uniform();
    options.keep = static_cast<std::size_t>(random.below(count + 1));
    if (trial % 4 != 0) {  // as an engine would ask
      options.keep = static_cast<std::size_t>(std::min(
          count, std::max(frames, static_cast<Index>(static_cast<double>(n) * options.retention))));
    }
    options.may_empty_frames = random.chance(0.5);
    options.exact_total = random.chance(0.8);
    options.temperature = random.chance(0.5) ? 0.01 : 0.3;

    const auto expected =
        reference::vidcom2(x, frame_of, static_cast<std::size_t>(frames), options);
    // Skipped: cases that rounding may decide. Decisions hang on the order of the scores (one
    // channel, or two tokens, make exact ties), on the channels and on frame budgets; so the
    // reference must say the same when all features are moved a little.
    std::vector<double> ranked = expected.scores;
    std::sort(ranked.begin(), ranked.end());
    bool robust = true;
    for (std::size_t i = 1; i < n; ++i) robust = robust && ranked[i] - ranked[i - 1] > 10 * margin;
    for (int repeat = 0; repeat < 3 && robust; ++repeat) {
      reference::Matrix moved = x;
      moved.values = support::perturbed(x.values, margin, random);
      const auto again =
          reference::vidcom2(moved, frame_of, static_cast<std::size_t>(frames), options);
      robust = again.kept == expected.kept && again.channels == expected.channels;
    }
    if (!robust) continue;
    ++compared;
    emptied += std::count(expected.counts.begin(), expected.counts.end(), std::size_t{0}) > 0;

    tokenfold::LayoutDescription d;
    d.tokens = count;
    d.visual = {0, count};
    d.grid = grid;
    d.frames = frames;
    d.cells = cells;
    const VidCom2 method{.filter = {.retention = options.retention,
                                    .may_empty_frames = options.may_empty_frames,
                                    .temperature = options.temperature}};
    const Budget budget =
        options.exact_total ? Budget::keep(static_cast<Index>(options.keep)) : Budget::adaptive();
    const Outcome o = vidcom2<T>(method, TokenLayout(d), x, budget);
    EXPECT_EQ(o.kept, support::indices(expected.kept)) << "trial " << trial;
    EXPECT_TRUE(support::close(o.scores, expected.scores, 100 * margin)) << "trial " << trial;
  }
  EXPECT_GT(compared, cases / 2);
  EXPECT_GT(emptied, 5);
}

TEST(VidCom2, random_videos_in_double) {
  random_videos_give_what_the_reference_gives<double>(1e-12);
}
TEST(VidCom2, random_videos_in_float) { random_videos_give_what_the_reference_gives<float>(1e-6); }

/// Rows and videos longer than what is added up at a time, separators between the frames, a first
/// row far from the others and one that is not finite.
template <class T>
void wide_videos_give_what_the_reference_gives(double margin) {
  Random random(29);
  for (const std::size_t dim : {31u, 64u, 333u}) {
    constexpr std::size_t frames = 3;
    constexpr std::size_t cells = 25;
    constexpr std::size_t n = frames * cells - 1;
    tokenfold::LayoutDescription d;
    d.tokens = static_cast<Index>(frames * (cells + 1));
    d.visual = {0, d.tokens};
    d.grid = {5, 5};
    d.frames = static_cast<Index>(frames);
    const auto common = support::normal_matrix<T>(frames + 1, dim, random);
    reference::Matrix tokens(frames * (cells + 1), dim);
    reference::Matrix x(n, dim);  // without the separators and the row that is not finite
    reference::Rows frame_of;
    for (std::size_t row = 0; row < tokens.rows; ++row) {
      const std::size_t t = row / (cells + 1);
      const bool separator = row % (cells + 1) == cells;
      d.cells.push_back(separator ? -1 : static_cast<Token>(row - t));
      for (std::size_t c = 0; c < dim; ++c) {
        const double spread = 0.2 + static_cast<double>(c) / static_cast<double>(dim);
        const double value =
            common(frames, c) + 0.5 * common(t, c) + spread * random.normal() * (row == 0 ? 50 : 1);
        tokens(row, c) = static_cast<double>(static_cast<T>(value));
      }
      if (row == 40) {
        tokens(row, dim / 2) = nan;
      } else if (!separator) {
        for (std::size_t c = 0; c < dim; ++c) x(frame_of.size(), c) = tokens(row, c);
        frame_of.push_back(t);
      }
    }
    reference::VidCom2Options options;
    options.retention = 0.4;
    options.keep = 30;
    options.exact_total = true;
    const auto expected = reference::vidcom2(x, frame_of, frames, options);

    const Tensor<T> features = support::tensor<T>(tokens);
    const TokenLayout layout(d);
    const VidCom2 method{.filter = {.retention = options.retention}};
    tokenfold::Workspace workspace;
    tokenfold::ReductionPlan plan;
    method.plan(Sequence(layout, Features(features)), Budget::keep(30), workspace, plan);
    std::vector<double> scores = workspace.partition.scores;
    ASSERT_EQ(scores.size(), n + 1);
    EXPECT_TRUE(std::isnan(scores[39])) << "row 40 follows one separator";
    scores.erase(scores.begin() + 39);
    EXPECT_TRUE(support::close(scores, expected.scores, margin)) << dim << " channels";
  }
}

TEST(VidCom2, wide_videos_in_double) { wide_videos_give_what_the_reference_gives<double>(1e-11); }
TEST(VidCom2, wide_videos_in_float) { wide_videos_give_what_the_reference_gives<float>(1e-5); }
TEST(VidCom2, wide_videos_in_half) { wide_videos_give_what_the_reference_gives<Eigen::half>(1e-5); }
TEST(VidCom2, wide_videos_in_bfloat16) {
  wide_videos_give_what_the_reference_gives<Eigen::bfloat16>(1e-5);
}

TEST(VidCom2, lengths_that_squares_overflow_do_not_matter) {
  Random random(31);
  const reference::Matrix directions = support::normal_matrix<float>(40, 70, random);
  const auto layout = TokenLayout::video(2, {4, 5});
  const auto scores = [&](float length) {
    Tensor<float> x = support::tensor<float>(directions);
    x *= length;
    tokenfold::Workspace workspace;
    tokenfold::ReductionPlan plan;
    VidCom2{}.plan(Sequence(layout, Features(x)), Budget::keep(10), workspace, plan);
    return workspace.partition.scores;
  };
  EXPECT_TRUE(support::close(scores(1e37f), scores(1), 1e-5));
}

}  // namespace
