// SPDX-License-Identifier: Apache-2.0
// One plan, several tensors: planes, in place, and what cannot be averaged.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <limits>
#include <unsupported/Eigen/CXX11/Tensor>

#include "core/support.hpp"
#include "support/random.hpp"
#include "tokenfold/core/plan.hpp"

namespace {

using core_test::dense;
using core_test::expect_error;
using core_test::plan_of;
using core_test::Row;
using core_test::RowMajor;
using support::Random;
using tokenfold::HeadsView;
using tokenfold::Index;
using tokenfold::MatrixView;
using tokenfold::ReductionPlan;
using tokenfold::Span;
using tokenfold::Token;
using tokenfold::TokenLayout;
using tokenfold::Workspace;

/// A plan over text, `visual` patches and text. `merge`: discarded tokens go to preserved ones;
/// `shuffle`: preserved tokens in any order; `extra`: synthetic tokens at the end.
ReductionPlan random_plan(Random& random, Index visual, bool merge, bool shuffle, int extra) {
  const auto layout = TokenLayout::decoder(2, visual, 3);
  std::vector<Token> preserved = random.sample(1 + random.below(visual), visual);
  if (shuffle) {
    random.shuffle(preserved);
  }
  std::vector<Row> rows;
  std::vector<Token> discarded;
  for (Token v = 0; v < visual; ++v) {
    if (std::find(preserved.begin(), preserved.end(), v) == preserved.end()) {
      discarded.push_back(v + 2);
    }
  }
  for (const Token v : preserved) {
    rows.push_back({v + 2, {{v + 2, 1}}});
    if (merge && random.chance(0.7)) {
      rows.back().entries[0].weight = 0.5;
      for (int i = 0; i < 3; ++i) {
        // From a discarded token, or borrowed from a preserved one.
        const auto& from = discarded.empty() || random.chance(0.2) ? preserved : discarded;
        const Token row =
            from[static_cast<std::size_t>(random.below(static_cast<Index>(from.size())))];
        rows.back().entries.push_back({&from == &preserved ? row + 2 : row, random.uniform()});
      }
    }
  }
  for (int i = 0; i < extra; ++i) {
    rows.push_back({-1,
                    {{static_cast<Token>(2 + random.below(visual)), 0.5},
                     {static_cast<Token>(2 + random.below(visual)), 0.25}}});
  }
  return plan_of(layout, rows);
}

template <class T>
RowMajor<T> random_matrix(Index rows, Index cols, Random& random) {
  RowMajor<T> m(rows, cols);
  for (Index i = 0; i < m.size(); ++i) {
    m.data()[i] = static_cast<T>(random.normal());
  }
  return m;
}

Index rows_in_place(const ReductionPlan& plan) {
  return std::max(plan.input_tokens(), plan.output_tokens());
}

template <class T>
class InPlaceTest : public testing::Test {};
using Scalars = testing::Types<float, double, Eigen::half, Eigen::bfloat16>;
TYPED_TEST_SUITE(InPlaceTest, Scalars);

// --- in place
// ------------------------------------------------------------------------------------

TYPED_TEST(InPlaceTest, gives_the_bits_of_apply) {
  using T = TypeParam;
  Random random(1);
  Workspace workspace;
  int longer = 0;
  for (int i = 0; i < 400; ++i) {
    const auto plan = random_plan(random, 1 + random.below(12), (i & 1) != 0, (i & 2) != 0,
                                  (i & 4) != 0 ? 1 + static_cast<int>(random.below(3)) : 0);
    longer += plan.output_tokens() > plan.input_tokens() ? 1 : 0;
    const Index cols = i % 7 == 0 ? 515 : 1 + random.below(9);
    const RowMajor<T> tokens = random_matrix<T>(plan.input_tokens(), cols, random);
    RowMajor<T> expected(plan.output_tokens(), cols);
    plan.apply(tokens, expected);

    RowMajor<T> wide = RowMajor<T>::Constant(rows_in_place(plan), cols + 5, T(77));
    wide.block(0, 2, plan.input_tokens(), cols) = tokens;
    plan.apply_in_place(workspace, wide.middleCols(2, cols));
    EXPECT_TRUE(wide.block(0, 2, plan.output_tokens(), cols) == expected) << i;
    EXPECT_TRUE((wide.leftCols(2).array() == T(77)).all()) << "wrote outside";
    EXPECT_TRUE((wide.rightCols(3).array() == T(77)).all()) << "wrote outside";
  }
  EXPECT_GT(longer, 5) << "plans that lengthen the sequence must be among the cases";
}

TEST(SidePlanesTest, a_row_is_read_before_it_is_lost) {
  // Row 0 becomes token 2; row 1 still needs tokens 0 and 1, row 2 still token 0.
  const auto plan =
      plan_of(TokenLayout::decoder(0, 4, 0),
              {{2, {{2, 1}}}, {1, {{0, 0.5}, {1, 0.5}}}, {0, {{0, 1}}}, {-1, {{3, 1}, {1, 2}}}});
  RowMajor<float> x(4, 1);
  x << 1, 10, 100, 1000;
  Workspace workspace;
  plan.apply_in_place(workspace, x);
  EXPECT_EQ(x(0, 0), 100);
  EXPECT_EQ(x(1, 0), 5.5f);
  EXPECT_EQ(x(2, 0), 1);
  EXPECT_EQ(x(3, 0), 1020);
}

TEST(SidePlanesTest, only_rows_that_are_read_late_are_copied) {
  const auto layout = TokenLayout::decoder(1, 6, 1);
  const auto late = [](const ReductionPlan& plan) {
    Workspace workspace;
    const auto rows = tokenfold::detail::rows_read_late(
        {plan.offsets(), plan.columns(), plan.weights()}, plan.input_tokens(), workspace);
    return core_test::numbers(rows.rows);
  };
  // Selections in order, and merging backwards.
  EXPECT_TRUE(late(plan_of(layout, {{2, {{2, 1}}}, {5, {{5, 1}}}})).empty());
  EXPECT_TRUE(late(plan_of(layout, {{2, {{2, 0.5}, {6, 0.5}}}, {5, {{5, 1}}}})).empty());
  // Token 1 was replaced by token 2 when token 5 takes from it.
  EXPECT_EQ(late(plan_of(layout, {{2, {{2, 1}}}, {5, {{1, 0.5}, {5, 0.5}}}})),
            core_test::Numbers{1});
  // Token 1 stayed where and what it was, so nothing is lost by lending.
  EXPECT_TRUE(late(plan_of(layout, {{1, {{1, 1}}}, {5, {{1, 0.5}, {5, 0.5}}}})).empty());
  // It stayed, but changed.
  EXPECT_EQ(late(plan_of(layout, {{1, {{1, 0.5}}}, {5, {{1, 0.5}, {5, 0.5}}}})),
            core_test::Numbers{1});
}

TEST(SidePlanesTest, tokens_that_nobody_reads_may_be_anything) {
  const auto plan = plan_of(TokenLayout::decoder(1, 3, 0), {{2, {{2, 1}}}, {1, {{1, 1}}}});
  RowMajor<float> x(4, 2);
  x << 1, 1, 2, 2, 3, 3, NAN, NAN;
  Workspace workspace;
  plan.apply_in_place(workspace, x);
  RowMajor<float> expected(3, 2);
  expected << 1, 1, 3, 3, 2, 2;
  EXPECT_TRUE(x.topRows(3) == expected);
}

TEST(SidePlanesTest, several_planes_of_several_types_stay_in_step) {
  Random random(2);
  Workspace workspace;
  const auto plan = random_plan(random, 20, true, true, 1);
  const Index rows = rows_in_place(plan);
  RowMajor<float> embeddings = random_matrix<float>(rows, 33, random);
  RowMajor<Eigen::half> deep = random_matrix<Eigen::half>(rows, 7, random);
  std::vector<double> weights(static_cast<std::size_t>(rows), 2);
  const RowMajor<float> first = embeddings.topRows(plan.input_tokens());
  const RowMajor<Eigen::half> second = deep.topRows(plan.input_tokens());
  RowMajor<float> expected_first(plan.output_tokens(), 33);
  RowMajor<Eigen::half> expected_second(plan.output_tokens(), 7);
  plan.apply(first, expected_first);
  plan.apply(second, expected_second);

  plan.apply_in_place(workspace, embeddings, deep, weights);
  EXPECT_TRUE(embeddings.topRows(plan.output_tokens()) == expected_first);
  EXPECT_TRUE(deep.topRows(plan.output_tokens()) == expected_second);
  const RowMajor<double> w = dense(plan);
  for (Index i = 0; i < plan.output_tokens(); ++i) {
    EXPECT_NEAR(weights[static_cast<std::size_t>(i)], 2 * w.row(i).sum(), 1e-6);
  }
}

TEST(SidePlanesTest, nothing_is_changed_if_one_plane_is_refused) {
  const auto plan = plan_of(TokenLayout::decoder(1, 3, 0), {{2, {{2, 0.5}, {1, 0.5}}}});
  RowMajor<float> good = RowMajor<float>::Random(4, 2), short_plane(3, 2);
  std::vector<std::int32_t> ids(4, 1);
  const RowMajor<float> before = good;
  Workspace workspace;
  expect_error([&] { plan.apply_in_place(workspace, good, short_plane); },
               "apply_in_place: a plane must have 4 rows, got 3");
  expect_error([&] { plan.apply_in_place(workspace, good, ids); },
               "apply_in_place: the plan merges tokens, which needs planes of real numbers");
  EXPECT_TRUE(good == before);
}

struct Record {
  std::int64_t image;
  char kind;
};

TEST(SidePlanesTest, integers_and_records_move_with_a_selection) {
  Random random(3);
  for (const bool shuffle : {false, true}) {
    const auto plan = random_plan(random, 9, false, shuffle, 0);
    std::vector<std::int32_t> ids(14);
    std::vector<Record> records(14);
    RowMajor<std::int32_t> positions(14, 3);
    for (int i = 0; i < 14; ++i) {
      ids[static_cast<std::size_t>(i)] = 1000 + i;
      records[static_cast<std::size_t>(i)] = {i, 'a'};
      positions.row(i).setConstant(i);
    }
    Workspace workspace;
    plan.apply_in_place(workspace, ids, records, positions);
    for (Index i = 0; i < plan.output_tokens(); ++i) {
      EXPECT_EQ(ids[static_cast<std::size_t>(i)], 1000 + plan.kept()[i]);
      EXPECT_EQ(records[static_cast<std::size_t>(i)].image, plan.kept()[i]);
      EXPECT_EQ(positions(i, 2), plan.kept()[i]);
    }
  }
}

TEST(SidePlanesTest, in_place_asks_for_no_memory_once_warm) {
  Random random(4);
  const auto plan = random_plan(random, 30, true, true, 0);
  RowMajor<float> x = random_matrix<float>(35, 40, random);
  Workspace workspace;
  plan.apply_in_place(workspace, x);
  const std::size_t warm = workspace.capacity();
  plan.apply_in_place(workspace, x, x);
  EXPECT_EQ(workspace.capacity(), warm);
}

TEST(SidePlanesTest, an_empty_plan_and_no_channels_are_fine) {
  Workspace workspace;
  RowMajor<float> nothing(0, 5), thin(4, 0);
  ReductionPlan().apply_in_place(workspace, nothing);
  plan_of(TokenLayout::decoder(1, 3, 0), {}).apply_in_place(workspace, thin);
}

// --- planes in one tensor
// ------------------------------------------------------------------------

TEST(SidePlanesTest, planes_of_one_tensor_in_any_layout) {
  Random random(5);
  Workspace workspace;
  for (int i = 0; i < 40; ++i) {
    const auto plan = random_plan(random, 8, i % 2 == 0, i % 3 == 0, i % 2);
    const Index in = plan.input_tokens(), out = plan.output_tokens(), room = rows_in_place(plan);
    constexpr Index planes = 3, d = 5;
    // [plane][token][channel] with a gap behind each plane, or [token][plane][channel].
    const bool adjacent = i % 4 < 2;
    const HeadsView<float>::Strides strides = adjacent ? HeadsView<float>::Strides{d, planes * d}
                                                       : HeadsView<float>::Strides{room * d + 3, d};
    std::vector<float> buffer(static_cast<std::size_t>(planes * (room * d + 3)), -1);
    for (float& value : buffer) value = static_cast<float>(random.normal());
    std::vector<float> output(buffer.size(), -1);
    const HeadsView<float> view(buffer.data(), {planes, room, d}, strides);
    const HeadsView<float> target(output.data(), {planes, out, d}, strides);

    std::vector<RowMajor<float>> expected;
    for (Index p = 0; p < planes; ++p) {
      expected.emplace_back(out, d);
      plan.apply(view.head(p).middle_rows({0, in}), expected.back());
    }
    plan.apply(HeadsView<const float>(view.middle_tokens({0, in})), target);
    plan.apply_in_place(workspace, view);
    for (Index p = 0; p < planes; ++p) {
      EXPECT_TRUE(target.head(p).map() == expected[static_cast<std::size_t>(p)]);
      EXPECT_TRUE(view.head(p).map().topRows(out) == expected[static_cast<std::size_t>(p)]);
    }
  }
}

TEST(SidePlanesTest, planes_refuse_wrong_shapes_and_overlap) {
  const auto plan = plan_of(TokenLayout::decoder(1, 3, 0), {{2, {{2, 1}}}});
  std::vector<float> in(32), out(32);
  const HeadsView<float> from(in.data(), {2, 4, 4}, {16, 4});
  const HeadsView<float> one(out.data(), {1, 2, 4}, {8, 4}), longer(out.data(), {2, 3, 4}, {12, 4}),
      same(in.data(), {2, 2, 4}, {16, 4});
  expect_error([&] { plan.apply(from, one); }, "apply: 2 planes were given, 1 for the output");
  expect_error([&] { plan.apply(from, longer); }, "apply: the output must be [2 x 4], got [3 x 4]");
  expect_error([&] { plan.apply(from, same); }, "apply: input and output overlap");
  // Between the planes of the input there is room, but not for certain.
  const HeadsView<float> sparse(in.data(), {2, 4, 2}, {24, 2}),
      gap(in.data() + 10, {2, 2, 2}, {4, 2});
  expect_error([&] { plan.apply(sparse, gap); }, "apply: input and output overlap");
}

// --- gather
// --------------------------------------------------------------------------------------

TEST(SidePlanesTest, gather_takes_the_kept_rows_whatever_is_merged) {
  const auto plan =
      plan_of(TokenLayout::decoder(1, 4, 1), {{1, {{1, 0.5}, {2, 0.5}}}, {4, {{4, 1}}}});
  const std::vector<std::int32_t> ids = {7, 11, 12, 13, 14, 9};
  std::vector<std::int32_t> out(4);
  plan.gather(ids, out);
  EXPECT_EQ(out, (std::vector<std::int32_t>{7, 11, 14, 9}));

  RowMajor<std::int64_t> rows(6, 2), kept(4, 2), expected(4, 2);
  rows << 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11;
  expected << 0, 1, 2, 3, 8, 9, 10, 11;
  plan.gather(rows, kept);
  EXPECT_TRUE(kept == expected);
  RowMajor<float> wide = RowMajor<float>::Constant(6, 4, 5), column = wide.topRows(4);
  plan.gather(wide.middleCols(1, 2), column.rightCols(2));
  EXPECT_TRUE(column == RowMajor<float>::Constant(4, 4, 5));
}

TEST(SidePlanesTest, gather_fills_synthetic_tokens_or_refuses_them) {
  const auto plan = plan_of(TokenLayout::decoder(0, 3, 1), {{1, {{1, 1}}}, {-1, {{0, 1}}}});
  const std::vector<std::int32_t> ids = {7, 8, 9, 10};
  std::vector<std::int32_t> out(3);
  expect_error([&] { plan.gather(ids, out); },
               "gather: the plan has synthetic tokens, which continue no row; give a fill value");
  plan.gather(ids, out, -5);
  EXPECT_EQ(out, (std::vector<std::int32_t>{8, -5, 10}));
}

TEST(SidePlanesTest, gather_refuses_wrong_shapes) {
  const auto plan = plan_of(TokenLayout::decoder(0, 3, 0), {{1, {{1, 1}}}});
  std::vector<std::int32_t> three(3), two(2), one(1);
  RowMajor<std::int32_t> narrow(3, 2), thin(1, 1);
  expect_error([&] { plan.gather(two, one); }, "gather: the plan takes 3 tokens, got 2");
  expect_error([&] { plan.gather(three, two); }, "gather: the output must be [1 x 1], got [2 x 1]");
  expect_error([&] { plan.gather(narrow, thin); },
               "gather: the output must be [1 x 2], got [1 x 1]");
  expect_error([&] { plan.gather(three, Span<std::int32_t>(three.data() + 2, 1)); },
               "gather: input and output overlap");
}

}  // namespace
