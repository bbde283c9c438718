// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "tokenfold/core/types.hpp"

/// The k highest of many values, without branches that nobody can predict: k-th highest bit by bit,
/// by counts that compilers vectorise.
namespace tokenfold::detail {

/// Integers that are ordered as numbers of type T are, NaN aside.
template <class T>
using OrderedBits = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;

/// −0 and 0 are the same.
template <class T>
OrderedBits<T> ordered_bits(T value) {
  using Bits = OrderedBits<T>;
  const auto bits = std::bit_cast<Bits>(value + T(0));
  return bits < 0 ? bits ^ std::numeric_limits<Bits>::max() : bits;
}

/// The largest key that at least k of `keys` reach, or one that exactly k reach.
template <class Key>
Key kth_highest(Span<const Key> keys, Index k) {
  using Bits = std::make_unsigned_t<Key>;
  const auto wanted = static_cast<Key>(k);
  Key least = std::numeric_limits<Key>::min();
  for (Bits bit = Bits(1) << (8 * sizeof(Key) - 1); bit != 0; bit >>= 1) {
    const auto higher = static_cast<Key>(static_cast<Bits>(least) + bit);
    Key reached = 0;
    for (const Key key : keys) {
      reached += key >= higher ? 1 : 0;
    }
    least = reached >= wanted ? higher : least;
    if (reached == wanted) {
      break;
    }
  }
  return least;
}

}  // namespace tokenfold::detail
