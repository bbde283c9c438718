// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/compress/shares_by_target.hpp"

namespace tokenfold::compress {

/// VisionZip's merging (arXiv 2412.04467, as released): a target plus the mean of its
/// members,
///
///   x_j ← x_j + Σ_i α_ij x_i / Σ_i α_ij
///
/// α_ij the share of source i that goes to target j: 1 with one target each. A target with members
/// is so about twice as long as other tokens; one without stays as it is.
struct AddMean {
  /// mean: over the target and its members, x_j ← (x_j + Σ_i α_ij x_i) / (1 + Σ_i α_ij).
  Aggregate rule = Aggregate::sum;

  template <class Visit>
  void options(Visit&& visit) {
    visit("rule", rule, "sum: target plus mean of its members; mean: of target and members");
  }

  template <HasLayout S>
  void operator()(const S& sequence, const Partition& partition, const Correlation& correlation,
                  PlanWriter& writer, Workspace& workspace) const {
    Workspace::Frame frame(workspace);
    const auto links = detail::shares_by_target(sequence.layout, correlation, workspace);
    for (const Token token : partition.preserved) {
      double members = 0;
      for (const auto& link : links[token]) {
        members += link.strength;
      }
      const bool average = rule == Aggregate::mean;
      writer.begin_row(token);
      writer.add(token, average ? 1 / (1 + members) : 1);
      for (const auto& link : links[token]) {
        writer.add(link.source, link.strength / (average ? 1 + members : members));
      }
    }
  }
};

}  // namespace tokenfold::compress
