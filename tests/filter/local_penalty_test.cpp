// SPDX-License-Identifier: Apache-2.0

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <tokenfold/filter/local_penalty.hpp>
#include <vector>

#include "support/outcome.hpp"

namespace {

using tokenfold::Grid;
using tokenfold::Index;
using tokenfold::Token;
using tokenfold::TokenLayout;
using tokenfold::filter::LocalPenalty;

constexpr double infinity = std::numeric_limits<double>::infinity();

std::vector<double> penalised(const TokenLayout& layout, std::vector<double> scores,
                              const LocalPenalty& penalty = {}) {
  tokenfold::Workspace workspace;
  tokenfold::filter::apply_local_penalty(layout, penalty, tokenfold::Span<double>(scores),
                                         workspace);
  return scores;
}

TokenLayout with_cells(Grid grid, const std::vector<Token>& cells) {
  return TokenLayout::decoder(0, cells, 0, grid);
}

TEST(LocalPenalty, marks_one_token_of_every_window_of_a_ragged_grid) {
  // 3 x 5 in windows of 2 x 2: two full ones and a 2 x 1 above, two 1 x 2 and a 1 x 1 below.
  const TokenLayout layout = TokenLayout::encoder({3, 5});
  const std::vector<double> scores = {1,  2,  -4, -2, 7,  //
                                      3,  0,  -3, -6, 8,  //
                                      -1, -2, 5,  4,  -8};
  const std::vector<double> expected = {1,    2,  -4, -1, 7,   //
                                        6,    0,  -3, -6, 16,  //
                                        -0.5, -2, 10, 4,  -4};
  EXPECT_EQ(penalised(layout, scores), expected);
}

TEST(LocalPenalty, windows_need_not_be_square) {
  const TokenLayout layout = TokenLayout::encoder({3, 5});
  const std::vector<double> scores = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  // 3 rows x 2 columns: columns 0-1, 2-3, 4; the highest is in the last row.
  EXPECT_EQ(penalised(layout, scores, {{3, 2}, 4}),
            (std::vector<double>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 48, 13, 56, 60}));
  // Larger than the grid: one window.
  EXPECT_EQ(penalised(layout, scores, {{9, 9}, 2}),
            (std::vector<double>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 30}));
}

TEST(LocalPenalty, windows_of_one_cell_scale_every_token) {
  EXPECT_EQ(penalised(TokenLayout::encoder({2, 2}), {1, -2, 0, 3}, {{1, 1}, 2}),
            (std::vector<double>{2, -1, 0, 6}));
}

TEST(LocalPenalty, coefficient_one_switches_it_off_even_without_a_grid) {
  EXPECT_EQ(penalised(TokenLayout::decoder(1, 3, 1), {1, 2, 3}, {{2, 2}, 1}),
            (std::vector<double>{1, 2, 3}));
}

TEST(LocalPenalty, ties_go_to_the_lowest_cell_not_to_the_first_token) {
  EXPECT_EQ(penalised(with_cells({2, 4}, {4, 1, 2}), {3, 3, 1}), (std::vector<double>{3, 6, 2}));
}

TEST(LocalPenalty, tokens_without_a_cell_take_no_part) {
  EXPECT_EQ(penalised(with_cells({2, 2}, {tokenfold::no_token, 1, 0}), {9, 3, 1}),
            (std::vector<double>{9, 6, 1}));
}

TEST(LocalPenalty, empty_cells_leave_their_window_to_the_others) {
  // Windows {0, 1, 4, 5} and {2, 3, 6, 7}; of the second only cell 7 is left.
  EXPECT_EQ(penalised(with_cells({2, 4}, {0, 5, 7}), {1, -1, -8}),
            (std::vector<double>{2, -1, -4}));
}

TEST(LocalPenalty, a_score_that_is_not_finite_is_its_windows_highest_and_stays) {
  const TokenLayout layout = TokenLayout::encoder({2, 2});
  EXPECT_EQ(penalised(layout, {1, infinity, 5, 2}), (std::vector<double>{1, infinity, 5, 2}));
  EXPECT_EQ(penalised(layout, {1, -infinity, 5, 2}), (std::vector<double>{1, -infinity, 5, 2}));
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<double> result = penalised(layout, {1, nan, 5, 2});
  EXPECT_TRUE(std::isnan(result[1]));
  EXPECT_EQ(result[2], 5);
}

TEST(LocalPenalty, refuses_what_is_no_penalty) {
  const TokenLayout layout = TokenLayout::encoder({2, 2});
  const std::vector<double> scores = {1, 2, 3, 4};
  const auto message = [&](const LocalPenalty& penalty) {
    return support::refusal([&] { penalised(layout, scores, penalty); });
  };
  EXPECT_EQ(message({{2, 2}, 0.5}), "local penalty: coefficient must be at least 1, got 0.5");
  EXPECT_EQ(message({{2, 2}, infinity}), "local penalty: coefficient must be at least 1, got inf");
  EXPECT_EQ(message({{2, 2}, std::nan("")}),
            "local penalty: coefficient must be at least 1, got nan");
  EXPECT_EQ(message({{0, 2}, 2}), "local penalty: bad window 0 x 2");
  EXPECT_EQ(message({{2, -1}, 2}), "local penalty: bad window 2 x -1");
  EXPECT_EQ(support::refusal([&] { penalised(TokenLayout::decoder(0, 4, 0), scores); }),
            "local penalty: the layout has no patch grid");
}

}  // namespace
