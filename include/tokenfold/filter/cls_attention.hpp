// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/core/select.hpp"
#include "tokenfold/core/stages.hpp"
#include "tokenfold/filter/attention_scores.hpp"

namespace tokenfold::filter {

/// EViT's filter (arXiv 2202.07800, section 3.2): preserves the visual tokens that [CLS] attends to
/// most,
///
///   a_i = (1/H) Σ_h A^h[cls, i]
///
/// the softmax running over all tokens, [CLS] included.
///
/// Reads: attention (one row), the [CLS] row of the layout.
/// Score: a_i, high = preserved.
/// Cost: one attention row and a selection.
struct ClsAttention {
  TokenOrder order = TokenOrder::raster;

  template <class Visit>
  void options(Visit&& visit) {
    visit("order", order, "order of the preserved tokens");
  }

  template <HasAttention S>
  void operator()(const S& sequence, const Budget& budget, Partition& partition,
                  Workspace& workspace) const {
    const TokenLayout& layout = sequence.layout;
    require(layout.cls().has_value(), "cls attention: the layout has no [CLS] row");
    const Index keep = budget.keep_count(layout.visual_count());
    detail::append_attention_row(sequence, *layout.cls(), partition.scores, workspace);
    preserve_highest(layout, keep, order, partition, workspace);
  }
};

}  // namespace tokenfold::filter
