// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "tokenfold/core/stages.hpp"

namespace tokenfold {
namespace detail {

/// Random integers, the same on every platform (the distributions of the standard library are not):
/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
class SplitMix64 {
 public:
  explicit SplitMix64(std::uint64_t seed) : state_(seed) {}

  std::uint64_t next() {
    state_ += 0x9e3779b97f4a7c15u;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

  /// 0 … bound − 1, all equally likely: what 2⁶⁴ has beyond a multiple of `bound` is drawn again.
  std::uint64_t below(std::uint64_t bound) {
    const std::uint64_t incomplete = (0 - bound) % bound;  // 2⁶⁴ mod bound
    std::uint64_t value = next();
    while (value < incomplete) {
      value = next();
    }
    return value % bound;
  }

 private:
  std::uint64_t state_;
};

}  // namespace detail

namespace filter {

/// Preserves a random set of visual tokens, every set of that size equally likely: token after
/// token stays with probability (still wanted) / (still to come).
///
/// The set depends on the seed, N and K alone, so equal inputs keep giving equal outputs.
///
/// Reads: the layout alone.
/// Score: none.
/// Cost: N random numbers.
struct RandomSamples {
  Index seed = 0;

  template <class Visit>
  void options(Visit&& visit) {
    visit("seed", seed, "another seed, another set");
  }

  template <HasLayout S>
  void operator()(const S& sequence, const Budget& budget, Partition& partition, Workspace&) const {
    const Span<const Token> rows = sequence.layout.visual();
    Index wanted = budget.keep_count(rows.size());
    detail::SplitMix64 random(static_cast<std::uint64_t>(seed));
    for (Index v = 0; v < rows.size(); ++v) {
      const auto to_come = static_cast<std::uint64_t>(rows.size() - v);
      const bool stays = random.below(to_come) < static_cast<std::uint64_t>(wanted);
      (stays ? partition.preserved : partition.discarded).push_back(rows[v]);
      wanted -= stays ? 1 : 0;
    }
  }
};

}  // namespace filter
}  // namespace tokenfold
