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
/// single rows; those before row `i`, where a tile begins, are left out.
template <class Use>
EIGEN_ALWAYS_INLINE void for_each_left_tile(Index count, Use&& use, Index i = 0) {
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
  /// Numbers for as many of `rows` rows as go together.
  static Index size(Index rows, Index channels) {
    return std::min(rows, even_block(rows)) * padded(channels);
  }

  explicit PackedRows(Span<Acc> values) : values_(values) {}

  /// Packs `rows`, row i times factor(i).
  template <class T, class Factor>
  void pack(MatrixView<const T> rows, Factor&& factor) {
    using namespace Eigen::internal;
    constexpr Index size = packet_size<Acc>;
    rows_ = rows.rows();
    for (Index block = 0; block < rows.cols(); block += channel_block) {
      const Range channels{block, std::min(block + channel_block, rows.cols())};
      for_each_left_tile(rows.rows(), [&](Index first, auto together) {
        for (Index i = 0; i < together; ++i) {
          Acc* to = values_.data() + rows_ * block + first * padded(channels.size()) + i * size;
          const T* row = rows.row(first + i);
          const auto by = pset1<Packet<Acc>>(factor(first + i));
          Index c = channels.begin;
          for (; c + size <= channels.end; c += size, to += together * size) {
            pstoreu(to, pmul(by, load_packet<Packet<Acc>>(row + c)));
          }
          if (c < channels.end) {
            T last[size] = {};
            std::copy_n(row + c, channels.end - c, last);
            pstoreu(to, pmul(by, load_packet<Packet<Acc>>(last)));
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

/// The lanes of a packet, added up until at most four are left.
template <class P>
EIGEN_ALWAYS_INLINE auto four_lanes(const P& packet) {
  if constexpr (Eigen::internal::unpacket_traits<P>::size > 4) {
    return four_lanes(Eigen::internal::predux_half_dowto4(packet));
  } else {
    return packet;
  }
}

/// out(i, j) += the lanes of sums[i][j], for four right rows at a time, added in the same order for
/// one: 4.3 → 4.1 ms for SCOPE at 576 × 1024.
template <Index Left, Index Right, class Acc>
EIGEN_DONT_INLINE void add_lanes(const Packet<Acc> (&sums)[Left][Right], Acc* out,
                                 Index out_stride) {
  using namespace Eigen::internal;
  using Four = decltype(four_lanes(sums[0][0]));
  for (Index i = 0; i < Left; ++i, out += out_stride) {
    if constexpr (unpacket_traits<Four>::size == 4) {
      PacketBlock<Four, 4> t;
      for (Index j = 0; j < 4; ++j) {
        t.packet[j] = four_lanes(sums[i][std::min(j, Right - 1)]);
      }
      ptranspose(t);
      const Four total = padd(padd(t.packet[0], t.packet[2]), padd(t.packet[1], t.packet[3]));
      if constexpr (Right == 4) {
        pstoreu(out, padd(ploadu<Four>(out), total));
      } else {
        static_assert(Right == 1);
        *out += pfirst(total);
      }
    } else {
      for (Index j = 0; j < Right; ++j) {
        out[j] += predux(sums[i][j]);
      }
    }
  }
}

/// Asks for what will soon be read.
template <class T>
EIGEN_ALWAYS_INLINE void prefetch_to_l2(const T* address) {
#if defined(__GNUC__)
  __builtin_prefetch(address, 0, 2);
#endif
}

/// out(i, j) += left_i · right_j for a tile over `steps` packets of channels; sums per lane first.
/// Meanwhile it asks for as much of `ahead`: 126 → 119 ms for SCOPE at 2880 × 1024. A function of
/// its own, and what adds the lanes another with a copy of the sums, because where g++ inlined
/// either, the sums went through memory: 4.9 → 9.2 ms for half of 576 × 576 × 1024.
template <Index Left, Index Right, class Acc, class T>
EIGEN_DONT_INLINE void add_tile(const Acc* left, const T* right, Index right_stride, Index steps,
                                const T* ahead, Acc* out, Index out_stride) {
  using namespace Eigen::internal;
  constexpr Index size = packet_size<Acc>;
  Packet<Acc> sums[Left][Right];
  unrolled<Left>(
      [&](auto i) { unrolled<Right>([&](auto j) { sums[i][j] = pset1<Packet<Acc>>(Acc(0)); }); });
  for (Index step = 0; step < steps; ++step, left += Left * size, right += size) {
    prefetch_to_l2(ahead + step * size);
    Packet<Acc> r[Right];
    unrolled<Right>([&](auto j) { r[j] = load_packet<Packet<Acc>>(right + j * right_stride); });
    unrolled<Left>([&](auto i) {
      const auto l = ploadu<Packet<Acc>>(left + i * size);
      unrolled<Right>([&](auto j) { sums[i][j] = pmadd(l, r[j], sums[i][j]); });
    });
  }
  Packet<Acc> totals[Left][Right];
  unrolled<Left>([&](auto i) { unrolled<Right>([&](auto j) { totals[i][j] = sums[i][j]; }); });
  add_lanes<Left, Right, Acc>(totals, out, out_stride);
}

/// out += left · rightᵀ over a block of channels for the left rows, which are packed, from `first`,
/// where a tile begins, and `Right` right rows, of which `right` are these channels; `ahead`: of
/// the rows that come next.
template <Index Right, class Acc, class T>
void add_tiles(const PackedRows<Acc>& left, Index first, Range channels, MatrixView<const T> right,
               MatrixView<const T> ahead, MatrixView<Acc> out) {
  constexpr Index size = packet_size<Acc>;
  const Index whole = right.cols() / size;
  const Index rest = right.cols() - whole * size;
  T last[Right * size] = {};
  for (Index j = 0; j < Right; ++j) {
    std::copy_n(right.row(j) + whole * size, rest, last + j * size);
  }
  const auto add = [&](Index i, auto rows) {
    const Acc* tile = left.tile(channels, i);
    const Index next = std::min((i - first) / left_tile, ahead.rows() - 1);
    add_tile<rows, Right>(tile, right.data(), right.row_stride(), whole, ahead.row(next),
                          out.row(i), out.row_stride());
    if (rest > 0) {
      add_tile<rows, Right>(tile + whole * rows * size, last, size, 1, last, out.row(i),
                            out.row_stride());
    }
  };
  for_each_left_tile(out.rows(), add, first);
}
template <Index Right, class Acc, class T>
void add_widened_tiles(const PackedRows<Acc>& left, Index first, Range channels,
                       MatrixView<const T> right, MatrixView<const T> ahead, MatrixView<Acc> out) {
  if constexpr (!std::same_as<T, Acc>) {
    if (out.rows() - first > left_tile) {  // once for all tiles
      Acc wide[Right * channel_block];
      for (Index j = 0; j < Right; ++j) {
        widen<T>(right.row(j), wide + j * right.cols(), right.cols());
      }
      const MatrixView<const Acc> rows(wide, Right, right.cols());
      return add_tiles<Right>(left, first, channels, rows, rows, out);
    }
  }
  add_tiles<Right>(left, first, channels, right, ahead, out);
}

/// out += left · rightᵀ for all channels; of the products with the right row j, those of the left
/// rows before first(j), where a tile begins, may be left out.
template <class Acc, class T, class First>
void add_packed_products(const PackedRows<Acc>& left, MatrixView<const T> right,
                         MatrixView<Acc> out, First&& first) {
  for (Index c = 0; c < right.cols(); c += channel_block) {
    const Range channels{c, std::min(c + channel_block, right.cols())};
    const MatrixView<const T> part = right.middle_cols(channels);
    Index j = 0;
    for (; j + right_tile <= right.rows(); j += right_tile) {
      const Range tile{j, j + right_tile};
      const Index next = std::min(j + right_tile, right.rows() - right_tile);
      add_widened_tiles<right_tile>(left, first(j), channels, part.middle_rows(tile),
                                    part.middle_rows({next, next + right_tile}),
                                    out.middle_cols(tile));
    }
    for (; j < right.rows(); ++j) {
      const MatrixView<const T> row = part.middle_rows({j, j + 1});
      add_widened_tiles<1>(left, first(j), channels, row, row, out.middle_cols({j, j + 1}));
    }
  }
}

/// out += left · rightᵀ, out(i, j) = Σ_c left(i, c) · right(j, c). `look(rows)` is told of the
/// right rows of a range before their products, on the thread that makes them and for every
/// `left_block` left rows: what it reads is in a cache then.
template <class T, class Look>
void add_dot_products(MatrixView<const Accumulator<T>> left, MatrixView<const T> right,
                      MatrixView<Accumulator<T>> out, Workspace& workspace, Look&& look) {
  using Acc = Accumulator<T>;
  Workspace::Frame frame(workspace);
  PackedRows<Acc> packed(workspace.take<Acc>(PackedRows<Acc>::size(left.rows(), left.cols())));
  const Index blocks = (right.rows() + right_block - 1) / right_block;
  const Index together = even_block(left.rows());
  for (Index i = 0; i < left.rows(); i += together) {
    const Range rows{i, std::min(i + together, left.rows())};
    packed.pack(left.middle_rows(rows), [](Index) { return Acc(1); });
    const MatrixView<Acc> sums = out.middle_rows(rows);
    workspace.for_each(blocks, [&](Index b) {
      const Range columns{b * right_block, std::min((b + 1) * right_block, right.rows())};
      look(columns);
      add_packed_products(packed, right.middle_rows(columns), sums.middle_cols(columns),
                          [](Index) { return Index{0}; });
    });
  }
}
template <class T>
void add_dot_products(MatrixView<const Accumulator<T>> left, MatrixView<const T> right,
                      MatrixView<Accumulator<T>> out, Workspace& workspace) {
  add_dot_products(left, right, out, workspace, [](Range) {});
}

}  // namespace tokenfold::detail
