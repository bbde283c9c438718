// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/compress/drop.hpp"
#include "tokenfold/core/pipeline.hpp"
#include "tokenfold/correlate/none.hpp"
#include "tokenfold/filter/determinantal_diversity.hpp"

namespace tokenfold {

/// CDPruner: a subset of the projected visual tokens that is diverse given the instruction.
///
/// Zhang et al., "Beyond Attention or Similarity: Maximizing Conditional Diversity for Token
/// Pruning in MLLMs", NeurIPS 2025, arXiv 2506.10967.
///
///   filter      r̃_i: cosine of token and text, scaled to 0 … 1; L̃_ij = r̃_i cos(x_i, x_j) r̃_j;
///               greedily the set of the largest det L̃ (a determinantal point process)
///   correlate   nothing
///   compress    nothing: discarded tokens are gone
///
/// As published. `cdpruner_released()` takes the negative cosine, as the authors' LLaVA code does.
/// That code scales r over all crops of an image, this one over the visual tokens of the sequence:
/// `relevance_to_text` of all crops, handed over as `Relevance`, gives theirs. It has no guards; where it returns fewer tokens than asked
/// for (equal relevance, zero tokens, more picks than the rank of the kernel), see the filter. The
/// exponential weight, commented out in the release, is `.filter.weight`.
///
/// Where: after the projector, on the visual rows of the LLM's input.
/// Needs: the tokens, as features; relevance, or embeddings of image and text in one space: CLIP's
/// (patches after its projection, one row per text segment), or, without a text tower, the tokens
/// and the mean of the instruction's input embeddings.
/// Returns: a selection, in raster order.
/// Cost: K · N · D multiply-adds for K preserved tokens, N · K² / 2 for the determinants (a fraction
/// of both without `.filter.score_discarded`). The release: N² · D. With a kernel at hand:
/// `greedy_determinant`.
/// Memory: K · (D + N + K) numbers and 90 bytes a token; the release: N² numbers.
using CDPruner = Pipeline<filter::DeterminantalDiversity, correlate::None, compress::Drop>;

/// Relevance is the negative cosine.
inline CDPruner cdpruner_released() {
  return {.filter = {.sign = filter::RelevanceSign::negative}, .correlate = {}, .compress = {}};
}

}  // namespace tokenfold
