// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <limits>

#include "tokenfold/core/select.hpp"

namespace tokenfold::filter {

/// FiCoCo's local penalty: in every window of the patch grid the most redundant token becomes more
/// redundant still, so that each window is pushed to give up one token rather than some windows all
/// of theirs.
struct LocalPenalty {
  Grid window = {2, 2};
  /// c ≥ 1: the highest score s of a window becomes c·s if positive, s/c if negative. 1 switches it
  /// off.
  double coefficient = 2;

  template <class Visit>
  void options(Visit&& visit) {
    visit("window", window, "window of the local penalty on the patch grid");
    visit("penalty", coefficient, "coefficient of the local penalty, 1: off");
  }
};

/// Applies the penalty to `scores` (by visual ordinal; high = redundant) on the layout's original
/// grid.
///
/// Windows do not overlap; a ragged last row or column of the grid forms smaller ones. Cells whose
/// tokens earlier layers discarded are empty, tokens without a cell belong to no window. A window's
/// highest score: ties go to the lowest cell; a score that is not finite counts as the highest, and
/// stays as it is. Throws if the layout has no grid. O(cells) time and memory.
inline void apply_local_penalty(const TokenLayout& layout, const LocalPenalty& penalty,
                                Span<double> scores, Workspace& workspace) {
  require(penalty.coefficient >= 1 && std::isfinite(penalty.coefficient),
          "local penalty: coefficient must be at least 1, got ", penalty.coefficient);
  require(penalty.window.height >= 1 && penalty.window.width >= 1, "local penalty: bad window ",
          penalty.window.height, " x ", penalty.window.width);
  if (penalty.coefficient == 1) {
    return;
  }
  require(layout.has_grid(), "local penalty: the layout has no patch grid");
  const Grid grid = layout.grid();
  const Index windows_across = (grid.width + penalty.window.width - 1) / penalty.window.width;
  const Index windows_down = (grid.height + penalty.window.height - 1) / penalty.window.height;
  const Index windows_in_frame = windows_across * windows_down;

  constexpr double infinity = std::numeric_limits<double>::infinity();
  Workspace::Frame frame(workspace);
  const Span<Index> highest = workspace.take_filled<Index>(layout.frames() * windows_in_frame, -1);
  const Span<const Token> cells = layout.cells();
  for (Index v = 0; v < scores.size(); ++v) {
    const Index cell = cells[v];
    if (cell < 0) {
      continue;
    }
    const Index frame_of_cell = layout.frame_of(cells[v]);
    const Index row = cell % grid.cells() / grid.width / penalty.window.height;
    const Index column = cell % grid.width / penalty.window.width;
    Index& best = highest[frame_of_cell * windows_in_frame + row * windows_across + column];
    const auto beats = [&](Index a, Index b) {
      const double rank_a = detail::finite_or(scores[a], infinity);
      const double rank_b = detail::finite_or(scores[b], infinity);
      return rank_a != rank_b ? rank_a > rank_b : cells[a] < cells[b];
    };
    if (best < 0 || beats(v, best)) {
      best = v;
    }
  }
  for (const Index v : highest) {
    if (v >= 0) {
      scores[v] = scores[v] > 0 ? scores[v] * penalty.coefficient : scores[v] / penalty.coefficient;
    }
  }
}

}  // namespace tokenfold::filter
