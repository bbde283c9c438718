// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "tokenfold/core/any_executor.hpp"
#include "tokenfold/core/planes.hpp"
#include "tokenfold/core/positions.hpp"
#include "tokenfold/core/sparse_rows.hpp"
#include "tokenfold/core/views.hpp"
#include "tokenfold/core/workspace.hpp"

namespace tokenfold {

/// A reduction, once decided: X' = W · X with W sparse, [output tokens × input tokens].
///
/// The plan is a few kilobytes of CSR arrays (32-bit indices, float weights) that do not depend on
/// what is reduced, so one plan serves hidden states, embeddings, position rows, K and V alike, and
/// may be shipped to any device. Rows of W are in output order; columns within a row ascend.
class ReductionPlan {
 public:
  Index input_tokens() const { return input_tokens_; }
  Index output_tokens() const { return static_cast<Index>(kept_.size()); }

  /// Per output row, the input row that it continues; −1 for a synthetic token. Ascending
  /// (synthetic ones aside) unless the method was asked for another order.
  Span<const Token> kept() const { return kept_; }

  /// W as CSR: row r has the entries offsets()[r] … offsets()[r + 1] − 1.
  Span<const Token> offsets() const { return offsets_; }
  Span<const Token> columns() const { return columns_; }
  Span<const float> weights() const { return weights_; }

  /// Per entry of W, which share of that input token lives on in that output token: 1 for a
  /// preserved token in its own row, else the entry divided by its column's sum over the rows that
  /// absorb it. The shares of an input token sum to 1, or to 0 if it was dropped. Those of a
  /// composed plan follow from its own W.
  Span<const float> shares() const { return shares_; }

  /// Output rows of the visual tokens, synthetic ones included.
  Range visual() const { return visual_out_; }
  /// Number of synthetic output rows.
  Index extra_tokens() const { return std::count(kept_.begin(), kept_.end(), no_token); }

  /// True if every output row is an unchanged input row: then `kept()` alone says everything, and
  /// an engine that cannot rewrite embeddings can still use the plan.
  bool selects_only() const { return selects_only_; }
  /// True if nothing changes at all.
  bool is_identity() const {
    return selects_only_ && output_tokens() == input_tokens_ &&
           std::adjacent_find(kept_.begin(), kept_.end(), std::greater_equal<>()) == kept_.end();
  }

  /// out = W · tokens. `tokens`: [input_tokens × D], `out`: [output_tokens × D], any D, row strides
  /// as the caller has them; row-major Eigen objects or views. Throws on a wrong shape or if they
  /// overlap. One pass over the rows that contribute; sums are kept in float (double for double).
  template <class In, class Out>
  void apply(const In& tokens, Out&& out) const {
    apply_rows({0, output_tokens()}, tokens, out);
  }
  /// The same by all threads of an executor (executor.hpp), each with its share of the output rows;
  /// the same bits.
  template <class In, class Out, Executor E>
  void apply(const In& tokens, Out&& out, const E& executor) const;
  /// The same for the output rows `rows` alone; `out`: [rows.size() × D]. Those of `visual()` are
  /// what a projector is fed.
  template <class In, class Out>
  void apply_rows(Range rows, const In& tokens, Out&& out) const {
    using T = typename decltype(MatrixView(tokens))::Element;
    apply_views<T>(rows, MatrixView(tokens), MatrixView<T>(out));
  }
  /// The same for planes that share the rows, [planes × tokens × D] (deep-stack features).
  template <class In, class Out>
  void apply(HeadsView<In> planes, HeadsView<Out> out) const;

  /// The same in the caller's own rows: afterwards rows 0 … output_tokens − 1 of each plane hold
  /// the result, the others anything. Any number of planes at once, each a matrix
  /// [max(input_tokens, output_tokens) × D] or a view [planes × that × D], with its own element
  /// type, D and strides; all of them are checked before any is changed, so that they stay in step.
  /// A plan that only selects moves whole elements and so takes integer rows (token ids) as well.
  /// Rows that must be read after they were overwritten (merging, other orders) are copied to
  /// `workspace` first; a selection in ascending order has none.
  template <class... Planes>
  void apply_in_place(Workspace& workspace, Planes&&... planes) const;

