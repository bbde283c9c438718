// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "tokenfold/core/stages.hpp"

/// Scores of the filter as weights, and the synthetic token that several methods make with them.
namespace tokenfold::detail {

/// The score of a token as a weight: scores that are not finite or negative count as 0.
inline double score_weight(const TokenLayout& layout, const Partition& partition, Token token) {
  const double score = Span<const double>(partition.scores)[layout.ordinal(token)];
  return std::isfinite(score) && score > 0 ? score : 0.0;
}

/// Refuses a filter that gave no scores to weigh by.
inline void check_scores(const TokenLayout& layout, const Partition& partition) {
  require(static_cast<Index>(partition.scores.size()) == layout.visual_count(),
          "compress: the filter gave ", partition.scores.size(), " scores for ",
          layout.visual_count(), " visual tokens");
}

/// Appends Σ_i s_i x_i over the discarded tokens, s their scores; divided by Σ s_i for the mean.
/// Nothing if nothing was discarded.
inline void write_fused_token(const TokenLayout& layout, const Partition& partition, Aggregate rule,
                              PlanWriter& writer) {
  if (partition.discarded.empty()) {
    return;
  }
  double total = 1;
  if (rule == Aggregate::mean) {
    total = 0;
    for (const Token token : partition.discarded) {
      total += score_weight(layout, partition, token);
    }
  }
  writer.begin_extra_row();
  for (const Token token : partition.discarded) {
    const double weight = score_weight(layout, partition, token);
    if (weight > 0) {  // 0 · NaN is not 0
      writer.add(token, weight / total);
    }
  }
}

}  // namespace tokenfold::detail
