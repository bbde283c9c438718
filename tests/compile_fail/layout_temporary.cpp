// expect: deleted
// SPDX-License-Identifier: Apache-2.0
#include <tokenfold/core/sequence.hpp>

void sequence_of_a_temporary() {
  tokenfold::Sequence sequence(tokenfold::TokenLayout::encoder({2, 2}));
}
