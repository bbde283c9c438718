// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "tokenfold/core/layout.hpp"
#include "tokenfold/core/views.hpp"

namespace tokenfold {

/// Where a patch lies: frame, row and column of its grid cell.
struct GridPosition {
  std::int32_t t = 0;
  std::int32_t h = 0;
  std::int32_t w = 0;

  friend bool operator==(const GridPosition&, const GridPosition&) = default;
};

/// The position of grid cell `cell` of `layout`, an image or a video. `frame_step`: how much t
/// grows from frame to frame (Qwen2.5-VL: seconds per frame times tokens per second), its product
/// with the frame rounded down. Throws if the layout has no such cell.
inline GridPosition grid_position(const TokenLayout& layout, Token cell, double frame_step = 1) {
  const Index width = layout.grid().width;
  const Index frame_cells = layout.grid().cells();
  require(0 <= cell && cell < layout.frames() * frame_cells,
          "grid position: the layout has no cell ", cell);
  const Index in_frame = cell % frame_cells;
  return {static_cast<std::int32_t>(
              std::floor(static_cast<double>(layout.frame_of(cell)) * frame_step)),
          static_cast<std::int32_t>(in_frame / width), static_cast<std::int32_t>(in_frame % width)};
}

/// Writes the M-RoPE positions of every row of `layout` to `out`, [3 × P] (planes t, h, w), and
/// returns the one at which the sequence continues.
///
/// Rows outside the visual rows count up from `first` in all planes. A patch stands at the position
/// that the first visual row would have as text, plus its (t, h, w). A visual row without a cell
/// (separator, synthetic token) stands where the patch before it does. What follows starts one
/// after the largest position so far.
///
/// Of a whole sequence this is what `ReductionPlan::positions` expects; of one that was shortened
/// (`Survivors::layout`) by selection it is what `positions` gives with PositionRule::packed, if
/// every visual row has a cell. Where separators stand between patches take `positions`: it leaves
/// them where they were, here they follow the patches that are left.
///
/// Throws if a position would not fit 32 bits.
inline std::int32_t mrope_positions(const TokenLayout& layout, std::int32_t first,
                                    MatrixView<std::int32_t> out, double frame_step = 1) {
  require(out.rows() == 3 && out.cols() == layout.tokens(),
          "mrope positions: the output must be [3 x ", layout.tokens(), "], got [", out.rows(),
          " x ", out.cols(), "]");
  require(layout.has_grid() || layout.visual_count() == 0,
          "mrope positions: the layout has no patch grid");
  require(frame_step >= 0, "mrope positions: frame_step must not be negative, got ", frame_step);
  // No position is larger than this: text counts up, a patch adds its frame, row or column.
  const double largest = static_cast<double>(first) + static_cast<double>(layout.tokens()) +
                         static_cast<double>(layout.frames()) * (frame_step + 1) +
                         static_cast<double>(layout.grid().height + layout.grid().width);
  require(largest < static_cast<double>(std::numeric_limits<std::int32_t>::max()),
          "mrope positions: positions from ", first, " on, a frame every ", frame_step,
          ", do not fit 32 bits");
  const Range visual = layout.visual_range();
  std::int32_t next = first;
  const auto write = [&](Index row, GridPosition p) {
    out(0, row) = p.t;
    out(1, row) = p.h;
    out(2, row) = p.w;
    next = std::max({next, p.t + 1, p.h + 1, p.w + 1});
  };
  const auto text = [&](Range rows) {
    for (Index row = rows.begin; row < rows.end; ++row) {
      write(row, {next, next, next});
    }
  };
  text({0, visual.begin});
  const std::int32_t origin = next;
  GridPosition here{origin, origin, origin};
  for (Index row = visual.begin; row < visual.end; ++row) {
    const Index ordinal = layout.ordinal(row);
    const Token cell = ordinal < 0 ? no_token : layout.cells()[ordinal];
    if (cell >= 0) {
      const GridPosition p = grid_position(layout, cell, frame_step);
      here = {origin + p.t, origin + p.h, origin + p.w};
    }
    write(row, here);
  }
  text({visual.end, layout.tokens()});
  return next;
}

}  // namespace tokenfold
