// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "tokenfold/core/items.hpp"
#include "tokenfold/core/select.hpp"
#include "tokenfold/core/stages.hpp"
#include "tokenfold/filter/attention_scores.hpp"
#include "tokenfold/filter/raster_samples.hpp"

namespace tokenfold::filter {

/// How several attention heads become one row.
enum class HeadReduction {
  single,  ///< q and k taken as one head of the full width (released): much sharper than the mean
  mean,    ///< mean of the heads' softmax rows
};
constexpr auto enum_names(HeadReduction) {
  return enum_names_of<HeadReduction>(
      {{"single", HeadReduction::single}, {"mean", HeadReduction::mean}});
}

/// PruMerge+: tokens sampled evenly over the raster, on top of the outliers.
enum class RasterSamples {
  none,    ///< PruMerge
  once,    ///< the outliers' share of the tokens once more (published)
  triple,  ///< about three times as many (released)
};
constexpr auto enum_names(RasterSamples) {
  return enum_names_of<RasterSamples>({{"none", RasterSamples::none},
                                       {"once", RasterSamples::once},
                                       {"triple", RasterSamples::triple}});
}

/// How many of how many tokens are outliers; two integers, so that nothing is rounded.
struct OutlierShare {
  Index outliers = 0;
  Index tokens = 0;
};

/// How the share of outliers becomes a count.
enum class OutlierCount {
  exact,      ///< the number of outliers (of a batch: its share of N, rounded down, in integers)
  truncated,  ///< int(N · (number / N)) in double, which loses one for some N (released)
};
constexpr auto enum_names(OutlierCount) {
  return enum_names_of<OutlierCount>(
      {{"exact", OutlierCount::exact}, {"truncated", OutlierCount::truncated}});
}

/// PruMerge's filter (arXiv 2403.15388, section 3.2): preserves the patches that [CLS] pays
/// outstanding attention to,
///
///   a = softmax(q_cls · Kᵀ / √d),   preserved = { i : a_i > Q3 + 1.5 · (Q3 − Q1) }
///
/// Adaptive: the image decides how many (upper fence of the interquartile range; quartiles by
/// linear interpolation; strict >). PruMerge+ adds patches sampled evenly over the raster. With a
/// budget instead of `Budget::adaptive()` exactly that many are preserved: the highest a_i, of
/// which PruMerge+ takes every fourth (`once`: every second) from the attention and the others from
/// an even raster.
///
/// Reads: attention (the [CLS] row), the [CLS] row of the layout.
/// Score: a_i, high = preserved. a_i that are not finite come last.
/// Cost: one attention row and selections among N scores.
struct AttentionOutliers {
  HeadReduction heads = HeadReduction::single;
  RasterSamples samples = RasterSamples::none;
  OutlierCount count = OutlierCount::exact;
  TokenOrder order = TokenOrder::raster;
  /// Fence factor on the interquartile range.
  double fence = 1.5;
  /// At least so many by attention, for flat attention without outliers (the release returns none,
  /// or fails).
  Index min_tokens = 1;
  /// Cap on the preserved tokens of an adaptive budget, samples included, so that an engine can
  /// reserve room; 0 = none. Samples are thinned before outliers are given up.
  Index max_tokens = 0;
  /// The release's non-adaptive branch of PruMerge+, 0 = off: int(N · share) by attention, raster
  /// samples from int(step / 2) with step int(1 / share), *without* removing duplicates: a patch
  /// that is drawn twice is preserved twice, and as many of the lowest-numbered other patches
  /// vanish. Needs an adaptive budget and ignores `samples` and the limits above.
  double released_share = 0;
  /// The share of outliers in all images of a batch (`batch_outlier_share`), to be taken instead of
  /// this image's own; 0 of 0 = off. Needs an adaptive budget.
  OutlierShare batch_share = {};

  template <class Visit>
  void options(Visit&& visit) {
    visit("heads", heads, "attention as one head of the full width, or mean of heads");
    visit("samples", samples, "samples of the raster, for each outlier");
    visit("count", count, "number of outliers; truncated: int(N * (number / N))");
    visit("order", order, "order of the preserved tokens");
    visit("fence", fence, "outliers lie above Q3 + fence * (Q3 - Q1)");
    visit("min_tokens", min_tokens, "adaptive: at least so many by attention");
    visit("max_tokens", max_tokens, "adaptive: at most so many, 0: no cap");
    visit("released_share", released_share,
          "adaptive: the release's fixed share with raster samples, 0: off");
    visit("batch_outliers", batch_share.outliers, "adaptive: outliers in the whole batch");
    visit("batch_tokens", batch_share.tokens, "adaptive: tokens of the whole batch, 0: no batch");
  }

