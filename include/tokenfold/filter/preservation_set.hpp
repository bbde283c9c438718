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

/// How criteria are made comparable, over the tokens that are not picked yet.
enum class CriterionScale {
  mean,     ///< v / mean v (the paper's algorithms)
  min_max,  ///< (v − min v) / (max v − min v) (the paper's text)
};
constexpr auto enum_names(CriterionScale) {
  return enum_names_of<CriterionScale>(
      {{"mean", CriterionScale::mean}, {"min_max", CriterionScale::min_max}});
}

/// TOPS's filter (arXiv 2606.27161): a set that is relevant, covers the others, and is diverse,
/// picked one token after the other. With K the tokens picked so far and U the others,
///
///   c_i = Σ_{j ∈ U} max(0, cos(x_i, x_j) − max_{k ∈ K} cos(x_j, x_k))      coverage
///   d_i = 1 − max_{k ∈ K} cos(x_i, x_k)                                  diversity
///   next pick:   argmax_{i ∈ U} r̃_i + λ c̃_i + α d̃_i,   the first one argmax r_i
///
/// Every criterion is rescaled at every pick, over U: ṽ = v / mean(v) by default, min-max as an
/// option. A criterion that is 0 for all of U (min-max: the same for all), or nothing but rounding,
/// says nothing. r_i is the resource `relevance` if it is given (not negative, for the mean), else
/// Σ_h A^h[cls, i]. Tokens whose relevance or features are not finite are picked last and count in
/// no mean; as something to be covered, features that are not finite are zero rows.
///
/// Reads: features; relevance, or attention (one row) and the [CLS] row of the layout.
/// Score: the criterion at which a token was picked, r_i for the first; 0 for the others, and where
/// all or none are picked.
/// Cost: half of an [N × D] · [D × N] product, which is held, N × N; N² once for c; then per pick N
/// for each token that the pick brought closer to K (all of them at first, few later).
/// Scratch: N² + 64 D numbers at most, and a few of length N.
struct PreservationSet {
  double lambda = 0.5;
  double alpha = 0.5;
  CriterionScale scale = CriterionScale::mean;
  TokenOrder order = TokenOrder::raster;

  template <class Visit>
  void options(Visit&& visit) {
    visit("lambda", lambda, "weight of coverage against relevance");
    visit("alpha", alpha, "weight of diversity against relevance");
    visit("normalization", scale, "what makes the criteria comparable");
    visit("order", order, "preserved tokens in raster order or in the order of picking");
  }

