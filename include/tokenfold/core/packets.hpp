// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "tokenfold/core/widen.hpp"

/// The processor's vectors, through the names that Eigen gives them, for the kernels that must keep
/// sums in registers.
namespace tokenfold::detail {

template <class Acc>
using Packet = typename Eigen::internal::packet_traits<Acc>::type;
template <class Acc>
inline constexpr Index packet_size = Eigen::internal::unpacket_traits<Packet<Acc>>::size;

/// A packet of values, widened in registers where the processor can: through memory, rows of halves
/// would take longer than rows of floats.
template <class P, Scalar T>
P load_packet(const T* from) {
  using namespace Eigen::internal;
  using Acc = Accumulator<T>;
  constexpr Index size = unpacket_traits<P>::size;
  if constexpr (std::same_as<T, Acc>) {
    return ploadu<P>(from);
  }
#if defined(__AVX512F__)
  else if constexpr (size == 16) {
    // With a mask of all lanes, because g++ 12 warns of its own header otherwise.
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    if constexpr (std::same_as<T, Eigen::half>) {
      return _mm512_maskz_cvtph_ps(0xffff, bits);
    } else {
      return _mm512_castsi512_ps(
          _mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, bits), 16));
    }
  }
#endif
#if defined(__AVX2__) && defined(__F16C__)
  else if constexpr (size == 8) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    if constexpr (std::same_as<T, Eigen::half>) {
      return _mm256_cvtph_ps(bits);
    } else {
      return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    }
  }
#endif
  else {
    Acc values[size];
    widen<T>(from, values, size);
    return ploadu<P>(values);
  }
}

/// `count` values, fewer than a packet's, and zeros behind them.
template <class P, Scalar T>
P load_packet(const T* from, Index count) {
  constexpr Index size = Eigen::internal::unpacket_traits<P>::size;
  // No copy_n: for the sake of a call of memcpy, g++ 12 keeps sums of the loop before in memory.
  T values[size];
  for (Index i = 0; i < size; ++i) {
    values[i] = i < count ? from[i] : T(0);
  }
  return load_packet<P>(values);
}

template <class Body, Index... i>
EIGEN_ALWAYS_INLINE void unrolled(Body& body, std::integer_sequence<Index, i...>) {
  (body(std::integral_constant<Index, i>()), ...);
}
/// body(0), …, body(Count − 1), written out with constants: arrays of packets that are indexed so
/// live in registers, if all of it is inlined: where clang left that to its own judgement, 288 × 288
/// × 64 products took 0.58 instead of 0.10 ms.
template <Index Count, class Body>
EIGEN_ALWAYS_INLINE void unrolled(Body&& body) {
  unrolled(body, std::make_integer_sequence<Index, Count>());
}

/// Goes through D channels, `Count` packets of Acc at a time: body(i, load, channels), where
/// load(row) is the i-th packet of a row, widened to Acc, and `channels` the ones it holds; what is
/// left has i = 0, and zeros behind the last channel.
template <class Acc, Index Count, class Body>
EIGEN_ALWAYS_INLINE void for_each_packet(Index d, Body&& body) {
  using P = Packet<Acc>;
  constexpr Index size = packet_size<Acc>;
  Index c = 0;
  for (; c + Count * size <= d; c += Count * size) {
    unrolled<Count>([&](auto i) {
      const Index first = c + i * size;
      body(
          i, [&](const auto* row) { return load_packet<P>(row + first); },
          Range{first, first + size});
    });
  }
  for (; c < d; c += size) {
    const Range rest{c, c + size < d ? c + size : d};
    body(
        std::integral_constant<Index, 0>(),
        [&](const auto* row) { return load_packet<P>(row + c, rest.size()); }, rest);
  }
}

}  // namespace tokenfold::detail
