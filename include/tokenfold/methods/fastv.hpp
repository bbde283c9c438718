// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/compress/drop.hpp"
#include "tokenfold/core/pipeline.hpp"
#include "tokenfold/correlate/none.hpp"
#include "tokenfold/filter/question_attention.hpp"

namespace tokenfold {

/// FastV: one pruning early in the LLM.
///
/// Chen et al., "An Image is Worth 1/2 Tokens After Layer 2: Plug-and-Play Inference Acceleration
/// for Large Vision-Language Models", ECCV 2024, arXiv 2403.06764.
///
///   filter      φ_i = mean_h A^h[last text token, i]; the highest φ_i are preserved
///   correlate   nothing
///   compress    preserved tokens unchanged, the others are dropped
///
/// As released: the paper's text averages the attention that a token receives from all others
/// (`fastv_published()`).
///
/// Where: between decoder layers K and K + 1, from the attention of layer K; K = 2 in the paper.
/// Needs: the last row of attention, or the last query and the keys.
/// Returns: a selection in order; original positions are kept (`PositionRule::original`).
/// The ports keep round-half-to-even(N · (1 − R)): `Budget::keep_ratio(1 − R)`; the paper takes R =
/// 0.5.
/// Cost: one attention row.
/// Memory: (H + 1) · (P + d + 32) numbers; as published H · P + (P + 128) · (d + 48).
using FastV = Pipeline<filter::QuestionAttention, correlate::None, compress::Drop>;

/// The published score: attention received from all tokens, averaged.
inline FastV fastv_published() {
  return {.filter = {.score = filter::QuestionScore::all_tokens}, .correlate = {}, .compress = {}};
}

}  // namespace tokenfold
