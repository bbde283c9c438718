// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/core/layout.hpp"
#include "tokenfold/core/plan.hpp"

namespace tokenfold {

/// Carries a reduction from layer to layer: what the rows of the current sequence are, which grid
/// cells survive, and the composed map back to the tokens of the first layer.
///
///   Survivors survivors(layout);
///   for (each layer) {
///     method.plan(Sequence(survivors.layout(), attention), budget, workspace, plan);
///     plan.apply(tokens, shorter);
///     survivors.advance(plan, workspace);
///   }
class Survivors {
 public:
  explicit Survivors(TokenLayout layout)
      : layout_(std::move(layout)),
        total_(ReductionPlan::identity(layout_.tokens(), layout_.visual_range())) {}

  /// The layout of the sequence as it is now, for the next step.
  const TokenLayout& layout() const { return layout_; }

  /// From the first layer's tokens to the current ones: W_l ⋯ W_2 · W_1. Its `kept()` are the
  /// original rows, its columns and shares the sources of every current token.
  const ReductionPlan& total() const { return total_; }

  /// Takes the step that `plan` describes. Synthetic tokens count as visual from here on, without a
  /// cell.
  void advance(const ReductionPlan& plan, Workspace& workspace) {
    require(plan.input_tokens() == layout_.tokens(), "survivors: the plan takes ",
            plan.input_tokens(), " tokens, the sequence has ", layout_.tokens());
    // Every row that is not visual survives, so a range of text only moves.
    const Span<const Token> kept = plan.kept();
    const auto row_after = [&](Index row) {
      const auto found = std::find(kept.begin(), kept.end(), static_cast<Token>(row));
      require(found != kept.end(), "survivors: the plan drops row ", row, ", which is not visual");
      return Index{found - kept.begin()};
    };
    const auto moved = [&](Range text) {
      const Index begin = text.empty() ? 0 : row_after(text.begin);
      for (Index i = 1; i < text.size(); ++i) {
        require(begin + i < kept.size() && kept[begin + i] == text.begin + i,
                "survivors: the plan drops row ", text.begin + i, ", which is not visual");
      }
      return text.empty() ? Range{} : Range{begin, begin + text.size()};
    };
    const Range text_before = moved(layout_.text_before_);
    const Range text_after = moved(layout_.text_after_);
    const auto cls = layout_.cls_ ? std::optional(row_after(*layout_.cls_)) : std::nullopt;

    // Nothing is refused from here on.
    compose(total_, plan, workspace, next_total_);
    std::swap(total_, next_total_);
    next_cells_.clear();
    next_visual_.clear();
    for (Index row = plan.visual().begin; row < plan.visual().end; ++row) {
      const Index ordinal = kept[row] == no_token ? -1 : layout_.ordinal(kept[row]);
      if (kept[row] == no_token || ordinal >= 0) {
        next_visual_.push_back(static_cast<Token>(row));
        next_cells_.push_back(kept[row] == no_token ? no_token : layout_.cells()[ordinal]);
      }
    }
    layout_.text_before_ = text_before;
    layout_.text_after_ = text_after;
    layout_.cls_ = cls;
    layout_.tokens_ = plan.output_tokens();
    std::swap(layout_.visual_, next_visual_);
    std::swap(layout_.cells_, next_cells_);
    layout_.padding_.clear();  // no plan passes it on
    layout_.visual_range_ = layout_.visual_.empty()
                                ? Range{plan.visual().begin, plan.visual().begin}
                                : Range{layout_.visual_.front(), Index{layout_.visual_.back()} + 1};
  }
  void advance(const ReductionPlan& plan) {
    Workspace workspace;
    advance(plan, workspace);
  }

 private:
  TokenLayout layout_;
  ReductionPlan total_;
  ReductionPlan next_total_;
  std::vector<Token> next_visual_;
  std::vector<Token> next_cells_;
};

}  // namespace tokenfold
