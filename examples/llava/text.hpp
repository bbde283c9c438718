// SPDX-License-Identifier: Apache-2.0
// Numbers as text, the same on every machine and in every locale, and the width of a text.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <string>
#include <string_view>

namespace llava {

namespace detail {

template <class... Format>
std::string digits(double value, Format... format) {
  if (std::isnan(value)) return "-";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  std::array<char, 400> buffer;  // 1.8e308 with some decimals
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, format...);
  std::string text(buffer.data(), end.ptr);
  // Rounded to nothing, the sign says nothing.
  if (text[0] == '-' && text.find_first_of("123456789") == std::string::npos) text.erase(0, 1);
  return text;
}

}  // namespace detail

/// 1234.50; NaN is a dash.
inline std::string fixed(double value, int decimals) {
  return detail::digits(value, std::chars_format::fixed, decimals);
}

/// 0.0123, 1.23e-05: so many digits that count.
inline std::string significant(double value, int count) {
  return detail::digits(value, std::chars_format::general, count);
}

/// As few digits as give the same double again.
inline std::string shortest(double value) { return detail::digits(value); }

/// Characters, not bytes, of UTF-8.
inline std::size_t characters(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;  // not a continuation
  }));
}

/// Bytes of the UTF-8 character that `text` starts with, 0 if there is none.
inline std::size_t utf8_bytes(std::string_view text) {
  const auto byte = [&](std::size_t i) -> unsigned {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;
  };
  const unsigned lead = byte(0);
  if (lead < 0x80) return text.empty() ? 0 : 1;
  const std::size_t bytes = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  // No longer spellings than needed, no surrogates, nothing above U+10FFFF: these differ from other
  // characters in their first two bytes.
  unsigned least = 0x80;
  unsigned most = 0xBF;
  if (lead == 0xE0) least = 0xA0;
  if (lead == 0xED) most = 0x9F;
  if (lead == 0xF0) least = 0x90;
  if (lead == 0xF4) most = 0x8F;
  if (lead < 0xC2 || lead > 0xF4 || byte(1) < least || byte(1) > most) return 0;
  for (std::size_t i = 2; i < bytes; ++i) {
    if (byte(i) < 0x80 || byte(i) > 0xBF) return 0;
  }
  return bytes;
}

}  // namespace llava
