// SPDX-License-Identifier: Apache-2.0
#include "tokenfold/core/plan.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <unsupported/Eigen/CXX11/Tensor>

#include "core/support.hpp"
#include "tokenfold/core/plan_writer.hpp"
#include "tokenfold/eigen_sparse.hpp"
#include "tokenfold/std_threads.hpp"

namespace {

using core_test::dense;
using core_test::expect_error;
using core_test::Numbers;
using core_test::numbers;
using core_test::plan_of;
using core_test::Random;
using core_test::Row;
using core_test::RowMajor;
using tokenfold::ClsToken;
using tokenfold::Index;
using tokenfold::MatrixView;
using tokenfold::PlanWriter;
using tokenfold::PositionRule;
using tokenfold::Range;
using tokenfold::ReductionPlan;
using tokenfold::Span;
using tokenfold::Token;
using tokenfold::TokenLayout;
using tokenfold::Workspace;

ReductionPlan selection(const TokenLayout& layout, const std::vector<Token>& rows) {
  std::vector<Row> list;
  for (const Token row : rows) {
    list.push_back({row, {{row, 1}}});
  }
  return plan_of(layout, list);
}

/// CLS and 6 patches (rows 1 … 6): 1, 4, 5 stay, 2 goes to 1 and 4, 3 to 4, 6 into the extra token.
ReductionPlan mixed_plan() {
  return plan_of(TokenLayout::encoder({2, 3}), {{1, {{1, 0.75}, {2, 0.25}}},
                                                {4, {{4, 0.5}, {2, 0.125}, {3, 0.375}}},
                                                {5, {{5, 1}}},
                                                {-1, {{6, 2}}}});
}

/// A random reduction of `layout`: about a third stays, the others are merged into up to three of
/// them.
ReductionPlan random_plan(const TokenLayout& layout, std::uint32_t seed, bool extra) {
  Random random(seed);
  std::vector<Row> rows;
  std::vector<Token> discarded;
  for (const Token row : layout.visual()) {
    if (random() < -0.3 || (rows.empty() && row == layout.visual().end()[-1])) {
      rows.push_back({row, {{row, 1 + random() / 2}}});
    } else {
      discarded.push_back(row);
    }
  }
  for (const Token row : discarded) {
    for (int link = 0; link < 3; ++link) {
      const auto target =
          static_cast<std::size_t>((random() + 1) / 2 * static_cast<double>(rows.size()));
      rows[target].entries.push_back({row, 0.6 + random() / 2});
    }
  }
  if (extra) {
    rows.push_back({-1, {}});
    for (const Token row : discarded) {
      rows.back().entries.push_back({row, 0.5 + random() / 4});
    }
  }
  return plan_of(layout, rows);
}

// --- what a plan says about itself
// ----------------------------------------------------------------

TEST(PlanTest, an_empty_plan_is_harmless) {
  const ReductionPlan plan;
  EXPECT_EQ(plan.input_tokens(), 0);
  EXPECT_EQ(plan.output_tokens(), 0);
  EXPECT_TRUE(plan.is_identity());
  RowMajor<float> nothing(0, 5), out(0, 5);
  plan.apply(nothing, out);
  plan.unmerge(nothing, out);
  EXPECT_EQ(plan.then(plan).output_tokens(), 0);
}

TEST(PlanTest, identity_changes_nothing) {
  const auto plan = ReductionPlan::identity(5, {1, 4});
  EXPECT_TRUE(plan.is_identity());
  EXPECT_TRUE(plan.selects_only());
  EXPECT_EQ(plan.visual(), (Range{1, 4}));
  EXPECT_EQ(numbers(plan.kept()), (Numbers{0, 1, 2, 3, 4}));
  EXPECT_TRUE(dense(plan) == RowMajor<double>::Identity(5, 5));
  Random random(1);
  const RowMajor<float> x = random.matrix<float>(5, 3);
  RowMajor<float> out(5, 3);
  plan.apply(x, out);
  EXPECT_TRUE(x == out);
}

TEST(PlanTest, identity_with_visual_rows_outside_is_refused) {
  for (const Range visual : {Range{2, 6}, Range{-1, 3}, Range{7, 7}, Range{3, 2}}) {
    expect_error([&] { ReductionPlan::identity(5, visual); }, "identity plan: visual rows [");
  }
  expect_error([] { ReductionPlan::identity(-1, {}); }, "lie outside the -1 rows");
}

TEST(PlanTest, a_selection_is_recognised) {
  const auto layout = TokenLayout::encoder({2, 3});
  EXPECT_TRUE(selection(layout, {1, 4}).selects_only());
  EXPECT_FALSE(selection(layout, {1, 4}).is_identity());
  EXPECT_TRUE(selection(layout, {1, 2, 3, 4, 5, 6}).is_identity());
  EXPECT_TRUE(selection(layout, {4, 1}).selects_only());
  EXPECT_FALSE(mixed_plan().selects_only());
  EXPECT_FALSE(plan_of(layout, {{1, {{1, 0.5}}}}).selects_only()) << "scaled";
  EXPECT_FALSE(plan_of(layout, {{1, {{2, 1}}}}).selects_only()) << "another row's content";
  EXPECT_FALSE(plan_of(layout, {{1, {}}}).selects_only()) << "empty";
  EXPECT_FALSE(plan_of(layout, {{-1, {{1, 1}}}}).selects_only()) << "synthetic";
  EXPECT_FALSE(plan_of(layout, {{1, {{1, 1}, {2, 0.5}}}}).selects_only()) << "merged";
}

TEST(PlanTest, another_order_or_a_row_kept_twice_is_no_identity) {
  const auto layout = TokenLayout::decoder(0, 3, 0);
  const auto swapped = selection(layout, {1, 0, 2});
  EXPECT_TRUE(swapped.selects_only());
  EXPECT_FALSE(swapped.is_identity());
  const auto twice = selection(layout, {0, 0, 2});
  EXPECT_TRUE(twice.selects_only());
  EXPECT_FALSE(twice.is_identity());
}

TEST(PlanTest, extra_tokens_are_counted) {
  EXPECT_EQ(mixed_plan().extra_tokens(), 1);
  EXPECT_EQ(numbers(mixed_plan().kept()), (Numbers{0, 1, 4, 5, -1}));
  EXPECT_EQ(mixed_plan().visual(), (Range{1, 5}));
  const auto layout = TokenLayout::decoder(1, 2, 1);
  EXPECT_EQ(plan_of(layout, {{-1, {{1, 1}}}, {-1, {{2, 1}}}}).extra_tokens(), 2);
}

TEST(PlanTest, w_is_an_eigen_sparse_matrix_without_a_copy) {
  const auto plan = random_plan(TokenLayout::encoder({5, 7}), 3, true);
  const auto w = tokenfold::as_eigen(plan);
  EXPECT_EQ(w.valuePtr(), plan.weights().data());
  EXPECT_TRUE((RowMajor<float>(w).cast<double>() == dense(plan)));
}

// --- apply
// ----------------------------------------------------------------------------------------

template <class T>
class PlanApplyTest : public testing::Test {};
using Scalars = testing::Types<float, double, Eigen::half, Eigen::bfloat16>;
TYPED_TEST_SUITE(PlanApplyTest, Scalars);

TYPED_TEST(PlanApplyTest, agrees_with_the_dense_product) {
  // One rounding to T at the end; sums in float, or in double for double.
  const double precision = std::is_same_v<TypeParam, double>        ? 1e-14
                           : std::is_same_v<TypeParam, float>       ? 1e-6
                           : std::is_same_v<TypeParam, Eigen::half> ? 1.0 / 2048
                                                                    : 1.0 / 256;
  for (const Index channels : {1, 2, 7, 511, 512, 513, 1000}) {
    for (const bool extra : {false, true}) {
      const auto plan = random_plan(TokenLayout::encoder({5, 7}), 4, extra);
      Random random(5);
      const RowMajor<TypeParam> x = random.matrix<TypeParam>(36, channels);
      RowMajor<TypeParam> out(plan.output_tokens(), channels);
      plan.apply(x, out);
      const RowMajor<double> w = dense(plan);
      const RowMajor<double> wide = x.template cast<double>();
      const RowMajor<double> expected = w * wide;
      const RowMajor<double> size = w.cwiseAbs() * wide.cwiseAbs();
      for (Index i = 0; i < out.rows(); ++i) {
        for (Index c = 0; c < channels; ++c) {
          ASSERT_NEAR(static_cast<double>(out(i, c)), expected(i, c),
                      precision * (size(i, c) + 1e-3))
              << channels << " channels, row " << i << ", channel " << c;
        }
      }
    }
  }
}

TYPED_TEST(PlanApplyTest, unchanged_rows_are_copied_bit_by_bit) {
  const auto plan = mixed_plan();
  Random random(6);
  const RowMajor<TypeParam> x = random.matrix<TypeParam>(7, 65);
  RowMajor<TypeParam> out(5, 65);
  plan.apply(x, out);
  EXPECT_TRUE((out.row(0).array() == x.row(0).array()).all());
  EXPECT_TRUE((out.row(3).array() == x.row(5).array()).all());
}

TEST(PlanTest, apply_takes_any_row_stride_in_and_out) {
  const auto plan = mixed_plan();
  Random random(7);
  const RowMajor<float> x = random.matrix<float>(7, 11);
  RowMajor<float> expected(5, 11);
  plan.apply(x, expected);

  RowMajor<float> wide_in = RowMajor<float>::Constant(7, 20, std::nanf(""));
  wide_in.middleCols(4, 11) = x;
  RowMajor<float> wide_out = RowMajor<float>::Constant(5, 30, -7);
  plan.apply(wide_in.middleCols(4, 11), wide_out.middleCols(9, 11));
  EXPECT_TRUE(wide_out.middleCols(9, 11) == expected);
  EXPECT_TRUE((wide_out.leftCols(9).array() == -7).all()) << "wrote outside";
  EXPECT_TRUE((wide_out.rightCols(10).array() == -7).all()) << "wrote outside";
}

TEST(PlanTest, apply_takes_views_transposes_and_tensors) {
  const auto plan = mixed_plan();
  Random random(8);
  const RowMajor<float> x = random.matrix<float>(7, 3);
  RowMajor<float> expected(5, 3);
  plan.apply(x, expected);

  Eigen::MatrixXf in = x.transpose();  // one token per column
  Eigen::MatrixXf out(3, 5);
  plan.apply(in.transpose(), out.transpose());
  EXPECT_TRUE(out.transpose() == expected);

  RowMajor<float> by_view(5, 3);
  plan.apply(MatrixView<const float>(x), MatrixView<float>(by_view));
  EXPECT_TRUE(by_view == expected);

  Eigen::Tensor<float, 2, Eigen::RowMajor> tensor(5, 3);
  plan.apply(x, tensor);
  EXPECT_TRUE(MatrixView(tensor).map() == expected);
}

TEST(PlanTest, a_token_that_is_not_read_may_be_anything) {
  const auto plan = selection(TokenLayout::encoder({2, 3}), {1, 5});
  RowMajor<float> x = RowMajor<float>::Constant(7, 4, 1);
  x.row(3).setConstant(std::nanf(""));
  RowMajor<float> out(3, 4);
  plan.apply(x, out);
  EXPECT_TRUE(out == RowMajor<float>::Constant(3, 4, 1));
}

TEST(PlanTest, an_empty_row_gives_zeros) {
  const auto plan = plan_of(TokenLayout::decoder(0, 2, 0), {{-1, {}}});
  RowMajor<float> x = RowMajor<float>::Constant(2, 3, 1);
  RowMajor<float> out = RowMajor<float>::Constant(1, 3, 9);
  plan.apply(x, out);
  EXPECT_TRUE(out == (RowMajor<float>::Zero(1, 3)));
}

TEST(PlanTest, no_channels_are_fine) {
  RowMajor<float> x(7, 0), out(5, 0), back(7, 0);
  mixed_plan().apply(x, out);
  mixed_plan().unmerge(out, back);
}

TEST(PlanTest, apply_refuses_wrong_shapes) {
  const auto plan = mixed_plan();
  RowMajor<float> x(7, 3), short_x(6, 3), out(5, 3), long_out(6, 3), narrow(5, 2);
  expect_error([&] { plan.apply(short_x, out); }, "apply: the plan takes 7 tokens, got 6");
  expect_error([&] { plan.apply(x, long_out); }, "apply: the output must be [5 x 3], got [6 x 3]");
  expect_error([&] { plan.apply(x, narrow); }, "apply: the output must be [5 x 3], got [5 x 2]");
}

TEST(PlanTest, apply_refuses_overlapping_memory) {
  const auto plan = mixed_plan();
  RowMajor<float> x = RowMajor<float>::Zero(12, 3);
  expect_error([&] { plan.apply(x.topRows(7), x.topRows(5)); }, "apply: input and output overlap");
  expect_error([&] { plan.apply(x.topRows(7), x.middleRows(6, 5)); }, "overlap");
  expect_error([&] { plan.apply(x.bottomRows(7), x.middleRows(1, 5)); }, "overlap");
  plan.apply(x.topRows(7), x.bottomRows(5));
  plan.apply(x.bottomRows(7), x.topRows(5));
}

TEST(PlanTest, neighbours_in_one_wide_buffer_do_not_overlap) {
  // The last row of the input ends where the output begins, although its stride reaches further.
  const auto plan = mixed_plan();
  RowMajor<float> buffer = RowMajor<float>::Constant(12, 10, 2);
  plan.apply(buffer.topRows(7).rightCols(3), buffer.bottomRows(5).leftCols(3));
  EXPECT_EQ(buffer(7, 0), 2);
  plan.apply(buffer.bottomRows(7).leftCols(3), buffer.topRows(5).rightCols(3));
  EXPECT_EQ(buffer(0, 9), 2);
}

TEST(PlanTest, columns_of_one_buffer_do_not_overlap) {
  const auto plan = mixed_plan();
  Random random(31);
  RowMajor<float> buffer = random.matrix<float>(7, 20);
  const RowMajor<float> x = buffer.leftCols(10);
  RowMajor<float> expected(5, 10);
  plan.apply(x, expected);
  plan.apply(buffer.leftCols(10), buffer.topRows(5).rightCols(10));
  EXPECT_TRUE(buffer.topRows(5).rightCols(10) == expected);
  EXPECT_TRUE(buffer.leftCols(10) == x);
  plan.gather(buffer.leftCols(10), buffer.bottomRows(5).rightCols(10), 0);
  expect_error([&] { plan.apply(buffer.leftCols(10), buffer.topRows(5).middleCols(9, 10)); },
               "apply: input and output overlap");
  expect_error([&] { plan.apply(buffer.rightCols(10), buffer.bottomRows(5).middleCols(1, 10)); },
               "apply: input and output overlap");
}

TEST(PlanTest, overlap_is_exact_for_equal_strides_and_never_missed) {
  std::vector<float> buffer(400);
  Random random(32);
  const auto below = [&](Index n) { return static_cast<Index>((random() + 1) / 2 * double(n)); };
  int apart = 0, equal_strides = 0;
  for (int i = 0; i < 4000; ++i) {
    const Index stride = 1 + below(12);
    const auto view = [&](Index row_stride) {
      const Index heads = 1 + below(3);
      const Index rows = 1 + below(5), cols = 1 + below(row_stride);
      // [token][head][dim], or [head][token][dim].
      const tokenfold::HeadsView<float>::Strides strides =
          cols * heads <= row_stride
              ? tokenfold::HeadsView<float>::Strides{cols, row_stride}
              : tokenfold::HeadsView<float>::Strides{rows * row_stride, row_stride};
      return tokenfold::HeadsView<float>(buffer.data() + below(100), {heads, rows, cols}, strides);
    };
    const auto a = view(stride), b = view(random() < 0.5 ? stride : 1 + below(12));
    const auto touched = [&](const auto& v) {
      std::vector<bool> cells(buffer.size());
      for (Index h = 0; h < v.heads(); ++h) {
        for (Index r = 0; r < v.tokens(); ++r) {
          for (Index c = 0; c < v.dim(); ++c) {
            cells[static_cast<std::size_t>(&v.head(h)(r, c) - buffer.data())] = true;
          }
        }
      }
      return cells;
    };
    const auto of_a = touched(a), of_b = touched(b);
    bool shared = false;
    for (std::size_t j = 0; j < buffer.size(); ++j) {
      shared = shared || (of_a[j] && of_b[j]);
    }
    const bool answer = tokenfold::detail::overlap(a, b);
    EXPECT_EQ(answer, tokenfold::detail::overlap(b, a));
    EXPECT_TRUE(answer || !shared) << "missed, case " << i;
    if (a.heads() == 1 && b.heads() == 1 && a.tokens() > 1 && b.tokens() > 1 &&
        a.token_stride() == b.token_stride()) {
      EXPECT_EQ(answer, shared) << "case " << i;
      ++equal_strides;
      apart += shared ? 0 : 1;
    }
  }
  EXPECT_GT(equal_strides, 100);
  EXPECT_GT(apart, 20);
}

TEST(PlanTest, overlap_tells_keys_from_values_in_one_buffer) {
  constexpr Index heads = 3, tokens = 5, d = 4;
  std::vector<float> buffer(2 * heads * tokens * d);
  using View = tokenfold::HeadsView<float>;
  const View::Shape shape{heads, tokens, d};
  const auto apart = [&](Index offset, View::Strides strides) {
    return !tokenfold::detail::overlap(View(buffer.data(), shape, strides),
                                       View(buffer.data() + offset, shape, strides));
  };
  EXPECT_TRUE(apart(heads * d, {d, 2 * heads * d})) << "[token][k, v][head][dim]";
  EXPECT_TRUE(apart(d, {2 * tokens * d, 2 * d})) << "[head][token][k, v][dim]";
  EXPECT_TRUE(apart(tokens * d, {2 * tokens * d, d})) << "[head][k, v][token][dim]";
  EXPECT_TRUE(apart(heads * tokens * d, {tokens * d, d})) << "[k, v][head][token][dim]";
  EXPECT_FALSE(apart(d - 1, {2 * tokens * d, 2 * d}));
  EXPECT_FALSE(apart((tokens - 1) * d, {2 * tokens * d, d}));
}

TEST(PlanTest, neighbouring_rows_are_copied_together_and_right) {
  // Runs that end at another order, a repeated row, a merged row, a gap, the end.
  const auto layout = TokenLayout::decoder(2, 9, 2);
  const auto plan = plan_of(layout, {{4, {{4, 1}}},
                                     {5, {{5, 1}}},
                                     {5, {{5, 1}}},
                                     {6, {{6, 0.5}, {7, 0.5}}},
                                     {7, {{7, 1}}},
                                     {9, {{9, 1}}},
                                     {8, {{8, 1}}},
                                     {-1, {{9, 1}}},
                                     {-1, {}}});
  Random random(33);
  for (const Index gap : {0, 3}) {
    const RowMajor<float> in = random.matrix<float>(13, 6 + gap);
    RowMajor<float> out = RowMajor<float>::Constant(plan.output_tokens(), 6 + gap, -7);
    plan.apply(in.leftCols(6), out.leftCols(6));
    const RowMajor<float> expected = dense(plan).cast<float>() * in.leftCols(6);
    EXPECT_TRUE(out.leftCols(6) == expected);
    EXPECT_TRUE((out.rightCols(gap).array() == -7).all());
  }
}

TYPED_TEST(PlanApplyTest, a_channel_does_not_depend_on_its_neighbours) {
  const auto plan = random_plan(TokenLayout::encoder({5, 7}), 34, true);
  Random random(35);
  const RowMajor<TypeParam> x = random.matrix<TypeParam>(36, 300);
  RowMajor<TypeParam> whole(plan.output_tokens(), 300);
  plan.apply(x, whole);
  for (const Range part : {Range{0, 1}, Range{5, 42}, Range{17, 33}, Range{100, 299}}) {
    RowMajor<TypeParam> some(plan.output_tokens(), part.size());
    plan.apply(x.middleCols(part.begin, part.size()), some);
    EXPECT_TRUE(some == whole.middleCols(part.begin, part.size())) << part.begin;
  }
}

TYPED_TEST(PlanApplyTest, threads_give_the_same_bits) {
  for (const auto& plan :
       {mixed_plan(), random_plan(TokenLayout::encoder({5, 7}), 36, true),
        ReductionPlan::identity(4, {0, 4}), selection(TokenLayout::decoder(0, 3, 0), {})}) {
    Random random(37);
    const RowMajor<TypeParam> x = random.matrix<TypeParam>(plan.input_tokens(), 150);
    RowMajor<TypeParam> expected(plan.output_tokens(), 150);
    plan.apply(x, expected);
    const auto check = [&](const auto& executor) {
      RowMajor<TypeParam> out =
          RowMajor<TypeParam>::Constant(plan.output_tokens(), 150, TypeParam(-7));
      plan.apply(x, out, executor);
      EXPECT_TRUE(out == expected);
    };
    check(tokenfold::Serial{});
    check(tokenfold::StdThreads{2});
    check(tokenfold::StdThreads{7});
    check(tokenfold::StdThreads{100});
  }
}

TEST(PlanTest, threads_share_the_work_and_refuse_wrong_shapes) {
  // One row of many entries, many of one: the parts are those that read and write alike much.
  const auto layout = TokenLayout::decoder(0, 200, 0);
  std::vector<Row> rows;
  for (Token row = 0; row < 100; ++row) {
    rows.push_back({row, {{row, 1}}});
  }
  rows.push_back({-1, {}});
  for (Token row = 0; row < 200; ++row) {
    rows.back().entries.push_back({row, 0.5});
  }
  const auto plan = plan_of(layout, rows);
  RowMajor<float> x = RowMajor<float>::Ones(200, 3), out(101, 3), narrow(101, 2);
  Index parts = 0;
  plan.apply(x, out, tokenfold::ParallelFor{4, [&](Index count, const auto& body) {
                                              for (Index i = count; i-- > 0;) {
                                                body(i);
                                              }
                                              parts = count;
                                            }});
  EXPECT_EQ(parts, 4);
  EXPECT_EQ(out(99, 2), 1);
  EXPECT_EQ(out(100, 2), 100);
  expect_error([&] { plan.apply(x, narrow, tokenfold::StdThreads{2}); },
               "apply: the output must be [101 x 3], got [101 x 2]");
  expect_error([&] { plan.apply(x, x.topRows(101), tokenfold::StdThreads{2}); },
               "apply: input and output overlap");
}

// --- shares, unmerge, sizes
// -----------------------------------------------------------------------

TEST(PlanTest, shares_of_a_token_sum_to_one_or_zero) {
  for (const bool extra : {false, true}) {
    const auto plan = random_plan(TokenLayout::encoder({6, 6}), 9, extra);
    std::vector<double> sums(static_cast<std::size_t>(plan.input_tokens()), 0.0);
    for (Index e = 0; e < plan.columns().size(); ++e) {
      sums[static_cast<std::size_t>(plan.columns()[e])] += static_cast<double>(plan.shares()[e]);
    }
    for (const double sum : sums) {
      EXPECT_NEAR(sum, 1.0, 1e-6);
    }
  }
  const auto dropping = selection(TokenLayout::decoder(0, 3, 0), {1});
  EXPECT_EQ(dropping.shares().size(), 1);
  EXPECT_EQ(dropping.shares()[0], 1.0f);
}

TEST(PlanTest, shares_by_hand) {
  // Entries: CLS | 1: 1, 2 | 4: 2, 3, 4 | 5 | extra: 6.
  const auto plan = mixed_plan();
  EXPECT_EQ(numbers(plan.columns()), (Numbers{0, 1, 2, 2, 3, 4, 5, 6}));
  const std::vector<float> expected = {1, 1, 0.25f / 0.375f, 0.125f / 0.375f, 1, 1, 1, 1};
  for (Index e = 0; e < plan.shares().size(); ++e) {
    EXPECT_FLOAT_EQ(plan.shares()[e], expected[static_cast<std::size_t>(e)]) << e;
  }
}

TEST(PlanTest, a_preserved_token_lives_on_in_its_own_row_only) {
  // Row 0 lends to row 1 (as in PruMerge) without moving there; a row kept twice lives in both.
  const auto layout = TokenLayout::decoder(0, 3, 0);
  const auto lending = plan_of(layout, {{0, {{0, 1}}}, {1, {{0, 0.5}, {1, 1}}}});
  EXPECT_EQ(std::vector<float>(lending.shares().begin(), lending.shares().end()),
            (std::vector<float>{1, 0, 1}));
  const auto twice = selection(layout, {2, 2});
  EXPECT_EQ(std::vector<float>(twice.shares().begin(), twice.shares().end()),
            (std::vector<float>{0.5f, 0.5f}));
}

TYPED_TEST(PlanApplyTest, unmerging_a_plan_of_single_targets_gives_exact_copies) {
  // As ToMe merges: every discarded token goes to one other.
  const auto plan = plan_of(TokenLayout::decoder(1, 5, 1),
                            {{1, {{1, 1.0 / 3}, {2, 1.0 / 3}, {5, 1.0 / 3}}}, {4, {{4, 1}}}});
  Random random(10);
  const RowMajor<TypeParam> reduced = random.matrix<TypeParam>(4, 17);
  RowMajor<TypeParam> out(7, 17);
  plan.unmerge(reduced, out, -3);
  const Index source[] = {0, 1, 1, -1, 2, 1, 3};
  for (Index i = 0; i < 7; ++i) {
    for (Index c = 0; c < 17; ++c) {
      const double expected = source[i] < 0 ? -3.0 : static_cast<double>(reduced(source[i], c));
      EXPECT_EQ(static_cast<double>(out(i, c)), expected) << "token " << i;
    }
  }
}

TEST(PlanTest, unmerge_mixes_by_shares) {
  const auto plan = mixed_plan();
  RowMajor<float> reduced(5, 2);
  reduced << 1, 10, 2, 20, 3, 30, 4, 40, 5, 50;
  RowMajor<float> wide = RowMajor<float>::Constant(7, 4, -1);
  plan.unmerge(reduced, wide.middleCols(1, 2));
  const float expected[] = {1, 2, (2 * 2 + 3 * 1) / 3.0f, 3, 3, 4, 5};
  for (Index i = 0; i < 7; ++i) {
    EXPECT_FLOAT_EQ(wide(i, 1), expected[i]);
    EXPECT_FLOAT_EQ(wide(i, 2), 10 * expected[i]);
    EXPECT_EQ(wide(i, 0), -1);
    EXPECT_EQ(wide(i, 3), -1);
  }
}

TEST(PlanTest, unmerge_fills_dropped_tokens_with_zero_unless_told) {
  const auto plan = selection(TokenLayout::decoder(0, 3, 0), {1});
  RowMajor<double> reduced = RowMajor<double>::Constant(1, 2, 4);
  RowMajor<double> out(3, 2);
  plan.unmerge(reduced, out);
  EXPECT_EQ(out(0, 0), 0);
  EXPECT_EQ(out(1, 1), 4);
  plan.unmerge(reduced, out, 0.5);
  EXPECT_EQ(out(2, 1), 0.5);
}

TEST(PlanTest, unmerge_reuses_its_memory) {
  const auto plan = random_plan(TokenLayout::encoder({7, 7}), 38, true);
  Random random(39);
  const RowMajor<float> reduced = random.matrix<float>(plan.output_tokens(), 5);
  RowMajor<float> expected(50, 5), out(50, 5);
  plan.unmerge(reduced, expected, 2);
  Workspace workspace;
  plan.unmerge(reduced, out, workspace, 2);
  EXPECT_TRUE(out == expected);
  const std::size_t warm = workspace.capacity();
  plan.unmerge(reduced, out, workspace);
  EXPECT_EQ(workspace.capacity(), warm);
}

TEST(PlanTest, unmerge_refuses_wrong_shapes) {
  const auto plan = mixed_plan();
  RowMajor<float> reduced(5, 3), long_reduced(6, 3), out(7, 3), narrow(7, 2), short_out(6, 3);
  expect_error([&] { plan.unmerge(long_reduced, out); }, "unmerge: the plan gives 5 tokens, got 6");
  expect_error([&] { plan.unmerge(reduced, narrow); }, "the output must be [7 x 3], got [7 x 2]");
  expect_error([&] { plan.unmerge(reduced, short_out); }, "must be [7 x 3], got [6 x 3]");
}

TEST(PlanTest, sizes_are_conserved) {
  for (const bool extra : {false, true}) {
    const auto plan = random_plan(TokenLayout::encoder({6, 6}), 11, extra);
    Random random(12);
    std::vector<float> in(37);
    double total = 0;
    for (float& size : in) {
      size = static_cast<float>(2 + random());
      total += static_cast<double>(size);
    }
    std::vector<float> out(static_cast<std::size_t>(plan.output_tokens()));
    plan.sizes(in, out);
    double kept = 0;
    for (const float size : out) {
      kept += static_cast<double>(size);
    }
    EXPECT_NEAR(kept, total, 1e-4);
  }
  // A dropped token's size is gone.
  const auto dropping = selection(TokenLayout::decoder(0, 3, 0), {1});
  std::vector<float> out(1);
  dropping.sizes(std::vector<float>{5, 2, 4}, out);
  EXPECT_EQ(out[0], 2.0f);
}

TEST(PlanTest, sizes_refuse_wrong_lengths) {
  std::vector<float> seven(7), five(5), six(6);
  expect_error([&] { mixed_plan().sizes(six, five); }, "expected 7 in and 5 out, got 6 and 5");
  expect_error([&] { mixed_plan().sizes(seven, six); }, "expected 7 in and 5 out, got 7 and 6");
}

// --- composition
// ----------------------------------------------------------------------------------

/// The layout after `plan` with everything that was visual still visual.
TokenLayout after(const ReductionPlan& plan) {
  const Range visual = plan.visual();
  return TokenLayout::decoder(visual.begin, visual.size(), plan.output_tokens() - visual.end);
}

TEST(PlanTest, then_is_the_product_of_the_matrices) {
  const auto first = random_plan(TokenLayout::encoder({7, 7}), 13, true);
  const auto second = random_plan(after(first), 14, false);
  const auto third = random_plan(after(second), 15, true);
  const auto both = first.then(second);
  EXPECT_LT((dense(both) - dense(second) * dense(first)).cwiseAbs().maxCoeff(), 1e-6);
  EXPECT_EQ(both.input_tokens(), 50);
  EXPECT_EQ(both.visual(), second.visual());
  for (Index row = 0; row < both.output_tokens(); ++row) {
    const Token middle = second.kept()[row];
    EXPECT_EQ(both.kept()[row], middle < 0 ? -1 : first.kept()[middle]);
    for (Index e = both.offsets()[row] + 1; e < both.offsets()[row + 1]; ++e) {
      EXPECT_LT(both.columns()[e - 1], both.columns()[e]);
    }
  }
  const auto left = dense(both.then(third));
  const auto right = dense(first.then(second.then(third)));
  EXPECT_LT((left - right).cwiseAbs().maxCoeff(), 1e-6);
  EXPECT_LT((left - dense(third) * dense(second) * dense(first)).cwiseAbs().maxCoeff(), 1e-6);
}

TEST(PlanTest, then_applies_as_both_do) {
  const auto first = random_plan(TokenLayout::encoder({5, 5}), 16, false);
  const auto second = random_plan(after(first), 17, true);
  Random random(18);
  const RowMajor<double> x = random.matrix<double>(26, 9);
  RowMajor<double> middle(first.output_tokens(), 9), stepwise(second.output_tokens(), 9),
      at_once(second.output_tokens(), 9);
  first.apply(x, middle);
  second.apply(middle, stepwise);
  first.then(second).apply(x, at_once);
  EXPECT_LT((at_once - stepwise).cwiseAbs().maxCoeff(), 1e-5);
}

TEST(PlanTest, identity_composes_to_the_same_plan) {
  const auto plan = random_plan(TokenLayout::encoder({5, 5}), 19, true);
  const auto before = ReductionPlan::identity(26, {1, 26}).then(plan);
  const auto behind = plan.then(ReductionPlan::identity(plan.output_tokens(), plan.visual()));
  for (const auto& same : {before, behind}) {
    EXPECT_TRUE(dense(same) == dense(plan));
    EXPECT_EQ(numbers(same.kept()), numbers(plan.kept()));
    EXPECT_EQ(same.visual(), plan.visual());
  }
  const auto layout = TokenLayout::encoder({2, 3});
  EXPECT_TRUE(selection(layout, {1, 3, 5}).then(ReductionPlan::identity(4, {1, 4})).selects_only());
}

TEST(PlanTest, compose_reuses_its_memory) {
  const auto first = random_plan(TokenLayout::encoder({7, 7}), 20, false);
  const auto second = random_plan(after(first), 21, false);
  Workspace workspace;
  ReductionPlan out;
  compose(first, second, workspace, out);
  const std::size_t warm = workspace.capacity();
  const auto* columns = out.columns().data();
  const auto* shares = out.shares().data();
  compose(first, second, workspace, out);
  EXPECT_EQ(workspace.capacity(), warm);
  EXPECT_EQ(out.columns().data(), columns);
  EXPECT_EQ(out.shares().data(), shares);
  EXPECT_TRUE(dense(out) == dense(first.then(second)));
}

TEST(PlanTest, compose_refuses_plans_that_do_not_meet_or_alias) {
  auto first = mixed_plan();
  auto second = ReductionPlan::identity(6, {1, 6});
  expect_error([&] { first.then(second); },
               "then: the first plan gives 5 tokens, the next takes 6");
  auto next = ReductionPlan::identity(5, {1, 5});
  Workspace workspace;
  expect_error([&] { compose(first, next, workspace, first); },
               "compose: the result must be a third");
  expect_error([&] { compose(first, next, workspace, next); },
               "compose: the result must be a third");
}

// --- within
// ---------------------------------------------------------------------------------------

TEST(PlanTest, within_drops_a_leading_cls) {
  const auto patches = mixed_plan().within({1, 7});
  EXPECT_EQ(patches.input_tokens(), 6);
  EXPECT_EQ(numbers(patches.kept()), (Numbers{0, 3, 4, -1}));
  EXPECT_EQ(patches.visual(), (Range{0, 4}));
  EXPECT_TRUE(dense(patches) == dense(mixed_plan()).bottomRightCorner(4, 6));
}

TEST(PlanTest, within_drops_a_trailing_cls_and_keeps_the_extra_row) {
  const auto plan = plan_of(TokenLayout::encoder({2, 2}, ClsToken::last),
                            {{1, {{1, 1}, {0, 0.5}}}, {-1, {{3, 1}}}});
  EXPECT_EQ(numbers(plan.kept()), (Numbers{1, -1, 4}));
  const auto patches = plan.within({0, 4});
  EXPECT_EQ(numbers(patches.kept()), (Numbers{1, -1}));
  EXPECT_EQ(patches.input_tokens(), 4);
  EXPECT_EQ(patches.visual(), (Range{0, 2}));
}

TEST(PlanTest, within_keeps_an_empty_extra_row_with_the_patches) {
  const auto plan = plan_of(TokenLayout::encoder({1, 2}), {{1, {{1, 1}}}, {-1, {}}});
  EXPECT_EQ(numbers(plan.within({1, 3}).kept()), (Numbers{0, -1}));
  EXPECT_EQ(numbers(plan.within({0, 1}).kept()), (Numbers{0}));
}

TEST(PlanTest, within_all_rows_is_the_same_plan) {
  const auto plan = mixed_plan();
  const auto same = plan.within({0, 7});
  EXPECT_TRUE(dense(same) == dense(plan));
  EXPECT_EQ(same.visual(), plan.visual());
}

TEST(PlanTest, within_knows_when_no_visual_token_is_left) {
  const auto none = selection(TokenLayout::encoder({1, 3}), {});
  EXPECT_EQ(none.visual(), (Range{1, 1}));
  EXPECT_EQ(none.within({0, 4}).visual(), (Range{1, 1}));
  EXPECT_EQ(none.within({1, 4}).output_tokens(), 0);
  EXPECT_EQ(none.within({1, 4}).visual(), (Range{0, 0}));
  // Only the text of a decoder.
  const auto decoder = selection(TokenLayout::decoder(2, 3, 2), {3});
  EXPECT_EQ(numbers(decoder.within({5, 7}).kept()), (Numbers{0, 1}));
  EXPECT_TRUE(decoder.within({5, 7}).visual().empty());
  EXPECT_TRUE(decoder.within({0, 2}).visual().empty());
}

TEST(PlanTest, within_reuses_its_memory) {
  const auto plan = random_plan(TokenLayout::encoder({7, 7}), 40, true);
  const auto expected = plan.within({1, 50});
  Workspace workspace;
  ReductionPlan out;
  plan.within({1, 50}, workspace, out);
  const std::size_t warm = workspace.capacity();
  const auto* columns = out.columns().data();
  plan.within({1, 50}, workspace, out);
  EXPECT_EQ(workspace.capacity(), warm);
  EXPECT_EQ(out.columns().data(), columns);
  EXPECT_TRUE(dense(out) == dense(expected));
  EXPECT_EQ(numbers(out.kept()), numbers(expected.kept()));
  EXPECT_EQ(out.visual(), expected.visual());
  expect_error(
      [&] {
        out.within({0, 1}, workspace, out);
      },
      "within: the result must be another plan");
}

TEST(PlanTest, within_refuses_tokens_that_take_from_outside) {
  const auto plan = mixed_plan();
  expect_error(
      [&] {
        plan.within({3, 7});
      },
      "within: output token 2 takes from row 2, which lies outside [3, 7)");
  expect_error([&] { plan.within({1, 8}); }, "within: rows [1, 8) lie outside the plan's 7 tokens");
  expect_error([&] { plan.within({-1, 3}); }, "within: rows [-1, 3) lie outside");
}

// --- hash
// -----------------------------------------------------------------------------------------

TEST(PlanTest, kept_hash_is_the_same_everywhere) {
  // FNV-1a of the little-endian 32-bit words 6, 0, 2, 3, −1, 5.
  const auto plan =
      plan_of(TokenLayout::decoder(1, 4, 1), {{2, {{2, 1}}}, {3, {{3, 1}}}, {-1, {}}});
  EXPECT_EQ(numbers(plan.kept()), (Numbers{0, 2, 3, -1, 5}));
  EXPECT_EQ(plan.kept_hash(), 0x69cec15c1cee5ddbu);
  EXPECT_EQ(ReductionPlan().kept_hash(), 0x4d25767f9dce13f5u);
}

TEST(PlanTest, kept_hash_differs_for_different_sets) {
  const auto layout = TokenLayout::decoder(0, 4, 0);
  std::vector<std::uint64_t> hashes;
  for (int set = 0; set < 16; ++set) {
    std::vector<Token> rows;
    for (Token row = 0; row < 4; ++row) {
      if ((set >> row & 1) != 0) {
        rows.push_back(row);
      }
    }
    hashes.push_back(selection(layout, rows).kept_hash());
  }
  hashes.push_back(selection(TokenLayout::decoder(0, 5, 0), {0, 1}).kept_hash());
  hashes.push_back(selection(layout, {1, 0}).kept_hash());
  std::sort(hashes.begin(), hashes.end());
  EXPECT_EQ(std::adjacent_find(hashes.begin(), hashes.end()), hashes.end());
}

TEST(PlanTest, kept_hash_does_not_depend_on_weights) {
  const auto layout = TokenLayout::decoder(0, 3, 0);
  EXPECT_EQ(plan_of(layout, {{1, {{1, 0.5}, {2, 0.5}}}}).kept_hash(),
            selection(layout, {1}).kept_hash());
}

// --- positions
// ------------------------------------------------------------------------------------

using Positions = RowMajor<std::int32_t>;

TEST(PlanTest, original_positions_keep_their_gaps) {
  // A synthetic token stands where the last visual row stood.
  const auto plan = plan_of(TokenLayout::decoder(2, 4, 2), {{3, {{3, 1}}}, {-1, {}}});
  Positions in(1, 8), out(1, 6), expected(1, 6);
  in << 10, 11, 12, 13, 14, 15, 16, 17;
  EXPECT_EQ(plan.positions(PositionRule::original, MatrixView(in), MatrixView(out)), 18);
  expected << 10, 11, 13, 15, 16, 17;
  EXPECT_TRUE(out == expected);
}

TEST(PlanTest, packed_positions_count_up_from_the_first) {
  const auto plan = plan_of(TokenLayout::decoder(2, 4, 2), {{3, {{3, 1}}}, {5, {{5, 1}}}});
  Positions in(1, 8), out(1, 6), expected(1, 6);
  in << 10, 11, 12, 13, 14, 15, 16, 17;
  EXPECT_EQ(plan.positions(PositionRule::packed, MatrixView(in), MatrixView(out)), 16);
  expected << 10, 11, 12, 13, 14, 15;
  EXPECT_TRUE(out == expected);
}

/// Text at 0 … 4; an image of 2 x 3 cells at t = 5, h = 5 … 6, w = 5 … 7; text from 8 on.
Positions mrope() {
  Positions p(3, 13);
  p << 0, 1, 2, 3, 4, 5, 5, 5, 5, 5, 5, 8, 9,  //
      0, 1, 2, 3, 4, 5, 5, 5, 6, 6, 6, 8, 9,   //
      0, 1, 2, 3, 4, 5, 6, 7, 5, 6, 7, 8, 9;
  return p;
}

TEST(PlanTest, mrope_keeps_grid_positions_in_all_planes) {
  const auto plan = selection(TokenLayout::decoder(5, 6, 2, {2, 3}), {5, 10});
  Positions in = mrope(), out(3, 9), expected(3, 9);
  EXPECT_EQ(plan.positions(PositionRule::original, MatrixView(in), MatrixView(out)), 10);
  expected << 0, 1, 2, 3, 4, 5, 5, 8, 9,  //
      0, 1, 2, 3, 4, 5, 6, 8, 9,          //
      0, 1, 2, 3, 4, 5, 7, 8, 9;
  EXPECT_TRUE(out == expected);
}

TEST(PlanTest, packed_mrope_resumes_text_one_after_the_largest_position_kept) {
  // The column w = 7 goes; the largest position left is 6, so the text begins at 7.
  const auto plan = selection(TokenLayout::decoder(5, 6, 2, {2, 3}), {5, 6, 8, 9});
  Positions in = mrope(), out(3, 11), expected(3, 11);
  EXPECT_EQ(plan.positions(PositionRule::packed, MatrixView(in), MatrixView(out)), 9);
  expected << 0, 1, 2, 3, 4, 5, 5, 5, 5, 7, 8,  //
      0, 1, 2, 3, 4, 5, 5, 6, 6, 7, 8,          //
      0, 1, 2, 3, 4, 5, 6, 5, 6, 7, 8;
  EXPECT_TRUE(out == expected);
}

TEST(PlanTest, packed_mrope_of_a_kept_corner_moves_nothing) {
  const auto plan = selection(TokenLayout::decoder(5, 6, 2, {2, 3}), {7});
  Positions in = mrope(), out(3, 8);
  EXPECT_EQ(plan.positions(PositionRule::packed, MatrixView(in), MatrixView(out)), 10);
  EXPECT_EQ(out(0, 6), 8);
  EXPECT_EQ(out(2, 7), 9);
}

TEST(PlanTest, packed_mrope_without_visual_tokens_joins_the_text) {
  const auto plan = selection(TokenLayout::decoder(5, 6, 2, {2, 3}), {});
  Positions in = mrope(), out(3, 7);
  EXPECT_EQ(plan.positions(PositionRule::packed, MatrixView(in), MatrixView(out)), 7);
  for (Index plane = 0; plane < 3; ++plane) {
    for (Index i = 0; i < 7; ++i) {
      EXPECT_EQ(out(plane, i), i);
    }
  }
}

TEST(PlanTest, synthetic_token_stands_at_the_last_visual_row_in_all_planes) {
  const auto plan = plan_of(TokenLayout::decoder(5, 6, 2, {2, 3}), {{5, {{5, 1}}}, {-1, {{7, 1}}}});
  for (const auto rule : {PositionRule::original, PositionRule::packed}) {
    Positions in = mrope(), out(3, 9);
    EXPECT_EQ(plan.positions(rule, MatrixView(in), MatrixView(out)), 10);
    EXPECT_EQ(out(0, 6), 5);
    EXPECT_EQ(out(1, 6), 6);
    EXPECT_EQ(out(2, 6), 7);
    EXPECT_EQ(out(0, 7), 8) << "row 10, at w = 7, lives on in the synthetic token";
  }
}

TEST(PlanTest, positions_of_nothing) {
  const auto plan = selection(TokenLayout::decoder(0, 2, 0), {});
  Positions in(1, 2), out(1, 0);
  in << 7, 8;
  EXPECT_EQ(plan.positions(PositionRule::packed, MatrixView(in), MatrixView(out)), 7);
}

TEST(PlanTest, positions_refuse_wrong_shapes) {
  const auto plan = mixed_plan();
  Positions in(1, 7), bad_in(1, 6), none(0, 7), out(1, 5), bad_out(1, 6), planes(3, 5);
  const auto call = [&](Positions& from, Positions& to) {
    plan.positions(PositionRule::original, MatrixView(from), MatrixView(to));
  };
  in.setZero();
  expect_error([&] { call(bad_in, out); }, "expected [planes x 7] positions, got [1 x 6]");
  expect_error([&] { call(none, out); }, "expected [planes x 7] positions, got [0 x 7]");
  expect_error([&] { call(in, bad_out); }, "positions: the output must be [1 x 5], got [1 x 6]");
  expect_error([&] { call(in, planes); }, "positions: the output must be [1 x 5], got [3 x 5]");
}

}  // namespace
