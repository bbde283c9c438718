// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/core/select.hpp"
#include "tokenfold/core/stages.hpp"

namespace tokenfold::filter {

/// Preserves tokens at even distances of the raster, whatever they contain: the N tokens are cut
/// into as many runs as are to be preserved, of equal length up to one, and the last of each run
/// stays. A budget of N/k tokens with k a divisor of N is ToMe's split by every k-th token; for
/// other N the release ignores the last N mod k tokens, which then vanish.
///
/// Reads: nothing.
/// Score: 1 for what goes, 0 for what stays.
/// Cost: O(N).
struct EveryKth {
  template <HasLayout S>
  void operator()(const S& sequence, const Budget& budget, Partition& partition,
                  Workspace& workspace) const {
    const Index n = sequence.layout.visual_count();
    const Index keep = budget.keep_count(n);
    partition.scores.assign(static_cast<std::size_t>(n), 1);
    for (Index run = 0; run < keep; ++run) {
      Span<double>(partition.scores)[(run + 1) * n / keep - 1] = 0;
    }
    discard_highest(sequence.layout, n - keep, partition, workspace);
  }
};

}  // namespace tokenfold::filter
