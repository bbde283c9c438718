// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "tokenfold/core/similarity.hpp"
#include "tokenfold/filter/row_dots.hpp"

namespace tokenfold::detail {

/// Cosines between a few tokens, whose directions x / ‖x‖ are held in slots, and any others, in the
/// precision of the accumulator. Memory of the enclosing workspace frame: slots · D.
template <class T>
class Directions {
 public:
  using Acc = Accumulator<T>;

  Directions(const CosineRows<T>& rows, Index slots, Workspace& workspace)
      : rows_(rows),
        slots_(workspace.take<Acc>(slots * rows.matrix().cols()).data(), slots,
               rows.matrix().cols()) {}

  Index size() const { return rows_.size(); }
  bool has_direction(Index i) const { return rows_.inverse_norm(i) > 0; }

  void hold(Index slot, Index i) {
    const Index d = slots_.cols();
    VectorMap<Acc> direction(slots_.row(slot), d);
    if (has_direction(i)) {
      direction =
          rows_.inverse_norm(i) * ConstVectorMap<T>(rows_.matrix().row(i), d).template cast<Acc>();
    } else {
      direction.setZero();  // not a product with 0: 0 · NaN is not 0
    }
  }
  void copy(Index from, Index to) { std::copy_n(slots_.row(from), slots_.cols(), slots_.row(to)); }

  /// out[s, r] = cos(the token in slot slots.begin + s, x_tokens[r]).
  void cosines(Range slots, Span<const Index> tokens, MatrixView<Acc> out) const {
    const MatrixView<const T> x = rows_.matrix();
    row_dots<T>(
        MatrixView<const Acc>(slots_.middle_rows(slots)), tokens.size(),
        [&](Index r) { return x.row(tokens[r]); }, out);
    for (Index r = 0; r < tokens.size(); ++r) {
      const Acc inverse = rows_.inverse_norm(tokens[r]);
      for (Index s = 0; s < slots.size(); ++s) {
        out(s, r) = inverse > 0 ? out(s, r) * inverse : Acc(0);
      }
    }
  }

 private:
  const CosineRows<T>& rows_;
  MatrixView<Acc> slots_;
};

}  // namespace tokenfold::detail
