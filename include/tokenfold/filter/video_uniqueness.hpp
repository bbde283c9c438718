// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include "tokenfold/core/products.hpp"
#include "tokenfold/core/select.hpp"
#include "tokenfold/core/stages.hpp"
#include "tokenfold/core/token_rows.hpp"
#include "tokenfold/filter/channel_chunks.hpp"

namespace tokenfold {
namespace detail {

/// Some rows of a matrix, in the type that sums are kept in.
template <class Acc>
struct RowBlock {
  /// 32 rows of 3584 floats fill less than half of a typical L2 cache.
  static constexpr Index most = 32;

  std::array<Index, most> ordinals;
  std::array<const Acc*, most> rows;
  Index size = 0;

  void push_back(Index ordinal, const Acc* row) {
    ordinals[static_cast<std::size_t>(size)] = ordinal;
    rows[static_cast<std::size_t>(size)] = row;
    ++size;
  }
  Index ordinal(Index i) const { return ordinals[static_cast<std::size_t>(i)]; }
  const Acc* row(Index i) const { return rows[static_cast<std::size_t>(i)]; }
};

enum class Direction { forwards, backwards };

/// Calls use(block) for blocks of the rows of `x` that `reads(ordinal, row)` wants, row being
/// [D] in the type that sums are kept in. `x` is a matrix, or anything with rows(), cols() and
/// row(i).
///
/// Sums over all rows do not fit the L1 cache. So rows are fetched from memory one by one, by what
/// `reads` does with them, and added up a block at a time: a pass of 4096 × 3584 floats takes what
/// reading them takes (6.8 → 4.3 ms).
template <class Rows, class Reads, class Use>
void for_each_block(const Rows& x, Direction direction, Workspace& workspace, Reads&& reads,
                    Use&& use) {
  using T = std::remove_cvref_t<decltype(*x.row(0))>;
  using Acc = Accumulator<T>;
  constexpr Index most = RowBlock<Acc>::most;
  constexpr bool widens = !std::same_as<T, Acc>;
  Workspace::Frame frame(workspace);
  const Span<Acc> buffer = workspace.take<Acc>(widens ? most * x.cols() : 0);
  const Index blocks = (x.rows() + most - 1) / most;
  for (Index k = 0; k < blocks; ++k) {
    const Index begin = most * (direction == Direction::forwards ? k : blocks - 1 - k);
    RowBlock<Acc> block;
    for (Index v = begin; v < std::min(begin + most, x.rows()); ++v) {
      const Acc* row =
          wide(x.row(v), x.cols(), buffer.data() + (widens ? block.size * x.cols() : 0));
      if (reads(v, row)) {
        block.push_back(v, row);
      }
    }
    use(block);
  }
}

/// Sums of x − first and of its square over a block, for the channels from c, first being the
/// block's first row. False if squares overflow `Sum` or lose terms to underflow.
template <class Sum, class Acc, int Width>
bool block_moments(const RowBlock<Acc>& block, Index c, Chunk<double, Width>& sum,
                   Chunk<double, Width>& squares) {
  using Values = Chunk<Sum, Width>;
  using Limits = std::numeric_limits<Sum>;
  const Values first = load<Width>(block.row(0) + c).template cast<Sum>();
  Values s = Values::Zero();
  Values q = Values::Zero();
  for (Index i = 1; i < block.size; ++i) {
    const Values distance = load<Width>(block.row(i) + c).template cast<Sum>() - first;
    s += distance;
    q += distance * distance;
  }
  sum = s.template cast<double>();
  squares = q.template cast<double>();
  return q.minCoeff() >= Limits::min() / Limits::epsilon() && q.maxCoeff() <= Limits::max();
}

/// Marks in `low` the ⌊share · D⌋ channels of lowest variance (biased) over the rows of `x`, equal
/// ones by lower number, and in `usable` the rows that are finite; the others do not count.
template <class Rows>
void low_variance_channels(const Rows& x, double share, Span<bool> usable, Span<bool> low,
                           Workspace& workspace) {
  using Acc = Accumulator<std::remove_cvref_t<decltype(*x.row(0))>>;
  const Index d = x.cols();
  Workspace::Frame frame(workspace);
  // Sums of x − shift and of its square, shift being the first usable row: a variance must not
  // drown in the square of a mean. Within a block the same with the block's first row, in the
  // rows' own type: Σ (x − shift)² = Σ (x − m)² + n (m − shift)², m being the mean of n rows.
  const Span<double> shift = workspace.take_filled<double>(d, 0.0);
  const Span<double> sum = workspace.take_filled<double>(d, 0.0);
  const Span<double> squares = workspace.take_filled<double>(d, 0.0);
  Index count = 0;
  const auto is_usable = [&](Index i, const Acc* row) {
    usable[i] = std::isfinite(squared_norm(ConstVectorMap<Acc>(row, d)));
    return usable[i];
  };
  for_each_block(x, Direction::forwards, workspace, is_usable, [&](const RowBlock<Acc>& block) {
    if (block.size == 0) {
      return;
    }
    if (count == 0) {
      std::copy_n(block.row(0), d, shift.begin());
    }
    count += block.size;
    const auto n = static_cast<double>(block.size);
    const double inverse_n = 1 / n;
    for_each_chunk(d, [&](auto width, Index c) {
      using Sums = Eigen::Map<Chunk<double, width>>;
      Chunk<double, width> s;
      Chunk<double, width> q;
      if (!block_moments<Acc>(block, c, s, q)) {
        block_moments<double>(block, c, s, q);
      }
      const Chunk<double, width> mean = load<width>(block.row(0) + c).template cast<double>() -
                                        Sums(shift.data() + c) + s * inverse_n;
      Sums(sum.data() + c) += n * mean;
      Sums(squares.data() + c) += q - s * s * inverse_n + n * mean * mean;
    });
  });
  const Span<double> variance = workspace.take<double>(d);
  const auto n = static_cast<double>(std::max<Index>(count, 1));
  for (Index c = 0; c < d; ++c) {
    const double mean = sum[c] / n;
    variance[c] = squares[c] / n - mean * mean;
  }

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
    score(detail::VisualRows(layout, sequence.features, "video uniqueness"), frames, to_video,
          partition.scores, workspace);
    const double share =
        retention > 0 ? retention
                      : static_cast<double>(keep) / static_cast<double>(std::max<Index>(n, 1));
    const Span<Index> counts = frame_counts(frames, to_video, share, workspace);

    // One ranking decides everything: lowest score first, what is not finite last.
    const Span<double> uniqueness = workspace.take<double>(n);
    for (Index v = 0; v < n; ++v) {
      uniqueness[v] = -Span<const double>(partition.scores)[v];
    }
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
  void score(const detail::VisualRows<T>& x, const Frames& frames, Span<double> to_video,
             Span<double> scores, Workspace& workspace) const {
    using Acc = Accumulator<T>;
    using Block = detail::RowBlock<Acc>;
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
    const auto measure = [&](Index i, const Acc* row) {
      if (!usable[i]) {
        return false;
      }
      const double length = std::sqrt(detail::squared_norm(
          detail::ConstVectorMap<Acc>(row, d).cwiseProduct(detail::as_vector(chosen))));
      inverse[i] = 1 / std::max(length, 1e-12);
      square[i] = length * inverse[i] * (length * inverse[i]);
      return true;
    };
    detail::for_each_block(x, detail::Direction::backwards, workspace, measure,
                           [&](const Block& block) {
                             for_each_frame(frames, block, [&](Index t, Range rows) {
                               members[t] += static_cast<double>(rows.size());
                               add_directions<Acc>(block, rows, inverse, chosen, centres.row(t));
                             });
                           });
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
    const auto similarity = [&](Index i, const Acc* row, Index t) {
      return detail::gaussian_similarity(square[i] - 2 * inverse[i] * product(row, near.row(t), d) +
                                         centre_square[t]);
    };
    const auto compare_with_video = [&](Index i, const Acc* row) {
      if (usable[i]) {
        to_video[i] = similarity(i, row, t_count);
      }
      return usable[i];
    };
    detail::for_each_block(x, detail::Direction::forwards, workspace, compare_with_video,
                           [&](const Block& block) {
                             for (Index r = 0; r < block.size; ++r) {
                               const Index i = block.ordinal(r);
                               scores[i] = to_video[i] + similarity(i, block.row(r), frames.of[i]);
                             }
                           });
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

  /// sum += Σ_i inverse_i · x_i over `rows` of a block, in the channels `low`.
  template <class Acc>
  static void add_directions(const detail::RowBlock<Acc>& block, Range rows,
                             Span<const double> inverse, Span<const Acc> chosen, double* sum) {
    detail::for_each_chunk(chosen.size(), [&](auto width, Index c) {
      using Values = detail::Chunk<Acc, width>;
      const auto mask = detail::load<width>(chosen.data() + c);
      Values part = Values::Zero();
      for (Index i = rows.begin; i < rows.end; ++i) {
        const auto scale = static_cast<Acc>(inverse[block.ordinal(i)]);
        part += scale * (mask * detail::load<width>(block.row(i) + c));
      }
      Eigen::Map<detail::Chunk<double, width>>(sum + c) += part.template cast<double>();
    });
  }

  /// a · b, in double if need be.
  template <class Acc>
  static double product(const Acc* a, const Acc* b, Index d) {
    const detail::ConstVectorMap<Acc> x(a, d);
    const detail::ConstVectorMap<Acc> y(b, d);
    const auto own = static_cast<double>(x.dot(y));
    return std::isfinite(own) ? own : x.template cast<double>().dot(y.template cast<double>());
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
