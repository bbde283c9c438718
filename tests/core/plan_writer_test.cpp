// SPDX-License-Identifier: Apache-2.0
#include "tokenfold/core/plan_writer.hpp"

#include <gtest/gtest.h>

#include <limits>

#include "core/support.hpp"

namespace {

using core_test::dense;
using core_test::expect_error;
using core_test::Numbers;
using core_test::numbers;
using tokenfold::LayoutDescription;
using tokenfold::PlanWriter;
using tokenfold::Range;
using tokenfold::ReductionPlan;
using tokenfold::TokenLayout;
using tokenfold::Workspace;

/// CLS, patch, separator, patch, separator, patch, padding: visual rows 1, 3, 5.
TokenLayout with_gaps() {
  LayoutDescription d;
  d.tokens = 7;
  d.visual = {1, 6};
  d.cells = {0, -1, 1, -1, 2};
  d.cls = 0;
  return TokenLayout(d);
}

TEST(PlanWriterTest, other_rows_pass_through_in_order) {
  const TokenLayout layout = with_gaps();
  Workspace workspace;
  ReductionPlan plan;
  PlanWriter writer(layout, plan);
  writer.begin_row(1);
  writer.add(1, 1);
  writer.begin_row(5);
  writer.add(5, 1);
  writer.finish(workspace);
  EXPECT_EQ(numbers(plan.kept()), (Numbers{0, 1, 2, 4, 5, 6}));
  EXPECT_EQ(plan.visual(), (Range{1, 5}));
  EXPECT_EQ(plan.input_tokens(), 7);
  EXPECT_TRUE(plan.selects_only());
}

TEST(PlanWriterTest, specials_pass_through_even_if_no_patch_is_left) {
  const TokenLayout layout = with_gaps();
  Workspace workspace;
  ReductionPlan plan;
  PlanWriter(layout, plan).finish(workspace);
  EXPECT_EQ(numbers(plan.kept()), (Numbers{0, 2, 4, 6}));
  EXPECT_EQ(plan.visual(), (Range{1, 3}));
}

TEST(PlanWriterTest, extra_row_comes_right_after_the_visual_rows) {
  const TokenLayout layout = with_gaps();
  Workspace workspace;
  ReductionPlan plan;
  PlanWriter writer(layout, plan);
  writer.begin_row(3);
  writer.add(3, 1);
  writer.begin_extra_row();
  writer.add(5, 0.25);
  writer.add(1, 0.75);
  writer.finish(workspace);
  EXPECT_EQ(numbers(plan.kept()), (Numbers{0, 2, 3, 4, -1, 6}));
  EXPECT_EQ(plan.visual(), (Range{1, 5}));
  EXPECT_EQ(plan.extra_tokens(), 1);
  EXPECT_FALSE(plan.selects_only());
  EXPECT_EQ(dense(plan)(4, 1), 0.75);
  EXPECT_EQ(dense(plan)(4, 5), 0.25);
}

TEST(PlanWriterTest, extra_row_precedes_a_trailing_cls_and_the_text) {
  const auto encoder = TokenLayout::encoder({1, 3}, tokenfold::ClsToken::last);
  Workspace workspace;
  ReductionPlan plan;
  {
    PlanWriter writer(encoder, plan);
    writer.begin_row(1);
    writer.add(1, 1);
    writer.begin_extra_row();
    writer.add(0, 1);
    writer.finish(workspace);
    EXPECT_EQ(numbers(plan.kept()), (Numbers{1, -1, 3}));
    EXPECT_EQ(plan.visual(), (Range{0, 2}));
  }
  const auto decoder = TokenLayout::decoder(2, 3, 2);
  {
    PlanWriter writer(decoder, plan);
    writer.begin_extra_row();
    writer.finish(workspace);
    EXPECT_EQ(numbers(plan.kept()), (Numbers{0, 1, -1, 5, 6}));
    EXPECT_EQ(plan.visual(), (Range{2, 3}));
    EXPECT_EQ(plan.offsets()[3] - plan.offsets()[2], 0) << "an extra row may be empty";
  }
}

TEST(PlanWriterTest, columns_are_sorted_and_duplicates_added_up) {
  const auto layout = TokenLayout::decoder(0, 6, 0);
  Workspace workspace;
  ReductionPlan plan;
  PlanWriter writer(layout, plan);
  writer.begin_row(2);
  for (const int column : {4, 2, 0, 4, 5, 4}) {
    writer.add(column, 0.25);
  }
  writer.begin_row(3);
  writer.add(3, 0.5);
  writer.add(3, 0.5);
  writer.finish(workspace);
  EXPECT_EQ(numbers(plan.offsets()), (Numbers{0, 4, 5}));
  EXPECT_EQ(numbers(plan.columns()), (Numbers{0, 2, 4, 5, 3}));
  EXPECT_EQ(std::vector<float>(plan.weights().begin(), plan.weights().end()),
            (std::vector<float>{0.25f, 0.25f, 0.75f, 0.25f, 1.0f}));
}

TEST(PlanWriterTest, preserved_rows_may_come_in_another_order) {
  const TokenLayout layout = with_gaps();
  Workspace workspace;
  ReductionPlan plan;
  PlanWriter writer(layout, plan);
  for (const int row : {5, 1, 3}) {
    writer.begin_row(row);
    writer.add(row, 1);
  }
  writer.finish(workspace);
  EXPECT_EQ(numbers(plan.kept()), (Numbers{0, 2, 4, 5, 1, 3, 6}));
  EXPECT_TRUE(plan.selects_only());
  EXPECT_FALSE(plan.is_identity());
}

TEST(PlanWriterTest, a_plan_can_be_written_again) {
  const auto layout = TokenLayout::decoder(1, 3, 1);
  Workspace workspace;
  ReductionPlan plan;
  for (int repeat = 0; repeat < 2; ++repeat) {
    PlanWriter writer(layout, plan);
    writer.begin_row(2);
    writer.add(2, 0.5);
    writer.add(1, 0.5);
    writer.finish(workspace);
    EXPECT_EQ(numbers(plan.kept()), (Numbers{0, 2, 4}));
    EXPECT_EQ(plan.columns().size(), 4);
  }
}

TEST(PlanWriterTest, rows_that_are_not_visual_are_refused) {
  const TokenLayout layout = with_gaps();
  ReductionPlan plan;
  PlanWriter writer(layout, plan);
  for (const int row : {0, 2, 6, 7, -1, 1000}) {
    const std::string message = "compress: row " + std::to_string(row) + " is not a visual token";
    expect_error([&] { writer.begin_row(row); }, message);
  }
  writer.begin_row(3);
  for (const int row : {0, 4, 7, -1}) {
    const std::string message = "compress: row " + std::to_string(row) + " is not a visual token";
    expect_error([&] { writer.add(row, 1); }, message);
  }
}

TEST(PlanWriterTest, weights_that_are_not_finite_are_refused) {
  const TokenLayout layout = with_gaps();
  ReductionPlan plan;
  PlanWriter writer(layout, plan);
  writer.begin_row(3);
  for (const double weight :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(), 1e300}) {
    expect_error([&] { writer.add(3, weight); }, "compress: the weight of row 3 is not finite");
  }
}

TEST(PlanWriterTest, a_weight_without_a_row_is_refused) {
  const TokenLayout layout = with_gaps();
  ReductionPlan plan;
  PlanWriter writer(layout, plan);
  expect_error([&] { writer.add(3, 1); }, "compress: begin a row before adding to it");
}

TEST(PlanWriterTest, a_layout_without_tokens_gives_an_empty_plan) {
  const TokenLayout layout;
  Workspace workspace;
  ReductionPlan plan;
  PlanWriter(layout, plan).finish(workspace);
  EXPECT_EQ(plan.output_tokens(), 0);
  EXPECT_TRUE(plan.is_identity());
}

}  // namespace
