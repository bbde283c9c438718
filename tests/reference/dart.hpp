// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "attention.hpp"
#include "tensor.hpp"

// DART, methods.md part II section 11. Rows are rows of the sequence.
namespace reference {

enum class DartTurns { falling_norm, images_first, given };

struct DartOptions {
  std::size_t image_pivots = 4;
  std::size_t text_pivots = 4;
  bool squared_norm = false;      // L2 instead of L1
  bool norm_of_features = false;  // instead of the keys'
  DartTurns turns = DartTurns::falling_norm;
  Rows given_turns;  // DartTurns::given: the order of the pivots
};

struct DartInput {
  Matrix features;  // [P, D]
  Heads keys;       // [H, P, d]
  std::size_t visual_begin = 0;
  std::size_t visual_end = 0;
  std::size_t text_end = 0;  // the text after the image is [visual_end, text_end)
};

struct DartResult {
  Rows image_pivots;  // by falling norm
  Rows text_pivots;   // by falling norm
  Rows turns;
  std::vector<Rows> picks;  // of each pivot in turn, by rising cosine
  Rows preserved;           // image rows, ascending
};

inline std::vector<double> dart_norms(const DartInput& input, const DartOptions& options) {
  std::vector<double> norms;
  for (std::size_t row = 0; row < input.features.rows; ++row) {
    std::vector<double> x;
    if (options.norm_of_features) {
      x = input.features.row(row);
    } else {
      for (std::size_t h = 0; h < input.keys.heads; ++h) {
        for (std::size_t c = 0; c < input.keys.dim; ++c) x.push_back(input.keys(h, row, c));
      }
    }
    double norm = 0.0;
    for (const double value : x) norm += options.squared_norm ? value * value : std::abs(value);
    norms.push_back(norm);
  }
  return norms;
}

/// The `count` rows of [begin, end) with the largest norm; equal norms: the lower row.
inline Rows dart_largest(const std::vector<double>& norms, std::size_t begin, std::size_t end,
                         std::size_t count) {
  Rows rows;
  for (std::size_t row = begin; row < end; ++row) rows.push_back(row);
  std::stable_sort(rows.begin(), rows.end(),
                   [&](std::size_t a, std::size_t b) { return norms[a] > norms[b]; });
  rows.resize(std::min(count, rows.size()));
  return rows;
}

/// `quotas[k]`: how many tokens the k-th pivot in turn takes, while there are any.
inline DartResult dart(const DartInput& input, const DartOptions& options,
                       const std::vector<std::size_t>& quotas) {
  const std::vector<double> norms = dart_norms(input, options);
  DartResult result;
  result.image_pivots =
      dart_largest(norms, input.visual_begin, input.visual_end, options.image_pivots);
  result.text_pivots = dart_largest(norms, input.visual_end, input.text_end, options.text_pivots);
  result.turns = result.image_pivots;
  result.turns.insert(result.turns.end(), result.text_pivots.begin(), result.text_pivots.end());
  if (options.turns == DartTurns::falling_norm) {
    std::stable_sort(result.turns.begin(), result.turns.end(), [&](std::size_t a, std::size_t b) {
      return norms[a] != norms[b] ? norms[a] > norms[b] : a < b;
    });
  } else if (options.turns == DartTurns::given) {
    result.turns = options.given_turns;
  }

  result.preserved = result.image_pivots;
  for (std::size_t k = 0; k < result.turns.size(); ++k) {
    const std::vector<double> pivot = input.features.row(result.turns[k]);
    Rows picks;
    for (std::size_t pick = 0; pick < quotas.at(k); ++pick) {
      std::size_t best = input.visual_end;
      double lowest = 2.0;
      for (std::size_t row = input.visual_begin; row < input.visual_end; ++row) {
        const bool taken = std::find(result.preserved.begin(), result.preserved.end(), row) !=
                           result.preserved.end();
        const double similarity = cosine(pivot, input.features.row(row));
        if (!taken && similarity < lowest) {
          lowest = similarity;
          best = row;
        }
      }
      if (best == input.visual_end) break;
      picks.push_back(best);
      result.preserved.push_back(best);
    }
    result.picks.push_back(picks);
  }
  std::sort(result.preserved.begin(), result.preserved.end());
  return result;
}

/// As released: every pivot takes int(N (1 − R) / pivots).
inline std::vector<std::size_t> dart_released_quotas(std::size_t visual, double reduction,
                                                     std::size_t pivots) {
  const double each = static_cast<double>(visual) * (1 - reduction) / static_cast<double>(pivots);
  return std::vector<std::size_t>(pivots, static_cast<std::size_t>(each));
}

/// `picks` tokens over the pivots as evenly as possible, more for the first ones.
inline std::vector<std::size_t> dart_even_quotas(std::size_t picks, std::size_t pivots) {
  std::vector<std::size_t> quotas(pivots, 0);
  for (std::size_t pick = 0; pick < picks; ++pick) ++quotas.at(pick % pivots);
  return quotas;
}

}  // namespace reference
