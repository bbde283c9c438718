// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>

#include "tokenfold/core/layout.hpp"
#include "tokenfold/core/options.hpp"

namespace tokenfold {

/// Which text tokens a task-aware method listens to: the question after the image, or all text.
enum class TextTokens { after_image, all };
constexpr auto enum_names(TextTokens) {
  return enum_names_of<TextTokens>({{"after", TextTokens::after_image}, {"all", TextTokens::all}});
}

namespace detail {

/// The chosen rows of text as (at most two) ranges. Throws if there are none.
inline std::array<Range, 2> text_ranges(const TokenLayout& layout, TextTokens text,
                                        const char* method) {
  const Range before = text == TextTokens::all ? layout.text_before() : Range{};
  const Range after = layout.text_after();
  require(before.size() + after.size() > 0, method, ": the layout has no text ",
          text == TextTokens::all ? "tokens" : "tokens after the image");
  return {before, after};
}

}  // namespace detail
}  // namespace tokenfold
