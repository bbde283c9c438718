// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/compress/drop.hpp"
#include "tokenfold/core/pipeline.hpp"
#include "tokenfold/correlate/none.hpp"
#include "tokenfold/filter/pivot_duplicates.hpp"

namespace tokenfold {

/// DART: one pruning early in the LLM, by duplication instead of importance, without attention.
///
/// Wen et al., "Stop Looking for Important Tokens in Multimodal Language Models: Duplication
/// Matters More", EMNLP 2025, arXiv 2502.11494.
///
///   filter      pivots: the p_i image and p_t text tokens of largest ‖key‖₁; each in turn takes
///               the q image tokens still free with the lowest cos(x_pivot, x_i); preserved are
///               the image pivots and what was taken
///   correlate   nothing
///   compress    preserved tokens unchanged, the others are dropped
///
/// Pivots and norm as released (4 + 4, L1); the count is the budget exactly, q = ⌊(T − p_i) / p⌋
/// with the rest going to the first pivots, which take turns by falling norm. The paper retains
/// what lies below a similarity threshold and says neither. `dart_released()` repeats the release:
/// q = ⌊T / p⌋ with p = p_i + p_t, so that p · q + p_i tokens are preserved, hardly ever T (576 →
/// 64 asked: 68 preserved), and the turns of a Python set.
///
/// Where: between decoder layers K and K + 1; K = 2 in the paper.
/// Needs: features, the hidden states there after the LLM's final RMSNorm (as released; the caller
/// norms them, and may as well compare by anything else), of the image and of the text after it;
/// keys of the layer before, after RoPE, heads concatenated, or none with `dart_embeddings()`.
/// Returns: a selection in order; original positions are kept (`PositionRule::original`).
/// The release reduces by R: `Budget::keep_ratio(1 − R, Rounding::floor)`.
/// Cost: one pass over the keys, one over the features with p · N · D multiply-adds.
/// Memory: p · (N + 2 D) numbers and 40 bytes a row of the sequence.
using DART = Pipeline<filter::PivotDuplicates, correlate::None, compress::Drop>;

/// The release's count and the order in which its pivots take turns.
inline DART dart_released() {
  return {.filter = {.pivot_order = filter::PivotOrder::python_set,
                     .count = filter::PickCount::released},
          .correlate = {},
          .compress = {}};
}

/// Before the LLM, on input embeddings alone: pivots by their own L1 norm (as TensorRT-Edge-LLM).
inline DART dart_embeddings() {
  return {.filter = {.pivots_by = filter::PivotSource::features}, .correlate = {}, .compress = {}};
}

}  // namespace tokenfold
