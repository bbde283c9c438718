// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <limits>

#include "tokenfold/core/select.hpp"
#include "tokenfold/core/views.hpp"
#include "tokenfold/core/workspace.hpp"

/// Greedy maximisation of coverage ("facility location"),
///
///   f(K) = Σ_r max(0, max_{i ∈ K} C[i, r])
///
/// monotone and submodular: what a candidate adds never grows as others are picked.
namespace tokenfold::detail {

/// How well every demand r is covered by what was picked so far. Refers to memory of the enclosing
/// workspace frame.
template <class Acc>
class Coverage {
 public:
  /// `covers[i, r]`: how well candidate i covers demand r, finite; candidates are rows, so that a
  /// gain reads contiguous memory.
  Coverage(MatrixView<const Acc> covers, Workspace& workspace)
      : covers_(covers), best_(workspace.take_filled<Acc>(covers.cols(), Acc(0))) {}

  /// Σ_r max(0, C[i, r] − best_r).
  double gain(Index i) const {
    return (row(i) - as_vector(best_)).cwiseMax(Acc(0)).template cast<double>().sum();
  }
  /// best_r ← max(best_r, C[i, r]).
  void add(Index i) { as_vector(best_) = as_vector(best_).cwiseMax(row(i)); }

 private:
  auto row(Index i) const { return ConstVectorMap<Acc>(covers_.row(i), covers_.cols()); }

  MatrixView<const Acc> covers_;
  Span<Acc> best_;
};

/// Fills `chosen` with candidates of 0 … n − 1, each the one of highest `gain` among those that are
/// left, ties to the lower index, gains that are not finite last; `take(i, gain)` is told every
/// pick.
///
/// Lazy: a gain is computed again only where its last value might still win, because gains never
/// grow. Rounding does not break that: subtraction, maximum and a sum in fixed order are monotone
/// in floating point too, so the picks are those of evaluating everybody every time.
template <class Gain, class Take>
void pick_lazily(Index n, Span<Index> chosen, Gain&& gain, Take&& take, Workspace& workspace) {
  struct Bound {
    double gain;
    Index candidate;
    Index round;  // of the evaluation
  };
  const auto evaluate = [&](Index candidate, Index round) {
    const double value = finite_or(gain(candidate), -std::numeric_limits<double>::infinity());
    return Bound{value, candidate, round};
  };
  const auto later = [](const Bound& a, const Bound& b) {
    return a.gain != b.gain ? a.gain < b.gain : a.candidate > b.candidate;
  };
  Workspace::Frame frame(workspace);
  const Span<Bound> bounds = workspace.take<Bound>(n);
  for (Index i = 0; i < n; ++i) {
    bounds[i] = evaluate(i, 0);
  }
  std::make_heap(bounds.begin(), bounds.end(), later);
  Bound* end = bounds.end();
  for (Index round = 0; round < chosen.size(); ++round) {
    while (bounds[0].round != round) {
      std::pop_heap(bounds.begin(), end, later);
      end[-1] = evaluate(end[-1].candidate, round);
      std::push_heap(bounds.begin(), end, later);
    }
    const Bound best = bounds[0];
    chosen[round] = best.candidate;
    take(best.candidate, best.gain);
    std::pop_heap(bounds.begin(), end--, later);
  }
}

}  // namespace tokenfold::detail