  template <HasAttention S>
  void operator()(const S& sequence, const Budget& budget, Partition& partition,
                  Workspace& workspace) const {
    const TokenLayout& layout = sequence.layout;
    check();
    Workspace::Frame frame(workspace);
    append_scores(sequence, partition.scores, workspace);
    const Index n = layout.visual_count();

    // `chosen`: ordinals, by falling attention first, then samples ascending; maybe with
    // duplicates.
    const Span<Index> chosen = workspace.take<Index>(2 * n);
    Index size = 0;
    const auto take_best = [&](Index number) {
      Workspace::Frame ranking(workspace);
      std::copy_n(detail::rank_highest(partition.scores, number, workspace).begin(), number,
                  chosen.begin());
      return number;
    };
    if (!budget.is_adaptive()) {
      require(released_share == 0, "prumerge: released_share needs an adaptive budget");
      require(batch_share.tokens == 0, "prumerge: batch_share needs an adaptive budget");
      const Index keep = budget.keep_count(n);
      const Index by_attention = samples == RasterSamples::none     ? keep
                                 : samples == RasterSamples::triple ? (keep + 3) / 4
                                                                    : (keep + 1) / 2;
      size = take_best(by_attention);
      size = detail::add_even_samples(n, keep, chosen, size, workspace);
    } else if (released_share > 0) {
      const auto tokens = static_cast<double>(n);
      size = take_best(static_cast<Index>(tokens * released_share));
      const Index step = std::max<Index>(1, static_cast<Index>(1 / released_share));
      for (Index v = step / 2; v < n - 1; v += step) {
        chosen[size++] = v;
      }
    } else {
      const OutlierShare share = batch_share.tokens > 0
                                     ? batch_share
                                     : OutlierShare{count_outliers(partition.scores, workspace), n};
      const Index by_share = outlier_count(share, n);
      const Index cap = max_tokens > 0 ? std::min(max_tokens, n) : n;
      size = take_best(std::min(std::max(by_share, min_tokens), cap));
      if (samples != RasterSamples::none && size > 0) {
        // The release never draws the last patch.
        const Index end = samples == RasterSamples::triple ? n - 1 : n;
        const Index step = sample_step(size > by_share ? OutlierShare{size, n} : share);
        size = detail::add_strided_samples(n, end, step, cap, chosen, size, workspace);
      }
    }
    fill(layout, chosen.subspan(0, size), partition, workspace);
  }

  /// Appends a_i of the visual tokens.
  template <HasAttention S>
  void append_scores(const S& sequence, std::vector<double>& scores, Workspace& workspace) const {
    using T = AnswerOf<S>;
    const TokenLayout& layout = sequence.layout;
    require(layout.cls().has_value(), "prumerge: the layout has no [CLS] row");
    Workspace::Frame frame(workspace);
    const Span<T> row = workspace.take<T>(layout.visual_range().size());
    cls_row(sequence, row, workspace);
    detail::append_visual<T>(layout, row, scores);
  }
  /// How many of `scores` lie above their fence.
  OutlierShare outlier_share(Span<const double> scores, Workspace& workspace) const {
    check();
    return {count_outliers(scores, workspace), scores.size()};
  }

 private:
  void check() const {
    require(fence >= 0, "prumerge: fence must not be negative, got ", fence);
    require(min_tokens >= 0, "prumerge: min_tokens must not be negative, got ", min_tokens);
    require(max_tokens >= 0, "prumerge: max_tokens must not be negative, got ", max_tokens);
    require_in_range("prumerge: released_share", released_share, 0, 1);
    require(0 <= batch_share.outliers && batch_share.outliers <= batch_share.tokens,
            "prumerge: batch_share cannot be ", batch_share.outliers, " outliers of ",
            batch_share.tokens, " tokens");
  }

