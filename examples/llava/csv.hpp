// SPDX-License-Identifier: Apache-2.0
// Comma-separated values (RFC 4180, lines ending in \n).
#pragma once

#include <cmath>
#include <span>
#include <string>
#include <string_view>

#include "text.hpp"

namespace llava {

/// Quoted where a comma, a quote, a line's end or a space at an end asks for it.
inline std::string csv_field(std::string_view text) {
  const bool plain = text.find_first_of(",\"\r\n") == std::string_view::npos &&
                     (text.empty() || (text.front() != ' ' && text.back() != ' '));
  if (plain) return std::string(text);
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"') quoted += '"';
    quoted += c;
  }
  return quoted + "\"";
}

/// Every digit that the number has; nothing for NaN.
inline std::string csv_number(double value) {
  return std::isnan(value) ? std::string() : shortest(value);
}

inline std::string csv_line(std::span<const std::string> fields) {
  std::string line;
  for (const std::string& field : fields) {
    line += (&field == fields.data() ? "" : ",") + csv_field(field);
  }
  return line + "\n";
}

}  // namespace llava
