// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "tokenfold/core/options.hpp"
#include "tokenfold/core/select.hpp"
#include "tokenfold/core/stages.hpp"

namespace tokenfold {
namespace detail {

/// The same sequence under another layout. All resources are indexed by rows of the sequence, so
/// they stay valid as long as rows keep their numbers.
template <HasLayout S>
struct WithLayout : S {
  WithLayout(const S& sequence, const TokenLayout& other) : S(sequence), layout(other) {}

  const TokenLayout& layout;
};

/// Splits `total` in proportion to the sizes of `parts`, exactly; see `share_out`. Memory from
/// `workspace`.
inline Span<Index> proportional_shares(Index total, Span<const Range> parts, Workspace& workspace) {
  const Span<Index> shares = workspace.take<Index>(parts.size());
  share_out(
      total, [&](Index t) { return parts[t].size(); }, shares, workspace);
  return shares;
}

}  // namespace detail

namespace filter {

/// Frame-wise budgets for any filter: the tokens of a frame compete among themselves only, as if
/// the frame were an image of its own in the same sequence.
///
/// The budget is split over the frames in proportion to the tokens that they have left, exactly
/// (largest remainder, ties to the earlier frame); an adaptive budget goes to every frame as it is.
/// The filter is asked once per frame, with all resources of the sequence and a layout in which
/// only that frame is visual: [CLS], text and attention are those of the whole sequence, while
/// quartiles, grid windows and the like are the frame's. Its answers are joined in row order.
/// The stages after the filter still see one sequence: what a frame discards may go to another,
/// unless the filter has found its target already (`Partition::nearest`: ToMe), in the frame.
///
/// Throws if the tokens of a frame do not stand together (a synthetic token counts as frame 0's).
///
/// Reads: what the filter reads. The sequence is copied, so it should be one of views.
/// Score: the filter's, if it gives one to every token.
/// Cost: the filter's, once per frame.
template <class FilterStage>
struct PerFrame {
  FilterStage filter = {};

  template <class Visit>
  void options(Visit&& visit) {
    detail::visit_options(filter, visit);
  }

  template <HasLayout S>
  requires Filter<FilterStage, detail::WithLayout<S>>
  void operator()(const S& sequence, const Budget& budget, Partition& partition,
                  Workspace& workspace) const {
    const TokenLayout& layout = sequence.layout;
    const Index n = layout.visual_count();
    Workspace::Frame frame(workspace);
    const Span<const Range> runs = frame_runs(layout, workspace);
    const Span<const Index> keep =
        budget.is_adaptive() ? Span<Index>{}
                             : detail::proportional_shares(budget.keep_count(n), runs, workspace);
    // Vectors that keep their memory from call to call.
    TokenLayout alone = std::move(workspace.frame_layout);
    Partition part = std::move(workspace.frame_partition);
    bool has_targets = false;
    for (Index t = 0; t < runs.size(); ++t) {
      layout.frame_alone(runs[t], alone);
      part.clear();
      filter(detail::WithLayout<S>(sequence, alone),
             budget.is_adaptive() ? budget : Budget::keep(keep[t]), part, workspace);
      has_targets = has_targets || !part.targets.empty();
      // A frame that drops tokens without naming them has nobody to take them over, nor others'.
      const bool names_all =
          part.preserved.size() + part.discarded.size() >= static_cast<std::size_t>(runs[t].size());
      if (names_all || !part.targets.empty()) {
        append(partition.targets, part.absorbing());
      }
      append(partition.preserved, part.preserved);
      append(partition.discarded, part.discarded);
      append(partition.scores, part.scores);
      append(partition.nearest, part.nearest);
    }
    if (has_targets) {  // ascending, and a frame without a list of its own offers all it preserves
      std::sort(partition.targets.begin(), partition.targets.end());
      const auto last = std::unique(partition.targets.begin(), partition.targets.end());
      partition.targets.erase(last, partition.targets.end());
    } else {
      partition.targets.clear();
    }
    if (static_cast<Index>(partition.scores.size()) != n) {
      partition.scores.clear();
    }
    if (partition.nearest.size() != partition.discarded.size()) {
      partition.nearest.clear();
    }
    workspace.frame_layout = std::move(alone);
    workspace.frame_partition = std::move(part);
  }

 private:
  template <class T, class Container>
  static void append(std::vector<T>& all, const Container& more) {
    all.insert(all.end(), more.begin(), more.end());
  }

  /// The ordinals of each frame that has tokens, in row order.
  static Span<Range> frame_runs(const TokenLayout& layout, Workspace& workspace) {
    const Span<Range> runs = workspace.take<Range>(layout.frames());
    const Span<bool> seen = workspace.take_filled<bool>(layout.frames(), false);
    Index size = 0;
    Index current = -1;
    for (Index v = 0; v < layout.visual_count(); ++v) {
      const Index t = layout.frame_of(layout.cells()[v]);
      if (t != current) {
        require(!seen[t], "per frame: the tokens of frame ", t, " do not stand together; row ",
                layout.visual()[v], " is apart from the others");
        seen[t] = true;
        current = t;
        runs[size++] = {v, v};
      }
      runs[size - 1].end = v + 1;
    }
    return runs.subspan(0, size);
  }
};

}  // namespace filter
}  // namespace tokenfold