  template <class S, class T>
  void cls_row(const S& sequence, Span<T> row, Workspace& workspace) const {
    const Index cls = *sequence.layout.cls();
    const Range range = sequence.layout.visual_range();
    if (heads == HeadReduction::single) {
      if constexpr (requires { sequence.attention.as_single_head(); }) {
        detail::attention_row(sequence.attention.as_single_head(), cls, range, row, workspace);
        return;
      } else if constexpr (requires { sequence.attention.heads(); }) {
        require(sequence.attention.heads() == 1,
                "prumerge: attention as one head of the full width needs queries and keys; with "
                "attention of ",
                sequence.attention.heads(), " heads set heads = HeadReduction::mean");
      }
    }
    require(sequence.attention.kind() == AttentionKind::probabilities,
            "prumerge: the attention must hold probabilities");
    detail::attention_row(sequence.attention, cls, range, row, workspace);
  }

  /// How many finite scores lie above the fence. Quartiles by selection: O(N).
  Index count_outliers(Span<const double> scores, Workspace& workspace) const {
    Workspace::Frame frame(workspace);
    const Span<double> all = workspace.take<double>(scores.size());
    const auto end = std::copy_if(scores.begin(), scores.end(), all.begin(),
                                  [](double score) { return std::isfinite(score); });
    const Span<double> finite(all.data(), end - all.begin());
    if (finite.empty()) {
      return 0;
    }
    const auto quartile = [&](double share) {
      const double position = share * static_cast<double>(finite.size() - 1);
      const auto lower = static_cast<Index>(position);
      const auto at = finite.begin() + lower;
      std::nth_element(finite.begin(), at, finite.end());
      const double next = at + 1 == finite.end() ? *at : *std::min_element(at + 1, finite.end());
      return *at + (position - static_cast<double>(lower)) * (next - *at);
    };
    const double third = quartile(0.75);
    const double upper = third + fence * (third - quartile(0.25));
    return std::count_if(finite.begin(), finite.end(), [&](double score) { return score > upper; });
  }
  /// The share of n tokens.
  Index outlier_count(OutlierShare share, Index n) const {
    if (share.outliers == 0) {
      return 0;
    }
    if (count == OutlierCount::exact) {
      return n * share.outliers / share.tokens;
    }
    return static_cast<Index>(static_cast<double>(n) * (static_cast<double>(share.outliers) /
                                                        static_cast<double>(share.tokens)));
  }

  /// Distance of the raster samples: 1/share of the outliers (`once`), or a third of it (`triple`).
  Index sample_step(OutlierShare share) const {
    Index step = share.tokens / share.outliers;
    if (count == OutlierCount::truncated) {
      step = static_cast<Index>(
          1 / (static_cast<double>(share.outliers) / static_cast<double>(share.tokens)));
    }
    return std::max<Index>(1, samples == RasterSamples::triple ? step / 3 : step);
  }

  void fill(const TokenLayout& layout, Span<Index> chosen, Partition& partition,
            Workspace& workspace) const {
    const Index n = layout.visual_count();
    Workspace::Frame frame(workspace);
    const Span<bool> taken = detail::mark(n, chosen, workspace);
    if (order == TokenOrder::raster) {
      std::sort(chosen.begin(), chosen.end());
    }
    for (const Index v : chosen) {
      partition.preserved.push_back(layout.visual()[v]);
    }
    const Index distinct = std::count(taken.begin(), taken.end(), true);
    Index lost = chosen.size() - distinct;
    for (Index v = 0; v < n; ++v) {
      if (!taken[v] && lost-- <= 0) {
        partition.discarded.push_back(layout.visual()[v]);
      }
    }
  }
};

/// The batch rule of PruMerge's release: one fence over the scores of all images together, and one
/// share of outliers, which every image keeps of its own tokens by falling attention.
///
///   method.filter.batch_share = filter::batch_outlier_share(method.filter, images, workspace);
///   batch.plan(method, images, Budget::adaptive());
///
/// An image then depends on the others of its batch; without this it does not. Costs one more
/// attention row an image, and selections among all scores. Overwrites `workspace.partition`.
template <Items Sequences>
OutlierShare batch_outlier_share(const AttentionOutliers& filter, const Sequences& sequences,
                                 Workspace& workspace) {
  std::vector<double>& scores = workspace.partition.scores;
  workspace.partition.clear();
  for (Index i = 0; i < detail::item_count(sequences); ++i) {
    filter.append_scores(detail::item(sequences, i), scores, workspace);
  }
  return filter.outlier_share(scores, workspace);
}

}  // namespace tokenfold::filter
