// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>

#include "tokenfold/compress/cluster_tokens.hpp"
#include "tokenfold/compress/drop.hpp"
#include "tokenfold/core/pipeline.hpp"
#include "tokenfold/correlate/density_peaks.hpp"
#include "tokenfold/correlate/none.hpp"
#include "tokenfold/filter/text_raters.hpp"
#include "tokenfold/filter/unbiased_raters.hpp"

namespace tokenfold {

/// SparseVLM: text-guided pruning in three depths of the LLM, with recycling (v1.5).
///
/// Zhang et al., "SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model
/// Inference", ICML 2025, arXiv 2410.04417.
///
///   raters      r_t = (1/N) Σ_j softmax_t(x_j · x_t) > mean(r), once, before layer 0
///   filter      p_i = mean over the raters of mean_h A^h[t, i]; the highest p_i are preserved
///   correlate   the n_r = ⌊0.3 N_del⌋ + 1 best of the discarded, in ⌊n_r/10⌋ + 1 clusters by
///               density peaks
///   compress    preserved tokens unchanged; one more token a cluster, the mean of its members
///
/// As released, but deterministic: where the release breaks ties of density with random noise, the
/// lower token comes first; where it finds no rater (one text token, equal ones) and returns NaN,
/// those at the mean rate. The release ignores the paper's rank rule, which `Budget::adaptive()`
/// applies, and keeps the counts of a table: `sparsevlm_schedule`.
///
/// Where: LLM layers 2, 6 and 15 (0-based): the layer runs at full length, its output is pruned by
/// its attention. Synthetic tokens of an earlier layer count as visual.
/// Needs: the raters' rows of attention, or their queries and the keys; the raters (`text_raters`,
/// handed over as `Raters`, renumbered by `follow_raters` after each reduction); the layer's output
/// (`Features`).
/// Returns: preserved tokens unchanged and ⌊n_r/10⌋ + 1 appended tokens, unless nothing was
/// discarded. Positions are packed (`PositionRule::packed`).
/// Cost: one attention row a rater; n_r² · D / 2 multiply-adds.
/// Memory: (H + R) · (P + d) + 64 · d numbers for up to 48 raters R, or n_r² numbers and 28 bytes a
/// discarded token, whichever is more.
using SparseVLM = Pipeline<filter::TextRaters, correlate::DensityPeaks, compress::ClusterTokens>;

/// Without recycling: a selection.
using SparseVLMWithoutRecycling = Pipeline<filter::TextRaters, correlate::None, compress::Drop>;

/// SparseVLM version 2 (released as SparseVLM+): the raters' attention without what it owes to the
/// distance, in the 14 heads that look at the image most; no recycling.
///
///   filter      a^h = A^h / w(distance), w the rotary bias (`filter::RopeBias`);
///               p_i = mean over raters and the heads of largest Σ a^h; the highest p_i stay
///   correlate   nothing
///   compress    preserved tokens unchanged, the others are dropped
///
/// As released, but with a floor on w, which crosses zero at long distances
/// (`sparsevlm_v2_released()`: without).
///
/// Where: as v1.5, with the counts of `sparsevlm_v2_schedule`.
/// Needs: the raters' rows of attention in every head, as probabilities, or their queries and the
/// keys; raters; from the second pruning on the rows' positions (`Positions`).
/// Returns: a selection in order; original positions are kept (`PositionRule::original`).
/// Cost: one attention row a rater.
/// Memory: (H + R) · N doubles, 2 R · (P + d) numbers for R raters, up to 48, and 40 bytes a token.
using SparseVLMv2 = Pipeline<filter::UnbiasedRaters, correlate::None, compress::Drop>;

/// Without the floor on w.
inline SparseVLMv2 sparsevlm_v2_released() {
  return {.filter = {.rope = {.floor = -1}}, .correlate = {}, .compress = {}};
}

/// The paper's text: clusters are joined by cosine and summed. Its raters are those of
/// `text_raters(…, RaterThreshold::at_least_mean)`, its counts those of `Budget::adaptive()`.
inline SparseVLM sparsevlm_published() {
  return {.filter = {},
          .correlate = {.joining = correlate::Joining::cosine},
          .compress = {.rule = Aggregate::sum}};
}

/// How many visual tokens the release keeps in each pruning layer; recycled ones come on top.
struct SparseVLMSchedule {
  std::array<Index, 3> layers = {2, 6, 15};
  std::array<Index, 3> kept;

  /// The budget of pruning 0, 1 or 2 with `visual` tokens before it: never all of them.
  Budget budget(Index pruning, Index visual) const {
    require(0 <= pruning && pruning < 3, "sparsevlm: there are three prunings, got ", pruning);
    return Budget::keep(std::clamp<Index>(visual - 1, 0, kept[static_cast<std::size_t>(pruning)]));
  }
};

/// The release's tables by their names, 192, 128, 96 or 64: what its authors count as the tokens of
/// the average layer of LLaVA-1.5. With full-length pruning layers and recycled tokens it is more:
/// v1.5 at "64" runs 576 tokens in 3 layers, 82 in 4, 32 in 9 and 18 in 16, on average 82.
inline SparseVLMSchedule sparsevlm_schedule(Index name) {
  switch (name) {
    case 192:
      return {.kept = {300, 200, 110}};
    case 128:
      return {.kept = {303, 110, 36}};
    case 96:
      return {.kept = {238, 48, 26}};
    case 64:
      return {.kept = {66, 30, 17}};
    default:
      fail("sparsevlm: the schedules are 192, 128, 96 and 64");
  }
}
inline SparseVLMSchedule sparsevlm_v2_schedule(Index name) {
  switch (name) {
    case 192:
      return {.kept = {300, 200, 118}};
    case 128:
      return {.kept = {238, 108, 60}};
    case 96:
      return {.kept = {246, 54, 28}};
    case 64:
      return {.kept = {66, 34, 20}};
    default:
      fail("sparsevlm: the schedules are 192, 128, 96 and 64");
  }
}

}  // namespace tokenfold
