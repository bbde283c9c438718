// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <vector>

#include "tokenfold/core/layout.hpp"
#include "tokenfold/core/plan.hpp"
#include "tokenfold/core/select.hpp"

namespace tokenfold {

/// Where the tokens of a plan come from and where the patches have gone, to draw and to explain:
/// made from any plan, be it of one step or of a chain (`ReductionPlan::then`,
/// `Survivors::total()`). A copy; plan and layout need not outlive it.
class SourceMap {
 public:
  /// An input token that an output token is made of.
  struct Source {
    Token row;     ///< the plan's input row
    Token cell;    ///< its grid cell, −1 = none (text, [CLS], synthetic)
    float weight;  ///< the entry of W: output = Σ weight · input
    float share;   ///< the part of that input token that lives on here; see `shares()`
  };
  /// An output token that took over (a part of) an input token.
  struct Taker {
    Token output;  ///< the plan's output row
    float share;   ///< the part of the input token; all takers' sum to 1
  };

  /// `layout`: of the plan's input. A plan for a part of a sequence (`ReductionPlan::within`)
  /// begins with row `first_row` of the layout. Throws if the layout has fewer rows.
  SourceMap(const ReductionPlan& plan, const TokenLayout& layout, Index first_row = 0);

  Index input_tokens() const { return static_cast<Index>(cells_.size()); }
  Index output_tokens() const { return static_cast<Index>(offsets_.size()) - 1; }

  /// What output token `row` is made of, by falling magnitude of the weight; ties by row.
  Span<const Source> sources(Index row) const { return slice(sources_, offsets_, row); }

  /// Who took over the token of input row `row`, by falling share; ties by output row. Empty: it
  /// was dropped. A preserved token is its own row's alone, even if others borrowed from it.
  Span<const Taker> takers(Index row) const { return slice(takers_, taker_offsets_, row); }

  /// The output row that holds most of input row `row`; −1: it was dropped.
  Token home(Index row) const { return takers(row).empty() ? no_token : takers(row)[0].output; }

  /// The picture of the merging: `home` of every grid cell, [frames · height · width], −1 where the
  /// patch was dropped or was not there.
  std::vector<Token> homes_by_cell() const {
    std::vector<Token> homes(static_cast<std::size_t>(grid_cells_), no_token);
    for (Index row = 0; row < input_tokens(); ++row) {
      const Token cell = Span<const Token>(cells_)[row];
      if (cell != no_token) {
        homes[static_cast<std::size_t>(cell)] = home(row);
      }
    }
    return homes;
  }

 private:
  template <class T>
  static Span<const T> slice(const std::vector<T>& all, Span<const Token> offsets, Index row) {
    return Span<const T>(all).subspan(offsets[row], offsets[row + 1] - offsets[row]);
  }

  /// Sorts `entries` by falling key, equal keys as they stand. By the library's own ranking: a sort
  /// of each type would cost everybody who includes this.
  template <class T, class Key>
  static void sort_falling(Span<T> all, Range entries, const Key& key, Workspace& workspace) {
    Workspace::Frame frame(workspace);
    const Index count = entries.size();
    const Span<T> sorted = all.subspan(entries.begin, count);
    const Span<T> unsorted = workspace.take<T>(count);
    const Span<double> keys = workspace.take<double>(count);
    for (Index i = 0; i < count; ++i) {
      unsorted[i] = sorted[i];
      keys[i] = static_cast<double>(key(sorted[i]));
    }
    const Span<const Index> order = detail::rank_highest(keys, count, workspace);
    for (Index i = 0; i < count; ++i) {
      sorted[i] = unsorted[order[i]];
    }
  }

  Index grid_cells_ = 0;
  std::vector<Token> cells_;  // of every input row
  std::vector<Token> offsets_;
  std::vector<Source> sources_;
  std::vector<Token> taker_offsets_;
  std::vector<Taker> takers_;
};

inline SourceMap::SourceMap(const ReductionPlan& plan, const TokenLayout& layout, Index first_row)
    : grid_cells_(layout.frames() * layout.grid().cells()),
      cells_(static_cast<std::size_t>(plan.input_tokens()), no_token),
      offsets_(plan.offsets().begin(), plan.offsets().end()) {
  require(first_row >= 0 && first_row + plan.input_tokens() <= layout.tokens(),
          "source map: the plan's rows [", first_row, ", ", first_row + plan.input_tokens(),
          ") lie outside the ", layout.tokens(), " rows of the layout");
  const Span<Token> cells(cells_);
  for (Index v = 0; v < layout.visual_count() && layout.has_grid(); ++v) {
    const Index row = layout.visual()[v] - first_row;
    if (0 <= row && row < cells.size()) {
      cells[row] = layout.cells()[v];
    }
  }
  for (Index e = 0; e < plan.columns().size(); ++e) {
    const Token row = plan.columns()[e];
    sources_.push_back({row, cells[row], plan.weights()[e], plan.shares()[e]});
  }
  Workspace workspace;
  for (Index row = 0; row < output_tokens(); ++row) {
    const Range entries{plan.offsets()[row], plan.offsets()[row + 1]};
    const auto magnitude = [](const Source& source) { return std::abs(source.weight); };
    sort_falling(Span<Source>(sources_), entries, magnitude, workspace);
  }

  const auto taken = detail::transposed({plan.offsets(), plan.columns(), plan.shares()},
                                        plan.input_tokens(), workspace);
  taker_offsets_.assign(taken.offsets.begin(), taken.offsets.end());
  for (Index e = 0; e < taken.offsets[plan.input_tokens()]; ++e) {
    takers_.push_back({taken.columns[e], taken.values[e]});
  }
  for (Index row = 0; row < input_tokens(); ++row) {
    const Range entries{taken.offsets[row], taken.offsets[row + 1]};
    const auto share = [](const Taker& taker) { return taker.share; };
    sort_falling(Span<Taker>(takers_), entries, share, workspace);
  }
}

}  // namespace tokenfold
