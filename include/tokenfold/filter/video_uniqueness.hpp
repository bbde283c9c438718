// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "tokenfold/core/packets.hpp"
#include "tokenfold/core/select.hpp"
#include "tokenfold/core/stages.hpp"
#include "tokenfold/core/token_rows.hpp"
#include "tokenfold/filter/channel_variance.hpp"
#include "tokenfold/filter/row_blocks.hpp"
#include "tokenfold/filter/row_dots.hpp"

namespace tokenfold {
namespace detail {

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
    score(detail::VisualRows(layout, sequence.features, "video uniqueness"), frames, to_video,
          partition.scores, workspace);
    const double share =
        retention > 0 ? retention
                      : static_cast<double>(keep) / static_cast<double>(std::max<Index>(n, 1));
    const Span<Index> counts = frame_counts(frames, to_video, share, workspace);

    // One ranking decides everything: lowest score first, what is not finite last.
    const Span<const Ranked> ranking = rank(partition.scores, workspace);
    const Span<bool> stays = workspace.take_filled<bool>(n, false);
    const Span<Index> room = workspace.take<Index>(counts.size());
    std::copy(counts.begin(), counts.end(), room.begin());
    for (const Ranked& token : ranking) {
      stays[token.ordinal] = room[frames.of[token.ordinal]]-- > 0;
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

  struct Ranked {
    double score;
    Index ordinal;
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
  void score(const detail::VisualRows<T>& x, const Frames& frames, Span<double> to_video,
             Span<double> scores, Workspace& workspace) const {
    using Acc = Accumulator<T>;
    using Block = detail::RowBlock<T>;
    const Index d = x.cols();
    const Index t_count = frames.count;
    Workspace::Frame frame(workspace);
    const Span<bool> usable = workspace.take<bool>(x.rows());
    const Span<bool> low = workspace.take<bool>(d);
    detail::low_variance_channels(x, channels, usable, low, workspace);
    // Instead of gathering the chosen channels, every vector that meets a row is 0 in the others.
    const Span<Acc> chosen = workspace.take<Acc>(d);
    for (Index c = 0; c < d; ++c) {
      chosen[c] = low[c] ? Acc(1) : Acc(0);
    }

    const Span<double> inverse = workspace.take<double>(x.rows());
    const Span<double> square = workspace.take<double>(x.rows());  // ‖x̂‖², 1 but for tiny rows
    const MatrixView<double> centres(workspace.take_filled<double>((t_count + 1) * d, 0.0).data(),
                                     t_count + 1, d);  // of each frame, then of the video
    const Span<double> members = workspace.take_filled<double>(t_count + 1, 0.0);
    // Backwards: the rows that the first pass read last are still in the cache (14.9 → 13.6 ms for
    // three passes of 4096 × 3584 floats).
    const auto is_usable = [&](Index i, const T*) { return usable[i]; };
    const auto add = [&](const Block& block) {
      detail::for_each_square(block, chosen, [&](Index i, double length_square) {
        const double length = std::sqrt(length_square);
        inverse[i] = 1 / std::max(length, 1e-12);
        square[i] = length * inverse[i] * (length * inverse[i]);
      });
      for_each_frame(frames, block, [&](Index t, Range rows) {
        members[t] += static_cast<double>(rows.size());
        add_directions<T>(block, rows, inverse, chosen, centres.row(t));
      });
    };
    detail::for_each_block(x, detail::Direction::backwards, is_usable, add);
    auto centre = MatrixView<detail::DoubleFor<T>>(centres).map();
    for (Index t = 0; t < t_count; ++t) {
      centre.row(t_count) += centre.row(t);
      members[t_count] += members[t];
    }
    const MatrixView<Acc> near(workspace.take<Acc>((t_count + 1) * d).data(), t_count + 1, d);
    const Span<double> centre_square = workspace.take<double>(t_count + 1);
    for (Index t = 0; t <= t_count; ++t) {
      centre.row(t) /= std::max(members[t], 1.0);
      centre_square[t] = centre.row(t).squaredNorm();
      near.map().row(t) = centre.row(t).template cast<Acc>();
    }

    std::fill(to_video.begin(), to_video.end(), std::numeric_limits<double>::quiet_NaN());
    std::copy(to_video.begin(), to_video.end(), scores.begin());
    constexpr Index together = 64;
    for (Index begin = 0, end = 0; begin < x.rows(); begin = end) {
      const Index t = frames.of[begin];
      while (end < std::min(begin + together, x.rows()) && frames.of[end] == t) {
        ++end;
      }
      Acc values[2 * together];
      const MatrixView<Acc> products(values, 2, end - begin);  // with frame and video
      detail::row_dots<T>(
          MatrixView<const Acc>(near.row(t), 2, d, near.row(t_count) - near.row(t)), end - begin,
          [&](Index r) { return x.row(begin + r); }, products);
      const auto similarity = [&](Index i, Index row, Index m) {
        auto product = static_cast<double>(products(row, i - begin));
        if (!std::isfinite(product)) {
          product = detail::dot_in_double(x.row(i), near.row(m), d);
        }
        return detail::gaussian_similarity(square[i] - 2 * inverse[i] * product + centre_square[m]);
      };
      for (Index i = begin; i < end; ++i) {
        if (usable[i]) {
          to_video[i] = similarity(i, 1, t_count);
          scores[i] = to_video[i] + similarity(i, 0, t);
        }
      }
    }
  }

  /// Calls use(t, rows) for the rows of a block that are of the same frame t and stand together.
  template <class Acc, class Use>
  static void for_each_frame(const Frames& frames, const detail::RowBlock<Acc>& block, Use&& use) {
    for (Index begin = 0, end = 0; begin < block.size; begin = end) {
      const Index t = frames.of[block.ordinal(begin)];
      while (end < block.size && frames.of[block.ordinal(end)] == t) {
        ++end;
      }
      use(t, Range{begin, end});
    }
  }

  /// sum += Σ_i inverse_i · x_i over `rows` of a block, in the chosen channels.
  template <class T>
  static void add_directions(const detail::RowBlock<T>& block, Range rows,
                             Span<const double> inverse, Span<const Accumulator<T>> chosen,
                             double* sum) {
    using namespace Eigen::internal;
    using Acc = Accumulator<T>;
    using P = detail::Packet<Acc>;
    Acc scale[detail::RowBlock<T>::most];
    for (Index i = rows.begin; i < rows.end; ++i) {
      scale[i] = static_cast<Acc>(inverse[block.ordinal(i)]);
    }
    detail::for_each_packet<Acc, 1>(chosen.size(), [&](auto, auto&& load, Range at) {
      P part = pset1<P>(Acc(0));
      for (Index i = rows.begin; i < rows.end; ++i) {
        block.prefetch_later(i, at.begin);
        part = pmadd(pset1<P>(scale[i]), load(block.row(i)), part);
      }
      Acc values[detail::packet_size<Acc>];
      pstoreu(values, part);
      for (Index i = 0; i < at.size(); ++i) {
        // No product with 0: what is not chosen may have overflowed.
        const Index c = at.begin + i;
        sum[c] += chosen[c] != Acc(0) ? static_cast<double>(values[i]) : 0.0;
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

  /// By rising score, equal ones by ordinal, what is not finite last. Scores beside the ordinals:
  /// 0.47 → 0.12 ms of 4096 tokens.
  static Span<const Ranked> rank(Span<const double> scores, Workspace& workspace) {
    const Span<Ranked> ranking = workspace.take<Ranked>(scores.size());
    for (Index v = 0; v < scores.size(); ++v) {
      ranking[v] = {detail::finite_or(scores[v], std::numeric_limits<double>::infinity()), v};
    }
    std::sort(ranking.begin(), ranking.end(), [](const Ranked& a, const Ranked& b) {
      return a.score != b.score ? a.score < b.score : a.ordinal < b.ordinal;
    });
    return {ranking.data(), ranking.size()};
  }

  /// Makes the number of preserved tokens `keep`.
  void correct_total(Index keep, Span<const Ranked> ranking, const Frames& frames,
                     Span<Index> counts, Span<bool> stays) const {
    Index total = std::accumulate(counts.begin(), counts.end(), Index{0});
    const auto drop_down_to = [&](Index least) {
      for (Index r = ranking.size() - 1; r >= 0 && total > keep; --r) {
        const Index v = ranking[r].ordinal;
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
      const Index v = ranking[r].ordinal;
      total += stays[v] ? 0 : 1;
      stays[v] = true;
    }
  }
};

}  // namespace filter
}  // namespace tokenfold