  template <HasFeatures S>
  requires detail::HasSaliency<S>
  void operator()(const S& sequence, const Budget& budget, Partition& partition,
                  Workspace& workspace) const {
    require(std::isfinite(lambda) && lambda >= 0, "tops: lambda must not be negative, got ",
            lambda);
    require(std::isfinite(alpha) && alpha >= 0, "tops: alpha must not be negative, got ", alpha);
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
  /// ṽ = (v − offset) · factor.
  struct Rescaling {
    double offset = 0;
    double factor = 0;
  };

  template <class S>
  void pick(const S& sequence, Span<Index> chosen, Span<double> scores,
            Workspace& workspace) const {
    using T = typename decltype(sequence.features)::Element;
    using Acc = Accumulator<T>;
    const Span<double> relevance = detail::saliency(sequence, "tops", workspace);
    const detail::CosineRows<T> cosines(
        detail::visual_rows(sequence.layout, sequence.features, "tops: features", workspace),
        workspace);
    const Index n = cosines.size();
    const MatrixView<Acc> similarity(workspace.take<Acc>(n * n).data(), n, n);
    detail::similarity_matrix(cosines, similarity, workspace);

    const MatrixView<const Acc> pairs(similarity);  // symmetric
    const Span<const Acc> ones = workspace.take_filled<Acc>(n, Acc(1));
    detail::Coverage<Acc> covered(pairs, pairs, ones, workspace);
    const Span<double> coverage = workspace.take<double>(n);

    // U: what is not picked yet, ascending; tokens that are not finite wait apart.
    const Span<Index> ordinals = workspace.take<Index>(n);
    const Index finite = finite_first(cosines, relevance, ordinals);
    Span<Index> left = ordinals.subspan(0, finite);
    const Span<const Index> last = ordinals.subspan(finite, n - finite);
    const Span<double> criteria = workspace.take<double>(3 * finite);
    const Index picks = std::min(chosen.size(), left.size());
    for (Index step = 0; step < picks; ++step) {
      const auto values = [&](Index which) {  // by place in U
        return criteria.subspan(which * finite, left.size());
      };
      const Span<double> r = values(0);
      for (Index place = 0; place < left.size(); ++place) {
        r[place] = relevance[left[place]];
      }
      if (step > 0) {
        const Span<double> c = values(1);
        const Span<double> d = values(2);
        for (Index place = 0; place < left.size(); ++place) {
          c[place] = coverage[left[place]];
          d[place] = std::max(0.0, 1 - static_cast<double>(covered.best()[left[place]]));
        }
        using Double = detail::DoubleFor<T>;
        combine(detail::as_vector<Double>(r).array(), detail::as_vector<Double>(c).array(),
                detail::as_vector<Double>(d).array(), n, rounding<Acc>());
      }
      const Index place = std::max_element(r.begin(), r.end()) - r.begin();  // the first
      const Index token = left[place];
      chosen[step] = token;
      scores[token] = r[place];
      std::copy(left.begin() + place + 1, left.end(), left.begin() + place);
      left = left.subspan(0, left.size() - 1);
      if (step > 0) {
        covered.add(token, coverage, 1);
        continue;
      }
      covered.begin_with(token);
      detail::all_gains(covered, coverage, workspace);
    }
    std::copy_n(last.begin(), chosen.size() - picks, chosen.begin() + picks);
  }

  /// All ordinals, those of finite tokens first, both ascending; returns how many are finite.
  template <class Cosines>
  static Index finite_first(const Cosines& cosines, Span<const double> relevance,
                            Span<Index> ordinals) {
    Index size = 0;
    Index finite = 0;
    for (const bool wanted : {true, false}) {
      for (Index i = 0; i < ordinals.size(); ++i) {
        if ((std::isfinite(relevance[i]) && cosines.valid(i)) == wanted) {
          ordinals[size++] = i;
        }
      }
      finite = wanted ? size : finite;
    }
    return finite;
  }

  /// Differences of cosines up to this are taken for rounding errors.
  template <class Acc>
  static constexpr double rounding() {
    return 64 * static_cast<double>(std::numeric_limits<Acc>::epsilon());
  }

  /// r ← r̃ + λ c̃ + α d̃; c sums `terms` differences of cosines.
  template <class Values>
  void combine(Values r, Values c, Values d, Index terms, double noise) const {
    const auto rescaled = [](const Values& v, const Rescaling& by) {
      return (v - by.offset) * by.factor;
    };
    const Rescaling by_r = rescaling(r, 0);
    const Rescaling by_c = rescaling(c, noise * static_cast<double>(terms));
    const Rescaling by_d = rescaling(d, noise);
    r = rescaled(r, by_r) + lambda * rescaled(c, by_c) + alpha * rescaled(d, by_d);
  }

  /// Over the tokens of U; values, or with min-max differences, up to `noise` say nothing.
  template <class Values>
  Rescaling rescaling(const Values& values, double noise) const {
    const double most = values.maxCoeff();
    if (scale == CriterionScale::min_max) {
      const double least = values.minCoeff();
      return most - least > noise ? Rescaling{least, 1 / (most - least)} : Rescaling{};
    }
    const double mean = values.mean();
    return mean > 0 && most > noise ? Rescaling{0, 1 / mean} : Rescaling{};
  }
};

}  // namespace tokenfold::filter
