// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>

#include "tokenfold/core/options.hpp"
#include "tokenfold/core/types.hpp"

namespace tokenfold {

/// How a ratio becomes a count. `nearest_even` is what numpy, torch and Python round to.
enum class Rounding { nearest_even, floor, ceil };
constexpr auto enum_names(Rounding) {
  return enum_names_of<Rounding>({{"nearest_even", Rounding::nearest_even},
                                  {"floor", Rounding::floor},
                                  {"ceil", Rounding::ceil}});
}

/// How many visual tokens a reduction preserves: an exact number that is known before any token
/// exists, because engines lay out placeholders when they tokenise. Synthetic tokens (an extra
/// token that some methods append) are not counted; each method says whether it appends one.
class Budget {
 public:
  /// Preserve exactly `count` visual tokens.
  static Budget keep(Index count) { return {Kind::keep, count, 0, {}}; }

  /// Discard exactly `count` visual tokens.
  static Budget discard(Index count) { return {Kind::discard, count, 0, {}}; }

  /// Preserve the share `ratio` ∈ [0, 1] of the visual tokens.
  static Budget keep_ratio(double ratio, Rounding rounding = Rounding::nearest_even) {
    require_in_range("budget: keep_ratio", ratio, 0.0, 1.0);
    return {Kind::ratio, 0, ratio, rounding};
  }

  /// Let the method decide; only for methods with a rule of their own (PruMerge, SparseVLM,
  /// VidCom2, pooling).
  static Budget adaptive() { return {Kind::adaptive, 0, 0, {}}; }

  bool is_adaptive() const { return kind_ == Kind::adaptive; }

  /// How many of `visual` tokens are preserved. Throws if the budget asks for more than there are,
  /// or if it is adaptive and so has no number of its own.
  Index keep_count(Index visual) const {
    switch (kind_) {
      case Kind::keep:
        require(0 <= count_ && count_ <= visual, "budget: cannot keep ", count_, " of ", visual,
                " visual tokens");
        return count_;
      case Kind::discard:
        require(0 <= count_ && count_ <= visual, "budget: cannot discard ", count_, " of ", visual,
                " visual tokens");
        return visual - count_;
      case Kind::ratio:
        return round(ratio_ * static_cast<double>(visual));
      case Kind::adaptive:
        break;
    }
    fail("budget: this method has no rule of its own; give keep, discard or keep_ratio");
  }
  Index discard_count(Index visual) const { return visual - keep_count(visual); }
  /// The same for a method that can discard no more than `most` at a time and takes less for it,
  /// also where the budget asks for more than there are.
  Index discard_count_up_to(Index visual, Index most) const {
    const bool too_many = kind_ == Kind::discard && count_ > visual;
    return std::min(too_many ? visual : discard_count(visual), most);
  }

 private:
  enum class Kind { keep, discard, ratio, adaptive };

  Budget(Kind kind, Index count, double ratio, Rounding rounding)
      : kind_(kind), count_(count), ratio_(ratio), rounding_(rounding) {}

  Index round(double value) const {
    const double below = std::floor(value);
    const auto count = static_cast<Index>(below);
    switch (rounding_) {
      case Rounding::floor:
        return count;
      case Rounding::ceil:
        return static_cast<Index>(std::ceil(value));
      case Rounding::nearest_even:
        break;
    }
    // Written out because std::nearbyint depends on the caller's rounding mode.
    const double rest = value - below;
    return rest > 0.5 || (rest == 0.5 && count % 2 != 0) ? count + 1 : count;
  }

  Kind kind_;
  Index count_;
  double ratio_;
  Rounding rounding_;
};

}  // namespace tokenfold
