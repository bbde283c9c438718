// SPDX-License-Identifier: Apache-2.0
//
// The tool's own options, beside those of the method: an option binds a name to one of its
// variables, once, with a sentence about it.

#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tokenfold/core/types.hpp>
#include <tokenfold/registry/option_text.hpp>
#include <utility>
#include <vector>

// Values that only the tool has.
namespace tokenfold {

template <>
struct OptionText<std::string> {
  static std::string type() { return "name"; }
  static bool parse(std::string_view text, std::string& out) {
    out = text;
    return !text.empty();
  }
  static std::string write(const std::string& value) { return value; }
};

// Not set: left to the tool, which the meaning then explains.
template <class T>
struct OptionText<std::optional<T>> {
  static std::string type() { return OptionText<T>::type(); }
  static bool parse(std::string_view text, std::optional<T>& out) {
    T value{};
    if (!OptionText<T>::parse(text, value)) return false;
    out = value;
    return true;
  }
  static std::string write(const std::optional<T>& value) {
    return value ? OptionText<T>::write(*value) : "auto";
  }
};

}  // namespace tokenfold

namespace reduce_tool {

using tokenfold::Grid;
using tokenfold::Index;
using tokenfold::OptionText;
using tokenfold::detail::quote;

// What is wrong with a request or a file, in one line.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Option {
  std::string name;
  std::string type;
  std::string meaning;
  std::function<bool(std::string_view)> parse;
  std::function<std::string()> write;
};

// Holds references to the variables bound, which must outlive it.
class Options {
 public:
  template <class T>
  void add(std::string name, T& variable, std::string meaning) {
    list_.push_back(
        {std::move(name), OptionText<T>::type(), std::move(meaning),
         [&variable](std::string_view text) { return OptionText<T>::parse(text, variable); },
         [&variable] { return OptionText<T>::write(variable); }});
  }

  const std::vector<Option>& list() const { return list_; }

  // False if there is no option of that name.
  bool set(std::string_view name, std::string_view value) {
    for (const Option& option : list_) {
      if (option.name == name) {
        if (option.parse(value)) return true;
        throw Error("option " + option.name + " takes " + option.type + ", got " + quote(value));
      }
    }
    return false;
  }

 private:
  std::vector<Option> list_;
};

// "name=value"
inline tokenfold::OptionSetting parse_setting(const std::string& text) {
  const std::size_t equals = text.find('=');
  if (equals == 0 || equals == std::string::npos) {
    throw Error("--set takes name=value, got " + quote(text));
  }
  return {text.substr(0, equals), text.substr(equals + 1)};
}

}  // namespace reduce_tool
