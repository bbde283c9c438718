// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "tokenfold/core/select.hpp"
#include "tokenfold/core/stages.hpp"
#include "tokenfold/filter/greedy_coverage.hpp"
#include "tokenfold/filter/saliency.hpp"
#include "tokenfold/filter/similarity_matrix.hpp"

namespace tokenfold::filter {

/// How saliency and coverage become one gain.
enum class SaliencyUse {
  product,  ///< a_i^α · coverage
  sum,      ///< a_i^α + coverage
};
constexpr auto enum_names(SaliencyUse) {
  return enum_names_of<SaliencyUse>({{"product", SaliencyUse::product}, {"sum", SaliencyUse::sum}});
}

/// SCOPE's filter (arXiv 2510.24214): picks, one after the other, the token that covers most of
/// what is not covered yet, weighed by its own saliency,
///
///   gain_i = a_i^α · Σ_u max(0, cos(x_u, x_i) − best_u)
///   best_u = max(0, max_{k picked} cos(x_u, x_k))
///
/// over all visual tokens u; negative cosines never count. a_i is the resource `relevance` if it is
/// given, else Σ_h A^h[cls, i]: the sum over the heads, which matters only beside `sum`. A negative
/// a_i counts as 0. Once everything is covered the lowest rows are taken, whatever their saliency.
/// Tokens whose saliency or features are not finite are picked last; as something to be covered,
/// features that are not finite are zero rows, which nothing covers.
///
/// Reads: features; relevance, or attention (one row) and the [CLS] row of the layout.
/// Score: the gain at which a token was picked; 0 for the others, and where all or none are picked.
/// Cost: half of an [N × D] · [D × N] product, which is held, N × N; N² operations for the first
/// gains; then per pick N for each token that the pick covers better (all of them at first, few
/// later), and for each of 2 to 4 gains. Scratch: N² + 64 D numbers at
/// most, and a few of length N.
struct SaliencyCoverage {
  double alpha = 1;
  SaliencyUse use = SaliencyUse::product;
  TokenOrder order = TokenOrder::raster;

  template <class Visit>
  void options(Visit&& visit) {
    visit("alpha", alpha, "exponent of the saliency; 0: coverage alone");
    visit("use", use, "multiply coverage by the saliency, or add the two");
    visit("order", order, "preserved tokens in raster order or in the order of picking");
  }

  template <HasFeatures S>
  requires detail::HasSaliency<S>
  void operator()(const S& sequence, const Budget& budget, Partition& partition,
                  Workspace& workspace) const {
    require(std::isfinite(alpha) && alpha >= 0, "scope: alpha must not be negative, got ", alpha);
    const TokenLayout& layout = sequence.layout;
    const Index n = layout.visual_count();
    const Index keep = budget.keep_count(n);
    if (detail::preserve_all_or_none(layout, keep, partition)) {
      return;
    }
    Workspace::Frame frame(workspace);
    const Span<Index> chosen = workspace.take<Index>(keep);
    partition.scores.assign(static_cast<std::size_t>(n), 0.0);
    pick(sequence, chosen, partition.scores, workspace);
    preserve(layout, chosen, order, partition, workspace);
  }

 private:
  template <class S>
  void pick(const S& sequence, Span<Index> chosen, Span<double> scores,
            Workspace& workspace) const {
    using T = typename decltype(sequence.features)::Element;
    using Acc = Accumulator<T>;
    const Span<double> weight = detail::saliency(sequence, "scope", workspace);
    for (double& a : weight) {
      a = std::isfinite(a) ? std::pow(std::max(a, 0.0), alpha) : a;
    }
    const detail::CosineRows<T> cosines(
        detail::visual_rows(sequence.layout, sequence.features, "scope: features", workspace),
        workspace);
    const Index n = cosines.size();
    const MatrixView<Acc> similarity(workspace.take<Acc>(n * n).data(), n, n);
    detail::similarity_matrix(cosines, similarity, workspace);

    const MatrixView<const Acc> pairs(similarity);  // symmetric
    const Span<const Acc> ones = workspace.take_filled<Acc>(n, Acc(1));
    detail::Coverage<Acc> coverage(pairs, pairs, ones, workspace);
    const Span<bool> usable = workspace.take<bool>(n);
    for (Index i = 0; i < n; ++i) {
      usable[i] = std::isfinite(weight[i]) && cosines.valid(i);
    }
    const auto value = [&](Index i, double gain) {
      return use == SaliencyUse::product ? weight[i] * gain : weight[i] + gain;
    };
    const auto take = [&](Index i, double gain) { scores[i] = detail::finite_or(gain, 0); };
    detail::pick_greedily(coverage, usable, chosen, value, take, workspace);
  }
};

}  // namespace tokenfold::filter
