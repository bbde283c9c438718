// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "tokenfold/core/packets.hpp"
#include "tokenfold/core/select.hpp"
#include "tokenfold/core/stages.hpp"
#include "tokenfold/core/token_rows.hpp"

namespace tokenfold::filter {

/// EVS's filter (arXiv 2510.14624, section 3): preserves the tokens that differ most from what
/// stood in the same cell of the frame before, and the whole first frame,
///
///   s_{t,c} = 1 − cos(x_{t,c}, x_{t−1,c}),   s_{0,c} = 255 (as released: above all others)
///
/// Where earlier steps dropped x_{t−1,c}, the latest frame that still has the cell (and is finite
/// there) takes its place; a token whose cell no earlier frame has, or that has no cell, is new and
/// scores 255 as well. So the budget must leave room for one token per cell that is left (in a
/// whole video: for the first frame), or be 0; what lies between is refused, not silently raised.
///
/// Reads: features.
/// Score: s, high = preserved; equal scores: the earlier token. A zero token has similarity 0, so
/// scores 1; one that is not finite scores NaN and is discarded first.
/// Cost: N · D multiply-adds twice (lengths and products, in one pass) and a selection.
struct FrameDissimilarity {
  static constexpr double new_token_score = 255;

  template <HasFeatures S>
  void operator()(const S& sequence, const Budget& budget, Partition& partition,
                  Workspace& workspace) const {
    const TokenLayout& layout = sequence.layout;
    const Index keep = budget.keep_count(layout.visual_count());
    const Index cells = layout.grid().cells();
    Workspace::Frame frame(workspace);
    const detail::VisualRows x(layout, sequence.features, "frame dissimilarity");

    // The tokens of a cell one after the other: by frame, whatever the order of the rows.
    const Span<Index> ordinal_at = workspace.take_filled<Index>(layout.frames() * cells, -1);
    const Span<Index> latest = workspace.take_filled<Index>(cells, -1);
    const Span<bool> seen = workspace.take_filled<bool>(cells, false);
    const Span<double> square = workspace.take<double>(x.rows());
    partition.scores.assign(static_cast<std::size_t>(x.rows()), new_token_score);
    const Span<double> scores(partition.scores);
    // Scores v against `before`, −1 if nothing was; false if v is not finite.
    const auto score = [&](Index v, Index before) {
      const Products p = before >= 0 ? products(x.row(v), x.row(before), x.cols(), square[before])
                                     : products(x.row(v), x.row(v), x.cols(), 1);
      square[v] = p.square;
      if (!std::isfinite(p.square)) {
        scores[v] = std::numeric_limits<double>::quiet_NaN();
        return false;
      }
      scores[v] = before >= 0 ? 1 - cosine(p, square[before]) : new_token_score;
      return true;
    };
    Index new_tokens = 0;
    for (Index v = 0; v < x.rows(); ++v) {
      if (layout.has_grid() && layout.cells()[v] >= 0) {
        ordinal_at[layout.cells()[v]] = v;
      } else {
        score(v, -1);
        ++new_tokens;
      }
    }
    for (Index place = 0; place < ordinal_at.size(); ++place) {
      const Index v = ordinal_at[place];
      if (v >= 0) {
        const Index cell = place % cells;
        new_tokens += seen[cell] ? 0 : 1;
        seen[cell] = true;
        latest[cell] = score(v, latest[cell]) ? v : latest[cell];
      }
    }
    require(keep == 0 || keep >= new_tokens, "frame dissimilarity: the first frame's ", new_tokens,
            " tokens are always preserved, cannot keep ", keep,
            "; evs_keep_count() takes care of it");
    preserve_highest(layout, keep, TokenOrder::raster, partition, workspace);
  }

 private:
  struct Products {
    double square = 0;   // ‖a‖²
    double product = 0;  // a · b
  };

  /// In double where the type that sums are kept in does not do.
  template <class T>
  static Products products(const T* a, const T* b, Index d, double square_b) {
    using Limits = std::numeric_limits<Accumulator<T>>;
    // Has a square neither overflowed nor lost terms to underflow? Nor has a product of such rows.
    const auto is_sound = [](double square) {
      return square >= static_cast<double>(Limits::min() / Limits::epsilon()) &&
             square <= static_cast<double>(Limits::max());
    };
    Products p = sums(a, b, d);
    if (!(is_sound(p.square) && is_sound(square_b) && std::isfinite(p.product))) {
      p = {};
      for (Index c = 0; c < d; ++c) {
        const auto value = static_cast<double>(a[c]);
        p.square += value * value;
        p.product += value * static_cast<double>(b[c]);
      }
    }
    return p;
  }

  static double cosine(const Products& p, double square_b) {
    if (!(p.square > 0 && square_b > 0)) {
      return 0;
    }
    // Equal rows differ by exactly 0, whatever rounding does, so that equal scores are ties.
    return p.product /
           (p.square == square_b ? square_b : std::sqrt(p.square) * std::sqrt(square_b));
  }

  /// Both in one pass, since what takes time is to fetch `a` from memory: 16 frames of 256 × 3584
  /// floats take 1.1 times what reading them takes. Going cell by cell, to have `b` at hand, or
  /// prefetching takes longer. Halves are widened in registers: 5.9 → 2.5 ms of bfloat16.
  template <class T>
  static Products sums(const T* a, const T* b, Index d) {
    using namespace Eigen::internal;
    using P = detail::Packet<Accumulator<T>>;
    P square[2] = {pset1<P>(Accumulator<T>(0)), pset1<P>(Accumulator<T>(0))};
    P product[2] = {pset1<P>(Accumulator<T>(0)), pset1<P>(Accumulator<T>(0))};
    detail::for_each_packet<Accumulator<T>, 2>(d, [&](auto i, auto&& load, Range) {
      const P x = load(a);
      square[i] = pmadd(x, x, square[i]);
      product[i] = pmadd(x, load(b), product[i]);
    });
    return {static_cast<double>(predux(padd(square[0], square[1]))),
            static_cast<double>(predux(padd(product[0], product[1])))};
  }
};

}  // namespace tokenfold::filter
