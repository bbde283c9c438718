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

// VidCom2, methods.md part III.
namespace reference {

struct VidCom2Options {
  double retention = 0.25;  // R = 1 - q
  bool exact_total = true;  // false: the frames' numbers decide (authors' release)
  std::size_t keep = 0;     // the exact total
  bool may_empty_frames = false;
  double temperature = 0.01;
};

struct VidCom2Result {
  Rows channels;  // of lowest variance, ascending
  std::vector<double> scores;
  Rows budgets;  // per frame, before the correction of the total
  Rows counts;   // per frame, after it
  Rows kept;     // ascending
};

/// floor(D / 2) channels of lowest biased variance, ascending.
inline Rows low_variance_channels(const Matrix& x) {
  std::vector<double> variance(x.cols, 0.0);
  for (std::size_t c = 0; c < x.cols; ++c) {
    double mean = 0.0;
    for (std::size_t i = 0; i < x.rows; ++i) mean += x(i, c) / static_cast<double>(x.rows);
    for (std::size_t i = 0; i < x.rows; ++i) {
      variance[c] += (x(i, c) - mean) * (x(i, c) - mean) / static_cast<double>(x.rows);
    }
  }
  Rows order(x.cols);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return variance[a] < variance[b]; });
  order.resize(x.cols / 2);
  std::sort(order.begin(), order.end());
  return order;
}

/// Sum of five Gaussians of the distance to `centre`.
inline double gaussians(const std::vector<double>& x, const std::vector<double>& centre) {
  double squared = 0.0;
  for (std::size_t c = 0; c < x.size(); ++c) squared += (x[c] - centre[c]) * (x[c] - centre[c]);
  double sum = 0.0;
  for (double a : {0.125, 0.25, 0.5, 1.0, 2.0}) sum += std::exp(-squared / (2.0 * a));
  return sum;
}

inline std::vector<double> mean_of(const std::vector<std::vector<double>>& rows,
                                   const Rows& members) {
  std::vector<double> mean(rows.at(0).size(), 0.0);
  for (std::size_t i : members) {
    for (std::size_t c = 0; c < mean.size(); ++c) {
      mean[c] += rows[i][c] / static_cast<double>(members.size());
    }
  }
  return mean;
}

/// Round half to even.
inline double round_half_even(double value) {
  const double below = std::floor(value);
  if (value - below != 0.5) return std::floor(value + 0.5);
  return std::fmod(below, 2.0) == 0.0 ? below : below + 1.0;
}

/// `frame_of[i]` of every row of x; frames without a row are not allowed here.
inline VidCom2Result vidcom2(const Matrix& x, const Rows& frame_of, std::size_t frames,
                             const VidCom2Options& options) {
  const std::size_t n = x.rows;
  if (frame_of.size() != n) throw std::invalid_argument("reference: bad video");
  VidCom2Result result;
  result.channels = low_variance_channels(x);

  std::vector<std::vector<double>> rows;  // normalised in the channels
  for (std::size_t i = 0; i < n; ++i) {
    std::vector<double> row;
    double square = 0.0;
    for (std::size_t c : result.channels) {
      row.push_back(x(i, c));
      square += x(i, c) * x(i, c);
    }
    for (double& value : row) value /= std::max(std::sqrt(square), 1e-12);
    rows.push_back(row);
  }

  std::vector<Rows> members(frames);
  Rows all(n);
  std::iota(all.begin(), all.end(), std::size_t{0});
  for (std::size_t i = 0; i < n; ++i) members.at(frame_of[i]).push_back(i);
  const std::vector<double> video = mean_of(rows, all);
  std::vector<double> negative_mean;  // per frame, over the temperature
  result.scores.assign(n, 0.0);
  for (const Rows& frame : members) {
    if (frame.empty()) throw std::invalid_argument("reference: a frame without tokens");
    const std::vector<double> centre = mean_of(rows, frame);
    double sum = 0.0;
    for (std::size_t i : frame) {
      const double to_video = gaussians(rows[i], video);
      sum += to_video;
      result.scores[i] = to_video + gaussians(rows[i], centre);
    }
    negative_mean.push_back(-sum / static_cast<double>(frame.size()) / options.temperature);
  }

  // Frame budgets, and the lowest scores of every frame.
  const std::vector<double> p = softmax(negative_mean);
  const double mean_p = std::accumulate(p.begin(), p.end(), 0.0) / static_cast<double>(frames);
  const auto lower = [&](std::size_t i, std::size_t j) {
    return result.scores[i] != result.scores[j] ? result.scores[i] < result.scores[j] : i < j;
  };
  std::vector<bool> kept(n, false);
  for (std::size_t t = 0; t < frames; ++t) {
    const double size = static_cast<double>(members[t].size());
    const double share = std::min(1.0, options.retention * (1.0 + p[t] - mean_p));
    const double rounded = std::clamp(round_half_even(share * size), 1.0, size);
    result.budgets.push_back(static_cast<std::size_t>(rounded));
    Rows best = members[t];
    std::sort(best.begin(), best.end(), lower);
    for (std::size_t k = 0; k < result.budgets[t]; ++k) kept[best[k]] = true;
  }

  // The total, one token at a time.
  const auto count = [&](std::size_t t) {
    return static_cast<std::size_t>(std::count_if(members[t].begin(), members[t].end(),
                                                  [&](std::size_t i) { return kept[i]; }));
  };
  const auto total = [&] {
    return static_cast<std::size_t>(std::count(kept.begin(), kept.end(), true));
  };
  while (options.exact_total && total() > options.keep) {
    bool all_single = true;
    for (std::size_t t = 0; t < frames; ++t) all_single = all_single && count(t) <= 1;
    std::size_t worst = n;
    for (std::size_t i = 0; i < n; ++i) {
      const bool guarded = !options.may_empty_frames && !all_single && count(frame_of[i]) <= 1;
      if (kept[i] && !guarded && (worst == n || lower(worst, i))) worst = i;
    }
    kept.at(worst) = false;
  }
  while (options.exact_total && total() < options.keep) {
    std::size_t best = n;
    for (std::size_t i = 0; i < n; ++i) {
      if (!kept[i] && (best == n || lower(i, best))) best = i;
    }
    kept.at(best) = true;
  }
  for (std::size_t t = 0; t < frames; ++t) result.counts.push_back(count(t));
  for (std::size_t i = 0; i < n; ++i) {
    if (kept[i]) result.kept.push_back(i);
  }
  return result;
}

/// max(T, min(floor(T * P * R), T * P)).
inline std::size_t vidcom2_count(std::size_t frames, std::size_t cells, double retention) {
  const double wanted = static_cast<double>(frames * cells) * retention;
  return std::max(frames, std::min(static_cast<std::size_t>(wanted), frames * cells));
}

}  // namespace reference
