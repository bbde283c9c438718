// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "tokenfold/core/sequence.hpp"

/// Attention as scores: what several filters rank by.
namespace tokenfold::detail {

/// Appends the visual tokens' entries of `values`, which covers the layout's visual range.
template <class T>
void append_visual(const TokenLayout& layout, Span<const T> values, std::vector<double>& scores) {
  for (const Token row : layout.visual()) {
    scores.push_back(static_cast<double>(values[row - layout.visual_range().begin]));
  }
}

/// Appends what query row `query` pays to each visual token.
template <HasAttention S>
void append_attention_row(const S& sequence, Index query, std::vector<double>& scores,
                          Workspace& workspace) {
  using T = AnswerOf<S>;
  Workspace::Frame frame(workspace);
  const Range range = sequence.layout.visual_range();
  const Span<T> row = workspace.take<T>(range.size());
  attention_row(sequence.attention, query, range, row, workspace);
  append_visual<T>(sequence.layout, row, scores);
}

}  // namespace tokenfold::detail
