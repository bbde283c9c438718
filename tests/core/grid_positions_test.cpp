// SPDX-License-Identifier: Apache-2.0
#include "tokenfold/core/grid_positions.hpp"

#include <gtest/gtest.h>

#include <string>

#include "core/support.hpp"
#include "golden/golden_file.hpp"
#include "support/random.hpp"
#include "tokenfold/core/survivors.hpp"

namespace {

using core_test::expect_error;
using core_test::plan_of;
using core_test::Row;
using core_test::RowMajor;
using tokenfold::grid_position;
using tokenfold::GridPosition;
using tokenfold::Index;
using tokenfold::LayoutDescription;
using tokenfold::MatrixView;
using tokenfold::mrope_positions;
using tokenfold::PositionRule;
using tokenfold::ReductionPlan;
using tokenfold::Survivors;
using tokenfold::Token;
using tokenfold::TokenLayout;

using Positions = RowMajor<std::int32_t>;

Positions mrope(const TokenLayout& layout, std::int32_t first, std::int32_t* next = nullptr,
                double frame_step = 1) {
  Positions p(3, layout.tokens());
  const auto end = mrope_positions(layout, first, MatrixView(p), frame_step);
  if (next != nullptr) {
    *next = end;
  }
  return p;
}

ReductionPlan selection(const TokenLayout& layout, const std::vector<Token>& rows) {
  std::vector<Row> list;
  for (const Token row : rows) {
    list.push_back({row, {{row, 1}}});
  }
  return plan_of(layout, list);
}

TEST(GridPositionsTest, cells_of_a_video) {
  const auto layout = TokenLayout::video(3, {2, 5});
  EXPECT_EQ(grid_position(layout, 0), (GridPosition{0, 0, 0}));
  EXPECT_EQ(grid_position(layout, 9), (GridPosition{0, 1, 4}));
  EXPECT_EQ(grid_position(layout, 23), (GridPosition{2, 0, 3}));
  EXPECT_EQ(grid_position(layout, 23, 1.75), (GridPosition{3, 0, 3}));
  expect_error([&] { grid_position(layout, 30); }, "grid position: the layout has no cell 30");
  expect_error([&] { grid_position(layout, -1); }, "no cell -1");
}

TEST(GridPositionsTest, an_image_between_text) {
  const auto layout = TokenLayout::decoder(2, 6, 2, {2, 3});
  Positions expected(3, 10);
  expected << 4, 5, 6, 6, 6, 6, 6, 6, 9, 10,  //
      4, 5, 6, 6, 6, 7, 7, 7, 9, 10,          //
      4, 5, 6, 7, 8, 6, 7, 8, 9, 10;
  std::int32_t next = 0;
  EXPECT_TRUE(mrope(layout, 4, &next) == expected);
  EXPECT_EQ(next, 11);
}

TEST(GridPositionsTest, a_separator_stands_where_the_patch_before_it_does) {
  LayoutDescription d;
  d.tokens = 7;
  d.visual = {0, 6};
  d.grid = {2, 2};
  d.cells = {0, 1, -1, 2, 3, -1};  // a row break after each row, the second outside of the patches
  d.text_after = {6, 7};
  Positions expected(3, 7);
  expected << 0, 0, 0, 0, 0, 2, 3,  //
      0, 0, 0, 1, 1, 2, 3,          //
      0, 1, 1, 0, 1, 2, 3;
  EXPECT_TRUE(mrope(TokenLayout(d), 0) == expected);
}

TEST(GridPositionsTest, text_alone_counts_up) {
  std::int32_t next = 0;
  const Positions p = mrope(TokenLayout::decoder(3, 0, 2), 7, &next);
  for (Index i = 0; i < 5; ++i) {
    EXPECT_EQ(p(0, i), 7 + i);
    EXPECT_EQ(p(2, i), 7 + i);
  }
  EXPECT_EQ(next, 12);
}

TEST(GridPositionsTest, bad_input_is_refused) {
  Positions two(2, 4), three(3, 4), five(3, 5);
  const auto image = TokenLayout::decoder(0, 4, 0, {2, 2});
  expect_error([&] { mrope_positions(image, 0, MatrixView(two)); },
               "mrope positions: the output must be [3 x 4], got [2 x 4]");
  expect_error([&] { mrope_positions(image, 0, MatrixView(five)); }, "[3 x 4], got [3 x 5]");
  expect_error([&] { mrope_positions(TokenLayout::decoder(0, 4, 0), 0, MatrixView(three)); },
               "mrope positions: the layout has no patch grid");
  expect_error([&] { mrope_positions(image, 0, MatrixView(three), -1); },
               "mrope positions: frame_step must not be negative, got -1");
}

// Shortening the layout and then asking is the same as asking and then packing.
TEST(GridPositionsTest, of_survivors_are_the_packed_ones) {
  support::Random random(1);
  for (int i = 0; i < 100; ++i) {
    LayoutDescription d;
    d.grid = {2 + random.below(3), 2 + random.below(3)};
    d.frames = 1 + random.below(3);
    const Index before = random.below(4), visual = d.frames * d.grid.cells();
    d.visual = {before, before + visual};
    d.text_before = {0, before};
    d.tokens = before + visual + random.below(4);
    d.text_after = {d.visual.end, d.tokens};
    const TokenLayout layout(d);
    Survivors survivors(layout);
    const Positions whole = mrope(layout, 3);
    for (int step = 0; step < 2; ++step) {
      const Index left = survivors.layout().visual_count();
      std::vector<Token> rows = random.sample(random.below(left + 1), left);
      for (Token& row : rows) row = survivors.layout().visual()[row];
      survivors.advance(selection(survivors.layout(), rows));
      Positions packed(3, survivors.layout().tokens());
      const auto end =
          survivors.total().positions(PositionRule::packed, MatrixView(whole), MatrixView(packed));
      if (whole.cols() == 0) continue;
      std::int32_t next = 0;
      EXPECT_TRUE(mrope(survivors.layout(), 3, &next) == packed);
      EXPECT_EQ(next, end);
    }
  }
}

TEST(GridPositionsTest, consecutive_positions_are_the_same_in_all_planes) {
  const auto layout = TokenLayout::decoder(2, 6, 2, {2, 3});
  const auto plan = plan_of(layout, {{3, {{3, 1}}}, {6, {{6, 1}}}, {-1, {{7, 1}}}});
  const Positions in = mrope(layout, 4);
  for (const Index planes : {1, 3}) {
    Positions out(planes, 7);
    EXPECT_EQ(plan.positions(PositionRule::consecutive, MatrixView(in).middle_rows({0, planes}),
                             MatrixView(out)),
              11);
    for (Index i = 0; i < 7; ++i) {
      EXPECT_EQ(out(0, i), 4 + i);
      EXPECT_EQ(out(planes - 1, i), 4 + i);
    }
  }
}

class EvsPositions : public testing::TestWithParam<std::string> {};

TEST_P(EvsPositions, are_those_of_vllm) {
  const golden::File file(GetParam());
  const auto layout =
      TokenLayout::video(file.count("frames"), {file.count("rows"), file.count("cols")});
  const double frame_step = file.number("tokens_per_second") * file.number("video_second_per_grid");
  const auto kept = file.indices("kept_indices");
  const auto plan = selection(layout, {kept.begin(), kept.end()});
  const auto expected = file.indices("mrope_positions");  // [K, 4]: t, h, w, grid width
  ASSERT_EQ(expected.size(), 4 * kept.size());

  const Positions in = mrope(layout, 0, nullptr, frame_step);
  Positions out(3, plan.output_tokens());
  plan.positions(PositionRule::original, MatrixView(in), MatrixView(out));
  for (std::size_t i = 0; i < kept.size(); ++i) {
    const auto p = grid_position(layout, layout.cells()[kept[i]], frame_step);
    EXPECT_EQ(p.t, expected[4 * i]);
    EXPECT_EQ(p.h, expected[4 * i + 1]);
    EXPECT_EQ(p.w, expected[4 * i + 2]);
    EXPECT_EQ(layout.grid().width, expected[4 * i + 3]);
    for (Index plane = 0; plane < 3; ++plane) {
      EXPECT_EQ(out(plane, static_cast<Index>(i)),
                expected[4 * i + static_cast<std::size_t>(plane)]);
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Golden, EvsPositions,
                         testing::Values("evs_t3_g5x7_q90_firstframe", "evs_t4_g6x6_q50",
                                         "evs_t8_g12x12_q70"));

}  // namespace
