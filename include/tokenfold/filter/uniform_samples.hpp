// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/core/stages.hpp"
#include "tokenfold/filter/raster_samples.hpp"

namespace tokenfold::filter {

/// Preserves visual tokens at even distances in the order of the rows: of K the token of ordinal
///
///   ⌊(2k + 1) · N / 2K⌋,   k = 0 … K − 1
///
/// Reads: the layout alone.
/// Score: none.
/// Cost: O(N).
struct UniformSamples {
  template <HasLayout S>
  void operator()(const S& sequence, const Budget& budget, Partition& partition,
                  Workspace& workspace) const {
    const TokenLayout& layout = sequence.layout;
    const Index n = layout.visual_count();
    const Index keep = budget.keep_count(n);
    Workspace::Frame frame(workspace);
    const Span<Index> chosen = workspace.take<Index>(keep);
    detail::add_even_samples(n, keep, chosen, 0, workspace);
    preserve(layout, chosen, TokenOrder::raster, partition, workspace);
  }
};

}  // namespace tokenfold::filter
