// SPDX-License-Identifier: Apache-2.0
// Uniform, random and pooled: what methods have to beat.

#include "tokenfold/methods/baselines.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "reference/pooling.hpp"
#include "support/outcome.hpp"
#include "tokenfold/core/survivors.hpp"

namespace {

using support::Outcome;
using support::Random;
using support::Tensor;
using tokenfold::Budget;
using tokenfold::Grid;
using tokenfold::Index;
using tokenfold::LayoutDescription;
using tokenfold::RandomSampling;
using tokenfold::Sequence;
using tokenfold::SpatialPooling;
using tokenfold::Token;
using tokenfold::TokenLayout;
using tokenfold::UniformSampling;

using Rows = std::vector<Index>;

template <class Method>
Rows kept(const Method& method, const TokenLayout& layout, const Budget& budget) {
  return support::indices(method.plan(Sequence(layout), budget).kept());
}

TEST(UniformSampling, samples_stand_at_even_distances) {
  const auto layout = TokenLayout::decoder(0, 9, 0);
  EXPECT_EQ(kept(UniformSampling{}, layout, Budget::keep(3)), (Rows{1, 4, 7}));
  EXPECT_EQ(kept(UniformSampling{}, layout, Budget::keep(1)), (Rows{4}));
  EXPECT_EQ(kept(UniformSampling{}, layout, Budget::keep(2)), (Rows{2, 6}));
  EXPECT_EQ(kept(UniformSampling{}, layout, Budget::keep(0)), Rows{});
}

TEST(UniformSampling, counts_are_exact_and_gaps_differ_by_at_most_one) {
  for (Index n = 0; n <= 40; ++n) {
    const auto layout = TokenLayout::decoder(0, n, 0);
    for (Index keep = 0; keep <= n; ++keep) {
      const auto plan = UniformSampling{}.plan(Sequence(layout), Budget::keep(keep));
      const Rows rows = support::indices(plan.kept());
      ASSERT_EQ(static_cast<Index>(rows.size()), keep);
      EXPECT_TRUE(plan.selects_only());
      EXPECT_EQ(plan.is_identity(), keep == n);
      for (Index k = 0; k < keep; ++k) {
        EXPECT_EQ(rows[static_cast<std::size_t>(k)], (2 * k + 1) * n / (2 * keep));
      }
    }
  }
}

TEST(UniformSampling, other_rows_pass_through_and_cells_do_not_matter) {
  LayoutDescription d;
  d.tokens = 8;
  d.visual = {1, 7};
  d.cells = {5, 4, -1, 3, 2, 1};
  d.grid = {2, 3};
  const TokenLayout layout(d);
  EXPECT_EQ(kept(UniformSampling{}, layout, Budget::keep(1)), (Rows{0, 3, 4, 7}));
}

TEST(RandomSampling, counts_are_exact_ascending_and_repeatable) {
  const auto layout = TokenLayout::decoder(1, 30, 1);
  for (Index keep = 0; keep <= 30; ++keep) {
    const RandomSampling method{.filter = {.seed = keep}};
    const auto plan = method.plan(Sequence(layout), Budget::keep(keep));
    const Rows rows = support::indices(plan.kept());
    EXPECT_EQ(static_cast<Index>(rows.size()), keep + 2);
    EXPECT_TRUE(std::is_sorted(rows.begin(), rows.end()));
    EXPECT_TRUE(plan.selects_only());
    EXPECT_EQ(plan.is_identity(), keep == 30);
    EXPECT_EQ(rows, kept(method, layout, Budget::keep(keep)));
  }
}

TEST(RandomSampling, seeds_give_the_same_sets_on_every_platform) {
  const auto layout = TokenLayout::decoder(0, 20, 0);
  EXPECT_EQ(kept(RandomSampling{}, layout, Budget::keep(5)), (Rows{2, 3, 5, 6, 18}));
  EXPECT_EQ(kept(RandomSampling{.filter = {.seed = 1}}, layout, Budget::keep(5)),
            (Rows{8, 9, 12, 18, 19}));
  EXPECT_EQ(kept(RandomSampling{.filter = {.seed = -1}}, layout, Budget::keep(5)),
            (Rows{1, 6, 8, 11, 17}));
}

TEST(RandomSampling, the_generator_is_splitmix64) {
  // First outputs for the seed 1234567, as published with the algorithm.
  tokenfold::detail::SplitMix64 random(1234567);
  EXPECT_EQ(random.next(), 6457827717110365317u);
  EXPECT_EQ(random.next(), 3203168211198807973u);
  EXPECT_EQ(random.next(), 9817491932198370423u);
}

TEST(RandomSampling, draws_below_a_bound_leave_no_number_out) {
  tokenfold::detail::SplitMix64 random(3);
  std::vector<int> seen(6, 0);
  for (int i = 0; i < 6000; ++i) ++seen.at(random.below(6));
  for (const int count : seen) EXPECT_NEAR(count, 1000, 150);
  EXPECT_EQ(random.below(1), 0u);
  // Two thirds of 2⁶⁴: a plain remainder would draw the first half of them twice as often.
  const std::uint64_t bound = 12297829382473034411u;
  int low = 0;
  for (int i = 0; i < 6000; ++i) low += random.below(bound) < bound / 2 ? 1 : 0;
  EXPECT_NEAR(low, 3000, 200);
}

TEST(RandomSampling, every_subset_is_equally_likely) {
  const auto layout = TokenLayout::decoder(0, 6, 0);
  std::map<Rows, int> seen;
  constexpr int draws = 20000;
  for (Index seed = 0; seed < draws; ++seed) {
    ++seen[kept(RandomSampling{.filter = {.seed = seed}}, layout, Budget::keep(3))];
  }
  EXPECT_EQ(seen.size(), 20u);
  double chi_squared = 0;
  for (const auto& [rows, count] : seen) {
    chi_squared += (count - draws / 20.0) * (count - draws / 20.0) / (draws / 20.0);
  }
  EXPECT_LT(chi_squared, 50) << "19 degrees of freedom: exceeded once in 7000";
}

/// Pools a matrix over `layout`, plan applied.
template <class T = double, class... R>
Outcome pool(const SpatialPooling& method, const TokenLayout& layout, const Budget& budget,
             const reference::Matrix& x, R... resources) {
  return support::run<T>(method, Sequence(layout, resources...), budget, x);
}

reference::Matrix numbered(Index rows) {
  reference::Matrix x(static_cast<std::size_t>(rows), 1);
  for (std::size_t i = 0; i < x.rows; ++i) x(i, 0) = static_cast<double>(i);
  return x;
}

TEST(SpatialPooling, two_by_two_windows_of_an_image) {
  const auto layout = TokenLayout::encoder({2, 4}, tokenfold::ClsToken::first);
  const Outcome o = pool({}, layout, Budget::adaptive(), numbered(9));
  EXPECT_EQ(o.kept, (Rows{0, 1, 3}));
  EXPECT_EQ(o.discarded, (Rows{2, 4, 5, 6, 7, 8}));
  EXPECT_TRUE(support::close(o.output.values, {0, (1 + 2 + 5 + 6) / 4.0, (3 + 4 + 7 + 8) / 4.0}));
  EXPECT_EQ(o.scores, (std::vector<double>{0, 0, 1, 1, 0, 0, 1, 1}));
}

TEST(SpatialPooling, ragged_edges_make_smaller_windows) {
  const Outcome o =
      pool({}, TokenLayout::decoder(0, 9, 0, {3, 3}), Budget::adaptive(), numbered(9));
  EXPECT_EQ(o.kept, (Rows{0, 2, 6, 8}));
  EXPECT_TRUE(support::close(o.output.values, {2, 3.5, 6.5, 8}));
}

TEST(SpatialPooling, frames_have_their_own_windows) {
  const Outcome o = pool({}, TokenLayout::video(2, {1, 3}), Budget::adaptive(), numbered(6));
  EXPECT_EQ(o.kept, (Rows{0, 2, 3, 5}));
  EXPECT_TRUE(support::close(o.output.values, {0.5, 2, 3.5, 5}));
}

TEST(SpatialPooling, the_window_is_an_option) {
  const SpatialPooling method{.filter = {.window = {1, 3}}};
  const Outcome o =
      pool(method, TokenLayout::decoder(0, 8, 0, {2, 4}), Budget::adaptive(), numbered(8));
  EXPECT_EQ(o.kept, (Rows{0, 3, 4, 7}));
  EXPECT_TRUE(support::close(o.output.values, {1, 3, 5, 7}));
}

TEST(SpatialPooling, a_count_makes_even_bands_like_the_grid) {
  // Six windows on 4 x 6: 2 x 3 has the grid's proportions exactly.
  const Outcome o = pool({}, TokenLayout::decoder(0, 24, 0, {4, 6}), Budget::keep(6), numbered(24));
  EXPECT_EQ(o.kept, (Rows{0, 2, 4, 12, 14, 16}));
  EXPECT_TRUE(support::close(o.output.values, {3.5, 5.5, 7.5, 15.5, 17.5, 19.5}));
}

TEST(SpatialPooling, bands_differ_by_at_most_one_row) {
  // Two of five columns: ⌊x · 2 / 5⌋ is 0 0 0 1 1.
  const Outcome o = pool({}, TokenLayout::decoder(0, 5, 0, {1, 5}), Budget::keep(2), numbered(5));
  EXPECT_EQ(o.kept, (Rows{0, 3}));
  EXPECT_TRUE(support::close(o.output.values, {1, 3.5}));
}

TEST(SpatialPooling, equally_distorted_shapes_take_fewer_bands_down) {
  // Two windows on a square: 1 x 2 rather than 2 x 1.
  EXPECT_EQ(kept(SpatialPooling{}, TokenLayout::decoder(0, 16, 0, {4, 4}), Budget::keep(2)),
            (Rows{0, 2}));
  // On a tall grid 2 x 1 is closer.
  EXPECT_EQ(kept(SpatialPooling{}, TokenLayout::decoder(0, 12, 0, {4, 3}), Budget::keep(2)),
            (Rows{0, 6}));
}

TEST(SpatialPooling, counts_without_factors_are_refused) {
  const auto layout = TokenLayout::decoder(0, 24, 0, {4, 6});
  EXPECT_EQ(support::refusal([&] { kept(SpatialPooling{}, layout, Budget::keep(7)); }),
            "grid windows: cannot keep 7: not 1 times a x b windows with a at most 4 and b at most "
            "6");
  const auto video = TokenLayout::video(2, {2, 2});
  EXPECT_NE(support::refusal([&] { kept(SpatialPooling{}, video, Budget::keep(3)); }), "");
  EXPECT_EQ(kept(SpatialPooling{}, video, Budget::keep(4)), (Rows{0, 1, 4, 5}));
}

TEST(SpatialPooling, keeping_all_is_the_identity_and_keeping_none_leaves_none) {
  const auto layout = TokenLayout::decoder(1, 6, 1, {2, 3});
  EXPECT_TRUE(SpatialPooling{}.plan(Sequence(layout), Budget::keep(6)).is_identity());
  EXPECT_EQ(kept(SpatialPooling{}, layout, Budget::keep(0)), (Rows{0, 7}));
  const auto text = TokenLayout::decoder(2, 0, 1);
  EXPECT_TRUE(SpatialPooling{}.plan(Sequence(text), Budget::keep(0)).is_identity());
}

TEST(SpatialPooling, missing_cells_leave_means_of_the_others) {
  // 2 x 4 grid without cells 0, 3 and 7, rows not in cell order.
  LayoutDescription d;
  d.tokens = 5;
  d.visual = {0, 5};
  d.grid = {2, 4};
  d.cells = {6, 1, 5, 2, 4};
  const TokenLayout layout(d);
  const Outcome o = pool({}, layout, Budget::adaptive(), numbered(5));
  EXPECT_EQ(o.kept, (Rows{0, 1}));  // cells 6, 2 and cells 1, 5, 4
  EXPECT_TRUE(support::close(o.output.values, {(0 + 3) / 2.0, (1 + 2 + 4) / 3.0}));
  EXPECT_EQ(pool({}, layout, Budget::keep(2), numbered(5)).kept, (Rows{0, 1}));
  EXPECT_TRUE(SpatialPooling{}.plan(Sequence(layout), Budget::keep(5)).is_identity());
}

TEST(SpatialPooling, a_count_with_an_empty_window_is_refused) {
  LayoutDescription d;
  d.tokens = 4;
  d.visual = {0, 4};
  d.grid = {2, 4};
  d.cells = {0, 1, 4, 5};
  const TokenLayout layout(d);
  EXPECT_EQ(support::refusal([&] { kept(SpatialPooling{}, layout, Budget::keep(2)); }),
            "grid windows: cannot keep 2, because 1 windows have lost all their tokens");
}

TEST(SpatialPooling, tokens_without_a_cell_stay_and_are_counted) {
  const std::vector<Token> cells = {0, 1, 2, 3, -1};
  const auto layout = TokenLayout::decoder(0, cells, 0, {1, 4});
  for (const Budget& budget : {Budget::adaptive(), Budget::keep(3)}) {
    const Outcome o = pool({}, layout, budget, numbered(5));
    EXPECT_EQ(o.kept, (Rows{0, 2, 4}));
    EXPECT_TRUE(support::close(o.output.values, {0.5, 2.5, 4}));
  }
}

TEST(SpatialPooling, pooling_twice_weighs_by_sizes) {
  // 1 x 3 pooled by two, then by three: with sizes, the mean of all three.
  const auto x = numbered(3);
  tokenfold::Survivors survivors(TokenLayout::decoder(0, 3, 0, {1, 3}));
  const auto first = SpatialPooling{}.plan(Sequence(survivors.layout()), Budget::adaptive());
  survivors.advance(first);
  const std::vector<float> sizes = {2, 1};
  const SpatialPooling wide{.filter = {.window = {1, 3}}};
  const Outcome o = pool(wide, survivors.layout(), Budget::adaptive(),
                         support::apply<double>(first, x), tokenfold::Sizes(sizes));
  EXPECT_EQ(o.kept, (Rows{0}));
  EXPECT_NEAR(o.output.values.at(0), 1, 1e-6);
}

TEST(SpatialPooling, with_features_what_is_not_finite_is_left_out) {
  const auto layout = TokenLayout::decoder(0, 4, 0, {1, 4});
  reference::Matrix x = numbered(4);
  x(1, 0) = std::numeric_limits<double>::quiet_NaN();
  const Tensor<double> features = support::tensor<double>(x);
  const Outcome o = pool({}, layout, Budget::adaptive(), x, tokenfold::Features(features));
  EXPECT_TRUE(support::close(o.output.values, {0, 2.5}));
}

TEST(SpatialPooling, bad_windows_and_layouts_are_refused) {
  const auto layout = TokenLayout::decoder(0, 4, 0, {1, 4});
  const SpatialPooling method{.filter = {.window = {0, 2}}};
  EXPECT_EQ(support::refusal([&] { kept(method, layout, Budget::adaptive()); }),
            "grid windows: bad window 0 x 2");
  EXPECT_EQ(support::refusal(
                [&] { kept(SpatialPooling{}, TokenLayout::decoder(0, 4, 0), Budget::adaptive()); }),
            "grid windows: the layout has no patch grid");
}

TEST(SameWindow, scores_that_number_no_windows_are_refused) {
  const auto layout = TokenLayout::decoder(0, 2, 0);
  tokenfold::Workspace workspace;
  tokenfold::Correlation correlation;
  const auto refused = [&](const std::vector<double>& scores) {
    tokenfold::Partition partition;
    partition.preserved = {0, 1};
    partition.scores = scores;
    return support::refusal([&] {
      tokenfold::correlate::SameWindow{}(Sequence(layout), partition, correlation, workspace);
    });
  };
  EXPECT_EQ(refused({0}), "same window: 1 scores for 2 visual tokens");
  EXPECT_EQ(refused({0, 0.5}), "same window: the filter's scores must number windows, got 0.5");
  EXPECT_NE(refused({0, -1}), "");
  EXPECT_NE(refused({0, 1e9}), "");
  EXPECT_NE(refused({0, std::numeric_limits<double>::quiet_NaN()}), "");
}

/// The shape by exhaustive search: the smallest distortion, then the smallest a.
Grid best_shape(Grid grid, Index count) {
  Grid best = {};
  double least = std::numeric_limits<double>::infinity();
  for (Index a = 1; a <= grid.height; ++a) {
    for (Index b = 1; b <= grid.width; ++b) {
      const double distortion = std::abs(
          std::log(static_cast<double>(a * grid.width) / static_cast<double>(b * grid.height)));
      if (a * b == count && distortion < least - 1e-9) {
        least = distortion;
        best = {a, b};
      }
    }
  }
  return best;
}

template <class T>
void random_layouts_give_what_the_reference_gives() {
  Random random(5);
  int counted = 0;
  for (int trial = 0; trial < 200; ++trial) {
    const Index frames = 1 + random.below(3);
    const Grid grid = {1 + random.below(6), 1 + random.below(6)};
    std::vector<Token> cells;
    for (Index cell = 0; cell < frames * grid.cells(); ++cell) {
      if (trial % 2 == 0 || random.chance(0.6)) cells.push_back(static_cast<Token>(cell));
    }
    if (trial % 3 == 0) random.shuffle(cells);
    if (cells.empty()) continue;
    LayoutDescription d;
    d.tokens = static_cast<Index>(cells.size());
    d.visual = {0, d.tokens};
    d.grid = grid;
    d.frames = frames;
    d.cells = cells;
    const TokenLayout layout(d);
    reference::PoolingInput input;
    input.tokens = support::normal_matrix<T>(cells.size(), 3, random);
    for (const Token cell : cells) input.cells.push_back(static_cast<std::size_t>(cell));
    input.height = static_cast<std::size_t>(grid.height);
    input.width = static_cast<std::size_t>(grid.width);

    SpatialPooling method;
    method.filter.window = {1 + random.below(4), 1 + random.below(4)};
    input.down =
        reference::strided(input.height, static_cast<std::size_t>(method.filter.window.height));
    input.across =
        reference::strided(input.width, static_cast<std::size_t>(method.filter.window.width));
    const Outcome windows = pool<T>(method, layout, Budget::adaptive(), input.tokens);
    const auto expected = reference::pool(input);
    EXPECT_EQ(windows.kept, support::indices(expected.kept)) << "trial " << trial;
    EXPECT_TRUE(support::close(windows.output.values, expected.output.values, 1e-5, 1e-6));

    const Index in_frame = 1 + random.below(grid.cells());
    const Grid shape = best_shape(grid, in_frame);
    const Budget budget = Budget::keep(std::min(frames * in_frame, d.tokens));
    if (shape.cells() == 0 || trial % 2 != 0) continue;
    ++counted;
    input.down = reference::even_bands(input.height, static_cast<std::size_t>(shape.height));
    input.across = reference::even_bands(input.width, static_cast<std::size_t>(shape.width));
    const Outcome bands = pool<T>({}, layout, budget, input.tokens);
    const auto expected_bands = reference::pool(input);
    EXPECT_EQ(bands.kept, support::indices(expected_bands.kept)) << "trial " << trial;
    EXPECT_TRUE(support::close(bands.output.values, expected_bands.output.values, 1e-5, 1e-6));
  }
  EXPECT_GT(counted, 50);
}

TEST(SpatialPooling, random_layouts_in_double) {
  random_layouts_give_what_the_reference_gives<double>();
}
TEST(SpatialPooling, random_layouts_in_float) {
  random_layouts_give_what_the_reference_gives<float>();
}

}  // namespace
