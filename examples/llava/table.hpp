// SPDX-License-Identifier: Apache-2.0
// Columns of text for a terminal.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text.hpp"

namespace llava {

/// The first column to the left, the others to the right, two spaces between them. Rows may be of
/// different lengths; one without cells is an empty line.
class Table {
 public:
  void row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }

  std::string str() const {
    std::vector<std::size_t> widths;
    for (const auto& cells : rows_) {
      widths.resize(std::max(widths.size(), cells.size()), 0);
      // A lone cell is a heading, which may reach over the columns.
      for (std::size_t c = 0; c < cells.size() && cells.size() > 1; ++c) {
        widths[c] = std::max(widths[c], characters(cells[c]));
      }
    }
    std::string text;
    for (const auto& cells : rows_) {
      std::string line;
      for (std::size_t c = 0; c < cells.size(); ++c) {
        const std::size_t width = characters(cells[c]);
        const std::string gap(widths[c] > width ? widths[c] - width : 0, ' ');
        line += c == 0 ? cells[c] + gap : "  " + gap + cells[c];
      }
      text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
    }
    return text;
  }

 private:
  std::vector<std::vector<std::string>> rows_;
};

/// `label` and behind it `text`, broken at spaces into lines of at most `width` characters where it
/// can be; what follows the first line is indented by the label's width.
inline std::string wrapped(const std::string& label, std::string_view text, std::size_t width) {
  const std::string indent(characters(label), ' ');
  std::string lines;
  std::string line = label;
  bool begun = false;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    const std::string_view word = text.substr(0, end);
    if (begun && characters(line) + 1 + characters(word) > width) {
      lines += line + "\n";
      line = indent;
      begun = false;
    }
    line += begun ? " " : "";
    line += word;
    begun = true;
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines + line + "\n";
}

}  // namespace llava
