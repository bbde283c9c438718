// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "tokenfold/compress/shares_by_target.hpp"

namespace tokenfold::compress {

/// FiCoCo's self-preserving compression (arXiv 2411.17686, eq. 7-8): every discarded token gives
/// itself away in shares that add up to 1, every preserved token averages what it is given with
/// itself at weight 1,
///
///   α_ij = C[i, j] / Σ_{j' ∈ J_i} C[i, j']
///   x_j  ← (x_j + Σ_i α_ij x_i) / (1 + Σ_i α_ij)
///
/// Negative strengths (cosines) count as none. A source without a positive one, or with one that
/// is not finite, gives nothing: it is dropped.
struct SelfPreserving {
  /// sum: x_j ← x_j + Σ_i α_ij x_i, not divided (the authors' FiCoCo-L code).
  Aggregate rule = Aggregate::mean;
  /// The most that recycled tokens may make up of a preserved one, Σα / (1 + Σα) ≤ share; beyond it
  /// the α of that token are scaled down. 1: no limit. The paper says that a preserved token keeps
  /// at least half of itself, which holds only while Σα ≤ 1; 0.5 makes it true. Only for the mean.
  double max_recycled_share = 1;

  template <class Visit>
  void options(Visit&& visit) {
    visit("rule", rule, "mean: divide by 1 + what came in; sum: do not");
    visit("max_recycled_share", max_recycled_share,
          "most that recycled tokens may make up of a preserved one (rule=mean)");
  }

  template <HasLayout S>
  void operator()(const S& sequence, const Partition& partition, const Correlation& correlation,
                  PlanWriter& writer, Workspace& workspace) const {
    require_in_range("self-preserving: max_recycled_share", max_recycled_share, 0, 1);
    Workspace::Frame frame(workspace);
    const auto links = detail::shares_by_target(sequence.layout, correlation, workspace);
    const double most = max_recycled_share / (1 - max_recycled_share);  // +∞ at 1
    for (const Token token : partition.preserved) {
      double recycled = 0;
      for (const auto& link : links[token]) {
        recycled += link.strength;
      }
      double scale = 1;
      if (rule == Aggregate::mean) {
        const double limited = std::min(recycled, most);
        scale = recycled > 0 ? limited / recycled : 1;
        recycled = limited;
      } else {
        recycled = 0;  // nothing to divide by but 1
      }
      writer.begin_row(token);
      writer.add(token, 1 / (1 + recycled));
      if (scale > 0) {  // 0 · NaN is not 0
        for (const auto& link : links[token]) {
          writer.add(link.source, scale * link.strength / (1 + recycled));
        }
      }
    }
  }
};

}  // namespace tokenfold::compress