  /// out.row(i) = rows.row(kept()[i]), whatever the plan merges into it: for what goes with a token
  /// and cannot be averaged (ids, flags, records). Matrices [tokens × D] or arrays [tokens] of any
  /// one type. A synthetic token gets `fill`; without one it is refused.
  template <class In, class Out>
  void gather(const In& rows, Out&& out) const;
  template <class In, class Out, class Fill>
  void gather(const In& rows, Out&& out, const Fill& fill) const;

  /// The way back: every preserved token's row of `reduced` returns to its place, every merged
  /// token gets the mix of the rows that absorbed it (by `shares`), every dropped token gets
  /// `fill`. `reduced`: [output_tokens × D], `out`: [input_tokens × D]. Allocates unless given a
  /// workspace.
  template <class In, class Out>
  void unmerge(const In& reduced, Out&& out, Workspace& workspace, double fill = 0) const {
    using T = typename decltype(MatrixView(reduced))::Element;
    unmerge_views<T>(MatrixView(reduced), MatrixView<T>(out), fill, workspace);
  }
  template <class In, class Out>
  void unmerge(const In& reduced, Out&& out, double fill = 0) const {
    Workspace workspace;
    unmerge(reduced, out, workspace, fill);
  }

  /// How many input tokens each output token stands for, given the same of the input: conserves the
  /// sum, tokens that were dropped excepted. `in`: [input_tokens], `out`: [output_tokens].
  void sizes(Span<const float> in, Span<float> out) const;

  /// The positions that the engine's next layer needs. `in`: [planes × input_tokens], plane-major
  /// (one plane for RoPE, three for M-RoPE: t, h, w; see `mrope_positions`); `out`:
  /// [planes × output_tokens].
  ///
  /// original: every row keeps its position; a synthetic token gets that of the last visual row.
  /// packed, one plane: the first position, then counting up by one. packed, several planes: visual
  /// tokens keep their grid positions; what follows the image moves up so that it starts one after
  /// the largest position kept. consecutive: the first position, then counting up by one, the same
  /// in all planes, as if every token were text. Returns the position at which generation
  /// continues.
  std::int32_t positions(PositionRule rule, MatrixView<const std::int32_t> in,
                         MatrixView<std::int32_t> out) const;

  /// The plan of `*this` followed by `next`: W = W_next · W. Throws if the sizes do not meet.
  /// `compose` is the same without allocations.
  ReductionPlan then(const ReductionPlan& next) const {
    Workspace workspace;
    ReductionPlan composed;
    compose(*this, next, workspace, composed);
    return composed;
  }

  /// The plan for the rows `rows` alone, renumbered from 0: for callers who keep only those, such
  /// as a projector that is fed the patches without [CLS]. Throws if a remaining token takes from
  /// outside.
  ReductionPlan within(Range rows) const {
    Workspace workspace;
    ReductionPlan part;
    within(rows, workspace, part);
    return part;
  }
  /// The same without allocations once `out`, another plan than this, and `workspace` are warm.
  /// After a refusal `out` holds anything.
  void within(Range rows, Workspace& workspace, ReductionPlan& out) const;

  /// A 64-bit hash of `kept()` that is the same on every machine, for prefix caches.
  std::uint64_t kept_hash() const;

  /// `then` without allocations once `out` and `workspace` are warm. `out` must be neither
  /// argument.
  friend void compose(const ReductionPlan& first, const ReductionPlan& next, Workspace& workspace,
                      ReductionPlan& out);

  /// The plan that changes nothing: `tokens` rows, of which `visual` are visual.
  static ReductionPlan identity(Index tokens, Range visual);

 private:
  friend class PlanWriter;

  Range entries(Index row) const {
    return {Span<const Token>(offsets_)[row], Span<const Token>(offsets_)[row + 1]};
  }
  void clear(Index input_tokens, Range visual_in);
  void begin_row(Token kept) {
    kept_.push_back(kept);
    offsets_.push_back(offsets_.back());
  }
  void add(Token column, float weight) {
    columns_.push_back(column);
    weights_.push_back(weight);
    ++offsets_.back();
  }
  /// Sorts the columns of the last row and adds up entries of the same column.
  void end_row();
  /// Derives `shares_` and `selects_only_`.
  void finish(Workspace& workspace);

