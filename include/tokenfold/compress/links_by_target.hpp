// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/core/stages.hpp"

namespace tokenfold::detail {

/// The links of a correlation, grouped by the token that receives them, sources in the
/// correlation's order.
class LinksByTarget {
 public:
  struct Link {
    Token source;
    double strength;
  };

  /// Memory from the enclosing workspace frame. `strength(i, l)` gives the value to store for link
  /// l of source i; links whose value is not positive are left out.
  template <class Strength>
  LinksByTarget(Index tokens, const Correlation& correlation, Strength&& strength,
                Workspace& workspace)
      : ends_(workspace.take_filled<Token>(tokens + 1, 0)) {
    const auto for_each = [&](auto&& use) {
      for (Index i = 0; i < correlation.source_count(); ++i) {
        const Span<const Token> targets = correlation.targets(i);
        for (Index l = 0; l < targets.size(); ++l) {
          const double value = strength(i, l);
          if (value > 0) {
            require(targets[l] >= 0 && targets[l] < tokens, "correlate: row ", targets[l],
                    " does not exist and cannot be a target");
            use(targets[l], Link{correlation.source(i), value});
          }
        }
      }
    };
    for_each([&](Token target, Link) { ++ends_[target + 1]; });
    for (Index t = 0; t < tokens; ++t) {
      ends_[t + 1] += ends_[t];
    }
    links_ = workspace.take<Link>(ends_[tokens]);
    // Filling moves every start to its end, which is the start of the next target.
    for_each([&](Token target, Link link) { links_[ends_[target]++] = link; });
  }

  Span<const Link> operator[](Token target) const {
    const Index begin = target == 0 ? 0 : Index{ends_[target - 1]};
    return {links_.data() + begin, ends_[target] - begin};
  }

 private:
  Span<Token> ends_;
  Span<Link> links_;
};

}  // namespace tokenfold::detail
