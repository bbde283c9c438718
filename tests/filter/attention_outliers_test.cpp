// SPDX-License-Identifier: Apache-2.0

// PruMerge's filter on [CLS] rows small enough to work out by hand.

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <set>
#include <tokenfold/tokenfold.hpp>
#include <vector>

#include "support/outcome.hpp"

namespace {

using support::Tensor;
using tokenfold::Budget;
using tokenfold::Index;
using tokenfold::Partition;
using tokenfold::TokenLayout;
using tokenfold::TokenOrder;
using tokenfold::filter::AttentionOutliers;
using tokenfold::filter::OutlierCount;
using tokenfold::filter::RasterSamples;

using Rows = std::vector<tokenfold::Token>;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

// Patches are rows 0 … n − 1, [CLS] is the last row.
Partition filtered(const AttentionOutliers& filter, const std::vector<double>& a,
                   Budget budget = Budget::adaptive()) {
  const Index n = static_cast<Index>(a.size());
  const TokenLayout layout = TokenLayout::encoder({1, n}, tokenfold::ClsToken::last);
  Tensor<double> row(1, n + 1);
  std::copy(a.begin(), a.end(), row.data());
  row(0, n) = 0.25;
  Partition partition;
  tokenfold::Workspace workspace;
  filter(tokenfold::Sequence(layout, tokenfold::head_mean_attention(row, {.first_query = n})),
         budget, partition, workspace);
  return partition;
}

// The first `outliers` patches far above the others, all scores falling.
std::vector<double> falling(Index n, Index outliers) {
  std::vector<double> a;
  for (Index i = 0; i < n; ++i) {
    a.push_back(static_cast<double>(i < outliers ? 1000000 - i : n - i));
  }
  return a;
}

TEST(AttentionOutliers, keeps_what_lies_above_the_upper_fence) {
  // Sorted 1 2 3 4 100: Q1 = 2, Q3 = 4, fence 4 + 1.5 · 2 = 7.
  const Partition p = filtered({}, {3, 100, 1, 4, 2});
  EXPECT_EQ(p.preserved, (Rows{1}));
  EXPECT_EQ(p.discarded, (Rows{0, 2, 3, 4}));
  EXPECT_EQ(p.scores, (std::vector<double>{3, 100, 1, 4, 2}));
}

TEST(AttentionOutliers, the_fence_is_strict) {
  // Sorted 1 2 3 4 x: the fence is 7 as long as x ≥ 4.
  EXPECT_EQ(filtered({.min_tokens = 0}, {1, 2, 3, 4, 7}).preserved, Rows{});
  EXPECT_EQ(filtered({.min_tokens = 0}, {1, 2, 3, 4, 7.001}).preserved, (Rows{4}));
}

TEST(AttentionOutliers, quartiles_interpolate_linearly) {
  // Sorted 1 2 3 x: Q1 = 1.75, Q3 = 3 + 0.25 (x − 3); with fence factor 0 the fence is Q3.
  EXPECT_EQ(filtered({.fence = 0, .min_tokens = 0}, {1, 2, 3, 11}).preserved, (Rows{3}));
  // Sorted 0 0 4 4 4: Q1 = 0, Q3 = 4, fence 4 + 0.
  EXPECT_EQ(filtered({.fence = 0, .min_tokens = 0}, {0, 0, 4, 4, 4}).preserved, Rows{});
}

TEST(AttentionOutliers, flat_attention_falls_back_to_min_tokens) {
  const std::vector<double> flat(6, 0.1);
  EXPECT_EQ(filtered({}, flat).preserved, (Rows{0}));
  EXPECT_EQ(filtered({.min_tokens = 3}, flat).preserved, (Rows{0, 1, 2}));
  EXPECT_EQ(filtered({.min_tokens = 0}, flat).preserved, Rows{});
  EXPECT_EQ(filtered({.min_tokens = 99}, flat).preserved, (Rows{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(filtered({}, {0.3}).preserved, (Rows{0}));
}

TEST(AttentionOutliers, attention_order_is_by_falling_score) {
  const AttentionOutliers filter = {.order = TokenOrder::score, .min_tokens = 3};
  EXPECT_EQ(filtered(filter, {1, 5, 2, 5, 3}).preserved, (Rows{1, 3, 4}));
  EXPECT_EQ(filtered({.min_tokens = 3}, {3, 5, 2, 5, 1}).preserved, (Rows{0, 1, 3}));
}

TEST(AttentionOutliers, truncated_counts_lose_one_for_some_n) {
  // int(98 · (4 / 98.0)) = 3, int(144 · (18 / 144.0)) = 18.
  const AttentionOutliers truncated = {.count = OutlierCount::truncated};
  EXPECT_EQ(filtered(truncated, falling(98, 4)).preserved.size(), 3u);
  EXPECT_EQ(filtered({}, falling(98, 4)).preserved.size(), 4u);
  EXPECT_EQ(filtered(truncated, falling(144, 18)).preserved.size(), 18u);
}

TEST(AttentionOutliers, released_samples_are_three_for_every_outlier_without_the_last_patch) {
  // n = 24, 2 outliers (patches 0 and 1): step 12, s = 4, samples 0 4 8 … 20.
  EXPECT_EQ(filtered({.samples = RasterSamples::triple}, falling(24, 2)).preserved,
            (Rows{0, 1, 4, 8, 12, 16, 20}));
  EXPECT_EQ(filtered({.samples = RasterSamples::once}, falling(24, 2)).preserved, (Rows{0, 1, 12}));
  // Samples stand after the outliers in the release's order.
  std::vector<double> a = falling(24, 2);
  std::reverse(a.begin(), a.end());
  EXPECT_EQ(filtered({.samples = RasterSamples::once, .order = TokenOrder::score}, a).preserved,
            (Rows{23, 22, 0, 12}));
  // A step of 1 draws all but the last patch, which the release never draws.
  EXPECT_EQ(filtered({.samples = RasterSamples::triple, .min_tokens = 5}, falling(10, 2)).discarded,
            (Rows{9}));
}

TEST(AttentionOutliers, the_cap_thins_samples_before_it_gives_up_outliers) {
  const std::vector<double> a = falling(40, 4);
  for (const RasterSamples samples :
       {RasterSamples::none, RasterSamples::once, RasterSamples::triple}) {
    for (Index cap = 1; cap <= 45; ++cap) {
      const Partition p = filtered({.samples = samples, .max_tokens = cap}, a);
      EXPECT_LE(static_cast<Index>(p.preserved.size()), cap);
      EXPECT_EQ(p.preserved.size() + p.discarded.size(), 40u);
      for (tokenfold::Token outlier = 0; outlier < std::min<Index>(cap, 4); ++outlier) {
        EXPECT_EQ(p.preserved[static_cast<std::size_t>(outlier)], outlier);
      }
      EXPECT_TRUE(std::is_sorted(p.preserved.begin(), p.preserved.end()));
    }
  }
}

TEST(AttentionOutliers, a_budget_is_met_exactly_with_and_without_samples) {
  const std::vector<double> a = {5, 1, 9, 2, 8, 3, 7, 4, 6, 0, 11, 10};
  for (const RasterSamples samples :
       {RasterSamples::none, RasterSamples::once, RasterSamples::triple}) {
    for (const TokenOrder order : {TokenOrder::raster, TokenOrder::score}) {
      for (Index keep = 0; keep <= 12; ++keep) {
        const Partition p = filtered({.samples = samples, .order = order}, a, Budget::keep(keep));
        EXPECT_EQ(static_cast<Index>(p.preserved.size()), keep);
        std::set<tokenfold::Token> distinct(p.preserved.begin(), p.preserved.end());
        distinct.insert(p.discarded.begin(), p.discarded.end());
        EXPECT_EQ(distinct.size(), 12u);
        EXPECT_EQ(p.preserved.size() + p.discarded.size(), 12u);
        EXPECT_TRUE(std::is_sorted(p.discarded.begin(), p.discarded.end()));
        EXPECT_TRUE(order == TokenOrder::score ||
                    std::is_sorted(p.preserved.begin(), p.preserved.end()));
      }
    }
  }
  EXPECT_EQ(filtered({.order = TokenOrder::score}, a, Budget::keep(4)).preserved,
            (Rows{10, 11, 2, 4}));
  // keep = 8 with triple: two by attention (10, 11), six of the ten others, (2d + 1) · 10 / 12 = 0
  // 2 4 5 7 9.
  EXPECT_EQ(filtered({.samples = RasterSamples::triple}, a, Budget::keep(8)).preserved,
            (Rows{0, 2, 4, 5, 7, 9, 10, 11}));
}

TEST(AttentionOutliers, the_released_share_keeps_duplicates_and_loses_the_lowest_others) {
  // n = 8, share 1/4: the top 2 (patches 6 and 2), samples 2 and 6 from int(4 / 2) in steps of 4:
  // both twice.
  const std::vector<double> a = {0, 1, 8, 2, 3, 4, 9, 5};
  const AttentionOutliers filter = {.order = TokenOrder::score, .released_share = 0.25};
  const Partition p = filtered(filter, a);
  EXPECT_EQ(p.preserved, (Rows{6, 2, 2, 6}));
  EXPECT_EQ(p.discarded, (Rows{3, 4, 5, 7}));  // 0 and 1 are lost
}

TEST(AttentionOutliers, scores_that_are_not_finite_come_last_and_do_not_move_the_fence) {
  const Partition p = filtered({}, {3, nan, 100, infinity, 1, -infinity, 4, 2});
  EXPECT_EQ(p.preserved, (Rows{2}));
  EXPECT_EQ(filtered({}, {3, nan, 100, infinity}, Budget::keep(2)).preserved, (Rows{0, 2}));
  EXPECT_EQ(filtered({}, {nan, 1, infinity}, Budget::keep(2)).preserved, (Rows{0, 1}));
  EXPECT_EQ(filtered({}, {nan, nan, nan}).preserved, (Rows{0}));
}

}  // namespace
