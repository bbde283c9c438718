// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "tokenfold/core/select.hpp"
#include "tokenfold/core/stages.hpp"
#include "tokenfold/filter/raters.hpp"

namespace tokenfold {

/// Resource `positions`: the rotary position of every row of the sequence, [P].
struct Positions {
  Span<const std::int32_t> positions;

  explicit Positions(Span<const std::int32_t> values) : positions(values) {}
};

/// The sequence has `positions`: add Positions(p). Without it a row's position is its number.
template <class S>
concept HasPositions = HasLayout<S> && requires(const S& sequence) {
  { sequence.positions } -> std::convertible_to<Span<const std::int32_t>>;
};

/// The sequence has `attention` that can be asked head by head, as `DenseAttention` and
/// `QueryKeyAttention` can.
template <class S>
concept HasAttentionHeads = HasAttention<S> && requires(const S& sequence, Index h) {
  { sequence.attention.heads() } -> std::convertible_to<Index>;
  { sequence.attention.head(h) } -> AttentionSource;
};

namespace filter {

/// How rotary positions alone weigh a key at distance Δ from the query: the scaled logit that
/// all-ones vectors would have,
///
///   w(Δ) = (2/√d) Σ_{k < d/2} cos(Δ · θ^(−2k/d))
///
/// It falls, in ripples, from w(0) = √d and first crosses zero at Δ = 1707 for d = 128 (725 for
/// 64), where the release divides by nearly nothing or by a negative number.
struct RopeBias {
  /// d; 0: that of the attention's keys, or 128 where the source has none.
  Index head_dim = 0;
  double theta = 10000;
  /// The least w, as a share of w(0); −1: none, as released. The default takes effect from Δ = 1109
  /// on for d = 128 (542 for 64).
  double floor = 0.05;

  void check() const {
    require(head_dim >= 0 && head_dim % 2 == 0, "rope bias: head_dim must be even, got ", head_dim);
    require(theta > 0, "rope bias: rope_theta must be positive, got ", theta);
    require_in_range("rope bias: rope_floor", floor, -1, 1);
  }

  template <class Visit>
  void options(Visit&& visit) {
    visit("head_dim", head_dim, "channels of a head, 0 = of the keys, or 128");
    visit("rope_theta", theta, "base of the rotary frequencies");
    visit("rope_floor", floor, "least divisor as a share of the largest, -1 = none");
  }
};

}  // namespace filter

namespace detail {

/// weights[q, k] = max(w(|query_positions[q] − key_positions[k]|), floor · w(0)), heads of `dim`
/// channels; as the inner products that they are, so that an angle is computed once a position.
template <class T>
void rope_weights(const filter::RopeBias& bias, Index dim, Span<const double> query_positions,
                  Span<const double> key_positions, MatrixView<T> weights, Workspace& workspace) {
  Workspace::Frame frame(workspace);
  const Index half = dim / 2;
  const Span<T> frequency = workspace.take<T>(half);
  for (Index k = 0; k < half; ++k) {
    frequency[k] = std::pow(bias.theta, -2 * static_cast<double>(k) / static_cast<double>(dim));
  }
  // (cos, sin) of each frequency: the rotated all-ones vector, but for a factor √2 and a turn.
  const auto rotate = [&](T position, T* out) {
    for (Index k = 0; k < half; ++k) {
      out[k] = std::cos(position * frequency[k]);
      out[half + k] = std::sin(position * frequency[k]);
    }
  };
  const MatrixView<T> queries(workspace.take<T>(query_positions.size() * dim).data(),
                              query_positions.size(), dim);
  for (Index q = 0; q < queries.rows(); ++q) {
    rotate(query_positions[q], queries.row(q));
  }
  const double root = std::sqrt(static_cast<double>(dim));
  const Span<T> key = workspace.take<T>(dim);
  const Span<T> turn = workspace.take<T>(dim);
  rotate(1, turn.data());
  // Most keys follow the one before: a turn by 1 instead of sines and cosines (0.75 → 0.14 ms for
  // 576 keys and 16 queries), with exact ones now and then, so that rounding does not add up.
  constexpr Index turns = 32;
  for (Index k = 0; k < key_positions.size(); ++k) {
    if (k % turns != 0 && key_positions[k] == key_positions[k - 1] + 1) {
      for (Index f = 0; f < half; ++f) {
        const T c = key[f];
        const T s = key[half + f];
        key[f] = c * turn[f] - s * turn[half + f];
        key[half + f] = s * turn[f] + c * turn[half + f];
      }
    } else {
      rotate(key_positions[k], key.data());
    }
    for (Index q = 0; q < queries.rows(); ++q) {
      const T weight = 2 / root * ConstVectorMap<T>(queries.row(q), dim).dot(as_vector(key));
      weights(q, k) = std::max(weight, bias.floor * root);
    }
  }
}

/// Per head the sum over the raters of A^h[t, i] / w(t, i) for each visual token i, [H × N], and
/// their sum over the visual tokens, [H]; what is not finite is left out of the latter.
/// `rope`: [raters × N].
template <HasAttentionHeads S>
void unbiased_head_sums(const S& sequence, Span<const Token> raters, MatrixView<const double> rope,
                        MatrixView<double> sums, Span<double> mass, Workspace& workspace) {
  using T = AnswerOf<S>;
  Workspace::Frame frame(workspace);
  const Range range = sequence.layout.visual_range();
  const Span<const Token> visual = sequence.layout.visual();
  const MatrixView<T> block(workspace.take<T>(raters.size() * range.size()).data(), raters.size(),
                            range.size());
  MatrixView<DoubleFor<T>>(sums).map().setZero();
  for (Index h = 0; h < sums.rows(); ++h) {
    sequence.attention.head(h).rows(raters, range, block, workspace);
    for (Index t = 0; t < raters.size(); ++t) {
      const T* row = block.row(t);
      const double* weight = rope.row(t);
      double* sum = sums.row(h);
      if (sequence.layout.visual_is_contiguous()) {  // a loop that compilers vectorise
        for (Index v = 0; v < visual.size(); ++v) {
          sum[v] += static_cast<double>(row[v]) / weight[v];
        }
        continue;
      }
      for (Index v = 0; v < visual.size(); ++v) {
        sum[v] += static_cast<double>(row[visual[v] - range.begin]) / weight[v];
      }
    }
    mass[h] = 0;
    for (Index v = 0; v < visual.size(); ++v) {
      mass[h] += finite_or(sums(h, v), 0);
    }
  }
}

}  // namespace detail

namespace filter {

/// The filter of SparseVLM's version 2 (released as SparseVLM+): attention of the raters without
/// what it owes to their distance, in the heads that look at the image,
///
///   a^h[t, i] = A^h[t, i] / w(position_t − position_i)
///   heads     = those with the largest Σ_{t ∈ raters, i visual} a^h[t, i]
///   p_i       = mean_{t ∈ raters} mean_{h ∈ heads} a^h[t, i]
///
/// Positions are those that the engine rotates by: the original ones, which version 2 keeps. Where
/// tokens were removed before, give them as the resource `positions`.
///
/// Reads: attention by head (probabilities), raters (unless all text rates), positions if given.
/// Score: p_i, high = preserved.
/// Cost: one attention row a rater, N · d sines and cosines, a selection.
struct UnbiasedRaters {
  RaterSource raters = RaterSource::given;
  /// How many heads count; 0, or more than there are: all.
  Index heads = 14;
  RopeBias rope = {};

