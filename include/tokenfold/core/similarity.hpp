// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "tokenfold/core/products.hpp"

/// Cosine similarity between tokens, in rows on demand: what the diversity and coverage methods are
/// made of. N × N is never held.
namespace tokenfold::detail {

/// Columns averaged over the heads: out[i, c] = (1/H) Σ_h x[h][i][c].
template <class T>
void mean_over_heads(HeadsView<const T> x, MatrixView<Accumulator<T>> out) {
  using Acc = Accumulator<T>;
  auto mean = out.map();
  mean.setZero();
  for (Index h = 0; h < x.heads(); ++h) {
    mean += x.head(h).map().template cast<Acc>();
  }
  mean *= Acc(1) / static_cast<Acc>(x.heads());
}

/// cos(x_i, x_j) = x_i·x_j / (‖x_i‖ ‖x_j‖) between the rows of one matrix. A zero row has
/// similarity 0 to everything, itself included; so has a row too long or too short for the scalar
/// type, and one that is not finite, which `valid` tells apart. Refers to `x` and to memory of the
/// enclosing workspace frame.
template <class T>
class CosineRows {
 public:
  using Acc = Accumulator<T>;

  CosineRows(MatrixView<const T> x, Workspace& workspace)
      : x_(x),
        inverse_norm_(workspace.take<Acc>(x.rows())),
        valid_(workspace.take<bool>(x.rows())) {
    for_each_row_block(x, workspace, [&](Range block, MatrixView<const Acc> rows) {
      for (Index i = 0; i < block.size(); ++i) {
        const double square = squared_norm(rows.map().row(i));
        const double norm = std::sqrt(square);
        const auto inverse = static_cast<Acc>(1 / norm);
        // A product with a unit vector must not overflow either.
        const bool usable =
            square > 0 && norm < std::numeric_limits<Acc>::max() / 2 && std::isfinite(inverse);
        inverse_norm_[block.begin + i] = usable ? inverse : Acc(0);
        valid_[block.begin + i] = std::isfinite(square);
      }
    });
  }

  /// N.
  Index size() const { return x_.rows(); }
  MatrixView<const T> matrix() const { return x_; }
  /// 1 / ‖x_i‖; 0 for a row without a direction.
  Acc inverse_norm(Index i) const { return inverse_norm_[i]; }
  /// Is row i finite?
  bool valid(Index i) const { return valid_[i]; }

  /// out[j] = cos(x_i, x_j) for all j. N · D multiply-adds.
  void row(Index i, Span<Acc> out, Workspace& workspace) const {
    rows(Span<const Index>(&i, 1), MatrixView<Acc>(out.data(), 1, out.size()), workspace);
  }

  /// out[r, j] = cos(x_rows[r], x_j) for all j, as one product: [rows × N].
  void rows(Span<const Index> rows, MatrixView<Acc> out, Workspace& workspace) const {
    against(rows, {0, size()}, out, workspace);
  }

  /// The same for the j of a range only.
  void against(Span<const Index> rows, Range columns, MatrixView<Acc> out,
               Workspace& workspace) const {
    Workspace::Frame frame(workspace);
    const MatrixView<Acc> left(workspace.take<Acc>(rows.size() * x_.cols()).data(), rows.size(),
                               x_.cols());
    for (Index r = 0; r < rows.size(); ++r) {
      VectorMap<Acc>(left.row(r), x_.cols()) =
          inverse_norm_[rows[r]] *
          ConstVectorMap<T>(x_.row(rows[r]), x_.cols()).template cast<Acc>();
    }
    const HeadsView<const T> right(x_.middle_rows(columns));
    if (rows.size() == 1) {
      row_dot_products<T>(right, Span<const Acc>(left.row(0), x_.cols()),
                          Span<Acc>(out.row(0), columns.size()), workspace);
    } else {
      inner_products(MatrixView<const Acc>(left), right, out, workspace);
    }
    for (Index r = 0; r < rows.size(); ++r) {
      const bool directed = inverse_norm_[rows[r]] > 0;
      for (Index j = 0; j < columns.size(); ++j) {
        // Not a product with 0: 0 · NaN is not 0.
        const Acc inverse = inverse_norm_[columns.begin + j];
        out(r, j) = directed && inverse > 0 ? out(r, j) * inverse : Acc(0);
      }
    }
  }

 private:
  MatrixView<const T> x_;
  Span<Acc> inverse_norm_;
  Span<bool> valid_;
};

}  // namespace tokenfold::detail
