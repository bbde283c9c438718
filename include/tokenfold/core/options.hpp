// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <string_view>
#include <utility>

/// How a stage lists its options, so that they can be set by name at run time:
///
///   template <class Visit>
///   void options(Visit&& visit) {
///     visit("lambda", lambda, "weight of the vision term against [CLS]");
///   }
///
/// Options are bool, Index, double, Grid and enums. An enum names its values in a function beside
/// it,
///
///   constexpr auto enum_names(TokenOrder) {
///     return enum_names_of<TokenOrder>({{"raster", TokenOrder::raster}, …});
///   }
namespace tokenfold {

template <class E, std::size_t n>
constexpr std::array<std::pair<std::string_view, E>, n> enum_names_of(
    const std::pair<std::string_view, E> (&names)[n]) {
  return std::to_array(names);
}

namespace detail {

/// The options of a stage, or of a part of one; none if it lists none.
template <class Stage, class Visit>
void visit_options(Stage& stage, Visit&& visit) {
  if constexpr (requires { stage.options(visit); }) {
    stage.options(visit);
  }
}

}  // namespace detail
}  // namespace tokenfold
