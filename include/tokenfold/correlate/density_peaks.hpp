// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "tokenfold/core/all_finite.hpp"
#include "tokenfold/core/select.hpp"
#include "tokenfold/core/stages.hpp"

namespace tokenfold {
namespace detail {

/// out[a][b] = Σ_c (left[a][c] − right[b][c])², eight sums at once that stay in registers. The bits
/// of a sum do not depend on its place among the eight, nor on which of the two rows is the left.
template <class T>
void squared_distances(const T* const (&left)[2], const T* const (&right)[4], Index width,
                       Accumulator<T> (&out)[2][4]) {
  using Acc = Accumulator<T>;
  constexpr Index chunk = 64 / sizeof(Acc);
  using Lanes = Eigen::Array<Acc, chunk, 1>;
  const auto lanes = [](const T* values) -> Lanes {
    return Eigen::Map<const Eigen::Array<T, chunk, 1>>(values).template cast<Acc>();
  };
  Lanes sums[2][4];
  for (auto& row : sums) {
    std::fill(row, row + 4, Lanes::Zero());
  }
  Index c = 0;
  for (; c + chunk <= width; c += chunk) {
    const Lanes first = lanes(left[0] + c);
    const Lanes second = lanes(left[1] + c);
    for (Index b = 0; b < 4; ++b) {
      const Lanes other = lanes(right[b] + c);
      sums[0][b] += (first - other).square();
      sums[1][b] += (second - other).square();
    }
  }
  for (Index a = 0; a < 2; ++a) {
    for (Index b = 0; b < 4; ++b) {
      out[a][b] = sums[a][b].sum();
      for (Index i = c; i < width; ++i) {
        const Acc difference = static_cast<Acc>(left[a][i]) - static_cast<Acc>(right[b][i]);
        out[a][b] += difference * difference;
      }
    }
  }
}

/// δ²_ij = ‖x_i − x_j‖² / D between some rows of a matrix. All pairs are needed three times; up to
/// 2048 rows they are held, beyond that computed again block by block. Differences rather than a
/// matrix product, so that δ_ij = δ_ji to the bit and near tokens do not cancel.
template <class T>
class PairDistances {
 public:
  using Acc = Accumulator<T>;

  /// `rows` are rows of the sequence. Memory from the enclosing workspace frame, for `most_held`
  /// pairs or one row.
  PairDistances(const TokenRows<T>& tokens, Span<const Token> rows, Workspace& workspace,
                Index most_held = Index{1} << 22)
      : tokens_(tokens),
        rows_(rows),
        block_rows_(std::clamp<Index>(most_held / std::max<Index>(rows.size(), 1), 1,
                                      std::max<Index>(rows.size(), 1))),
        held_(workspace.take<Acc>(block_rows_ * rows.size()).data(), block_rows_, rows.size()) {}

  Index size() const { return rows_.size(); }
  auto token(Index i) const {
    return ConstVectorMap<T>(tokens_.row(rows_[i]), tokens_.matrix.cols()).template cast<Acc>();
  }

  /// δ²_ij for all j. Cheap if asked in ascending order of i.
  Span<const Acc> row(Index i) {
    if (!block_.contains(i)) {
      fill({i, std::min(i + block_rows_, size())});
    }
    return {held_.row(i - block_.begin), size()};
  }

 private:
  /// Two rows a pass, four others at a time: 0.9 → 0.4 ms for 82 rows of 4096, which the L2 cache
  /// does not hold, against one after the other.
  void fill(Range block) {
    block_ = block;
    for (Index i = block.begin; i < block.end; i += 2) {
      const Index next = std::min(i + 1, block.end - 1);
      compute(i, next, {0, block.begin});
      for (Index j = block.begin; j < i; ++j) {
        at(i, j) = at(j, i);
        at(next, j) = at(j, next);
      }
      compute(i, next, {i, size()});
    }
  }
  /// Rows i and `next` of the block, columns `others`.
  void compute(Index i, Index next, Range others) {
    const Index width = tokens_.matrix.cols();
    const Acc share = Acc(1) / static_cast<Acc>(std::max<Index>(width, 1));
    const auto values = [&](Index j) { return tokens_.row(rows_[std::min(j, others.end - 1)]); };
    for (Index j = others.begin; j < others.end; j += 4) {
      Acc sums[2][4];
      squared_distances<T>({tokens_.row(rows_[i]), tokens_.row(rows_[next])},
                           {values(j), values(j + 1), values(j + 2), values(j + 3)}, width, sums);
      for (Index b = 0; b < std::min<Index>(4, others.end - j); ++b) {
        at(i, j + b) = share * sums[0][b];
        at(next, j + b) = share * sums[1][b];
      }
    }
  }
  Acc& at(Index i, Index j) { return held_(i - block_.begin, j); }

