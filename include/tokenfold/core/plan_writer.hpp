// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>

#include "tokenfold/core/layout.hpp"
#include "tokenfold/core/plan.hpp"

namespace tokenfold {

/// What a compress stage writes W with: one output row after another, visual rows only. Everything
/// else but padding is passed through by the writer, in order, synthetic tokens standing right
/// after the visual rows. Refuses rows that are not visual tokens and weights that are not finite,
/// so that a faulty stage cannot make a plan that reads outside the sequence or makes NaN of finite
/// tokens.
class PlanWriter {
 public:
  PlanWriter(const TokenLayout& layout, ReductionPlan& plan) : layout_(layout), plan_(plan) {
    plan.clear(layout.tokens(), layout.visual_range());
    pass_through_until(layout.visual_range().begin);
    plan.visual_out_.begin = plan.output_tokens();
  }

  /// Starts the row that continues the preserved token in row `kept`.
  void begin_row(Token kept) {
    require(layout_.ordinal(kept) >= 0, "compress: row ", kept, " is not a visual token");
    plan_.end_row();
    pass_through_until(kept);
    plan_.begin_row(kept);
    in_row_ = true;
  }
  /// Starts a synthetic row.
  void begin_extra_row() {
    plan_.end_row();
    pass_through_until(layout_.visual_range().end);
    plan_.begin_row(no_token);
    in_row_ = true;
  }
  /// Writes the row that is the preserved token in row `kept` as it is.
  void copy_row(Token kept) {
    begin_row(kept);
    plan_.add(kept, 1);
  }
  /// Adds weight · (the token in row `input`) to the current row, in any order.
  void add(Token input, double weight) {
    require(in_row_, "compress: begin a row before adding to it");
    require(layout_.ordinal(input) >= 0, "compress: row ", input, " is not a visual token");
    require(std::isfinite(static_cast<float>(weight)), "compress: the weight of row ", input,
            " is not finite");
    plan_.add(input, static_cast<float>(weight));
  }
  /// Completes the plan.
  void finish(Workspace& workspace) {
    plan_.end_row();
    pass_through_until(layout_.visual_range().end);
    plan_.visual_out_.end = plan_.output_tokens();
    pass_through_until(layout_.tokens());
    plan_.finish(workspace);
    in_row_ = false;
  }

 private:
  /// Copies the rows before `end` that are neither visual tokens nor padding and were not copied
  /// yet.
  void pass_through_until(Index end) {
    const Span<const Token> padding = layout_.padding();
    for (; next_ < end; ++next_) {
      if (layout_.ordinal(next_) < 0 &&
          !std::binary_search(padding.begin(), padding.end(), static_cast<Token>(next_))) {
        plan_.begin_row(static_cast<Token>(next_));
        plan_.add(static_cast<Token>(next_), 1.0f);
      }
    }
  }

  const TokenLayout& layout_;
  ReductionPlan& plan_;
  Index next_ = 0;
  bool in_row_ = false;
};

}  // namespace tokenfold
