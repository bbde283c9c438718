// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "tokenfold/core/select.hpp"
#include "tokenfold/core/views.hpp"
#include "tokenfold/core/workspace.hpp"

/// Greedy maximisation of coverage ("facility location"),
///
///   f(K) = Σ_r w_r max(0, max_{i ∈ K} C[i, r])
///
/// monotone and submodular: what a candidate adds never grows as others are picked.
namespace tokenfold::detail {

/// The sum of `expression`, a vector: 256 terms at a time in its own type, which Eigen vectorises,
/// those sums in double (all in double: 0.28 → 0.03 ms for 576 × 576).
template <class Vector>
double segmented_sum(const Vector& expression) {
  constexpr Index most = 256;
  double sum = 0;
  for (Index begin = 0; begin < expression.size(); begin += most) {
    const Index size = std::min(most, expression.size() - begin);
    sum += static_cast<double>(expression.segment(begin, size).sum());
  }
  return sum;
}

/// How well every demand r is covered by what was picked so far. Refers to memory of the enclosing
/// workspace frame: 4 R + N numbers at most.
template <class Acc>
class Coverage {
 public:
  /// C twice, [N × R] with candidates as rows and [R × N] with demands as rows, so that whatever
  /// runs over either reads contiguous memory; finite. A symmetric C is the same memory twice.
  /// `weights`: w_r, not negative.
  Coverage(MatrixView<const Acc> by_candidate, MatrixView<const Acc> by_demand,
           Span<const Acc> weights, Workspace& workspace)
      : by_candidate_(by_candidate),
        by_demand_(by_demand),
        weights_(weights),
        best_(workspace.take_filled<Acc>(by_candidate.cols(), Acc(0))),
        raised_(workspace.take<Raised>(by_candidate.cols() + rows_at_once)),
        loss_(workspace.take<Acc>(by_demand.cols())),
        workspace_(workspace) {}

  /// max_{k picked} C[k, r], by demand; at least 0 unless `begin_with` was called.
  Span<const Acc> best() const { return {best_.data(), best_.size()}; }

  /// Σ_r w_r max(0, C[i, r] − best_r).
  double gain(Index i) const {
    const ConstVectorMap<Acc> row(by_candidate_.row(i), by_candidate_.cols());
    return segmented_sum(
        (row - as_vector(best_)).cwiseMax(Acc(0)).cwiseProduct(as_vector(weights_)));
  }

  /// best_r = C[k, r], be it negative.
  void begin_with(Index k) { std::copy_n(by_candidate_.row(k), best_.size(), best_.begin()); }

  /// best_r ← max(best_r, C[k, r]). Takes `share` of what each candidate i no longer adds from
  /// gains[i]: the part of w_r C[i, r] that lies between the old and the new best_r, for the
  /// demands that k covers better, few after the first picks. 16 of them are summed in `Acc` before
  /// they are taken off in double.
  void add(Index k, Span<double> gains, double share) {
    Index size = 0;
    for (Index r = 0; r < best_.size(); ++r) {
      const Acc before = best_[r];
      const Acc after = by_candidate_(k, r);
      if (after > before) {
        best_[r] = after;
        raised_[size++] = {by_demand_.row(r), before, after - before, weights_[r]};
      }
    }
    while (size % rows_at_once != 0) {
      raised_[size++] = {by_demand_.row(0), Acc(0), Acc(0), Acc(0)};
    }
    const Index n = loss_.size();
    // Worth another thread if there is much. Whether it is split does not depend on the threads.
    const Index columns = size * n > Index{1} << 18 ? Index{1} << 10 : n;
    workspace_.for_each((n + columns - 1) / columns, [&](Index c) {
      subtract_losses(size, {c * columns, std::min((c + 1) * columns, n)}, gains, share);
    });
  }

  /// How far off, as a share of a candidate's first gain, `gain` and what `add` leaves can be: sums
  /// of 16 terms or segments of 256 in `Acc`, of R in double.
  double rounding() const {
    return 64 * static_cast<double>(std::numeric_limits<Acc>::epsilon()) +
           static_cast<double>(best_.size()) * std::numeric_limits<double>::epsilon();
  }

