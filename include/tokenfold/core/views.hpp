// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/core/types.hpp"

/// Views over the caller's memory. Nothing here owns or copies; the memory must outlive the view.
///
/// The last axis (channels, or keys of an attention row) must be contiguous, because every engine
/// stores it so and every kernel here depends on it. What is stored otherwise is refused: at
/// compile time where the type tells (a column-major `Eigen::MatrixXf`), else with
/// `std::invalid_argument`. A column-major D × N matrix, one token per column, is the same memory
/// as a row-major N × D one: pass `x.transpose()`.
namespace tokenfold {
namespace detail {

template <class M>
concept EigenMatrixLike =
    std::derived_from<std::remove_cvref_t<M>, Eigen::DenseBase<std::remove_cvref_t<M>>>;

/// `Eigen::Tensor` and `Eigen::TensorMap`, recognised by shape so that their (heavy) header is not
/// needed.
template <class X>
concept EigenTensorLike = requires(X& tensor) {
  { std::remove_cvref_t<X>::NumDimensions } -> std::convertible_to<int>;
  { static_cast<int>(std::remove_cvref_t<X>::Layout) } -> std::convertible_to<int>;
  tensor.dimension(0);
  tensor.data();
};

template <class X, int rank>
concept EigenTensorOfRank = EigenTensorLike<X> && std::remove_cvref_t<X>::NumDimensions == rank;

/// What `x.data()` points to. An expression without memory reads as constant, so that it gets as
/// far as the message that refuses it.
template <class X>
struct DataPointeeOf {
  using type = const typename std::remove_cvref_t<X>::Scalar;
};
template <class X>
requires requires(X& x) { x.data(); }
struct DataPointeeOf<X> {
  using type = std::remove_pointer_t<decltype(std::declval<X&>().data())>;
};
template <class X>
using DataPointee = typename DataPointeeOf<X>::type;

/// Does `m.data()` exist, i.e. is `m` memory rather than an expression still to be evaluated?
template <class M>
inline constexpr bool has_memory = (std::remove_cvref_t<M>::Flags & Eigen::DirectAccessBit) != 0;

/// Matrices and tensors (unlike their maps) can be resized, because they own their memory.
template <class M>
inline constexpr bool is_owning_temporary =
    !std::is_lvalue_reference_v<M> &&
    (std::derived_from<std::remove_cvref_t<M>, Eigen::PlainObjectBase<std::remove_cvref_t<M>>> ||
     requires(std::remove_cvref_t<M> & tensor) { tensor.resize(tensor.dimensions()); });

}  // namespace detail

/// A [rows × cols] matrix in the caller's memory; rows may be further apart than `cols` elements.
/// `MatrixView<const float>` reads, `MatrixView<float>` also writes.
template <class T>
class MatrixView {
 public:
  using Element = std::remove_const_t<T>;

  MatrixView() = default;

  /// `row_stride` in elements. Throws if a size is negative, rows overlap or `data` is null.
  MatrixView(T* data, Index rows, Index cols, Index row_stride)
      : data_(data), rows_(rows), cols_(cols), row_stride_(row_stride) {
    require(rows >= 0 && cols >= 0, "matrix view: negative shape [", rows, " x ", cols, "]");
    require(row_stride >= cols || rows <= 1, "matrix view: row stride ", row_stride,
            " is smaller than the ", cols, " columns of a row");
    require(data != nullptr || rows == 0 || cols == 0, "matrix view: null data for shape [", rows,
            " x ", cols, "]");
  }
  MatrixView(T* data, Index rows, Index cols) : MatrixView(data, rows, cols, cols) {}

  /// From any Eigen object that lies in memory row by row: `Matrix<…, RowMajor>`, `Map`, `Ref`,
  /// `Block`, `Transpose` of a column-major matrix, vectors.
  template <detail::EigenMatrixLike M>
  MatrixView(M&& m) : MatrixView(from_eigen(m)) {
    static_assert(!detail::is_owning_temporary<M>,
                  "tokenfold: this view would outlive the temporary matrix it points to");
  }

  /// From a rank-2 `Eigen::Tensor` or `TensorMap` in row-major layout.
  template <detail::EigenTensorOfRank<2> X>
  MatrixView(X&& tensor) : MatrixView(tensor.data(), tensor.dimension(0), tensor.dimension(1)) {
    static_assert(int{std::remove_cvref_t<X>::Layout} == int{Eigen::RowMajor},
                  "tokenfold: tensors must be Eigen::RowMajor; a column-major one would be copied");
    static_assert(!detail::is_owning_temporary<X>,
                  "tokenfold: this view would outlive the temporary tensor it points to");
  }

