// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "tokenfold/core/packets.hpp"
#include "tokenfold/core/views.hpp"
#include "tokenfold/core/workspace.hpp"

/// All dot products between the rows of two matrices, for few rows on the left.
///
/// Eigen's product packs both sides first, which only pays when hundreds of rows share the packed
/// ones, asks for memory, and rounds differently for other shapes. Here the right side is read
/// where it lies: 4 × 576 × 1024 take 0.05 ms (Eigen 0.19), 42 × 576 × 1024 0.48 ms (0.63),
/// 576 × 576 × 1024 7.0 ms (7.0). A product has the same bits whatever else is computed with it, on
/// whatever threads, and x·y the same as y·x.
namespace tokenfold::detail {

/// A tile of left × right rows whose sums stay in registers.
inline constexpr Index left_tile = EIGEN_ARCH_DEFAULT_NUMBER_OF_REGISTERS >= 32 ? 4 : 3;
inline constexpr Index right_tile = 4;
/// Channels that are summed before the next ones begin: a tile's right rows fill half of a
/// typical L1 cache.
inline constexpr Index channel_block = 1024;
/// Left rows that go over the right ones together: with `channel_block`, 400 kB of floats.
inline constexpr Index left_block = 96;
/// Right rows that one thread takes at a time.
inline constexpr Index right_block = 32;

/// Calls `use(first row, constant of the rows)` for the tiles of `count` left rows: full ones, then
/// single rows.
template <class Use>
EIGEN_ALWAYS_INLINE void for_each_left_tile(Index count, Use&& use) {
  Index i = 0;
  for (; i + left_tile <= count; i += left_tile) {
    use(i, std::integral_constant<Index, left_tile>());
  }
  for (; i < count; ++i) {
    use(i, std::integral_constant<Index, 1>());
  }
}

/// Left rows that go over the right ones together where there are `rows`: whole tiles, about the
/// same number every time, because the right rows are read again each time.
inline Index even_block(Index rows) {
  const Index blocks = std::max<Index>((rows + left_block - 1) / left_block, 1);
  const Index tiles = ((rows + blocks - 1) / blocks + left_tile - 1) / left_tile;
  return std::max<Index>(tiles, 1) * left_tile;
}

/// The left rows in the order in which tiles read them: `channel_block` after `channel_block`, in
/// each tile after tile, in each a packet of channels of every row, then the next channels; zeros
/// behind the last channel.
template <class Acc>
class PackedRows {
 public:
  /// Room for as many of `rows` rows as go together; memory from `workspace`.
  PackedRows(Index rows, Index channels, Workspace& workspace)
      : values_(workspace.take<Acc>(std::min(rows, even_block(rows)) * padded(channels))) {}

  void pack(MatrixView<const Acc> rows) {
    constexpr Index size = packet_size<Acc>;
    rows_ = rows.rows();
    for (Index block = 0; block < rows.cols(); block += channel_block) {
      const Range channels{block, std::min(block + channel_block, rows.cols())};
      for_each_left_tile(rows.rows(), [&](Index first, auto together) {
        for (Index i = 0; i < together; ++i) {
          Acc* to = values_.data() + rows_ * block + first * padded(channels.size()) + i * size;
          for (Index c = channels.begin; c < channels.end; c += size, to += together * size) {
            const Index count = std::min(size, channels.end - c);
            std::copy_n(rows.row(first + i) + c, count, to);
            std::fill(to + count, to + size, Acc(0));
          }
        }
      });
    }
  }
  /// The channels `channels`, a block, of the tile that begins with row `first`.
  const Acc* tile(Range channels, Index first) const {
    return values_.data() + rows_ * channels.begin + first * padded(channels.size());
  }

 private:
  static Index padded(Index channels) {
    constexpr Index size = packet_size<Acc>;
    return (channels + size - 1) / size * size;
  }

