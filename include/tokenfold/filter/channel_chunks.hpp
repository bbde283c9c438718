// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include "tokenfold/core/widen.hpp"

/// Rows read once for several sums, in pieces that stay in registers. Eigen's reductions make one
/// sum of a row; a second one reads it again.
namespace tokenfold::detail {

/// Channels at a time: two AVX-512 registers, four of AVX.
inline constexpr int chunk_width = 32;

template <class T, int Width>
using Chunk = Eigen::Array<T, Width, 1>;

/// Calls use(width, first) for consecutive channels [first, first + width) of D, width being an
/// integral constant: `Width`, then 1 for what is left.
template <int Width = chunk_width, class Use>
void for_each_chunk(Index d, Use&& use) {
  Index c = 0;
  for (; c + Width <= d; c += Width) {
    use(std::integral_constant<int, Width>{}, c);
  }
  for (; c < d; ++c) {
    use(std::integral_constant<int, 1>{}, c);
  }
}

/// `Width` values.
template <int Width, class T>
Eigen::Map<const Chunk<T, Width>> load(const T* from) {
  return Eigen::Map<const Chunk<T, Width>>(from);
}

/// `count` values in the type that sums are kept in: where they lie, or widened to `buffer`.
template <class T>
const Accumulator<T>* wide(const T* values, Index count, Accumulator<T>* buffer) {
  if constexpr (std::same_as<T, Accumulator<T>>) {
    return values;
  } else {
    widen(values, buffer, count);
    return buffer;
  }
}

/// A sum over chunks: of full ones lane by lane, so that additions do not wait for one another.
template <class Acc, int Width = chunk_width>
class ChunkSum {
 public:
  template <int Size, class Values>
  void add(const Eigen::ArrayBase<Values>& values, std::integral_constant<int, Size>) {
    if constexpr (Size == Width) {
      lanes_ += values;
    } else {
      rest_ += values.sum();
    }
  }
  Acc value() const { return lanes_.sum() + rest_; }

 private:
  Chunk<Acc, Width> lanes_ = Chunk<Acc, Width>::Zero();
  Acc rest_ = Acc(0);
};

}  // namespace tokenfold::detail
