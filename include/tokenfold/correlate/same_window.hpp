// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "tokenfold/core/all_finite.hpp"
#include "tokenfold/core/stages.hpp"

namespace tokenfold::correlate {

/// Every discarded token goes to the preserved token of its window, all with strength 1. A window
/// is a frame and a score: of two preserved tokens of the same window the first one takes all.
///
/// Reads: the scores of the partition, which must number windows (filter::GridWindows). If the
/// sequence has features, tokens that are not finite in these go nowhere.
/// Strengths: 1.
/// Cost: O(frames · (N + cells)).
struct SameWindow {
  template <HasLayout S>
  void operator()(const S& sequence, const Partition& partition, Correlation& correlation,
                  Workspace& workspace) const {
    const TokenLayout& layout = sequence.layout;
    const Span<const double> windows(partition.scores);
    require(windows.size() == layout.visual_count(), "same window: ", windows.size(),
            " scores for ", layout.visual_count(), " visual tokens");
    const Index most = layout.frames() * layout.grid().cells() + layout.visual_count();
    const auto window_of = [&](Token row) {
      const Index v = layout.ordinal(row);
      const double number = windows[v];
      require(number >= 0 && number < static_cast<double>(most) && number == std::floor(number),
              "same window: the filter's scores must number windows, got ", number);
      return layout.frame_of(layout.cells()[v]) * most + static_cast<Index>(number);
    };

    Workspace::Frame frame(workspace);
    const Span<Token> target = workspace.take_filled<Token>(layout.frames() * most, no_token);
    for (const Token row : partition.preserved) {
      Token& first = target[window_of(row)];
      first = first == no_token ? row : first;
    }
    for (const Token row : partition.discarded) {
      const Token into = target[window_of(row)];
      if (into != no_token && is_finite(sequence, row)) {
        correlation.begin_source(row);
        correlation.link(into, 1);
      }
    }
  }

 private:
  template <class S>
  static bool is_finite(const S& sequence, Token row) {
    if constexpr (HasFeatures<S>) {
      const auto& x = sequence.features;
      if (x.rows().contains(row)) {
        return detail::all_finite(x.row(row), x.matrix.cols());
      }
    }
    return true;
  }
};

}  // namespace tokenfold::correlate
