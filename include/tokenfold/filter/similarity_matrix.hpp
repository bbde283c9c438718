// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>

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

/// Rows of a symmetric matrix that one thread takes at a time: few enough for all threads to have
/// some, else as many as a typical L2 cache holds.
inline Index symmetric_block(Index n, Index threads) {
  constexpr Index least = 16;
  constexpr Index most = 64;
  return std::clamp(n / (2 * threads) / left_tile * left_tile, least, most);
}

/// out[i, j] = cos(x_i, x_j) for j <= i, finite; what is above the diagonal is undefined. Half the
/// products of [N × D] · [D × N]: row blocks against the rows up to their own, without the tiles
/// above the diagonal and packed once (4.1 → 3.8 ms for SCOPE at 576 × 1024); long blocks first, so
/// that threads end together. Scratch: up to 64 D numbers a thread.
template <class T>
void lower_similarities(const CosineRows<T>& cosines, MatrixView<Accumulator<T>> out,
                        Workspace& workspace) {
  using Acc = Accumulator<T>;
  Workspace::Frame frame(workspace);
  const Index n = cosines.size();
  const Index threads = workspace.concurrency();
  const Index block_rows = symmetric_block(n, threads);
  const Index blocks = (n + block_rows - 1) / block_rows;
  const MatrixView<const T> x = cosines.matrix();
  const Index size = PackedRows<Acc>::size(std::min(n, block_rows), x.cols());
  const Span<Acc> packed = workspace.take<Acc>(std::min(threads, blocks) * size);
  std::atomic<Index> taken{0};
  workspace.for_each(std::min(threads, blocks), [&](Index thread) {
    PackedRows<Acc> left(packed.subspan(thread * size, size));
    for (Index b = blocks - 1 - taken++; b >= 0; b = blocks - 1 - taken++) {
      const Range block{b * block_rows, std::min((b + 1) * block_rows, n)};
      left.pack(x.middle_rows(block), [&](Index i) { return cosines.unit(block.begin + i); });
      const MatrixView<Acc> rows = out.middle_rows(block).middle_cols({0, block.end});
      rows.map().setZero();
      add_packed_products(left, x.middle_rows({0, block.end}), rows, [&](Index j) {
        return std::max<Index>(j - block.begin, 0) / left_tile * left_tile;
      });
      for (Index i = block.begin; i < block.end; ++i) {
        cosines.to_cosines(i, {0, i + 1}, out.row(i));
      }
    }
  });
}

/// Makes `m`, of which the lower half is there, symmetric, after `finish(block)` has made of the
/// rows of a range, up to the diagonal, what they are to be.
template <class Acc, class Finish>
void mirror(MatrixView<Acc> m, Workspace& workspace, Finish&& finish) {
  constexpr Index rows = 32;
  workspace.for_each((m.rows() + rows - 1) / rows, [&](Index b) {
    const Range block{b * rows, std::min((b + 1) * rows, m.rows())};
    finish(block);
    mirror(m, block);
  });
}

/// out[i, j] = cos(x_i, x_j), exactly symmetric and finite.
template <class T>
void similarity_matrix(const CosineRows<T>& cosines, MatrixView<Accumulator<T>> out,
                       Workspace& workspace) {
  lower_similarities(cosines, out, workspace);
  mirror(out, workspace, [](Range) {});
}

}  // namespace tokenfold::detail
