// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "attention.hpp"
#include "tensor.hpp"

// VisionZip, methods.md part II section 6. Rows are rows of `tokens`; [CLS] is row 0 or absent.
namespace reference {

struct VisionZipInput {
  Matrix tokens;     // X [P, D]
  Matrix attention;  // [P, P], mean over the heads
  Heads keys;        // [H, P, d]
  bool cls = true;   // row 0 is [CLS]
};

struct VisionZipResult {
  std::vector<double> scores;  // per patch
  Rows dominant_ranked;        // rows by falling score
  Rows dominant;               // rows ascending
  Rows contextual;             // rows ascending
  Rows merged;                 // rows ascending
  Rows destinations;           // of `merged`, rows
  Rows kept;                   // output order: [CLS], dominant, contextual
  Matrix weights;
  Matrix output;
};

inline VisionZipResult visionzip(const VisionZipInput& input, std::size_t dominant,
                                 std::size_t contextual, bool average = false) {
  const std::size_t first = input.cls ? 1 : 0;
  const std::size_t p = input.tokens.rows;
  const std::size_t n = p - first;
  if (dominant + contextual > n) throw std::invalid_argument("reference: too many tokens kept");
  VisionZipResult result;
  for (std::size_t i = first; i < p; ++i) {
    double score = 0;
    if (input.cls) {
      score = input.attention(0, i);
    } else {
      for (std::size_t j = 0; j < p; ++j) score += input.attention(j, i);
      score /= static_cast<double>(p);
    }
    result.scores.push_back(score);
  }

  Rows order(n);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t i, std::size_t j) {
    return result.scores[i] > result.scores[j];
  });
  for (std::size_t i = 0; i < dominant; ++i) result.dominant_ranked.push_back(order[i] + first);
  result.dominant = result.dominant_ranked;
  std::sort(result.dominant.begin(), result.dominant.end());

  Rows rest;
  for (std::size_t row = first; row < p; ++row) {
    if (!std::binary_search(result.dominant.begin(), result.dominant.end(), row)) {
      rest.push_back(row);
    }
  }
  const std::size_t step = contextual == 0 ? 1 : std::max<std::size_t>(1, rest.size() / contextual);
  for (std::size_t i = 0; i < rest.size(); ++i) {
    if (i % step == 0 && result.contextual.size() < contextual) {
      result.contextual.push_back(rest[i]);
    } else {
      result.merged.push_back(rest[i]);
    }
  }

  if (input.cls) result.kept.push_back(0);
  result.kept.insert(result.kept.end(), result.dominant.begin(), result.dominant.end());
  result.kept.insert(result.kept.end(), result.contextual.begin(), result.contextual.end());
  result.weights = Matrix(result.kept.size(), p);
  for (std::size_t row = 0; row < result.kept.size(); ++row) {
    result.weights(row, result.kept[row]) = 1;
  }
  if (contextual > 0) {
    const Matrix metric = mean_rows_over_heads(input.keys);
    std::vector<double> members(contextual, 0.0);
    Rows slots;
    for (std::size_t row : result.merged) {
      std::size_t best = 0;
      double highest = -2;
      for (std::size_t c = 0; c < contextual; ++c) {
        const double value = cosine(metric.row(row), metric.row(result.contextual[c]));
        if (value > highest) {
          highest = value;
          best = c;
        }
      }
      slots.push_back(best);
      members[best] += 1;
      result.destinations.push_back(result.contextual[best]);
    }
    const std::size_t offset = result.kept.size() - contextual;
    for (std::size_t m = 0; m < slots.size(); ++m) {
      const double count = members[slots[m]];
      result.weights(offset + slots[m], result.merged[m]) = 1 / (average ? count + 1 : count);
      if (average) {
        result.weights(offset + slots[m], result.contextual[slots[m]]) = 1 / (count + 1);
      }
    }
  }
  result.output = multiply(result.weights, input.tokens);
  return result;
}

}  // namespace reference
