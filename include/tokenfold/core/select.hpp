// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "tokenfold/core/layout.hpp"
#include "tokenfold/core/partition.hpp"
#include "tokenfold/core/workspace.hpp"

/// From scores to a partition; the one place that breaks ties. A score that is not finite loses its
/// token before any finite one; among equals the lower row wins, that is, it is discarded first where
/// high scores go, and preserved first where high scores stay.
namespace tokenfold {

/// Order of the preserved tokens.
enum class TokenOrder {
  raster,  ///< ascending rows
  score,   ///< by falling score (as some releases return them)
};

namespace detail {

/// Splits the visual tokens: the `count` highest of `partition.scores` are discarded, the others
/// preserved, both ascending. The token of ordinal `protect` (−1: none) goes last of all.
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

/// Ordinals by falling score, scores that are not finite last; the first `count` are in order, the
/// others follow in any. Memory from `workspace`.
inline Span<Index> rank_highest(Span<const double> scores, Index count, Workspace& workspace) {
  const Span<Index> order = workspace.take<Index>(scores.size());
  std::iota(order.begin(), order.end(), Index{0});
  const auto rank = [&](Index v) {
    return std::isfinite(scores[v]) ? scores[v] : -std::numeric_limits<double>::infinity();
  };
  std::partial_sort(order.begin(), order.begin() + count, order.end(), [&](Index a, Index b) {
    return rank(a) != rank(b) ? rank(a) > rank(b) : a < b;
  });
  return order;
}

/// Splits the visual tokens: the `count` highest of `partition.scores` are preserved in `order`, the
/// others discarded. Preserving all of them changes nothing, whatever the order asked for.
inline void preserve_highest(const TokenLayout& layout, Index count, TokenOrder order,
                             Partition& partition, Workspace& workspace) {
  Workspace::Frame frame(workspace);
  const auto best = rank_highest(partition.scores, count, workspace).subspan(0, count);
  for (const Index v : best) {
    partition.preserved.push_back(layout.visual()[v]);
  }
  std::sort(best.begin(), best.end());
  Index next = 0;
  for (Index v = 0; v < layout.visual_count(); ++v) {
    if (next < count && best[next] == v) {
      ++next;
    } else {
      partition.discarded.push_back(layout.visual()[v]);
    }
  }
  if (order == TokenOrder::raster || partition.discarded.empty()) {
    std::sort(partition.preserved.begin(), partition.preserved.end());
  }
}

}  // namespace detail
}  // namespace tokenfold