  template <HasAttentionHeads S>
  void operator()(const S& sequence, const Budget& budget, Partition& partition,
                  Workspace& workspace) const {
    const TokenLayout& layout = sequence.layout;
    const Index n = layout.visual_count();
    const Index keep = budget.keep_count(n);
    require(heads >= 0, "unbiased raters: heads must not be negative, got ", heads);
    rope.check();
    if (n == 0) {
      return;
    }
    require(sequence.attention.kind() == AttentionKind::probabilities,
            "unbiased raters: the attention must hold probabilities");
    Workspace::Frame frame(workspace);
    const Span<const Token> rows = detail::rater_rows(sequence, raters, workspace);
    const MatrixView<double> weights(workspace.take<double>(rows.size() * n).data(), rows.size(),
                                     n);
    detail::rope_weights(rope, head_dim(sequence), positions(sequence, rows, workspace),
                         positions(sequence, layout.visual(), workspace), weights, workspace);

    const Index all = sequence.attention.heads();
    const MatrixView<double> sums(workspace.take<double>(all * n).data(), all, n);
    const Span<double> mass = workspace.take<double>(all);
    detail::unbiased_head_sums(sequence, rows, MatrixView<const double>(weights), sums, mass,
                               workspace);
    const Index used = heads == 0 ? all : std::min(heads, all);
    const auto best = detail::rank_highest(mass, used, workspace).subspan(0, used);
    std::sort(best.begin(), best.end());
    const double terms = static_cast<double>(used) * static_cast<double>(rows.size());
    for (Index v = 0; v < n; ++v) {
      double sum = 0;
      for (const Index h : best) {
        sum += sums(h, v);
      }
      partition.scores.push_back(sum / terms);
    }
    preserve_highest(layout, keep, TokenOrder::raster, partition, workspace);
  }

  template <class Visit>
  void options(Visit&& visit) {
    visit("raters", raters, "who rates the visual tokens");
    visit("heads", heads, "how many heads count, those that look at the image most; 0 = all");
    detail::visit_options(rope, visit);
  }

 private:
  template <class S>
  Index head_dim(const S& sequence) const {
    if (rope.head_dim > 0) {
      return rope.head_dim;
    }
    if constexpr (requires { sequence.attention.key_heads().dim(); }) {
      if (const Index dim = sequence.attention.key_heads().dim(); dim > 0) {
        require(dim % 2 == 0, "rope bias: head_dim must be even, got ", dim);
        return dim;
      }
    }
    return 128;
  }

  template <class S>
  static Span<const double> positions(const S& sequence, Span<const Token> rows,
                                      Workspace& workspace) {
    Span<const std::int32_t> given;
    if constexpr (HasPositions<S>) {
      given = sequence.positions;
    }
    require(given.empty() || given.size() == sequence.layout.tokens(),
            "unbiased raters: ", given.size(), " positions were given for ",
            sequence.layout.tokens(), " tokens");
    const Span<double> out = workspace.take<double>(rows.size());
    for (Index i = 0; i < rows.size(); ++i) {
      out[i] = static_cast<double>(given.empty() ? rows[i] : given[rows[i]]);
    }
    return {out.data(), out.size()};
  }
};

}  // namespace filter
}  // namespace tokenfold
