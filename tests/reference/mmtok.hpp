// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <vector>

#include "attention.hpp"
#include "tensor.hpp"

// MMTok, methods.md part II section 12.1 with part III.
namespace reference {

struct MmtokOptions {
  double alpha = 0.5;
  double text_temperature = 0.02;
  double vision_temperature = 0.2;
};

struct MmtokInput {
  Matrix features;             // x [N, D]
  Matrix image_embeddings;     // y [N, C]
  Matrix text_embeddings;      // z [m, D]; m = 0: the vision term alone
  std::vector<bool> excluded;  // [N]: in the softmaxes and to be covered, never picked
};

struct MmtokResult {
  Rows picks;
  std::vector<double> gains;
  double margin = std::numeric_limits<double>::infinity();  // smallest relative lead of a pick
};

/// softmax_i(cos(a_r, b_i) / temperature) * weight, appended as rows.
inline void mmtok_append(const Matrix& a, const Matrix& b, double temperature, double weight,
                         std::vector<std::vector<double>>& coverage) {
  for (std::size_t r = 0; r < a.rows; ++r) {
    std::vector<double> logits;
    for (std::size_t i = 0; i < b.rows; ++i) {
      logits.push_back(cosine(a.row(r), b.row(i)) / temperature);
    }
    std::vector<double> row = softmax(logits);
    for (double& value : row) value *= weight;
    coverage.push_back(row);
  }
}

inline MmtokResult mmtok(const MmtokInput& input, std::size_t count, const MmtokOptions& options) {
  const std::size_t n = input.image_embeddings.rows;
  std::vector<std::vector<double>> coverage;  // [m + N][N]
  mmtok_append(input.text_embeddings, input.features, options.text_temperature,
               1.0 / static_cast<double>(input.text_embeddings.rows), coverage);
  mmtok_append(input.image_embeddings, input.image_embeddings, options.vision_temperature,
               options.alpha / static_cast<double>(n), coverage);

  MmtokResult result;
  std::vector<bool> open(n);
  for (std::size_t i = 0; i < n; ++i) open[i] = !input.excluded.at(i);
  std::vector<double> best(coverage.size(), 0.0);
  while (result.picks.size() < count) {
    std::size_t winner = n;
    double most = -1.0;
    double second = -1.0;
    for (std::size_t i = 0; i < n; ++i) {
      if (!open[i]) continue;
      double gain = 0.0;
      for (std::size_t r = 0; r < coverage.size(); ++r) {
        gain += std::max(0.0, coverage[r][i] - best[r]);
      }
      if (gain > most) {
        second = most;
        most = gain;
        winner = i;
      } else {
        second = std::max(second, gain);
      }
    }
    if (second >= 0) result.margin = std::min(result.margin, (most - second) / (most + 1e-300));
    result.picks.push_back(winner);
    result.gains.push_back(most);
    open.at(winner) = false;
    for (std::size_t r = 0; r < coverage.size(); ++r) {
      best[r] = std::max(best[r], coverage[r][winner]);
    }
  }
  return result;
}

}  // namespace reference
