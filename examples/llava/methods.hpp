// SPDX-License-Identifier: Apache-2.0
// tokenfold's registry behind two functions, because it compiles every method: once, in
// methods.cpp, while the compiler's other half does the rest.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "tokenfold/registry/reducer.hpp"

namespace llava {

/// `tokenfold::make_reducer` and `tokenfold::list_methods`.
std::unique_ptr<tokenfold::Reducer<float>> make_method(
    std::string_view name, const std::vector<tokenfold::OptionSetting>& options = {});
std::vector<tokenfold::MethodInfo> list_methods();

}  // namespace llava
