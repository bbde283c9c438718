// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "tokenfold/core/packets.hpp"
#include "tokenfold/core/views.hpp"

/// Scores q·k, for all rows in tiles that stay in registers, for a few rows straight from the keys.
///
/// Eigen's product would pack the keys anew for every block of rows, and allocate. Here many rows
/// share keys that are packed once per head, channel by channel: 577 × 577 × 64 × 16 heads take
/// 6.3 ms, 16 bare Eigen products 8.1 ms. Either way a score has the same bits whatever other rows
/// and keys are asked for with it.
namespace tokenfold::detail {

/// Shape of a tile: rows × panel scores. It leaves registers for two packets of keys and a query.
template <class Acc>
struct ScoreTile {
  /// Keys of a panel.
  static constexpr Index panel = 2 * packet_size<Acc>;
  static constexpr Index rows = EIGEN_ARCH_DEFAULT_NUMBER_OF_REGISTERS >= 32 ? 12 : 6;

  static constexpr Index panels(Index keys) { return (keys + panel - 1) / panel; }
  static constexpr Index padded(Index keys) { return panels(keys) * panel; }
};

// g++ says that a packet as template argument loses its alignment attribute, which changes nothing.
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-attributes"
#endif
template <class P>
struct SquareOfPackets {
  static constexpr int size = Eigen::internal::unpacket_traits<P>::size;
  Eigen::internal::PacketBlock<P, size> block;
  P& operator[](Index i) { return block.packet[i]; }
  void transpose() { Eigen::internal::ptranspose(block); }
};

/// to[c · panel + j] = keys(j, c), 0 beyond the last key.
template <class T>
void pack_panel(MatrixView<const T> keys, Accumulator<T>* to) {
  using namespace Eigen::internal;
  using Acc = Accumulator<T>;
  constexpr Index size = packet_size<Acc>;
  constexpr Index panel = ScoreTile<Acc>::panel;
  for (Index first = 0; first < panel; first += size) {
    const Index present = std::clamp<Index>(keys.rows() - first, 0, size);
    Index c = 0;
    for (; present == size && c + size <= keys.cols(); c += size) {
      SquareOfPackets<Packet<Acc>> square;
      unrolled<size>(
          [&](auto j) { square[j] = load_packet<Packet<Acc>>(keys.row(first + j) + c); });
      square.transpose();
      unrolled<size>([&](auto j) { pstoreu(to + (c + j) * panel + first, square[j]); });
    }
    for (; c < keys.cols(); ++c) {
      Acc* column = to + c * panel + first;
      for (Index j = 0; j < size; ++j) {
        column[j] = j < present ? static_cast<Acc>(keys.row(first + j)[c]) : Acc(0);
      }
    }
  }
}

/// scores[r · stride + j] = Σ_c queries[c · Rows + r] · panel[c · panel + j], in the order of c.
template <Index Rows, class Acc>
void multiply_tile(const Acc* queries, const Acc* panel, Index channels, Acc* scores,
                   Index stride) {
  using namespace Eigen::internal;
  constexpr Index size = packet_size<Acc>;
  Packet<Acc> sums[Rows][2];
  unrolled<Rows>([&](auto r) {
    sums[r][0] = pset1<Packet<Acc>>(Acc(0));
    sums[r][1] = pset1<Packet<Acc>>(Acc(0));
  });
  for (Index c = 0; c < channels; ++c) {
    const auto first = ploadu<Packet<Acc>>(panel + c * 2 * size);
    const auto second = ploadu<Packet<Acc>>(panel + c * 2 * size + size);
    unrolled<Rows>([&](auto r) {
      const auto query = pset1<Packet<Acc>>(queries[c * Rows + r]);
      sums[r][0] = pmadd(query, first, sums[r][0]);
      sums[r][1] = pmadd(query, second, sums[r][1]);
    });
  }
  unrolled<Rows>([&](auto r) {
    pstoreu(scores + r * stride, sums[r][0]);
    pstoreu(scores + r * stride + size, sums[r][1]);
  });
}

/// Calls `use(first row, integral constant of the rows)` for the tiles that cover `rows` rows: as
/// many full ones as there are, then smaller ones.
template <class Acc, class Use>
void for_each_tile(Index rows, Use&& use) {
  constexpr Index full = ScoreTile<Acc>::rows;
  Index row = 0;
  for (; row + full <= rows; row += full) {
    use(row, std::integral_constant<Index, full>());
  }
  for (; row + 4 <= rows; row += 4) {
    use(row, std::integral_constant<Index, 4>());
  }
  for (; row < rows; ++row) {
    use(row, std::integral_constant<Index, 1>());
  }
}

/// The packet of `add_row_scores`: half of AVX-512, where adding up lanes costs more than the
/// products.
template <class Acc>
using RowPacket =
    std::conditional_t<(packet_size<Acc> * Index{sizeof(Acc)} > 32),
                       typename Eigen::internal::unpacket_traits<Packet<Acc>>::half, Packet<Acc>>;
template <class Acc>
inline constexpr Index row_packet_size = Eigen::internal::unpacket_traits<RowPacket<Acc>>::size;

/// scores[j] += Σ_c query[c] · keys(first + j, c) for a row packet of keys, read where they lie; keys
/// beyond the last one count as the last. Packets of channels are summed first, then their lanes.
/// The view comes by reference: by value every call waited for its way over the stack, 58 → 41 µs for
/// a row of 577 × 1024.
template <class T>
void add_row_scores(const Accumulator<T>* query, const MatrixView<const T>& keys, Index first,
                    Accumulator<T>* scores) {
  using namespace Eigen::internal;
  using Acc = Accumulator<T>;
  using P = RowPacket<Acc>;
  constexpr Index size = row_packet_size<Acc>;
  const T* rows[size];
  SquareOfPackets<P> sums;
  unrolled<size>([&](auto j) {
    rows[j] = keys.row(std::min<Index>(first + j, keys.rows() - 1));
    sums[j] = pset1<P>(Acc(0));
  });
  Index c = 0;
  for (; c + size <= keys.cols(); c += size) {
    const auto q = ploadu<P>(query + c);
    unrolled<size>([&](auto j) { sums[j] = pmadd(load_packet<P>(rows[j] + c), q, sums[j]); });
  }
  sums.transpose();
  auto sum = ploadu<P>(scores);
  for (Index i = 0; i < size; ++i) {
    sum = padd(sum, sums[i]);
  }
  pstoreu(scores, sum);
  for (; c < keys.cols(); ++c) {
    for (Index j = 0; j < size; ++j) {
      scores[j] += query[c] * static_cast<Acc>(rows[j][c]);
    }
  }
}

#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

}  // namespace tokenfold::detail
