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

/// body(0), …, body(Count − 1), written out with constants: arrays of packets that are indexed so
/// live in registers.
template <Index Count, class Body>
EIGEN_ALWAYS_INLINE void unrolled(Body&& body) {
  [&]<Index... i>(std::integer_sequence<Index, i...>) {
    (body(std::integral_constant<Index, i>()), ...);
  }
  (std::make_integer_sequence<Index, Count>());
}

}  // namespace tokenfold::detail
