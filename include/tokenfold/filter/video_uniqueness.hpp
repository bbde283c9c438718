// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "tokenfold/core/products.hpp"
#include "tokenfold/core/select.hpp"
#include "tokenfold/core/stages.hpp"

namespace tokenfold {
namespace detail {

/// Marks in `low` the ⌊share · D⌋ channels of lowest variance (biased) over the rows of `x`, equal
/// ones by lower number, and in `usable` the rows that are finite; the others do not count.
template <class T>
void low_variance_channels(MatrixView<const T> x, double share, Span<bool> usable, Span<bool> low,
                           Workspace& workspace) {
  using Acc = Accumulator<T>;
  const Index d = x.cols();
  Workspace::Frame frame(workspace);
  // Sums of x − shift and of its square, shift being the first usable row: a variance must not
  // drown in the square of a mean.
  auto shift = as_vector(workspace.take<double>(d));
  auto sum = as_vector(workspace.take_filled<double>(d, 0.0));
  auto squares = as_vector(workspace.take_filled<double>(d, 0.0));
  Index count = 0;
  for_each_row_block(x, workspace, [&](Range block, MatrixView<const Acc> rows) {
    for (Index i = 0; i < block.size(); ++i) {
      const auto row = rows.map().row(i).transpose().template cast<double>();
      usable[block.begin + i] = std::isfinite(row.squaredNorm());
      if (usable[block.begin + i]) {
        if (count == 0) {
          shift = row;
        }
        sum += row - shift;
        squares += (row - shift).cwiseAbs2();
        ++count;
      }
    }
  });
  const Span<double> variance = workspace.take<double>(d);
  const auto n = static_cast<double>(std::max<Index>(count, 1));
  as_vector(variance) = squares / n - (sum / n).cwiseAbs2();

  const Span<Index> order = workspace.take<Index>(d);
  std::iota(order.begin(), order.end(), Index{0});
  const auto chosen = static_cast<Index>(share * static_cast<double>(d));
  std::nth_element(order.begin(), order.begin() + chosen, order.end(), [&](Index a, Index b) {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    const double rank_a = finite_or(variance[a], infinity);
    const double rank_b = finite_or(variance[b], infinity);
    return rank_a != rank_b ? rank_a < rank_b : a < b;
  });
  std::fill(low.begin(), low.end(), false);
  for (const Index channel : order.subspan(0, chosen)) {
    low[channel] = true;
  }
}

/// Σ exp(−d² / 2a) over a = 1/8, 1/4, 1/2, 1, 2: powers 16, 8, 4, 2, 1 of the last term.
inline double gaussian_similarity(double squared_distance) {
  double term = std::exp(-std::max(squared_distance, 0.0) / 4);
  double sum = 0;
  for (int power = 0; power < 5; ++power) {
    sum += term;
    term *= term;
  }
  return sum;
}

}  // namespace detail

namespace filter {

/// VidCom2's filter (arXiv 2505.14454, section 3): preserves the tokens that are least like the
/// rest of the video and of their own frame, more of them in frames that stand out. Rows are
/// compared in the ⌊D/2⌋ channels of lowest variance, with x̂ = x / max(‖x‖, 1e-12) in these,
///
///   g(x̂, m) = Σ_a exp(−‖x̂ − m‖² / 2a),   a = 1/8, 1/4, 1/2, 1, 2
///   s_i      = g(x̂_i, mean of all x̂) + g(x̂_i, mean of the x̂ of its frame)
///   p        = softmax over frames of −(mean over the frame of g(x̂_i, mean of all x̂)) / 0.01
///   n_t      = round(min(1, R · (1 + p_t − mean p)) · N_t), half to even, within 1 … N_t
///
/// Every frame preserves its n_t tokens of lowest s. `Budget::adaptive()` leaves it at that, as the
/// authors' release does, and needs `retention`. A count makes the total exact, as engines need
/// it: the highest s among the preserved go, or the lowest among the discarded come back, over all
/// frames; unlike vLLM not the last token of a frame, while the count has room for one of each.
///
/// N_t counts the tokens of frame t that are left and finite; frames without any have no part in
/// it. Tokens without a cell belong to frame 0.
///
/// Reads: features.
/// Score: s, *low* = preserved; equal scores: the earlier token. Tokens that are not finite score
/// NaN, are in no mean and are discarded first.
/// Cost: three passes over N · D features, a sort of N; frames · D doubles of memory.
struct VideoUniqueness {
  /// R; 0: the share that the budget preserves. vLLM and the release compute with 1 − q as it is
  /// given, before the count is rounded.
  double retention = 0;
  /// Correct the total as vLLM does, where a frame may lose its last token.
  bool may_empty_frames = false;
  /// The lower, the more tokens the frames that stand out most get.
  double temperature = 0.01;
  /// The share of the channels that tokens are compared in.
  double channels = 0.5;

