// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include "tokenfold/core/views.hpp"

namespace tokenfold {

/// How the positions of the tokens continue after a reduction; see `ReductionPlan::positions`.
enum class PositionRule {
  original,     ///< every token keeps the position it had; gaps remain
  packed,       ///< no gaps: the text after the image moves up
  consecutive,  ///< one after the other in all planes, M-RoPE's as well
};

namespace detail {

/// The largest position of `columns` in any plane, at least `least`.
template <class T>
std::int32_t largest_position(MatrixView<T> positions, Range columns, std::int32_t least) {
  for (Index plane = 0; plane < positions.rows(); ++plane) {
    for (Index i = columns.begin; i < columns.end; ++i) {
      least = std::max<std::int32_t>(least, positions(plane, i));
    }
  }
  return least;
}

/// `ReductionPlan::positions` after its checks. `visual_in` and `visual_out`: the visual rows
/// before and after.
inline std::int32_t reduce_positions(PositionRule rule, Span<const Token> kept, Range visual_in,
                                     Range visual_out, MatrixView<const std::int32_t> in,
                                     MatrixView<std::int32_t> out) {
  const Index planes = in.rows();
  const Index rows = kept.size();
  const std::int32_t first = in.cols() > 0 ? in(0, 0) : 0;
  if (rule == PositionRule::consecutive || (rule == PositionRule::packed && planes == 1)) {
    for (Index plane = 0; plane < planes; ++plane) {
      for (Index row = 0; row < rows; ++row) {
        out(plane, row) = first + static_cast<std::int32_t>(row);
      }
    }
    return first + static_cast<std::int32_t>(rows);
  }
  const Index last_visual = std::max<Index>(visual_in.end - 1, 0);
  for (Index plane = 0; plane < planes; ++plane) {
    for (Index row = 0; row < rows; ++row) {
      out(plane, row) = in(plane, kept[row] == no_token ? last_visual : Index{kept[row]});
    }
  }
  if (rule == PositionRule::original) {
    return in.cols() > 0 ? largest_position(in, {0, in.cols()}, first) + 1 : 0;
  }
  // M-RoPE: the text after the image started one past the image's largest position, and still does.
  const std::int32_t shift = largest_position(in, {0, visual_in.end}, first - 1) -
                             largest_position(out, {0, visual_out.end}, first - 1);
  for (Index plane = 0; plane < planes; ++plane) {
    for (Index row = visual_out.end; row < rows; ++row) {
      out(plane, row) -= shift;
    }
  }
  return largest_position(out, {0, rows}, first - 1) + 1;
}

}  // namespace detail
}  // namespace tokenfold