 private:
  /// A demand that was covered better by a pick.
  struct Raised {
    const Acc* row;  // of `by_demand`
    Acc before;
    Acc rise;
    Acc weight;
  };
  /// `add` for a range of candidates, of the first `size` of `raised_`.
  void subtract_losses(Index size, Range candidates, Span<double> gains, double share) {
    auto loss = as_vector(loss_.subspan(candidates.begin, candidates.size())).array();
    auto left = as_vector<DoubleFor<Acc>>(gains.subspan(candidates.begin, candidates.size()));
    for (Index begin = 0; begin < size; begin += rows_at_once) {
      const auto lost = [&](Index i) {
        const Raised& r = raised_[begin + i];
        const ConstVectorMap<Acc> row(r.row + candidates.begin, candidates.size());
        return r.weight * (row.array() - r.before).cwiseMax(Acc(0)).cwiseMin(r.rise);
      };
      const auto four = (lost(0) + lost(1)) + (lost(2) + lost(3));
      if (begin % rows_summed == 0) {
        loss = four;
      } else {
        loss += four;
      }
      if ((begin + rows_at_once) % rows_summed == 0 || begin + rows_at_once == size) {
        left.array() -= share * loss.template cast<double>();
      }
    }
  }

  /// Read together, to hide latency: 26 → 17 ms for 320 picks among 2880.
  static constexpr Index rows_at_once = 4;
  static constexpr Index rows_summed = 16;

  MatrixView<const Acc> by_candidate_;
  MatrixView<const Acc> by_demand_;
  Span<const Acc> weights_;
  Span<Acc> best_;
  Span<Raised> raised_;
  Span<Acc> loss_;
  const Workspace& workspace_;  // its threads
};

/// gains[i] = coverage.gain(i) for all candidates, by all threads.
template <class Cover>
void all_gains(const Cover& coverage, Span<double> gains, const Workspace& workspace) {
  constexpr Index together = 64;
  workspace.for_each((gains.size() + together - 1) / together, [&](Index b) {
    for (Index i = b * together; i < std::min((b + 1) * together, gains.size()); ++i) {
      gains[i] = coverage.gain(i);
    }
  });
}

/// Fills `chosen` with usable candidates, each the one of highest value(i, gain of i) among those
/// that are left, ties to the lower index, values that are not finite last; then with the others,
/// ascending. `value` grows with the gain. `take(i, value)` is told every pick, the value being −∞
/// for a candidate that is not usable.
///
/// Lazy: for each candidate an upper bound of its gain is kept, which every pick lowers by what it
/// took away, but for rounding. A gain is computed again only where the bound might win, so that
/// the picks are those of evaluating everybody every time: 2 to 4 evaluations a pick. Bounds that
/// only evaluation lowers need up to 80 a pick, where tokens resemble each other little: 8 → 0.3 ms
/// for 64 picks among 576 (1.9 → 0.3 in an image of regions), 310 → 21 for 320 among 2880.
template <class Cover, class Value, class Take>
void pick_greedily(Cover& coverage, Span<const bool> usable, Span<Index> chosen, Value&& value,
                   Take&& take, Workspace& workspace) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  Workspace::Frame frame(workspace);
  const double rounding = coverage.rounding();
  const Span<double> bounds = workspace.take<double>(usable.size());
  const Span<double> promises = workspace.take<double>(usable.size());
  Span<Index> left = workspace.take<Index>(usable.size());
  Index size = 0;
  all_gains(coverage, bounds, workspace);
  for (Index i = 0; i < usable.size(); ++i) {
    bounds[i] *= 1 + rounding;
    if (usable[i]) {
      left[size++] = i;
    }
  }
  left = left.subspan(0, size);

  const Index picks = std::min(chosen.size(), left.size());
  for (Index pick = 0; pick < picks; ++pick) {
    Index most_promising = 0;
    double top = -infinity;
    for (Index place = 0; place < left.size(); ++place) {
      const double promise = value(left[place], bounds[left[place]]);
      promises[place] = promise == promise ? promise : -infinity;
      if (promises[place] > top) {
        most_promising = place;
        top = promise;
      }
    }
    Index best = left.size();
    double best_value = -infinity;
    const auto evaluate = [&](Index place) {
      const Index i = left[place];
      const double gain = coverage.gain(i);
      const double own = finite_or(value(i, gain), -infinity);
      bounds[i] = gain * (1 + rounding);
      if (own > best_value || (own == best_value && place < best)) {
        best = place;
        best_value = own;
      }
    };
    evaluate(most_promising);
    for (Index place = 0; place < left.size(); ++place) {
      const double promise = promises[place];
      if (promise > best_value || (promise == best_value && place < best)) {
        evaluate(place);
      }
    }
    chosen[pick] = left[best];
    take(left[best], best_value);
    coverage.add(left[best], bounds, 1 - rounding);
    std::copy(left.begin() + best + 1, left.end(), left.begin() + best);
    left = left.subspan(0, left.size() - 1);
  }
  for (Index i = 0, pick = picks; pick < chosen.size(); ++i) {
    if (!usable[i]) {
      chosen[pick++] = i;
      take(i, -infinity);
    }
  }
}

}  // namespace tokenfold::detail