  Index rows_ = 0;
  Span<Acc> values_;
};

/// out(i, j) += left_i · right_j for a tile over `steps` packets of channels; sums per lane first. A
/// function of its own, because where g++ inlined it into large callers, sums went through memory:
/// 4.9 → 9.2 ms for half of 576 × 576 × 1024.
template <Index Left, Index Right, class Acc, class T>
EIGEN_DONT_INLINE void add_tile(const Acc* left, const T* right, Index right_stride, Index steps,
                                Acc* out, Index out_stride) {
  using namespace Eigen::internal;
  constexpr Index size = packet_size<Acc>;
  Packet<Acc> sums[Left][Right];
  unrolled<Left>(
      [&](auto i) { unrolled<Right>([&](auto j) { sums[i][j] = pset1<Packet<Acc>>(Acc(0)); }); });
  for (Index step = 0; step < steps; ++step, left += Left * size, right += size) {
    Packet<Acc> r[Right];
    unrolled<Right>([&](auto j) { r[j] = load_packet<Packet<Acc>>(right + j * right_stride); });
    unrolled<Left>([&](auto i) {
      const auto l = ploadu<Packet<Acc>>(left + i * size);
      unrolled<Right>([&](auto j) { sums[i][j] = pmadd(l, r[j], sums[i][j]); });
    });
  }
  unrolled<Left>([&](auto i) {
    unrolled<Right>([&](auto j) { out[i * out_stride + j] += predux(sums[i][j]); });
  });
}

/// out += left · rightᵀ over a block of channels for all left rows, which are packed, and `Right`
/// right rows, of which `right` are these channels.
template <Index Right, class Acc, class T>
void add_tiles(const PackedRows<Acc>& left, Range channels, MatrixView<const T> right,
               MatrixView<Acc> out) {
  constexpr Index size = packet_size<Acc>;
  const Index whole = right.cols() / size;
  const Index rest = right.cols() - whole * size;
  T last[Right * size] = {};
  for (Index j = 0; j < Right; ++j) {
    std::copy_n(right.row(j) + whole * size, rest, last + j * size);
  }
  for_each_left_tile(out.rows(), [&](Index i, auto rows) {
    const Acc* tile = left.tile(channels, i);
    add_tile<rows, Right>(tile, right.data(), right.row_stride(), whole, out.row(i),
                          out.row_stride());
    if (rest > 0) {
      add_tile<rows, Right>(tile + whole * rows * size, last, size, 1, out.row(i),
                            out.row_stride());
    }
  });
}
template <Index Right, class Acc, class T>
void add_widened_tiles(const PackedRows<Acc>& left, Range channels, MatrixView<const T> right,
                       MatrixView<Acc> out) {
  if constexpr (!std::same_as<T, Acc>) {
    if (out.rows() > left_tile) {  // once for all tiles
      Acc wide[Right * channel_block];
      for (Index j = 0; j < Right; ++j) {
        widen<T>(right.row(j), wide + j * right.cols(), right.cols());
      }
      return add_tiles<Right>(left, channels, MatrixView<const Acc>(wide, Right, right.cols()),
                              out);
    }
  }
  add_tiles<Right>(left, channels, right, out);
}

/// out += left · rightᵀ, out(i, j) = Σ_c left(i, c) · right(j, c).
template <class T>
void add_dot_products(MatrixView<const Accumulator<T>> left, MatrixView<const T> right,
                      MatrixView<Accumulator<T>> out, Workspace& workspace) {
  using Acc = Accumulator<T>;
  Workspace::Frame frame(workspace);
  PackedRows<Acc> packed(left.rows(), left.cols(), workspace);
  const Index blocks = (right.rows() + right_block - 1) / right_block;
  const Index together = even_block(left.rows());
  for (Index i = 0; i < left.rows(); i += together) {
    const Range rows{i, std::min(i + together, left.rows())};
    packed.pack(left.middle_rows(rows));
    const MatrixView<Acc> sums = out.middle_rows(rows);
    workspace.for_each(blocks, [&](Index b) {
      const Range columns{b * right_block, std::min((b + 1) * right_block, right.rows())};
      for (Index c = 0; c < left.cols(); c += channel_block) {
        const Range channels{c, std::min(c + channel_block, left.cols())};
        const MatrixView<const T> part = right.middle_cols(channels);
        Index j = columns.begin;
        for (; j + right_tile <= columns.end; j += right_tile) {
          const Range tile{j, j + right_tile};
          add_widened_tiles<right_tile>(packed, channels, part.middle_rows(tile),
                                        sums.middle_cols(tile));
        }
        for (; j < columns.end; ++j) {
          const Range tile{j, j + 1};
          add_widened_tiles<1>(packed, channels, part.middle_rows(tile), sums.middle_cols(tile));
        }
      }
    });
  }
}

}  // namespace tokenfold::detail
