// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "tokenfold/core/select.hpp"
#include "tokenfold/core/stages.hpp"
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
  /// What a token that may be picked scores by.
  struct Criteria {
    Span<const double> relevance;
    Span<double> coverage;
    Span<double> diversity;
  };
  struct Pick {
    Index place;  // in U
    double value;
  };
  /// ṽ = (v − offset) · factor.
  struct Rescaling {
    double offset = 0;
    double factor = 0;

    double operator()(double value) const { return (value - offset) * factor; }
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

    const Criteria criteria{relevance, workspace.take_filled<double>(n, 0.0),
                            workspace.take_filled<double>(n, 1.0)};
    // U: what is not picked yet, ascending; tokens that are not finite wait apart.
    const Span<Index> ordinals = workspace.take<Index>(n);
    const Index finite = finite_first(cosines, relevance, ordinals);
    Span<Index> left = ordinals.subspan(0, finite);
    const Span<const Index> last = ordinals.subspan(finite, n - finite);

    const Span<double> best = workspace.take<double>(n);  // max_{k ∈ K} cos(x_j, x_k)
    const Index picks = std::min(chosen.size(), left.size());
    for (Index step = 0; step < picks; ++step) {
      const Pick next =
          step == 0 ? most_relevant(left, relevance) : best_of(left, criteria, rounding<Acc>());
      chosen[step] = left[next.place];
      scores[chosen[step]] = next.value;
      std::copy(left.begin() + next.place + 1, left.end(), left.begin() + next.place);
      left = left.subspan(0, left.size() - 1);
      if (step == 0) {
        begin_with<Acc>(chosen[0], similarity, best, criteria.coverage);
      } else {
        add<Acc>(chosen[step], similarity, best, criteria.coverage);
      }
      for (Index j = 0; j < n; ++j) {
        criteria.diversity[j] = std::max(0.0, 1 - best[j]);
      }
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

  static Pick most_relevant(Span<const Index> left, Span<const double> relevance) {
    Pick best{0, relevance[left[0]]};
    for (Index place = 1; place < left.size(); ++place) {
      if (relevance[left[place]] > best.value) {
        best = {place, relevance[left[place]]};
      }
    }
    return best;
  }

  Pick best_of(Span<const Index> left, const Criteria& criteria, double rounding) const {
    const auto n = static_cast<double>(criteria.relevance.size());
    const Rescaling r = rescaling(left, criteria.relevance, 0);
    const Rescaling c = rescaling(left, criteria.coverage, n * rounding);
    const Rescaling d = rescaling(left, criteria.diversity, rounding);
    Pick best{0, -std::numeric_limits<double>::infinity()};
    for (Index place = 0; place < left.size(); ++place) {
      const Index i = left[place];
      const double value = r(criteria.relevance[i]) + lambda * c(criteria.coverage[i]) +
                           alpha * d(criteria.diversity[i]);
      if (value > best.value) {
        best = {place, value};
      }
    }
    return best;
  }

  /// Over the tokens `left`; values, or with min-max differences, up to `noise` say nothing.
  Rescaling rescaling(Span<const Index> left, Span<const double> values, double noise) const {
    double sum = 0;
    double least = values[left[0]];
    double most = least;
    for (const Index i : left) {
      sum += values[i];
      least = std::min(least, values[i]);
      most = std::max(most, values[i]);
    }
    if (scale == CriterionScale::min_max) {
      return most - least > noise ? Rescaling{least, 1 / (most - least)} : Rescaling{};
    }
    const double mean = sum / static_cast<double>(left.size());
    return mean > 0 && most > noise ? Rescaling{0, 1 / mean} : Rescaling{};
  }

  /// K = {first}: best and c from all pairs.
  template <class Acc>
  static void begin_with(Index first, MatrixView<const Acc> similarity, Span<double> best,
                         Span<double> coverage) {
    const auto row = [&](Index i) {
      return detail::ConstVectorMap<Acc>(similarity.row(i), similarity.cols())
          .template cast<double>();
    };
    auto nearest = detail::as_vector(best);
    nearest = row(first);
    for (Index i = 0; i < coverage.size(); ++i) {
      coverage[i] = (row(i) - nearest).cwiseMax(0.0).sum();
    }
  }

  /// K ← K ∪ {token}. Only tokens j that it is closer to than K was change any c_i, each by the
  /// part of cos(x_i, x_j) between the old and the new best_j. Sums run over all j, not only U:
  /// where j is in K, best_j is 1 and nothing is left to cover.
  template <class Acc>
  static void add(Index token, MatrixView<const Acc> similarity, Span<double> best,
                  Span<double> coverage) {
    auto c = detail::as_vector(coverage);
    for (Index j = 0; j < best.size(); ++j) {
      const double before = best[j];
      const double after = similarity(token, j);
      if (after > before) {
        const auto row = detail::ConstVectorMap<Acc>(similarity.row(j), similarity.cols());
        c -= (row.template cast<double>().array() - before)
                 .cwiseMax(0.0)
                 .cwiseMin(after - before)
                 .matrix();
        best[j] = after;
      }
    }
  }
};

}  // namespace tokenfold::filter
