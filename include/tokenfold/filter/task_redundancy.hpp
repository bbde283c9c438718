// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/core/select.hpp"
#include "tokenfold/core/stages.hpp"
#include "tokenfold/core/text.hpp"
#include "tokenfold/filter/local_penalty.hpp"

namespace tokenfold::filter {

/// FiCoCo-L's filter (arXiv 2411.17686, eq. 3): discards the visual tokens that their peers predict
/// and that the question does not look at,
///
///   s_i = β · mean_{j ∈ V} A(i, j) − (1 − β) · mean_{k ∈ text} A(i, k)
///
/// Algorithm 2 of the paper prints the second sum without 1/M, eq. 3 has it; the mean is used.
///
/// Reads: attention, the text rows of the layout; the grid only if the penalty is on.
/// Score: high = discarded first.
/// Cost: two wᵀA (or A·u) over the visual and the text rows.
struct TaskRedundancy {
  double beta = 0.6;
  /// Under a causal mask a visual token gives nothing to the text that follows it, so the default
  /// reads what it receives. The authors' code uses `given`, on logits before the mask.
  AttentionDirection direction = AttentionDirection::received;
  TextTokens text = TextTokens::after_image;
  /// The authors' code sums the visual term (N times as large) and averages the text term.
  Aggregate vision_term = Aggregate::mean;
  /// The authors' code never discards the first visual token.
  bool protect_first = false;
  /// Off unless asked for.
  LocalPenalty penalty = {.coefficient = 1};

  template <class Visit>
  void options(Visit&& visit) {
    visit("beta", beta, "weight of the vision term against the text");
    visit("direction", direction, "attention between two tokens: received or given");
    visit("text", text, "the text listened to: after the image, or all");
    visit("vision_term", vision_term, "mean or sum over visual tokens");
    visit("protect_first", protect_first, "never discard the first visual token");
    detail::visit_options(penalty, visit);
  }

  template <HasAttention S>
  void operator()(const S& sequence, const Budget& budget, Partition& partition,
                  Workspace& workspace) const {
    using T = AnswerOf<S>;
    const TokenLayout& layout = sequence.layout;
    require_in_range("ficoco-l: beta", beta, 0, 1);
    const auto text_rows = detail::text_ranges(layout, text, "ficoco-l");
    const Index text_count = text_rows[0].size() + text_rows[1].size();
    const Index visual = layout.visual_count();
    const Index discard = budget.discard_count(visual);
    require(!protect_first || discard < visual || visual == 0, "ficoco-l: cannot discard all ",
            visual, " visual tokens while the first one is protected");

    Workspace::Frame frame(workspace);
    const Range range = layout.visual_range();
    const Span<T> vision = workspace.take<T>(range.size());
    detail::mean_attention(sequence, direction, range, range,
                           detail::visual_mean_weights<T>(layout, workspace), vision, workspace);
    const Span<T> task = workspace.take_filled<T>(range.size(), T(0));
    const Span<T> part = workspace.take<T>(range.size());
    for (const Range rows : text_rows) {
      if (!rows.empty()) {
        const Span<T> weights =
            workspace.take_filled<T>(rows.size(), T(1) / static_cast<T>(text_count));
        detail::mean_attention(sequence, direction, range, rows, weights, part, workspace);
        detail::as_vector(task) += detail::as_vector(part);
      }
    }

    const double vision_scale = vision_term == Aggregate::sum ? static_cast<double>(visual) : 1.0;
    for (const Token row : layout.visual()) {
      const Index i = row - range.begin;
      partition.scores.push_back(beta * vision_scale * static_cast<double>(vision[i]) -
                                 (1 - beta) * static_cast<double>(task[i]));
    }
    apply_local_penalty(layout, penalty, partition.scores, workspace);
    discard_highest(layout, discard, partition, workspace, protect_first ? 0 : -1);
  }
};

}  // namespace tokenfold::filter
