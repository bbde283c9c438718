// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/core/select.hpp"
#include "tokenfold/core/stages.hpp"
#include "tokenfold/filter/attention_scores.hpp"

namespace tokenfold::filter {

/// Whose attention scores the visual tokens.
enum class QuestionScore {
  last_token,  ///< of the last text token alone (FastV as released)
  all_tokens,  ///< of all tokens that see them, averaged (FastV as published)
};
constexpr auto enum_names(QuestionScore) {
  return enum_names_of<QuestionScore>(
      {{"last_token", QuestionScore::last_token}, {"all_tokens", QuestionScore::all_tokens}});
}

/// FastV's filter (arXiv 2403.06764, section 4.1): preserves the visual tokens that the sequence
/// attends to most,
///
///   φ_i = (1/H) Σ_h A^h[last, i]          or          φ_i = mean_q A[q, i]
///
/// The paper describes the second; the release asks only the last row of the prompt. `last` is the
/// last row of text after the image, or of the sequence if there is none. The mean runs over all
/// rows, the token itself included.
///
/// Reads: attention.
/// Score: φ_i, high = preserved.
/// Cost: one attention row (or one wᵀA over all rows) and a selection.
struct QuestionAttention {
  QuestionScore score = QuestionScore::last_token;

  template <class Visit>
  void options(Visit&& visit) {
    visit("score", score, "attention from the last text token alone, or the mean over all tokens");
  }

  template <HasAttention S>
  void operator()(const S& sequence, const Budget& budget, Partition& partition,
                  Workspace& workspace) const {
    using T = AnswerOf<S>;
    const TokenLayout& layout = sequence.layout;
    const Index keep = budget.keep_count(layout.visual_count());
    if (score == QuestionScore::last_token) {
      const Range text = layout.text_after();
      const Index last = (text.empty() ? layout.tokens() : text.end) - 1;
      if (last >= 0) {
        detail::append_attention_row(sequence, last, partition.scores, workspace);
      }
    } else {
      Workspace::Frame frame(workspace);
      const Range range = layout.visual_range();
      const Index p = layout.tokens();
      const Span<T> weights = workspace.take_filled<T>(p, T(1) / static_cast<T>(p));
      const Span<T> mean = workspace.take<T>(range.size());
      sequence.attention.received({0, p}, weights, range, mean, workspace);
      detail::append_visual<T>(layout, mean, partition.scores);
    }
    preserve_highest(layout, keep, TokenOrder::raster, partition, workspace);
  }
};

}  // namespace tokenfold::filter
