// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/compress/drop.hpp"
#include "tokenfold/compress/size_weighted_mean.hpp"
#include "tokenfold/core/pipeline.hpp"
#include "tokenfold/correlate/none.hpp"
#include "tokenfold/correlate/same_window.hpp"
#include "tokenfold/filter/grid_windows.hpp"
#include "tokenfold/filter/random_samples.hpp"
#include "tokenfold/filter/uniform_samples.hpp"

/// What a method has to beat: reductions that look at no token. Several published methods do worse
/// on some models than these do.
namespace tokenfold {

/// Every so many-th token.
///
///   filter      tokens at even distances in row order
///   correlate   nothing
///   compress    preserved tokens unchanged
///
/// Where: anywhere.
/// Needs: nothing.
/// Returns: a selection, ascending.
/// Cost: none.
/// Memory: 14 bytes a row of the sequence.
using UniformSampling = Pipeline<filter::UniformSamples, correlate::None, compress::Drop>;

/// Any tokens: `RandomSampling{.filter = {.seed = 3}}`.
///
///   filter      a random set, all sets of that size equally likely
///   correlate   nothing
///   compress    preserved tokens unchanged
///
/// Where: anywhere.
/// Needs: nothing.
/// Returns: a selection, ascending; the same for the same seed and counts on every platform.
/// Cost: none.
/// Memory: 14 bytes a row of the sequence.
using RandomSampling = Pipeline<filter::RandomSamples, correlate::None, compress::Drop>;

/// Average pooling over the patch grid.
///
///   filter      the first token of every window
///   correlate   all tokens of a window to its first
///   compress    x_j ← mean of the tokens that are left of its window, by `sizes` if there are any
///
/// `Budget::adaptive()`: windows of `window` cells, 2 × 2 by default. A count: that many windows,
/// as even and as much like the grid in proportions as they can be; see filter::GridWindows.
///
/// Where: anywhere; usually after the projector.
/// Needs: a patch grid. With features, tokens that are not finite are left out of the means.
/// Returns: kept rows, rewritten.
/// Cost: the mean itself, N · D additions.
/// Memory: 28 bytes a row of the sequence.
using SpatialPooling =
    Pipeline<filter::GridWindows, correlate::SameWindow, compress::SizeWeightedMean>;

}  // namespace tokenfold
