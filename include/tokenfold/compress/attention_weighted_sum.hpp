// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/compress/fused_token.hpp"
#include "tokenfold/compress/links_by_target.hpp"

namespace tokenfold::compress {

/// PruMerge's compression (arXiv 2403.15388, section 3.3): every preserved token absorbs the tokens
/// linked to it, weighted by the attention a that the filter scored them with, and what was
/// discarded is summed into one synthetic token,
///
///   x'_p = x_p + Σ_{j → p} a_j x_j          x_extra = Σ_{i discarded} a_i x_i
///
/// always from the tokens as they were. The paper speaks of a weighted average; in the release the
/// division is commented out, and the synthetic token is not in the paper at all. Weights that are
/// not finite count as 0.
///
/// Reads: the scores of the partition. Which links there are matters, their strengths do not.
struct AttentionWeightedSum {
  /// mean: x'_p = Σ_{j ∈ {p} ∪ sources} a_j x_j / Σ a_j (published); x_p itself if the a_j sum to
  /// 0.
  Aggregate rule = Aggregate::sum;
  /// Append the synthetic token (only if anything was discarded).
  bool extra_token = true;

  template <class Visit>
  void options(Visit&& visit) {
    visit("rule", rule, "sum, or weighted mean");
    visit("extra_token", extra_token, "append the sum of what was discarded");
  }

  template <HasLayout S>
  void operator()(const S& sequence, const Partition& partition, const Correlation& correlation,
                  PlanWriter& writer, Workspace& workspace) const {
    const TokenLayout& layout = sequence.layout;
    detail::check_scores(layout, partition);
    const auto attention = [&](Token token) {
      return detail::score_weight(layout, partition, token);
    };
    Workspace::Frame frame(workspace);
    const detail::LinksByTarget links(
        layout.tokens(), correlation,
        [&](Index i, Index) { return attention(correlation.source(i)); }, workspace);

    for (const Token token : partition.preserved) {
      double own = 1;
      double total = 1;
      if (rule == Aggregate::mean) {
        own = total = attention(token);
        for (const auto& link : links[token]) {
          total += link.strength;
        }
        if (!(total > 0)) {
          own = total = 1;
        }
      }
      writer.begin_row(token);
      writer.add(token, own / total);
      for (const auto& link : links[token]) {
        writer.add(link.source, link.strength / total);
      }
    }
    if (extra_token) {
      detail::write_fused_token(layout, partition, Aggregate::sum, writer);
    }
  }
};

}  // namespace tokenfold::compress
