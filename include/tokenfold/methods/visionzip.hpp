// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/compress/add_mean.hpp"
#include "tokenfold/core/pipeline.hpp"
#include "tokenfold/correlate/most_similar.hpp"
#include "tokenfold/filter/dominant_contextual.hpp"

namespace tokenfold {

/// VisionZip: the tokens that [CLS] looks at, and a summary of the others.
///
/// Yang et al., "VisionZip: Longer is Better but Not Necessary in Vision Language Models", CVPR
/// 2025, arXiv 2412.04467.
///
///   filter      s_i = (1/H) Σ_h A^h[cls, i] (without [CLS]: what i receives on average);
///               the highest are dominant, every step-th of the others is contextual
///   correlate   J_i = { argmax_c cos(μ_i, μ_c) } over the contextual c;  μ_i = (1/H) Σ_h k_i^h
///   compress    dominant tokens unchanged;  x_c ← x_c + mean of the x_i given to c
///
/// As released, but in raster order (`visionzip_released()`: dominant tokens first). The release
/// adds the mean where the paper speaks of merging; `visionzip_averaged()` averages target and
/// members alike.
///
/// The numbers of the paper count [CLS], which passes through every reduction here: 64 = 54 + 10 is
/// `Budget::keep(63)`, 128 = 108 + 20 is `keep(127)`, 192 = 162 + 30 is `keep(191)`; unless told
/// otherwise 10 rows in 64 are contextual. Other splits: `filter.contextual`.
///
/// Where: between the encoder and the projector, with the hidden states of the last layer but one
/// and the attention that produced them.
/// Needs: the [CLS] row of attention and the keys, or queries and keys.
/// Returns: preserved tokens, the contextual ones rewritten; no extra token.
/// Cost: one attention row; (N − K) · T_c · d multiply-adds, d the width of one head.
/// Memory: (N + T_c + 64) · d + 16 · N numbers.
using VisionZip =
    Pipeline<filter::DominantContextual, correlate::MostSimilarKeys, compress::AddMean>;

/// In the release's row order.
inline VisionZip visionzip_released() {
  return {
      .filter = {.order = filter::DominantOrder::dominant_first}, .correlate = {}, .compress = {}};
}

/// Contextual tokens as the mean of what they stand for.
inline VisionZip visionzip_averaged() {
  return {.filter = {}, .correlate = {}, .compress = {.rule = Aggregate::mean}};
}

}  // namespace tokenfold
