// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <limits>

#include "tokenfold/core/nearest.hpp"
#include "tokenfold/core/select.hpp"
#include "tokenfold/core/stages.hpp"

namespace tokenfold::filter {

/// Order of what bipartite matching preserves. The next layer splits by it, so it decides what that
/// layer may merge.
enum class BipartiteOrder {
  halves,  ///< what is left of A, then all of B (released)
  raster,  ///< ascending rows: after the first layer another method than the released one
};
constexpr auto enum_names(BipartiteOrder) {
  return enum_names_of<BipartiteOrder>(
      {{"halves", BipartiteOrder::halves}, {"raster", BipartiteOrder::raster}});
}

/// ToMe's bipartite matching (arXiv 2210.09461, section 3): tokens at even positions of the current
/// order are A, those at odd positions B, and the r tokens of A that are most like a token of B go,
///
///   s_a = max_{b ∈ B} cos(μ_a, μ_b)      μ_i = (1/H) Σ_h k_i^h
///
/// Positions count the rows of the sequence other than text and padding. Rows that are not visual
/// ([CLS], distillation token, registers) have a position but neither merge nor are merged into.
///
/// NOT MORE THAN HALF: A can give away no more than ⌊N/2⌋ tokens (fewer if special rows among the
/// patches leave A fewer). A budget that asks for more discards that many, as the release does, and
/// so preserves more than it says; with `clamp` off it is refused.
///
/// The preserved tokens stand in the release's order, [what is left of A, all of B]: the former
/// ascending if the layout has a [CLS] row, else by falling similarity. A budget that preserves
/// everything changes no order.
///
/// Reads: keys.
/// Also gives `Partition::nearest`, the b of each maximum.
/// Score: s_a for A, high = discarded; −2, below every similarity, for B, for tokens of A without a
/// partner, and for all if none are to be discarded.
/// Cost: the head mean of all keys; one [A × d] · [d × B] product, N² · d / 4 multiply-adds.
struct BipartiteSimilarity {
  BipartiteOrder order = BipartiteOrder::halves;
  /// Discards ⌊N/2⌋ if the budget asks for more; off: that is an error.
  bool clamp = true;

  /// The score of a token that is not up for merging.
  static constexpr double no_match = -2;

  template <class Visit>
  void options(Visit&& visit) {
    visit("order", order, "preserved tokens: what is left of A, then B; or in raster order");
    visit("clamp", clamp, "discard half of the tokens where the budget asks for more");
  }

  template <HasKeys S>
  void operator()(const S& sequence, const Budget& budget, Partition& partition,
                  Workspace& workspace) const {
    const TokenLayout& layout = sequence.layout;
    const Index n = layout.visual_count();
    Workspace::Frame frame(workspace);
    const Halves halves = split(layout, workspace);
    const Index most = halves.b.empty() ? 0 : std::min(n / 2, halves.a.size());
    const Index merged = clamp ? budget.discard_count_up_to(n, most) : budget.discard_count(n);
    require(merged <= most, "bipartite similarity: cannot merge ", merged, " of ", n,
            " visual tokens into the others, at most ", most, " (clamp merges that many)");

    partition.scores.assign(static_cast<std::size_t>(n), no_match);
    const Span<Token> nearest = workspace.take_filled<Token>(n, no_token);
    if (merged > 0) {
      score(sequence, halves, nearest, partition, workspace);
    }
    fill(sequence, halves, nearest, merged, partition);
  }

 private:
  /// Visual ordinals, ascending.
  struct Halves {
    Span<Index> a;
    Span<Index> b;
  };

  static Halves split(const TokenLayout& layout, Workspace& workspace) {
    const Index n = layout.visual_count();
    const Span<Index> a = workspace.take<Index>(n);
    const Span<Index> b = workspace.take<Index>(n);
    Index evens = 0;
    Index odds = 0;
    // Text before the image lies before all visual tokens.
    Index skipped = layout.text_before().size();
    const Span<const Token> padding = layout.padding();
    const Token* next_padding = padding.begin();
    for (Index v = 0; v < n; ++v) {
      const Token row = layout.visual()[v];
      for (; next_padding != padding.end() && *next_padding < row; ++next_padding) {
        ++skipped;
      }
      if ((row - skipped) % 2 == 0) {
        a[evens++] = v;
      } else {
        b[odds++] = v;
      }
    }
    return {a.subspan(0, evens), b.subspan(0, odds)};
  }

  /// Scores A, and writes the row of the most similar token of B to `nearest`.
  template <class S>
  static void score(const S& sequence, const Halves& halves, Span<Token> nearest,
                    Partition& partition, Workspace& workspace) {
    Workspace::Frame frame(workspace);
    const detail::CosineRows metric(detail::head_mean_keys(sequence, workspace), workspace);
    const auto found = detail::nearest_rows(metric, Span<const Index>(halves.a),
                                            Span<const Index>(halves.b), workspace);
    const Span<double> scores(partition.scores);
    for (Index i = 0; i < halves.a.size(); ++i) {
      if (found[i].row >= 0) {
        scores[halves.a[i]] = found[i].cosine;
        nearest[halves.a[i]] = sequence.layout.visual()[found[i].row];
      } else if (!metric.valid(halves.a[i])) {
        scores[halves.a[i]] = std::numeric_limits<double>::quiet_NaN();  // goes before all others
      }
    }
  }

  template <HasLayout S>
  void fill(const S& sequence, const Halves& halves, Span<const Token> nearest, Index merged,
            Partition& partition) const {
    const TokenLayout& layout = sequence.layout;
    constexpr double infinity = std::numeric_limits<double>::infinity();
    const Span<const double> scores(partition.scores);
    const auto goes_first = [&](Index i, Index j) {
      const double rank_i = detail::finite_or(scores[i], infinity);
      const double rank_j = detail::finite_or(scores[j], infinity);
      return rank_i != rank_j ? rank_i > rank_j : i < j;
    };
    const Span<Index> gone = halves.a.subspan(0, merged);
    const Span<Index> left = halves.a.subspan(merged, halves.a.size() - merged);
    if (merged > 0) {
      std::nth_element(halves.a.begin(), gone.end() - 1, halves.a.end(), goes_first);
      if (layout.cls()) {
        std::sort(left.begin(), left.end());
      } else {
        std::sort(left.begin(), left.end(), goes_first);
      }
      std::sort(gone.begin(), gone.end());
    }
    const auto append = [&](Span<const Index> ordinals, std::vector<Token>& rows) {
      for (const Index v : ordinals) {
        rows.push_back(layout.visual()[v]);
      }
    };
    append(gone, partition.discarded);
    for (const Index v : gone) {
      partition.nearest.push_back(nearest[v]);
    }
    append(left, partition.preserved);
    append(halves.b, partition.preserved);
    append(halves.b, partition.targets);
    if (order == BipartiteOrder::raster || merged == 0) {
      std::sort(partition.preserved.begin(), partition.preserved.end());
    }
  }
};

}  // namespace tokenfold::filter
