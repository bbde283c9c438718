// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "tokenfold/core/budget.hpp"
#include "tokenfold/core/executor.hpp"
#include "tokenfold/core/items.hpp"
#include "tokenfold/core/pipeline.hpp"
#include "tokenfold/core/plan.hpp"
#include "tokenfold/core/select.hpp"

namespace tokenfold {
namespace detail {

/// One matrix, rather than a collection of them.
template <class X>
concept MatrixLike = EigenTensorLike<X> || requires(X& x) {
  x.rows();
};

}  // namespace detail

/// One budget for all items of a batch together: `SharedBudget(Budget::keep(640))`. Every item
/// keeps its share in proportion to its visual tokens, K · N_i / ΣN, rounded by largest remainder
/// (ties: the lower index), so that the total is exact and known from the N_i alone. An item may be
/// left with none.
class SharedBudget {
 public:
  explicit SharedBudget(Budget total) : total_(total) {}

  /// keep[i] of visual[i] tokens. Throws if the budget cannot be met.
  void split(Span<const Index> visual, Span<Index> keep, Workspace& workspace) const {
    require(visual.size() == keep.size(), "shared budget: ", visual.size(), " items, but ",
            keep.size(), " places for their counts");
    require(!total_.is_adaptive(), "shared budget: an adaptive budget has no total to share");
    Index all = 0;
    for (const Index count : visual) {
      all += count;
    }
    detail::share_out(
        total_.keep_count(all), [&](Index i) { return visual[i]; }, keep, workspace);
  }

 private:
  Budget total_;
};

/// Many images, frames or crops in one call, each with a layout and a length of its own.
///
///   tf::Batch batch;                                   // keep it: it owns the memory
///   batch.plan(tf::FiCoCoV{}, crops, tf::Budget::keep(144), tf::StdThreads{4});
///   std::vector<float> packed(batch.output_tokens() * 1024);
///   batch.apply(hidden, tf::MatrixView(packed.data(), batch.output_tokens(), 1024));
///   // item i: rows batch.offsets()[i] … batch.offsets()[i + 1] − 1, decided by batch[i]
///
/// `crops` are sequences of one type: a container, or `ItemsFrom(count, make)`. `hidden` holds
/// their tokens: one packed matrix, or a container (or `ItemsFrom`) of one matrix each; so does
/// what is written. The budget is the same for each (`Budget::keep(144)`), one each (a container of
/// `Budget`), or one for all (`SharedBudget(Budget::keep(720))`).
///
/// Rows of padding are named in the layout (`padding_cell`) and are in no plan. Items do not see
/// each other, and every result has the bits that `method.plan` and `plan.apply` give for that item
/// alone, whatever the executor. A refusal names the item, the lowest one if several are refused.
class Batch {
 public:
  /// Decides every item. `method`: a `Pipeline`, or whatever plans like one. Asks for no memory
  /// once every worker has met the largest item. After a refusal the batch is empty.
  template <class Method, Items Sequences, Executor E = Serial>
  void plan(const Method& method, const Sequences& sequences, const Budget& budget,
            const E& executor = {}) {
    plan_items(
        method, sequences, [&](Index) -> const Budget& { return budget; }, executor);
  }
  template <class Method, Items Sequences, Executor E = Serial>
  void plan(const Method& method, const Sequences& sequences, Span<const Budget> budgets,
            const E& executor = {}) {
    clear();
    require(budgets.size() == detail::item_count(sequences), "batch: ", budgets.size(),
            " budgets were given for ", detail::item_count(sequences), " items");
    plan_items(
        method, sequences, [&](Index i) -> const Budget& { return budgets[i]; }, executor);
  }
  template <class Method, Items Sequences, Executor E = Serial>
  void plan(const Method& method, const Sequences& sequences, const SharedBudget& budget,
            const E& executor = {}) {
    clear();
    const Index count = detail::item_count(sequences);
    visual_.clear();
    for (Index i = 0; i < count; ++i) {
      visual_.push_back(detail::item(sequences, i).layout.visual_count());
    }
    keep_.resize(visual_.size());
    prepare(count, 1);
    budget.split(visual_, keep_, workspaces_.front());
    const Span<const Index> keep(keep_);
    plan_items(
        method, sequences, [&](Index i) { return Budget::keep(keep[i]); }, executor);
  }

  /// B, the items.
  Index size() const { return size_; }
  /// What was decided for each item.
  Span<const ReductionPlan> plans() const { return {plans_.data(), size_}; }
  const ReductionPlan& operator[](Index i) const { return plans()[i]; }

  /// Ragged offsets, B + 1 of them: item i has the rows offsets[i] … offsets[i + 1] − 1 of the
  /// packed output, input, or output of visual rows alone.
  Span<const Token> offsets() const { return offsets_; }
  Span<const Token> input_offsets() const { return input_offsets_; }
  Span<const Token> visual_offsets() const { return visual_offsets_; }
  /// Rows of the packed output, input, or output of visual rows alone.
  Index output_tokens() const { return offsets_.back(); }
  Index input_tokens() const { return input_offsets_.back(); }
  Index visual_tokens() const { return visual_offsets_.back(); }

