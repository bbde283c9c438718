// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <vector>

#include "attention.hpp"
#include "tensor.hpp"

// PyramidDrop, methods.md part II section 8 and part III.
namespace reference {

struct PyramidDropInput {
  Heads query;  // the query row alone, [H][1][d], after RoPE
  Heads keys;   // [H_kv][P][d], after RoPE
  std::size_t query_row = 0;
  std::size_t visual_begin = 0;
  std::size_t visual_count = 0;  // image tokens that are left
};

struct PyramidDropResult {
  std::vector<std::vector<double>> attention;  // [H][P], 0 after the query row
  std::vector<double> scores;                  // [N]
  Rows top;                                    // preserved image rows by falling score
  Rows kept;                                   // all rows that are left, ascending
  Rows positions;
};

/// int(original · ratio) as Python computes it.
inline std::size_t pyramiddrop_count(std::size_t original, double ratio) {
  return static_cast<std::size_t>(static_cast<double>(original) * ratio);
}

inline PyramidDropResult pyramiddrop(const PyramidDropInput& input, std::size_t keep) {
  PyramidDropResult result;
  const Heads& q = input.query;
  const Heads& k = input.keys;
  result.scores.assign(input.visual_count, 0.0);
  for (std::size_t h = 0; h < q.heads; ++h) {
    std::vector<double> logits;
    for (std::size_t row = 0; row <= input.query_row; ++row) {
      double dot = 0.0;
      for (std::size_t c = 0; c < q.dim; ++c) dot += q(h, 0, c) * k(h * k.heads / q.heads, row, c);
      logits.push_back(dot / std::sqrt(static_cast<double>(q.dim)));
    }
    std::vector<double> row = softmax(logits);
    row.resize(k.tokens, 0.0);
    for (std::size_t i = 0; i < input.visual_count; ++i) {
      result.scores[i] += row[input.visual_begin + i] / static_cast<double>(q.heads);
    }
    result.attention.push_back(row);
  }

  Rows ranking(input.visual_count);
  std::iota(ranking.begin(), ranking.end(), std::size_t{0});
  std::stable_sort(ranking.begin(), ranking.end(), [&](std::size_t a, std::size_t b) {
    return result.scores[a] > result.scores[b];
  });
  ranking.resize(keep);
  for (const std::size_t i : ranking) result.top.push_back(input.visual_begin + i);
  for (std::size_t row = 0; row < k.tokens; ++row) {
    const bool is_image =
        row >= input.visual_begin && row < input.visual_begin + input.visual_count;
    if (!is_image || std::find(result.top.begin(), result.top.end(), row) != result.top.end()) {
      result.positions.push_back(result.kept.size());
      result.kept.push_back(row);
    }
  }
  return result;
}

}  // namespace reference
