// SPDX-License-Identifier: Apache-2.0
#include "tokenfold/core/select.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "core/support.hpp"

namespace {

using core_test::Numbers;
using core_test::numbers;
using tokenfold::Index;
using tokenfold::Partition;
using tokenfold::Range;
using tokenfold::TokenLayout;
using tokenfold::Workspace;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double inf = std::numeric_limits<double>::infinity();

Partition select(const std::vector<double>& scores, Index count, Index text_before = 0) {
  const auto layout = TokenLayout::decoder(text_before, static_cast<Index>(scores.size()), 2);
  Workspace workspace;
  Partition partition;
  partition.scores = scores;
  tokenfold::discard_highest(layout, count, partition, workspace);
  return partition;
}

TEST(SelectTest, highest_scores_are_discarded_and_both_lists_ascend) {
  const Partition p = select({0.1, 5, -2, 3, 0.5}, 2, 10);
  EXPECT_EQ(numbers(p.discarded), (Numbers{11, 13}));
  EXPECT_EQ(numbers(p.preserved), (Numbers{10, 12, 14}));
}

TEST(SelectTest, ties_discard_the_lower_row_first) {
  const Partition p = select({1, 2, 1, 2, 1, 2, 2}, 3);
  EXPECT_EQ(numbers(p.discarded), (Numbers{1, 3, 5}));
  const Partition all_equal = select(std::vector<double>(100, 0.25), 40);
  for (Index i = 0; i < 40; ++i) {
    EXPECT_EQ(all_equal.discarded[static_cast<std::size_t>(i)], i);
  }
}

TEST(SelectTest, zeros_of_both_signs_tie) {
  EXPECT_EQ(numbers(select({-0.0, 0.0, -0.0, 0.0}, 2).discarded), (Numbers{0, 1}));
}

TEST(SelectTest, scores_that_are_not_finite_go_first) {
  EXPECT_EQ(numbers(select({9, nan, 8, -inf, 7, inf}, 3).discarded), (Numbers{1, 3, 5}));
  EXPECT_EQ(numbers(select({9, nan, 8, -inf, 7, inf}, 2).discarded), (Numbers{1, 3}));
  EXPECT_EQ(numbers(select({9, nan, 8, -inf, 7, inf}, 4).discarded), (Numbers{0, 1, 3, 5}));
}

TEST(SelectTest, nothing_but_nan_still_gives_a_partition) {
  const Partition p = select(std::vector<double>(9, nan), 4);
  EXPECT_EQ(numbers(p.discarded), (Numbers{0, 1, 2, 3}));
  EXPECT_EQ(numbers(p.preserved), (Numbers{4, 5, 6, 7, 8}));
}

TEST(SelectTest, none_and_all_can_be_discarded) {
  EXPECT_EQ(numbers(select({3, 1, 2}, 0).preserved), (Numbers{0, 1, 2}));
  EXPECT_TRUE(select({3, 1, 2}, 0).discarded.empty());
  EXPECT_EQ(numbers(select({3, 1, 2}, 3).discarded), (Numbers{0, 1, 2}));
  EXPECT_TRUE(select({3, 1, 2}, 3).preserved.empty());
  EXPECT_TRUE(select({}, 0).preserved.empty());
}

TEST(SelectTest, agrees_with_a_full_sort) {
  core_test::Random random(5);
  std::vector<double> scores(301);
  for (double& score : scores) {
    score = std::floor(random() * 20);  // many ties
  }
  std::vector<Index> order(scores.size());
  for (std::size_t i = 0; i < order.size(); ++i) {
    order[i] = static_cast<Index>(i);
  }
  std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) {
    return scores[static_cast<std::size_t>(a)] > scores[static_cast<std::size_t>(b)];
  });
  for (const Index count : {1, 42, 150, 300}) {
    Numbers expected(order.begin(), order.begin() + count);
    std::sort(expected.begin(), expected.end());
    EXPECT_EQ(numbers(select(scores, count).discarded), expected);
  }
}

TEST(SelectTest, rows_are_those_of_a_layout_with_gaps) {
  tokenfold::LayoutDescription d;
  d.tokens = 7;
  d.visual = {1, 6};
  d.cells = {2, -1, 0, -1, 1};
  const TokenLayout layout(d);
  Workspace workspace;
  Partition partition;
  partition.scores = {1, 3, 2};
  tokenfold::discard_highest(layout, 1, partition, workspace);
  EXPECT_EQ(numbers(partition.discarded), (Numbers{3}));
  EXPECT_EQ(numbers(partition.preserved), (Numbers{1, 5}));
}

}  // namespace
