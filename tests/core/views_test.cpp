// SPDX-License-Identifier: Apache-2.0
#include "tokenfold/core/views.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <type_traits>
#include <unsupported/Eigen/CXX11/Tensor>
#include <vector>

#include "core/support.hpp"

namespace {

using core_test::expect_error;
using core_test::RowMajor;
using tokenfold::heads_view;
using tokenfold::HeadsView;
using tokenfold::Index;
using tokenfold::MatrixView;
using tokenfold::split_heads;

template <class T>
void expect_view(const MatrixView<T>& view, const std::remove_const_t<T>* data, Index rows,
                 Index cols, Index row_stride) {
  EXPECT_EQ(view.data(), data) << "copied, or begins elsewhere";
  EXPECT_EQ(view.rows(), rows);
  EXPECT_EQ(view.cols(), cols);
  if (rows > 1) {
    EXPECT_EQ(view.row_stride(), row_stride);
  }
}

template <class T>
RowMajor<T> counting(Index rows, Index cols) {
  RowMajor<T> m(rows, cols);
  for (Index i = 0; i < m.size(); ++i) {
    m.data()[i] = static_cast<T>(i);
  }
  return m;
}

TEST(MatrixViewTest, row_major_matrix_is_viewed_in_place) {
  RowMajor<float> m = counting<float>(3, 4);
  const MatrixView view(m);
  static_assert(std::is_same_v<decltype(view), const MatrixView<float>>);
  expect_view(view, m.data(), 3, 4, 4);
  EXPECT_TRUE(view.contiguous());
  view(2, 1) = 42;
  EXPECT_EQ(m(2, 1), 42);
}

TEST(MatrixViewTest, const_matrix_gives_a_view_that_only_reads) {
  const RowMajor<double> m = counting<double>(2, 3);
  const MatrixView view(m);
  static_assert(std::is_same_v<decltype(view), const MatrixView<const double>>);
  static_assert(!std::is_constructible_v<MatrixView<double>, MatrixView<const double>>);
  expect_view(view, m.data(), 2, 3, 3);
  EXPECT_EQ(view(1, 2), 5);
}

TEST(MatrixViewTest, writable_view_converts_to_reading_view_of_the_same_memory) {
  RowMajor<float> m = counting<float>(2, 3);
  const MatrixView<const float> reading = MatrixView<float>(m);
  expect_view(reading, m.data(), 2, 3, 3);
  expect_view(MatrixView<const float>(m), m.data(), 2, 3, 3);
}

TEST(MatrixViewTest, fixed_size_matrix_and_array_are_viewed_in_place) {
  Eigen::Matrix<float, 2, 3, Eigen::RowMajor> fixed;
  expect_view(MatrixView(fixed), fixed.data(), 2, 3, 3);
  Eigen::Array<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> array(4, 2);
  expect_view(MatrixView(array), array.data(), 4, 2, 2);
}

TEST(MatrixViewTest, half_and_bfloat16_matrices_are_viewed_in_place) {
  RowMajor<Eigen::half> half(2, 3);
  expect_view(MatrixView(half), half.data(), 2, 3, 3);
  RowMajor<Eigen::bfloat16> brain(2, 3);
  expect_view(MatrixView(brain), brain.data(), 2, 3, 3);
}

TEST(MatrixViewTest, map_is_viewed_in_place) {
  std::vector<float> memory(12);
  const Eigen::Map<RowMajor<float>> map(memory.data(), 3, 4);
  expect_view(MatrixView<const float>(map), memory.data(), 3, 4, 4);
  Eigen::Map<RowMajor<float>> writable(memory.data(), 3, 4);
  static_assert(std::is_same_v<decltype(MatrixView(writable)), MatrixView<float>>);
  const MatrixView view(writable);
  view(0, 3) = 7;
  EXPECT_EQ(memory[3], 7);
  const Eigen::Map<const RowMajor<float>> reading(memory.data(), 3, 4);
  static_assert(std::is_same_v<decltype(MatrixView(reading)), MatrixView<const float>>);
  expect_view(MatrixView(reading), memory.data(), 3, 4, 4);
}

TEST(MatrixViewTest, map_with_outer_stride_keeps_the_stride) {
  std::vector<float> memory(30);
  Eigen::Map<RowMajor<float>, 0, Eigen::OuterStride<>> map(memory.data(), 3, 4,
                                                           Eigen::OuterStride<>(10));
  const MatrixView view(map);
  expect_view(view, memory.data(), 3, 4, 10);
  EXPECT_FALSE(view.contiguous());
  EXPECT_EQ(&view(2, 3), &memory[23]);
}

TEST(MatrixViewTest, map_with_dynamic_strides_is_viewed_if_channels_are_contiguous) {
  using Strides = Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>;
  std::vector<float> memory(30);
  Eigen::Map<RowMajor<float>, 0, Strides> good(memory.data(), 3, 4, Strides(10, 1));
  expect_view(MatrixView(good), memory.data(), 3, 4, 10);
  Eigen::Map<RowMajor<float>, 0, Strides> bad(memory.data(), 3, 4, Strides(10, 2));
  expect_error([&] { MatrixView<float>{bad}; }, "contiguous, got inner stride 2");
  // One channel only: there is no next one.
  Eigen::Map<RowMajor<float>, 0, Strides> narrow(memory.data(), 3, 1, Strides(10, 2));
  expect_view(MatrixView(narrow), memory.data(), 3, 1, 10);
}

TEST(MatrixViewTest, ref_is_viewed_in_place) {
  RowMajor<float> m = counting<float>(5, 6);
  Eigen::Ref<RowMajor<float>> ref(m);
  expect_view(MatrixView(ref), m.data(), 5, 6, 6);
  Eigen::Ref<RowMajor<float>> part(m.block(1, 2, 3, 4));
  expect_view(MatrixView(part), &m(1, 2), 3, 4, 6);
  const Eigen::Ref<const RowMajor<float>> reading(m);
  static_assert(std::is_same_v<decltype(MatrixView(reading)), MatrixView<const float>>);
  expect_view(MatrixView(reading), m.data(), 5, 6, 6);
}

TEST(MatrixViewTest, blocks_of_rows_and_columns_keep_the_stride) {
  RowMajor<float> m = counting<float>(5, 6);
  expect_view(MatrixView<float>(m.middleRows(1, 3)), &m(1, 0), 3, 6, 6);
  expect_view(MatrixView<float>(m.leftCols(2)), &m(0, 0), 5, 2, 6);
  expect_view(MatrixView<float>(m.rightCols(2)), &m(0, 4), 5, 2, 6);
  expect_view(MatrixView<float>(m.block(1, 2, 3, 4)), &m(1, 2), 3, 4, 6);
  const RowMajor<float>& reading = m;
  expect_view(MatrixView<const float>(reading.middleCols(2, 3)), &m(0, 2), 5, 3, 6);
  MatrixView<float>(m.block(1, 2, 3, 4))(0, 0) = -1;
  EXPECT_EQ(m(1, 2), -1);
}

TEST(MatrixViewTest, transpose_of_a_column_major_matrix_is_one_token_per_row) {
  Eigen::MatrixXf one_token_per_column(4, 3);
  expect_view(MatrixView<float>(one_token_per_column.transpose()), one_token_per_column.data(), 3,
              4, 4);
  const Eigen::MatrixXf& reading = one_token_per_column;
  const auto transposed = reading.transpose();
  expect_view(MatrixView<const float>(transposed), reading.data(), 3, 4, 4);
}

TEST(MatrixViewTest, vectors_are_one_row_or_one_column) {
  Eigen::RowVectorXf row(5);
  expect_view(MatrixView(row), row.data(), 1, 5, 5);
  Eigen::VectorXf column(5);
  expect_view(MatrixView(column), column.data(), 5, 1, 1);
  RowMajor<float> m = counting<float>(4, 6);
  expect_view(MatrixView<float>(m.col(2)), &m(0, 2), 4, 1, 6);
  EXPECT_EQ(MatrixView<float>(m.col(2))(3, 0), 20);
  expect_view(MatrixView<float>(m.row(2)), &m(2, 0), 1, 6, 6);
  Eigen::MatrixXf column_major(4, 3);
  expect_view(MatrixView<float>(column_major.col(1)), &column_major(0, 1), 4, 1, 1);
  expect_error([&] { MatrixView<float>(column_major.row(1)); }, "contiguous, got inner stride 4");
}

TEST(MatrixViewTest, rank_2_tensors_are_viewed_in_place) {
  Eigen::Tensor<float, 2, Eigen::RowMajor> tensor(3, 4);
  tensor.setZero();
  const MatrixView view(tensor);
  static_assert(std::is_same_v<decltype(view), const MatrixView<float>>);
  expect_view(view, tensor.data(), 3, 4, 4);
  tensor(2, 1) = 9;
  EXPECT_EQ(view(2, 1), 9);
  const Eigen::Tensor<float, 2, Eigen::RowMajor>& reading = tensor;
  static_assert(std::is_same_v<decltype(MatrixView(reading)), MatrixView<const float>>);

  std::vector<double> memory(12);
  Eigen::TensorMap<Eigen::Tensor<double, 2, Eigen::RowMajor>> map(memory.data(), 3, 4);
  expect_view(MatrixView(map), memory.data(), 3, 4, 4);
  Eigen::TensorMap<Eigen::Tensor<const double, 2, Eigen::RowMajor>> const_map(memory.data(), 3, 4);
  expect_view(MatrixView<const double>(const_map), memory.data(), 3, 4, 4);
}

TEST(MatrixViewTest, pointer_shape_and_stride_are_taken_as_they_are) {
  std::vector<float> memory(40);
  expect_view(MatrixView<float>(memory.data(), 4, 7), memory.data(), 4, 7, 7);
  expect_view(MatrixView<float>(memory.data(), 4, 7, 10), memory.data(), 4, 7, 10);
  const MatrixView<float> nothing;
  EXPECT_EQ(nothing.rows(), 0);
  expect_view(MatrixView<float>(nullptr, 0, 7), nullptr, 0, 7, 7);
  expect_view(MatrixView<float>(memory.data(), 1, 7, 0), memory.data(), 1, 7, 0);
}

TEST(MatrixViewTest, parts_of_a_view_share_its_memory) {
  RowMajor<float> m = counting<float>(5, 6);
  const MatrixView<float> view(m);
  expect_view(view.middle_rows({1, 4}), &m(1, 0), 3, 6, 6);
  expect_view(view.middle_cols({2, 4}), &m(0, 2), 5, 2, 6);
  EXPECT_EQ(view.row(3), &m(3, 0));
  EXPECT_TRUE(view.map() == m);
  EXPECT_TRUE(view.middle_cols({2, 4}).map() == m.middleCols(2, 2));
  view.middle_rows({4, 5}).map().setZero();
  EXPECT_EQ(m.row(4).sum(), 0);
  EXPECT_TRUE(MatrixView<const float>(m).map() == m);
}

template <class T>
void expect_heads(const HeadsView<T>& view, const std::remove_const_t<T>* data, Index heads,
                  Index tokens, Index dim, Index head_stride, Index token_stride) {
  EXPECT_EQ(view.data(), data) << "copied, or begins elsewhere";
  EXPECT_EQ(view.heads(), heads);
  EXPECT_EQ(view.tokens(), tokens);
  EXPECT_EQ(view.dim(), dim);
  EXPECT_EQ(view.width(), heads * dim);
  EXPECT_EQ(view.head_stride(), head_stride);
  EXPECT_EQ(view.token_stride(), token_stride);
}

TEST(HeadsViewTest, row_major_tensor_is_head_token_dim) {
  Eigen::Tensor<float, 3, Eigen::RowMajor> tensor(2, 5, 3);
  tensor.setZero();
  tensor(1, 4, 2) = 8;
  const auto view = heads_view(tensor);
  static_assert(std::is_same_v<decltype(view), const HeadsView<float>>);
  expect_heads(view, tensor.data(), 2, 5, 3, 15, 3);
  EXPECT_EQ(view.head(1)(4, 2), 8);
  EXPECT_FALSE(view.heads_are_adjacent());
}

TEST(HeadsViewTest, axes_name_a_token_head_dim_tensor) {
  std::vector<float> memory(30);
  memory[29] = 8;
  Eigen::TensorMap<Eigen::Tensor<const float, 3, Eigen::RowMajor>> map(memory.data(), 5, 2, 3);
  const auto view = heads_view(map, {.head = 1, .token = 0, .dim = 2});
  static_assert(std::is_same_v<decltype(view), const HeadsView<const float>>);
  expect_heads(view, memory.data(), 2, 5, 3, 3, 6);
  EXPECT_EQ(view.head(1)(4, 2), 8);
  EXPECT_TRUE(view.heads_are_adjacent());
  expect_view(view.joined(), memory.data(), 5, 6, 6);
}

TEST(HeadsViewTest, column_major_tensor_with_channels_first_is_viewed_in_place) {
  Eigen::Tensor<float, 3> dim_head_token(3, 2, 5);
  dim_head_token.setZero();
  dim_head_token(2, 1, 4) = 8;
  const auto view = heads_view(dim_head_token, {.head = 1, .token = 2, .dim = 0});
  expect_heads(view, dim_head_token.data(), 2, 5, 3, 3, 6);
  EXPECT_EQ(view.head(1)(4, 2), 8);

  Eigen::Tensor<float, 3> dim_token_head(3, 5, 2);
  expect_heads(heads_view(dim_token_head, {.head = 2, .token = 1, .dim = 0}), dim_token_head.data(),
               2, 5, 3, 15, 3);
}

TEST(HeadsViewTest, tensors_with_scattered_channels_are_refused) {
  Eigen::Tensor<float, 3> column_major(2, 5, 3);
  expect_error([&] { heads_view(column_major); }, "contiguous, got stride 10");
  Eigen::Tensor<float, 3, Eigen::RowMajor> row_major(3, 5, 2);
  expect_error([&] { heads_view(row_major, {.head = 2, .token = 1, .dim = 0}); },
               "contiguous, got stride 10");
}

TEST(HeadsViewTest, fused_query_key_value_buffer_splits_into_heads) {
  constexpr Index tokens = 5, heads = 2, dim = 3, width = heads * dim;
  RowMajor<float> qkv = counting<float>(tokens, 3 * width);
  const auto q = split_heads(qkv.leftCols(width), heads);
  const auto k = split_heads(qkv.middleCols(width, width), heads);
  static_assert(std::is_same_v<decltype(q), const HeadsView<float>>);
  expect_heads(q, qkv.data(), heads, tokens, dim, dim, 3 * width);
  expect_heads(k, qkv.data() + width, heads, tokens, dim, dim, 3 * width);
  EXPECT_TRUE(k.heads_are_adjacent());
  for (Index h = 0; h < heads; ++h) {
    EXPECT_TRUE(k.head(h).map() == qkv.middleCols(width + h * dim, dim));
  }
  EXPECT_TRUE(k.joined().map() == qkv.middleCols(width, width));
  // The same by pointer.
  const HeadsView<const float> by_pointer(qkv.data() + width, {heads, tokens, dim},
                                          {dim, 3 * width});
  EXPECT_TRUE(by_pointer.joined().map() == k.joined().map());
}

TEST(HeadsViewTest, split_heads_takes_views_tensors_and_const_matrices) {
  const RowMajor<float> m = counting<float>(4, 6);
  expect_heads(split_heads(m, 3), m.data(), 3, 4, 2, 2, 6);
  expect_heads(split_heads(MatrixView(m), 1), m.data(), 1, 4, 6, 6, 6);
  Eigen::Tensor<float, 2, Eigen::RowMajor> tensor(4, 6);
  expect_heads(split_heads(tensor, 2), tensor.data(), 2, 4, 3, 3, 6);
}

TEST(HeadsViewTest, matrix_is_one_head) {
  const RowMajor<float> m = counting<float>(4, 6);
  const HeadsView<const float> view(MatrixView<const float>(m.leftCols(5)));
  expect_heads(view, m.data(), 1, 4, 5, 5, 6);
  EXPECT_TRUE(view.heads_are_adjacent());
}

TEST(HeadsViewTest, middle_tokens_and_reading_view_share_the_memory) {
  RowMajor<float> m = counting<float>(6, 4);
  const HeadsView<float> view = split_heads(m, 2);
  const HeadsView<const float> reading = view;
  expect_heads(reading, m.data(), 2, 6, 2, 2, 4);
  expect_heads(view.middle_tokens({2, 5}), &m(2, 0), 2, 3, 2, 2, 4);
}

TEST(HeadsViewTest, a_padded_row_still_has_adjacent_heads) {
  std::vector<float> memory(100);
  using View = HeadsView<const float>;
  EXPECT_TRUE(View(memory.data(), {2, 5, 3}, {3, 10}).heads_are_adjacent());
  EXPECT_FALSE(View(memory.data(), {2, 5, 3}, {4, 10}).heads_are_adjacent());
  EXPECT_FALSE(View(memory.data(), {2, 5, 3}, {15, 3}).heads_are_adjacent());
  EXPECT_TRUE(View(memory.data(), {1, 5, 3}, {99, 3}).heads_are_adjacent());
}

}  // namespace
