// SPDX-License-Identifier: Apache-2.0
// The few elements of SVG that a chart is made of.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "text.hpp"

namespace llava {

namespace detail {

/// Bytes of the UTF-8 character that `text` begins with, 0 if that is none that XML allows.
inline std::size_t xml_character(std::string_view text) {
  const auto byte = [text](std::size_t i) -> unsigned {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;
  };
  const auto continues = [&byte](std::size_t i) { return (byte(i) & 0xC0U) == 0x80U; };
  const unsigned first = byte(0);
  if (first < 0x80) return first >= 0x20 && first != 0x7F ? 1 : 0;
  if (first >= 0xC2 && first <= 0xDF) return continues(1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    // Not longer than needed, no half of a surrogate pair, not U+FFFE and U+FFFF.
    const bool refused = (first == 0xE0 && byte(1) < 0xA0) || (first == 0xED && byte(1) > 0x9F) ||
                         (first == 0xEF && byte(1) == 0xBF && byte(2) > 0xBD);
    return continues(1) && continues(2) && !refused ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const bool refused = (first == 0xF0 && byte(1) < 0x90) || (first == 0xF4 && byte(1) > 0x8F);
    return continues(1) && continues(2) && continues(3) && !refused ? 4 : 0;
  }
  return 0;
}

}  // namespace detail

/// As the content of an element or of an attribute. What XML cannot hold becomes a question mark.
inline std::string xml_escaped(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const std::size_t bytes = detail::xml_character(text);
    const std::string_view character = text.substr(0, bytes);
    if (bytes == 0) {
      out += text[0] == '\n' || text[0] == '\t' ? ' ' : '?';
    } else if (character == "&") {
      out += "&amp;";
    } else if (character == "<") {
      out += "&lt;";
    } else if (character == ">") {
      out += "&gt;";
    } else if (character == "\"") {
      out += "&quot;";
    } else if (character == "'") {
      out += "&#39;";
    } else {
      out += character;
    }
    text.remove_prefix(bytes == 0 ? 1 : bytes);
  }
  return out;
}

/// A drawing that grows by elements. Coordinates in pixels, y downwards, two decimals.
class Svg {
 public:
  static std::string number(double value) {
    std::string text = fixed(value, 2);
    text.erase(text.find_last_not_of('0') + 1);
    if (text.back() == '.') text.pop_back();
    return text;
  }

  void line(double x1, double y1, double x2, double y2, std::string_view style) {
    add("<line x1=\"" + number(x1) + "\" y1=\"" + number(y1) + "\" x2=\"" + number(x2) +
        "\" y2=\"" + number(y2) + "\" " + std::string(style) + "/>");
  }

  void circle(double x, double y, double radius, std::string_view style) {
    add("<circle cx=\"" + number(x) + "\" cy=\"" + number(y) + "\" r=\"" + number(radius) + "\" " +
        std::string(style) + "/>");
  }

  /// `data`: "M1 2L3 4".
  void path(std::string_view data, std::string_view style) {
    add("<path d=\"" + std::string(data) + "\" " + std::string(style) + "/>");
  }

  void text(double x, double y, std::string_view content, std::string_view style) {
    add("<text x=\"" + number(x) + "\" y=\"" + number(y) + "\" " + std::string(style) + ">" +
        xml_escaped(content) + "</text>");
  }

  /// The whole file, on white: a page in dark mode shows dark text on dark ground otherwise.
  std::string str(double width, double height, std::string_view title) const {
    const std::string w = number(width);
    const std::string h = number(height);
    return "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + w + "\" height=\"" + h +
           "\" viewBox=\"0 0 " + w + " " + h +
           "\" role=\"img\" font-family=\"Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', "
           "sans-serif\" font-size=\"12\">\n<title>" +
           xml_escaped(title) + "</title>\n<rect width=\"" + w + "\" height=\"" + h +
           "\" fill=\"#ffffff\"/>\n" + body_ + "</svg>\n";
  }

 private:
  void add(const std::string& element) { body_ += element + "\n"; }

  std::string body_;
};

}  // namespace llava
