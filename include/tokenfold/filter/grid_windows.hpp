// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <utility>

#include "tokenfold/core/options.hpp"
#include "tokenfold/core/stages.hpp"

namespace tokenfold::filter {

/// Preserves the first token of every window of the patch grid, for a merge that makes it stand for
/// all of them. Windows do not overlap; each frame of a video has its own.
///
/// `Budget::adaptive()`: windows of `window` cells; a ragged last row or column of the grid forms
/// smaller ones. With a count: in every frame a × b windows with a bands of grid rows and b of grid
/// columns as even as they can be (grid row y belongs to band ⌊y · a / height⌋), where
/// frames · a · b is the count and a : b is closest to the grid's height : width (equally close:
/// the smaller a). Throws if the count has no such factors, or if a window has lost all its tokens.
///
/// A window lives on as the lowest row that is left of it. Tokens without a cell stay, and are
/// counted.
///
/// Reads: the layout alone, which must have a grid.
/// Score: the number of the token's window; a token without a cell has one of its own.
/// Cost: O(N + cells).
struct GridWindows {
  /// Cells down and across; for adaptive budgets.
  Grid window = {2, 2};

  template <class Visit>
  void options(Visit&& visit) {
    visit("window", window, "window of an adaptive budget on the patch grid");
  }

  template <HasLayout S>
  void operator()(const S& sequence, const Budget& budget, Partition& partition,
                  Workspace& workspace) const {
    const TokenLayout& layout = sequence.layout;
    require(window.height >= 1 && window.width >= 1, "grid windows: bad window ", window.height,
            " x ", window.width);
    const Span<const Token> rows = layout.visual();
    const Span<const Token> cells = layout.cells();
    const Index n = rows.size();
    const Index keep = budget.is_adaptive() ? -1 : budget.keep_count(n);
    if (keep == 0) {
      partition.discarded.assign(rows.begin(), rows.end());
      partition.scores.assign(static_cast<std::size_t>(n), 0.0);
      return;
    }
    require(layout.has_grid(), "grid windows: the layout has no patch grid");
    const Grid grid = layout.grid();
    Grid shape = {(grid.height + window.height - 1) / window.height,
                  (grid.width + window.width - 1) / window.width};
    if (keep == n) {
      shape = grid;
    } else if (keep > 0) {
      const Index loose = std::count(cells.begin(), cells.end(), no_token);
      shape = closest_shape(layout, keep, keep - loose);
    }

    Workspace::Frame frame(workspace);
    const Span<Index> down = workspace.take<Index>(grid.height);
    const Span<Index> across = workspace.take<Index>(grid.width);
    for (Index y = 0; y < grid.height; ++y) {
      down[y] = keep < 0 ? y / window.height : y * shape.height / grid.height;
    }
    for (Index x = 0; x < grid.width; ++x) {
      across[x] = keep < 0 ? x / window.width : x * shape.width / grid.width;
    }
    const Span<bool> taken = workspace.take_filled<bool>(layout.frames() * shape.cells(), false);
    Index next_own = taken.size();
    for (Index v = 0; v < n; ++v) {
      Index number = next_own;
      bool first = true;
      if (cells[v] == no_token) {
        ++next_own;
      } else {
        const Index cell = cells[v] % grid.cells();
        number = layout.frame_of(cells[v]) * shape.cells() + down[cell / grid.width] * shape.width +
                 across[cell % grid.width];
        first = !taken[number];
        taken[number] = true;
      }
      partition.scores.push_back(static_cast<double>(number));
      (first ? partition.preserved : partition.discarded).push_back(rows[v]);
    }
    const auto preserved = static_cast<Index>(partition.preserved.size());
    require(keep < 0 || preserved == keep, "grid windows: cannot keep ", keep, ", because ",
            keep - preserved, " windows have lost all their tokens");
  }

 private:
  /// a and b of the windows of each frame.
  static Grid closest_shape(const TokenLayout& layout, Index keep, Index windows) {
    const Grid grid = layout.grid();
    const Index in_frame = windows / layout.frames();
    Grid best = {};
    if (windows > 0 && in_frame * layout.frames() == windows) {
      for (Index a = 1; a <= std::min(grid.height, in_frame); ++a) {
        const Index b = in_frame / a;
        if (a * b == in_frame && b <= grid.width &&
            (best.cells() == 0 || distortion_is_less({a, b}, best, grid))) {
          best = {a, b};
        }
      }
    }
    require(best.cells() > 0, "grid windows: cannot keep ", keep, ": not ", layout.frames(),
            " times a x b windows with a at most ", grid.height, " and b at most ", grid.width);
    return best;
  }

  /// Is one : closer to the proportions of the grid than `two`? By max(r, 1/r), r the quotient of
  /// the two aspect ratios; in integers, which stay below 2⁶² as there are fewer than 2³¹ cells.
  static bool distortion_is_less(Grid one, Grid two, Grid grid) {
    const auto sides = [&](Grid shape) {
      const Index p = shape.height * grid.width;
      const Index q = shape.width * grid.height;
      return std::pair(std::max(p, q), std::min(p, q));
    };
    const auto [more, less] = sides(one);
    const auto [other_more, other_less] = sides(two);
    return more * other_less < other_more * less;
  }
};

}  // namespace tokenfold::filter