  /// Reading through a writable view is fine.
  operator MatrixView<const Element>() const { return {data_, rows_, cols_, row_stride_}; }

  T* data() const { return data_; }
  Index rows() const { return rows_; }
  Index cols() const { return cols_; }
  Index row_stride() const { return row_stride_; }
  bool contiguous() const { return row_stride_ == cols_ || rows_ <= 1; }

  T* row(Index i) const {
    assert(0 <= i && i < rows_);
    return data_ + i * row_stride_;
  }
  T& operator()(Index i, Index j) const {
    assert(0 <= j && j < cols_);
    return row(i)[j];
  }
  MatrixView middle_rows(Range rows) const {
    assert(Range({0, rows_}).contains(rows));
    return {data_ + rows.begin * row_stride_, rows.size(), cols_, row_stride_};
  }
  MatrixView middle_cols(Range cols) const {
    assert(Range({0, cols_}).contains(cols));
    return {data_ + cols.begin, rows_, cols.size(), row_stride_};
  }

  /// The same memory as an Eigen map, for arithmetic.
  auto map() const {
    const Eigen::OuterStride<> stride(row_stride_);
    if constexpr (std::is_const_v<T>) {
      return detail::ConstMatrixMap<Element>(data_, rows_, cols_, stride);
    } else {
      return detail::MatrixMap<Element>(data_, rows_, cols_, stride);
    }
  }

 private:
  template <class M>
  static MatrixView from_eigen(M& m) {
    using Plain = std::remove_cvref_t<M>;
    static_assert(detail::has_memory<M>,
                  "tokenfold: an Eigen expression has no memory to view; evaluate it first");
    constexpr bool is_column = Plain::ColsAtCompileTime == 1;
    static_assert(bool(Plain::IsRowMajor) || is_column,
                  "tokenfold: matrices must be row-major (one token per row, channels contiguous); "
                  "for a column-major D x N matrix pass x.transpose()");
    if constexpr (is_column && !bool(Plain::IsRowMajor)) {
      return MatrixView(m.data(), m.rows(), 1, m.innerStride());
    } else {
      require(m.innerStride() == 1 || m.cols() <= 1,
              "matrix view: the channels of a token must be contiguous, got inner stride ",
              m.innerStride());
      return MatrixView(m.data(), m.rows(), m.cols(), m.outerStride());
    }
  }

  T* data_ = nullptr;
  Index rows_ = 0;
  Index cols_ = 0;
  Index row_stride_ = 0;
};

template <detail::EigenMatrixLike M>
MatrixView(M&& m) -> MatrixView<detail::DataPointee<M>>;
template <detail::EigenTensorLike X>
MatrixView(X&& tensor) -> MatrixView<detail::DataPointee<X>>;

/// Which axis of a rank-3 tensor holds what; see `heads_view`.
struct HeadAxes {
  int head = 0;
  int token = 1;
  int dim = 2;
};

/// A rank-3 tensor [head][row][column] in the caller's memory with any head and row stride and
/// contiguous columns: queries or keys (row = token, column = channel), or attention (row = query,
/// column = key).
template <class T>
class HeadsView {
 public:
  using Element = std::remove_const_t<T>;
  struct Shape {
    Index heads = 0;
    Index tokens = 0;
    Index dim = 0;
  };
  /// In elements. `dim` other than 1 is refused.
  struct Strides {
    Index head = 0;
    Index token = 0;
    Index dim = 1;
  };

  HeadsView() = default;

  /// Strides are the caller's word; every layout works: [token][head][dim] is {dim, heads·dim},
  /// [head][token][dim] is {tokens·dim, dim}, Q inside a fused QKV buffer is {dim, 3·heads·dim}.
  HeadsView(T* data, Shape shape, Strides strides) : data_(data), shape_(shape), strides_(strides) {
    require(shape.heads >= 1 && shape.tokens >= 0 && shape.dim >= 0, "heads view: bad shape [",
            shape.heads, " heads][", shape.tokens, " tokens][", shape.dim, " channels]");
    require(strides.dim == 1, "heads view: the channels of a head must be contiguous, got stride ",
            strides.dim);
    require(strides.head >= 0, "heads view: negative head stride ", strides.head);
    require(strides.token >= shape.dim || shape.tokens <= 1, "heads view: token stride ",
            strides.token, " is smaller than the ", shape.dim, " channels of a head");
    require(data != nullptr || shape.tokens == 0 || shape.dim == 0, "heads view: null data");
  }

