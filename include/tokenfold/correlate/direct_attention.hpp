// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/correlate/link_rows.hpp"

namespace tokenfold::correlate {

/// FiCoCo-V's correlate stage (arXiv 2411.17686, eq. 4): a discarded token i is tied to the
/// preserved token j by the attention it pays, C[i, j] = A[i, j], and recycled into the targets
/// that `targets` picks from row i.
///
/// Reads: attention. Only the rows of the discarded tokens are ever asked for.
/// Strengths: C of the chosen targets (after softmax over the preserved tokens if the source holds
/// logits).
template <TargetPolicy Targets = QuantileTargets>
struct DirectAttention {
  Targets targets = {};

  template <class Visit>
  void options(Visit&& visit) {
    detail::visit_options(targets, visit);
  }

  template <HasAttention S>
  void operator()(const S& sequence, const Partition& partition, Correlation& correlation,
                  Workspace& workspace) const {
    using T = AnswerOf<S>;
    Workspace::Frame frame(workspace);
    const Range range = sequence.layout.visual_range();
    const Span<const Token> discarded(partition.discarded);
    const MatrixView<T> strengths(workspace.take<T>(discarded.size() * range.size()).data(),
                                  discarded.size(), range.size());
    sequence.attention.rows(discarded, range, strengths, workspace);
    detail::link_rows(strengths, sequence.layout, Span<const Token>(partition.preserved),
                      sequence.attention.kind(), targets, partition, correlation, workspace);
  }
};

}  // namespace tokenfold::correlate
