// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "attention.hpp"
#include "tensor.hpp"

// SCOPE, methods.md part II section 12.2.
namespace reference {

struct ScopeOptions {
  double alpha = 1.0;
  bool additive = false;
};

struct ScopeResult {
  Rows picks;
  std::vector<double> gains;
  double margin = std::numeric_limits<double>::infinity();  // smallest relative lead of a pick
};

/// `features` [N, D], `saliency` [N].
inline ScopeResult scope(const Matrix& features, const std::vector<double>& saliency,
                         std::size_t count, const ScopeOptions& options) {
  const std::size_t n = features.rows;
  Matrix similarity(n, n);
  for (std::size_t u = 0; u < n; ++u) {
    for (std::size_t i = 0; i < n; ++i) {
      similarity(u, i) = cosine(features.row(u), features.row(i));
    }
  }
  ScopeResult result;
  std::vector<bool> open(n, true);
  std::vector<double> best(n, 0.0);
  while (result.picks.size() < count) {
    std::size_t winner = n;
    double most = -1.0;
    double second = -1.0;
    for (std::size_t i = 0; i < n; ++i) {
      if (!open[i]) continue;
      double uncovered = 0.0;
      for (std::size_t u = 0; u < n; ++u) {
        uncovered += std::max(0.0, similarity(u, i) - best[u]);
      }
      const double weight = std::pow(saliency.at(i), options.alpha);
      const double gain = options.additive ? weight + uncovered : weight * uncovered;
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
    for (std::size_t u = 0; u < n; ++u) best[u] = std::max(best[u], similarity(u, winner));
  }
  return result;
}

}  // namespace reference
