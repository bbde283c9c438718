// SPDX-License-Identifier: Apache-2.0

// What holds for every method: exact counts, order, convexity, conserved sizes, independence of the
// order in which patches are stored, determinism.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <numeric>
#include <tokenfold/tokenfold.hpp>
#include <utility>
#include <vector>

#include "support/outcome.hpp"
#include "support/random.hpp"

namespace {

using support::Outcome;
using support::Random;
using support::Tensor;
using tokenfold::Budget;
using tokenfold::Index;
using tokenfold::no_token;
using tokenfold::ReductionPlan;
using tokenfold::Token;
using tokenfold::TokenLayout;
using tokenfold::Workspace;

// Any of the methods on one kind of sequence: [CLS], patches, text; queries and keys.
struct Input {
  TokenLayout layout;
  Tensor<float> queries;
  Tensor<float> keys;

  Input(tokenfold::Grid grid, Random& random) {
    tokenfold::LayoutDescription d;
    d.grid = grid;
    d.cls = 0;
    d.visual = {1, 1 + grid.cells()};
    d.tokens = d.visual.end + 3;
    d.text_after = {d.visual.end, d.tokens};
    layout = TokenLayout(d);
    const auto rows = static_cast<std::size_t>(d.tokens);
    queries = support::tensor<float>(support::normal_matrix<float>(rows, 8, random, 2));
    keys = support::tensor<float>(support::normal_matrix<float>(rows, 8, random));
  }
  auto attention() const {
    return tokenfold::QueryKeyAttention<float>(tokenfold::split_heads(queries, 2),
                                               tokenfold::split_heads(keys, 2));
  }
  auto sequence() const { return tokenfold::Sequence(layout, attention()); }
};

template <class Use>
void for_each_method(const Use& use) {
  {
    SCOPED_TRACE("FiCoCo-V");
    use(tokenfold::FiCoCoV{});
  }
  {
    SCOPED_TRACE("FiCoCo-V, half of the strongest");
    use(tokenfold::BasicFiCoCoV<tokenfold::correlate::RelativeTargets>{});
  }
  {
    SCOPED_TRACE("FiCoCo-V as released");
    use(tokenfold::ficoco_v_released());
  }
  {
    SCOPED_TRACE("FiCoCo-L");
    use(tokenfold::FiCoCoL{});
  }
  {
    SCOPED_TRACE("FiCoCo-L, half of the mass");
    use(tokenfold::BasicFiCoCoL<tokenfold::correlate::NucleusTargets>{});
  }
  {
    SCOPED_TRACE("PruMerge");
    use(tokenfold::PruMerge{});
  }
  {
    SCOPED_TRACE("PruMerge+");
    use(tokenfold::prumerge_plus());
  }
  {
    SCOPED_TRACE("PruMerge as published");
    use(tokenfold::prumerge_published());
  }
  {
    SCOPED_TRACE("PruMerge+ as published");
    use(tokenfold::prumerge_plus_published());
  }
}

void expect_same_plan(const ReductionPlan& a, const ReductionPlan& b) {
  const auto same = [](auto x, auto y) {
    return x.size() == y.size() &&
           (x.empty() || std::memcmp(x.data(), y.data(),
                                     static_cast<std::size_t>(x.size()) * sizeof(x[0])) == 0);
  };
  EXPECT_TRUE(same(a.kept(), b.kept()));
  EXPECT_TRUE(same(a.offsets(), b.offsets()));
  EXPECT_TRUE(same(a.columns(), b.columns()));
  EXPECT_TRUE(same(a.weights(), b.weights()));
  EXPECT_TRUE(same(a.shares(), b.shares()));
  EXPECT_EQ(a.visual(), b.visual());
  EXPECT_EQ(a.kept_hash(), b.kept_hash());
}

TEST(EveryMethod, keeps_exactly_what_the_budget_says_in_order) {
  Random random(91);
  for (const tokenfold::Grid grid : {tokenfold::Grid{1, 1}, {1, 2}, {3, 5}, {4, 4}}) {
    const Input input(grid, random);
    const Index n = grid.cells();
    for (Index keep = 0; keep <= n; ++keep) {
      SCOPED_TRACE(keep);
      for_each_method([&](const auto& method) {
        const ReductionPlan plan = method.plan(input.sequence(), Budget::keep(keep));
        EXPECT_EQ(plan.visual().size() - plan.extra_tokens(), keep);
        EXPECT_EQ(plan.output_tokens(), 4 + keep + plan.extra_tokens());
        EXPECT_LE(plan.extra_tokens(), keep < n ? 1 : 0);
        std::vector<Index> kept = support::indices(plan.kept());
        const auto extra = std::find(kept.begin(), kept.end(), no_token);
        if (extra != kept.end()) {
          EXPECT_EQ(extra - kept.begin(), 1 + keep);  // right after the visual tokens
          kept.erase(extra);
        }
        EXPECT_TRUE(std::is_sorted(kept.begin(), kept.end()));
        EXPECT_EQ(std::adjacent_find(kept.begin(), kept.end()), kept.end());
        // [CLS] and text pass through.
        EXPECT_EQ(kept.front(), 0);
        EXPECT_TRUE(std::equal(kept.end() - 3, kept.end(),
                               std::vector<Index>{n + 1, n + 2, n + 3}.begin()));
        for (const Index row : {Index{0}, plan.output_tokens() - 1}) {
          EXPECT_EQ(plan.offsets()[row + 1] - plan.offsets()[row], 1);
          EXPECT_EQ(plan.weights()[plan.offsets()[row]], 1.0f);
        }
        // The same number by other words.
        expect_same_plan(method.plan(input.sequence(), Budget::discard(n - keep)), plan);
      });
    }
  }
}

TEST(EveryMethod, changes_nothing_when_everything_is_kept_except_what_prumerge_merges) {
  Random random(92);
  const Input input({3, 4}, random);
  const auto plan = [&](const auto& method) {
    return method.plan(input.sequence(), Budget::keep(12));
  };
  EXPECT_TRUE(plan(tokenfold::FiCoCoV{}).is_identity());
  EXPECT_TRUE(plan(tokenfold::FiCoCoL{}).is_identity());
  // Preserved tokens absorb each other; with discarded sources only there is nothing to absorb.
  EXPECT_FALSE(plan(tokenfold::PruMerge{}).is_identity());
  tokenfold::PruMerge method;
  method.correlate.sources = tokenfold::correlate::Sources::discarded;
  EXPECT_TRUE(plan(method).is_identity());
}

TEST(AveragingRules, give_convex_combinations) {
  Random random(93);
  for (int i = 0; i < 40; ++i) {
    const Input input({3, 5}, random);
    const Budget budget = Budget::keep(1 + random.below(15));
    const reference::Matrix tokens = support::normal_matrix<float>(19, 4, random);
    const auto check = [&](const auto& method) {
      const ReductionPlan plan = method.plan(input.sequence(), budget);
      const reference::Matrix w = support::dense_weights(plan);
      const reference::Matrix out = support::apply<float>(plan, tokens);
      for (std::size_t row = 0; row < w.rows; ++row) {
        double sum = 0;
        for (const double weight : w.row(row)) {
          EXPECT_GE(weight, 0);
          EXPECT_LE(weight, 1);
          sum += weight;
        }
        EXPECT_NEAR(sum, 1, 1e-6);
        for (std::size_t c = 0; c < tokens.cols; ++c) {
          double low = 1e9;
          double high = -1e9;
          for (std::size_t k = 0; k < tokens.rows; ++k) {
            if (w(row, k) > 0) {
              low = std::min(low, tokens(k, c));
              high = std::max(high, tokens(k, c));
            }
          }
          EXPECT_GE(out(row, c), low - 1e-5);
          EXPECT_LE(out(row, c), high + 1e-5);
        }
      }
    };
    check(tokenfold::FiCoCoV{});
    check(tokenfold::BasicFiCoCoV<tokenfold::correlate::NucleusTargets>{});
    check(tokenfold::FiCoCoL{});
    check(tokenfold::prumerge_published());
    check(tokenfold::prumerge_plus_published());
  }
}

TEST(EveryMethod, conserves_the_sizes_of_what_it_does_not_drop) {
  Random random(94);
  for (int i = 0; i < 20; ++i) {
    const Input input({4, 5}, random);
    const Budget budget = Budget::keep(1 + random.below(20));
    std::vector<float> in(24);
    for (float& size : in) size = static_cast<float>(1 + random.below(5));
    for_each_method([&](const auto& method) {
      const ReductionPlan plan = method.plan(input.sequence(), budget);
      std::vector<double> share(24, 0);
      for (Index e = 0; e < plan.columns().size(); ++e) {
        share[static_cast<std::size_t>(plan.columns()[e])] += static_cast<double>(plan.shares()[e]);
      }
      double expected = 0;
      for (std::size_t k = 0; k < share.size(); ++k) {
        EXPECT_TRUE(share[k] == 0 || std::abs(share[k] - 1) < 1e-5) << share[k];
        expected += share[k] > 0 ? static_cast<double>(in[k]) : 0;
      }
      for (const Token token : plan.kept()) {
        if (token != no_token) {
          EXPECT_GT(share[static_cast<std::size_t>(token)], 0);
        }
      }
      std::vector<float> out(static_cast<std::size_t>(plan.output_tokens()));
      plan.sizes(in, out);
      EXPECT_NEAR(std::accumulate(out.begin(), out.end(), 0.0), expected, 1e-3);
    });
  }
}

// The same image with its patches stored in another order, the grid cells saying which is which.
TEST(FiCoCoV, permuted_patches_give_the_permuted_result) {
  Random random(95);
  for (int i = 0; i < 60; ++i) {
    const tokenfold::Grid grid{2 + random.below(4), 2 + random.below(4)};
    const Index n = grid.cells();
    const auto rows = static_cast<std::size_t>(n) + 1;
    const reference::Matrix attention = support::random_probabilities<double>(rows, random);
    std::vector<Token> cells(static_cast<std::size_t>(n));
    std::iota(cells.begin(), cells.end(), Token{0});
    random.shuffle(cells);
    tokenfold::LayoutDescription d;
    d.tokens = n + 1;
    d.cls = 0;
    d.visual = {1, n + 1};
    d.grid = grid;
    const TokenLayout straight(d);
    d.cells = cells;
    const TokenLayout shuffled(d);
    // Row r of the shuffled sequence is row `old(r)` of the straight one.
    const auto old = [&](Index row) {
      return row == 0 ? Index{0} : Index{cells[static_cast<std::size_t>(row - 1)]} + 1;
    };
    Tensor<double> a = support::tensor<double>(attention);
    Tensor<double> b(n + 1, n + 1);
    for (Index q = 0; q <= n; ++q) {
      for (Index k = 0; k <= n; ++k) b(q, k) = a(old(q), old(k));
    }
    const Budget budget = Budget::discard(random.below(n + 1));
    const tokenfold::BasicFiCoCoV<tokenfold::correlate::FixedTargets> method{
        .correlate = {.targets = {2}}};
    const auto weights = [&](const TokenLayout& layout, const Tensor<double>& x) {
      const ReductionPlan plan =
          method.plan(tokenfold::Sequence(layout, tokenfold::head_mean_attention(x)), budget);
      return std::pair(support::indices(plan.kept()), support::dense_weights(plan));
    };
    const auto [kept, w] = weights(straight, a);
    const auto [kept_shuffled, w_shuffled] = weights(shuffled, b);
    ASSERT_EQ(kept.size(), kept_shuffled.size());
    for (std::size_t row = 0; row < kept_shuffled.size(); ++row) {
      const auto place = std::find(kept.begin(), kept.end(), old(kept_shuffled[row]));
      ASSERT_NE(place, kept.end());
      const auto straight_row = static_cast<std::size_t>(place - kept.begin());
      for (Index k = 0; k <= n; ++k) {
        EXPECT_NEAR(w_shuffled(row, static_cast<std::size_t>(k)),
                    w(straight_row, static_cast<std::size_t>(old(k))), 1e-6);
      }
    }
  }
}

TEST(EveryMethod, equal_attention_discards_the_lower_rows) {
  Random random(96);
  Input input({3, 3}, random);
  input.queries.setZero();  // all attention is equal
  const ReductionPlan v = tokenfold::BasicFiCoCoV<tokenfold::correlate::QuantileTargets>{
      .filter = {
          .penalty = {.coefficient =
                          1}}}.plan(input.sequence(), Budget::discard(4));
  EXPECT_EQ(support::indices(v.kept()), (std::vector<Index>{0, 5, 6, 7, 8, 9, 10, 11, 12}));
  const ReductionPlan l = tokenfold::FiCoCoL{}.plan(input.sequence(), Budget::discard(4));
  EXPECT_EQ(support::indices(l.kept()), support::indices(v.kept()));
  // PruMerge preserves the lower rows: there high scores stay.
  const ReductionPlan p = tokenfold::PruMerge{}.plan(input.sequence(), Budget::keep(2));
  EXPECT_EQ(support::indices(p.kept()), (std::vector<Index>{0, 1, 2, no_token, 10, 11, 12}));
  // Equal strengths: everybody is a target, with equal shares.
  EXPECT_TRUE(support::close(support::dense_weights(v).row(1),
                             {0, 1 / 9., 1 / 9., 1 / 9., 1 / 9., 5 / 9., 0, 0, 0, 0, 0, 0, 0},
                             1e-5));
}

TEST(EveryMethod, is_deterministic_and_does_not_care_what_the_workspace_saw_before) {
  Random random(97);
  const Input input({4, 6}, random);
  const Input other({7, 9}, random);
  for_each_method([&](const auto& method) {
    const ReductionPlan first = method.plan(input.sequence(), Budget::keep(7));
    expect_same_plan(method.plan(input.sequence(), Budget::keep(7)), first);
    Workspace workspace;
    ReductionPlan plan;
    method.plan(other.sequence(), Budget::keep(30), workspace, plan);  // warm and dirty
    tokenfold::PruMerge{}.plan(other.sequence(), Budget::adaptive(), workspace, plan);
    {
      Workspace::Frame frame(workspace);
      workspace.take_filled<unsigned char>(static_cast<Index>(workspace.capacity() / 2), 0xff);
    }
    method.plan(input.sequence(), Budget::keep(7), workspace, plan);
    expect_same_plan(plan, first);
  });
}

TEST(EveryMethod, needs_no_further_scratch_once_warm) {
  Random random(98);
  const Input large({8, 9}, random);
  const Input small({4, 6}, random);
  for_each_method([&](const auto& method) {
    Workspace workspace;
    ReductionPlan plan;
    method.plan(large.sequence(), Budget::keep(30), workspace, plan);
    method.plan(large.sequence(), Budget::keep(30), workspace, plan);
    const std::size_t capacity = workspace.capacity();
    for (Index keep = 0; keep <= 24; ++keep) {
      method.plan(small.sequence(), Budget::keep(keep), workspace, plan);
      method.plan(large.sequence(), Budget::keep(30), workspace, plan);
      EXPECT_EQ(workspace.capacity(), capacity);
    }
  });
}

}  // namespace
