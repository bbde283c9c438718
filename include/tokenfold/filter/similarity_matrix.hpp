// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <numeric>

#include "tokenfold/core/similarity.hpp"

/// All pairs at once, for criteria that need every pair at every pick.
namespace tokenfold::detail {

/// out[i, j] = cos(x_i, x_j), exactly symmetric and finite. Half the products of [N × D] · [D × N]:
/// row blocks against the columns to their right, mirrored.
template <class T>
void similarity_matrix(const CosineRows<T>& cosines, MatrixView<Accumulator<T>> out,
                       Workspace& workspace) {
  constexpr Index block_rows = 64;
  const Index n = cosines.size();
  Workspace::Frame frame(workspace);
  const Span<Index> rows = workspace.take<Index>(n);
  std::iota(rows.begin(), rows.end(), Index{0});
  for (Index begin = 0; begin < n; begin += block_rows) {
    const Range block{begin, std::min(begin + block_rows, n)};
    const Range right{begin, n};
    const auto upper = out.middle_rows(block).middle_cols(right);
    cosines.against(rows.subspan(begin, block.size()), right, upper, workspace);
    for (Index j = begin; j < n; ++j) {
      for (Index i = begin; i < std::min(j + 1, block.end); ++i) {
        out(j, i) = out(i, j);
      }
    }
  }
}

}  // namespace tokenfold::detail
