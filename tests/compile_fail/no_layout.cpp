// expect: (satisfaction of|does not satisfy) 'HasLayout
// SPDX-License-Identifier: Apache-2.0
#include <tokenfold/tokenfold.hpp>

struct Mine {
  tokenfold::QueryKeyAttention<float> attention;
};

void plan_without_a_layout(const Mine& mine) {
  tokenfold::FiCoCoV{}.plan(mine, tokenfold::Budget::keep(2));
}
