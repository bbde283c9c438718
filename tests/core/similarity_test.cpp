// SPDX-License-Identifier: Apache-2.0
#include "tokenfold/core/similarity.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "core/support.hpp"
#include "tokenfold/core/token_rows.hpp"

namespace {

using core_test::expect_error;
using core_test::Random;
using core_test::RowMajor;
using tokenfold::HeadsView;
using tokenfold::Index;
using tokenfold::MatrixView;
using tokenfold::Range;
using tokenfold::Span;
using tokenfold::TokenLayout;
using tokenfold::TokenRows;
using tokenfold::Workspace;
using tokenfold::detail::CosineRows;

template <class T>
double naive_cosine(const RowMajor<T>& x, Index i, Index j) {
  double dot = 0;
  double ii = 0;
  double jj = 0;
  for (Index c = 0; c < x.cols(); ++c) {
    const auto a = static_cast<double>(x(i, c));
    const auto b = static_cast<double>(x(j, c));
    dot += a * b;
    ii += a * a;
    jj += b * b;
  }
  return ii > 0 && jj > 0 ? dot / std::sqrt(ii * jj) : 0;
}

template <class T>
class CosineRowsOf : public testing::Test {};
using Scalars = testing::Types<float, double, Eigen::half, Eigen::bfloat16>;
TYPED_TEST_SUITE(CosineRowsOf, Scalars);

TYPED_TEST(CosineRowsOf, rows_and_blocks_are_cosines) {
  using T = TypeParam;
  using Acc = tokenfold::Accumulator<T>;
  Random random(1);
  const Index n = 70;  // more than one widening block
  RowMajor<T> x = random.matrix<T>(n, 9);
  x.row(3).setZero();
  Workspace workspace;
  Workspace::Frame frame(workspace);
  const CosineRows<T> cosines{MatrixView<const T>(x), workspace};
  const double tolerance = std::is_same_v<T, double> ? 1e-14 : 1e-6;

  std::vector<Acc> row(static_cast<std::size_t>(n));
  for (const Index i : {Index{0}, Index{3}, n - 1}) {
    cosines.row(i, row, workspace);
    for (Index j = 0; j < n; ++j) {
      EXPECT_NEAR(static_cast<double>(row[static_cast<std::size_t>(j)]), naive_cosine(x, i, j),
                  tolerance)
          << i << ", " << j;
    }
  }
  const std::vector<Index> rows = {5, 3, 69};
  RowMajor<Acc> block(3, 20);
  cosines.against(rows, Range{50, 70}, MatrixView<Acc>(block), workspace);
  for (Index r = 0; r < 3; ++r) {
    for (Index j = 0; j < 20; ++j) {
      EXPECT_NEAR(static_cast<double>(block(r, j)),
                  naive_cosine(x, rows[static_cast<std::size_t>(r)], 50 + j), tolerance);
    }
  }
}

TEST(CosineRows, rows_that_are_not_finite_are_similar_to_nothing) {
  RowMajor<float> x = RowMajor<float>::Ones(4, 3);
  x(1, 2) = std::numeric_limits<float>::quiet_NaN();
  x(2, 0) = std::numeric_limits<float>::infinity();
  Workspace workspace;
  Workspace::Frame frame(workspace);
  const CosineRows<float> cosines(MatrixView<const float>(x), workspace);
  std::vector<float> row(4);
  cosines.row(0, row, workspace);
  EXPECT_FLOAT_EQ(row[3], 1);
  EXPECT_EQ(row[1], 0);
  EXPECT_EQ(row[2], 0);
  cosines.row(1, row, workspace);
  EXPECT_EQ(row, std::vector<float>(4, 0.0f));
  EXPECT_TRUE(cosines.valid(0));
  EXPECT_FALSE(cosines.valid(1));
  EXPECT_FALSE(cosines.valid(2));
}

TEST(CosineRows, long_and_short_finite_rows_keep_their_direction) {
  RowMajor<float> x(4, 2);
  x << 3e30f, 4e30f, 3, 4, 0, 1e-25f, 3e-25f, 4e-25f;
  Workspace workspace;
  Workspace::Frame frame(workspace);
  const CosineRows<float> cosines(MatrixView<const float>(x), workspace);
  std::vector<float> row(4);
  for (const Index i : {0, 1, 3}) {
    cosines.row(i, row, workspace);
    EXPECT_NEAR(row[0], 1, 1e-6) << i;
    EXPECT_NEAR(row[1], 1, 1e-6) << i;
    EXPECT_NEAR(row[2], 0.8, 1e-6) << i;
    EXPECT_NEAR(row[3], 1, 1e-6) << i;
  }
}

TEST(MeanOverHeads, averages_columns) {
  Random random(2);
  const RowMajor<float> x = random.matrix<float>(5, 6);
  RowMajor<float> mean(5, 2);
  tokenfold::detail::mean_over_heads(HeadsView<const float>(tokenfold::split_heads(x, 3)),
                                     MatrixView<float>(mean));
  for (Index i = 0; i < 5; ++i) {
    for (Index c = 0; c < 2; ++c) {
      EXPECT_NEAR(mean(i, c), (x(i, c) + x(i, 2 + c) + x(i, 4 + c)) / 3, 1e-6);
    }
  }
}

TEST(VisualRows, consecutive_ones_are_viewed_others_copied) {
  Random random(3);
  const RowMajor<float> x = random.matrix<float>(6, 2);
  Workspace workspace;
  Workspace::Frame frame(workspace);
  const TokenLayout decoder = TokenLayout::decoder(1, 4, 1);
  const auto viewed = tokenfold::detail::visual_rows(decoder, TokenRows<float>{x}, "x", workspace);
  EXPECT_EQ(viewed.data(), x.row(1).data());
  EXPECT_EQ(viewed.rows(), 4);
  const TokenRows<float> patches{MatrixView<const float>(x).middle_rows({1, 5}), 1};
  EXPECT_EQ(tokenfold::detail::visual_rows(decoder, patches, "x", workspace).data(),
            x.row(1).data());

  const TokenLayout gap({.tokens = 6, .visual = {0, 6}, .cells = {0, -1, 1, 2, -1, 3}});
  const auto copied = tokenfold::detail::visual_rows(gap, TokenRows<float>{x}, "x", workspace);
  ASSERT_EQ(copied.rows(), 4);
  const Index rows[] = {0, 2, 3, 5};
  for (Index v = 0; v < 4; ++v) {
    EXPECT_EQ(copied(v, 1), x(rows[v], 1));
  }
  expect_error(
      [&] {
        tokenfold::detail::visual_rows(
            decoder, TokenRows<float>{MatrixView<const float>(x).middle_rows({2, 6}), 2}, "x",
            workspace);
      },
      "x: rows [2, 6) were given, but the visual tokens lie in rows [1, 5)");
}

}  // namespace
