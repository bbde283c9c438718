// SPDX-License-Identifier: Apache-2.0
#include "tokenfold/core/layout.hpp"

#include <gtest/gtest.h>

#include "core/support.hpp"

namespace {

using core_test::expect_error;
using core_test::Numbers;
using core_test::numbers;
using tokenfold::ClsToken;
using tokenfold::Grid;
using tokenfold::Index;
using tokenfold::LayoutDescription;
using tokenfold::Range;
using tokenfold::Token;
using tokenfold::TokenLayout;

/// Every row has the ordinal that the list of visual rows says, all others −1.
void expect_ordinals(const TokenLayout& layout) {
  std::vector<Index> expected(static_cast<std::size_t>(layout.tokens()), -1);
  for (Index v = 0; v < layout.visual_count(); ++v) {
    expected[static_cast<std::size_t>(layout.visual()[v])] = v;
  }
  for (Index row = 0; row < layout.tokens(); ++row) {
    EXPECT_EQ(layout.ordinal(row), expected[static_cast<std::size_t>(row)]) << "row " << row;
  }
  EXPECT_EQ(layout.ordinal(-1), -1);
  EXPECT_EQ(layout.ordinal(layout.tokens()), -1);
}

TEST(LayoutTest, cls_first_is_row_0) {
  const auto layout = TokenLayout::encoder({2, 3});
  EXPECT_EQ(layout.tokens(), 7);
  EXPECT_EQ(layout.cls(), 0);
  EXPECT_EQ(layout.visual_range(), (Range{1, 7}));
  EXPECT_EQ(numbers(layout.visual()), (Numbers{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(numbers(layout.cells()), (Numbers{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(layout.grid(), (Grid{2, 3}));
  EXPECT_TRUE(layout.text_before().empty());
  EXPECT_TRUE(layout.text_after().empty());
  expect_ordinals(layout);
}

TEST(LayoutTest, cls_last_is_the_last_row) {
  const auto layout = TokenLayout::encoder({2, 3}, ClsToken::last);
  EXPECT_EQ(layout.tokens(), 7);
  EXPECT_EQ(layout.cls(), 6);
  EXPECT_EQ(layout.visual_range(), (Range{0, 6}));
  EXPECT_EQ(numbers(layout.cells()), (Numbers{0, 1, 2, 3, 4, 5}));
  expect_ordinals(layout);
}

TEST(LayoutTest, cls_may_be_absent) {
  const auto layout = TokenLayout::encoder({2, 3}, ClsToken::none);
  EXPECT_EQ(layout.tokens(), 6);
  EXPECT_FALSE(layout.cls().has_value());
  EXPECT_EQ(layout.visual_range(), (Range{0, 6}));
  expect_ordinals(layout);
}

TEST(LayoutTest, registers_stand_between_a_leading_cls_and_the_patches) {
  const auto layout = TokenLayout::encoder({2, 2}, ClsToken::first, 4);
  EXPECT_EQ(layout.tokens(), 9);
  EXPECT_EQ(layout.cls(), 0);
  EXPECT_EQ(layout.visual_range(), (Range{5, 9}));
  expect_ordinals(layout);
}

TEST(LayoutTest, registers_stand_after_the_patches_otherwise) {
  const auto last = TokenLayout::encoder({2, 2}, ClsToken::last, 4);
  EXPECT_EQ(last.tokens(), 9);
  EXPECT_EQ(last.cls(), 8);
  EXPECT_EQ(last.visual_range(), (Range{0, 4}));
  const auto none = TokenLayout::encoder({2, 2}, ClsToken::none, 4);
  EXPECT_EQ(none.tokens(), 8);
  EXPECT_EQ(none.visual_range(), (Range{0, 4}));
  expect_ordinals(last);
}

TEST(LayoutTest, llama_cpp_llava_has_cls_in_place_of_a_patch) {
  // Output row i is patch i + 1, the last row is [CLS]: patch 0 is gone.
  LayoutDescription d;
  d.tokens = 6;
  d.visual = {0, 6};
  d.grid = {2, 3};
  d.cells = {1, 2, 3, 4, 5, -1};
  d.cls = 5;
  const TokenLayout layout(d);
  EXPECT_EQ(layout.visual_count(), 5);
  EXPECT_EQ(layout.visual_range(), (Range{0, 5}));
  EXPECT_EQ(numbers(layout.cells()), (Numbers{1, 2, 3, 4, 5}));
  EXPECT_EQ(layout.cls(), 5);
  EXPECT_TRUE(layout.visual_is_contiguous());
  expect_ordinals(layout);
}

TEST(LayoutTest, rows_without_a_patch_leave_gaps_in_the_visual_rows) {
  // Two rows of image with a separator after each, one padding row between them, text around.
  LayoutDescription d;
  d.tokens = 12;
  d.visual = {2, 9};
  d.grid = {2, 2};
  d.cells = {0, 1, -1, -1, 2, 3, -1};
  d.text_before = {0, 2};
  d.text_after = {9, 12};
  const TokenLayout layout(d);
  EXPECT_EQ(numbers(layout.visual()), (Numbers{2, 3, 6, 7}));
  EXPECT_EQ(numbers(layout.cells()), (Numbers{0, 1, 2, 3}));
  EXPECT_EQ(layout.visual_range(), (Range{2, 8}));
  EXPECT_FALSE(layout.visual_is_contiguous());
  expect_ordinals(layout);
}

TEST(LayoutTest, cls_may_stand_among_the_patches) {
  LayoutDescription d;
  d.tokens = 5;
  d.visual = {0, 5};
  d.grid = {2, 2};
  d.cells = {3, 2, -1, 1, 0};
  d.cls = 2;
  const TokenLayout layout(d);
  EXPECT_EQ(layout.cls(), 2);
  EXPECT_EQ(numbers(layout.visual()), (Numbers{0, 1, 3, 4}));
  EXPECT_EQ(numbers(layout.cells()), (Numbers{3, 2, 1, 0}));
  expect_ordinals(layout);
}

TEST(LayoutTest, padding_is_neither_visual_nor_text) {
  LayoutDescription d;
  d.tokens = 10;
  d.visual = {2, 6};
  d.grid = {2, 2};
  d.text_after = {6, 8};
  const TokenLayout layout(d);
  EXPECT_EQ(layout.text_before(), Range{});
  EXPECT_EQ(layout.text_after(), (Range{6, 8}));
  expect_ordinals(layout);
}

TEST(LayoutTest, incomplete_grid_names_its_cells) {
  LayoutDescription d;
  d.tokens = 4;
  d.visual = {0, 4};
  d.grid = {3, 3};
  d.cells = {0, 4, 5, 8};
  EXPECT_EQ(numbers(TokenLayout(d).cells()), (Numbers{0, 4, 5, 8}));
  EXPECT_TRUE(TokenLayout(d).has_grid());
}

TEST(LayoutTest, without_a_grid_no_token_has_a_cell) {
  const auto layout = TokenLayout::decoder(1, 3, 1);
  EXPECT_FALSE(layout.has_grid());
  EXPECT_EQ(numbers(layout.cells()), (Numbers{-1, -1, -1}));
}

TEST(LayoutTest, decoder_is_text_image_text) {
  const auto layout = TokenLayout::decoder(3, 6, 4, {2, 3});
  EXPECT_EQ(layout.tokens(), 13);
  EXPECT_EQ(layout.text_before(), (Range{0, 3}));
  EXPECT_EQ(layout.visual_range(), (Range{3, 9}));
  EXPECT_EQ(layout.text_after(), (Range{9, 13}));
  EXPECT_EQ(numbers(layout.cells()), (Numbers{0, 1, 2, 3, 4, 5}));
  EXPECT_FALSE(layout.cls().has_value());
  expect_ordinals(layout);
}

TEST(LayoutTest, decoder_after_a_reduction_keeps_synthetic_tokens_visual) {
  const std::vector<Token> cells = {0, 2, 5, -1};
  const auto layout = TokenLayout::decoder(2, cells, 1, {2, 3});
  EXPECT_EQ(layout.tokens(), 7);
  EXPECT_EQ(layout.visual_count(), 4);
  EXPECT_EQ(numbers(layout.visual()), (Numbers{2, 3, 4, 5}));
  EXPECT_EQ(numbers(layout.cells()), (Numbers{0, 2, 5, -1}));
  EXPECT_EQ(layout.grid(), (Grid{2, 3}));
  expect_ordinals(layout);
}

TEST(LayoutTest, image_may_be_empty) {
  const auto layout = TokenLayout::decoder(3, 0, 2);
  EXPECT_EQ(layout.visual_count(), 0);
  EXPECT_EQ(layout.visual_range(), (Range{3, 3}));
  expect_ordinals(layout);
  LayoutDescription d;
  d.tokens = 3;
  d.visual = {1, 3};
  d.cells = {-1, -1};
  EXPECT_EQ(TokenLayout(d).visual_count(), 0);
  EXPECT_EQ(TokenLayout(d).visual_range(), (Range{1, 1}));
  EXPECT_EQ(TokenLayout().tokens(), 0);
  EXPECT_EQ(TokenLayout(LayoutDescription{}).visual_count(), 0);
}

// --- refused descriptions
// -------------------------------------------------------------------------

LayoutDescription image_2x2() {
  LayoutDescription d;
  d.tokens = 8;
  d.visual = {2, 6};
  d.grid = {2, 2};
  return d;
}
void expect_refused(const LayoutDescription& d, const std::string& text) {
  expect_error([&] { TokenLayout{d}; }, text);
}

TEST(LayoutTest, the_description_that_the_refused_ones_vary_is_fine) {
  EXPECT_EQ(TokenLayout(image_2x2()).visual_count(), 4);
}

TEST(LayoutTest, bad_token_counts_are_refused) {
  auto d = image_2x2();
  d.tokens = -1;
  expect_refused(d, "layout: bad token count -1");
  d.tokens = Index{1} << 31;
  expect_refused(d, "layout: bad token count 2147483648");
}

TEST(LayoutTest, visual_rows_outside_the_sequence_are_refused) {
  for (const Range visual : {Range{5, 9}, Range{-1, 3}, Range{6, 2}, Range{9, 9}, Range{-3, -3}}) {
    auto d = image_2x2();
    d.visual = visual;
    d.grid = {};
    expect_refused(d, "lie outside the 8 rows");
  }
}

TEST(LayoutTest, negative_grids_are_refused) {
  for (const Grid grid : {Grid{-2, 2}, Grid{2, -2}, Grid{-2, -2}, Grid{-1, 0}}) {
    auto d = image_2x2();
    d.grid = grid;
    expect_refused(d, "layout: negative grid");
    d.cells = {-1, -1, -1, -1};
    expect_refused(d, "layout: negative grid");
    const std::vector<Token> cells = {-1, -1};
    expect_error([&] { TokenLayout::decoder(1, cells, 1, grid); }, "layout: negative grid");
  }
}

TEST(LayoutTest, cells_must_be_one_per_visual_row) {
  auto d = image_2x2();
  d.cells = {0, 1, 2};
  expect_refused(d, "layout: 3 cells were given for 4 visual rows");
}

TEST(LayoutTest, visual_rows_must_fill_the_grid_unless_cells_are_given) {
  auto d = image_2x2();
  d.grid = {2, 3};
  expect_refused(d, "layout: 4 visual rows do not fill a grid of 2 x 3");
  d.cells = {0, 1, 2, 3};
  EXPECT_EQ(TokenLayout(d).visual_count(), 4);
}

TEST(LayoutTest, cells_outside_the_grid_are_refused) {
  auto d = image_2x2();
  d.cells = {0, 1, 2, 4};
  expect_refused(d, "layout: grid cell 4 does not exist on a grid of 2 x 2");
  d.cells = {0, 1, 2, -3};
  expect_refused(d, "layout: grid cell -3 does not exist on a grid of 2 x 2");
  const std::vector<Token> cells = {0, 4};
  expect_error([&] { TokenLayout::decoder(0, cells, 0, {2, 2}); }, "grid cell 4 does not exist");
}

TEST(LayoutTest, a_cell_for_two_tokens_is_refused) {
  auto d = image_2x2();
  d.cells = {0, 1, 1, 2};
  expect_refused(d, "layout: grid cell 1 is given to two tokens");
  const std::vector<Token> cells = {3, -1, -1, 3};
  expect_error([&] { TokenLayout::decoder(0, cells, 0, {2, 2}); }, "cell 3 is given to two tokens");
}

TEST(LayoutTest, text_outside_the_sequence_is_refused) {
  auto d = image_2x2();
  d.text_after = {6, 9};
  expect_refused(d, "layout: text rows [6, 9) lie outside the 8 rows");
  d = image_2x2();
  d.text_before = {-1, 2};
  expect_refused(d, "layout: text rows [-1, 2) lie outside the 8 rows");
  d.text_before = {2, 1};
  expect_refused(d, "layout: text rows [2, 1) lie outside the 8 rows");
}

TEST(LayoutTest, text_over_the_image_is_refused) {
  auto d = image_2x2();
  d.text_before = {0, 3};
  expect_refused(d, "layout: text_before overlaps the visual rows");
  d = image_2x2();
  d.text_after = {5, 8};
  expect_refused(d, "layout: text_after overlaps the visual rows");
}

TEST(LayoutTest, text_over_text_is_refused) {
  LayoutDescription d;
  d.tokens = 8;
  d.text_before = {0, 5};
  d.text_after = {4, 8};
  expect_refused(d, "layout: text_before and text_after overlap");
}

TEST(LayoutTest, bad_cls_rows_are_refused) {
  auto d = image_2x2();
  d.cls = 8;
  expect_refused(d, "layout: [CLS] row 8 lies outside the 8 rows");
  d.cls = -1;
  expect_refused(d, "layout: [CLS] row -1 lies outside the 8 rows");
  d.cls = 3;
  expect_refused(d, "layout: row 3 is both [CLS] and a patch");
}

TEST(LayoutTest, bad_counts_of_the_short_forms_are_refused) {
  expect_error([] { TokenLayout::encoder({0, 3}); }, "layout: bad patch grid 0 x 3");
  expect_error([] { TokenLayout::encoder({-2, -3}); }, "layout: bad patch grid -2 x -3");
  expect_error(
      [] {
        TokenLayout::encoder({2, 3}, ClsToken::first, -1);
      },
      "layout: negative register count -1");
  expect_error([] { TokenLayout::decoder(-1, 4, 2); }, "layout: negative count (-1 text, 4 visual");
  expect_error([] { TokenLayout::decoder(1, 4, -2); }, "-2 text)");
}

}  // namespace
