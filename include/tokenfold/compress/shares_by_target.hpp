// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>

#include "tokenfold/compress/links_by_target.hpp"

namespace tokenfold::detail {

/// The links by target, each with the share α_ij of its source that it carries: its strength over
/// the sum of the source's strengths. Negative strengths (cosines) count as none; a source without a
/// positive one, or with one that is not finite, gives nothing. Memory from the enclosing workspace
/// frame.
inline LinksByTarget shares_by_target(const TokenLayout& layout, const Correlation& correlation,
                                      Workspace& workspace) {
  const Span<double> total = workspace.take_filled<double>(correlation.source_count(), 0);
  for (Index i = 0; i < total.size(); ++i) {
    for (const double strength : correlation.strengths(i)) {
      total[i] += std::isfinite(strength) ? std::max(0.0, strength) : strength;
    }
  }
  const auto share = [&](Index i, Index l) {
    return std::isfinite(total[i]) && total[i] > 0 ? correlation.strengths(i)[l] / total[i] : 0.0;
  };
  return LinksByTarget(layout.tokens(), correlation, share, workspace);
}

}  // namespace tokenfold::detail
