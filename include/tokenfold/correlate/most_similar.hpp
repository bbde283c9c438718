// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/core/nearest.hpp"
#include "tokenfold/core/stages.hpp"

namespace tokenfold {
namespace detail {

/// Ties each discarded token to the most similar of those that may absorb it; `metric`: one row per
/// visual token.
template <class T>
void link_most_similar(const TokenLayout& layout, MatrixView<const T> metric,
                       const Partition& partition, Correlation& correlation, Workspace& workspace) {
  Workspace::Frame frame(workspace);
  const auto ordinals = [&](Span<const Token> rows) {
    const Span<Index> list = workspace.take<Index>(rows.size());
    for (Index i = 0; i < rows.size(); ++i) {
      list[i] = layout.ordinal(rows[i]);
    }
    return Span<const Index>(list);
  };
  const CosineRows<T> cosines(metric, workspace);
  const auto nearest = nearest_rows(cosines, ordinals(partition.discarded),
                                    ordinals(partition.absorbing()), workspace);
  for (Index i = 0; i < nearest.size(); ++i) {
    if (nearest[i].row >= 0) {
      correlation.begin_source(Span<const Token>(partition.discarded)[i]);
      correlation.link(layout.visual()[nearest[i].row], 1);
    }
  }
}

}  // namespace detail

namespace correlate {

/// One target for each discarded token: the one whose key is most like its own, heads averaged
/// (ToMe, arXiv 2210.09461, section 3; VisionZip, arXiv 2412.04467, section 3),
///
///   J_i = { argmax_j cos(μ_i, μ_j) }      μ_i = (1/H) Σ_h k_i^h
///
/// over the targets that the filter named, or all preserved tokens if it named none. Ties go to the
/// lower row. Zero keys have similarity 0 to everything; tokens whose keys are not finite are
/// neither source nor target.
///
/// Reads: keys.
/// Strengths: 1.
/// Cost: the head mean of all keys; one [discarded × d] · [d × targets] product. Nothing behind a
/// filter that found the targets itself (`Partition::nearest`): 0.07 ms less for ToMe at 577 × 1024.
struct MostSimilarKeys {
  template <HasKeys S>
  void operator()(const S& sequence, const Partition& partition, Correlation& correlation,
                  Workspace& workspace) const {
    if (partition.discarded.empty()) {
      return;
    }
    if (partition.nearest.size() == partition.discarded.size()) {
      for (std::size_t i = 0; i < partition.discarded.size(); ++i) {
        if (partition.nearest[i] != no_token) {
          correlation.begin_source(partition.discarded[i]);
          correlation.link(partition.nearest[i], 1);
        }
      }
      return;
    }
    Workspace::Frame frame(workspace);
    detail::link_most_similar(sequence.layout, detail::head_mean_keys(sequence, workspace),
                              partition, correlation, workspace);
  }
};

/// The same by features: nearest-token recycling behind a filter that only prunes.
///
/// Reads: features.
/// Strengths: 1.
/// Cost: the lengths of all features; one [discarded × D] · [D × targets] product.
struct MostSimilarFeatures {
  template <HasFeatures S>
  void operator()(const S& sequence, const Partition& partition, Correlation& correlation,
                  Workspace& workspace) const {
    if (partition.discarded.empty()) {
      return;
    }
    Workspace::Frame frame(workspace);
    detail::link_most_similar(
        sequence.layout,
        detail::visual_rows(sequence.layout, sequence.features, "features", workspace), partition,
        correlation, workspace);
  }
};

}  // namespace correlate
}  // namespace tokenfold
