// expect: (satisfaction of|does not satisfy) 'AttentionSource
// SPDX-License-Identifier: Apache-2.0
#include <tokenfold/core/sequence.hpp>

// Answers two of the three questions.
struct Mine {
  using Answer = float;
  tokenfold::AttentionKind kind() const;
  tokenfold::Range queries() const;
  tokenfold::Range keys() const;
  void received(tokenfold::Range, tokenfold::Span<const float>, tokenfold::Range,
                tokenfold::Span<float>, tokenfold::Workspace&) const;
  void given(tokenfold::Range, tokenfold::Range, tokenfold::Span<const float>,
             tokenfold::Span<float>, tokenfold::Workspace&) const;
};

void use(const Mine& mine) { tokenfold::Attention<Mine> attention(mine); }
