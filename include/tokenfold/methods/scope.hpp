// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/compress/drop.hpp"
#include "tokenfold/core/pipeline.hpp"
#include "tokenfold/correlate/none.hpp"
#include "tokenfold/filter/saliency_coverage.hpp"

namespace tokenfold {

/// SCOPE: salient tokens that cover what the others do not.
///
/// Deng et al., "SCOPE: Saliency-Coverage Oriented Token Pruning for Efficient Multimodal LLMs",
/// NeurIPS 2025, arXiv 2510.24214.
///
///   filter      a_i = Σ_h A^h[cls, i];   greedily the highest
///               gain_i = a_i^α · Σ_u max(0, cos(x_u, x_i) − max(0, max_{k ∈ K} cos(x_u, x_k)))
///   correlate   nothing
///   compress    preserved tokens unchanged, the others are dropped
///
/// α = 1. The code has a variant that adds a_i^α to the coverage (`scope_additive()`). A zero row
/// makes every gain of the release NaN and its picks 0, 1, 2, …; here it is similar to nothing.
///
/// Where: between encoder and projector, on the hidden states and the attention of the last encoder
/// layer but one. One sequence is one crop: for several, the release gives each ⌊T / crops⌋ tokens.
/// Needs: features x, and the [CLS] row of attention (or queries and keys), or relevance instead.
/// Returns: a selection in order, [CLS] untouched.
/// Cost: one attention row, N² / 2 inner products.
/// Memory: N² + 64 · D numbers and 40 bytes a token.
using SCOPE = Pipeline<filter::SaliencyCoverage, correlate::None, compress::Drop>;

/// a_i^α + coverage.
inline SCOPE scope_additive() {
  return {.filter = {.use = filter::SaliencyUse::sum}, .correlate = {}, .compress = {}};
}

}  // namespace tokenfold
