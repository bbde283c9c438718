// SPDX-License-Identifier: Apache-2.0
#include "methods.hpp"

#include "tokenfold/registry.hpp"

namespace llava {

std::unique_ptr<tokenfold::Reducer<float>> make_method(
    std::string_view name, const std::vector<tokenfold::OptionSetting>& options) {
  return tokenfold::make_reducer(name, options);
}

std::vector<tokenfold::MethodInfo> list_methods() { return tokenfold::list_methods(); }

}  // namespace llava
