// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "tokenfold/core/types.hpp"

namespace tokenfold {

/// What a filter decides: which visual tokens stay and which go. All entries are rows of the
/// sequence.
struct Partition {
  /// In output order; ascending unless a method asks for its release's order.
  std::vector<Token> preserved;
  /// Ascending. A visual token that is in neither list is dropped without a trace.
  std::vector<Token> discarded;
  /// The preserved tokens that may take over what others knew, ascending; empty: all of them.
  std::vector<Token> targets;
  /// The score the filter ranked by, one per visual token (by ordinal); its meaning is the
  /// filter's.
  std::vector<double> scores;
  /// Per discarded token the target whose key is most like its own, or −1: from a filter that finds
  /// it anyway (bipartite matching); else empty.
  std::vector<Token> nearest = {};

  /// Who may take over: `targets`, or `preserved` if there are none.
  Span<const Token> absorbing() const { return targets.empty() ? preserved : targets; }

  void clear() {
    preserved.clear();
    discarded.clear();
    targets.clear();
    scores.clear();
    nearest.clear();
  }
};

}  // namespace tokenfold
