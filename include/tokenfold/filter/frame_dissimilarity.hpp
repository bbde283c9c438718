// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>

#include "tokenfold/core/select.hpp"
#include "tokenfold/core/similarity.hpp"
#include "tokenfold/core/stages.hpp"

namespace tokenfold::filter {

/// EVS's filter (arXiv 2510.14624, section 3): preserves the tokens that differ most from what
/// stood in the same cell of the frame before, and the whole first frame,
///
///   s_{t,c} = 1 − cos(x_{t,c}, x_{t−1,c}),   s_{0,c} = 255 (as released: above all others)
///
/// Where earlier steps dropped x_{t−1,c}, the latest frame that still has the cell (and is finite
/// there) takes its place; a token whose cell no earlier frame has, or that has no cell, is new and
/// scores 255 as well. So the budget must leave room for one token per cell that is left (in a
/// whole video: for the first frame), or be 0; what lies between is refused, not silently raised.
///
/// Reads: features.
/// Score: s, high = preserved; equal scores: the earlier token. A zero token has similarity 0, so
/// scores 1; one that is not finite scores NaN and is discarded first.
/// Cost: N · D multiply-adds twice (lengths, products) and a selection.
struct FrameDissimilarity {
  static constexpr double new_token_score = 255;

  template <HasFeatures S>
  void operator()(const S& sequence, const Budget& budget, Partition& partition,
                  Workspace& workspace) const {
    const TokenLayout& layout = sequence.layout;
    const Index keep = budget.keep_count(layout.visual_count());
    const Index cells = layout.grid().cells();
    Workspace::Frame frame(workspace);
    const auto x = detail::visual_rows(layout, sequence.features, "frame dissimilarity", workspace);
    const detail::CosineRows rows(x, workspace);

    // The tokens of a cell one after the other: by frame, whatever the order of the rows.
    const Span<Index> ordinal_at = workspace.take_filled<Index>(layout.frames() * cells, -1);
    const Span<Index> latest = workspace.take_filled<Index>(cells, -1);
    const Span<bool> seen = workspace.take_filled<bool>(cells, false);
    partition.scores.assign(static_cast<std::size_t>(x.rows()), new_token_score);
    const Span<double> scores(partition.scores);
    Index new_tokens = 0;
    for (Index v = 0; v < x.rows(); ++v) {
      const bool has_place = layout.has_grid() && layout.cells()[v] >= 0;
      if (has_place) {
        ordinal_at[layout.cells()[v]] = v;
      }
      new_tokens += has_place ? 0 : 1;
      if (!rows.valid(v)) {
        scores[v] = std::numeric_limits<double>::quiet_NaN();
      }
    }
    for (Index place = 0; place < ordinal_at.size(); ++place) {
      const Index v = ordinal_at[place];
      if (v < 0) {
        continue;
      }
      const Index cell = place % cells;
      new_tokens += seen[cell] ? 0 : 1;
      seen[cell] = true;
      if (rows.valid(v)) {
        if (latest[cell] >= 0) {
          scores[v] = 1 - cosine(rows, v, latest[cell]);
        }
        latest[cell] = v;
      }
    }
    require(keep == 0 || keep >= new_tokens, "frame dissimilarity: the first frame's ", new_tokens,
            " tokens are always preserved, cannot keep ", keep,
            "; evs_keep_count() takes care of it");
    preserve_highest(layout, keep, TokenOrder::raster, partition, workspace);
  }

 private:
  template <class T>
  static double cosine(const detail::CosineRows<T>& rows, Index i, Index j) {
    using Acc = Accumulator<T>;
    if (!(rows.inverse_norm(i) > 0 && rows.inverse_norm(j) > 0)) {
      return 0;
    }
    const Index d = rows.matrix().cols();
    const detail::ConstVectorMap<T> a(rows.matrix().row(i), d);
    const detail::ConstVectorMap<T> b(rows.matrix().row(j), d);
    // One factor is scaled first: the plain product of two finite rows may overflow.
    const Acc product = (rows.inverse_norm(i) * a.template cast<Acc>()).dot(b.template cast<Acc>());
    return static_cast<double>(product * rows.inverse_norm(j));
  }
};

}  // namespace tokenfold::filter
