// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <functional>

#include "tokenfold/core/views.hpp"
#include "tokenfold/core/workspace.hpp"

/// The arithmetic of plans: a sparse matrix in CSR form, times tokens.
namespace tokenfold::detail {

/// CSR arrays that belong to somebody else: row r has the entries offsets[r] … offsets[r + 1] − 1.
struct SparseRows {
  Span<const Token> offsets;
  Span<const Token> columns;
  Span<const float> values;

  Index rows() const { return offsets.size() - 1; }
  Range row(Index r) const { return {offsets[r], offsets[r + 1]}; }
};

/// The transpose, without the entries that are 0; rows with ascending columns. Memory from
/// `workspace`.
inline SparseRows transposed(const SparseRows& m, Index columns, Workspace& workspace) {
  const Span<Token> offsets = workspace.take_filled<Token>(columns + 1, 0);
  const Span<Token> rows = workspace.take<Token>(m.columns.size());
  const Span<float> values = workspace.take<float>(m.columns.size());
  const auto for_each_entry = [&](auto&& use) {
    for (Index r = 0; r < m.rows(); ++r) {
      for (Index e = m.row(r).begin; e < m.row(r).end; ++e) {
        if (m.values[e] != 0) {
          use(r, e);
        }
      }
    }
  };
  for_each_entry([&](Index, Index e) { ++offsets[m.columns[e] + 1]; });
  for (Index c = 0; c < columns; ++c) {
    offsets[c + 1] += offsets[c];
  }
  const Span<Token> next = workspace.take<Token>(columns);
  std::copy_n(offsets.begin(), columns, next.begin());
  for_each_entry([&](Index r, Index e) {
    const Token to = next[m.columns[e]]++;
    rows[to] = static_cast<Token>(r);
    values[to] = m.values[e];
  });
  return {offsets, rows, values};
}

/// Do the memory ranges of two views touch?
template <class A, class B>
bool overlap(MatrixView<A> a, MatrixView<B> b) {
  if (a.rows() == 0 || a.cols() == 0 || b.rows() == 0 || b.cols() == 0) {
    return false;
  }
  const std::less_equal<const void*> before;
  return !before(a.row(a.rows() - 1) + a.cols(), b.data()) &&
         !before(b.row(b.rows() - 1) + b.cols(), a.data());
}

/// out = m · x; a row without entries becomes `empty`. Sums are kept in the accumulator's type.
template <class T>
void multiply(const SparseRows& m, MatrixView<const T> x, MatrixView<T> out, T empty = T(0)) {
  using Acc = Accumulator<T>;
  constexpr Index chunk = 512;  // columns whose sums are kept on the stack
  for (Index r = 0; r < m.rows(); ++r) {
    const Range row = m.row(r);
    if (row.empty()) {
      std::fill_n(out.row(r), out.cols(), empty);
      continue;
    }
    if (row.size() == 1 && m.values[row.begin] == 1.0f) {
      std::copy_n(x.row(m.columns[row.begin]), x.cols(), out.row(r));
      continue;
    }
    for (Index begin = 0; begin < x.cols(); begin += chunk) {
      const Index width = std::min(chunk, x.cols() - begin);
      alignas(64) Acc buffer[chunk];
      VectorMap<Acc> sum(buffer, width);
      sum.setZero();
      for (Index e = row.begin; e < row.end; ++e) {
        sum += static_cast<Acc>(m.values[e]) *
               ConstVectorMap<T>(x.row(m.columns[e]) + begin, width).template cast<Acc>();
      }
      VectorMap<T>(out.row(r) + begin, width) = sum.template cast<T>();
    }
  }
}

}  // namespace tokenfold::detail