  template <class Visit>
  void options(Visit&& visit) {
    visit("retention", retention,
          "share of tokens that frame budgets are made from, 0: the budget's");
    visit("may_empty_frames", may_empty_frames, "exact totals may cost a frame its last token");
    visit("temperature", temperature, "of the softmax over frames");
    visit("channels", channels, "share of the channels, of lowest variance, that are compared");
  }

  template <HasFeatures S>
  void operator()(const S& sequence, const Budget& budget, Partition& partition,
                  Workspace& workspace) const {
    check();
    const TokenLayout& layout = sequence.layout;
    const Index n = layout.visual_count();
    require(!budget.is_adaptive() || retention > 0,
            "video uniqueness: an adaptive budget needs retention");
    const Index keep = budget.is_adaptive() ? n : budget.keep_count(n);
    Workspace::Frame frame(workspace);
    const Frames frames = frames_of(layout, workspace);
    const Span<double> to_video = workspace.take<double>(n);
    partition.scores.resize(static_cast<std::size_t>(n));
    score(detail::visual_rows(layout, sequence.features, "video uniqueness", workspace), frames,
          to_video, partition.scores, workspace);
    const double share =
        retention > 0 ? retention
                      : static_cast<double>(keep) / static_cast<double>(std::max<Index>(n, 1));
    const Span<Index> counts = frame_counts(frames, to_video, share, workspace);

    // One ranking decides everything: lowest score first, what is not finite last.
    const Span<double> uniqueness = workspace.take<double>(n);
    detail::as_vector(uniqueness) = -detail::as_vector(Span<const double>(partition.scores));
    const Span<const Index> ranking = detail::rank_highest(uniqueness, n, workspace);
    const Span<bool> stays = workspace.take_filled<bool>(n, false);
    const Span<Index> room = workspace.take<Index>(counts.size());
    std::copy(counts.begin(), counts.end(), room.begin());
    for (const Index v : ranking) {
      stays[v] = room[frames.of[v]]-- > 0;
    }
    if (!budget.is_adaptive()) {
      correct_total(keep, ranking, frames, counts, stays);
    }
    for (Index v = 0; v < n; ++v) {
      (stays[v] ? partition.preserved : partition.discarded).push_back(layout.visual()[v]);
    }
  }

 private:
  struct Frames {
    Span<Index> of;  // the frame of each visual token
    Index count = 0;
  };

  void check() const {
    require_in_range("video uniqueness: retention", retention, 0, 1);
    require_in_range("video uniqueness: channels", channels, 0, 1);
    require(temperature > 0 && std::isfinite(temperature),
            "video uniqueness: temperature must be positive, got ", temperature);
  }

  static Frames frames_of(const TokenLayout& layout, Workspace& workspace) {
    const Frames frames{workspace.take<Index>(layout.visual_count()), layout.frames()};
    for (Index v = 0; v < frames.of.size(); ++v) {
      frames.of[v] = layout.frame_of(layout.cells()[v]);
    }
    return frames;
  }

