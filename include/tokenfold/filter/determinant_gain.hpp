// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "tokenfold/filter/directions.hpp"
#include "tokenfold/filter/falling_bounds.hpp"

namespace tokenfold::detail {

/// What rounding leaves of a token's share that lies in the span of others: up to 25 ε (float) and
/// 90 ε (double) were measured, on 576 to 2880 tokens of 16 to 1024 channels, up to 256 picks.
template <class T>
inline constexpr double dependence_noise = 128 *
                                           static_cast<double>(std::numeric_limits<T>::epsilon());

/// weights[v]² · what picks leave of the direction of token v, as a criterion of
/// `pick_by_falling_bounds`: how much v multiplies the determinant of the weighted cosines L of the
/// picks by (Chen, Zhang, Zhou 2018),
///
///   v_i = L_ii − Σ_t c_ti²,   c_ti = (L_{j_t i} − Σ_{s<t} c_{s j_t} c_si) / √v_{j_t}
///
/// where c is the incremental Cholesky factor. A column of it is extended only when its token leads
/// by the gain it had, because a cosine of 4096 channels costs most. Memory of the enclosing
/// workspace frame: K · (N + D + K) of the accumulator's type, O(N).
template <class T>
class DeterminantGain {
 public:
  using Acc = Accumulator<T>;

  /// Up to `picks` picks are going to be followed by another one. Tokens of which no more than the
  /// share `least` is left are no candidates.
  DeterminantGain(const CosineRows<T>& cosines, Span<const double> weights, double least,
                  Index picks, Workspace& workspace)
      : directions_(cosines, picks, workspace),
        weights_(weights),
        least_(least),
        rest_(workspace.take<double>(cosines.size())),
        known_(workspace.take_filled<Index>(cosines.size(), 0)),
        factor_(workspace.take<Acc>(cosines.size() * picks).data(), cosines.size(), picks),
        of_picks_(workspace.take<Acc>(picks * picks).data(), picks, picks),
        scale_(workspace.take<Acc>(picks)) {
    for (Index v = 0; v < cosines.size(); ++v) {
      rest_[v] = directions_.has_direction(v) ? 1 : 0;
    }
  }

  double bound(Index v) const { return weights_[v] * weights_[v] * std::max(rest_[v], 0.0); }
  bool up_to_date(Index v) const { return known_[v] >= picked_; }
  bool candidate(Index v) const { return rest_[v] > least_ && weights_[v] > 0; }

  void take(Index v) {
    directions_.hold(picked_, v);
    std::copy_n(factor_.row(v), picked_, of_picks_.row(picked_));
    scale_[picked_++] = static_cast<Acc>(1 / std::sqrt(rest_[v]));
  }

  void refresh(Span<Index> tokens, double enough) {
    compare_with_picks(
        tokens, known_, picked_, block,
        [&](Range picks, Span<const Index> some) { follow(picks, some); },
        [&](Index v) { return bound(v) < enough; });
  }

  /// Gains fall slowly, so that leaders are many and cheaper to compare together.
  static constexpr Index refresh_every = 16;

 private:
  static constexpr Index block = 8;

  void follow(Range picks, Span<const Index> tokens) {
    Acc entry_values[block * refresh_group];
    Acc sum_values[block * refresh_group];
    const MatrixView<Acc> entries(entry_values, picks.size(), tokens.size());
    const MatrixView<Acc> sums(sum_values, picks.size(), tokens.size());
    directions_.cosines(picks, tokens, entries);
    // Σ_s over the picks before the block, which are most.
    row_dots<Acc>(
        MatrixView<const Acc>(of_picks_.middle_rows(picks).middle_cols({0, picks.begin})),
        tokens.size(), [&](Index r) { return factor_.row(tokens[r]); }, sums);
    for (Index r = 0; r < tokens.size(); ++r) {
      const Index v = tokens[r];
      Acc* own = factor_.row(v);
      for (Index t = known_[v]; t < picks.end; ++t) {
        Acc along = entries(t - picks.begin, r) - sums(t - picks.begin, r);
        for (Index s = picks.begin; s < t; ++s) {
          along -= of_picks_(t, s) * own[s];
        }
        own[t] = along * scale_[t];
        rest_[v] -= static_cast<double>(own[t]) * static_cast<double>(own[t]);
      }
      known_[v] = picks.end;
    }
  }

  Directions<T> directions_;
  Span<const double> weights_;
  double least_;
  Span<double> rest_;         // v_i
  Span<Index> known_;         // picks that have been subtracted from it
  MatrixView<Acc> factor_;    // row i: c_ti of these picks t
  MatrixView<Acc> of_picks_;  // the same of the picks, row by row
  Span<Acc> scale_;           // 1 / √v of the picks
  Index picked_ = 0;
};

}  // namespace tokenfold::detail
