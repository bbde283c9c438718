// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "tokenfold/core/stages.hpp"
#include "tokenfold/filter/centering.hpp"
#include "tokenfold/filter/determinant_gain.hpp"
#include "tokenfold/filter/greedy_determinant.hpp"
#include "tokenfold/filter/text_relevance.hpp"

namespace tokenfold::filter {

/// How the relevance r̃_i of a token becomes its weight w_i.
enum class RelevanceWeight {
  linear,       ///< w = r̃
  exponential,  ///< w = exp(α (r̃ − max r̃)), α = θ / (2 (1 − θ))
};
constexpr auto enum_names(RelevanceWeight) {
  return enum_names_of<RelevanceWeight>(
      {{"linear", RelevanceWeight::linear}, {"exponential", RelevanceWeight::exponential}});
}

/// CDPruner's filter (arXiv 2506.10967, section 3): preserves a set of tokens that are relevant to
/// the text and unlike each other, by the determinant of their weighted kernel,
///
///   r_i = (1/M) Σ_m cos(e_i, t_m),   w_i = r̃_i = (r_i − min r + 1e-6) / (max r − min r)
///   maximise log det L̃_𝒦 = Σ_{i∈𝒦} log w_i² + log det L_𝒦,   L_ij = cos(x_i, x_j), L̃ = w L w
///
/// greedily (Chen, Zhang, Zhou 2018): each pick is the token of the largest gain δ_i = w_i² v_i,
/// v_i being what of the unit token i lies outside the span of the picks, kept up to date by an
/// incremental Cholesky factorisation. The weights stay out of the factorisation, so tokens of tiny
/// weight are told apart as well as any. Exactly as many tokens as asked for are preserved: once no
/// v_i exceeds `tolerance`, as with more picks than the rank, the highest weights follow, then
/// tokens whose features or relevance are not finite, by row.
///
/// With Cen-Prune's `centering`, L is that of centred tokens and w_i = r̃_i g̃_i. Equal relevance
/// of all tokens: r̃ = 1. Zero tokens have no gain.
///
/// Reads: features; relevance, or image embeddings and text embeddings. A relevance that is given
/// is r̃ itself (not negative; linear weights do not depend on its unit); the embeddings are not
/// read then.
/// Score: the gain δ_i when i was picked; for a token not picked, the gain it lost the last round
/// with, or without `score_discarded` an upper bound of that. NaN for a token that is not finite; 0
/// where all tokens or none are preserved.
/// Cost: K · N · D + N · K² / 2 multiply-adds, less without `score_discarded` where relevance
/// differs.
/// Memory: K · (N + D + K) of the features' type, and O(N).
struct DeterminantalDiversity {
  /// Of the relevance from embeddings; not of a given one.
  RelevanceSign sign = RelevanceSign::positive;
  RelevanceWeight weight = RelevanceWeight::linear;
  /// θ ∈ [0, 1) of the exponential weight; 0: relevance does not count.
  double theta = 0.5;
  /// A token has a gain while more than this share of it, v_i, is new; relative, however small w_i.
  /// 0: what rounding leaves of a token that is a combination of others, by the precision of the
  /// features (float: 1.5e-5, double: 2.8e-14).
  double tolerance = 0;
  TokenOrder order = TokenOrder::raster;
  Centering centering = {};
  /// Exact scores of tokens that are not picked, though no pick depends on them. Without, 576 → 64
  /// at 4096 channels takes 2 to 3 ms instead of 7.
  bool score_discarded = true;

  template <class Visit>
  void options(Visit&& visit) {
    visit("sign", sign, "relevance is the cosine with the text, or its negative");
    visit("weight", weight, "weight from the relevance: linear or exponential");
    visit("theta", theta, "weight of relevance against diversity, exponential only");
    visit("tolerance", tolerance, "least new share of a token that counts as a gain; 0: rounding");
    visit("order", order, "order of the preserved tokens");
    detail::visit_options(centering, visit);
    visit("score_discarded", score_discarded, "exact scores of tokens that are not picked");
  }

  template <HasFeatures S>
  requires HasTextRelevance<S>
  void operator()(const S& sequence, const Budget& budget, Partition& partition,
                  Workspace& workspace) const {
    const TokenLayout& layout = sequence.layout;
    require(theta >= 0 && theta < 1, "cdpruner: theta must lie in [0, 1), got ", theta);
    require_in_range("cdpruner: tolerance", tolerance, 0, 1);
    const Index keep = budget.keep_count(layout.visual_count());
    if (detail::preserve_all_or_none(layout, keep, partition)) {
      return;
    }
    Workspace::Frame frame(workspace);
    const auto x = detail::visual_rows(layout, sequence.features, "cdpruner: features", workspace);
    const Span<double> weights = workspace.take<double>(x.rows());
    detail::text_relevance(sequence, sign, weights, workspace);
    weigh(weights);
    const detail::CosineRows plain(x, workspace);
    detail::with_centering(
        centering, plain, workspace, [&](const auto& cosines, auto distinctness) {
          if (!distinctness.empty()) {
            for (Index v = 0; v < weights.size(); ++v) {
              weights[v] *= distinctness[v];
            }
          }
          partition.scores.resize(static_cast<std::size_t>(x.rows()));
          const auto picks =
              pick(cosines, weights, keep, Span<double>(partition.scores), workspace);
          preserve(layout, picks, order, partition, workspace);
        });
  }

 private:
  void weigh(Span<double> relevance) const {
    if (weight == RelevanceWeight::linear) {
      return;
    }
    // Relative to the highest: one factor for the whole kernel, and no overflow.
    double highest = -std::numeric_limits<double>::infinity();
    for (const double value : relevance) {
      highest = std::isfinite(value) ? std::max(highest, value) : highest;
    }
    const double alpha = theta / (2 * (1 - theta));
    for (double& value : relevance) {
      value = std::isfinite(value) ? std::exp(alpha * (value - highest)) : value;
    }
  }

  template <class T>
  Span<const Index> pick(const detail::CosineRows<T>& cosines, Span<const double> weights,
                         Index keep, Span<double> scores, Workspace& workspace) const {
    const double least = tolerance > 0 ? tolerance : detail::dependence_noise<Accumulator<T>>;
    const Index n = cosines.size();
    const Span<bool> usable = workspace.take<bool>(n);
    for (Index v = 0; v < n; ++v) {
      usable[v] = cosines.valid(v) && std::isfinite(weights[v]);
    }
    detail::GreedyPicks picks(usable, keep, workspace);
    detail::DeterminantGain gain(cosines, weights, least, keep - 1, workspace);
    detail::pick_by_falling_bounds(gain, picks, scores, false, workspace);
    if (score_discarded) {
      detail::refresh_all(gain, n, workspace);
    }
    const Span<double> gains = workspace.take<double>(n);
    for (Index v = 0; v < n; ++v) {
      gains[v] = gain.bound(v);
    }
    picks.score_others(gains, scores);
    picks.fill(usable, weights);
    for (Index v = 0; v < n; ++v) {
      scores[v] = usable[v] ? scores[v] : std::numeric_limits<double>::quiet_NaN();
    }
    return picks.picks();
  }
};

}  // namespace tokenfold::filter
