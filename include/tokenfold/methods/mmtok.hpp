// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/compress/drop.hpp"
#include "tokenfold/core/pipeline.hpp"
#include "tokenfold/correlate/none.hpp"
#include "tokenfold/filter/multimodal_coverage.hpp"

namespace tokenfold {

/// MMTok: the tokens that best cover both the question and the image.
///
/// Dong et al., "Multimodal Coverage Maximization for Efficient Inference of VLMs", ICLR 2026,
/// arXiv 2508.18264.
///
///   filter      P[t, i] = softmax_i(cos(z_t, x_i) / τ_t) / m
///               Q[j, i] = softmax_i(cos(y_j, y_i) / τ_v) / N
///               greedily f(K) = Σ_t max_{i ∈ K} P[t, i] + α Σ_j max_{i ∈ K} Q[j, i]
///   correlate   nothing
///   compress    preserved tokens unchanged, the others are dropped
///
/// α = 0.5, τ_v = 0.2, τ_t = 0.02 for LLaVA, 0.01 for Qwen (`mmtok_qwen()`). The greedy set reaches
/// at least 1 − 1/e of the best f. Padding is always dropped and no part of the budget; the release
/// returns it where N ≤ T, and row 0 again and again where T exceeds what may be picked.
///
/// Where: between projector and LLM, one image a call.
/// Needs: features x (projected), image embeddings y (what the projector was given), text
/// embeddings z (the LLM's input embeddings of the question; the release leaves out stop words and
/// the first, special token). Without z the vision term alone decides; without y, x takes its
/// place, which is not what the paper measured.
/// Returns: a selection in order.
/// Cost: N² / 2 inner products of encoder features, N² / 2 exponentials.
/// Memory: N² + 2 · max(m, 32) · (N + D) numbers and 40 bytes a token, m text tokens.
using MMTok = Pipeline<filter::MultimodalCoverage, correlate::None, compress::Drop>;

/// The sharper text softmax for Qwen2.5-VL.
inline MMTok mmtok_qwen() {
  return {.filter = {.text_temperature = 0.01}, .correlate = {}, .compress = {}};
}

}  // namespace tokenfold
