// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/core/packets.hpp"

namespace tokenfold::detail {

/// sum += factor · Σ_r row r, for `Rows` rows that begin `stride` elements apart: 1, or 2, whose sum
/// is taken first.
template <Index Rows, class T>
void add_scaled(Accumulator<T> factor, const T* rows, Index stride, Span<Accumulator<T>> sum) {
  using namespace Eigen::internal;
  static_assert(Rows == 1 || Rows == 2);
  using P = Packet<Accumulator<T>>;
  constexpr Index size = packet_size<Accumulator<T>>;
  constexpr Index chunk = 64;
  const auto factors = pset1<P>(factor);
  const auto add = [&](auto&& load, const P& to) {
    if constexpr (Rows == 1) {
      return pmadd(factors, load(rows), to);
    } else {
      return padd(to, pmadd(factors, load(rows + stride), pmul(factors, load(rows))));
    }
  };
  const auto add_packet = [&](Index at) {
    const auto load = [&](const T* row) { return load_packet<P>(row + at); };
    pstoreu(sum.data() + at, add(load, ploadu<P>(sum.data() + at)));
  };
  Index begin = 0;
  for (; begin + chunk <= sum.size(); begin += chunk) {
    unrolled<chunk / size>([&](auto i) { add_packet(begin + i * size); });
  }
  for (; begin + size <= sum.size(); begin += size) {
    add_packet(begin);
  }
  // The rest by the same instructions, so that a sum has the same bits however long the row is.
  for (; begin < sum.size(); ++begin) {
    const auto load = [&](const T* row) {
      return pset1<P>(static_cast<Accumulator<T>>(row[begin]));
    };
    sum[begin] = pfirst<P>(add(load, pset1<P>(sum[begin])));
  }
}
template <class T>
void add_scaled(Accumulator<T> factor, const T* row, Span<Accumulator<T>> sum) {
  add_scaled<1>(factor, row, 0, sum);
}

}  // namespace tokenfold::detail
