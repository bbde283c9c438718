// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "tokenfold/core/score_tiles.hpp"
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

/// Where values[r · panel + j] exceeds best[j], that becomes best[j] and first + r its owner[j], for
/// r = 0 … rows − 1 and each column j of a tile. Owners are numbers of the same type, so that a
/// packet holds as many of them; floats tell 2^24 apart.
template <class Acc>
void keep_greatest(const Acc* values, Index first, Index rows, Acc* best, Acc* owner) {
  using namespace Eigen::internal;
  constexpr Index panel = ScoreTile<Acc>::panel;
  for (Index j = 0; j < panel; j += packet_size<Acc>) {
    auto most = ploadu<Packet<Acc>>(best + j);
    auto whose = ploadu<Packet<Acc>>(owner + j);
    for (Index r = 0; r < rows; ++r) {
      const auto value = ploadu<Packet<Acc>>(values + r * panel + j);
      whose = pselect(pcmp_lt(most, value), pset1<Packet<Acc>>(static_cast<Acc>(first + r)), whose);
      most = pmax(most, value);
    }
    pstoreu(best + j, most);
    pstoreu(owner + j, whose);
  }
}

/// For each row of `sources` the most similar row of `targets`, argmax_t cos(x_s, x_t), both being
/// row numbers of x; ties go to the lower row, rows that are not finite are nobody's nearest. One
/// [targets × D] · [D × sources] product, of which a tile is held. Memory from `workspace`.
///
/// Sources are the columns of the tiles, so that each keeps its maximum in a lane of its own: 288 ×
/// 288 × 64 take 106 μs, of which the products 92 at best; with a search along rows 121.
template <class T>
Span<Nearest> nearest_rows(const CosineRows<T>& x, Span<const Index> sources,
                           Span<const Index> targets, Workspace& workspace) {
  using Acc = Accumulator<T>;
  using Tile = ScoreTile<Acc>;
  const Span<Nearest> nearest = workspace.take_filled<Nearest>(sources.size(), {});
  Workspace::Frame frame(workspace);
  // Ascending, so that the first of equals is the lowest.
  Span<Index> usable = workspace.take<Index>(targets.size());
  usable = {usable.data(), std::copy_if(targets.begin(), targets.end(), usable.begin(),
                                        [&](Index row) { return x.valid(row); }) -
                               usable.begin()};
  if (usable.empty()) {
    return nearest;
  }
  if (!std::is_sorted(usable.begin(), usable.end())) {
    std::sort(usable.begin(), usable.end());
  }

  const Index d = x.matrix().cols();
  constexpr Index most = std::max(Tile::panel, Tile::rows);
  const MatrixView<Acc> directions(workspace.take<Acc>(most * d).data(), most, d);
  const auto set_directions = [&](Span<const Index> rows) {
    for (Index i = 0; i < rows.size(); ++i) {
      VectorMap<Acc> out(directions.row(i), d);
      if (x.inverse_norm(rows[i]) > 0) {
        out = x.inverse_norm(rows[i]) *
              ConstVectorMap<T>(x.matrix().row(rows[i]), d).template cast<Acc>();
      } else {
        out.setZero();  // not a product with 0: 0 · NaN is not 0
      }
    }
  };
  const Span<Acc> tiles = workspace.take<Acc>(usable.size() * d);
  for_each_tile<Acc>(usable.size(), [&](Index first, auto rows) {
    set_directions(usable.subspan(first, rows));
    Acc* to = tiles.data() + first * d;
    for (Index c = 0; c < d; ++c, to += rows) {
      unrolled<rows>([&](auto r) { to[r] = directions(r, c); });
    }
  });
  const Span<Acc> panel = workspace.take<Acc>(Tile::panel * d);
  for (Index begin = 0; begin < sources.size(); begin += Tile::panel) {
    const Index count = std::min(Tile::panel, sources.size() - begin);
    set_directions(sources.subspan(begin, count));
    pack_panel(MatrixView<const Acc>(directions.middle_rows({0, count})), panel.data());
    Acc best[Tile::panel];
    Acc owner[Tile::panel] = {};
    std::fill_n(best, Tile::panel, Acc(-2));
    for_each_tile<Acc>(usable.size(), [&](Index first, auto rows) {
      Acc cosines[rows * Tile::panel];
      multiply_tile<rows>(tiles.data() + first * d, panel.data(), d, cosines, Tile::panel);
      keep_greatest(cosines, first, rows, best, owner);
    });
    for (Index j = 0; j < count; ++j) {
      if (x.valid(sources[begin + j])) {
        nearest[begin + j] = {usable[static_cast<Index>(owner[j])], static_cast<double>(best[j])};
      }
    }
  }
  return nearest;
}

}  // namespace tokenfold::detail
