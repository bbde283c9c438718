// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/compress/attention_weighted_sum.hpp"
#include "tokenfold/core/pipeline.hpp"
#include "tokenfold/correlate/nearest_keys.hpp"
#include "tokenfold/filter/attention_outliers.hpp"

namespace tokenfold {

/// PruMerge and PruMerge+: one adaptive reduction after the vision encoder.
///
/// Shang et al., "LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models",
/// ICCV 2025, arXiv 2403.15388.
///
///   filter      a = softmax(q_cls · Kᵀ / √D); preserved: a_i > Q3 + 1.5 · IQR
///               (PruMerge+: and raster samples)
///   correlate   each preserved token p picks the 32 tokens of most similar keys
///   compress    x'_p = x_p + Σ_{j ∈ kNN(p)} a_j x_j;  one more token Σ_{i discarded} a_i x_i
///
/// This is the released arithmetic with the preserved tokens in raster order and a defined result
/// where the release fails (no outlier, too many outliers, few tokens). Of what the paper does not
/// say: q and k are those of the encoder's last layer, taken as *one head* of the full width; the
/// division of the weighted average is commented out; the extra token exists only in the code.
///
/// Where: between encoder and projector, once an image. LLaVA drops [CLS] there: `plan.within(patch
/// rows)` is the plan without it.
/// Needs: queries (the [CLS] one suffices) and keys, or a [CLS] row of attention and keys; a [CLS]
/// row.
/// Returns: preserved tokens, rewritten, and one appended token if anything was discarded. The
/// number of preserved tokens is adaptive (`Budget::adaptive()`, capped by `.filter.max_tokens`) or
/// exact (`Budget::keep(n)`).
/// Cost: one attention row, K · N · D multiply-adds for K preserved tokens, and selections.
/// Memory: K · (N + W) + min(K, 96) · W numbers, W = H · d the width of the keys, 32 · k
/// bytes a preserved token and 24 a token.
using PruMerge =
    Pipeline<filter::AttentionOutliers, correlate::NearestKeys, compress::AttentionWeightedSum>;

/// PruMerge+: about three raster samples for every outlier, as released.
inline PruMerge prumerge_plus() {
  return {.filter = {.samples = filter::RasterSamples::triple}, .correlate = {}, .compress = {}};
}

/// The release's row order (falling attention) and its count, which loses one token for some N.
inline PruMerge prumerge_released() {
  return {.filter = {.count = filter::OutlierCount::truncated, .order = TokenOrder::score},
          .correlate = {},
          .compress = {}};
}
inline PruMerge prumerge_plus_released() {
  PruMerge method = prumerge_released();
  method.filter.samples = filter::RasterSamples::triple;
  return method;
}

/// The paper's text: samples in the outliers' number once, a normalised weighted average, no extra
/// token.
inline PruMerge prumerge_published() {
  return {
      .filter = {}, .correlate = {}, .compress = {.rule = Aggregate::mean, .extra_token = false}};
}
inline PruMerge prumerge_plus_published() {
  PruMerge method = prumerge_published();
  method.filter.samples = filter::RasterSamples::once;
  return method;
}

}  // namespace tokenfold
