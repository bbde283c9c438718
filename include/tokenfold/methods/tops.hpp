// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/compress/drop.hpp"
#include "tokenfold/core/pipeline.hpp"
#include "tokenfold/correlate/none.hpp"
#include "tokenfold/filter/preservation_set.hpp"

namespace tokenfold {

/// TOPS: a set of tokens that is relevant, covers the others, and is diverse.
///
/// Wang et al., "First-Principles Visual Token Pruning via Constructing Token Optimal Preservation
/// Sets", 2026, arXiv 2606.27161.
///
///   filter      c_i = Σ_{j ∈ U} max(0, cos(x_i, x_j) − max_{k ∈ K} cos(x_j, x_k)),   U: not picked
///               d_i = 1 − max_{k ∈ K} cos(x_i, x_k)
///               first argmax r_i, then argmax_{i ∈ U} r̃_i + λ c̃_i + α d̃_i
///   correlate   nothing
///   compress    preserved tokens unchanged, the others are dropped
///
/// Written from the paper alone. Its algorithms divide each criterion by its mean over U, anew at
/// every pick: the default here. Its text normalises by minimum and maximum (`tops_min_max()`),
/// which is another method. α = 0.5 throughout; λ = 0.5 after the projector, and in the decoder
/// 0.5, 1 and 1 for 128, 64 and 32 tokens with a 7B model, 0.4 with 13B, 0.2 on InternVL3.
///
/// Where: in two stages. After the projector down to 2T of a budget of T tokens, r_i being what
/// [CLS] pays; then in the decoder, r_i being what the text raters pay on average, after layers 12
/// and 24 of 32 (15 and 30 of 40). How far there is ambiguous: one table of the paper has T and
/// T/4, which averages 1.19 T over the layers, another T/2 and T/4, which averages T. Positions are
/// packed after each (`PositionRule::packed`).
/// Needs: features x (the hidden states at that place), and relevance, or the [CLS] row of
/// attention (or queries and keys).
/// Returns: a selection in order.
/// Cost: N² / 2 inner products; N² sums, and less than N² per pick.
/// Memory: N² + 64 · D numbers and 40 bytes a token.
using TOPS = Pipeline<filter::PreservationSet, correlate::None, compress::Drop>;

/// As the text says: min-max normalisation.
inline TOPS tops_min_max() {
  return {.filter = {.scale = filter::CriterionScale::min_max}, .correlate = {}, .compress = {}};
}

}  // namespace tokenfold
