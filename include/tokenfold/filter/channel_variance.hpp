// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "tokenfold/core/select.hpp"
#include "tokenfold/filter/row_blocks.hpp"

namespace tokenfold::detail {

/// Calls add(c, first, sum, squares) for a packet of channels c: of the block's first row, and sums
/// over the block of x − first and of its square; in double where the type that sums are kept in
/// does not do. Prefetches the same channels of the next block.
template <class T, class Load, class Add>
EIGEN_ALWAYS_INLINE void add_moments(const RowBlock<T>& block, Range channels, Load&& load,
                                     Add&& add) {
  using namespace Eigen::internal;
  using Acc = Accumulator<T>;
  using P = Packet<Acc>;
  const P first = load(block.row(0));
  P sum = pset1<P>(Acc(0));
  P squares = pset1<P>(Acc(0));
  for (Index i = 0; i < block.size; ++i) {
    block.prefetch_later(i, channels.begin);
    const P distance = psub(load(block.row(i)), first);
    sum = padd(sum, distance);
    squares = pmadd(distance, distance, squares);
  }
  if (are_sound(predux_min(squares), predux_max(squares))) {
    constexpr Index size = packet_size<Acc>;
    Acc values[3][size];
    pstoreu(values[0], first);
    pstoreu(values[1], sum);
    pstoreu(values[2], squares);
    for (Index i = 0; i < std::min(size, channels.size()); ++i) {
      add(channels.begin + i, static_cast<double>(values[0][i]), static_cast<double>(values[1][i]),
          static_cast<double>(values[2][i]));
    }
    return;
  }
  for (Index c = channels.begin; c < channels.end; ++c) {
    const auto origin = static_cast<double>(block.row(0)[c]);
    double s = 0;
    double q = 0;
    for (Index i = 1; i < block.size; ++i) {
      const double distance = static_cast<double>(block.row(i)[c]) - origin;
      s += distance;
      q += distance * distance;
    }
    add(c, origin, s, q);
  }
}

/// Marks in `low` the ⌊share · D⌋ channels of lowest variance (biased) over the rows of `x`, equal
/// ones by lower number, and in `usable` the rows that are finite; the others do not count.
template <class Rows>
void low_variance_channels(const Rows& x, double share, Span<bool> usable, Span<bool> low,
                           Workspace& workspace) {
  using T = std::remove_cvref_t<decltype(*x.row(0))>;
  const Index d = x.cols();
  Workspace::Frame frame(workspace);
  // Sums of x − shift and of its square, shift being the first usable row: a variance must not
  // drown in the square of a mean. Within a block the same with the block's first row, in the
  // rows' own type: Σ (x − shift)² = Σ (x − m)² + n (m − shift)², m being the mean of n rows.
  const Span<double> shift = workspace.take_filled<double>(d, 0.0);
  const Span<double> sum = workspace.take_filled<double>(d, 0.0);
  const Span<double> squares = workspace.take_filled<double>(d, 0.0);
  Index count = 0;
  const auto is_usable = [&](Index i, const T* row) {
    usable[i] = is_finite(row, d);
    return usable[i];
  };
  for_each_block(x, Direction::forwards, is_usable, [&](const RowBlock<T>& block) {
    if (block.size == 0) {
      return;
    }
    if (count == 0) {
      for (Index c = 0; c < d; ++c) {
        shift[c] = static_cast<double>(block.row(0)[c]);
      }
    }
    count += block.size;
    const auto n = static_cast<double>(block.size);
    const double inverse_n = 1 / n;
    const auto add = [&](Index c, double first, double block_sum, double block_squares) {
      const double mean = first - shift[c] + block_sum * inverse_n;
      sum[c] += n * mean;
      squares[c] += block_squares - block_sum * block_sum * inverse_n + n * mean * mean;
    };
    for_each_packet<Accumulator<T>, 1>(
        d, [&](auto, auto&& load, Range channels) { add_moments(block, channels, load, add); });
  });
  const Span<double> variance = workspace.take<double>(d);
  const auto n = static_cast<double>(std::max<Index>(count, 1));
  for (Index c = 0; c < d; ++c) {
    const double mean = sum[c] / n;
    variance[c] = squares[c] / n - mean * mean;
  }

  const Span<Index> order = workspace.take<Index>(d);
  std::iota(order.begin(), order.end(), Index{0});
  const auto chosen = static_cast<Index>(share * static_cast<double>(d));
  std::nth_element(order.begin(), order.begin() + chosen, order.end(), [&](Index a, Index b) {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    const double rank_a = finite_or(variance[a], infinity);
    const double rank_b = finite_or(variance[b], infinity);
    return rank_a != rank_b ? rank_a < rank_b : a < b;
  });
  std::fill(low.begin(), low.end(), false);
  for (const Index channel : order.subspan(0, chosen)) {
    low[channel] = true;
  }
}

}  // namespace tokenfold::detail
