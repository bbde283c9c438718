// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "tokenfold/core/layout.hpp"
#include "tokenfold/core/views.hpp"
#include "tokenfold/core/workspace.hpp"

namespace tokenfold {

/// Something that is known of every token of a part of the sequence: row r of the sequence is row
/// r − `first_row` of `matrix`. An encoder's output without [CLS] over a sequence with it is
/// {matrix, 1}; only the visual tokens need to be covered.
template <class T>
struct TokenRows {
  using Element = std::remove_const_t<T>;

  MatrixView<const Element> matrix;
  Index first_row = 0;

  Range rows() const { return {first_row, first_row + matrix.rows()}; }
  bool empty() const { return matrix.rows() == 0; }
  const Element* row(Index r) const { return matrix.row(r - first_row); }
};

namespace detail {

/// Throws if some visual tokens were not given.
template <class T>
void require_visual_rows(const TokenLayout& layout, const TokenRows<T>& given, const char* what) {
  const Range range = layout.visual_range();
  require(given.rows().contains(range), what, ": rows [", given.rows().begin, ", ",
          given.rows().end, ") were given, but the visual tokens lie in rows [", range.begin, ", ",
          range.end, ")");
}

/// The rows of the visual tokens by ordinal, where they lie. Throws if some were not given.
template <class T>
class VisualRows {
 public:
  using Element = T;

  VisualRows(const TokenLayout& layout, const TokenRows<T>& given, const char* what)
      : tokens_(layout.visual()), given_(given) {
    require_visual_rows(layout, given, what);
  }

  Index rows() const { return tokens_.size(); }
  Index cols() const { return given_.matrix.cols(); }
  const T* row(Index v) const { return given_.row(tokens_[v]); }

 private:
  Span<const Token> tokens_;
  TokenRows<T> given_;
};

/// The rows of the visual tokens as one [N × D] matrix, by ordinal: where they lie if they are
/// consecutive, else a copy in memory from `workspace`. Throws if some were not given.
template <class T>
MatrixView<const T> visual_rows(const TokenLayout& layout, const TokenRows<T>& given,
                                const char* what, Workspace& workspace) {
  require_visual_rows(layout, given, what);
  const Range range = layout.visual_range();
  if (layout.visual_is_contiguous()) {
    return given.matrix.middle_rows({range.begin - given.first_row, range.end - given.first_row});
  }
  const Index d = given.matrix.cols();
  const MatrixView<T> copy(workspace.take<T>(layout.visual_count() * d).data(),
                           layout.visual_count(), d);
  for (Index v = 0; v < copy.rows(); ++v) {
    std::copy_n(given.row(layout.visual()[v]), d, copy.row(v));
  }
  return copy;
}

}  // namespace detail
}  // namespace tokenfold
