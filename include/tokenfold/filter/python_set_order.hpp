// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "tokenfold/core/types.hpp"
#include "tokenfold/core/workspace.hpp"

/// The order in which CPython (3.7 and later) iterates over a set of integers. DART's release lets
/// its pivots vote in that order, so its results can only be repeated by following it.
namespace tokenfold::detail {

/// Puts `number` into the first free slot of its probe sequence. The size of the table is a power
/// of two, and it is never full. Free slots hold `no_token`.
inline void insert_as_python_set(Token number, Span<Token> table) {
  constexpr Index neighbours = 9;  // slots tried after each probe, unless the table ends there
  const Index mask = table.size() - 1;
  Index rest = number;
  for (Index probe = rest & mask;; probe = (probe * 5 + 1 + rest) & mask) {
    const Index last = probe + neighbours <= mask ? probe + neighbours : probe;
    for (Index slot = probe; slot <= last; ++slot) {
      if (table[slot] == no_token) {
        table[slot] = number;
        return;
      }
    }
    rest >>= 5;
  }
}

/// Reorders distinct non-negative `numbers`, fewer than 50 000, to the iteration order of the set
/// that they were added to in turn.
inline void python_set_order(Span<Token> numbers, Workspace& workspace) {
  Workspace::Frame frame(workspace);
  Span<Token> table = workspace.take_filled<Token>(8, no_token);
  for (Index used = 1; used <= numbers.size(); ++used) {
    insert_as_python_set(numbers[used - 1], table);
    if (used * 5 < (table.size() - 1) * 3) {
      continue;
    }
    Index size = 8;
    while (size <= used * 4) {
      size *= 2;
    }
    const Span<Token> larger = workspace.take_filled<Token>(size, no_token);
    for (const Token number : table) {
      if (number != no_token) {
        insert_as_python_set(number, larger);
      }
    }
    table = larger;
  }
  std::copy_if(table.begin(), table.end(), numbers.begin(),
               [](Token number) { return number != no_token; });
}

}  // namespace tokenfold::detail
