// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string_view>

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

/// A value of an enum and what it is called. Not a `std::pair`: that makes the
/// compiler check dozens of conversions for every enum.
template <class E>
struct EnumName {
  std::string_view name;
  E value;
};

/// The names of some values, to loop over.
template <class E, std::size_t n>
struct EnumNames {
  EnumName<E> names[n];

  constexpr const EnumName<E>* begin() const { return names; }
  constexpr const EnumName<E>* end() const { return names + n; }
};

template <class E, std::size_t n>
constexpr EnumNames<E, n> enum_names_of(const EnumName<E> (&names)[n]) {
  EnumNames<E, n> copy{};
  for (std::size_t i = 0; i < n; ++i) {
    copy.names[i] = names[i];
  }
  return copy;
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
