// SPDX-License-Identifier: Apache-2.0
//
// The methods that the tool offers. A new one is a class like those of ficoco.hpp and a line here.

#pragma once

#include <array>
#include <memory>
#include <string>
#include <string_view>

#include "ficoco.hpp"
#include "prumerge.hpp"
#include "reducer.hpp"
#include "selection.hpp"

namespace reduce_tool {

struct MethodEntry {
  std::string_view name;
  std::string_view summary;
  std::unique_ptr<Reducer> (*make)();
};

namespace detail {

template <class Method>
std::unique_ptr<Reducer> make_reducer() {
  return std::make_unique<ReducerOf<Method>>();
}

}  // namespace detail

inline constexpr auto methods = std::to_array<MethodEntry>({
    {"ficoco_v", "FiCoCo-V, inside a vision encoder", &detail::make_reducer<FiCoCoVReducer>},
    {"ficoco_l", "FiCoCo-L, inside an LLM", &detail::make_reducer<FiCoCoLReducer>},
    {"prumerge", "PruMerge, after a vision encoder", &detail::make_reducer<PruMergeReducer<false>>},
    {"prumerge_plus", "PruMerge+, with samples of the raster",
     &detail::make_reducer<PruMergeReducer<true>>},
    {"evit", "EViT, inside a vision encoder", &detail::make_reducer<EViTReducer>},
    {"fastv", "FastV, inside an LLM", &detail::make_reducer<FastVReducer>},
});

inline const MethodEntry& find_method(std::string_view name) {
  std::string known;
  for (const MethodEntry& entry : methods) {
    if (entry.name == name) return entry;
    known += (known.empty() ? "" : ", ") + std::string(entry.name);
  }
  throw Error("unknown method " + quote(name) + "; known: " + known);
}

}  // namespace reduce_tool
