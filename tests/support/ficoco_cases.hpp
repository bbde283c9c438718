// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <tokenfold/tokenfold.hpp>
#include <type_traits>
#include <vector>

#include "reference/ficoco.hpp"
#include "support/outcome.hpp"
#include "support/random.hpp"

// Random inputs for FiCoCo, in the library's and in the reference's words.
namespace support {

/// What the reference is given for `layout`; tokens and attention as the caller has them.
inline reference::FicocoInput ficoco_input(const tokenfold::TokenLayout& layout,
                                           const reference::Matrix& tokens,
                                           const reference::Matrix& attention, bool logits) {
  reference::FicocoInput input;
  input.tokens = tokens;
  input.attention = attention;
  input.logits = logits;
  for (const Token row : layout.visual()) {
    input.visual_rows.push_back(static_cast<std::size_t>(row));
  }
  if (layout.has_grid()) {
    input.grid_cells.assign(layout.cells().begin(), layout.cells().end());
    input.grid_height = static_cast<std::size_t>(layout.grid().height);
    input.grid_width = static_cast<std::size_t>(layout.grid().width);
  }
  if (layout.cls()) input.cls_row = *layout.cls();
  return input;
}

inline reference::Rows text_rows(const tokenfold::TokenLayout& layout, tokenfold::TextTokens text) {
  reference::Rows rows;
  for (const tokenfold::Range range : {layout.text_before(), layout.text_after()}) {
    if (range == layout.text_before() && text == tokenfold::TextTokens::after_image) continue;
    for (Index row = range.begin; row < range.end; ++row) {
      rows.push_back(static_cast<std::size_t>(row));
    }
  }
  return rows;
}

inline reference::Direction direction(tokenfold::AttentionDirection direction) {
  return direction == tokenfold::AttentionDirection::received ? reference::Direction::received
                                                              : reference::Direction::given;
}

/// The library's target policy in the reference's words.
template <class Targets>
reference::TargetPolicy target_policy(const Targets& targets) {
  reference::TargetPolicy policy;
  if constexpr (std::is_same_v<Targets, tokenfold::correlate::QuantileTargets>) {
    policy.rule = reference::TargetRule::quantile;
    policy.epsilon = targets.epsilon;
  } else if constexpr (std::is_same_v<Targets, tokenfold::correlate::FixedTargets>) {
    policy.rule = reference::TargetRule::fixed;
    policy.count = static_cast<std::size_t>(targets.count);
  } else if constexpr (std::is_same_v<Targets, tokenfold::correlate::RelativeTargets>) {
    policy.rule = reference::TargetRule::relative;
    policy.ratio = targets.share_of_strongest;
  } else {
    policy.rule = reference::TargetRule::nucleus;
    policy.mass = targets.mass;
  }
  return policy;
}

/// Do the decisions of `solve(attention)` survive rounding errors? In float, a case whose decisions
/// hang on the last bits proves nothing.
template <class Solve>
bool is_determined(const Solve& solve, const reference::Matrix& attention, double rounding,
                   Random& random) {
  const reference::FicocoResult exact = solve(attention);
  for (int trial = 0; trial < 3; ++trial) {
    reference::Matrix other = attention;
    other.values = perturbed(other.values, rounding, random);
    const reference::FicocoResult result = solve(other);
    if (result.discarded != exact.discarded) return false;
    if (!close(result.scores, exact.scores, 1e-3, 1e-3, 1e-9)) return false;  // the penalty
    for (std::size_t i = 0; i < exact.links.size(); ++i) {
      if (result.links[i].targets != exact.links[i].targets) return false;
    }
  }
  return true;
}

template <class T>
void expect_reference(const Outcome& outcome, const reference::FicocoResult& expected,
                      bool links_are_scaled = false) {
  const bool is_float = std::is_same_v<T, float>;
  const double floor = is_float ? 1e-6 : 1e-12;
  EXPECT_TRUE(close(outcome.scores, expected.scores, is_float ? 1e-5 : 1e-12, floor,
                    is_float ? 1e-8 : 1e-15));
  EXPECT_EQ(outcome.discarded, indices(expected.discarded));
  EXPECT_EQ(outcome.preserved, indices(expected.preserved));
  EXPECT_EQ(outcome.kept, indices(expected.kept));
  // W is float by design.
  EXPECT_TRUE(close(outcome.weights.values, expected.weights.values, is_float ? 1e-5 : 2e-7, 1e-7));
  EXPECT_TRUE(close(outcome.output.values, expected.output.values, 1e-5, 1e-6));
  if (links_are_scaled) return;
  std::vector<Index> sources;
  std::vector<Index> targets;
  std::vector<double> actual;
  std::vector<double> alphas;
  for (const Link& link : outcome.links) {
    sources.push_back(link.source);
    targets.push_back(link.target);
    actual.push_back(link.alpha);
  }
  std::vector<Index> expected_sources;
  std::vector<Index> expected_targets;
  for (std::size_t i = 0; i < expected.links.size(); ++i) {
    for (std::size_t t = 0; t < expected.links[i].targets.size(); ++t) {
      expected_sources.push_back(static_cast<Index>(expected.discarded[i]));
      expected_targets.push_back(static_cast<Index>(expected.links[i].targets[t]));
      alphas.push_back(expected.links[i].alphas[t]);
    }
  }
  EXPECT_EQ(sources, expected_sources);
  EXPECT_EQ(targets, expected_targets);
  EXPECT_TRUE(close(actual, alphas, is_float ? 1e-4 : 1e-11, 1e-6));
}

/// Calls `use` with a target policy, another kind for every i, of strictness `level` in [0, 1].
template <class Use>
void with_policy(int i, double level, Random& random, Use&& use) {
  using namespace tokenfold::correlate;
  switch (i % 4) {
    case 0:
      return use(QuantileTargets{level});
    case 1:
      return use(FixedTargets{random.below(6)});
    case 2:
      return use(RelativeTargets{level});
    default:
      return use(NucleusTargets{level});
  }
}

}  // namespace support
