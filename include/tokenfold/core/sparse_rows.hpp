// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

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

/// Is row r of `m` one row of x as it is?
inline bool copies(const SparseRows& m, Index r) {
  const Range row = m.row(r);
  return row.size() == 1 && m.values[row.begin] == 1.0f;
}

/// out = row r of `m` times x, all `width` columns; `row_of(c)` points to row c of x, `out` may be
/// any of them. A row without entries becomes `empty`. Sums are kept in the accumulator's type;
/// what has no sums (integers) must only be copied. `inline` makes g++ put it into its callers: 5 %
/// of a plan's `apply`.
template <class T, class RowOf>
inline void multiply_row(const SparseRows& m, Index r, const RowOf& row_of, Index width, T* out,
                         T empty) {
  const Range row = m.row(r);
  if (row.empty()) {
    std::fill_n(out, width, empty);
    return;
  }
  if (copies(m, r)) {
    const T* only = row_of(m.columns[row.begin]);
    if (only != out) {
      std::copy_n(only, width, out);
    }
    return;
  }
  if constexpr (Scalar<T>) {
    using Acc = Accumulator<T>;
    constexpr Index chunk = 512;  // columns whose sums are kept on the stack
    for (Index begin = 0; begin < width; begin += chunk) {
      const Index size = std::min(chunk, width - begin);
      alignas(64) Acc buffer[chunk];
      VectorMap<Acc> sum(buffer, size);
      sum.setZero();
      for (Index e = row.begin; e < row.end; ++e) {
        sum += static_cast<Acc>(m.values[e]) *
               ConstVectorMap<T>(row_of(m.columns[e]) + begin, size).template cast<Acc>();
      }
      VectorMap<T>(out + begin, size) = sum.template cast<T>();
    }
  } else {
    assert(false && "elements without arithmetic can only be copied");
  }
}

/// out = m · x, which must not overlap.
template <class T>
void multiply(const SparseRows& m, MatrixView<const T> x, MatrixView<T> out, T empty = T(0)) {
  for (Index r = 0; r < m.rows(); ++r) {
    multiply_row(
        m, r, [&](Index c) { return x.row(c); }, x.cols(), out.row(r), empty);
  }
}

/// The rows of x that m · x still reads after it has put something else in their place: those that
/// a later row of m than their own takes from. A selection in ascending order has none.
struct RowsReadLate {
  Span<const Token> rows;
  Span<const Token> slots;  ///< per row of x its place among `rows`, or −1
};

/// Memory from `workspace`, which the result lies in.
inline RowsReadLate rows_read_late(const SparseRows& m, Index inputs, Workspace& workspace) {
  const auto unchanged = [&m](Token row) {
    return copies(m, row) && m.columns[m.row(row).begin] == row;
  };
  const Span<Token> slots = workspace.take_filled<Token>(inputs, no_token);
  const Span<Token> rows = workspace.take<Token>(std::min(inputs, m.rows()));
  Index count = 0;
  for (Index r = 0; r < m.rows(); ++r) {
    for (Index e = m.row(r).begin; e < m.row(r).end; ++e) {
      const Token column = m.columns[e];
      if (column < r && slots[column] == no_token && !unchanged(column)) {
        slots[column] = static_cast<Token>(count);
        rows[count++] = column;
      }
    }
  }
  return {rows.subspan(0, count), slots};
}

/// The first m.rows() rows of x = m · x. Copies the rows that are read late, and nothing else.
template <class T>
void multiply_in_place(const SparseRows& m, const RowsReadLate& late, MatrixView<T> x,
                       Workspace& workspace) {
  Workspace::Frame frame(workspace);
  const Index width = x.cols();
  const Span<T> saved = workspace.take<T>(late.rows.size() * width);
  for (Index i = 0; i < late.rows.size(); ++i) {
    std::copy_n(x.row(late.rows[i]), width, saved.data() + i * width);
  }
  const auto row_of = [&](Index c) -> const T* {
    return late.slots[c] == no_token ? x.row(c) : saved.data() + late.slots[c] * width;
  };
  for (Index r = 0; r < m.rows(); ++r) {
    multiply_row(m, r, row_of, width, x.row(r), T{});
  }
}

/// `kept` as a matrix that selects: row r is row kept[r] of the input as it is, a synthetic one has
/// no entries. Memory from `workspace`.
inline SparseRows selecting(Span<const Token> kept, Workspace& workspace) {
  const Span<Token> offsets = workspace.take<Token>(kept.size() + 1);
  const Span<Token> columns = workspace.take<Token>(kept.size());
  Token count = 0;
  for (Index r = 0; r < kept.size(); ++r) {
    offsets[r] = count;
    if (kept[r] != no_token) {
      columns[count++] = kept[r];
    }
  }
  offsets[kept.size()] = count;
  return {offsets, columns.subspan(0, count), workspace.take_filled<float>(count, 1)};
}

}  // namespace tokenfold::detail
