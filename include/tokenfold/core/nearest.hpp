// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/core/sequence.hpp"
#include "tokenfold/core/similarity.hpp"

/// Who is most like whom: what methods that merge each token into one other are made of.
namespace tokenfold::detail {

/// Each visual token's key, averaged over the heads: [N × d] by visual ordinal, with memory from
/// `workspace`.
template <HasKeys S>
auto head_mean_keys(const S& sequence, Workspace& workspace) {
  const Range range = sequence.layout.visual_range();
  const auto keys = keys_of(sequence).middle_tokens(range);
  using T = Accumulator<typename std::remove_cvref_t<decltype(keys)>::Element>;
  const MatrixView<T> mean(workspace.take<T>(range.size() * keys.dim()).data(), range.size(),
                           keys.dim());
  mean_over_heads(keys, mean);
  return visual_rows(sequence.layout, TokenRows<T>{mean, range.begin}, "keys", workspace);
}

/// The row that is most similar to another one.
struct Nearest {
  /// −1: none, because the source or all targets are not finite.
  Index row = -1;
  double cosine = 0;
};

/// For each row of `sources` the most similar row of `targets`, argmax_t cos(x_s, x_t), both being
/// row numbers of x; ties go to the lower row, rows that are not finite are nobody's nearest. One
/// [sources × D] · [D × targets] product in blocks of sources. Memory from `workspace`.
template <class T>
Span<Nearest> nearest_rows(const CosineRows<T>& x, Span<const Index> sources,
                           Span<const Index> targets, Workspace& workspace) {
  using Acc = Accumulator<T>;
  const Span<Nearest> nearest = workspace.take_filled<Nearest>(sources.size(), {});
  Workspace::Frame frame(workspace);
  const Index d = x.matrix().cols();
  const auto take_matrix = [&](Index rows, Index cols) {
    return MatrixView<Acc>(workspace.take<Acc>(rows * cols).data(), rows, cols);
  };
  const auto write_directions = [&](Span<const Index> rows, MatrixView<Acc> out) {
    for (Index i = 0; i < rows.size(); ++i) {
      VectorMap<Acc> direction(out.row(i), d);
      if (x.inverse_norm(rows[i]) > 0) {
        direction = x.inverse_norm(rows[i]) *
                    ConstVectorMap<T>(x.matrix().row(rows[i]), d).template cast<Acc>();
      } else {
        direction.setZero();  // not a product with 0: 0 · NaN is not 0
      }
    }
  };
  const MatrixView<Acc> right = take_matrix(targets.size(), d);
  write_directions(targets, right);
  const Index block = std::min(widening_block, sources.size());
  const MatrixView<Acc> left = take_matrix(block, d);
  const MatrixView<Acc> cosines = take_matrix(block, targets.size());
  for (Index begin = 0; begin < sources.size(); begin += block) {
    const Index size = std::min(block, sources.size() - begin);
    const MatrixView<Acc> part = left.middle_rows({0, size});
    write_directions(sources.subspan(begin, size), part);
    inner_products(MatrixView<const Acc>(part), HeadsView<const Acc>(MatrixView<const Acc>(right)),
                   cosines.middle_rows({0, size}), workspace);
    for (Index i = 0; i < size; ++i) {
      Nearest& best = nearest[begin + i];
      if (!x.valid(sources[begin + i])) {
        continue;
      }
      for (Index t = 0; t < targets.size(); ++t) {
        const auto cosine = static_cast<double>(cosines(i, t));
        const bool closer = best.row < 0 || cosine > best.cosine ||
                            (cosine == best.cosine && targets[t] < best.row);
        if (closer && x.valid(targets[t])) {
          best = {targets[t], cosine};
        }
      }
    }
  }
  return nearest;
}

}  // namespace tokenfold::detail
