// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/compress/fused_token.hpp"

namespace tokenfold::compress {
/// EViT's inattentive token fusion (arXiv 2202.07800, eq. 4): preserved tokens stay as they are,
/// what was discarded is summed into one synthetic token, weighted by the scores of the filter,
///
///   x_fused = Σ_{i discarded} a_i x_i
///
/// not divided by Σ a_i, so its length falls with the attention that was discarded.
///
/// Reads: the scores of the partition.
struct FuseDiscarded {
  /// false: no synthetic token, what is discarded is dropped and plans only select.
  bool fuse = true;
  /// mean: divided by Σ a_i.
  Aggregate rule = Aggregate::sum;

  template <class Visit>
  void options(Visit&& visit) {
    visit("fuse", fuse, "append one token made of what was discarded");
    visit("rule", rule, "fuse: sum of the discarded, weighted by their scores, or weighted mean");
  }

  template <HasLayout S>
  void operator()(const S& sequence, const Partition& partition, const Correlation&,
                  PlanWriter& writer, Workspace&) const {
    detail::check_scores(sequence.layout, partition);
    for (const Token token : partition.preserved) {
      writer.copy_row(token);
    }
    if (fuse) {
      detail::write_fused_token(sequence.layout, partition, rule, writer);
    }
  }
};

}  // namespace tokenfold::compress
