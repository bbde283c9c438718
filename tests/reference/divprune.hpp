// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "attention.hpp"
#include "tensor.hpp"

// DivPrune, methods.md part II section 9, and the centring of section 12.3. Tokens are numbered
// 0..N-1.
namespace reference {

// Cen-Prune -----------------------------------------------------------------------------------

enum class Gate { none, min_max, sigmoid };

struct CenteringOptions {
  bool center = false;
  Gate gate = Gate::none;
  bool standardize = false;
};

struct Centered {
  Matrix coordinates;         // what tokens are compared by
  std::vector<double> gates;  // g~ per token, all 1 without a gate
};

inline bool is_finite(const std::vector<double>& row) {
  return std::all_of(row.begin(), row.end(), [](double x) { return std::isfinite(x); });
}

inline Rows finite_rows(const Matrix& m) {
  Rows rows;
  for (std::size_t i = 0; i < m.rows; ++i) {
    if (is_finite(m.row(i))) rows.push_back(i);
  }
  return rows;
}

/// g_i = -1/(n-1) sum_{j != i} cos(x_i, x_j) over the finite rows, NaN for the others.
inline std::vector<double> mean_dissimilarity(const Matrix& x) {
  const Rows finite = finite_rows(x);
  std::vector<double> g(x.rows, std::numeric_limits<double>::quiet_NaN());
  for (std::size_t i : finite) {
    g[i] = 0.0;
    for (std::size_t j : finite) {
      if (j != i) g[i] -= cosine(x.row(i), x.row(j)) / static_cast<double>(finite.size() - 1);
    }
  }
  return g;
}

inline Centered centered(const Matrix& x, const CenteringOptions& options) {
  const Rows finite = finite_rows(x);
  const double n = static_cast<double>(finite.size());
  Matrix scaled = x;
  Centered result;
  result.coordinates = x;
  for (std::size_t c = 0; c < x.cols; ++c) {
    double mean = 0.0;
    double variance = 0.0;
    for (std::size_t i : finite) mean += x(i, c) / n;
    for (std::size_t i : finite) variance += (x(i, c) - mean) * (x(i, c) - mean) / n;
    double factor = 1.0;
    if (options.standardize) {
      factor = std::sqrt(variance) > 1e-14 * std::abs(mean) ? 1.0 / std::sqrt(variance) : 0.0;
    }
    for (std::size_t i = 0; i < x.rows; ++i) {
      scaled(i, c) = x(i, c) * factor;
      result.coordinates(i, c) = (x(i, c) - (options.center ? mean : 0.0)) * factor;
    }
  }
  if (options.center) {  // the mean itself, but for rounding
    for (std::size_t i : finite) {
      double own = 0.0;
      double whole = 0.0;
      for (std::size_t c = 0; c < x.cols; ++c) {
        own += result.coordinates(i, c) * result.coordinates(i, c);
        whole += scaled(i, c) * scaled(i, c);
      }
      if (own > 1e-28 * whole) continue;
      for (std::size_t c = 0; c < x.cols; ++c) result.coordinates(i, c) = 0.0;
    }
  }

  result.gates.assign(x.rows, 1.0);
  if (options.gate == Gate::none) return result;
  const std::vector<double> g = mean_dissimilarity(scaled);
  double low = std::numeric_limits<double>::infinity();
  double high = -low;
  double mean = 0.0;
  for (std::size_t i : finite) {
    low = std::min(low, g[i]);
    high = std::max(high, g[i]);
    mean += g[i] / n;
  }
  if (!(high - low > 1e-14)) return result;
  double squares = 0.0;
  for (std::size_t i : finite) squares += (g[i] - mean) * (g[i] - mean);
  const double deviation = std::sqrt(squares / (n - 1.0));
  for (std::size_t i = 0; i < x.rows; ++i) {
    result.gates[i] = options.gate == Gate::min_max
                          ? (g[i] - low) / (high - low + 1e-6)
                          : 1.0 / (1.0 + std::exp(-(g[i] - mean) / (deviation + 1e-6)));
  }
  return result;
}

// Greedy choice -------------------------------------------------------------------------------

struct GreedyResult {
  Rows picks;                  // in the order of picking
  std::vector<double> gains;   // the criterion at each pick that the criterion decided
  std::vector<double> scores;  // per token: at its pick, or in the last round, which it lost
  double margin = std::numeric_limits<double>::infinity();  // smallest lead of a pick, relative
};

/// Adds the candidate of the highest criterion, the first of equals. False without candidates.
inline bool pick_highest(const std::vector<double>& criterion, const std::vector<bool>& candidate,
                         GreedyResult& result) {
  const auto picked = [&](std::size_t i) {
    return std::find(result.picks.begin(), result.picks.end(), i) != result.picks.end();
  };
  for (std::size_t i = 0; i < criterion.size(); ++i) {
    if (!picked(i)) result.scores[i] = criterion[i];
  }
  std::size_t best = criterion.size();
  for (std::size_t i = 0; i < criterion.size(); ++i) {
    if (candidate[i] && (best == criterion.size() || criterion[i] > criterion[best])) best = i;
  }
  if (best == criterion.size()) return false;
  for (std::size_t i = 0; i < criterion.size(); ++i) {
    if (!candidate[i] || i == best) continue;
    const double lead = criterion[best] - criterion[i];
    const double size = std::max(std::abs(criterion[best]), 1e-300);
    result.margin = std::min(result.margin, lead / size);
  }
  result.picks.push_back(best);
  result.gains.push_back(criterion[best]);
  return true;
}

// DivPrune ------------------------------------------------------------------------------------

enum class DivPruneFirst { most_isolated, farthest_from_mean, highest_norm };

struct DivPruneOptions {
  DivPruneFirst first = DivPruneFirst::most_isolated;
  bool mask = true;
  CenteringOptions centering;
  bool center_first = false;
};

/// 1 - cos, 0 for the token itself, 0 within rounding.
inline double cosine_distance(const Matrix& x, std::size_t i, std::size_t j) {
  if (i == j) return 0.0;
  const double distance = 1.0 - cosine(x.row(i), x.row(j));
  return distance > 3e-15 ? distance : 0.0;
}

inline GreedyResult divprune(const Matrix& tokens, std::size_t keep,
                             const DivPruneOptions& options = {}) {
  const std::size_t n = tokens.rows;
  const Rows finite = finite_rows(tokens);
  std::vector<bool> candidate(n, false);
  for (std::size_t i : finite) candidate[i] = true;
  GreedyResult result;
  result.scores.assign(n, 0.0);
  const Centered space = centered(tokens, options.centering);
  const Matrix& first = options.center_first ? space.coordinates : tokens;
  const std::vector<double> mean_distance = mean_dissimilarity(first);

  while (result.picks.size() < keep) {
    std::vector<double> criterion(n, 0.0);
    for (std::size_t i : finite) {
      if (!result.picks.empty()) {
        double nearest = 2.0;
        for (std::size_t j : result.picks) {
          nearest = std::min(nearest, cosine_distance(space.coordinates, i, j));
        }
        criterion[i] = space.gates[i] * nearest;
      } else if (options.first == DivPruneFirst::most_isolated) {
        criterion[i] = 2.0;
        for (std::size_t j : finite) {
          if (j != i) criterion[i] = std::min(criterion[i], cosine_distance(first, i, j));
        }
      } else if (options.first == DivPruneFirst::farthest_from_mean) {
        criterion[i] = 1.0 + mean_distance[i];
      } else {
        for (double x : first.row(i)) criterion[i] += x * x;
        criterion[i] = std::sqrt(criterion[i]);
      }
    }
    if (!pick_highest(criterion, candidate, result)) break;
    if (options.mask) candidate[result.picks.back()] = false;
  }
  for (std::size_t i = 0; i < n; ++i) {
    if (is_finite(tokens.row(i))) continue;
    result.scores[i] = std::numeric_limits<double>::quiet_NaN();
    if (result.picks.size() < keep) result.picks.push_back(i);
  }
  return result;
}

}  // namespace reference
