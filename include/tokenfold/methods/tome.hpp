// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "tokenfold/compress/size_weighted_mean.hpp"
#include "tokenfold/core/pipeline.hpp"
#include "tokenfold/correlate/most_similar.hpp"
#include "tokenfold/filter/bipartite_similarity.hpp"
#include "tokenfold/filter/every_kth.hpp"
#include "tokenfold/filter/random_samples.hpp"

namespace tokenfold {

/// ToMe: token merging by bipartite matching inside a vision encoder.
///
/// Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023, arXiv 2210.09461.
///
///   metric      μ_i = (1/H) Σ_h k_i^h, compared by cosine
///   filter      A = even positions, B = odd ones; the r highest s_a = max_{b∈B} cos(μ_a, μ_b) go
///   correlate   J_a = { argmax_{b∈B} cos(μ_a, μ_b) }
///   compress    x_b ← (n_b x_b + Σ_{a→b} n_a x_a) / (n_b + Σ_{a→b} n_a),  n the tokens' sizes
///
/// As released. Two things to know before use:
///
/// A step discards at most half of the tokens, ⌊N/2⌋; a budget that asks for more discards those
/// and no more, even `Budget::discard` of more than there are (`filter.clamp` = false: it throws).
///
/// The preserved tokens come back in the release's order, what is left of A and then B, so
/// `ReductionPlan::kept` does not ascend. The next layer must split that order, which `Survivors`
/// sees to; `tome_raster()` re-sorts and is another method from the second layer on.
///
/// Layer by layer: sizes start at 1; hand `Sizes(n)` to each step, take the next sizes from
/// `ReductionPlan::sizes`, and give the *next* layer's attention log n
/// (`proportional_attention_bias`), which the paper does for models trained without ToMe, except
/// MAE's. A model that averages its last tokens must weight them by size. `ReductionPlan::unmerge`
/// gives every merged token a copy of the token that absorbed it.
///
/// Where: in every encoder layer, between the attention's residual and the MLP, with the keys of
/// that attention; `Budget::discard(r)`, for ViT-L/16 at 224 pixels r = 7 or 8.
/// Needs: keys; sizes from the second layer on.
/// Returns: preserved tokens, B's rewritten; no extra token.
/// Cost: N² · d / 4 multiply-adds for the matching, d the width of one head; r · D for the merging.
/// Memory: (3/2 · N + 64) · d + 18 · N numbers; the variants below (N + K + 64) · d + 16 · N.
using ToMe =
    Pipeline<filter::BipartiteSimilarity, correlate::MostSimilarKeys, compress::SizeWeightedMean>;

/// The released variant that merges everything into every k-th token: `Budget::keep(N / k)`.
using ToMeEveryKth =
    Pipeline<filter::EveryKth, correlate::MostSimilarKeys, compress::SizeWeightedMean>;

/// The released variant that merges r random tokens into all others; tokens stay in raster order.
using ToMeRandom =
    Pipeline<filter::RandomSamples, correlate::MostSimilarKeys, compress::SizeWeightedMean>;

/// Preserved tokens in raster order, for engines that need positions to ascend.
inline ToMe tome_raster() {
  return {.filter = {.order = filter::BipartiteOrder::raster}, .correlate = {}, .compress = {}};
}

/// Proportional attention (section 3, eq. 1): softmax(q·k / √d + log n) lets a token that stands
/// for n patches be attended to as n patches would. Fills out[i] = log n_i, for the layer's own
/// attention and for `QueryKeyOptions::key_bias`.
inline void proportional_attention_bias(Span<const float> sizes, Span<float> out) {
  require(sizes.size() == out.size(), "proportional attention: ", out.size(),
          " biases were asked for, but there are ", sizes.size(), " sizes");
  for (Index i = 0; i < sizes.size(); ++i) {
    require(sizes[i] >= 0, "proportional attention: the size of row ", i,
            " must not be negative, got ", static_cast<double>(sizes[i]));
    out[i] = std::log(sizes[i]);
  }
}

}  // namespace tokenfold
