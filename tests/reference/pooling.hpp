// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <map>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "tensor.hpp"

// Average pooling over the patch grids of a video.
namespace reference {

struct PoolingInput {
  Matrix tokens;                   // all of them patches
  std::vector<std::size_t> cells;  // per token, through all frames
  std::size_t height = 0;          // of the grid
  std::size_t width = 0;
  std::vector<std::size_t> down;    // per row of the grid, the window that it belongs to
  std::vector<std::size_t> across;  // per column
};

struct PoolingResult {
  Rows kept;  // first token of each window, ascending
  Matrix output;
};

/// Windows of `size` rows (or columns) each, the last one smaller.
inline std::vector<std::size_t> strided(std::size_t extent, std::size_t size) {
  std::vector<std::size_t> result;
  for (std::size_t i = 0; i < extent; ++i) result.push_back(i / size);
  return result;
}

/// `count` windows whose sizes differ by at most one: i belongs to floor(i * count / extent).
inline std::vector<std::size_t> even_bands(std::size_t extent, std::size_t count) {
  std::vector<std::size_t> result;
  for (std::size_t i = 0; i < extent; ++i) result.push_back(i * count / extent);
  return result;
}

inline PoolingResult pool(const PoolingInput& input) {
  std::map<std::tuple<std::size_t, std::size_t, std::size_t>, Rows> windows;
  for (std::size_t i = 0; i < input.tokens.rows; ++i) {
    const std::size_t in_frame = input.cells.at(i) % (input.height * input.width);
    windows[{input.cells[i] / (input.height * input.width), input.down.at(in_frame / input.width),
             input.across.at(in_frame % input.width)}]
        .push_back(i);
  }
  std::map<std::size_t, Rows> by_first;
  for (const auto& [window, members] : windows) by_first[members.front()] = members;
  PoolingResult result;
  result.output = Matrix(by_first.size(), input.tokens.cols);
  for (const auto& [first, members] : by_first) {
    for (std::size_t c = 0; c < input.tokens.cols; ++c) {
      double sum = 0.0;
      for (std::size_t i : members) sum += input.tokens(i, c);
      result.output(result.kept.size(), c) = sum / static_cast<double>(members.size());
    }
    result.kept.push_back(first);
  }
  return result;
}

}  // namespace reference
