// expect: (satisfaction of|does not satisfy) 'HasKeys
// SPDX-License-Identifier: Apache-2.0
#include <tokenfold/tokenfold.hpp>

// PruMerge compares keys, which averaged attention does not have.
void plan_without_keys(tokenfold::MatrixView<const float> attention) {
  const auto layout = tokenfold::TokenLayout::encoder({2, 2});
  const tokenfold::Sequence sequence(layout, tokenfold::head_mean_attention(attention));
  tokenfold::PruMerge{}.plan(sequence, tokenfold::Budget::keep(2));
}
