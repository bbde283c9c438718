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
  /// The score the filter ranked by, one per visual token (by ordinal); its meaning is the
  /// filter's.
  std::vector<double> scores;

  void clear() {
    preserved.clear();
    discarded.clear();
    scores.clear();
  }
};

}  // namespace tokenfold
