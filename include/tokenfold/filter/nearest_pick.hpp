// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <limits>

#include "tokenfold/filter/centering.hpp"
#include "tokenfold/filter/directions.hpp"
#include "tokenfold/filter/falling_bounds.hpp"

namespace tokenfold::detail {

/// 1 − cos; what rounding leaves of 0 is 0.
template <class Acc>
double cosine_distance(Acc cosine) {
  const double value = 1 - static_cast<double>(cosine);
  return value > rounding_share<Acc> ? value : 0;
}
/// The largest distance there is, from a token to its opposite.
inline constexpr double opposite = 2;

/// weights[v] · the distance of token v to the nearest pick, as a criterion of
/// `pick_by_falling_bounds`: a pick can only make it smaller. Memory of the enclosing workspace
/// frame: the directions of the picks, K · D.
template <class T>
class NearestPick {
 public:
  using Acc = Accumulator<T>;

  NearestPick(const CosineRows<T>& cosines, Span<const double> weights, Index picks,
              Workspace& workspace)
      : directions_(cosines, picks, workspace),
        weights_(weights),
        nearest_(workspace.take_filled<double>(cosines.size(), opposite)),
        known_(workspace.take_filled<Index>(cosines.size(), 0)) {}

  double bound(Index v) const { return weights_.empty() ? nearest_[v] : weights_[v] * nearest_[v]; }
  bool up_to_date(Index v) const { return known_[v] >= picked_; }
  bool candidate(Index) const { return true; }

  void take(Index v) {
    directions_.hold(picked_++, v);
    nearest_[v] = 0;  // a zero token has no cosine with itself
    known_[v] = all;
  }

  void refresh(Span<Index> tokens, double enough) {
    const auto compare = [&](Range picks, Span<const Index> some) {
      Acc cosines[block * refresh_group];
      const MatrixView<Acc> out(cosines, picks.size(), some.size());
      directions_.cosines(picks, some, out);
      for (Index r = 0; r < some.size(); ++r) {
        const Index v = some[r];
        for (Index p = 0; p < picks.size(); ++p) {
          nearest_[v] = std::min(nearest_[v], cosine_distance(out(p, r)));
        }
        known_[v] = picks.end;
      }
    };
    compare_with_picks(tokens, known_, picked_, block, compare,
                       [&](Index v) { return bound(v) < enough; });
  }

  /// Never: bounds fall so far at once that most tokens are never asked for again.
  static constexpr Index refresh_every = 0;

 private:
  static constexpr Index block = 4;
  static constexpr Index all = std::numeric_limits<Index>::max();

  Directions<T> directions_;
  Span<const double> weights_;
  Span<double> nearest_;
  Span<Index> known_;
  Index picked_ = 0;
};

}  // namespace tokenfold::detail