  TokenRows<T> tokens_;
  Span<const Token> rows_;
  Index block_rows_;
  MatrixView<Acc> held_;
  Range block_;
};

/// Cluster centres by density peaks: the `count` ≤ n tokens with the largest ρ · η, best first,
///
///   ρ_i = exp(−mean of δ²_ij over the k = count nearest j, i itself counted)
///   η_i = min{ δ_ij : ρ_j > ρ_i },   the largest δ of all for the densest token
///
/// of equally dense tokens the lower counts as denser. Ranked by log ρ + log η, which cannot
/// underflow. Numbers 0 … n − 1 of the rows of `distances`; memory from `workspace`.
template <class T>
Span<Index> density_peaks(PairDistances<T>& distances, Index count, Workspace& workspace) {
  using Acc = typename PairDistances<T>::Acc;
  const Index n = distances.size();
  const Span<double> spread = workspace.take<double>(n);  // −log ρ
  const Span<Acc> nearest = workspace.take<Acc>(count);
  Acc largest = 0;
  for (Index i = 0; i < n; ++i) {
    const Span<const Acc> row = distances.row(i);
    std::partial_sort_copy(row.begin(), row.end(), nearest.begin(), nearest.end());
    double sum = 0;
    for (const Acc square : nearest) {
      sum += static_cast<double>(square);
    }
    spread[i] = sum / static_cast<double>(nearest.size());
    largest = std::max(largest, *std::max_element(row.begin(), row.end()));
  }
  const Span<double> score = workspace.take<double>(n);
  for (Index i = 0; i < n; ++i) {
    const Span<const Acc> row = distances.row(i);
    bool densest = true;
    Acc peak = std::numeric_limits<Acc>::infinity();  // η²
    for (Index j = 0; j < n; ++j) {                   // without branches, which nobody can predict
      const bool denser = spread[j] < spread[i] || (spread[j] == spread[i] && j < i);
      densest = densest && !denser;
      peak = denser ? std::min(peak, row[j]) : peak;
    }
    peak = densest ? largest : peak;
    score[i] = 0.5 * std::log(static_cast<double>(peak)) - spread[i];
  }
  return rank_highest(score, count, workspace).subspan(0, count);
}

}  // namespace detail

namespace correlate {

/// Which cluster a token joins.
enum class Joining {
  distance,  ///< of the centre at the least ‖x_i − x_c‖ (released)
  cosine,    ///< of the centre at the largest cos(x_i, x_c) (published)
};
constexpr auto enum_names(Joining) {
  return enum_names_of<Joining>({{"distance", Joining::distance}, {"cosine", Joining::cosine}});
}

/// SparseVLM's recycling (arXiv 2410.04417): of the discarded tokens the most relevant are not lost
/// but clustered, each cluster being one synthetic token,
///
///   n_r = ⌊share · N_del⌋ + 1 discarded tokens of the highest scores
///   n_c = ⌊n_r / tokens_per_cluster⌋ + 1 centres by density peaks (`detail::density_peaks`)
///
/// and every other recycled token joins a centre. Synthetic token g is that of the g-th best
/// centre. The release breaks ties with random noise; here the lower token comes first, always.
/// Tokens whose score or features are not finite are not recycled.
///
/// Reads: features (hidden states of the pruning layer), the scores of the partition.
/// Strengths: 1 for each recycled token's link to its synthetic token.
/// Cost: n_r² · D / 2 multiply-adds (beyond 2048 recycled tokens six times that).
struct DensityPeaks {
  /// Of the discarded tokens, how many are recycled.
  double share = 0.3;
  Index tokens_per_cluster = 10;
  Joining joining = Joining::distance;

