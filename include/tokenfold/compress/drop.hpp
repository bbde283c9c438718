// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/core/stages.hpp"

namespace tokenfold::compress {

/// Pure pruning: preserved tokens stay as they are, all others are gone. Plans only select.
struct Drop {
  template <HasLayout S>
  void operator()(const S&, const Partition& partition, const Correlation&, PlanWriter& writer,
                  Workspace&) const {
    for (const Token token : partition.preserved) {
      writer.copy_row(token);
    }
  }
};

}  // namespace tokenfold::compress
