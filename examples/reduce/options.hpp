// SPDX-License-Identifier: Apache-2.0
//
// Options by name: a method binds a name to one of its variables, once, with a sentence about it.
// The command line (--set), the listing (--options) and the output's metadata all read that table.

#pragma once

#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <tokenfold/core/types.hpp>
#include <utility>
#include <vector>

namespace reduce_tool {

using tokenfold::Grid;
using tokenfold::Index;

// What is wrong with a request or a file, in one line.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Input of any length, quoted in a message.
inline std::string quote(std::string_view text) {
  std::string out = "\"";
  for (const char c : text.substr(0, 60)) out += static_cast<unsigned char>(c) < ' ' ? '?' : c;
  return out + (text.size() > 60 ? "...\"" : "\"");
}

// An enum becomes an option by listing its names: template <> struct Names<E> { values }.
template <class E>
using Name = std::pair<std::string_view, E>;
template <class E>
struct Names;

// How a type is read and written: type() for the listing, parse() false if the text is none.
template <class T>
struct Text {
  static std::string type() {
    std::string all;
    for (const auto& [name, value] : Names<T>::values) {
      all += (all.empty() ? "" : "|") + std::string(name);
    }
    return all;
  }
  static bool parse(std::string_view text, T& out) {
    for (const auto& [name, value] : Names<T>::values) {
      if (name == text) {
        out = value;
        return true;
      }
    }
    return false;
  }
  static std::string write(T value) {
    for (const auto& [name, listed] : Names<T>::values) {
      if (listed == value) return std::string(name);
    }
    return "?";
  }
};

namespace detail {

template <class Number>
bool parse_number(std::string_view text, Number& out) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return false;
  out = value;
  return true;
}

}  // namespace detail

template <>
struct Text<double> {
  static std::string type() { return "number"; }
  static bool parse(std::string_view text, double& out) {
    double value = 0;
    if (!detail::parse_number(text, value) || !std::isfinite(value)) return false;
    out = value;
    return true;
  }
  static std::string write(double value) {
    std::array<char, 32> text{};
    return {text.data(), std::to_chars(text.data(), text.data() + text.size(), value).ptr};
  }
};

template <>
struct Text<Index> {
  static std::string type() { return "integer"; }
  static bool parse(std::string_view text, Index& out) { return detail::parse_number(text, out); }
  static std::string write(Index value) { return std::to_string(value); }
};

// Also as Python prints it.
template <>
struct Text<bool> {
  static std::string type() { return "true|false"; }
  static bool parse(std::string_view text, bool& out) {
    out = text == "true" || text == "True";
    return out || text == "false" || text == "False";
  }
  static std::string write(bool value) { return value ? "true" : "false"; }
};

template <>
struct Text<std::string> {
  static std::string type() { return "name"; }
  static bool parse(std::string_view text, std::string& out) {
    out = text;
    return !text.empty();
  }
  static std::string write(const std::string& value) { return value; }
};

template <>
struct Text<Grid> {
  static std::string type() { return "HxW|none"; }
  static bool parse(std::string_view text, Grid& out) {
    if (text == "none") {
      out = {};
      return true;
    }
    // Beyond this height · width would not fit the library's 32-bit rows anyway.
    constexpr Index most = Index{1} << 31;
    const std::size_t x = text.find('x');
    Grid grid;
    if (x == std::string_view::npos || !detail::parse_number(text.substr(0, x), grid.height) ||
        !detail::parse_number(text.substr(x + 1), grid.width) || grid.height < 1 ||
        grid.width < 1 || grid.height >= most || grid.width >= most || grid.cells() >= most) {
      return false;
    }
    out = grid;
    return true;
  }
  static std::string write(Grid grid) {
    return grid.cells() == 0 ? "none"
                             : std::to_string(grid.height) + "x" + std::to_string(grid.width);
  }
};

// Not set: left to the tool, which the meaning then explains.
template <class T>
struct Text<std::optional<T>> {
  static std::string type() { return Text<T>::type(); }
  static bool parse(std::string_view text, std::optional<T>& out) {
    T value{};
    if (!Text<T>::parse(text, value)) return false;
    out = value;
    return true;
  }
  static std::string write(const std::optional<T>& value) {
    return value ? Text<T>::write(*value) : "auto";
  }
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
    list_.push_back({std::move(name), Text<T>::type(), std::move(meaning),
                     [&variable](std::string_view text) { return Text<T>::parse(text, variable); },
                     [&variable] { return Text<T>::write(variable); }});
  }

  const std::vector<Option>& list() const { return list_; }

  void set(std::string_view name, std::string_view value) {
    std::string known;
    for (const Option& option : list_) {
      if (option.name == name) {
        if (option.parse(value)) return;
        throw Error("option " + option.name + " takes " + option.type + ", got " + quote(value));
      }
      known += (known.empty() ? "" : ", ") + option.name;
    }
    throw Error("unknown option " + quote(name) + "; known: " + known);
  }

 private:
  std::vector<Option> list_;
};

struct Setting {
  std::string name;
  std::string value;
};

// "name=value"
inline Setting parse_setting(const std::string& text) {
  const std::size_t equals = text.find('=');
  if (equals == 0 || equals == std::string::npos) {
    throw Error("--set takes name=value, got " + quote(text));
  }
  return {text.substr(0, equals), text.substr(equals + 1)};
}

}  // namespace reduce_tool
