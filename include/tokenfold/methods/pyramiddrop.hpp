// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <vector>

#include "tokenfold/compress/drop.hpp"
#include "tokenfold/core/budget.hpp"
#include "tokenfold/core/pipeline.hpp"
#include "tokenfold/correlate/none.hpp"
#include "tokenfold/filter/question_attention.hpp"

namespace tokenfold {

/// PyramidDrop: several prunings inside the LLM, each by the attention of the layer that follows.
///
/// Xing et al., "PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual
/// Redundancy Reduction", CVPR 2025, arXiv 2410.17247.
///
///   filter      s_i = mean_h softmax(q^h · K^hᵀ / √d)[i], q the query of the last token of the
///               instruction; the highest s_i are preserved
///   correlate   nothing
///   compress    preserved tokens unchanged, the others are dropped
///
/// As released. The arithmetic of a step is FastV's; what differs is when, with whose queries and
/// keys, how many, and the positions. The last instruction token is the last row of text after the
/// image, which need not be the last of the sequence (padding, an answer under training). The
/// release fails on grouped-query heads; here they are attention like any other.
///
/// Where: after decoder layers 8, 16 and 24 of 32 (`pyramiddrop_layers`), from queries and keys
/// that the *next* layer computes of the hidden states there (its own input norm, projections and
/// RoPE).
/// Needs: that one query after RoPE and those keys, or the row of attention.
/// Returns: a selection in order; positions are renumbered after each step
/// (`PositionRule::packed`). Counts are ⌊ratio · N⌋ of the *original* N:
/// `Budget::keep(pyramiddrop_counts(576)[step])`.
/// Cost: one attention row a step; the keys serve the next layer if it starts from the kept rows.
/// Memory: (H + 1) · (P + d + 32) numbers.
using PyramidDrop = Pipeline<filter::QuestionAttention, correlate::None, compress::Drop>;

/// The paper's schedule for 32 layers: shares of the original visual tokens that are left after
/// each step, and the number of layers that run before it.
inline constexpr std::array<double, 3> pyramiddrop_ratios = {0.5, 0.25, 0.125};
inline constexpr std::array<Index, 3> pyramiddrop_layers = {8, 16, 24};

/// How many of `visual` original tokens are left after each step: ⌊ratio · visual⌋ as the release
/// computes it, in floating point (0.29 · 100 → 28). Throws unless the ratios fall from at most 1
/// to at least 0.
inline std::vector<Index> pyramiddrop_counts(Index visual,
                                             Span<const double> ratios = pyramiddrop_ratios) {
  require(visual >= 0, "pyramiddrop: negative token count ", visual);
  std::vector<Index> counts;
  double before = 1;
  for (const double ratio : ratios) {
    require_in_range("pyramiddrop: each ratio", ratio, 0, before);
    counts.push_back(Budget::keep_ratio(ratio, Rounding::floor).keep_count(visual));
    before = ratio;
  }
  return counts;
}

}  // namespace tokenfold
