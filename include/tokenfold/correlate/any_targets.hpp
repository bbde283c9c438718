// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/core/options.hpp"
#include "tokenfold/correlate/targets.hpp"

namespace tokenfold::correlate {

enum class TargetRule { quantile, fixed, relative, nucleus };
constexpr auto enum_names(TargetRule) {
  return enum_names_of<TargetRule>({{"quantile", TargetRule::quantile},
                                    {"fixed", TargetRule::fixed},
                                    {"relative", TargetRule::relative},
                                    {"nucleus", TargetRule::nucleus}});
}

/// Every target policy behind one type, for callers who choose at run time.
struct AnyTargets {
  TargetRule rule = TargetRule::quantile;
  QuantileTargets quantile = {};
  FixedTargets fixed = {};
  RelativeTargets relative = {};
  NucleusTargets nucleus = {};

  template <class Visit>
  void options(Visit&& visit) {
    visit("targets", rule, "which candidates take over a discarded token");
    quantile.options(visit);
    fixed.options(visit);
    relative.options(visit);
    nucleus.options(visit);
  }

  void check() const {
    use([](const auto& targets) { targets.check(); });
  }
  template <class Choose>
  void operator()(Span<const double> strengths, Choose&& choose, Workspace& workspace) const {
    use([&](const auto& targets) { targets(strengths, choose, workspace); });
  }

 private:
  template <class Use>
  void use(Use&& with) const {
    switch (rule) {
      case TargetRule::quantile:
        return with(quantile);
      case TargetRule::fixed:
        return with(fixed);
      case TargetRule::relative:
        return with(relative);
      case TargetRule::nucleus:
        return with(nucleus);
    }
  }
};

}  // namespace tokenfold::correlate
