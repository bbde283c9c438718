// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "tokenfold/core/select.hpp"
#include "tokenfold/core/stages.hpp"
#include "tokenfold/filter/attention_scores.hpp"

namespace tokenfold::filter {

/// Order of dominant and contextual tokens.
enum class DominantOrder {
  raster,          ///< ascending rows, both kinds mixed
  dominant_first,  ///< dominant ascending, then contextual ascending (released)
};
constexpr auto enum_names(DominantOrder) {
  return enum_names_of<DominantOrder>(
      {{"raster", DominantOrder::raster}, {"dominant_first", DominantOrder::dominant_first}});
}

/// VisionZip's filter (arXiv 2412.04467, section 3): preserves the *dominant* tokens, those that
/// [CLS] attends to most, and as *contextual* tokens a regular sample of what is left,
///
///   s_i = (1/H) Σ_h A^h[cls, i]           without [CLS]: s_i = mean_j A[j, i]
///   U = what is not dominant, in raster order
///   contextual = U_0, U_step, U_2·step, … (T_c of them)     step = max(1, ⌊|U| / T_c⌋)
///
/// The mean over j runs over the visual tokens, the token itself included. Only contextual tokens
/// are targets of the correlate stage. With no contextual tokens nobody may take anything over, so
/// the others are dropped without a trace: they are not even listed as discarded.
///
/// The budget counts visual tokens, dominant and contextual; the paper's number of dominant tokens
/// includes [CLS]. Tokens whose attention is not finite are dominant or contextual last of all.
///
/// Reads: attention (one row; without [CLS] one wᵀA over all visual rows).
/// Score: s_i, high = dominant.
/// Cost: that, and a selection.
struct DominantContextual {
  /// T_c, how many of the preserved tokens are contextual; −1: the paper's share, 10 of 64 rows,
  /// [CLS] counted as one: 10 of 63, 20 of 127, 30 of 191 visual tokens.
  Index contextual = -1;
  DominantOrder order = DominantOrder::raster;

  template <class Visit>
  void options(Visit&& visit) {
    visit("contextual", contextual, "contextual tokens among the preserved, -1: 10 in 64");
    visit("order", order, "all preserved tokens in raster order, or the dominant ones first");
  }

  template <HasAttention S>
  void operator()(const S& sequence, const Budget& budget, Partition& partition,
                  Workspace& workspace) const {
    const TokenLayout& layout = sequence.layout;
    const Index n = layout.visual_count();
    const Index keep = budget.keep_count(n);
    const Index sampled = contextual_count(keep, layout.cls().has_value());
    append_scores(sequence, partition.scores, workspace);

    Workspace::Frame frame(workspace);
    const Span<const double> scores(partition.scores);
    const auto rank = [&](Index v) {
      return detail::finite_or(scores[v], -std::numeric_limits<double>::infinity());
    };
    const Span<bool> dominant = detail::mark_highest(n, keep - sampled, rank, workspace);
    const Span<Index> sample = regular_sample(scores, dominant, sampled, workspace);
    fill(layout, dominant, sample, partition);
  }

 private:
  Index contextual_count(Index keep, bool cls) const {
    require(contextual >= -1 && contextual <= keep, "visionzip: ", contextual,
            " contextual tokens were asked for among ", keep, " preserved ones");
    const Index rows = keep + (cls ? 1 : 0);
    return contextual >= 0 ? contextual : std::min(keep, (10 * rows + 32) / 64);  // to the nearest
  }

  template <class S>
  static void append_scores(const S& sequence, std::vector<double>& scores, Workspace& workspace) {
    using T = AnswerOf<S>;
    const TokenLayout& layout = sequence.layout;
    if (layout.cls()) {
      detail::append_attention_row(sequence, *layout.cls(), scores, workspace);
      return;
    }
    Workspace::Frame frame(workspace);
    const Range range = layout.visual_range();
    const Span<T> mean = workspace.take<T>(range.size());
    detail::mean_attention(sequence, AttentionDirection::received, range, range,
                           Span<const T>(detail::visual_mean_weights<T>(layout, workspace)), mean,
                           workspace);
    detail::append_visual<T>(layout, mean, scores);
  }

  /// `count` ordinals at even distances of those that are not dominant, ascending. Tokens whose
  /// score is not finite take part only as far as there are too few others.
  static Span<Index> regular_sample(Span<const double> scores, Span<const bool> dominant,
                                    Index count, Workspace& workspace) {
    const Index n = scores.size();
    const Span<Index> rest = workspace.take<Index>(n);
    Index size = 0;
    for (Index v = 0; v < n; ++v) {
      if (!dominant[v] && std::isfinite(scores[v])) {
        rest[size++] = v;
      }
    }
    for (Index v = 0; v < n && size < count; ++v) {
      if (!dominant[v] && !std::isfinite(scores[v])) {
        rest[size++] = v;
      }
    }
    const Index step = count > 0 ? std::max<Index>(1, size / count) : 1;
    for (Index i = 0; i < count; ++i) {
      rest[i] = rest[i * step];
    }
    const Span<Index> sample = rest.subspan(0, count);
    std::sort(sample.begin(), sample.end());
    return sample;
  }

  /// `stays`: the dominant tokens; the sample is added to them.
  void fill(const TokenLayout& layout, Span<bool> stays, Span<const Index> sample,
            Partition& partition) const {
    const auto preserve_marked = [&] {
      for (Index v = 0; v < stays.size(); ++v) {
        if (stays[v]) {
          partition.preserved.push_back(layout.visual()[v]);
        }
      }
    };
    if (order == DominantOrder::dominant_first) {
      preserve_marked();
    }
    for (const Index v : sample) {
      stays[v] = true;
      partition.targets.push_back(layout.visual()[v]);
    }
    if (order == DominantOrder::raster) {
      preserve_marked();
    } else {
      partition.preserved.insert(partition.preserved.end(), partition.targets.begin(),
                                 partition.targets.end());
    }
    if (sample.empty() && !partition.preserved.empty()) {
      return;  // a discarded token would be given to the dominant ones
    }
    for (Index v = 0; v < stays.size(); ++v) {
      if (!stays[v]) {
        partition.discarded.push_back(layout.visual()[v]);
      }
    }
  }
};

}  // namespace tokenfold::filter
