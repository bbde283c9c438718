// SPDX-License-Identifier: Apache-2.0
#include "tokenfold/source_map.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/support.hpp"
#include "support/random.hpp"
#include "tokenfold/core/survivors.hpp"

namespace {

using core_test::dense;
using core_test::expect_error;
using core_test::Numbers;
using core_test::numbers;
using core_test::plan_of;
using core_test::Row;
using support::Random;
using tokenfold::Index;
using tokenfold::ReductionPlan;
using tokenfold::SourceMap;
using tokenfold::Survivors;
using tokenfold::Token;
using tokenfold::TokenLayout;
using tokenfold::Workspace;

Numbers rows(tokenfold::Span<const SourceMap::Source> sources) {
  Numbers list;
  for (const auto& source : sources) list.push_back(source.row);
  return list;
}
Numbers outputs(tokenfold::Span<const SourceMap::Taker> takers) {
  Numbers list;
  for (const auto& taker : takers) list.push_back(taker.output);
  return list;
}

/// [CLS], then cells 0 … 5 of 2 x 3 in rows 1 … 6. Rows 1, 4 and 5 stay; 2 goes to 1 and mostly to
/// 4, 3 to 4; 5 lends to 4; 6 is dropped; a synthetic token is made of 2.
ReductionPlan by_hand() {
  return plan_of(TokenLayout::encoder({2, 3}), {{1, {{1, 0.75}, {2, 0.25}}},
                                                {4, {{2, 0.5}, {3, 0.5}, {4, 0.625}, {5, -0.75}}},
                                                {5, {{5, 1}}},
                                                {-1, {{2, 0.125}}}});
}

TEST(SourceMapTest, by_hand) {
  const SourceMap map(by_hand(), TokenLayout::encoder({2, 3}));
  EXPECT_EQ(map.input_tokens(), 7);
  EXPECT_EQ(map.output_tokens(), 5);

  // By magnitude; equal ones by row.
  EXPECT_EQ(rows(map.sources(0)), (Numbers{0}));
  EXPECT_EQ(rows(map.sources(1)), (Numbers{1, 2}));
  EXPECT_EQ(rows(map.sources(2)), (Numbers{5, 4, 2, 3}));
  EXPECT_EQ(rows(map.sources(4)), (Numbers{2}));
  EXPECT_EQ(map.sources(0)[0].cell, -1) << "[CLS] has no cell";
  EXPECT_EQ(map.sources(2)[0].cell, 4);
  EXPECT_EQ(map.sources(2)[0].weight, -0.75f);
  EXPECT_EQ(map.sources(2)[0].share, 0);
  EXPECT_EQ(map.sources(1)[1].weight, 0.25f);
  EXPECT_FLOAT_EQ(map.sources(1)[1].share, 0.25f / 0.875f);

  EXPECT_EQ(outputs(map.takers(2)), (Numbers{2, 1, 4}));
  EXPECT_FLOAT_EQ(map.takers(2)[0].share, 0.5f / 0.875f);
  EXPECT_EQ(outputs(map.takers(5)), (Numbers{3})) << "lending is no moving";
  EXPECT_TRUE(map.takers(6).empty());
  EXPECT_EQ(map.home(2), 2);
  EXPECT_EQ(map.home(6), -1);
  EXPECT_EQ(numbers(map.homes_by_cell()), (Numbers{1, 2, 2, 2, 3, -1}));
}

TEST(SourceMapTest, a_plan_within_the_patches) {
  const auto layout = TokenLayout::encoder({2, 3});
  const SourceMap map(by_hand().within({1, 7}), layout, 1);
  EXPECT_EQ(map.input_tokens(), 6);
  EXPECT_EQ(numbers(map.homes_by_cell()), (Numbers{0, 1, 1, 1, 2, -1}));
  EXPECT_EQ(map.sources(1)[0].row, 4) << "rows are the plan's";
  EXPECT_EQ(map.sources(1)[0].cell, 4);
  expect_error([&] { SourceMap(by_hand(), layout, 1); },
               "source map: the plan's rows [1, 8) lie outside the 7 rows of the layout");
  expect_error([&] { SourceMap(by_hand(), layout, -1); }, "rows [-1, 6) lie outside");
}

TEST(SourceMapTest, equal_shares_go_to_the_lower_output_row) {
  const auto layout = TokenLayout::decoder(0, 3, 0, {1, 3});
  const SourceMap map(plan_of(layout, {{0, {{0, 1}, {1, 0.5}}}, {2, {{1, 0.5}, {2, 1}}}}), layout);
  EXPECT_EQ(outputs(map.takers(1)), (Numbers{0, 1}));
  EXPECT_EQ(numbers(map.homes_by_cell()), (Numbers{0, 0, 1}));
}

TEST(SourceMapTest, cells_that_were_not_there_are_lost) {
  tokenfold::LayoutDescription d;
  d.tokens = 3;
  d.visual = {0, 3};
  d.grid = {2, 2};
  d.cells = {3, -1, 0};
  const TokenLayout layout(d);
  const SourceMap map(plan_of(layout, {{0, {{0, 1}}}, {2, {{2, 1}}}}), layout);
  EXPECT_EQ(numbers(map.homes_by_cell()), (Numbers{2, -1, -1, 0}));
  EXPECT_EQ(map.sources(1)[0].cell, -1) << "a separator";
}

TEST(SourceMapTest, frames_of_a_video) {
  const auto layout = TokenLayout::video(2, {1, 2});
  const SourceMap map(plan_of(layout, {{1, {{1, 0.5}, {3, 0.5}}}, {2, {{2, 1}}}}), layout);
  EXPECT_EQ(numbers(map.homes_by_cell()), (Numbers{-1, 0, 1, 0}));
}

TEST(SourceMapTest, without_a_grid_rows_still_tell) {
  const auto layout = TokenLayout::decoder(1, 3, 1);
  const SourceMap map(plan_of(layout, {{2, {{2, 0.5}, {3, 0.5}}}}), layout);
  EXPECT_TRUE(map.homes_by_cell().empty());
  EXPECT_EQ(map.home(3), 1);
  EXPECT_EQ(map.sources(1)[1].cell, -1);
  EXPECT_EQ(SourceMap(ReductionPlan(), TokenLayout()).output_tokens(), 0);
}

/// One step that discards `count` visual tokens of `layout`, each into up to three others.
ReductionPlan step(const TokenLayout& layout, Index count, bool extra, Random& random) {
  const Index n = layout.visual_count();
  std::vector<Row> list;
  std::vector<bool> goes(static_cast<std::size_t>(n), false);
  for (const Token v : random.sample(count, n)) goes[static_cast<std::size_t>(v)] = true;
  for (Index v = 0; v < n; ++v) {
    if (!goes[static_cast<std::size_t>(v)]) {
      list.push_back({layout.visual()[v], {{layout.visual()[v], 1}}});
    }
  }
  const auto kept = static_cast<Index>(list.size());
  if (extra) list.push_back({-1, {}});
  for (Index v = 0; v < n; ++v) {
    for (int i = 0; goes[static_cast<std::size_t>(v)] && i < 3; ++i) {
      auto& target =
          extra && i == 0 ? list.back() : list[static_cast<std::size_t>(random.below(kept))];
      target.entries.push_back({layout.visual()[v], 0.1 + random.uniform()});
    }
  }
  return plan_of(layout, list);
}

TEST(SourceMapTest, of_a_chain_it_agrees_with_the_product) {
  Random random(1);
  Workspace workspace;
  for (int i = 0; i < 30; ++i) {
    const auto layout = TokenLayout::encoder({5, 6});
    Survivors survivors(layout);
    for (int s = 0; s < 3; ++s) {
      survivors.advance(step(survivors.layout(), 1 + random.below(8), s == i % 3, random),
                        workspace);
    }
    const SourceMap map(survivors.total(), layout);
    const auto w = dense(survivors.total());
    std::size_t entries = 0;
    for (Index out = 0; out < map.output_tokens(); ++out) {
      float before = INFINITY;
      for (const auto& source : map.sources(out)) {
        EXPECT_EQ(static_cast<double>(source.weight), w(out, source.row));
        EXPECT_LE(std::abs(source.weight), before);
        EXPECT_EQ(source.cell, source.row == 0 ? -1 : source.row - 1);
        before = std::abs(source.weight);
        ++entries;
      }
    }
    EXPECT_EQ(entries, static_cast<std::size_t>(survivors.total().columns().size()));
    const auto homes = map.homes_by_cell();
    for (Index row = 0; row < map.input_tokens(); ++row) {
      double sum = 0;
      float most = 0;
      for (const auto& taker : map.takers(row)) {
        sum += static_cast<double>(taker.share);
        most = std::max(most, taker.share);
        EXPECT_GT(w(taker.output, row), 0);
      }
      EXPECT_NEAR(sum, 1, 1e-5);
      EXPECT_EQ(map.takers(row)[0].share, most);
      if (row > 0) {
        EXPECT_EQ(homes[static_cast<std::size_t>(row - 1)], map.takers(row)[0].output);
      }
    }
    // A patch that was preserved throughout is at home in its own row.
    for (Index out = 0; out < map.output_tokens(); ++out) {
      if (survivors.total().kept()[out] >= 0) {
        EXPECT_EQ(map.home(survivors.total().kept()[out]), out);
      }
    }
  }
}

}  // namespace
