// SPDX-License-Identifier: Apache-2.0
// The few elements of SVG that a chart is made of.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "text.hpp"

namespace llava {

namespace detail {

/// Bytes of the UTF-8 character that `text` begins with, 0 if that is none that XML allows: no
/// control characters, not U+FFFE and U+FFFF.
inline std::size_t xml_character(std::string_view text) {
  const std::size_t bytes = utf8_bytes(text);
  const std::string_view character = text.substr(0, bytes);
  const bool control =
      bytes == 1 && (static_cast<unsigned char>(text[0]) < 0x20 || text[0] == 0x7F);
  return control || character == "\xEF\xBF\xBE" || character == "\xEF\xBF\xBF" ? 0 : bytes;
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
