// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "tokenfold/core/packets.hpp"
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

/// How many rows of `m` from r on, which copies, copy rows of x that lie one behind the other.
inline Index copied_run(const SparseRows& m, Index r) {
  const Index first = m.columns[m.offsets[r]];
  Index run = 1;
  while (r + run < m.rows() && copies(m, r + run) && m.columns[m.offsets[r + run]] == first + run) {
    ++run;
  }
  return run;
}

/// Can rows of T be widened in registers? If not, many channels at once are faster.
#if defined(__AVX2__) && defined(__F16C__)
template <class T>
inline constexpr bool widens_in_registers = true;
#else
template <class T>
inline constexpr bool widens_in_registers = std::same_as<T, Accumulator<T>>;
#endif

/// `Count` packets of out = Σ values[e] · x[columns[e]] over the entries of `row`, from channel
/// `begin` on. The sums stay in registers, so that every entry is read once and nothing else: on
/// floats 285 → 200 μs for 125 rows of 36 entries, 1024 channels; on halves 4,450 → 165 μs.
template <Index Count, class T, class RowOf>
void sum_packets(const SparseRows& m, Range row, const RowOf& row_of, Index begin, T* out) {
  using namespace Eigen::internal;
  using Acc = Accumulator<T>;
  constexpr Index size = packet_size<Acc>;
  alignas(64) Acc wide[Count * size];
  Packet<Acc> sums[Count];
  unrolled<Count>([&](auto i) { sums[i] = pset1<Packet<Acc>>(Acc(0)); });
  for (Index e = row.begin; e < row.end; ++e) {
    const T* from = row_of(m.columns[e]) + begin;
    const auto weight = pset1<Packet<Acc>>(static_cast<Acc>(m.values[e]));
    if constexpr (widens_in_registers<T>) {
      unrolled<Count>([&](auto i) {
        sums[i] = pmadd(weight, load_packet<Packet<Acc>, T>(from + i * size), sums[i]);
      });
    } else {
      widen<T>(from, wide, Count * size);
      unrolled<Count>([&](auto i) {
        sums[i] = pmadd(weight, load_packet<Packet<Acc>, Acc>(wide + i * size), sums[i]);
      });
    }
  }
  if constexpr (std::same_as<T, Acc>) {
    unrolled<Count>([&](auto i) { pstoreu(out + begin + i * size, sums[i]); });
  } else {
    unrolled<Count>([&](auto i) { pstoreu(wide + i * size, sums[i]); });
    narrow<T>(wide, out + begin, Count * size);
  }
}

/// out = Σ values[e] · x[columns[e]] over the entries of `row`, `width` channels; `row_of(c)` points
/// to row c of x, `out` may be any of them. A channel's sum has the same bits whatever channels
/// there are beside it.
template <class T, class RowOf>
void sum_row(const SparseRows& m, Range row, const RowOf& row_of, Index width, T* out) {
  constexpr Index size = packet_size<Accumulator<T>>;
  constexpr Index many = 128;  // fewer would leave a row of x before its streaming gets going
  Index begin = 0;
  for (; begin + many <= width; begin += many) {
    sum_packets<many / size>(m, row, row_of, begin, out);
  }
  for (; begin + size <= width; begin += size) {
    sum_packets<1>(m, row, row_of, begin, out);
  }
  if (begin < width) {
    T rest[size] = {};
    T sums[size];
    const auto rest_of = [&](Index c) {
      std::copy(row_of(c) + begin, row_of(c) + width, rest);
      return static_cast<const T*>(rest);
    };
    sum_packets<1>(m, row, rest_of, 0, sums);
    std::copy_n(sums, width - begin, out + begin);
  }
}

/// out = row r of `m`, which does not just copy, times x; see `sum_row`. A row without entries
/// becomes `empty`. What has no sums (integers) must only be copied.
template <class T, class RowOf>
void merge_row(const SparseRows& m, Index r, const RowOf& row_of, Index width, T* out, T empty) {
  if (m.row(r).empty()) {
    std::fill_n(out, width, empty);
  } else if constexpr (Scalar<T>) {
    sum_row(m, m.row(r), row_of, width, out);
  } else {
    assert(false && "elements without arithmetic can only be copied");
  }
}

/// out = m · x, which must not overlap. Rows that are copied from next to each other to next to
/// each other are one copy.
template <class T>
void multiply(const SparseRows& m, MatrixView<const T> x, MatrixView<T> out, T empty = T(0)) {
  const bool joined = x.contiguous() && out.contiguous();
  for (Index r = 0; r < m.rows();) {
    Index rows = 1;
    if (copies(m, r)) {
      rows = joined ? copied_run(m, r) : 1;
      std::copy_n(x.row(m.columns[m.offsets[r]]), rows * x.cols(), out.row(r));
    } else {
      merge_row(
          m, r, [&](Index c) { return x.row(c); }, x.cols(), out.row(r), empty);
    }
    r += rows;
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
    if (!copies(m, r)) {
      merge_row(m, r, row_of, width, x.row(r), T{});
    } else if (const T* only = row_of(m.columns[m.offsets[r]]); only != x.row(r)) {
      std::copy_n(only, width, x.row(r));
    }
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
