// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/core/options.hpp"
#include "tokenfold/core/stages.hpp"

namespace tokenfold {
namespace detail {

/// Refuses what a faulty filter could break later stages with: rows that are not visual tokens, and
/// tokens that are preserved and discarded at once.
inline void check_partition(const TokenLayout& layout, const Partition& partition,
                            Workspace& workspace) {
  Workspace::Frame frame(workspace);
  const Span<bool> preserved = workspace.take_filled<bool>(layout.tokens(), false);
  const Span<bool> discarded = workspace.take_filled<bool>(layout.tokens(), false);
  for (const Token row : partition.preserved) {
    require(layout.ordinal(row) >= 0, "filter: preserved row ", row, " is not a visual token");
    preserved[row] = true;
  }
  for (const Token row : partition.discarded) {
    require(layout.ordinal(row) >= 0, "filter: discarded row ", row, " is not a visual token");
    require(!preserved[row] && !discarded[row], "filter: row ", row,
            " is discarded twice or also preserved");
    discarded[row] = true;
  }
  for (const Token row : partition.targets) {
    require(0 <= row && row < layout.tokens() && preserved[row], "filter: target row ", row,
            " is not preserved");
  }
}

}  // namespace detail

/// Filter, correlate, compress: a reduction method. An aggregate of its stages, so that
/// `Pipeline<F, C, M> method{.filter = {.lambda = 0.5}}` changes one option and leaves the others.
template <class FilterStage, class CorrelateStage, class CompressStage>
struct Pipeline {
  // Stages without options take no room; gcc 12 else warns that theirs is not initialised.
  [[no_unique_address]] FilterStage filter = {};
  [[no_unique_address]] CorrelateStage correlate = {};
  [[no_unique_address]] CompressStage compress = {};

  /// Decides the reduction of `sequence` under `budget` into `plan`; moves no tokens.
  /// Allocates nothing once `workspace` and `plan` have seen the largest shape.
  template <HasLayout S>
  void plan(const S& sequence, const Budget& budget, Workspace& workspace,
            ReductionPlan& plan) const {
    Workspace::Frame frame(workspace);
    Partition& partition = workspace.partition;
    Correlation& correlation = workspace.correlation;
    partition.clear();
    correlation.clear();
    filter(sequence, budget, partition, workspace);
    detail::check_partition(sequence.layout, partition, workspace);
    correlate(sequence, partition, correlation, workspace);
    PlanWriter writer(sequence.layout, plan);
    compress(sequence, partition, correlation, writer, workspace);
    writer.finish(workspace);
  }

  /// Lists the options of all stages; see options.hpp. A name that two stages share sets both.
  template <class Visit>
  void options(Visit&& visit) {
    detail::visit_options(filter, visit);
    detail::visit_options(correlate, visit);
    detail::visit_options(compress, visit);
  }

  /// The same for callers who do not reuse memory.
  template <HasLayout S>
  ReductionPlan plan(const S& sequence, const Budget& budget) const {
    Workspace workspace;
    ReductionPlan result;
    plan(sequence, budget, workspace, result);
    return result;
  }
};

}  // namespace tokenfold