  /// to_video[i] = g(x̂_i, centre of the video), scores[i] = that + g(x̂_i, centre of the frame).
  template <class T>
  void score(MatrixView<const T> x, const Frames& frames, Span<double> to_video,
             Span<double> scores, Workspace& workspace) const {
    const Index d = x.cols();
    const Index t_count = frames.count;
    Workspace::Frame frame(workspace);
    const Span<bool> usable = workspace.take<bool>(x.rows());
    const Span<bool> low = workspace.take<bool>(d);
    detail::low_variance_channels(x, channels, usable, low, workspace);
    // Instead of gathering the chosen channels, every vector that meets a row is 0 in the others.
    auto chosen = detail::as_vector(workspace.take<double>(d));
    for (Index c = 0; c < d; ++c) {
      chosen[c] = low[c] ? 1 : 0;
    }

    const Span<double> inverse = workspace.take<double>(x.rows());
    const Span<double> square = workspace.take<double>(x.rows());  // ‖x̂‖², 1 but for tiny rows
    const MatrixView<double> centres(workspace.take_filled<double>((t_count + 1) * d, 0.0).data(),
                                     t_count + 1, d);  // of each frame, then of the video
    const Span<double> members = workspace.take_filled<double>(t_count + 1, 0.0);
    const auto centre = [&](Index t) { return detail::VectorMap<double>(centres.row(t), d); };
    for_each_usable(x, usable, workspace, [&](Index i, const auto& row) {
      const double length = std::sqrt(row.cwiseAbs2().dot(chosen));
      inverse[i] = 1 / std::max(length, 1e-12);
      square[i] = length * inverse[i] * (length * inverse[i]);
      centre(frames.of[i]) += inverse[i] * row;
      ++members[frames.of[i]];
    });
    for (Index t = 0; t < t_count; ++t) {
      centre(t).array() *= chosen.array();
      centre(t_count) += centre(t);
      members[t_count] += members[t];
    }
    const Span<double> centre_square = workspace.take<double>(t_count + 1);
    for (Index t = 0; t <= t_count; ++t) {
      centre(t) /= std::max(members[t], 1.0);
      centre_square[t] = centre(t).squaredNorm();
    }

    std::fill(to_video.begin(), to_video.end(), std::numeric_limits<double>::quiet_NaN());
    std::copy(to_video.begin(), to_video.end(), scores.begin());
    for_each_usable(x, usable, workspace, [&](Index i, const auto& row) {
      const auto similarity = [&](Index t) {
        return detail::gaussian_similarity(square[i] - 2 * inverse[i] * row.dot(centre(t)) +
                                           centre_square[t]);
      };
      to_video[i] = similarity(t_count);
      scores[i] = to_video[i] + similarity(frames.of[i]);
    });
  }

  /// Calls use(i, row) for the usable rows, row being [D] in double.
  template <class T, class Use>
  static void for_each_usable(MatrixView<const T> x, Span<const bool> usable, Workspace& workspace,
                              Use&& use) {
    detail::for_each_row_block(
        x, workspace, [&](Range block, MatrixView<const Accumulator<T>> rows) {
          for (Index i = 0; i < block.size(); ++i) {
            if (usable[block.begin + i]) {
              use(block.begin + i, rows.map().row(i).transpose().template cast<double>());
            }
          }
        });
  }

  /// n_t of every frame; 0 of a frame without finite tokens.
  Span<Index> frame_counts(const Frames& frames, Span<const double> to_video, double share,
                           Workspace& workspace) const {
    const Span<Index> counts = workspace.take<Index>(frames.count);
    Workspace::Frame frame(workspace);
    const Span<Index> members = workspace.take_filled<Index>(frames.count, 0);
    const Span<double> mean = workspace.take_filled<double>(frames.count, 0.0);
    for (Index v = 0; v < to_video.size(); ++v) {
      if (std::isfinite(to_video[v])) {
        mean[frames.of[v]] += to_video[v];
        ++members[frames.of[v]];
      }
    }
    double lowest = std::numeric_limits<double>::infinity();
    double present = 0;
    for (Index t = 0; t < frames.count; ++t) {
      if (members[t] > 0) {
        mean[t] /= static_cast<double>(members[t]);
        lowest = std::min(lowest, mean[t]);
        ++present;
      }
    }
    const Span<double> p = workspace.take_filled<double>(frames.count, 0.0);
    double sum = 0;
    for (Index t = 0; t < frames.count; ++t) {
      p[t] = members[t] > 0 ? std::exp((lowest - mean[t]) / temperature) : 0;
      sum += p[t];
    }
    for (Index t = 0; t < frames.count; ++t) {
      if (members[t] == 0) {
        counts[t] = 0;
        continue;
      }
      const double part = std::clamp(share * (1 + p[t] / sum - 1 / present), 0.0, 1.0);
      counts[t] = std::max<Index>(1, Budget::keep_ratio(part).keep_count(members[t]));
    }
    return counts;
  }

  /// Makes the number of preserved tokens `keep`.
  void correct_total(Index keep, Span<const Index> ranking, const Frames& frames,
                     Span<Index> counts, Span<bool> stays) const {
    Index total = std::accumulate(counts.begin(), counts.end(), Index{0});
    const auto drop_down_to = [&](Index least) {
      for (Index r = ranking.size() - 1; r >= 0 && total > keep; --r) {
        const Index v = ranking[r];
        if (stays[v] && counts[frames.of[v]] > least) {
          stays[v] = false;
          --counts[frames.of[v]];
          --total;
        }
      }
    };
    drop_down_to(may_empty_frames ? 0 : 1);
    drop_down_to(0);
    for (Index r = 0; r < ranking.size() && total < keep; ++r) {
      const Index v = ranking[r];
      total += stays[v] ? 0 : 1;
      stays[v] = true;
    }
  }
};

}  // namespace filter
}  // namespace tokenfold
