// SPDX-License-Identifier: Apache-2.0

// FiCoCo-V against the naive reference on many random inputs, all options.

#include <gtest/gtest.h>

#include <cstdint>
#include <optional>
#include <sstream>
#include <string>
#include <tokenfold/tokenfold.hpp>
#include <vector>

#include "reference/ficoco.hpp"
#include "support/ficoco_cases.hpp"
#include "support/outcome.hpp"
#include "support/random.hpp"

namespace {

using support::Random;
using support::Tensor;
using tokenfold::AttentionDirection;
using tokenfold::AttentionKind;
using tokenfold::Budget;
using tokenfold::Index;
using tokenfold::Token;
using tokenfold::TokenLayout;
using tokenfold::correlate::FixedTargets;
using tokenfold::correlate::NucleusTargets;
using tokenfold::correlate::RelativeTargets;
using tokenfold::filter::LocalPenalty;
using tokenfold::filter::ScoreNormalization;

struct Case {
  TokenLayout layout;
  Index discard = 0;
  AttentionDirection direction = AttentionDirection::received;
  AttentionKind kind = AttentionKind::probabilities;
  ScoreNormalization normalization = ScoreNormalization::none;
  LocalPenalty penalty;
  double lambda = 0.35;
  double max_recycled_share = 1;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.layout.grid().height << "x" << c.layout.grid().width << " with "
             << c.layout.visual_count() << " tokens, discard " << c.discard << ", "
             << (c.direction == AttentionDirection::given ? "given" : "received") << ", "
             << (c.kind == AttentionKind::logits ? "logits" : "probabilities") << ", window "
             << c.penalty.window.height << "x" << c.penalty.window.width << " by "
             << c.penalty.coefficient << ", cls " << c.layout.cls().value_or(-1)
             << (c.normalization == ScoreNormalization::l2 ? ", l2" : "");
}

// Any encoder: some cells empty, some tokens without a cell, special rows between the patches,
// [CLS] anywhere or absent, grids that the windows do not divide.
TokenLayout random_layout(Random& random) {
  tokenfold::LayoutDescription d;
  d.grid = {1 + random.below(5), 1 + random.below(6)};
  std::vector<Token> cells = random.sample(1 + random.below(d.grid.cells()), d.grid.cells());
  if (random.chance(0.3)) random.shuffle(cells);
  for (const Token cell : cells) {
    d.cells.push_back(cell);
    if (random.chance(0.05)) d.cells.push_back(tokenfold::no_token);
  }
  const Index before = random.below(3);
  d.visual = {before, before + static_cast<Index>(d.cells.size())};
  d.tokens = d.visual.end + random.below(3);
  if (random.chance(0.7)) {
    std::vector<Index> free;
    for (Index row = 0; row < d.tokens; ++row) {
      if (!d.visual.contains(row) ||
          d.cells[static_cast<std::size_t>(row - before)] == tokenfold::no_token) {
        free.push_back(row);
      }
    }
    if (!free.empty()) {
      d.cls = free[static_cast<std::size_t>(random.below(static_cast<Index>(free.size())))];
    }
  }
  return TokenLayout(d);
}

Case random_case(Random& random) {
  Case c;
  c.layout = random_layout(random);
  c.discard = random.below(c.layout.visual_count() + 1);
  if (random.chance(0.5)) c.direction = AttentionDirection::given;
  if (random.chance(0.5)) c.kind = AttentionKind::logits;
  if (random.chance(0.5)) c.normalization = ScoreNormalization::l2;
  const LocalPenalty penalties[] = {
      {{2, 2}, 2}, {{1, 1}, 2}, {{3, 2}, 1.5}, {{2, 3}, 4}, {{2, 2}, 1}};
  c.penalty = penalties[random.below(5)];
  const double lambdas[] = {0.35, 0.65, 0, 1, 0.5};
  c.lambda = lambdas[random.below(5)];
  const double shares[] = {1, 1, 0.5, 0.2, 0};
  c.max_recycled_share = shares[random.below(5)];
  return c;
}

int undetermined = 0;

template <class T, class Targets>
void check(const Case& c, const Targets& targets, Random& random) {
  std::ostringstream description;
  description << c;
  SCOPED_TRACE(description.str());
  const auto tokens = static_cast<std::size_t>(c.layout.tokens());
  const reference::Matrix attention = c.kind == AttentionKind::logits
                                          ? support::normal_matrix<T>(tokens, tokens, random)
                                          : support::random_probabilities<T>(tokens, random);
  const reference::Heads keys = support::normal_heads<T>(2, tokens, 4, random);
  reference::FicocoInput input =
      support::ficoco_input(c.layout, support::normal_matrix<T>(tokens, 5, random), attention,
                            c.kind == AttentionKind::logits);
  const reference::Matrix mean_keys = reference::mean_rows_over_heads(keys);
  input.patch_keys = reference::Matrix(input.visual_rows.size(), mean_keys.cols);
  for (std::size_t i = 0; i < input.visual_rows.size(); ++i) {
    for (std::size_t k = 0; k < mean_keys.cols; ++k) {
      input.patch_keys(i, k) = mean_keys(input.visual_rows[i], k);
    }
  }
  reference::FicocoVOptions options;
  options.discard = static_cast<std::size_t>(c.discard);
  options.lambda = c.lambda;
  options.direction = support::direction(c.direction);
  options.normalization = c.normalization == ScoreNormalization::l2
                              ? reference::ScoreNormalization::l2
                              : reference::ScoreNormalization::none;
  options.penalty = {static_cast<std::size_t>(c.penalty.window.height),
                     static_cast<std::size_t>(c.penalty.window.width), c.penalty.coefficient};
  options.targets = support::target_policy(targets);
  options.max_recycled_share = c.max_recycled_share;
  const auto solve = [&](const reference::Matrix& a) {
    input.attention = a;
    return reference::ficoco_v(input, options);
  };
  if (!support::is_determined(solve, attention, std::is_same_v<T, float> ? 2e-6 : 1e-13, random)) {
    ++undetermined;
    return;
  }

  tokenfold::BasicFiCoCoV<Targets> method;
  method.filter = {c.lambda, c.direction, c.normalization, c.penalty};
  method.correlate.targets = targets;
  method.compress.max_recycled_share = c.max_recycled_share;
  const Tensor<T> values = support::tensor<T>(attention);
  const std::vector<T> key_values = support::cast<T>(keys.values);
  const Index d = static_cast<Index>(keys.dim);
  const tokenfold::HeadsView<const T> key_heads(key_values.data(), {2, c.layout.tokens(), d},
                                                {c.layout.tokens() * d, d, 1});
  const tokenfold::Sequence sequence(c.layout,
                                     tokenfold::head_mean_attention(values, {.kind = c.kind}),
                                     tokenfold::Keys(key_heads));
  const support::Outcome outcome =
      support::run<T>(method, sequence, Budget::discard(c.discard), input.tokens);
  support::expect_reference<T>(outcome, solve(attention), c.max_recycled_share < 1);
}

template <class T>
void check_many(std::uint64_t seed, int cases) {
  Random random(seed);
  undetermined = 0;
  for (int i = 0; i < cases && !testing::Test::HasFailure(); ++i) {
    SCOPED_TRACE(i);
    const Case c = random_case(random);
    const double level = random.uniform();
    support::with_policy(i, level, random,
                         [&](const auto& policy) { check<T>(c, policy, random); });
  }
  EXPECT_LT(undetermined, cases / 20);
}

TEST(FiCoCoVReference, float_agrees_on_random_inputs) { check_many<float>(1, 600); }
TEST(FiCoCoVReference, double_agrees_on_random_inputs) { check_many<double>(2, 600); }

// Sixteen patches and multiples of 1/64: every sum is exact, so exact ties abound.
TEST(FiCoCoVReference, ties_are_broken_alike) {
  Random random(3);
  const TokenLayout layout = TokenLayout::encoder({4, 4});
  for (int i = 0; i < 300 && !testing::Test::HasFailure(); ++i) {
    SCOPED_TRACE(i);
    reference::Matrix attention(17, 17);
    for (double& value : attention.values) value = static_cast<double>(random.below(3)) / 64;
    const reference::FicocoInput input = support::ficoco_input(
        layout, support::normal_matrix<float>(17, 3, random), attention, false);
    reference::FicocoVOptions options;
    options.discard = static_cast<std::size_t>(random.below(17));
    options.lambda = 0.5;
    options.penalty.coefficient = i % 2 == 0 ? 2 : 1;
    options.targets = {.rule = reference::TargetRule::fixed, .count = 2};

    tokenfold::BasicFiCoCoV<FixedTargets> method{
        .filter = {.lambda = 0.5, .penalty = {.coefficient = options.penalty.coefficient}},
        .correlate = {.targets = {2}},
        .compress = {}};
    const Tensor<float> values = support::tensor<float>(attention);
    const tokenfold::Sequence sequence(layout, tokenfold::head_mean_attention(values));
    const Budget budget = Budget::discard(static_cast<Index>(options.discard));
    reference::FicocoResult expected = reference::ficoco_v(input, options);
    const support::Outcome outcome = support::run<float>(method, sequence, budget, input.tokens);
    // The reference reports links of strength 0, the library leaves them out.
    for (reference::Links& links : expected.links) {
      while (!links.alphas.empty() && links.alphas.back() == 0) {
        links.alphas.pop_back();
        links.targets.pop_back();
      }
      if (!links.alphas.empty() && links.alphas.front() == 0) {
        links.alphas.erase(links.alphas.begin());
        links.targets.erase(links.targets.begin());
      }
    }
    support::expect_reference<float>(outcome, expected);
  }
}

// --- what it refuses -----------------------------------------------------------------------------

class FiCoCoVRefusals : public testing::Test {
 protected:
  TokenLayout layout_ = TokenLayout::encoder({2, 2});
  Tensor<float> attention_ = Tensor<float>::Constant(5, 5, 0.2f);