  detail::SparseRows matrix() const { return {offsets_, columns_, weights_}; }
  /// Where part `part` begins if the output rows are split into `parts` that `apply` reads and
  /// writes about equally many rows for.
  Index first_row_of(Index part, Index parts) const;
  template <class T>
  void check_apply(Range rows, MatrixView<const T> tokens, MatrixView<T> out) const;
  template <class T>
  void multiply(Range rows, MatrixView<const T> tokens, MatrixView<T> out) const {
    const Span<const Token> offsets = this->offsets().subspan(rows.begin, rows.size() + 1);
    detail::multiply<T>({offsets, columns_, weights_}, tokens, out);
  }
  template <class T>
  void apply_views(Range rows, MatrixView<const T> tokens, MatrixView<T> out) const {
    check_apply<T>(rows, tokens, out);
    multiply<T>(rows, tokens, out);
  }
  template <class T>
  void check_in_place(HeadsView<T> plane) const;
  template <class T>
  void gather_views(MatrixView<const T> rows, MatrixView<T> out, const T* fill) const;
  template <class T>
  void unmerge_views(MatrixView<const T> reduced, MatrixView<T> out, double fill,
                     Workspace& workspace) const;

  Index input_tokens_ = 0;
  Range visual_in_;
  Range visual_out_;
  bool selects_only_ = true;
  std::vector<Token> kept_;
  std::vector<Token> offsets_ = {0};
  std::vector<Token> columns_;
  std::vector<float> weights_;
  std::vector<float> shares_;
};

void compose(const ReductionPlan& first, const ReductionPlan& next, Workspace& workspace,
             ReductionPlan& out);

// --- implementation
// -----------------------------------------------------------------------------------

inline void ReductionPlan::clear(Index input_tokens, Range visual_in) {
  input_tokens_ = input_tokens;
  visual_in_ = visual_in;
  visual_out_ = {};
  selects_only_ = true;
  kept_.clear();
  offsets_.assign(1, 0);
  columns_.clear();
  weights_.clear();
  shares_.clear();
}

inline ReductionPlan ReductionPlan::identity(Index tokens, Range visual) {
  require(0 <= visual.begin && visual.begin <= visual.end && visual.end <= tokens,
          "identity plan: visual rows [", visual.begin, ", ", visual.end, ") lie outside the ",
          tokens, " rows");
  Workspace workspace;
  ReductionPlan plan;
  plan.clear(tokens, visual);
  plan.visual_out_ = visual;
  for (Index i = 0; i < tokens; ++i) {
    plan.begin_row(static_cast<Token>(i));
    plan.add(static_cast<Token>(i), 1.0f);
  }
  plan.finish(workspace);
  return plan;
}

inline void ReductionPlan::end_row() {
  if (output_tokens() == 0) {
    return;
  }
  const Span<Token> columns(columns_);
  const Span<float> weights(weights_);
  const Range row = entries(output_tokens() - 1);
  if (row.size() <= 1) {
    return;
  }
  // Rows are short and nearly sorted, so an insertion sort costs about one comparison an entry.
  for (Index e = row.begin + 1; e < row.end; ++e) {
    for (Index i = e; i > row.begin && columns[i - 1] > columns[i]; --i) {
      std::swap(columns[i - 1], columns[i]);
      std::swap(weights[i - 1], weights[i]);
    }
  }
  Index last = row.begin;
  for (Index e = row.begin + 1; e < row.end; ++e) {
    if (columns[e] == columns[last]) {
      weights[last] += weights[e];
    } else {
      ++last;
      columns[last] = columns[e];
      weights[last] = weights[e];
    }
  }
  columns_.resize(static_cast<std::size_t>(last + 1));
  weights_.resize(static_cast<std::size_t>(last + 1));
  offsets_.back() = static_cast<Token>(last + 1);
}

inline void ReductionPlan::finish(Workspace& workspace) {
  Workspace::Frame frame(workspace);
  const Span<const Token> columns(columns_);
  const Span<const float> weights(weights_);
  // A preserved token lives on in its own rows alone, whatever it also lends to others.
  const Span<float> own_rows = workspace.take_filled<float>(input_tokens_, 0);
  const Span<double> column_sum = workspace.take_filled<double>(input_tokens_, 0);
  for (const Token token : kept_) {
    if (token != no_token) {
      own_rows[token] += 1;
    }
  }
  for (Index e = 0; e < columns.size(); ++e) {
    column_sum[columns[e]] += static_cast<double>(weights[e]);
  }
  shares_.resize(columns_.size());
  const Span<float> shares(shares_);
  selects_only_ = true;
  for (Index row = 0; row < output_tokens(); ++row) {
    const Token kept = Span<const Token>(kept_)[row];
    const Range range = entries(row);
    selects_only_ = selects_only_ && range.size() == 1 && columns[range.begin] == kept &&
                    weights[range.begin] == 1.0f;
    for (Index e = range.begin; e < range.end; ++e) {
      const Token column = columns[e];
      if (own_rows[column] > 0) {
        shares[e] = column == kept ? 1 / own_rows[column] : 0;
      } else {
        shares[e] = column_sum[column] > 0
                        ? static_cast<float>(static_cast<double>(weights[e]) / column_sum[column])
                        : 0;
      }
    }
  }
}

inline Index ReductionPlan::first_row_of(Index part, Index parts) const {
  const auto cost_before = [&](Index row) { return offsets()[row] + row; };
  const Index wanted = cost_before(output_tokens()) * part / parts;
  Index first = 0;
  for (Index rest = output_tokens(); rest > 0;) {  // cost_before rises: halve the candidates
    const Index half = rest / 2;
    const bool beyond = cost_before(first + half) >= wanted;
    first = beyond ? first : first + half + 1;
    rest = beyond ? half : rest - half - 1;
  }
  return first;
}

template <class T>
void ReductionPlan::check_apply(Range rows, MatrixView<const T> tokens, MatrixView<T> out) const {
  require(Range({0, output_tokens()}).contains(rows), "apply: rows [", rows.begin, ", ", rows.end,
          ") lie outside the plan's ", output_tokens(), " output rows");
  require(tokens.rows() == input_tokens_, "apply: the plan takes ", input_tokens_, " tokens, got ",
          tokens.rows());
  require(out.rows() == rows.size() && out.cols() == tokens.cols(), "apply: the output must be [",
          rows.size(), " x ", tokens.cols(), "], got [", out.rows(), " x ", out.cols(), "]");
  require(!detail::overlap(tokens, out), "apply: input and output overlap");
}

template <class In, class Out, Executor E>
void ReductionPlan::apply(const In& tokens, Out&& out, const E& executor) const {
  using T = typename decltype(MatrixView(tokens))::Element;
  const MatrixView<const T> from(tokens);
  const MatrixView<T> to(out);
  check_apply<T>({0, output_tokens()}, from, to);
  const Index parts =
      std::clamp<Index>(executor.concurrency(), 1, std::max<Index>(output_tokens(), 1));
  executor(parts, [&](Index part) {
    const Range rows{first_row_of(part, parts), first_row_of(part + 1, parts)};
    multiply<T>(rows, from, to.middle_rows(rows));
  });
}

template <class In, class Out>
void ReductionPlan::apply(HeadsView<In> planes, HeadsView<Out> out) const {
  using T = std::remove_const_t<In>;
  require(planes.heads() == out.heads(), "apply: ", planes.heads(), " planes were given, ",
          out.heads(), " for the output");
  require(!detail::overlap(planes, out), "apply: input and output overlap");
  for (Index p = 0; p < planes.heads(); ++p) {
    apply_views<T>({0, output_tokens()}, planes.head(p), out.head(p));
  }
}

template <class T>
void ReductionPlan::check_in_place(HeadsView<T> plane) const {
  static_assert(!std::is_const_v<T>, "tokenfold: a plane of constants cannot be changed in place");
  static_assert(std::is_trivially_copyable_v<T>);
  const Index rows = std::max(input_tokens_, output_tokens());
  require(plane.tokens() == rows, "apply_in_place: a plane must have ", rows, " rows, got ",
          plane.tokens());
  require(Scalar<T> || selects_only_,
          "apply_in_place: the plan merges tokens, which needs planes of real numbers");
}

template <class... Planes>
void ReductionPlan::apply_in_place(Workspace& workspace, Planes&&... planes) const {
  (check_in_place(detail::as_planes(planes)), ...);
  Workspace::Frame frame(workspace);
  const detail::RowsReadLate late = detail::rows_read_late(matrix(), input_tokens_, workspace);
  const auto reduce = [&](auto plane) {
    detail::for_each_plane(
        plane, [&](auto rows) { detail::multiply_in_place(matrix(), late, rows, workspace); });
  };
  (reduce(detail::as_planes(planes)), ...);
}

template <class T>
void ReductionPlan::gather_views(MatrixView<const T> rows, MatrixView<T> out, const T* fill) const {
  require(rows.rows() == input_tokens_, "gather: the plan takes ", input_tokens_, " tokens, got ",
          rows.rows());
  require(out.rows() == output_tokens() && out.cols() == rows.cols(),
          "gather: the output must be [", output_tokens(), " x ", rows.cols(), "], got [",
          out.rows(), " x ", out.cols(), "]");
  require(!detail::overlap(rows, out), "gather: input and output overlap");
  require(fill != nullptr || extra_tokens() == 0,
          "gather: the plan has synthetic tokens, which continue no row; give a fill value");
  const bool joined = rows.contiguous() && out.contiguous();
  for (Index row = 0; row < output_tokens();) {
    const Token from = kept()[row];
    if (from == no_token) {
      std::fill_n(out.row(row), out.cols(), *fill);
      ++row;
      continue;
    }
    Index run = 1;  // rows that follow each other on both sides are one copy
    while (joined && row + run < output_tokens() && kept()[row + run] == from + run) {
      ++run;
    }
    std::copy_n(rows.row(from), run * rows.cols(), out.row(row));
    row += run;
  }
}

template <class In, class Out>
void ReductionPlan::gather(const In& rows, Out&& out) const {
  using T = typename decltype(detail::as_rows(rows))::Element;
  gather_views<T>(detail::as_rows(rows), detail::as_rows(out), nullptr);
}

template <class In, class Out, class Fill>
void ReductionPlan::gather(const In& rows, Out&& out, const Fill& fill) const {
  using T = typename decltype(detail::as_rows(rows))::Element;
  const auto value = static_cast<T>(fill);
  gather_views<T>(detail::as_rows(rows), detail::as_rows(out), &value);
}

template <class T>
void ReductionPlan::unmerge_views(MatrixView<const T> reduced, MatrixView<T> out, double fill,
                                  Workspace& workspace) const {
  require(reduced.rows() == output_tokens(), "unmerge: the plan gives ", output_tokens(),
          " tokens, got ", reduced.rows());
  require(out.rows() == input_tokens_ && out.cols() == reduced.cols(),
          "unmerge: the output must be [", input_tokens_, " x ", reduced.cols(), "], got [",
          out.rows(), " x ", out.cols(), "]");
  require(!detail::overlap(reduced, out), "unmerge: input and output overlap");
  Workspace::Frame frame(workspace);
  const auto back = detail::transposed({offsets_, columns_, shares_}, input_tokens_, workspace);
  detail::multiply<T>(back, reduced, out, static_cast<T>(fill));
}

inline void ReductionPlan::sizes(Span<const float> in, Span<float> out) const {
  require(in.size() == input_tokens_ && out.size() == output_tokens(), "sizes: expected ",
          input_tokens_, " in and ", output_tokens(), " out, got ", in.size(), " and ", out.size());
  for (Index row = 0; row < output_tokens(); ++row) {
    double sum = 0;
    for (Index e = entries(row).begin; e < entries(row).end; ++e) {
      sum += static_cast<double>(shares()[e]) * static_cast<double>(in[columns()[e]]);
    }
    out[row] = static_cast<float>(sum);
  }
}

inline std::int32_t ReductionPlan::positions(PositionRule rule, MatrixView<const std::int32_t> in,
                                             MatrixView<std::int32_t> out) const {
  require(in.rows() >= 1 && in.cols() == input_tokens_, "positions: expected [planes x ",
          input_tokens_, "] positions, got [", in.rows(), " x ", in.cols(), "]");
  require(out.rows() == in.rows() && out.cols() == output_tokens(),
          "positions: the output must be [", in.rows(), " x ", output_tokens(), "], got [",
          out.rows(), " x ", out.cols(), "]");
  return detail::reduce_positions(rule, kept_, visual_in_, visual_out_, in, out);
}

inline void ReductionPlan::within(Range rows, Workspace& workspace, ReductionPlan& plan) const {
  require(&plan != this, "within: the result must be another plan");
  require(Range({0, input_tokens_}).contains(rows), "within: rows [", rows.begin, ", ", rows.end,
          ") lie outside the plan's ", input_tokens_, " tokens");
  const auto clip = [&](Index row) { return std::clamp(row, rows.begin, rows.end) - rows.begin; };
  plan.clear(rows.size(), {clip(visual_in_.begin), clip(visual_in_.end)});
  const auto inside = [&](Index row) {
    const Range range = entries(row);
    const Token kept = this->kept()[row];
    // A synthetic token belongs where its sources are; an empty one to the visual rows.
    return rows.contains(kept != no_token ? kept
                         : range.empty()  ? visual_in_.begin
                                          : columns()[range.begin]);
  };
  for (Index row = 0; row < output_tokens(); ++row) {
    if (row == visual_out_.begin) {
      plan.visual_out_.begin = plan.output_tokens();
    }
    if (inside(row)) {
      const Token kept = this->kept()[row];
      const auto first = static_cast<Token>(rows.begin);
      plan.begin_row(kept == no_token ? no_token : kept - first);
      for (Index e = entries(row).begin; e < entries(row).end; ++e) {
        require(rows.contains(columns()[e]), "within: output token ", row, " takes from row ",
                columns()[e], ", which lies outside [", rows.begin, ", ", rows.end, ")");
        plan.add(columns()[e] - first, weights()[e]);
      }
    }
    if (row + 1 == visual_out_.end) {
      plan.visual_out_.end = plan.output_tokens();
    }
  }
  if (visual_out_.begin == output_tokens()) {
    plan.visual_out_.begin = plan.output_tokens();  // no visual row, and nothing behind them
  }
  plan.visual_out_.end = std::max(plan.visual_out_.begin, plan.visual_out_.end);
  plan.finish(workspace);
}

inline std::uint64_t ReductionPlan::kept_hash() const {
  std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a over little-endian 32-bit words
  const auto mix = [&hash](std::uint32_t word) {
    for (int byte = 0; byte < 4; ++byte) {
      hash = (hash ^ ((word >> (8 * byte)) & 0xffu)) * 0x100000001b3u;
    }
  };
  mix(static_cast<std::uint32_t>(input_tokens_));
  for (const Token token : kept_) {
    mix(static_cast<std::uint32_t>(token));
  }
  return hash;
}

inline void compose(const ReductionPlan& first, const ReductionPlan& next, Workspace& workspace,
                    ReductionPlan& out) {
  require(next.input_tokens_ == first.output_tokens(), "then: the first plan gives ",
          first.output_tokens(), " tokens, the next takes ", next.input_tokens_);
  require(&out != &first && &out != &next, "compose: the result must be a third plan");
  Workspace::Frame frame(workspace);
  out.clear(first.input_tokens_, first.visual_in_);
  out.visual_out_ = next.visual_out_;
  // One dense row of W at a time; `touched` lists its non-zero columns.
  const Span<double> row_sum = workspace.take_filled<double>(first.input_tokens_, 0);
  const Span<bool> seen = workspace.take_filled<bool>(first.input_tokens_, false);
  const Span<Token> touched = workspace.take<Token>(first.input_tokens_);
  for (Index row = 0; row < next.output_tokens(); ++row) {
    const Token middle = next.kept()[row];
    out.begin_row(middle == no_token ? no_token : first.kept()[middle]);
    Index count = 0;
    for (Index e = next.entries(row).begin; e < next.entries(row).end; ++e) {
      const Range inner = first.entries(next.columns()[e]);
      for (Index f = inner.begin; f < inner.end; ++f) {
        const Token column = first.columns()[f];
        if (!seen[column]) {
          seen[column] = true;
          touched[count++] = column;
        }
        row_sum[column] +=
            static_cast<double>(next.weights()[e]) * static_cast<double>(first.weights()[f]);
      }
    }
    std::sort(touched.begin(), touched.begin() + count);
    for (Index i = 0; i < count; ++i) {
      out.add(touched[i], static_cast<float>(row_sum[touched[i]]));
      row_sum[touched[i]] = 0;
      seen[touched[i]] = false;
    }
  }
  out.finish(workspace);
}

}  // namespace tokenfold
