// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/core/select.hpp"

namespace tokenfold::detail {

/// The bookkeeping of a filter that picks token after token by a criterion that every pick changes.
///
/// A score is the criterion at the moment of its token's pick; for a token that was not picked, the
/// criterion in the last round, which it lost. Lives in the enclosing workspace frame.
class GreedyPicks {
 public:
  /// Room for `count` picks among the tokens that are `usable`.
  GreedyPicks(Span<const bool> usable, Index count, Workspace& workspace)
      : picks_(workspace.take<Index>(count)),
        candidate_(workspace.take<bool>(usable.size())),
        picked_(workspace.take_filled<bool>(usable.size(), false)) {
    std::copy(usable.begin(), usable.end(), candidate_.begin());
  }

  bool full() const { return size_ == picks_.size(); }
  /// The latest pick.
  Index last() const { return picks_[size_ - 1]; }
  /// In the order of picking.
  Span<const Index> picks() const { return {picks_.data(), size_}; }
  /// Usable and not picked, or repeatable.
  bool is_candidate(Index v) const { return candidate_[v]; }

  /// Picks v, whose score is `criterion` unless it was picked before. A `repeatable` pick remains a
  /// candidate.
  void add(Index v, double criterion, Span<double> scores, bool repeatable) {
    if (!picked_[v]) {
      scores[v] = criterion;
    }
    add(v, repeatable);
  }

  /// Picks the candidate of highest criterion, the lowest of equals; false if there is none.
  bool add_best(Span<const double> criterion, Span<double> scores, bool repeatable) {
    Index best = -1;
    for (Index v = 0; v < criterion.size(); ++v) {
      if (candidate_[v] && (best < 0 || criterion[v] > criterion[best])) {
        best = v;
      }
    }
    if (best < 0) {
      return false;
    }
    add(best, criterion[best], scores, repeatable);
    return true;
  }

  /// Scores the tokens that were not picked: call it after the last round.
  void score_others(Span<const double> criterion, Span<double> scores) const {
    for (Index v = 0; v < picked_.size(); ++v) {
      if (!picked_[v]) {
        scores[v] = criterion[v];
      }
    }
  }

  /// Fills up with tokens not picked yet: the `usable` ones by falling `rank` (empty: ascending),
  /// then all others ascending.
  void fill(Span<const bool> usable, Span<const double> rank) {
    for (const bool usable_now : {true, false}) {
      while (!full()) {
        Index best = -1;
        for (Index v = 0; v < picked_.size(); ++v) {
          const bool higher = best < 0 || (usable_now && !rank.empty() && rank[v] > rank[best]);
          if (!picked_[v] && usable[v] == usable_now && higher) {
            best = v;
          }
        }
        if (best < 0) {
          break;
        }
        add(best, false);
      }
    }
  }

 private:
  void add(Index v, bool repeatable) {
    picks_[size_++] = v;
    picked_[v] = true;
    candidate_[v] = repeatable;
  }

  Span<Index> picks_;
  Span<bool> candidate_;
  Span<bool> picked_;
  Index size_ = 0;
};

}  // namespace tokenfold::detail
