// expect: no match(ing function)? for call to .*const KeepsAll
// SPDX-License-Identifier: Apache-2.0
#include <tokenfold/tokenfold.hpp>

// Forgets the budget.
struct KeepsAll {
  template <class S>
  void operator()(const S& sequence, tokenfold::Partition& partition, tokenfold::Workspace&) const {
    for (const tokenfold::Token row : sequence.layout.visual()) {
      partition.preserved.push_back(row);
    }
  }
};

void plan_with_it(const tokenfold::QueryKeyAttention<float>& attention) {
  const auto layout = tokenfold::TokenLayout::encoder({2, 2});
  const tokenfold::Sequence sequence(layout, attention);
  const tokenfold::Pipeline<KeepsAll, tokenfold::correlate::NearestKeys,
                            tokenfold::compress::AttentionWeightedSum>
      method{};
  method.plan(sequence, tokenfold::Budget::keep(2));
}
