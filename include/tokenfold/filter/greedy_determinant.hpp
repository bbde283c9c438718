// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "tokenfold/core/packets.hpp"
#include "tokenfold/core/views.hpp"
#include "tokenfold/core/workspace.hpp"
#include "tokenfold/filter/determinant_gain.hpp"

namespace tokenfold::detail {

/// Greedy choice of rows that multiply the determinant of a kernel over the picks by as much as
/// possible (Chen, Zhang, Zhou 2018): by what picks leave of L_ii,
///
///   d_i = L_ii − Σ_t c_ti²,   c_ti = (L_{j_t i} − Σ_{s<t} c_{s j_t} c_si) / √d_{j_t}
///
/// c being the incremental Cholesky factor. Picks only lower d_i; so a block of rows, side by side
/// in vectors, is compared with the picks it missed, several at a time, only when it may hold the
/// next one. Blocks are of rows with similar L_ii, so that where these differ most blocks wait. d_i
/// is always summed in this order and so has the same bits whenever it is asked for. Memory of the
/// enclosing workspace frame: N · K + K² of the accumulator's type, O(N).
template <class T>
class GreedyDeterminant {
 public:
  using Acc = Accumulator<T>;

  GreedyDeterminant(MatrixView<const T> kernel, Index picks, Workspace& workspace)
      : kernel_(kernel),
        blocks_((kernel.rows() + block - 1) / block),
        rows_(workspace.take<Index>(kernel.rows())),
        rest_(workspace.take_filled<double>(blocks_ * block, 0)),
        least_(workspace.take_filled<double>(blocks_ * block, never)),
        gains_(workspace.take<double>(blocks_ * block)),
        known_(workspace.take_filled<Index>(blocks_, 0)),
        highest_(workspace.take<double>(blocks_)),
        factor_(workspace.take<Acc>(blocks_ * block * picks)),
        of_picks_(workspace.take<Acc>(picks * picks).data(), picks, picks),
        scale_(workspace.take<Acc>(picks)),
        picks_(workspace.take<Index>(picks)) {
    sort_rows();
    for (Index i = 0; i < rows_.size(); ++i) {
      rest_[i] = diagonal(rows_[i]);
      least_[i] = std::isfinite(rest_[i]) ? dependence_noise<Acc> * rest_[i] : never;
    }
    for (Index b = 0; b < blocks_; ++b) {
      set_gains(b);
    }
  }

  /// The next pick; false if all rows lie in the span of the picks.
  bool pick() {
    Index best = std::max_element(highest_.begin(), highest_.end()) - highest_.begin();
    update(best);
    for (Index b = 0; b < blocks_; ++b) {
      if (leads(b, best)) {
        update(b);
        best = leads(b, best) ? b : best;
      }
    }
    if (!(highest_[best] > 0)) {
      return false;
    }
    take(best);
    return true;
  }

  Span<const Index> picks() const { return {picks_.data(), picked_}; }

 private:
  static constexpr Index block = 32;
  static constexpr double never = std::numeric_limits<double>::infinity();

  double diagonal(Index row) const { return static_cast<double>(kernel_(row, row)); }
  Acc* factor(Index b) { return factor_.data() + b * block * picks_.size(); }

  /// By falling L_ii, those in the same quarter of an octave as they come: neighbours in the image
  /// are alike, and so wait together.
  void sort_rows() {
    constexpr Index last = 1 << 14;  // below every double
    const Index n = rows_.size();
    for (Index i = 0; i < n; ++i) {
      const double d = diagonal(i);
      const bool usable = d > 0 && std::isfinite(d);
      rows_[i] = (usable ? -std::lrint(4 * std::log2(d)) : last) * n + i;
    }
    if (!std::is_sorted(rows_.begin(), rows_.end())) {
      std::sort(rows_.begin(), rows_.end());
    }
    for (Index& row : rows_) {
      row = (row % n + n) % n;
    }
  }

  void set_gains(Index b) {
    for (Index i = b * block; i < (b + 1) * block; ++i) {
      gains_[i] = rest_[i] > least_[i] ? rest_[i] : 0;
    }
    highest_[b] = as_vector(gains_.subspan(b * block, block)).maxCoeff();
  }
  /// Its first row of the highest gain, as a position in `rows_`.
  Index leader(Index b) const {
    return std::find(gains_.begin() + b * block, gains_.end(), highest_[b]) - gains_.begin();
  }
  bool leads(Index b, Index other) const {
    return highest_[b] > highest_[other] || (highest_[b] == highest_[other] && highest_[b] > 0 &&
                                             rows_[leader(b)] < rows_[leader(other)]);
  }

  void take(Index b) {
    const Index i = leader(b);
    for (Index t = 0; t < picked_; ++t) {
      of_picks_(picked_, t) = -factor(b)[t * block + i % block];
    }
    scale_[picked_] = static_cast<Acc>(1 / std::sqrt(rest_[i]));
    picks_[picked_++] = rows_[i];
    least_[i] = never;
    set_gains(b);
  }

  /// Compares a block with the picks it missed.
  void update(Index b) {
    if (known_[b] == picked_) {
      return;
    }
    for (Index& t = known_[b]; t < picked_;) {
      t += append_up_to<8>(b, t);
    }
    set_gains(b);
  }

