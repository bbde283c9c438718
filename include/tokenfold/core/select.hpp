// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tokenfold/core/layout.hpp"
#include "tokenfold/core/partition.hpp"
#include "tokenfold/core/workspace.hpp"

/// From scores to a partition, by partial selection; the one place that breaks ties.
namespace tokenfold::detail {

/// Splits the visual tokens: the `count` highest of `partition.scores` are discarded, the others
/// preserved, both ascending. Ties: the lower row is discarded first. A score that is not finite is
/// discarded before any finite one. The token of ordinal `protect` (−1: none) goes last of all.
inline void discard_highest(const TokenLayout& layout, Index count, Partition& partition,
                            Workspace& workspace, Index protect = -1) {
  Workspace::Frame frame(workspace);
  const Span<const double> scores(partition.scores);
  const Span<Index> order = workspace.take<Index>(scores.size());
  std::iota(order.begin(), order.end(), Index{0});
  const auto goes_first = [&](Index a, Index b) {
    if (a == protect || b == protect) {
      return a != protect;
    }
    const bool finite_a = std::isfinite(scores[a]);
    const bool finite_b = std::isfinite(scores[b]);
    if (finite_a != finite_b) {
      return finite_b;
    }
    return finite_a && scores[a] != scores[b] ? scores[a] > scores[b] : a < b;
  };
  std::nth_element(order.begin(), order.begin() + count, order.end(), goes_first);
  std::sort(order.begin(), order.begin() + count);
  Index next = 0;
  for (Index v = 0; v < scores.size(); ++v) {
    if (next < count && order[next] == v) {
      partition.discarded.push_back(layout.visual()[v]);
      ++next;
    } else {
      partition.preserved.push_back(layout.visual()[v]);
    }
  }
}

}  // namespace tokenfold::detail
