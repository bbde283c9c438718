// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/compress/drop.hpp"
#include "tokenfold/core/pipeline.hpp"
#include "tokenfold/correlate/none.hpp"
#include "tokenfold/filter/max_min_diversity.hpp"

namespace tokenfold {

/// DivPrune: the most diverse subset of the projected visual tokens.
///
/// Alvar et al., "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models", CVPR
/// 2025, arXiv 2503.02175.
///
///   filter      d_ij = 1 − cos(x_i, x_j); first the token whose nearest neighbour is farthest,
///               then always the token farthest from its nearest preserved one
///   correlate   nothing
///   compress    nothing: discarded tokens are gone
///
/// The greedy choice reaches half of the best possible least *chord* √(2d) or more; d itself is no
/// metric. The release does not mask chosen tokens: once all others are at distance 0 of the set
/// (identical tokens), it returns one again; here that is `divprune_released()`, and
/// `plan.kept()` names such a token as often as it stands in the output. What the release makes of
/// zero tokens (NaN) is not reproduced.
///
/// Where: after the projector, on the visual rows of the LLM's input.
/// Needs: the tokens themselves, as features. Neither attention nor text.
/// Returns: a selection, in raster order. The paper keeps 9.8 %: `Budget::keep_ratio(0.098)`.
/// Cost: up to N²/2 · D multiply-adds for the first pick (a fraction on images; see `FirstPick` for
/// cheaper ones), K · N · D for the others (a fraction without `.filter.score_discarded`), in place
/// of the release's N² · D.
/// Memory: max(K, 16) · D numbers and 72 bytes a token, in place of the release's N².
using DivPrune = Pipeline<filter::MaxMinDiversity, correlate::None, compress::Drop>;

/// Chosen tokens are not masked.
inline DivPrune divprune_released() {
  return {.filter = {.mask_chosen = false}, .correlate = {}, .compress = {}};
}

}  // namespace tokenfold
