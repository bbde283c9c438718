// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <limits>

#include "tokenfold/core/stages.hpp"
#include "tokenfold/correlate/targets.hpp"

namespace tokenfold::detail {

/// Turns rows of raw strengths into links: what FiCoCo-V and FiCoCo-L share.
///
/// `strengths`: [discarded × visual range], row i for partition.discarded[i], columns as rows of
/// the sequence from the range's begin on; overwritten. `candidates`: rows that may become targets,
/// ascending; a token is never its own target (its strength counts as −∞). Logits go through
/// softmax over the candidates first, which leaves the order as it is and makes the strengths
/// positive. A row with a strength that is not finite, or without a positive target, gets no links:
/// that token is dropped. So is one whose score is not finite, since it may not be finite itself.
template <class T, correlate::TargetPolicy Targets>
void link_rows(MatrixView<T> strengths, const TokenLayout& layout, Span<const Token> candidates,
               AttentionKind kind, const Targets& targets, const Partition& partition,
               Correlation& correlation, Workspace& workspace) {
  targets.check();
  Workspace::Frame frame(workspace);
  const Span<const double> scores(partition.scores);
  const bool scored = scores.size() == layout.visual_count();
  const Index first = layout.visual_range().begin;
  const Span<T> row = workspace.take<T>(candidates.size());
  const Span<double> strength = workspace.take<double>(candidates.size());
  auto values = detail::as_vector(row).array();
  for (Index i = 0; i < strengths.rows(); ++i) {
    const Token source = partition.discarded[static_cast<std::size_t>(i)];
    correlation.begin_source(source);
    bool finite = !candidates.empty() && (!scored || std::isfinite(scores[layout.ordinal(source)]));
    Index others = 0;
    Index self = -1;
    for (Index c = 0; c < candidates.size(); ++c) {
      row[c] = strengths(i, candidates[c] - first);
      if (candidates[c] == source) {
        row[c] = -std::numeric_limits<T>::infinity();
        self = c;
      } else {
        finite = finite && std::isfinite(row[c]);
        ++others;
      }
    }
    if (!finite || others == 0) {
      continue;
    }
    if (kind == AttentionKind::logits) {
      values = (values - values.maxCoeff()).exp();
      if (self >= 0) {
        row[self] = 0;  // a vectorised exp(−∞) is tiny, not 0
      }
      values /= values.sum();
    }
    detail::as_vector<DoubleFor<T>>(strength) = detail::as_vector(row).template cast<double>();
    targets(
        Span<const double>(strength.data(), strength.size()),
        [&](Index c) {
          if (strength[c] > 0) {
            correlation.link(candidates[c], strength[c]);
          }
        },
        workspace);
  }
}

}  // namespace tokenfold::detail
