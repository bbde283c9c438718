// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenfold/registry/methods.hpp"

/// Methods by name, options as text: for engines that choose at run time.
///
///   const auto reducer = tf::make_reducer("ficoco_v", {{"lambda", "0.5"}});
///   tf::Inputs<float> inputs(layout);
///   inputs.attention = tf::QueryKeyAttention(q, k);
///   const tf::ReductionPlan plan = reducer->plan(inputs, tf::Budget::discard(42));
///
/// Not part of tokenfold.hpp, because it compiles every method.
namespace tokenfold {

/// The facts of every method, in the order of the registry.
inline std::vector<MethodInfo> list_methods() {
  std::vector<MethodInfo> list;
  for_each_method([&](const auto& line) { list.push_back(line.info); });
  return list;
}

/// A method of one's own, or of the registry, as its line says. `options` are set in order,
/// `preset` (which sets all others) before them. Throws `std::invalid_argument` on an unknown
/// option or value, naming what is known. `T`: the type of tokens, queries and keys.
template <Scalar T = float, class Method>
std::unique_ptr<Reducer<T>> make_reducer(const MethodLine<Method>& line,
                                         const std::vector<OptionSetting>& options = {}) {
  auto reducer = std::make_unique<detail::ReducerOf<T, Method>>(line);
  for (const bool presets : {true, false}) {
    for (const auto& [option, value] : options) {
      if ((option == "preset") == presets) {
        reducer->set(option, value);
      }
    }
  }
  return reducer;
}

/// A method of the registry by name; throws on an unknown one too.
template <Scalar T = float>
std::unique_ptr<Reducer<T>> make_reducer(std::string_view name,
                                         const std::vector<OptionSetting>& options = {}) {
  std::unique_ptr<Reducer<T>> reducer;
  std::vector<std::string_view> known;
  for_each_method([&](const auto& line) {
    known.push_back(line.info.name);
    if (line.info.name == name) {
      reducer = make_reducer<T>(line, options);
    }
  });
  require(reducer != nullptr, "unknown method ", detail::quote(name),
          "; known: ", detail::joined(known, ", "));
  return reducer;
}

}  // namespace tokenfold
