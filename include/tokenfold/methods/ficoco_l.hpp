// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/compress/self_preserving.hpp"
#include "tokenfold/core/pipeline.hpp"
#include "tokenfold/correlate/task_attention.hpp"
#include "tokenfold/filter/task_redundancy.hpp"

namespace tokenfold {

/// FiCoCo-L: reduction inside an LLM decoder, guided by the question.
///
/// Han et al., AAAI 2026, arXiv 2411.17686. M text tokens after the image, otherwise as FiCoCo-V;
/// only visual tokens are reduced.
///
///   filter      s_i = β · mean_{j ∈ V} A[j, i] − (1 − β) · mean_{k ∈ text} A[k, i],  β = 0.6;
///               the N_S highest are discarded
///   correlate   C[i, j] = γ · A[i, j] + (1 − γ) · mean_k A[k, i] · A[k, j],  γ = 0.6;
///               i ∈ S goes to the j ∈ T with C[i, j] ≥ the 0.998-quantile of row i over T
///   compress    as FiCoCo-V
///
/// Where: after the attention and its residual, before the MLP, in the decoder layers from the 4th
/// on.
/// Needs: attention (or queries and keys, after RoPE), text rows in the layout; no grid.
/// Returns: preserved tokens in order, rewritten; nothing appended. Positions:
/// `ReductionPlan::positions`.
/// Cost: see the attention source; the rest is O(N_S · (M + N)) plus a [N_S × M] · [M × N] product.
/// Memory: (N_S + M + H) · P + N_S · M + (P + 128) · (d + 48) numbers.
template <correlate::TargetPolicy Targets>
using BasicFiCoCoL =
    Pipeline<filter::TaskRedundancy, correlate::TaskAttention<Targets>, compress::SelfPreserving>;
using FiCoCoL = BasicFiCoCoL<correlate::QuantileTargets>;

/// The first decoder layer (0-based) that the paper reduces in, of 32.
inline constexpr Index ficoco_l_first_layer = 3;

/// As the authors' code computes: attention *given*, the visual term summed, the first visual token
/// protected, links also to discarded tokens (whose share is then lost), and a plain sum. To be
/// used with a source that holds logits (they are taken before the causal mask).
inline FiCoCoL ficoco_l_released() {
  return {.filter = {.direction = AttentionDirection::given,
                     .vision_term = Aggregate::sum,
                     .protect_first = true},
          .correlate = {.direction = AttentionDirection::given,
                        .indirect = Aggregate::sum,
                        .candidates = correlate::Candidates::all_visual,
                        .targets = {.strict = true}},
          .compress = {.rule = Aggregate::sum}};
}

}  // namespace tokenfold
