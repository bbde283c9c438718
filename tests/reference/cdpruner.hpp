// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <vector>

#include "divprune.hpp"

// CDPruner, methods.md part II section 10 with the corrections of part III. Gains are Schur
// complements, each eliminated from scratch. Tokens are numbered 0..N-1.
namespace reference {

struct CDPrunerOptions {
  bool exponential = false;  // r~ <- exp(alpha r~), alpha = theta / (2 (1 - theta))
  double theta = 0.5;
  double tolerance = 1e-12;  // relative: a gain counts while it exceeds this share of L~_ii
  CenteringOptions centering;
};

/// r~ = (r - min + 1e-6) / (max - min), r_i = sign * mean_m cos(image_i, text_m).
inline std::vector<double> cdpruner_relevance(const Matrix& image, const Matrix& text,
                                              double sign) {
  std::vector<double> r(image.rows, 0.0);
  double low = std::numeric_limits<double>::infinity();
  double high = -low;
  for (std::size_t i = 0; i < image.rows; ++i) {
    for (std::size_t m = 0; m < text.rows; ++m) {
      r[i] += sign * cosine(image.row(i), text.row(m)) / static_cast<double>(text.rows);
    }
    if (!std::isfinite(r[i])) continue;
    low = std::min(low, r[i]);
    high = std::max(high, r[i]);
  }
  for (double& value : r) {
    if (std::isfinite(value)) value = high > low ? (value - low + 1e-6) / (high - low) : 1.0;
  }
  return r;
}

/// The last pivot of kernel[rows + {i}]: det of it over det of kernel[rows].
inline double schur_complement(const Matrix& kernel, Rows rows, std::size_t i) {
  rows.push_back(i);
  const std::size_t k = rows.size();
  Matrix a(k, k);
  for (std::size_t r = 0; r < k; ++r) {
    for (std::size_t c = 0; c < k; ++c) a(r, c) = kernel(rows[r], rows[c]);
  }
  for (std::size_t p = 0; p + 1 < k; ++p) {
    for (std::size_t r = p + 1; r < k; ++r) {
      const double factor = a(r, p) / a(p, p);
      for (std::size_t c = p; c < k; ++c) a(r, c) -= factor * a(p, c);
    }
  }
  return a(k - 1, k - 1);
}

inline GreedyResult cdpruner(const Matrix& tokens, const std::vector<double>& relevance,
                             std::size_t keep, const CDPrunerOptions& options = {}) {
  const std::size_t n = tokens.rows;
  const Centered space = centered(tokens, options.centering);
  double highest = -std::numeric_limits<double>::infinity();
  for (double r : relevance) highest = std::isfinite(r) ? std::max(highest, r) : highest;
  std::vector<double> weight(n);
  std::vector<bool> finite(n);
  for (std::size_t i = 0; i < n; ++i) {
    weight[i] = relevance[i];
    if (options.exponential) {
      // Divided by exp(alpha max): one factor of the whole kernel.
      const double alpha = options.theta / (2.0 * (1.0 - options.theta));
      weight[i] = std::exp(alpha * (relevance[i] - highest));
    }
    weight[i] *= space.gates[i];
    finite[i] = is_finite(tokens.row(i)) && std::isfinite(weight[i]);
  }
  Matrix kernel(n, n);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < n; ++j) {
      if (!finite[i] || !finite[j]) continue;
      const double cos = cosine(space.coordinates.row(i), space.coordinates.row(j));
      kernel(i, j) = weight[i] * (i == j && cos != 0.0 ? 1.0 : cos) * weight[j];
    }
  }

  GreedyResult result;
  result.scores.assign(n, 0.0);
  std::vector<bool> candidate = finite;
  while (result.picks.size() < keep) {
    std::vector<double> gain(n, 0.0);
    for (std::size_t i = 0; i < n; ++i) {
      if (!finite[i]) continue;
      const bool picked =
          std::find(result.picks.begin(), result.picks.end(), i) != result.picks.end();
      if (!picked) gain[i] = std::max(0.0, schur_complement(kernel, result.picks, i));
      candidate[i] = !picked && gain[i] > options.tolerance * kernel(i, i);
    }
    if (!pick_highest(gain, candidate, result)) break;
  }
  // The rest by falling weight, the first of equals; then what is not finite.
  std::vector<double> rank(n);
  for (std::size_t i = 0; i < n; ++i) {
    rank[i] = finite[i] ? weight[i] : -std::numeric_limits<double>::infinity();
    if (!finite[i]) result.scores[i] = std::numeric_limits<double>::quiet_NaN();
  }
  Rows order(n);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t i, std::size_t j) { return rank[i] > rank[j]; });
  for (std::size_t i : order) {
    const bool picked =
        std::find(result.picks.begin(), result.picks.end(), i) != result.picks.end();
    if (!picked && result.picks.size() < keep) result.picks.push_back(i);
  }
  return result;
}

/// Greedy picks by the last pivot, all tokens every time, as far as the rank goes.
inline GreedyResult greedy_determinant(const Matrix& kernel, std::size_t keep) {
  const std::size_t n = kernel.rows;
  GreedyResult result;
  result.scores.assign(n, 0.0);
  std::vector<bool> candidate(n);
  Matrix factor(keep, n);  // incremental Cholesky
  std::vector<double> rest(n);
  for (std::size_t i = 0; i < n; ++i) rest[i] = kernel(i, i);
  for (std::size_t t = 0; t < keep; ++t) {
    for (std::size_t i = 0; i < n; ++i) {
      const bool picked =
          std::find(result.picks.begin(), result.picks.end(), i) != result.picks.end();
      candidate[i] = !picked && rest[i] > 1e-12 * kernel(i, i);
    }
    if (!pick_highest(rest, candidate, result)) break;
    const std::size_t j = result.picks.back();
    const double root = std::sqrt(rest[j]);
    for (std::size_t i = 0; i < n; ++i) {
      double along = kernel(j, i);
      for (std::size_t s = 0; s < t; ++s) along -= factor(s, j) * factor(s, i);
      factor(t, i) = along / root;
    }
    for (std::size_t i = 0; i < n; ++i) rest[i] -= factor(t, i) * factor(t, i);
  }
  return result;
}

}  // namespace reference
