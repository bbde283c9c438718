// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "tokenfold/core/stages.hpp"
#include "tokenfold/filter/centering.hpp"
#include "tokenfold/filter/falling_bounds.hpp"
#include "tokenfold/filter/isolation.hpp"
#include "tokenfold/filter/nearest_pick.hpp"

namespace tokenfold::filter {

/// Where the greedy choice begins.
enum class FirstPick {
  most_isolated,       ///< the token whose nearest neighbour is farthest; at worst all pairs
  farthest_from_mean,  ///< the token of the largest mean distance to all others, O(N·D)
  highest_norm,        ///< the longest token, O(N·D)
};
constexpr auto enum_names(FirstPick) {
  return enum_names_of<FirstPick>({{"most_isolated", FirstPick::most_isolated},
                                   {"farthest_from_mean", FirstPick::farthest_from_mean},
                                   {"highest_norm", FirstPick::highest_norm}});
}

/// DivPrune's filter (arXiv 2503.02175, section 3.2): preserves a set in which the two most alike
/// tokens are as unlike as possible, greedily,
///
///   d_ij = 1 − cos(x_i, x_j)
///   i_1 = argmax_i min_{j≠i} d_ij,   i_{t+1} = argmax_{i∉𝒦} min_{j∈𝒦} d_ij
///
/// With Cen-Prune's `centering`, d comes from centred tokens and all picks but the first maximise
/// g̃_i · min d_ij. A distance within rounding of 0 is 0, so that identical tokens tie. A zero
/// token is at distance 1 from every other. Tokens that are not finite come last of all, by row.
///
/// Reads: features.
/// Score: the distance (times g̃_i) to the tokens picked before; for the first pick what it was
/// picked by; for a token not picked, the distance it lost the last round with, or without
/// `score_discarded` an upper bound of that. NaN for a token that is not finite; 0 where all tokens
/// or none are preserved, as nothing is compared then.
/// Cost: `most_isolated` N²/2 · D multiply-adds at worst, as a rule a fraction of that; K · N · D
/// for the picks, less without `score_discarded`.
/// Memory: the directions of the picks, K · D, and O(N).
struct MaxMinDiversity {
  FirstPick first_pick = FirstPick::most_isolated;
  /// Never pick a token twice. The release does when all others are at distance 0 of the set; the
  /// token then stands twice in the output, and so fewer different ones do.
  bool mask_chosen = true;
  TokenOrder order = TokenOrder::raster;
  Centering centering = {};
  /// First pick in the coordinates of `centering` too; by default among the tokens as they are.
  bool center_first_pick = false;
  /// Exact scores of tokens that are not picked, though no pick depends on them. Without, 576 → 64
  /// of image-like tokens takes 9 ms instead of 14 at 4096 channels.
  bool score_discarded = true;

  template <class Visit>
  void options(Visit&& visit) {
    visit("first_pick", first_pick, "where the greedy choice begins");
    visit("mask_chosen", mask_chosen, "never pick a token twice");
    visit("order", order, "order of the preserved tokens");
    detail::visit_options(centering, visit);
    visit("center_first_pick", center_first_pick, "first pick among the centred tokens too");
    visit("score_discarded", score_discarded, "exact scores of tokens that are not picked");
  }

  template <HasFeatures S>
  void operator()(const S& sequence, const Budget& budget, Partition& partition,
                  Workspace& workspace) const {
    const TokenLayout& layout = sequence.layout;
    const Index keep = budget.keep_count(layout.visual_count());
    if (detail::preserve_all_or_none(layout, keep, partition)) {
      return;
    }
    Workspace::Frame frame(workspace);
    const auto x = detail::visual_rows(layout, sequence.features, "divprune: features", workspace);
    const detail::CosineRows plain(x, workspace);
    detail::with_centering(centering, plain, workspace, [&](const auto& cosines, auto weights) {
      partition.scores.resize(static_cast<std::size_t>(x.rows()));
      const Span<double> scores(partition.scores);
      const auto picks = center_first_pick
                             ? pick(cosines, cosines, weights, keep, scores, workspace)
                             : pick(plain, cosines, weights, keep, scores, workspace);
      preserve(layout, picks, order, partition, workspace);
    });
  }

 private:
  template <class First, class Cosines>
  Span<const Index> pick(const First& first, const Cosines& cosines, Span<const double> weights,
                         Index keep, Span<double> scores, Workspace& workspace) const {
    const Index n = cosines.size();
    const Span<bool> usable = workspace.take<bool>(n);
    for (Index v = 0; v < n; ++v) {
      usable[v] =
          first.valid(v) && cosines.valid(v) && (weights.empty() || std::isfinite(weights[v]));
    }
    detail::GreedyPicks picks(usable, keep, workspace);
    const Span<double> criterion = workspace.take<double>(n);
    first_criterion(first, usable, keep == 1 && score_discarded, criterion, workspace);
    if (picks.add_best(criterion, scores, !mask_chosen)) {
      if (!picks.full()) {
        detail::NearestPick nearest(cosines, weights, keep - 1, workspace);
        nearest.take(picks.last());
        detail::refresh_all(nearest, n, workspace);
        detail::pick_by_falling_bounds(nearest, picks, scores, !mask_chosen, workspace);
        if (score_discarded) {
          detail::refresh_all(nearest, n, workspace);
        }
        for (Index v = 0; v < n; ++v) {
          criterion[v] = nearest.bound(v);
        }
      }
    }
    picks.score_others(criterion, scores);
    picks.fill(usable, {});
    for (Index v = 0; v < n; ++v) {
      scores[v] = usable[v] ? scores[v] : std::numeric_limits<double>::quiet_NaN();
    }
    return picks.picks();
  }

  template <class Cosines>
  void first_criterion(const Cosines& cosines, Span<const bool> usable, bool everybody,
                       Span<double> criterion, Workspace& workspace) const {
    Workspace::Frame frame(workspace);
    switch (first_pick) {
      case FirstPick::most_isolated:
        return detail::Isolation(cosines, usable, everybody, workspace).distances(criterion);
      case FirstPick::farthest_from_mean:
        detail::mean_distances(cosines, criterion, workspace);
        for (double& value : criterion) {
          value += 1;
        }
        return;
      case FirstPick::highest_norm:
        for (Index v = 0; v < criterion.size(); ++v) {
          const auto inverse = static_cast<double>(cosines.inverse_norm(v));
          criterion[v] = inverse > 0 ? 1 / inverse : 0;
        }
        return;
    }
  }
};

}  // namespace tokenfold::filter
