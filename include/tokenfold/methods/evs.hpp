// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "tokenfold/compress/drop.hpp"
#include "tokenfold/core/pipeline.hpp"
#include "tokenfold/correlate/none.hpp"
#include "tokenfold/filter/frame_dissimilarity.hpp"

namespace tokenfold {

/// EVS: what a video repeats from frame to frame is pruned.
///
/// Bagrov et al., "Efficient Video Sampling: Pruning Temporally Redundant Tokens for Faster VLM
/// Inference", arXiv 2510.14624; in production in vLLM (`--video-pruning-rate`).
///
///   filter      s_{t,c} = 1 − cos(x_{t,c}, x_{t−1,c}) to the same cell of the frame before; the
///               highest are preserved, the first frame always
///   correlate   nothing
///   compress    preserved tokens unchanged
///
/// Where: on the projected embeddings of a video, before the LLM. The layout says which rows are
/// which cells of which frame: `TokenLayout::video`, or `LayoutDescription::frames`.
/// Needs: features.
/// Returns: a selection, ascending. Kept tokens keep their (t, h, w).
/// The release prunes at a rate q: `Budget::keep(evs_keep_count(frames, tokens_per_frame, q))`,
/// known before any embedding is. A smaller budget than the first frame is refused.
/// Cost: 2 · N · D multiply-adds.
/// Memory: 36 bytes a token.
using EVS = Pipeline<filter::FrameDissimilarity, correlate::None, compress::Drop>;

/// How many of `frames` · `tokens_per_frame` tokens EVS keeps at pruning rate q: ⌊T · P · (1 − q)⌋
/// in double, as released (1000 at q = 0.9: 99), but at least the first frame's.
inline Index evs_keep_count(Index frames, Index tokens_per_frame, double pruning_rate) {
  require(frames >= 1 && tokens_per_frame >= 0, "evs: bad video of ", frames, " frames of ",
          tokens_per_frame, " tokens");
  require_in_range("evs: the pruning rate", pruning_rate, 0, 1);
  const auto tokens = static_cast<double>(frames * tokens_per_frame);
  return std::max(tokens_per_frame, static_cast<Index>(tokens * (1 - pruning_rate)));
}

}  // namespace tokenfold