  /// out = W · tokens for every item; see `ReductionPlan::apply`. Throws on a wrong shape, or if an
  /// output overlaps an input; that outputs do not overlap each other is the caller's word.
  template <class In, class Out, Executor E = Serial>
  void apply(const In& tokens, Out&& out, const E& executor = {}) const {
    apply_rows(tokens, out, offsets_, executor, [](const ReductionPlan& plan) {
      return Range{0, plan.output_tokens()};
    });
  }
  /// The same for the visual rows alone (`ReductionPlan::visual()`): what a projector is fed, that
  /// is, without [CLS] and text.
  template <class In, class Out, Executor E = Serial>
  void apply_visual(const In& tokens, Out&& out, const E& executor = {}) const {
    apply_rows(tokens, out, visual_offsets_, executor,
               [](const ReductionPlan& plan) { return plan.visual(); });
  }

 private:
  using Offsets = std::vector<Token>;

  void clear() {
    size_ = 0;
    for (Offsets* offsets : {&offsets_, &input_offsets_, &visual_offsets_}) {
      offsets->assign(1, 0);
    }
  }
  /// Room for the plans of `count` items and the memory of `workers`; neither is ever given back.
  void prepare(Index count, Index workers) {
    plans_.resize(std::max(plans_.size(), static_cast<std::size_t>(count)));
    workspaces_.resize(std::max(workspaces_.size(), static_cast<std::size_t>(workers)));
  }

  template <class Method, class Sequences, class BudgetOf, class E>
  void plan_items(const Method& method, const Sequences& sequences, const BudgetOf& budget_of,
                  const E& executor) {
    clear();
    const Index count = detail::item_count(sequences);
    const Index workers = worker_count(executor, count);
    prepare(count, workers);
    const Span<Workspace> workspaces(workspaces_);
    const Span<ReductionPlan> plans(plans_);
    parallel_for(executor, workers, count, [&](Index i, Index worker) {
      name_item(i, [&] {
        method.plan(detail::item(sequences, i), budget_of(i), workspaces[worker], plans[i]);
      });
    });
    Index rows = 0;
    for (const ReductionPlan& plan : plans.subspan(0, count)) {
      rows += std::max(plan.input_tokens(), plan.output_tokens());
    }
    require(rows <= std::numeric_limits<Token>::max(), "batch: ", rows, " rows exceed 32 bits");
    for (Index i = 0; i < count; ++i) {
      append(offsets_, plans[i].output_tokens());
      append(input_offsets_, plans[i].input_tokens());
      append(visual_offsets_, plans[i].visual().size());
    }
    size_ = count;
  }

  static void append(Offsets& offsets, Index rows) {
    offsets.push_back(offsets.back() + static_cast<Token>(rows));
  }

  /// Makes a refusal say which item it was.
  template <class Call>
  static void name_item(Index i, Call&& call) {
#if defined(__cpp_exceptions)
    try {
      call();
    } catch (const std::invalid_argument& refusal) {
      fail("batch item " + std::to_string(i) + ": " + refusal.what());
    }
#else
    (void)i;
    call();
#endif
  }

  /// The rows of item i: of a packed matrix by `offsets`, or the item of a container.
  template <class X>
  static auto item_rows(X& x, Span<const Token> offsets, Index i) {
    if constexpr (detail::MatrixLike<X>) {
      return MatrixView(x).middle_rows({offsets[i], offsets[i + 1]});
    } else {
      return MatrixView(detail::item(x, i));
    }
  }
  template <class X>
  void check_items(X& x, const char* what, Span<const Token> offsets) const {
    if constexpr (detail::MatrixLike<X>) {
      require(MatrixView(x).rows() == offsets[size_], "batch: the packed ", what, " must have ",
              offsets[size_], " rows, got ", MatrixView(x).rows());
    } else {
      require(detail::item_count(x) == size_, "batch: ", detail::item_count(x), " ", what,
              "s were given for ", size_, " items");
    }
  }

  template <class In, class Out, class E, class RowsOf>
  void apply_rows(const In& in, Out& out, Span<const Token> offsets, const E& executor,
                  const RowsOf& rows_of) const {
    check_items(in, "input", input_offsets_);
    check_items(out, "output", offsets);
    const auto from = [&](Index i) { return item_rows(in, input_offsets_, i); };
    const auto to = [&](Index i) { return item_rows(out, offsets, i); };
    using T = typename decltype(from(0))::Element;
    for (Index i = 0; i < size_; ++i) {
      const auto clear_of = [&](MatrixView<const T> read) {
        require(!detail::overlap(MatrixView<const T>(to(i)), read), "batch: the output of item ", i,
                " overlaps an input");
      };
      if constexpr (detail::MatrixLike<In>) {
        clear_of(MatrixView(in));
      } else {
        for (Index j = 0; j < size_; ++j) {
          clear_of(from(j));
        }
      }
    }
    parallel_for(executor, worker_count(executor, size_), size_, [&](Index i, Index) {
      name_item(i, [&] { (*this)[i].apply_rows(rows_of((*this)[i]), from(i), to(i)); });
    });
  }

  Index size_ = 0;
  std::vector<ReductionPlan> plans_;
  std::vector<Workspace> workspaces_;
  Offsets offsets_ = {0};
  Offsets input_offsets_ = {0};
  Offsets visual_offsets_ = {0};
  std::vector<Index> visual_;
  std::vector<Index> keep_;
};

}  // namespace tokenfold
