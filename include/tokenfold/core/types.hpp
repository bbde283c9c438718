// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Eigen/Core>
#include <cassert>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "tokenfold/core/errors.hpp"

/// The words that everything else is written in.
///
/// Glossary used in every header: P tokens in the sequence, N of them visual, M text tokens, D
/// channels, H attention heads of d channels, K preserved visual tokens. "Row" is a row of the
/// sequence, 0 … P − 1.
namespace tokenfold {

/// Sizes and loop counters (signed, as in Eigen).
using Index = Eigen::Index;

/// A token by its row number in the sequence; 32 bits, because plans are shipped to devices.
using Token = std::int32_t;

/// Stands where no input token does: `kept()` of a synthetic output row.
inline constexpr Token no_token = -1;

/// Rows [begin, end) of a sequence.
struct Range {
  Index begin = 0;
  Index end = 0;

  constexpr Index size() const { return end - begin; }
  constexpr bool empty() const { return end <= begin; }
  constexpr bool contains(Index row) const { return begin <= row && row < end; }
  constexpr bool contains(Range other) const {
    return other.empty() || (begin <= other.begin && other.end <= end);
  }
  friend constexpr bool operator==(Range, Range) = default;
};

/// A patch grid of `height` × `width` cells, numbered row by row; {0, 0} means "no grid".
struct Grid {
  Index height = 0;
  Index width = 0;

  constexpr Index cells() const { return height * width; }
  friend constexpr bool operator==(Grid, Grid) = default;
};

/// A contiguous array that belongs to somebody else. `std::span` with a signed index, so that it
/// mixes with Eigen without casts. Converts from the standard containers.
template <class T>
class Span {
 public:
  constexpr Span() = default;
  constexpr Span(T* data, Index size) : data_(data), size_(size) {}

  template <class Container>
  requires(!std::same_as<std::remove_cvref_t<Container>, Span> &&
           requires(Container & c) {
             { c.data() } -> std::convertible_to<T*>;
             { c.size() } -> std::convertible_to<std::size_t>;
           }) constexpr Span(Container&& container)
      : data_(container.data()), size_(static_cast<Index>(container.size())) {}

  constexpr T* data() const { return data_; }
  constexpr Index size() const { return size_; }
  constexpr bool empty() const { return size_ == 0; }
  constexpr T* begin() const { return data_; }
  constexpr T* end() const { return data_ + size_; }
  constexpr T& operator[](Index i) const {
    assert(0 <= i && i < size_);
    return data_[i];
  }
  constexpr Span subspan(Index first, Index count) const {
    assert(0 <= first && 0 <= count && first + count <= size_);
    return {data_ + first, count};
  }

 private:
  T* data_ = nullptr;
  Index size_ = 0;
};

template <class Container>
Span(Container&& container) -> Span<std::remove_pointer_t<decltype(container.data())>>;

/// The element types of tokens, queries, keys and attention.
template <class T>
concept Scalar = std::same_as<T, float> || std::same_as<T, double> ||
    std::same_as<T, Eigen::half> || std::same_as<T, Eigen::bfloat16>;

/// What sums of `T` are kept in: double for double, float for everything else.
template <Scalar T>
using Accumulator = std::conditional_t<std::same_as<T, double>, double, float>;

namespace detail {

/// Row-major dynamic matrix and its strided map, the only Eigen shapes that the library computes
/// with.
template <class T>
using RowMajorMatrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using ConstMatrixMap = Eigen::Map<const RowMajorMatrix<T>, 0, Eigen::OuterStride<>>;
template <class T>
using MatrixMap = Eigen::Map<RowMajorMatrix<T>, 0, Eigen::OuterStride<>>;
template <class T>
using VectorMap = Eigen::Map<Eigen::Matrix<T, Eigen::Dynamic, 1>>;
template <class T>
using ConstVectorMap = Eigen::Map<const Eigen::Matrix<T, Eigen::Dynamic, 1>>;

/// double, as a type that depends on T. Expressions of it are compiled where a template is used;
/// those of plain double would be where its header is included, by every user.
template <class T>
using DoubleFor = std::common_type_t<Accumulator<T>, double>;

template <class T>
auto as_vector(Span<T> span) {
  if constexpr (std::is_const_v<T>) {
    return ConstVectorMap<std::remove_const_t<T>>(span.data(), span.size());
  } else {
    return VectorMap<T>(span.data(), span.size());
  }
}

}  // namespace detail
}  // namespace tokenfold
