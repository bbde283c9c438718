// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "tokenfold/core/sequence.hpp"

/// How much each visual token matters by itself, for filters that weigh it against coverage.
namespace tokenfold::detail {

/// The sequence has `relevance` or `attention`.
template <class S>
concept HasSaliency = HasRelevance<S> || HasAttention<S>;

/// By visual ordinal: the resource `relevance` if there is one, else what all heads of [CLS] pay to
/// each token, Σ_h A^h[cls, i] (the mean, if the source does not tell its heads). Memory from
/// `workspace`. Throws if there is neither; `what` is who asks.
template <HasSaliency S>
Span<double> saliency(const S& sequence, const char* what, Workspace& workspace) {
  const TokenLayout& layout = sequence.layout;
  const Span<double> result = workspace.take<double>(layout.visual_count());
  Workspace::Frame frame(workspace);
  if constexpr (HasRelevance<S>) {
    if (!sequence.relevance.empty()) {
      require(sequence.relevance.matrix.cols() == 1, what,
              ": relevance must be one number per row");
      const auto given = visual_rows(layout, sequence.relevance, "relevance", workspace);
      for (Index v = 0; v < result.size(); ++v) {
        result[v] = static_cast<double>(given(v, 0));
      }
      return result;
    }
  }
  if constexpr (HasAttention<S>) {
    require(layout.cls().has_value(), what, ": give relevance, or a layout with a [CLS] row");
    require(sequence.attention.kind() == AttentionKind::probabilities, what,
            ": the attention must hold probabilities");
    double heads = 1;
    if constexpr (requires { sequence.attention.heads(); }) {
      heads = static_cast<double>(sequence.attention.heads());
    }
    using T = AnswerOf<S>;
    const Range range = layout.visual_range();
    const Span<T> row = workspace.take<T>(range.size());
    attention_row(sequence.attention, *layout.cls(), range, row, workspace);
    for (Index v = 0; v < result.size(); ++v) {
      result[v] = heads * static_cast<double>(row[layout.visual()[v] - range.begin]);
    }
    return result;
  }
  fail(std::string(what) + ": there is neither relevance nor attention");
}

}  // namespace tokenfold::detail
