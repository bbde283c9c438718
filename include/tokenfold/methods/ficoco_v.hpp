// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/compress/self_preserving.hpp"
#include "tokenfold/core/pipeline.hpp"
#include "tokenfold/correlate/direct_attention.hpp"
#include "tokenfold/filter/vision_redundancy.hpp"

namespace tokenfold {

/// FiCoCo-V: reduction inside a vision encoder.
///
/// Han et al., "Filter, Correlate, Compress: Training-Free Token Reduction for MLLM Acceleration",
/// AAAI 2026, arXiv 2411.17686. N visual tokens, N_S of them discarded (S), the others preserved
/// (T); A the layer's attention averaged over heads.
///
///   filter      s_i = λ · mean_{j ∈ V} A[j, i] − (1 − λ) · A[cls, i],  λ = 0.35;
///               in every 2 × 2 window of the patch grid the highest s is made worse by c = 2;
///               the N_S highest are discarded
///   correlate   i ∈ S goes to the j ∈ T with A[i, j] ≥ the 0.998-quantile of row i over T
///   compress    x_j ← (x_j + Σ_i α_ij x_i) / (1 + Σ_i α_ij),  α_ij = A[i, j] / Σ_{j'} A[i, j']
///
/// Where: after the attention and its residual, before the MLP, in the encoder layers from the 12th
/// on; the paper takes N_S = 42 in each for its 1.5-TFLOPs setting of LLaVA-1.5. Between layers
/// `Survivors` carries what is left.
/// Needs: attention (or queries and keys), a patch grid; keys if there is no [CLS].
/// Returns: preserved tokens in order, rewritten; nothing appended. Exactly N − N_S visual tokens.
/// Cost: see the attention source; the rest is O(N_S · N).
/// Memory: (N_S + H) · P + (P + 128) · (d + 48) numbers.
///
/// Options by example: `FiCoCoV{.filter = {.lambda = 0.5}}`,
/// `BasicFiCoCoV<correlate::FixedTargets>{}`.
template <correlate::TargetPolicy Targets>
using BasicFiCoCoV = Pipeline<filter::VisionRedundancy, correlate::DirectAttention<Targets>,
                              compress::SelfPreserving>;
using FiCoCoV = BasicFiCoCoV<correlate::QuantileTargets>;

/// The first encoder layer (0-based) that the paper reduces in, of 24.
inline constexpr Index ficoco_v_first_layer = 11;

/// As the authors' code scores: attention *given*, both terms at L2 norm 1, weighted 0.65 and 0.35.
/// To be used with a source that holds logits.
inline FiCoCoV ficoco_v_released() {
  return {.filter = {.lambda = 0.65,
                     .direction = AttentionDirection::given,
                     .normalization = filter::ScoreNormalization::l2},
          .correlate = {},
          .compress = {}};
}

}  // namespace tokenfold