  template <HasFeatures S>
  void operator()(const S& sequence, const Partition& partition, Correlation& correlation,
                  Workspace& workspace) const {
    const TokenLayout& layout = sequence.layout;
    require_in_range("density peaks: share", share, 0, 1);
    require(tokens_per_cluster >= 1, "density peaks: tokens_per_cluster must be positive, got ",
            tokens_per_cluster);
    require(static_cast<Index>(partition.scores.size()) == layout.visual_count(),
            "density peaks: the filter gave ", partition.scores.size(), " scores for ",
            layout.visual_count(), " visual tokens");
    if (partition.discarded.empty()) {
      return;
    }
    const auto& features = sequence.features;
    require(features.rows().contains(layout.visual_range()), "density peaks: rows [",
            features.rows().begin, ", ", features.rows().end,
            ") of features were given, but the visual tokens lie in rows [",
            layout.visual_range().begin, ", ", layout.visual_range().end, ")");
    Workspace::Frame frame(workspace);
    const Span<const Token> rows = recycled(layout, features, partition, workspace);
    if (rows.empty()) {
      return;
    }
    detail::PairDistances distances(features, rows, workspace);
    const Index count = std::min(rows.size() / tokens_per_cluster + 1, rows.size());
    const Span<const Index> centres = detail::density_peaks(distances, count, workspace);
    const Span<Index> cluster = joined(distances, centres, workspace);
    for (Index i = 0; i < rows.size(); ++i) {
      correlation.begin_source(rows[i]);
      correlation.link(Correlation::extra_token(cluster[i]), 1);
    }
  }

  template <class Visit>
  void options(Visit&& visit) {
    visit("share", share, "share of the discarded tokens that is recycled");
    visit("tokens_per_cluster", tokens_per_cluster, "recycled tokens per synthetic token");
    visit("joining", joining, "nearest centre by distance or by cosine");
  }

 private:
  /// The discarded tokens of the highest scores, ascending.
  template <class F>
  Span<const Token> recycled(const TokenLayout& layout, const F& features,
                             const Partition& partition, Workspace& workspace) const {
    const Span<const Token> discarded(partition.discarded);
    const auto score = [&](Token row) {
      return Span<const double>(partition.scores)[layout.ordinal(row)];
    };
    const Span<double> scores = workspace.take<double>(discarded.size());
    std::transform(discarded.begin(), discarded.end(), scores.begin(), score);
    const Span<Index> ranking = detail::rank_highest(scores, scores.size(), workspace);
    const auto all = static_cast<double>(discarded.size());
    const Index most = std::min(static_cast<Index>(share * all) + 1, discarded.size());
    const Span<Token> rows = workspace.take<Token>(most);
    Index size = 0;
    for (Index r = 0; r < ranking.size() && size < most; ++r) {
      const Token row = discarded[ranking[r]];
      if (std::isfinite(scores[ranking[r]]) &&
          detail::all_finite(features.row(row), features.matrix.cols())) {
        rows[size++] = row;
      }
    }
    std::sort(rows.begin(), rows.begin() + size);
    return {rows.data(), size};
  }

  /// The cluster of each recycled token; a centre stays in its own. Ties: the lower centre.
  template <class T>
  Span<Index> joined(detail::PairDistances<T>& distances, Span<const Index> centres,
                     Workspace& workspace) const {
    using Acc = Accumulator<T>;
    const Span<Acc> inverse_length = workspace.take<Acc>(centres.size());
    for (Index g = 0; g < centres.size(); ++g) {
      const Acc length = distances.token(centres[g]).norm();
      inverse_length[g] = length > 0 ? 1 / length : Acc(0);
    }
    const Span<Index> cluster = workspace.take_filled<Index>(distances.size(), 0);
    for (Index i = 0; i < distances.size(); ++i) {
      const Span<const Acc> row = distances.row(i);
      Acc nearest = 0;
      for (Index g = 0; g < centres.size(); ++g) {
        // The token's own length is the same for all centres.
        const Acc nearness =
            joining == Joining::distance
                ? -row[centres[g]]
                : distances.token(i).dot(distances.token(centres[g])) * inverse_length[g];
        if (g == 0 || nearness > nearest ||
            (nearness == nearest && centres[g] < centres[cluster[i]])) {
          nearest = nearness;
          cluster[i] = g;
        }
      }
    }
    for (Index g = 0; g < centres.size(); ++g) {
      cluster[centres[g]] = g;
    }
    return cluster;
  }
};

}  // namespace correlate
}  // namespace tokenfold
