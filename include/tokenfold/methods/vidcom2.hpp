// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "tokenfold/compress/drop.hpp"
#include "tokenfold/core/pipeline.hpp"
#include "tokenfold/correlate/none.hpp"
#include "tokenfold/filter/video_uniqueness.hpp"

namespace tokenfold {

/// VidCom2: frames that stand out keep more of their tokens, and every frame its most unusual ones.
///
/// Liu et al., "Video Compression Commander: Plug-and-Play Inference Acceleration for Video Large
/// Language Models", EMNLP 2025, arXiv 2505.14454; in production in vLLM
/// (`--video-retention-ratio`).
///
///   filter      s_i = g(x̂_i, centre of the video) + g(x̂_i, centre of its frame), g a sum of five
///               Gaussians, x̂ normalised in the half of the channels that varies least;
///               frame t preserves about R · (1 + p_t − mean p) of its tokens, those of lowest s,
///               p the softmax over the frames of how little they resemble the video's centre
///   correlate   nothing
///   compress    preserved tokens unchanged
///
/// Three totals. `Budget::keep(n)` is exact and leaves every frame a token (n ≥ frames);
/// `vidcom2_vllm(R)` with a count is exact but may empty a frame, as vLLM does;
/// `vidcom2_released(R)` with `Budget::adaptive()` takes the frames' numbers as they are, as the
/// authors' code does.
///
/// Where: on the projected embeddings of a video, before the LLM. The layout says which rows are
/// which frame's: `TokenLayout::video`, or `LayoutDescription::frames`.
/// Needs: features.
/// Returns: a selection, ascending. Kept tokens keep their (t, h, w).
/// Cost: about 7 · N · D multiply-adds in three passes over the features.
/// Memory: of T frames (T + 1) · D doubles, (T + 3) · D numbers and 36 bytes a token.
using VidCom2 = Pipeline<filter::VideoUniqueness, correlate::None, compress::Drop>;

/// As the authors' release, for `Budget::adaptive()`: the frames' numbers decide the total.
inline VidCom2 vidcom2_released(double retention = 0.25) {
  return {.filter = {.retention = retention}, .correlate = {}, .compress = {}};
}

/// As vLLM, for `Budget::keep(vidcom2_keep_count(frames, tokens_per_frame, retention))`. Without a
/// retention frame budgets are made from the count's own share, which may round differently.
inline VidCom2 vidcom2_vllm(double retention = 0) {
  return {.filter = {.retention = retention, .may_empty_frames = true},
          .correlate = {},
          .compress = {}};
}

/// How many of `frames` · `tokens_per_frame` tokens vLLM keeps at retention R (1 − its pruning
/// rate): ⌊T · P · R⌋ in double, at least one per frame.
inline Index vidcom2_keep_count(Index frames, Index tokens_per_frame, double retention) {
  require(frames >= 1 && tokens_per_frame >= 1, "vidcom2: bad video of ", frames, " frames of ",
          tokens_per_frame, " tokens");
  require_in_range("vidcom2: the retention", retention, 0, 1);
  const auto tokens = static_cast<double>(frames * tokens_per_frame);
  return std::max(frames, static_cast<Index>(tokens * retention));
}

}  // namespace tokenfold
