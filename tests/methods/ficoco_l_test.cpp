// SPDX-License-Identifier: Apache-2.0

// FiCoCo-L against the naive reference on many random inputs, all options.

#include <gtest/gtest.h>

#include <cstdint>
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
using tokenfold::TextTokens;
using tokenfold::Token;
using tokenfold::TokenLayout;

struct Case {
  TokenLayout layout;
  Index discard = 0;
  AttentionDirection direction = AttentionDirection::received;
  AttentionKind kind = AttentionKind::probabilities;
  TextTokens text = TextTokens::after_image;
  bool causal = true;
  double beta = 0.6;
  double gamma = 0.6;
  double penalty = 1;
  double max_recycled_share = 1;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.layout.text_before().size() << " + " << c.layout.visual_count() << " + "
             << c.layout.text_after().size() << " tokens, discard " << c.discard << ", "
             << (c.direction == AttentionDirection::given ? "given" : "received") << ", "
             << (c.kind == AttentionKind::logits ? "logits" : "probabilities") << ", beta "
             << c.beta << ", gamma " << c.gamma << ", penalty " << c.penalty
             << (c.text == TextTokens::all ? ", all text" : "");
}

Case random_case(Random& random) {
  Case c;
  const tokenfold::Grid grid{1 + random.below(5), 1 + random.below(5)};
  c.layout = TokenLayout::decoder(random.below(5),
                                  random.sample(1 + random.below(grid.cells()), grid.cells()),
                                  1 + random.below(6), grid);
  c.discard = random.below(c.layout.visual_count() + 1);
  if (random.chance(0.5)) c.direction = AttentionDirection::given;
  if (random.chance(0.4)) c.kind = AttentionKind::logits;
  if (random.chance(0.5)) c.text = TextTokens::all;
  if (random.chance(0.4)) c.causal = false;
  const double shares[] = {0.6, 0.6, 0, 1, 0.3};
  c.beta = shares[random.below(5)];
  c.gamma = shares[random.below(5)];
  if (random.chance(0.3)) c.penalty = 2;
  if (random.chance(0.3)) c.max_recycled_share = 0.5;
  return c;
}

reference::Matrix random_attention(const Case& c, bool is_float, Random& random) {
  const auto tokens = static_cast<std::size_t>(c.layout.tokens());
  if (c.kind == AttentionKind::logits) {
    return is_float ? support::normal_matrix<float>(tokens, tokens, random)
                    : support::normal_matrix<double>(tokens, tokens, random);
  }
  return is_float ? support::random_probabilities<float>(tokens, random, c.causal)
                  : support::random_probabilities<double>(tokens, random, c.causal);
}

int undetermined = 0;

// A strength of 0 is no link in the library; the reference lists it with α = 0.
void drop_empty_links(reference::FicocoResult& result) {
  for (reference::Links& links : result.links) {
    reference::Links positive;
    for (std::size_t t = 0; t < links.targets.size(); ++t) {
      if (links.alphas[t] > 0) {
        positive.targets.push_back(links.targets[t]);
        positive.alphas.push_back(links.alphas[t]);
      }
    }
    links = positive;
  }
}

template <class T, class Targets>
void check(const Case& c, const Targets& targets, Random& random) {
  std::ostringstream description;
  description << c;
  SCOPED_TRACE(description.str());
  const auto tokens = static_cast<std::size_t>(c.layout.tokens());
  const reference::Matrix attention = random_attention(c, std::is_same_v<T, float>, random);
  reference::FicocoInput input =
      support::ficoco_input(c.layout, support::normal_matrix<T>(tokens, 5, random), attention,
                            c.kind == AttentionKind::logits);
  input.text_rows = support::text_rows(c.layout, c.text);
  reference::FicocoLOptions options;
  options.discard = static_cast<std::size_t>(c.discard);
  options.beta = c.beta;
  options.gamma = c.gamma;
  options.direction = support::direction(c.direction);
  options.penalty.coefficient = c.penalty;
  options.targets = support::target_policy(targets);
  options.max_recycled_share = c.max_recycled_share;
  const auto solve = [&](const reference::Matrix& a) {
    input.attention = a;
    reference::FicocoResult result = reference::ficoco_l(input, options);
    drop_empty_links(result);
    return result;
  };
  if (!support::is_determined(solve, attention, std::is_same_v<T, float> ? 2e-6 : 1e-13, random)) {
    ++undetermined;
    return;
  }

  tokenfold::BasicFiCoCoL<Targets> method;
  method.filter.beta = c.beta;
  method.filter.direction = c.direction;
  method.filter.text = c.text;
  method.filter.penalty.coefficient = c.penalty;
  method.correlate.gamma = c.gamma;
  method.correlate.direction = c.direction;
  method.correlate.text = c.text;
  method.correlate.targets = targets;
  method.compress.max_recycled_share = c.max_recycled_share;
  const Tensor<T> values = support::tensor<T>(attention);
  const tokenfold::Sequence sequence(c.layout,
                                     tokenfold::head_mean_attention(values, {.kind = c.kind}));
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
  EXPECT_LT(undetermined, cases / 10);
}