  /// One head over a whole matrix: [1][rows][cols].
  HeadsView(MatrixView<T> m)
      : HeadsView(m.data(), {1, m.rows(), m.cols()}, {m.cols(), m.row_stride(), 1}) {}

  operator HeadsView<const Element>() const {
    return {data_,
            {shape_.heads, shape_.tokens, shape_.dim},
            {strides_.head, strides_.token, strides_.dim}};
  }

  T* data() const { return data_; }
  Index heads() const { return shape_.heads; }
  Index tokens() const { return shape_.tokens; }
  Index dim() const { return shape_.dim; }
  /// All heads side by side.
  Index width() const { return shape_.heads * shape_.dim; }
  Index head_stride() const { return strides_.head; }
  Index token_stride() const { return strides_.token; }

  /// One head as a [tokens × dim] matrix.
  MatrixView<T> head(Index h) const {
    assert(0 <= h && h < shape_.heads);
    return {data_ + h * strides_.head, shape_.tokens, shape_.dim, strides_.token};
  }
  /// Are the heads of a token next to each other, so that a token is one contiguous row?
  bool heads_are_adjacent() const {
    return (strides_.head == shape_.dim || shape_.heads == 1) && strides_.token >= width();
  }
  /// All heads of every token as one [tokens × heads·dim] matrix; only if `heads_are_adjacent()`.
  MatrixView<T> joined() const {
    assert(heads_are_adjacent());
    return {data_, shape_.tokens, width(), strides_.token};
  }
  HeadsView middle_tokens(Range rows) const {
    assert(Range({0, shape_.tokens}).contains(rows));
    return {data_ + rows.begin * strides_.token, {shape_.heads, rows.size(), shape_.dim}, strides_};
  }

 private:
  T* data_ = nullptr;
  Shape shape_;
  Strides strides_;
};

/// Views a [tokens × heads·dim] matrix as heads, e.g. `split_heads(qkv.leftCols(1024), 16)` for the
/// Q of a fused QKV buffer. Throws if the columns do not divide.
template <class M>
auto split_heads(M&& matrix, Index heads) {
  const auto m = MatrixView(std::forward<M>(matrix));
  using T = std::remove_pointer_t<decltype(m.data())>;
  require(heads >= 1 && m.cols() % heads == 0, "split_heads: ", m.cols(),
          " columns do not divide into ", heads, " heads");
  const Index dim = m.cols() / heads;
  return HeadsView<T>(m.data(), {heads, m.rows(), dim}, {dim, m.row_stride(), 1});
}

/// Views a rank-3 `Eigen::Tensor` / `TensorMap` as heads; `axes` names its axes, by default
/// [head][token][dim]. Works for row- and column-major tensors as long as `axes.dim` is the
/// contiguous axis: the last one of a row-major tensor, the first one of a column-major tensor.
/// Throws otherwise.
template <detail::EigenTensorOfRank<3> X>
auto heads_view(X&& tensor, HeadAxes axes = {}) {
  static_assert(!detail::is_owning_temporary<X>,
                "tokenfold: this view would outlive the temporary tensor it points to");
  using T = detail::DataPointee<X>;
  const int order[3] = {axes.head, axes.token, axes.dim};
  require(order[0] + order[1] + order[2] == 3 && order[0] != order[1] && order[1] != order[2] &&
              order[0] != order[2] && order[0] >= 0 && order[1] >= 0 && order[2] >= 0,
          "heads_view: axes must be a permutation of 0, 1, 2");
  constexpr bool row_major = int{std::remove_cvref_t<X>::Layout} == int{Eigen::RowMajor};
  const auto extent = [&](int axis) {
    return static_cast<Index>(tensor.dimensions()[static_cast<std::size_t>(axis)]);
  };
  Index stride[3];
  Index step = 1;
  for (int i = 0; i < 3; ++i) {
    const int axis = row_major ? 2 - i : i;
    stride[axis] = step;
    step *= extent(axis);
  }
  return HeadsView<T>(tensor.data(), {extent(axes.head), extent(axes.token), extent(axes.dim)},
                      {stride[axes.head], stride[axes.token], stride[axes.dim]});
}

}  // namespace tokenfold
