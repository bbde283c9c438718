// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "tokenfold/core/types.hpp"

namespace tokenfold {

/// What a correlate stage decides: for every source token, the targets that take over its
/// information and how strongly it is tied to each (CSR, one row per source). A source without
/// links is simply dropped. Strengths are relative to one source or absolute, as the compress stage
/// that reads them expects.
class Correlation {
 public:
  void clear() {
    sources_.clear();
    ends_.clear();
    targets_.clear();
    strengths_.clear();
  }

  /// Starts the links of `source` (a row of the sequence). Each source once.
  void begin_source(Token source) {
    sources_.push_back(source);
    ends_.push_back(static_cast<Token>(targets_.size()));
  }
  /// The target that is synthetic token g = 0, 1, … of the compress stage rather than a row.
  static constexpr Token extra_token(Index g) { return static_cast<Token>(-1 - g); }

  /// Ties the current source to the visual token in row `target`, or to an `extra_token`.
  void link(Token target, double strength) {
    assert(!sources_.empty());
    targets_.push_back(target);
    strengths_.push_back(strength);
    ++ends_.back();
  }

  Index source_count() const { return static_cast<Index>(sources_.size()); }
  Index link_count() const { return static_cast<Index>(targets_.size()); }
  Token source(Index i) const { return Span<const Token>(sources_)[i]; }
  Span<const Token> targets(Index i) const {
    return Span<const Token>(targets_).subspan(begin(i), end(i) - begin(i));
  }
  Span<const double> strengths(Index i) const {
    return Span<const double>(strengths_).subspan(begin(i), end(i) - begin(i));
  }

 private:
  Index end(Index i) const { return Span<const Token>(ends_)[i]; }
  Index begin(Index i) const { return i == 0 ? 0 : end(i - 1); }

  std::vector<Token> sources_;
  std::vector<Token> ends_;
  std::vector<Token> targets_;
  std::vector<double> strengths_;
};

}  // namespace tokenfold
