// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <random>
#include <tokenfold/core/dot_products.hpp>
#include <tokenfold/std_threads.hpp>
#include <vector>

namespace {

using namespace tokenfold;

/// Rows × cols of T with `gap` foreign elements (NaN) behind every row.
template <class T>
struct Rows {
  Rows(Index rows, Index cols, Index gap, unsigned seed)
      : values(static_cast<std::size_t>(rows * (cols + gap)), std::numeric_limits<T>::quiet_NaN()),
        view(values.data(), rows, cols, cols + gap) {
    std::mt19937 engine(seed);
    std::normal_distribution<double> normal;
    for (Index i = 0; i < rows; ++i) {
      for (Index j = 0; j < cols; ++j) {
        view(i, j) = static_cast<T>(normal(engine));
      }
    }
  }

  std::vector<T> values;
  MatrixView<T> view;
};

template <class T>
std::vector<Accumulator<T>> products(MatrixView<const Accumulator<T>> left,
                                     MatrixView<const T> right, Workspace& workspace) {
  std::vector<Accumulator<T>> out(static_cast<std::size_t>(left.rows() * right.rows()));
  detail::add_dot_products(
      left, right, MatrixView<Accumulator<T>>(out.data(), left.rows(), right.rows()), workspace);
  return out;
}

template <class T>
class DotProducts : public testing::Test {};

using Scalars = testing::Types<float, double, Eigen::half, Eigen::bfloat16>;
TYPED_TEST_SUITE(DotProducts, Scalars);

TYPED_TEST(DotProducts, are_the_sums_over_all_channels) {
  using T = TypeParam;
  using Acc = Accumulator<T>;
  Workspace workspace;
  for (const Index left_rows : {1, 3, 4, 13, 97}) {
    for (const Index right_rows : {1, 4, 38}) {
      for (const Index channels : {1, 7, 64, 1023, 2100}) {
        const Rows<Acc> left(left_rows, channels, 3, 1);
        const Rows<T> right(right_rows, channels, 5, 2);
        const auto out = products<T>(left.view, right.view, workspace);
        for (Index i = 0; i < left_rows; ++i) {
          for (Index j = 0; j < right_rows; ++j) {
            double sum = 0;
            double size = 0;
            for (Index c = 0; c < channels; ++c) {
              const double term =
                  static_cast<double>(left.view(i, c)) * static_cast<double>(right.view(j, c));
              sum += term;
              size += std::abs(term);
            }
            const double epsilon = std::numeric_limits<Acc>::epsilon();
            ASSERT_NEAR(static_cast<double>(out[static_cast<std::size_t>(i * right_rows + j)]), sum,
                        16 * epsilon * size)
                << left_rows << " x " << right_rows << " x " << channels << ": " << i << ", " << j;
          }
        }
      }
    }
  }
}

TYPED_TEST(DotProducts, have_the_same_bits_in_any_company_and_either_order) {
  using T = TypeParam;
  using Acc = Accumulator<T>;
  Workspace workspace;
  const Index channels = 1100;
  const Rows<T> x(103, channels, 0, 3);
  Rows<Acc> wide(103, channels, 0, 3);
  wide.view.map() = x.view.map().template cast<Acc>();
  const MatrixView<const Acc> left(wide.view);
  const MatrixView<const T> right(x.view);
  const auto all = products<T>(left, right, workspace);
  const auto at = [&](Index i, Index j) { return all[static_cast<std::size_t>(i * 103 + j)]; };
  for (Index i = 0; i < 103; ++i) {
    for (Index j = 0; j < i; ++j) {
      ASSERT_EQ(at(i, j), at(j, i)) << i << ", " << j;
    }
  }
  for (const Range rows : {Range{0, 1}, Range{5, 7}, Range{50, 61}, Range{99, 103}}) {
    for (const Range columns : {Range{0, 1}, Range{3, 9}, Range{40, 100}}) {
      const auto some = products<T>(left.middle_rows(rows), right.middle_rows(columns), workspace);
      for (Index i = 0; i < rows.size(); ++i) {
        for (Index j = 0; j < columns.size(); ++j) {
          ASSERT_EQ(some[static_cast<std::size_t>(i * columns.size() + j)],
                    at(rows.begin + i, columns.begin + j));
        }
      }
    }
  }
}

TYPED_TEST(DotProducts, have_the_same_bits_on_several_threads) {
  using T = TypeParam;
  Workspace alone;
  Workspace together;
  const StdThreads threads{3};
  together.run_on(threads);
  const Rows<Accumulator<T>> left(7, 300, 0, 4);
  const Rows<T> right(150, 300, 0, 5);
  EXPECT_EQ(products<T>(left.view, right.view, alone),
            products<T>(left.view, right.view, together));
}

TEST(DotProductsOfNothing, leave_what_was_there) {
  Workspace workspace;
  std::vector<float> out(6, 2.0f);
  detail::add_dot_products(MatrixView<const float>(nullptr, 2, 0),
                           MatrixView<const float>(nullptr, 3, 0),
                           MatrixView<float>(out.data(), 2, 3), workspace);
  EXPECT_THAT(out, testing::Each(2.0f));
  detail::add_dot_products(MatrixView<const float>(nullptr, 0, 5),
                           MatrixView<const float>(out.data(), 1, 5),
                           MatrixView<float>(out.data(), 0, 1), workspace);
  EXPECT_THAT(out, testing::Each(2.0f));
}

TEST(DotProductsOfBadRows, spoil_no_others) {
  Workspace workspace;
  Rows<float> left(5, 20, 0, 6);
  Rows<float> right(9, 20, 0, 7);
  const auto good = products<float>(left.view, right.view, workspace);
  left.view(1, 4) = std::numeric_limits<float>::quiet_NaN();
  right.view(6, 2) = std::numeric_limits<float>::infinity();
  const auto out = products<float>(left.view, right.view, workspace);
  for (std::size_t i = 0; i < 5; ++i) {
    for (std::size_t j = 0; j < 9; ++j) {
      if (i == 1 || j == 6) {
        EXPECT_FALSE(std::isfinite(out[i * 9 + j]));
      } else {
        EXPECT_EQ(out[i * 9 + j], good[i * 9 + j]);
      }
    }
  }
}

}  // namespace
