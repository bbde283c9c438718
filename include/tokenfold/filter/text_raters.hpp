// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "tokenfold/core/select.hpp"
#include "tokenfold/core/stages.hpp"
#include "tokenfold/core/text.hpp"
#include "tokenfold/filter/attention_scores.hpp"
#include "tokenfold/filter/numerical_rank.hpp"
#include "tokenfold/filter/raters.hpp"

namespace tokenfold::filter {

/// SparseVLM's filter (arXiv 2410.04417): preserves the visual tokens that the raters attend to
/// most,
///
///   p_i = mean_{t ∈ raters} (1/H) Σ_h A^h[t, i]
///
/// How many is the budget's business, as in the release. `Budget::adaptive()` applies the paper's
/// rule instead: of N tokens it deletes
///
///   N_del = ⌊λ · (N − rank(A[text after the image, visual]))⌋
///
/// where the rank is at most the number M of text tokens, so that hardly more than M tokens survive
/// at λ = 1. The rank of a matrix of floats is a matter of tolerance; see `rank_tolerance`.
///
/// Reads: attention, raters (unless all text rates), the text rows of the layout.
/// Score: p_i, high = preserved.
/// Cost: one attention row a rater and a selection; adaptive: M rows and M² · N multiply-adds more.
struct TextRaters {
  RaterSource raters = RaterSource::given;
  /// λ: the share of the redundant tokens that an adaptive budget deletes.
  double rank_factor = 1;
  /// What lies within this share of the longest row from the span of the others adds no rank; 0:
  /// max(M, N) times the machine epsilon of the attention's type.
  double rank_tolerance = 0;

  template <HasAttention S>
  void operator()(const S& sequence, const Budget& budget, Partition& partition,
                  Workspace& workspace) const {
    using T = AnswerOf<S>;
    require_in_range("text raters: rank_factor", rank_factor, 0, 1);
    require_in_range("text raters: rank_tolerance", rank_tolerance, 0, 1);
    const TokenLayout& layout = sequence.layout;
    const Index n = layout.visual_count();
    const Index keep =
        budget.is_adaptive() ? n - redundant_tokens(sequence, workspace) : budget.keep_count(n);
    if (n == 0) {
      return;
    }
    Workspace::Frame frame(workspace);
    const Span<const Token> rows = detail::rater_rows(sequence, raters, workspace);
    const auto [first, last] = std::minmax_element(rows.begin(), rows.end());
    const Range queries{*first, Index{*last} + 1};
    const Span<T> weights = workspace.take_filled<T>(queries.size(), T(0));
    for (const Token row : rows) {
      weights[row - queries.begin] += T(1) / static_cast<T>(rows.size());
    }
    const Span<T> mean = workspace.take<T>(layout.visual_range().size());
    sequence.attention.received(queries, weights, layout.visual_range(), mean, workspace);
    detail::append_visual<T>(layout, mean, partition.scores);
    preserve_highest(layout, keep, TokenOrder::raster, partition, workspace);
  }

  template <class Visit>
  void options(Visit&& visit) {
    visit("raters", raters, "who rates the visual tokens");
    visit("rank_factor", rank_factor, "share of N - rank that an adaptive budget deletes");
    visit("rank_tolerance", rank_tolerance, "relative tolerance of the rank, 0 = by precision");
  }

 private:
  /// N_del of the rank rule.
  template <HasAttention S>
  Index redundant_tokens(const S& sequence, Workspace& workspace) const {
    using T = AnswerOf<S>;
    const TokenLayout& layout = sequence.layout;
    const Index n = layout.visual_count();
    if (n == 0) {
      return 0;
    }
    Workspace::Frame frame(workspace);
    const Span<const Token> text = detail::rater_rows(sequence, RaterSource::all_text, workspace);
    const Range range = layout.visual_range();
    const MatrixView<T> block(workspace.take<T>(text.size() * range.size()).data(), text.size(),
                              range.size());
    sequence.attention.rows(text, range, block, workspace);
    const MatrixView<double> visual(workspace.take<double>(text.size() * n).data(), text.size(), n);
    for (Index t = 0; t < text.size(); ++t) {
      for (Index v = 0; v < n; ++v) {
        const auto value = static_cast<double>(block(t, layout.visual()[v] - range.begin));
        visual(t, v) = detail::finite_or(value, 0);
      }
    }
    const double by_precision = static_cast<double>(std::max(n, text.size())) *
                                static_cast<double>(std::numeric_limits<T>::epsilon());
    const Index rank =
        detail::numerical_rank(visual, rank_tolerance > 0 ? rank_tolerance : by_precision);
    return static_cast<Index>(rank_factor * static_cast<double>(n - rank));
  }
};

}  // namespace tokenfold::filter
