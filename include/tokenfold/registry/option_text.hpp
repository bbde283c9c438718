// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <charconv>
#include <cmath>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>

#include "tokenfold/core/types.hpp"

/// Option values as text, the same in every locale.
namespace tokenfold {
namespace detail {

/// Input of any length, quoted in a message.
inline std::string quote(std::string_view text) {
  constexpr std::size_t longest = 60;
  std::string out = "\"";
  for (const char c : text.substr(0, longest)) {
    out += static_cast<unsigned char>(c) < ' ' ? '?' : c;
  }
  return out + (text.size() > longest ? "...\"" : "\"");
}

template <class Names>
std::string joined(const Names& names, std::string_view separator) {
  std::string all;
  for (const auto& name : names) {
    all += (all.empty() ? "" : std::string(separator)) + std::string(name);
  }
  return all;
}

template <class Number>
bool parse_number(std::string_view text, Number& out) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    return false;
  }
  out = value;
  return true;
}

}  // namespace detail

/// How the value of an option is read and written: `type()` says what is accepted, `parse` returns
/// false and leaves `out` alone if the text is no such value.
template <class T>
struct OptionText;

template <class E>
requires std::is_enum_v<E>
struct OptionText<E> {
  static std::string type() {
    std::string all;
    for (const auto& [name, value] : enum_names(E{})) {
      all += (all.empty() ? "" : "|") + std::string(name);
    }
    return all;
  }
  static bool parse(std::string_view text, E& out) {
    for (const auto& [name, value] : enum_names(E{})) {
      if (name == text) {
        out = value;
        return true;
      }
    }
    return false;
  }
  static std::string write(E value) {
    for (const auto& [name, listed] : enum_names(E{})) {
      if (listed == value) {
        return std::string(name);
      }
    }
    return "?";
  }
};

template <>
struct OptionText<double> {
  static std::string type() { return "number"; }
  static bool parse(std::string_view text, double& out) {
    double value = 0;
    if (!detail::parse_number(text, value) || !std::isfinite(value)) {
      return false;
    }
    out = value;
    return true;
  }
  static std::string write(double value) {
    std::array<char, 32> text{};
    return {text.data(), std::to_chars(text.data(), text.data() + text.size(), value).ptr};
  }
};

template <>
struct OptionText<Index> {
  static std::string type() { return "integer"; }
  static bool parse(std::string_view text, Index& out) { return detail::parse_number(text, out); }
  static std::string write(Index value) { return std::to_string(value); }
};

/// Also as Python prints it.
template <>
struct OptionText<bool> {
  static std::string type() { return "true|false"; }
  static bool parse(std::string_view text, bool& out) {
    const bool yes = text == "true" || text == "True";
    if (!yes && text != "false" && text != "False") {
      return false;
    }
    out = yes;
    return true;
  }
  static std::string write(bool value) { return value ? "true" : "false"; }
};

template <>
struct OptionText<Grid> {
  static std::string type() { return "HxW|none"; }
  static bool parse(std::string_view text, Grid& out) {
    if (text == "none") {
      out = {};
      return true;
    }
    // Beyond this height · width would not fit 32-bit tokens anyway.
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

}  // namespace tokenfold
