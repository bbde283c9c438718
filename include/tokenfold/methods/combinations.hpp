// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/compress/self_preserving.hpp"
#include "tokenfold/compress/size_weighted_mean.hpp"
#include "tokenfold/core/pipeline.hpp"
#include "tokenfold/correlate/direct_attention.hpp"
#include "tokenfold/correlate/most_similar.hpp"
#include "tokenfold/correlate/nearest_keys.hpp"
#include "tokenfold/filter/attention_outliers.hpp"
#include "tokenfold/filter/determinantal_diversity.hpp"
#include "tokenfold/filter/max_min_diversity.hpp"

/// Stages of one method with those of another. No paper describes these; they show what composition
/// is for, and each mends what the method it starts from leaves out.
namespace tokenfold {

/// CDPruner's selection, but what is discarded is averaged into the most similar preserved token
/// instead of lost (ToMe's merging).
///
/// Where: after the projector.
/// Needs: as CDPruner; sizes, if there are any.
/// Returns: preserved tokens in raster order, rewritten; nothing appended.
/// Cost: CDPruner's, and (N − K) · K · D multiply-adds.
using CDPrunerMerging = Pipeline<filter::DeterminantalDiversity, correlate::MostSimilarFeatures,
                                 compress::SizeWeightedMean>;

/// DivPrune's selection with FiCoCo-V's recycling: a discarded patch goes to the preserved ones
/// that it attends to.
///
/// Where: inside an encoder layer, or after the encoder with the attention of its last layer.
/// Needs: features, attention (or queries and keys).
/// Returns: preserved tokens in raster order, rewritten; nothing appended.
/// Cost: DivPrune's, and the attention rows of the discarded tokens.
using DivPruneFiCoCo =
    Pipeline<filter::MaxMinDiversity, correlate::DirectAttention<>, compress::SelfPreserving>;

/// PruMerge's selection and clusters with FiCoCo's compression: every preserved token stays the
/// largest part of itself and no token is appended, so that norms keep their scale, where PruMerge
/// adds up. Only discarded tokens are absorbed.
///
/// Where, Needs: as PruMerge.
/// Returns: preserved tokens in raster order, rewritten; nothing appended.
/// Cost: PruMerge's.
using PruMergeFiCoCo =
    Pipeline<filter::AttentionOutliers, correlate::NearestKeys, compress::SelfPreserving>;
inline PruMergeFiCoCo prumerge_ficoco() {
  return {.filter = {},
          .correlate = {.sources = correlate::Sources::discarded},
          .compress = {.max_recycled_share = 0.5}};
}

}  // namespace tokenfold
