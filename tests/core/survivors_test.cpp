// SPDX-License-Identifier: Apache-2.0
#include "tokenfold/core/survivors.hpp"

#include <gtest/gtest.h>

#include "core/support.hpp"
#include "tokenfold/core/plan_writer.hpp"

namespace {

using core_test::dense;
using core_test::expect_error;
using core_test::Numbers;
using core_test::numbers;
using core_test::plan_of;
using core_test::Row;
using tokenfold::Grid;
using tokenfold::Index;
using tokenfold::Range;
using tokenfold::ReductionPlan;
using tokenfold::Survivors;
using tokenfold::Token;
using tokenfold::TokenLayout;

TEST(SurvivorsTest, three_steps_in_an_encoder_keep_cells_and_cls) {
  // CLS, then cells 0 … 5 of a 2 x 3 grid.
  Survivors survivors(TokenLayout::encoder({2, 3}));
  EXPECT_TRUE(survivors.total().is_identity());

  // Cells 1 and 4 go, 1 into 0.
  const auto first = plan_of(
      survivors.layout(), {{1, {{1, 0.5}, {2, 0.5}}}, {3, {{3, 1}}}, {4, {{4, 1}}}, {6, {{6, 1}}}});
  survivors.advance(first);
  EXPECT_EQ(survivors.layout().tokens(), 5);
  EXPECT_EQ(numbers(survivors.layout().cells()), (Numbers{0, 2, 3, 5}));
  EXPECT_EQ(numbers(survivors.layout().visual()), (Numbers{1, 2, 3, 4}));
  EXPECT_EQ(survivors.layout().cls(), 0);
  EXPECT_EQ(survivors.layout().grid(), (Grid{2, 3}));

  // Cell 2 goes into cell 5, and an extra token takes half of cell 3.
  const auto second = plan_of(
      survivors.layout(),
      {{1, {{1, 1}}}, {3, {{3, 1}}}, {4, {{4, 0.75}, {2, 0.25}}}, {-1, {{3, 0.5}, {2, 0.5}}}});
  survivors.advance(second);
  EXPECT_EQ(survivors.layout().tokens(), 5);
  EXPECT_EQ(numbers(survivors.layout().cells()), (Numbers{0, 3, 5, -1}));
  EXPECT_EQ(survivors.layout().visual_range(), (Range{1, 5}));
  EXPECT_EQ(survivors.layout().ordinal(4), 3);

  // Only cell 3 and the extra token stay.
  const auto third = plan_of(survivors.layout(), {{2, {{2, 0.5}, {1, 0.5}}}, {4, {{4, 1}}}});
  survivors.advance(third);
  EXPECT_EQ(numbers(survivors.layout().cells()), (Numbers{3, -1}));
  EXPECT_EQ(numbers(survivors.total().kept()), (Numbers{0, 4, -1}));
  EXPECT_EQ(survivors.total().input_tokens(), 7);
  EXPECT_EQ(survivors.total().visual(), (Range{1, 3}));

  const core_test::RowMajor<double> expected = dense(third) * dense(second) * dense(first);
  EXPECT_LT((dense(survivors.total()) - expected).cwiseAbs().maxCoeff(), 1e-6);
  const auto chained = first.then(second).then(third);
  EXPECT_EQ(numbers(survivors.total().columns()), numbers(chained.columns()));
}

TEST(SurvivorsTest, text_moves_up_in_a_decoder) {
  Survivors survivors(TokenLayout::decoder(3, 4, 2, {2, 2}));
  survivors.advance(plan_of(survivors.layout(), {{3, {{3, 1}}}, {5, {{5, 1}}}}));
  EXPECT_EQ(survivors.layout().text_before(), (Range{0, 3}));
  EXPECT_EQ(survivors.layout().visual_range(), (Range{3, 5}));
  EXPECT_EQ(survivors.layout().text_after(), (Range{5, 7}));
  EXPECT_EQ(numbers(survivors.layout().cells()), (Numbers{0, 2}));
  survivors.advance(plan_of(survivors.layout(), {{-1, {{3, 0.5}, {4, 0.5}}}}));
  EXPECT_EQ(survivors.layout().visual_range(), (Range{3, 4}));
  EXPECT_EQ(survivors.layout().text_after(), (Range{4, 6}));
  survivors.advance(plan_of(survivors.layout(), {}));
  EXPECT_EQ(survivors.layout().visual_count(), 0);
  EXPECT_EQ(survivors.layout().visual_range(), (Range{3, 3}));
  EXPECT_EQ(survivors.layout().text_before(), (Range{0, 3}));
  EXPECT_EQ(survivors.layout().text_after(), (Range{3, 5}));
  EXPECT_EQ(numbers(survivors.total().kept()), (Numbers{0, 1, 2, 7, 8}));
}

TEST(SurvivorsTest, a_trailing_cls_and_specials_among_the_patches_move_up) {
  tokenfold::LayoutDescription d;
  d.tokens = 6;
  d.visual = {0, 5};
  d.grid = {2, 2};
  d.cells = {0, 1, -1, 2, 3};
  d.cls = 5;
  Survivors survivors{TokenLayout(d)};
  survivors.advance(plan_of(survivors.layout(), {{1, {{1, 1}}}, {4, {{4, 1}}}}));
  EXPECT_EQ(survivors.layout().tokens(), 4);
  EXPECT_EQ(survivors.layout().cls(), 3);
  EXPECT_EQ(numbers(survivors.layout().visual()), (Numbers{0, 2}));
  EXPECT_EQ(numbers(survivors.layout().cells()), (Numbers{1, 3}));
  EXPECT_FALSE(survivors.layout().visual_is_contiguous());
  survivors.advance(plan_of(survivors.layout(), {{2, {{2, 1}}}}));
  EXPECT_EQ(survivors.layout().cls(), 2);
  EXPECT_EQ(numbers(survivors.layout().visual()), (Numbers{1}));
  EXPECT_EQ(numbers(survivors.layout().cells()), (Numbers{3}));
}

TEST(SurvivorsTest, a_step_that_changes_the_order_of_patches_is_followed) {
  Survivors survivors(TokenLayout::encoder({2, 2}));
  survivors.advance(plan_of(survivors.layout(), {{4, {{4, 1}}}, {2, {{2, 1}}}}));
  EXPECT_EQ(numbers(survivors.layout().cells()), (Numbers{3, 1}));
  EXPECT_EQ(numbers(survivors.total().kept()), (Numbers{0, 4, 2}));
}

TEST(SurvivorsTest, a_plan_for_another_sequence_is_refused) {
  Survivors survivors(TokenLayout::encoder({2, 2}));
  expect_error(
      [&] {
        survivors.advance(ReductionPlan::identity(6, {1, 6}));
      },
      "survivors: the plan takes 6 tokens, the sequence has 5");
}

/// A plan that selects `rows` of `tokens`, all of them taken for visual.
ReductionPlan selection(Index tokens, const std::vector<Token>& rows) {
  std::vector<Row> list;
  for (const Token row : rows) {
    list.push_back({row, {{row, 1}}});
  }
  return plan_of(TokenLayout::decoder(0, tokens, 0), list);
}

TEST(SurvivorsTest, a_step_that_drops_text_is_refused) {
  // Text 0 … 2, image 3 … 5, text 6 … 8.
  const auto layout = TokenLayout::decoder(3, 3, 3);
  for (const Token dropped : {0, 1, 2, 6, 7, 8}) {
    std::vector<Token> rest;
    for (Token row = 0; row < 9; ++row) {
      if (row != dropped) {
        rest.push_back(row);
      }
    }
    Survivors survivors(layout);
    expect_error(
        [&] { survivors.advance(selection(9, rest)); },
        "survivors: the plan drops row " + std::to_string(dropped) + ", which is not visual");
  }
}

TEST(SurvivorsTest, a_step_that_drops_cls_is_refused) {
  Survivors survivors(TokenLayout::encoder({1, 3}));
  expect_error([&] { survivors.advance(selection(4, {1, 2})); }, "the plan drops row 0");
}

TEST(SurvivorsTest, a_refused_step_changes_nothing) {
  Survivors survivors(TokenLayout::decoder(2, 3, 2));
  survivors.advance(plan_of(survivors.layout(), {{2, {{2, 1}}}, {4, {{4, 1}}}}));
  const auto total = numbers(survivors.total().kept());
  expect_error([&] { survivors.advance(selection(6, {0, 1, 2, 5})); }, "drops row 4");
  EXPECT_EQ(numbers(survivors.total().kept()), total);
  EXPECT_EQ(survivors.layout().tokens(), 6);
  EXPECT_EQ(survivors.layout().text_before(), (Range{0, 2}));
  EXPECT_EQ(survivors.layout().text_after(), (Range{4, 6}));
}

}  // namespace
