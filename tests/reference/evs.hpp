// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "attention.hpp"
#include "tensor.hpp"

// EVS, methods.md part III.
namespace reference {

/// Where a token stands in a video.
struct Place {
  std::size_t frame = 0;
  std::size_t cell = 0;  // within the frame
};

/// Frame by frame, raster order in the frame, nothing missing.
inline std::vector<Place> all_places(std::size_t frames, std::size_t cells) {
  std::vector<Place> result;
  for (std::size_t t = 0; t < frames; ++t) {
    for (std::size_t c = 0; c < cells; ++c) result.push_back({t, c});
  }
  return result;
}

struct EvsResult {
  std::vector<double> scores;  // 1 - cos to the cell's previous token; 255 if there is none
  Rows kept;                   // ascending
};

inline bool all_finite(const std::vector<double>& values) {
  return std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); });
}

/// One token per row of `features`, in any order. Of an incomplete video the cell's latest earlier
/// finite token counts; a token that is not finite scores NaN and is ranked last.
inline EvsResult evs(const Matrix& features, const std::vector<Place>& places, std::size_t keep) {
  const std::size_t n = features.rows;
  if (places.size() != n || keep > n) throw std::invalid_argument("reference: bad video");
  EvsResult result;
  for (std::size_t i = 0; i < n; ++i) {
    double score = 255.0;
    std::size_t best_frame = 0;
    for (std::size_t j = 0; j < n; ++j) {
      const bool earlier = places[j].cell == places[i].cell && places[j].frame < places[i].frame;
      if (!earlier || !all_finite(features.row(j)) || places[j].frame + 1 <= best_frame) continue;
      best_frame = places[j].frame + 1;
      score = 1.0 - cosine(features.row(i), features.row(j));
    }
    if (!all_finite(features.row(i))) score = std::numeric_limits<double>::quiet_NaN();
    result.scores.push_back(score);
  }
  Rows order(n);
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto rank = [&](std::size_t i) {
    return std::isnan(result.scores[i]) ? -10.0 : result.scores[i];
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t i, std::size_t j) { return rank(i) > rank(j); });
  result.kept.assign(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(keep));
  std::sort(result.kept.begin(), result.kept.end());
  return result;
}

/// max(P, floor(T * P * (1 - q))).
inline std::size_t evs_count(std::size_t frames, std::size_t cells, double q) {
  const double wanted = static_cast<double>(frames * cells) * (1.0 - q);
  return std::max(cells, static_cast<std::size_t>(wanted));
}

}  // namespace reference
