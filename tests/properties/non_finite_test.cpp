// SPDX-License-Identifier: Apache-2.0

// NaN, infinities and huge numbers in attention and keys: indices stay valid, budgets exact, and no
// token that was finite becomes NaN. Worth most under the sanitizers.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <tokenfold/tokenfold.hpp>
#include <vector>

#include "support/outcome.hpp"
#include "support/random.hpp"

namespace {

using support::Random;
using support::Tensor;
using tokenfold::AttentionDirection;
using tokenfold::AttentionKind;
using tokenfold::Budget;
using tokenfold::Index;
using tokenfold::no_token;
using tokenfold::ReductionPlan;
using tokenfold::Token;
using tokenfold::TokenLayout;
using tokenfold::Workspace;

template <class T>
T bad_value(Random& random) {
  const T values[] = {std::numeric_limits<T>::quiet_NaN(),
                      std::numeric_limits<T>::infinity(),
                      -std::numeric_limits<T>::infinity(),
                      T(1e38),
                      T(-1e38),
                      std::numeric_limits<T>::max(),
                      std::numeric_limits<T>::denorm_min(),
                      T(-0.0)};
  return values[random.below(8)];
}

// Single cells, whole rows, whole columns, or everything.
template <class T>
void spoil(Tensor<T>& m, Random& random) {
  const Index times = random.below(4);
  for (Index i = 0; i < times; ++i) {
    const T bad = bad_value<T>(random);
    switch (random.below(8)) {
      case 0:
        m.row(random.below(m.rows())).setConstant(bad);
        break;
      case 1:
        m.col(random.below(m.cols())).setConstant(bad);
        break;
      case 2:
        if (random.chance(0.3)) m.setConstant(bad);
        break;
      default:
        m(random.below(m.rows()), random.below(m.cols())) = bad;
        break;
    }
  }
}

template <class T>
void expect_sound(const ReductionPlan& plan, const Workspace& workspace, const TokenLayout& layout,
                  const Budget& budget, Random& random) {
  // Counts and indices.
  if (!budget.is_adaptive()) {
    EXPECT_EQ(plan.visual().size() - plan.extra_tokens(), budget.keep_count(layout.visual_count()));
  }
  const auto& partition = workspace.partition;
  EXPECT_EQ(static_cast<Index>(partition.scores.size()), layout.visual_count());
  for (const Token token : plan.kept()) {
    EXPECT_TRUE(token == no_token || (0 <= token && token < layout.tokens()));
  }
  for (const Token column : plan.columns()) {
    EXPECT_TRUE(0 <= column && column < layout.tokens());
  }
  for (const float weight : plan.weights()) EXPECT_TRUE(std::isfinite(weight));
  for (const float share : plan.shares()) EXPECT_TRUE(0 <= share && share <= 1.0001f);

  // Finite tokens stay finite.
  const reference::Matrix tokens =
      support::normal_matrix<T>(static_cast<std::size_t>(layout.tokens()), 3, random);
  for (const double value : support::apply<T>(plan, tokens).values) {
    EXPECT_TRUE(std::isfinite(value));
  }
}

// What is discarded first: a preserved token without a finite score leaves no room for a discarded
// one with.
void expect_non_finite_discarded_first(const Workspace& workspace, const TokenLayout& layout) {
  const auto finite = [&](Token row) {
    return std::isfinite(workspace.partition.scores[static_cast<std::size_t>(layout.ordinal(row))]);
  };
  const auto& preserved = workspace.partition.preserved;
  const auto& discarded = workspace.partition.discarded;
  if (std::any_of(preserved.begin(), preserved.end(), [&](Token row) { return !finite(row); })) {
    EXPECT_TRUE(std::none_of(discarded.begin(), discarded.end(), finite));
  }
}

TokenLayout random_layout(Random& random, bool cls) {
  tokenfold::LayoutDescription d;
  d.grid = {1 + random.below(4), 1 + random.below(5)};
  const std::vector<Token> cells = random.sample(1 + random.below(d.grid.cells()), d.grid.cells());
  d.cells = cells;
  d.text_before = {0, random.below(3)};
  const Index begin = d.text_before.end + (cls ? 1 : 0);
  if (cls) d.cls = d.text_before.end;
  d.visual = {begin, begin + static_cast<Index>(cells.size())};
  d.tokens = d.visual.end + 1 + random.below(4);
  d.text_after = {d.visual.end, d.tokens};
  return TokenLayout(d);
}

template <class Targets>
void set_options(tokenfold::BasicFiCoCoV<Targets>& method, Random& random) {
  if (random.chance(0.5)) method.filter.direction = AttentionDirection::given;
  if (random.chance(0.5)) {
    method.filter.normalization = tokenfold::filter::ScoreNormalization::l2;
  }
  if (random.chance(0.3)) method.compress.max_recycled_share = 0.3;
}
template <class Targets>
void set_options(tokenfold::BasicFiCoCoL<Targets>& method, Random& random) {
  if (random.chance(0.5)) {
    method.filter.direction = method.correlate.direction = AttentionDirection::given;
  }
  if (random.chance(0.5)) {
    method.filter.text = method.correlate.text = tokenfold::TextTokens::all;
  }
  if (random.chance(0.3)) {
    method.correlate.candidates = tokenfold::correlate::Candidates::all_visual;
    method.compress.rule = tokenfold::Aggregate::sum;
  }
  if (random.chance(0.3)) method.filter.penalty.coefficient = 2;
}

template <class T, class Method>
void check_ficoco(Method method, Random& random) {
  const TokenLayout layout = random_layout(random, random.chance(0.5));
  set_options(method, random);
  const auto rows = static_cast<std::size_t>(layout.tokens());
  const AttentionKind kind =
      random.chance(0.5) ? AttentionKind::logits : AttentionKind::probabilities;
  Tensor<T> keys = support::tensor<T>(support::normal_matrix<T>(rows, 4, random));
  const Budget budget = Budget::keep(random.below(layout.visual_count() + 1));
  Workspace workspace;
  ReductionPlan plan;
  if (random.chance(0.5)) {
    Tensor<T> attention = support::tensor<T>(support::random_probabilities<T>(rows, random));
    spoil(attention, random);
    spoil(keys, random);
    method.plan(
        tokenfold::Sequence(layout, tokenfold::head_mean_attention(attention, {.kind = kind}),
                            tokenfold::Keys(tokenfold::split_heads(keys, 2))),
        budget, workspace, plan);
  } else {
    Tensor<T> queries = support::tensor<T>(support::normal_matrix<T>(rows, 4, random));
    spoil(queries, random);
    spoil(keys, random);
    const bool causal = random.chance(0.5);
    const tokenfold::QueryKeyAttention<T> attention(tokenfold::split_heads(queries, 2),
                                                    tokenfold::split_heads(keys, 2),
                                                    {.kind = kind, .causal = causal});
    method.plan(tokenfold::Sequence(layout, attention), budget, workspace, plan);
  }
  expect_sound<T>(plan, workspace, layout, budget, random);
  expect_non_finite_discarded_first(workspace, layout);
}

template <class T>
void check_prumerge(tokenfold::PruMerge method, Random& random) {
  const TokenLayout layout = random_layout(random, true);
  const auto rows = static_cast<std::size_t>(layout.tokens());
  Tensor<T> queries = support::tensor<T>(support::normal_matrix<T>(rows, 4, random));
  Tensor<T> keys = support::tensor<T>(support::normal_matrix<T>(rows, 4, random));
  spoil(queries, random);
  spoil(keys, random);
  const Index n = layout.visual_count();
  const Budget budget = random.chance(0.5) ? Budget::adaptive() : Budget::keep(random.below(n + 1));
  method.filter.min_tokens = random.below(4);
  method.filter.max_tokens = random.below(10);
  if (random.chance(0.5)) method.filter.order = tokenfold::TokenOrder::score;
  if (random.chance(0.5)) method.filter.heads = tokenfold::filter::HeadReduction::mean;
  if (random.chance(0.5)) method.filter.count = tokenfold::filter::OutlierCount::truncated;
  if (random.chance(0.3)) method.correlate.neighbours = random.below(4);
  if (random.chance(0.3)) method.correlate.sources = tokenfold::correlate::Sources::discarded;
  if (budget.is_adaptive() && random.chance(0.2)) method.filter.released_share = random.uniform();
  const tokenfold::QueryKeyAttention<T> attention(tokenfold::split_heads(queries, 2),
                                                  tokenfold::split_heads(keys, 2));
  Workspace workspace;
  ReductionPlan plan;
  method.plan(tokenfold::Sequence(layout, attention), budget, workspace, plan);
  expect_sound<T>(plan, workspace, layout, budget, random);
  if (!budget.is_adaptive() && method.filter.samples == tokenfold::filter::RasterSamples::none) {
    expect_non_finite_discarded_first(workspace, layout);
  }
  if (method.filter.max_tokens > 0 && budget.is_adaptive() && method.filter.released_share == 0) {
    EXPECT_LE(static_cast<Index>(workspace.partition.preserved.size()), method.filter.max_tokens);
  }
}

template <class T>
void fuzz(std::uint64_t seed, int rounds) {
  Random random(seed);
  for (int i = 0; i < rounds && !testing::Test::HasFailure(); ++i) {
    SCOPED_TRACE(i);
    check_ficoco<T>(tokenfold::BasicFiCoCoV<tokenfold::correlate::QuantileTargets>{}, random);
    check_ficoco<T>(tokenfold::BasicFiCoCoV<tokenfold::correlate::NucleusTargets>{}, random);
    check_ficoco<T>(
        tokenfold::BasicFiCoCoL<tokenfold::correlate::FixedTargets>{
            .correlate = {.targets = {random.below(4)}}},
        random);
    check_ficoco<T>(tokenfold::BasicFiCoCoL<tokenfold::correlate::RelativeTargets>{}, random);
    check_prumerge<T>({}, random);
    check_prumerge<T>(tokenfold::prumerge_plus(), random);
    check_prumerge<T>(tokenfold::prumerge_plus_published(), random);
  }
}

TEST(NonFinite, random_placements_in_float) { fuzz<float>(101, 300); }
TEST(NonFinite, random_placements_in_double) { fuzz<double>(102, 300); }

// Every output row but that of the token itself.
void expect_others_finite(const ReductionPlan& plan, const reference::Matrix& tokens, Token bad) {
  const reference::Matrix out = support::apply<float>(plan, tokens);
  for (std::size_t row = 0; row < out.rows; ++row) {
    if (plan.kept()[static_cast<Index>(row)] != bad) {
      for (const double value : out.row(row)) EXPECT_TRUE(std::isfinite(value)) << row;
    }
  }
}

template <class Check>
void for_each_nan_token(std::uint64_t seed, const Check& check) {
  Random random(seed);
  for (int i = 0; i < 50; ++i) {
    SCOPED_TRACE(i);
    const Token bad = static_cast<Token>(1 + random.below(12));
    reference::Matrix tokens = support::normal_matrix<float>(13, 3, random);
    for (std::size_t c = 0; c < 3; ++c) tokens(static_cast<std::size_t>(bad), c) = std::nan("");
    Tensor<float> attention =
        support::tensor<float>(support::random_probabilities<float>(13, random));
    check(bad, tokens, attention, Budget::discard(1 + random.below(11)));
  }
}

template <class Method>
ReductionPlan plan_for(const Method& method, const Tensor<float>& attention, const Budget& budget) {
  const TokenLayout layout = TokenLayout::encoder({3, 4});
  const Tensor<float> keys = Tensor<float>::Ones(13, 4);
  return method.plan(tokenfold::Sequence(layout, tokenfold::head_mean_attention(attention),
                                         tokenfold::Keys(tokenfold::split_heads(keys, 2))),
                     budget);
}

// A key that is NaN makes every softmax NaN: then nothing is known, and nothing is merged.
TEST(NonFinite, attention_without_a_finite_number_merges_nothing) {
  for_each_nan_token(103, [](Token bad, const reference::Matrix& tokens, Tensor<float>& attention,
                             const Budget& budget) {
    attention.setConstant(std::numeric_limits<float>::quiet_NaN());
    const auto check = [&](const auto& method) {
      expect_others_finite(plan_for(method, attention, budget), tokens, bad);
    };
    check(tokenfold::FiCoCoV{});
    check(tokenfold::BasicFiCoCoV<tokenfold::correlate::NucleusTargets>{});
    check(tokenfold::PruMerge{});
    check(tokenfold::prumerge_plus());
    check(tokenfold::prumerge_published());
  });
}

// A token whose score alone is not finite goes first, and what it pays to others does not matter.
TEST(NonFinite, a_token_without_a_score_goes_first_and_harms_no_other) {
  for_each_nan_token(104, [](Token bad, const reference::Matrix& tokens, Tensor<float>& attention,
                             const Budget& budget) {
    attention(0, bad) = std::numeric_limits<float>::quiet_NaN();
    const auto check = [&](const auto& method) {
      const ReductionPlan plan = plan_for(method, attention, budget);
      const std::vector<Index> kept = support::indices(plan.kept());
      EXPECT_EQ(std::count(kept.begin(), kept.end(), bad), 0);
      expect_others_finite(plan, tokens, bad);
    };
    check(tokenfold::FiCoCoV{});
    check(tokenfold::BasicFiCoCoV<tokenfold::correlate::NucleusTargets>{});
    check(tokenfold::PruMerge{});
    check(tokenfold::prumerge_published());
  });
}

}  // namespace
