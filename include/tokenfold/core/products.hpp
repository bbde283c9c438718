// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "tokenfold/core/dot_products.hpp"

/// The few products that attention and similarity are made of, over views with heads.
///
/// Rows of a narrow type (half, bfloat16) are widened block by block, never a whole tensor at once;
/// rows that already have the accumulator's type are used where they lie. Heads that are adjacent
/// in memory are one wide product instead of H narrow ones.
namespace tokenfold::detail {

/// Σ x_c² of one row: in the row's own type, which Eigen vectorises, unless the squares overflow it
/// or fall below it. Infinite or NaN only if the row is (or a double row too long for its square).
template <class Row>
double squared_norm(const Row& row) {
  using Limits = std::numeric_limits<typename Row::Scalar>;
  // Sums of squares below this have lost terms to underflow.
  constexpr double least =
      static_cast<double>(Limits::min()) / static_cast<double>(Limits::epsilon());
  const auto own = static_cast<double>(row.squaredNorm());
  return own >= least && std::isfinite(own) ? own : row.template cast<double>().squaredNorm();
}

/// The same for a row of any type.
template <Scalar T>
double squared_norm(Span<const T> row) {
  using Acc = Accumulator<T>;
  if constexpr (std::same_as<T, Acc>) {
    return squared_norm(as_vector(row));
  } else {
    double sum = 0;
    Acc wide[channel_block];
    for (Index c = 0; c < row.size(); c += channel_block) {
      const Index count = std::min(channel_block, row.size() - c);
      widen<T>(row.data() + c, wide, count);
      sum += squared_norm(ConstVectorMap<Acc>(wide, count));
    }
    return sum;
  }
}

/// Rows that are widened at a time: 64 rows of 1024 floats fill a quarter of a typical L2 cache.
inline constexpr Index widening_block = 64;

/// Calls `use(block, values)` for consecutive row blocks of `m`, values being [block × cols] in
/// `Acc`.
template <class T, class Use>
void for_each_row_block(MatrixView<const T> m, Workspace& workspace, Use&& use) {
  using Acc = Accumulator<T>;
  if constexpr (std::same_as<T, Acc>) {
    use(Range{0, m.rows()}, m);
  } else {
    Workspace::Frame frame(workspace);
    const Span<Acc> buffer = workspace.take<Acc>(std::min(widening_block, m.rows()) * m.cols());
    for (Index begin = 0; begin < m.rows(); begin += widening_block) {
      const Range block{begin, std::min(begin + widening_block, m.rows())};
      const MatrixView<Acc> wide(buffer.data(), block.size(), m.cols());
      for (Index i = 0; i < block.size(); ++i) {
        widen<T>(m.row(begin + i), wide.row(i), m.cols());
      }
      use(block, MatrixView<const Acc>(wide));
    }
  }
}

/// Calls `use(columns, part)` for the parts of `x` that are one matrix: everything if the heads are
/// adjacent, else head by head. `columns` are the part's columns in the joined [tokens × heads·dim]
/// row.
template <class T, class Use>
void for_each_joined_part(HeadsView<const T> x, Use&& use) {
  if (x.heads_are_adjacent()) {
    use(Range{0, x.width()}, x.joined());
    return;
  }
  for (Index h = 0; h < x.heads(); ++h) {
    use(Range{h * x.dim(), (h + 1) * x.dim()}, x.head(h));
  }
}

/// out[h·dim + c] = Σ_i weights[i] · x[h][i][c]; rows of weight 0 are not read.
template <class T>
void weighted_row_sum(HeadsView<const T> x, Span<const Accumulator<T>> weights,
                      Span<Accumulator<T>> out, Workspace& workspace) {
  using Acc = Accumulator<T>;
  as_vector(out).setZero();
  for (Index begin = 0; begin < weights.size(); ++begin) {
    Index end = begin;
    while (end < weights.size() && weights[end] != Acc(0)) {
      ++end;
    }
    if (end == begin) {
      continue;
    }
    const auto run = weights.subspan(begin, end - begin);
    for_each_joined_part(x.middle_tokens({begin, end}), [&](Range columns,
                                                            MatrixView<const T> part) {
      auto sum = as_vector(out.subspan(columns.begin, columns.size()));
      for_each_row_block(part, workspace, [&](Range block, MatrixView<const Acc> rows) {
        sum.noalias() += rows.map().transpose() * as_vector(run.subspan(block.begin, block.size()));
      });
    });
    begin = end;
  }
}

/// out[i, j] = Σ_{h,c} left[i, h·dim + c] · right[h][j][c].
template <class T>
void inner_products(MatrixView<const Accumulator<T>> left, HeadsView<const T> right,
                    MatrixView<Accumulator<T>> out, Workspace& workspace) {
  out.map().setZero();
  for_each_joined_part(right, [&](Range columns, MatrixView<const T> part) {
    add_dot_products(left.middle_cols(columns), part, out, workspace);
  });
}

/// out[i] = Σ_{h,c} x[h][i][c] · vector[h·dim + c].
template <class T>
void row_dot_products(HeadsView<const T> x, Span<const Accumulator<T>> vector,
                      Span<Accumulator<T>> out, Workspace& workspace) {
  using Acc = Accumulator<T>;
  inner_products(MatrixView<const Acc>(vector.data(), 1, vector.size()), x,
                 MatrixView<Acc>(out.data(), 1, out.size()), workspace);
}

/// out[i, h·dim + c] = scale · x[h][rows[i] − first_row][c].
template <class T>
void gather_rows(HeadsView<const T> x, Span<const Token> rows, Index first_row,
                 Accumulator<T> scale, MatrixView<Accumulator<T>> out) {
  using Acc = Accumulator<T>;
  for (Index i = 0; i < rows.size(); ++i) {
    for (Index h = 0; h < x.heads(); ++h) {
      widen<T>(x.head(h).row(rows[i] - first_row), out.row(i) + h * x.dim(), x.dim());
    }
    VectorMap<Acc>(out.row(i), x.width()) *= scale;
  }
}

}  // namespace tokenfold::detail
