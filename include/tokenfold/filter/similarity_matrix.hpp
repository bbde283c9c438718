// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <numeric>

#include "tokenfold/core/similarity.hpp"

/// All pairs at once, for criteria that need every pair at every pick.
namespace tokenfold::detail {

/// m[j, i] = m[i, j] for the rows i of `block` and the columns j < i, in tiles, of which 16 rows on
/// either side stay in the L1 cache whatever the stride.
template <class Acc>
void mirror(MatrixView<Acc> m, Range block) {
  constexpr Index tile = 16;
  const auto all = m.map();
  for (Index i = block.begin; i < block.end; i += tile) {
    const Index end = std::min(i + tile, block.end);
    for (Index j = 0; j < end; j += tile) {
      if (j + tile <= i && i + tile == end) {
        m.map().template block<tile, tile>(j, i) = all.template block<tile, tile>(i, j).transpose();
        continue;
      }
      for (Index row = i; row < end; ++row) {
        for (Index column = j; column < std::min(j + tile, row); ++column) {
          m(column, row) = m(row, column);
        }
      }
    }
  }
}

/// out[i, j] = cos(x_i, x_j), exactly symmetric and finite, of which `finish(block)` may make
/// something else, as symmetric, as soon as the rows of the range `block` are there up to column
/// block.end − 1. Half the products of [N × D] · [D × N]: row blocks against the columns to their
/// left, mirrored.
template <class T, class Finish>
void similarity_matrix(const CosineRows<T>& cosines, MatrixView<Accumulator<T>> out,
                       Workspace& workspace, Finish&& finish) {
  // What a block computes twice, beyond its diagonal, is 11 % of 576 rows with 64 (5.1 → 4.8 ms).
  constexpr Index block_rows = 32;
  const Index n = cosines.size();
  Workspace::Frame frame(workspace);
  const Span<Index> rows = workspace.take<Index>(n);
  std::iota(rows.begin(), rows.end(), Index{0});
  for (Index begin = 0; begin < n; begin += block_rows) {
    const Range block{begin, std::min(begin + block_rows, n)};
    cosines.against(rows.subspan(begin, block.size()), {0, block.end},
                    out.middle_rows(block).middle_cols({0, block.end}), workspace);
    finish(block);
    mirror(out, block);
  }
}

/// The cosines themselves.
template <class T>
void similarity_matrix(const CosineRows<T>& cosines, MatrixView<Accumulator<T>> out,
                       Workspace& workspace) {
  similarity_matrix(cosines, out, workspace, [](Range) {});
}

}  // namespace tokenfold::detail
