// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/compress/shares_by_target.hpp"

namespace tokenfold::compress {

/// ToMe's merging (arXiv 2210.09461, section 3): the mean of everything that a token stands for, so
/// that tokens merged before count as often as the patches in them,
///
///   x_j ← (n_j x_j + Σ_i α_ij n_i x_i) / (n_j + Σ_i α_ij n_i)
///
/// n the resource `sizes` (1 without it, or if it is empty), α_ij the share of source i that goes
/// to target j: 1 with one target each. `ReductionPlan::sizes` gives the sizes after the step; with
/// several targets to a source it divides that source's size by its weights in W, not by α.
///
/// Reads: sizes, if there are any; throws if that of a visual token is negative or not finite.
struct SizeWeightedMean {
  template <HasLayout S>
  void operator()(const S& sequence, const Partition& partition, const Correlation& correlation,
                  PlanWriter& writer, Workspace& workspace) const {
    check_sizes(sequence);
    Workspace::Frame frame(workspace);
    const auto links = detail::shares_by_target(sequence.layout, correlation, workspace);
    const auto size = [&](Token row) { return static_cast<double>(size_of(sequence, row)); };
    for (const Token token : partition.preserved) {
      double total = size(token);
      for (const auto& link : links[token]) {
        total += link.strength * size(link.source);
      }
      writer.begin_row(token);
      const auto add = [&](Token row, double weight) {
        if (weight > 0) {  // 0 · NaN is not 0
          writer.add(row, weight / total);
        }
      };
      if (total > 0) {
        add(token, size(token));
        for (const auto& link : links[token]) {
          add(link.source, link.strength * size(link.source));
        }
      } else {
        writer.add(token, 1);  // stands for nothing, and so do its sources
      }
    }
  }

 private:
  template <class S>
  static void check_sizes(const S& sequence) {
    if constexpr (HasSizes<S>) {
      const Span<const float> sizes = sequence.sizes;
      const TokenLayout& layout = sequence.layout;
      require(sizes.empty() || sizes.size() == layout.tokens(),
              "size-weighted mean: ", sizes.size(), " sizes were given for ", layout.tokens(),
              " tokens");
      for (const Token row : sizes.empty() ? Span<const Token>() : layout.visual()) {
        require(sizes[row] >= 0 && std::isfinite(sizes[row]),
                "size-weighted mean: the size of row ", row,
                " must be finite and not negative, got ", static_cast<double>(sizes[row]));
      }
    }
  }
};

}  // namespace tokenfold::compress
