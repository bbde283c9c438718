// expect: (satisfaction of|does not satisfy) 'HasAttention
// SPDX-License-Identifier: Apache-2.0
#include <tokenfold/tokenfold.hpp>

void plan_without_attention(tokenfold::HeadsView<const float> keys) {
  const auto layout = tokenfold::TokenLayout::encoder({2, 2});
  const tokenfold::Sequence sequence(layout, tokenfold::Keys(keys));
  tokenfold::FiCoCoV{}.plan(sequence, tokenfold::Budget::keep(2));
}
