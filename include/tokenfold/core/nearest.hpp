// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

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

/// Directions x_i / ‖x_i‖ against directions, in tiles of `rows` × `cols` products that stay in
/// registers. At a depth of 64, a head's width, this took 0.10 ms for 288 × 288 where Eigen's GEMM
/// took 0.12 and dot products, whose sums across a register weigh as much as they do, longer.
template <class Acc>
struct CosineTile {
  static constexpr Index rows = 6;
  static constexpr Index cols = 64 / sizeof(Acc);
  using Lanes = Eigen::Array<Acc, cols, 1>;
  using LanesMap = Eigen::Map<Lanes, Eigen::Aligned64>;

  /// products[r] = Σ_c left[r, c] · panel[c], left being [rows × depth] and panel [depth × cols].
  static void multiply(const Acc* left, Acc* panel, Index depth, Lanes (&products)[rows]) {
    Lanes sum[rows];
    for (Lanes& lanes : sum) {
      lanes.setZero();
    }
    for (Index c = 0; c < depth; ++c) {
      const Lanes right = LanesMap(panel + c * cols);
      for (Index r = 0; r < rows; ++r) {
        sum[r] += left[r * depth + c] * right;
      }
    }
    std::copy_n(sum, rows, products);
  }
};

/// For each row of `sources` the most similar row of `targets`, argmax_t cos(x_s, x_t), both being
/// row numbers of x; ties go to the lower row, rows that are not finite are nobody's nearest. One
/// [sources × D] · [D × targets] product, of which six rows are held. Memory from `workspace`.
template <class T>
Span<Nearest> nearest_rows(const CosineRows<T>& x, Span<const Index> sources,
                           Span<const Index> targets, Workspace& workspace) {
  using Acc = Accumulator<T>;
  using Tile = CosineTile<Acc>;
  const Span<Nearest> nearest = workspace.take_filled<Nearest>(sources.size(), {});
  Workspace::Frame frame(workspace);
  const Index d = x.matrix().cols();
  const auto direction = [&](Index row, auto&& out) {
    if (x.inverse_norm(row) > 0) {
      out = x.inverse_norm(row) * ConstVectorMap<T>(x.matrix().row(row), d).template cast<Acc>();
    } else {
      out.setZero();  // not a product with 0: 0 · NaN is not 0
    }
  };

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
  // Column by column, as a tile reads them; the last panel is filled up with its last target.
  const Index panels = (usable.size() + Tile::cols - 1) / Tile::cols;
  const Index width = panels * Tile::cols;
  const Span<Acc> right = workspace.take<Acc>(width * d);
  for (Index t = 0; t < width; ++t) {
    Acc* first = right.data() + t / Tile::cols * Tile::cols * d + t % Tile::cols;
    direction(usable[std::min(t, usable.size() - 1)],
              Eigen::Map<Eigen::Matrix<Acc, Eigen::Dynamic, 1>, 0, Eigen::InnerStride<Tile::cols>>(
                  first, d));
  }

  const Span<Acc> left = workspace.take<Acc>(Tile::rows * d);
  const Span<Acc> cosines = workspace.take<Acc>(Tile::rows * width);
  for (Index begin = 0; begin < sources.size(); begin += Tile::rows) {
    const Index size = std::min(Tile::rows, sources.size() - begin);
    for (Index r = 0; r < Tile::rows; ++r) {
      direction(sources[begin + std::min(r, size - 1)], VectorMap<Acc>(left.data() + r * d, d));
    }
    typename Tile::Lanes most[Tile::rows];
    for (Index p = 0; p < panels; ++p) {
      typename Tile::Lanes products[Tile::rows];
      Tile::multiply(left.data(), right.data() + p * Tile::cols * d, d, products);
      for (Index r = 0; r < Tile::rows; ++r) {
        most[r] = p == 0 ? products[r] : most[r].max(products[r]).eval();
        typename Tile::LanesMap(cosines.data() + r * width + p * Tile::cols) = products[r];
      }
    }
    for (Index r = 0; r < size; ++r) {
      if (x.valid(sources[begin + r])) {
        const Acc best = most[r].maxCoeff();
        const Acc* row = cosines.data() + r * width;
        // The first that equals the maximum, written so that compilers vectorise it.
        auto first = static_cast<std::int32_t>(usable.size() - 1);
        for (std::int32_t t = first; t >= 0; --t) {
          first = row[t] == best ? t : first;
        }
        nearest[begin + r] = {usable[first], static_cast<double>(best)};
      }
    }
  }
  return nearest;
}

}  // namespace tokenfold::detail
