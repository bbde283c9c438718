// SPDX-License-Identifier: Apache-2.0
// Layouts of videos, and padding rows.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/support.hpp"
#include "tokenfold/core/layout.hpp"
#include "tokenfold/core/survivors.hpp"
#include "tokenfold/filter/local_penalty.hpp"

namespace {

using core_test::expect_error;
using core_test::Numbers;
using core_test::numbers;
using core_test::plan_of;
using tokenfold::Grid;
using tokenfold::Index;
using tokenfold::LayoutDescription;
using tokenfold::padding_cell;
using tokenfold::Range;
using tokenfold::Span;
using tokenfold::Survivors;
using tokenfold::Token;
using tokenfold::TokenLayout;
using tokenfold::Workspace;

Numbers frames_of(const TokenLayout& layout) {
  Numbers result;
  for (const Token cell : layout.cells()) result.push_back(layout.frame_of(cell));
  return result;
}

// --- frames

TEST(VideoLayoutTest, cells_count_through_all_frames) {
  const auto layout = TokenLayout::video(3, {1, 2});
  EXPECT_EQ(layout.tokens(), 6);
  EXPECT_EQ(layout.visual_range(), (Range{0, 6}));
  EXPECT_EQ(layout.frames(), 3);
  EXPECT_EQ(layout.grid(), (Grid{1, 2}));
  EXPECT_EQ(numbers(layout.cells()), (Numbers{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(frames_of(layout), (Numbers{0, 0, 1, 1, 2, 2}));
  EXPECT_FALSE(layout.cls().has_value());
}

TEST(VideoLayoutTest, an_image_has_one_frame) {
  EXPECT_EQ(TokenLayout::encoder({2, 2}).frames(), 1);
  EXPECT_EQ(TokenLayout::decoder(1, 4, 1, {2, 2}).frames(), 1);
  EXPECT_EQ(TokenLayout().frames(), 1);
  EXPECT_EQ(frames_of(TokenLayout::encoder({2, 2})), (Numbers{0, 0, 0, 0}));
  EXPECT_EQ(frames_of(TokenLayout::decoder(1, 2, 1)), (Numbers{0, 0})) << "no grid";
}

LayoutDescription two_frames() {
  LayoutDescription d;
  d.tokens = 10;
  d.visual = {1, 9};
  d.grid = {2, 2};
  d.frames = 2;
  d.text_after = {9, 10};
  return d;
}

TEST(VideoLayoutTest, a_video_may_stand_anywhere_in_a_sequence) {
  const TokenLayout layout(two_frames());
  EXPECT_EQ(layout.visual_count(), 8);
  EXPECT_EQ(frames_of(layout), (Numbers{0, 0, 0, 0, 1, 1, 1, 1}));
  EXPECT_EQ(layout.text_after(), (Range{9, 10}));
}

TEST(VideoLayoutTest, visual_rows_must_fill_all_frames_unless_cells_are_given) {
  auto d = two_frames();
  d.frames = 3;
  expect_error([&] { TokenLayout{d}; }, "layout: 8 visual rows do not fill");
  d.cells = {0, 1, 2, 3, 8, 9, 10, 11};
  EXPECT_EQ(frames_of(TokenLayout(d)), (Numbers{0, 0, 0, 0, 2, 2, 2, 2}));
}

TEST(VideoLayoutTest, cells_are_checked_across_frames) {
  auto d = two_frames();
  d.cells = {0, 1, 2, 3, 4, 5, 6, 7};
  EXPECT_EQ(TokenLayout(d).visual_count(), 8);
  d.cells[7] = 8;
  expect_error([&] { TokenLayout{d}; }, "layout: grid cell 8 does not exist");
  d.cells[7] = 3;
  expect_error([&] { TokenLayout{d}; }, "layout: grid cell 3 is given to two tokens");
  d.cells[7] = 5;
  expect_error([&] { TokenLayout{d}; }, "layout: grid cell 5 is given to two tokens");
}

TEST(VideoLayoutTest, bad_frame_counts_are_refused) {
  auto d = two_frames();
  d.frames = 0;
  expect_error([&] { TokenLayout{d}; }, "layout: 0 frames need a patch grid");
  d.frames = -1;
  expect_error([&] { TokenLayout{d}; }, "layout: -1 frames");
  d.frames = 2;
  d.grid = {};
  expect_error([&] { TokenLayout{d}; }, "layout: 2 frames need a patch grid");
  expect_error([] { TokenLayout::video(0, {2, 2}); }, "layout: bad video of 0 frames of 2 x 2");
  expect_error([] { TokenLayout::video(2, {0, 2}); }, "layout: bad video of 2 frames of 0 x 2");
}

TEST(VideoLayoutTest, survivors_keep_their_frames) {
  Survivors survivors(TokenLayout::video(3, {1, 2}));
  survivors.advance(
      plan_of(survivors.layout(), {{1, {{1, 1}}}, {4, {{4, 1}}}, {5, {{5, 1}}}, {-1, {{0, 1}}}}));
  EXPECT_EQ(survivors.layout().frames(), 3);
  EXPECT_EQ(numbers(survivors.layout().cells()), (Numbers{1, 4, 5, -1}));
  EXPECT_EQ(frames_of(survivors.layout()), (Numbers{0, 2, 2, 0}));
}

/// Scores after a penalty of 10 on windows of 2 x 2.
std::vector<double> penalised(const TokenLayout& layout, std::vector<double> scores) {
  Workspace workspace;
  tokenfold::filter::apply_local_penalty(layout, {.coefficient = 10}, scores, workspace);
  return scores;
}

TEST(VideoLayoutTest, windows_of_the_local_penalty_do_not_straddle_frames) {
  // A frame of one row: in one grid of 2 x 2 these four would be one window.
  EXPECT_EQ(penalised(TokenLayout::video(2, {1, 2}), {1, 2, 4, 3}),
            (std::vector<double>{1, 20, 40, 3}));
  // Odd height: the last row of a frame is a window of its own.
  EXPECT_EQ(penalised(TokenLayout::video(2, {3, 1}), {1, 2, 3, 4, 5, 6}),
            (std::vector<double>{1, 20, 30, 4, 50, 60}));
}

TEST(VideoLayoutTest, windows_of_an_incomplete_video_are_those_of_their_frames) {
  LayoutDescription d;
  d.tokens = 4;
  d.visual = {0, 4};
  d.grid = {2, 2};
  d.frames = 3;
  d.cells = {3, 8, 0, 11};  // frames 0, 2, 0, 2
  EXPECT_EQ(penalised(TokenLayout(d), {1, 2, 3, 4}), (std::vector<double>{1, 2, 30, 40}));
}

// --- one frame as an image of its own

TEST(VideoLayoutTest, a_frame_alone_is_an_image_in_the_same_sequence) {
  auto d = two_frames();
  d.cls = 0;
  const TokenLayout layout(d);
  const auto second = layout.frame_alone({4, 8});
  EXPECT_EQ(second.tokens(), 10);
  EXPECT_EQ(second.frames(), 1);
  EXPECT_EQ(second.grid(), (Grid{2, 2}));
  EXPECT_EQ(numbers(second.visual()), (Numbers{5, 6, 7, 8}));
  EXPECT_EQ(numbers(second.cells()), (Numbers{0, 1, 2, 3}));
  EXPECT_EQ(second.visual_range(), (Range{5, 9}));
  EXPECT_EQ(second.cls(), 0);
  EXPECT_EQ(second.text_after(), (Range{9, 10}));
  EXPECT_EQ(second.ordinal(4), -1);
  EXPECT_EQ(second.ordinal(5), 0);
  EXPECT_EQ(layout.frame_alone({3, 3}).visual_count(), 0);
  EXPECT_TRUE(layout.frame_alone({3, 3}).visual_range().empty());
  expect_error([&] { layout.frame_alone({4, 9}); }, "layout: no visual tokens [4, 9) among 8");
}

TEST(VideoLayoutTest, a_frame_alone_keeps_gaps_padding_and_tokens_without_a_cell) {
  auto d = two_frames();
  d.cells = {0, -1, 3, padding_cell, 5, 4, -1, 7};
  const TokenLayout layout(d);
  const auto second = layout.frame_alone({2, 5});
  EXPECT_EQ(numbers(second.visual()), (Numbers{5, 6, 8}));
  EXPECT_EQ(numbers(second.cells()), (Numbers{1, 0, 3}));
  EXPECT_EQ(numbers(second.padding()), (Numbers{4}));
  EXPECT_FALSE(second.visual_is_contiguous());
  const std::vector<Token> cells = {1, -1};
  EXPECT_EQ(numbers(TokenLayout::decoder(0, cells, 0, {1, 2}).frame_alone({0, 2}).cells()),
            (Numbers{1, -1}));
}

// --- padding

LayoutDescription padded() {
  LayoutDescription d;
  d.tokens = 9;
  d.visual = {1, 8};
  d.grid = {2, 2};
  d.cells = {0, 1, padding_cell, -1, 2, 3, padding_cell};
  d.text_after = {8, 9};
  return d;
}

TEST(PaddingTest, padding_is_not_visual) {
  const TokenLayout layout(padded());
  EXPECT_EQ(numbers(layout.visual()), (Numbers{1, 2, 5, 6}));
  EXPECT_EQ(numbers(layout.cells()), (Numbers{0, 1, 2, 3}));
  EXPECT_EQ(numbers(layout.padding()), (Numbers{3, 7}));
  EXPECT_EQ(layout.visual_range(), (Range{1, 7}));
  for (const Index row : {3, 7}) EXPECT_EQ(layout.ordinal(row), -1);
  EXPECT_TRUE(TokenLayout::encoder({2, 2}).padding().empty());
}

TEST(PaddingTest, plans_drop_it_and_pass_on_other_special_rows) {
  const TokenLayout layout(padded());
  const auto plan = plan_of(layout, {{1, {{1, 1}}}, {2, {{2, 1}}}, {5, {{5, 1}}}, {6, {{6, 1}}}});
  EXPECT_EQ(numbers(plan.kept()), (Numbers{0, 1, 2, 4, 5, 6, 8}));
  EXPECT_EQ(plan.input_tokens(), 9);
  EXPECT_FALSE(plan.is_identity());
  EXPECT_TRUE(plan.selects_only());
}

TEST(PaddingTest, padding_cannot_be_preserved_or_merged) {
  const TokenLayout layout(padded());
  expect_error([&] { plan_of(layout, {{3, {{3, 1}}}}); }, "compress: row 3 is not a visual token");
  expect_error([&] { plan_of(layout, {{1, {{7, 1}}}}); }, "compress: row 7 is not a visual token");
}

TEST(PaddingTest, survivors_forget_it) {
  Survivors survivors{TokenLayout(padded())};
  survivors.advance(plan_of(survivors.layout(), {{1, {{1, 1}}}, {6, {{6, 1}}}}));
  EXPECT_TRUE(survivors.layout().padding().empty());
  EXPECT_EQ(survivors.layout().tokens(), 5);
  EXPECT_EQ(numbers(survivors.layout().visual()), (Numbers{1, 3}));
  EXPECT_EQ(numbers(survivors.layout().cells()), (Numbers{0, 3}));
  EXPECT_EQ(survivors.layout().text_after(), (Range{4, 5}));
  EXPECT_EQ(numbers(survivors.total().kept()), (Numbers{0, 1, 4, 6, 8}));
  // And a further step does not drop the rows that have the numbers of old padding.
  survivors.advance(plan_of(survivors.layout(), {{3, {{3, 1}}}}));
  EXPECT_EQ(numbers(survivors.total().kept()), (Numbers{0, 4, 6, 8}));
}

TEST(PaddingTest, cls_cannot_be_padding) {
  auto d = padded();
  d.cls = 3;
  expect_error([&] { TokenLayout{d}; }, "layout: row 3 is both [CLS] and padding");
  d.cls = 4;
  EXPECT_EQ(TokenLayout(d).cls(), 4);
}

TEST(PaddingTest, everything_may_be_padding) {
  LayoutDescription d;
  d.tokens = 3;
  d.visual = {0, 3};
  d.cells = {padding_cell, padding_cell, padding_cell};
  const TokenLayout layout(d);
  EXPECT_EQ(layout.visual_count(), 0);
  EXPECT_EQ(plan_of(layout, {}).kept().size(), 0);
}

TEST(PaddingTest, cells_below_padding_are_refused) {
  auto d = padded();
  d.cells[0] = padding_cell - 1;
  expect_error([&] { TokenLayout{d}; }, "layout: grid cell -3 does not exist");
}

}  // namespace
