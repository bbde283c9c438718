// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/compress/fuse_discarded.hpp"
#include "tokenfold/core/pipeline.hpp"
#include "tokenfold/correlate/none.hpp"
#include "tokenfold/filter/cls_attention.hpp"

namespace tokenfold {

/// EViT: token reorganisation inside a vision encoder.
///
/// Liang et al., "Not All Patches Are What You Need: Expediting Vision Transformers via Token
/// Reorganizations", ICLR 2022, arXiv 2202.07800.
///
///   filter      a_i = mean_h A^h[cls, i]; the highest a_i are preserved
///   correlate   nothing: all discarded tokens share one target
///   compress    preserved tokens unchanged; one more token Σ_{i discarded} a_i x_i
///
/// As released, but with the preserved tokens in raster order (`evit_released()`: by falling
/// attention). EViT is trained with its reduction; papers on multimodal LLMs use it without.
///
/// Where: after the attention and its residual, before the MLP, in a few encoder layers (the paper:
/// the 4th, 7th and 10th of 12). A fused token of an earlier layer counts as visual.
/// Needs: the [CLS] row of attention, or queries and keys.
/// Returns: preserved tokens unchanged and one appended token, unless nothing was discarded;
/// `EViT{.compress = {.fuse = false}}` appends none.
/// The release keeps ⌈κ·N⌉: `Budget::keep_ratio(0.7, Rounding::ceil)`.
/// Cost: one attention row; the sum over the discarded tokens.
/// Memory: (H + 1) · (P + d + 32) numbers.
using EViT = Pipeline<filter::ClsAttention, correlate::None, compress::FuseDiscarded>;

/// In the release's row order.
inline EViT evit_released() {
  return {.filter = {.order = TokenOrder::score}, .correlate = {}, .compress = {}};
}

}  // namespace tokenfold