  template <Index Most>
  Index append_up_to(Index b, Index t) {
    if constexpr (Most > 1) {
      if (picked_ - t < Most) {
        return append_up_to<Most - 1>(b, t);
      }
    }
    return append<Most>(b, t);
  }

  /// c and d of a block for `Count` picks from t on.
  template <Index Count>
  Index append(Index b, Index t) {
    using namespace Eigen::internal;
    constexpr Index size = packet_size<Acc>;
    constexpr Index width = 2;  // packets per pick: up to 16 sums in registers
    Acc* const own = factor(b);
    for (Index p = 0; p < Count; ++p) {
      copy_entries(b, kernel_.row(picks_[t + p]), own + (t + p) * block);
    }
    for (Index lane = 0; lane < block; lane += width * size) {
      Packet<Acc> c[Count][width];
      const auto at = [&](Index s, Index w) { return own + s * block + lane + w * size; };
      unrolled<Count>([&](auto p) {
        unrolled<width>([&](auto w) { c[p][w] = ploadu<Packet<Acc>>(at(t + p, w)); });
      });
      for (Index s = 0; s < t; ++s) {
        Packet<Acc> other[width];
        unrolled<width>([&](auto w) { other[w] = ploadu<Packet<Acc>>(at(s, w)); });
        unrolled<Count>([&](auto p) {
          const auto of_pick = pset1<Packet<Acc>>(of_picks_(t + p, s));
          unrolled<width>([&](auto w) { c[p][w] = pmadd(of_pick, other[w], c[p][w]); });
        });
      }
      unrolled<Count>(
          [&](auto p) { unrolled<width>([&](auto w) { pstoreu(at(t + p, w), c[p][w]); }); });
    }
    // Among these picks.
    for (Index p = t; p < t + Count; ++p) {
      const auto scale = pset1<Packet<Acc>>(scale_[p]);
      for (Index lane = 0; lane < block; lane += size) {
        auto sum = ploadu<Packet<Acc>>(own + p * block + lane);
        for (Index s = t; s < p; ++s) {
          sum = pmadd(pset1<Packet<Acc>>(of_picks_(p, s)),
                      ploadu<Packet<Acc>>(own + s * block + lane), sum);
        }
        pstoreu(own + p * block + lane, pmul(sum, scale));
      }
    }
    double* const rest = rest_.data() + b * block;
    for (Index p = 0; p < Count; ++p) {
      for (Index i = 0; i < block; ++i) {
        const auto along = static_cast<double>(own[(t + p) * block + i]);
        rest[i] -= along * along;
      }
    }
    return Count;
  }

  void copy_entries(Index b, const T* row, Acc* out) const {
    const auto rows = rows_.subspan(b * block, std::min(block, rows_.size() - b * block));
    if (rows[rows.size() - 1] - rows[0] == rows.size() - 1) {
      widen<T>(row + rows[0], out, rows.size());
    } else {
      for (Index i = 0; i < rows.size(); ++i) {
        out[i] = static_cast<Acc>(row[rows[i]]);
      }
    }
    std::fill(out + rows.size(), out + block, Acc(0));
  }

  MatrixView<const T> kernel_;
  Index blocks_;
  Span<Index> rows_;    // of the kernel, by falling L_ii; what follows is in this order
  Span<double> rest_;   // d
  Span<double> least_;  // candidates have more left
  Span<double> gains_;  // d of candidates, 0 for others
  Span<Index> known_;   // by block: picks it was compared with
  Span<double> highest_;
  Span<Acc> factor_;          // [blocks × K × block]: c
  MatrixView<Acc> of_picks_;  // row t: −c_{s j_t}
  Span<Acc> scale_;           // 1 / √d of the picks
  Span<Index> picks_;
  Index picked_ = 0;
};

}  // namespace tokenfold::detail

namespace tokenfold {

/// Up to `count` rows of the kernel L, [N × N] and positive semi-definite, such that det L over
/// them is large: greedily, each multiplies it by as much as possible. In the order of picking;
/// fewer than asked for once the rank is used up. Allocates nothing but the result.
///
/// Cost: up to N · K² / 2 multiply-adds. 2880 → 320 takes 2.2 ms where diagonals differ, 5.5 where
/// they are equal (exhaustively, row by row: 9), 576 → 64 0.04 and 0.05 (0.09).
/// Memory: N · K + K² of T.
template <class Kernel>
std::vector<Index> greedy_determinant(const Kernel& kernel, Index count, Workspace& workspace) {
  using T = typename decltype(MatrixView(kernel))::Element;
  const MatrixView<const T> l = MatrixView(kernel);
  require(l.rows() == l.cols(), "greedy determinant: a kernel is square, got [", l.rows(), " x ",
          l.cols(), "]");
  require(0 <= count && count <= l.rows(), "greedy determinant: ", count, " of ", l.rows(),
          " rows");
  if (count == 0) {
    return {};
  }
  Workspace::Frame frame(workspace);
  detail::GreedyDeterminant<T> greedy(l, count, workspace);
  while (greedy.picks().size() < count && greedy.pick()) {
  }
  return {greedy.picks().begin(), greedy.picks().end()};
}

}  // namespace tokenfold
