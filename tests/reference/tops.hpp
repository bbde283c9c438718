// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <vector>

#include "attention.hpp"
#include "tensor.hpp"

// TOPS, methods.md part II section 12.4.
namespace reference {

struct TopsOptions {
  double lambda = 0.5;
  double alpha = 0.5;
  bool min_max = false;
};

struct TopsResult {
  Rows picks;
  std::vector<double> values;                               // of the criterion at each pick
  double margin = std::numeric_limits<double>::infinity();  // smallest relative lead of a pick
};

/// A criterion made comparable: divided by its mean, or mapped to [0, 1]; all 0 if that is 0 / 0.
inline std::vector<double> tops_rescaled(std::vector<double> values, bool min_max) {
  const double low = *std::min_element(values.begin(), values.end());
  const double high = *std::max_element(values.begin(), values.end());
  const double mean =
      std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  const double offset = min_max ? low : 0.0;
  const double length = min_max ? high - low : mean;
  for (double& value : values) value = length > 0 ? (value - offset) / length : 0.0;
  return values;
}

/// `features` [N, D], `relevance` [N].
inline TopsResult tops(const Matrix& features, const std::vector<double>& relevance,
                       std::size_t count, const TopsOptions& options) {
  const std::size_t n = features.rows;
  Matrix similarity(n, n);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < n; ++j) {
      similarity(i, j) = cosine(features.row(i), features.row(j));
    }
  }
  TopsResult result;
  const auto nearest_pick = [&](std::size_t j) {
    double best = -2.0;
    for (const std::size_t k : result.picks) best = std::max(best, similarity(j, k));
    return best;
  };
  while (result.picks.size() < count) {
    Rows left;
    for (std::size_t i = 0; i < n; ++i) {
      if (std::find(result.picks.begin(), result.picks.end(), i) == result.picks.end()) {
        left.push_back(i);
      }
    }
    std::vector<double> r;
    for (const std::size_t i : left) r.push_back(relevance.at(i));
    std::vector<double> value = r;
    if (!result.picks.empty()) {
      std::vector<double> c;
      std::vector<double> d;
      for (const std::size_t i : left) {
        double sum = 0.0;
        for (const std::size_t j : left) {
          sum += std::max(0.0, similarity(i, j) - nearest_pick(j));
        }
        c.push_back(sum);
        d.push_back(1.0 - nearest_pick(i));
      }
      r = tops_rescaled(r, options.min_max);
      c = tops_rescaled(c, options.min_max);
      d = tops_rescaled(d, options.min_max);
      for (std::size_t u = 0; u < left.size(); ++u) {
        value[u] = r[u] + options.lambda * c[u] + options.alpha * d[u];
      }
    }
    const auto best = std::max_element(value.begin(), value.end());  // the first of equals
    for (auto other = value.begin(); other != value.end(); ++other) {
      if (other != best) {
        result.margin = std::min(result.margin, (*best - *other) / (std::abs(*best) + 1e-300));
      }
    }
    result.picks.push_back(left[static_cast<std::size_t>(best - value.begin())]);
    result.values.push_back(*best);
  }
  return result;
}

}  // namespace reference
