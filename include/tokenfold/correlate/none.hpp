// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/core/stages.hpp"

namespace tokenfold::correlate {

/// No links: what is discarded goes nowhere, unless the compress stage takes it as a whole.
struct None {
  template <HasLayout S>
  void operator()(const S&, const Partition&, Correlation&, Workspace&) const {}
};

}  // namespace tokenfold::correlate