  static TokenLayout layout(tokenfold::Grid grid, std::optional<Index> cls) {
    tokenfold::LayoutDescription d;
    d.tokens = 5;
    d.visual = {1, 5};
    d.grid = grid;
    d.cls = cls;
    return TokenLayout(d);
  }
  template <class Method>
  std::string message(const Method& method, Budget budget = Budget::keep(2)) const {
    return support::refusal([&] {
      (void)method.plan(tokenfold::Sequence(layout_, tokenfold::head_mean_attention(attention_)),
                        budget);
    });
  }
};

TEST_F(FiCoCoVRefusals, options_out_of_range_are_named) {
  tokenfold::FiCoCoV method;
  method.filter.lambda = 1.5;
  EXPECT_EQ(message(method), "ficoco-v: lambda must lie in [0, 1], got 1.5");
  method = {};
  method.filter.penalty.coefficient = 0.5;
  EXPECT_EQ(message(method), "local penalty: coefficient must be at least 1, got 0.5");
  method = {};
  method.filter.penalty.window.width = 0;
  EXPECT_EQ(message(method), "local penalty: bad window 2 x 0");
  method = {};
  method.compress.max_recycled_share = -0.25;
  EXPECT_EQ(message(method), "self-preserving: max_recycled_share must lie in [0, 1], got -0.25");
  method = {};
  method.correlate.targets.epsilon = 2;
  EXPECT_EQ(message(method), "quantile targets: epsilon must lie in [0, 1], got 2");
  EXPECT_EQ(message(tokenfold::BasicFiCoCoV<FixedTargets>{.correlate = {.targets = {-1}}}),
            "fixed targets: count must not be negative, got -1");
  EXPECT_EQ(message(tokenfold::BasicFiCoCoV<RelativeTargets>{.correlate = {.targets = {1.25}}}),
            "relative targets: share_of_strongest must lie in [0, 1], got 1.25");
  EXPECT_EQ(message(tokenfold::BasicFiCoCoV<NucleusTargets>{.correlate = {.targets = {-1}}}),
            "nucleus targets: mass must lie in [0, 1], got -1");
}

TEST_F(FiCoCoVRefusals, adaptive_budgets_are_refused) {
  EXPECT_EQ(message(tokenfold::FiCoCoV{}, Budget::adaptive()),
            "budget: this method has no rule of its own; give keep, discard or keep_ratio");
}

TEST_F(FiCoCoVRefusals, budgets_beyond_the_tokens_are_refused) {
  EXPECT_EQ(message(tokenfold::FiCoCoV{}, Budget::keep(5)),
            "budget: cannot keep 5 of 4 visual tokens");
  EXPECT_EQ(message(tokenfold::FiCoCoV{}, Budget::discard(5)),
            "budget: cannot discard 5 of 4 visual tokens");
}

TEST_F(FiCoCoVRefusals, a_penalty_needs_a_grid) {
  layout_ = layout({}, 0);
  tokenfold::FiCoCoV method;
  EXPECT_EQ(message(method), "local penalty: the layout has no patch grid");
  method.filter.penalty.coefficient = 1;
  EXPECT_NO_THROW((void)method.plan(
      tokenfold::Sequence(layout_, tokenfold::head_mean_attention(attention_)), Budget::keep(2)));
}

TEST_F(FiCoCoVRefusals, without_cls_it_needs_keys) {
  layout_ = layout({2, 2}, std::nullopt);
  EXPECT_EQ(message(tokenfold::FiCoCoV{}),
            "ficoco-v: the layout has no [CLS] row, so the filter needs keys: add Keys(view)");
}

TEST_F(FiCoCoVRefusals, keys_must_be_one_per_row) {
  layout_ = layout({2, 2}, std::nullopt);
  const Tensor<float> keys = Tensor<float>::Ones(4, 2);
  EXPECT_EQ(support::refusal([&] {
              (void)tokenfold::FiCoCoV{}.plan(
                  tokenfold::Sequence(layout_, tokenfold::head_mean_attention(attention_),
                                      tokenfold::Keys(tokenfold::split_heads(keys, 1))),
                  Budget::keep(2));
            }),
            "sequence: 4 keys were given for 5 tokens");
}

}  // namespace
