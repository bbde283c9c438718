// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "tokenfold/core/packets.hpp"
#include "tokenfold/core/views.hpp"

/// Dot products of few rows that lie anywhere, as lazy greedy choices need them; for rows that are
/// neighbours in memory see core/dot_products.hpp.
namespace tokenfold::detail {

/// Channels that are multiplied before the next rows are read: 8 rows of them stay in the smallest
/// cache.
inline constexpr Index dot_chunk = 512;
/// Rows of either side in one tile, whose sums stay in registers.
inline constexpr Index dot_tile = EIGEN_ARCH_DEFAULT_NUMBER_OF_REGISTERS >= 32 ? 4 : 2;

/// out(l, r) += Σ_c left[l][c] · right[r][c] over `count` channels, for an L × R tile.
template <Index L, Index R, class T, class Acc>
void add_dots(const Acc* const* left, const T* const* right, Index count, MatrixView<Acc> out) {
  using namespace Eigen::internal;
  constexpr Index size = packet_size<Acc>;
  Packet<Acc> sums[L][R];
  unrolled<L>(
      [&](auto l) { unrolled<R>([&](auto r) { sums[l][r] = pset1<Packet<Acc>>(Acc(0)); }); });
  Index c = 0;
  for (; c + size <= count; c += size) {
    Packet<Acc> x[R];
    unrolled<R>([&](auto r) { x[r] = load_packet<Packet<Acc>>(right[r] + c); });
    unrolled<L>([&](auto l) {
      const auto y = ploadu<Packet<Acc>>(left[l] + c);
      unrolled<R>([&](auto r) { sums[l][r] = pmadd(y, x[r], sums[l][r]); });
    });
  }
  unrolled<L>([&](auto l) {
    unrolled<R>([&](auto r) {
      Acc sum = predux(sums[l][r]);
      for (Index tail = c; tail < count; ++tail) {
        sum += left[l][tail] * static_cast<Acc>(right[r][tail]);
      }
      out(l, r) += sum;
    });
  });
}

/// The same for the rows of `out`, up to a tile's.
template <Index L = dot_tile, Index R = dot_tile, class T, class Acc>
void add_tile_dots(const Acc* const* left, const T* const* right, Index count,
                   MatrixView<Acc> out) {
  if constexpr (L > 1) {
    if (out.rows() < L) {
      return add_tile_dots<L - 1, R>(left, right, count, out);
    }
  }
  if constexpr (R > 1) {
    if (out.cols() < R) {
      return add_tile_dots<L, R - 1>(left, right, count, out);
    }
  }
  add_dots<L, R>(left, right, count, out);
}

/// out(l, r) = Σ_c left(l, c) · right(r)[c]; right(r) is the address of a row of T. An element has
/// the same bits whichever rows are asked for together.
template <class T, class Acc, class Right>
void row_dots(MatrixView<const Acc> left, Index right_count, Right&& right, MatrixView<Acc> out) {
  for (Index l = 0; l < left.rows(); ++l) {
    std::fill_n(out.row(l), right_count, Acc(0));
  }
  for (Index r = 0; r < right_count; r += dot_tile) {
    const Range columns{r, std::min(r + dot_tile, right_count)};
    for (Index c = 0; c < left.cols(); c += dot_chunk) {
      const T* x[dot_tile];
      for (Index i = 0; i < columns.size(); ++i) {
        x[i] = right(r + i) + c;
      }
      for (Index l = 0; l < left.rows(); l += dot_tile) {
        const Range rows{l, std::min(l + dot_tile, left.rows())};
        const Acc* y[dot_tile];
        for (Index i = 0; i < rows.size(); ++i) {
          y[i] = left.row(l + i) + c;
        }
        add_tile_dots(y, x, std::min(dot_chunk, left.cols() - c),
                      out.middle_rows(rows).middle_cols(columns));
      }
    }
  }
}

}  // namespace tokenfold::detail
