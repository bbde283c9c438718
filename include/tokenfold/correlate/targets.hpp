// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "tokenfold/core/select.hpp"
#include "tokenfold/core/types.hpp"
#include "tokenfold/core/workspace.hpp"

/// Target policies: given how strongly a discarded token is tied to each candidate, which of them
/// take over its information? All are functions of one row of finite, non-negative strengths; ties
/// go to the lower index; the strongest candidate is always among the targets.
namespace tokenfold::correlate {

/// A target policy reports its targets by calling `choose(index)`, in any order.
template <class P>
concept TargetPolicy = requires(const P& policy, Span<const double> strengths,
                                Workspace& workspace) {
  policy.check();
  policy(
      strengths, [](Index) {}, workspace);
};

/// FiCoCo's token-wise threshold: strength ≥ the ε-quantile of the row (linear interpolation
/// between order statistics, as numpy and torch `quantile`). The quantile of the row itself fixes
/// the number of targets: at ε = 0.998 one while there are at most 500 candidates, two up to 1000.
struct QuantileTargets {
  double epsilon = 0.998;
  /// The authors' FiCoCo-L code asks for strength > threshold.
  bool strict = false;

  template <class Visit>
  void options(Visit&& visit) {
    visit("epsilon", epsilon, "quantile: threshold, as a quantile of the row");
    visit("strict", strict, "quantile: above the threshold, not at it");
  }
  void check() const { require_in_range("quantile targets: epsilon", epsilon, 0, 1); }

  template <class Choose>
  void operator()(Span<const double> strengths, Choose&& choose, Workspace& workspace) const {
    const Index n = strengths.size();
    if (n == 0) {
      return;
    }
    const double position = epsilon * static_cast<double>(n - 1);
    const Index below = static_cast<Index>(position);
    const double fraction = position - static_cast<double>(below);
    // Only the n − below highest matter; they come in falling order, so the last is order statistic
    // `below`.
    Workspace::Frame frame(workspace);
    const Span<double> top = workspace.take<double>(n - below);
    std::partial_sort_copy(strengths.begin(), strengths.end(), top.begin(), top.end(),
                           std::greater<>());
    const double low = top[top.size() - 1];
    const double high = top[std::max<Index>(top.size() - 2, 0)];
    double threshold = low + fraction * (high - low);
    if (!(threshold >= low)) {
      threshold = high;  // the lower neighbour is −∞ (a token's tie to itself)
    }
    if (strict && threshold >= top[0]) {
      choose(std::find(strengths.begin(), strengths.end(), top[0]) - strengths.begin());
      return;
    }
    for (Index j = 0; j < n; ++j) {
      if (strict ? strengths[j] > threshold : strengths[j] >= threshold) {
        choose(j);
      }
    }
  }
};

/// The K strongest candidates. K = 1 is ToMe's rule; with K = 0 every discarded token is dropped
/// (the ablations of the paper).
struct FixedTargets {
  Index count = 1;

  template <class Visit>
  void options(Visit&& visit) {
    visit("count", count, "fixed: how many, the strongest");
  }
  void check() const {
    require(count >= 0, "fixed targets: count must not be negative, got ", count);
  }

  template <class Choose>
  void operator()(Span<const double> strengths, Choose&& choose, Workspace& workspace) const {
    Workspace::Frame frame(workspace);
    const Index k = std::min(count, strengths.size());
    const Span<Index> order = detail::rank_highest(strengths, k, workspace);
    for (Index i = 0; i < k; ++i) {
      choose(order[i]);
    }
  }
};

/// Candidates at least ρ times as strong as the strongest: adapts to how peaked the row is.
struct RelativeTargets {
  double share_of_strongest = 0.5;

  template <class Visit>
  void options(Visit&& visit) {
    visit("share", share_of_strongest, "relative: at least this share of the best");
  }
  void check() const {
    require_in_range("relative targets: share_of_strongest", share_of_strongest, 0, 1);
  }

  template <class Choose>
  void operator()(Span<const double> strengths, Choose&& choose, Workspace&) const {
    if (strengths.empty()) {
      return;
    }
    const double strongest = *std::max_element(strengths.begin(), strengths.end());
    for (Index j = 0; j < strengths.size(); ++j) {
      if (strengths[j] >= share_of_strongest * strongest) {
        choose(j);
      }
    }
  }
};

/// The fewest candidates that together hold the share p of the row's mass: adapts likewise.
struct NucleusTargets {
  double mass = 0.5;

  template <class Visit>
  void options(Visit&& visit) {
    visit("mass", mass, "nucleus: the fewest that hold this share of the row");
  }
  void check() const { require_in_range("nucleus targets: mass", mass, 0, 1); }

  template <class Choose>
  void operator()(Span<const double> strengths, Choose&& choose, Workspace& workspace) const {
    Workspace::Frame frame(workspace);
    const Span<Index> order = detail::rank_highest(strengths, strengths.size(), workspace);
    double total = 0;
    for (const Index j : order) {
      total += std::max(0.0, strengths[j]);
    }
    const double wanted = mass * total;
    double held = 0;
    for (Index i = 0; i < order.size() && (i == 0 || held < wanted); ++i) {
      choose(order[i]);
      held += strengths[order[i]];
    }
  }
};

}  // namespace tokenfold::correlate