TEST(FiCoCoLReference, float_agrees_on_random_inputs) { check_many<float>(11, 600); }
TEST(FiCoCoLReference, double_agrees_on_random_inputs) { check_many<double>(12, 600); }

// The preset against the reference of the authors' code.
template <class T>
void check_released(std::uint64_t seed) {
  Random random(seed);
  int determined = 0;
  for (int i = 0; i < 200 && !testing::Test::HasFailure(); ++i) {
    SCOPED_TRACE(i);
    const TokenLayout layout =
        TokenLayout::decoder(random.below(4), 2 + random.below(30), 1 + random.below(8));
    const bool protect = random.chance(0.5);
    const Index discard = 1 + random.below(layout.visual_count() - 1);
    const auto tokens = static_cast<std::size_t>(layout.tokens());
    const reference::Matrix logits = support::normal_matrix<T>(tokens, tokens, random);
    reference::FicocoInput input =
        support::ficoco_input(layout, support::normal_matrix<T>(tokens, 4, random), logits, true);
    input.text_rows = support::text_rows(layout, TextTokens::after_image);
    reference::FicocoLReleasedOptions options;
    options.discard = static_cast<std::size_t>(discard);
    options.protect_first = protect;
    const auto solve = [&](const reference::Matrix& a) {
      input.attention = a;
      return reference::ficoco_l_released(input, options);
    };
    if (!support::is_determined(solve, logits, std::is_same_v<T, float> ? 2e-6 : 1e-13, random)) {
      continue;
    }
    ++determined;
    tokenfold::FiCoCoL method = tokenfold::ficoco_l_released();
    method.filter.protect_first = protect;
    const Tensor<T> values = support::tensor<T>(logits);
    const tokenfold::Sequence sequence(
        layout, tokenfold::head_mean_attention(values, {.kind = AttentionKind::logits}));
    support::Outcome outcome =
        support::run<T>(method, sequence, Budget::discard(discard), input.tokens);
    const reference::FicocoResult expected = solve(logits);
    if (protect) {
      EXPECT_EQ(outcome.discarded.front() == layout.visual()[0], false);
      outcome.scores.front() = expected.scores.front();  // marked as lowest
    }
    support::expect_reference<T>(outcome, expected);
  }
  EXPECT_GT(determined, 180);
}

TEST(FiCoCoLReference, released_preset_agrees_in_float) { check_released<float>(13); }
TEST(FiCoCoLReference, released_preset_agrees_in_double) { check_released<double>(14); }

// --- what it refuses -----------------------------------------------------------------------------

class FiCoCoLRefusals : public testing::Test {
 protected:
  TokenLayout layout_ = TokenLayout::decoder(2, 4, 2);
  Tensor<float> attention_ = Tensor<float>::Constant(8, 8, 0.125f);

  std::string message(const tokenfold::FiCoCoL& method, Budget budget = Budget::keep(2)) const {
    return support::refusal([&] {
      (void)method.plan(tokenfold::Sequence(layout_, tokenfold::head_mean_attention(attention_)),
                        budget);
    });
  }
};

TEST_F(FiCoCoLRefusals, options_out_of_range_are_named) {
  EXPECT_EQ(message({.filter = {.beta = -1}, .correlate = {}, .compress = {}}),
            "ficoco-l: beta must lie in [0, 1], got -1");
  EXPECT_EQ(message({.filter = {}, .correlate = {.gamma = 2}, .compress = {}}),
            "ficoco-l: gamma must lie in [0, 1], got 2");
  EXPECT_EQ(message({.filter = {.penalty = {}}, .correlate = {}, .compress = {}}),
            "local penalty: the layout has no patch grid");
}

TEST_F(FiCoCoLRefusals, a_layout_without_text_is_refused) {
  layout_ = TokenLayout::decoder(4, 4, 0);
  EXPECT_EQ(message({}), "ficoco-l: the layout has no text tokens after the image");
  EXPECT_EQ(message({.filter = {.text = TextTokens::all}, .correlate = {}, .compress = {}}),
            "ficoco-l: the layout has no text tokens after the image");  // the correlate stage
  tokenfold::LayoutDescription without_text;
  without_text.tokens = 8;
  without_text.visual = {2, 6};
  layout_ = TokenLayout(without_text);
  EXPECT_EQ(message({.filter = {.text = TextTokens::all}, .correlate = {}, .compress = {}}),
            "ficoco-l: the layout has no text tokens");
}

TEST_F(FiCoCoLRefusals, a_protected_token_cannot_be_discarded) {
  EXPECT_EQ(message(tokenfold::ficoco_l_released(), Budget::discard(4)),
            "ficoco-l: cannot discard all 4 visual tokens while the first one is protected");
  EXPECT_NO_THROW((void)tokenfold::ficoco_l_released().plan(
      tokenfold::Sequence(layout_, tokenfold::head_mean_attention(attention_)),
      Budget::discard(3)));
}

}  // namespace
