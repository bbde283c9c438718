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

// PruMerge and PruMerge+, methods.md part II section 1. Patches are numbered 0..N-1.
namespace reference {

enum class PruMergeOrder { attention, raster };
enum class PruMergeNormalization { none, attention_sum };
enum class PruMergeSources { all, discarded };
enum class PruMergeAttention { full_width, mean_of_heads };
enum class PruMergePlus { off, once, three_times };
enum class PruMergeBudget { adaptive, fixed_ratio };
enum class PruMergeCount { exact, truncated };

struct PruMergeOptions {
  PruMergeOrder order = PruMergeOrder::raster;
  PruMergeNormalization normalization = PruMergeNormalization::none;
  PruMergeSources sources = PruMergeSources::all;
  PruMergeAttention attention = PruMergeAttention::full_width;
  PruMergePlus plus = PruMergePlus::off;
  PruMergeBudget budget = PruMergeBudget::adaptive;
  PruMergeCount count = PruMergeCount::exact;
  bool extra_token = true;
  std::size_t neighbours = 32;
  double fence = 1.5;           // outlier: a > Q3 + fence * IQR
  double ratio = 0.125;         // budget fixed_ratio
  std::size_t min_tokens = 1;   // at least so many top tokens, also when there is no outlier
  bool keep_duplicates = true;  // fixed_ratio with three_times: as released
};

struct PruMergeInput {
  Matrix tokens;                  // X [P, D]
  Matrix keys;                    // [P, heads * d], heads concatenated, [CLS] row included
  std::vector<double> cls_query;  // [heads * d]
  std::size_t heads = 1;          // used by mean_of_heads only
  Rows patch_rows;                // rows of X and keys that are patches, raster order
};

struct PruMergeResult {
  std::vector<double> attention;  // a_i per patch
  double fence = 0.0;             // Q3 + 1.5 IQR
  std::size_t outliers = 0;
  std::size_t top = 0;           // tokens kept by attention
  Rows kept_patches;             // output order; duplicates possible
  Rows kept;                     // the same as rows of X
  std::vector<Rows> neighbours;  // per kept token: rows of X by falling cosine
  Rows discarded;                // rows of X summed into the extra token, ascending
  Rows lost;                     // rows of X neither kept nor discarded (released duplicates)
  bool has_extra = false;        // the last output row is the extra token
  Matrix weights;                // W [output rows, P]
  Matrix output;
};

/// a = softmax(q_cls K^T / sqrt(width)) over all P columns, then the patches' columns: one head of
/// full width (released), or the mean of the softmaxes of H heads.
inline std::vector<double> prumerge_attention(const PruMergeInput& input,
                                              PruMergeAttention layout) {
  const std::size_t heads = layout == PruMergeAttention::full_width ? 1 : input.heads;
  const std::size_t dim = input.keys.cols / heads;
  std::vector<double> mean(input.keys.rows, 0.0);
  for (std::size_t h = 0; h < heads; ++h) {
    std::vector<double> logits(input.keys.rows, 0.0);
    for (std::size_t k = 0; k < input.keys.rows; ++k) {
      for (std::size_t c = h * dim; c < (h + 1) * dim; ++c) {
        logits[k] += input.cls_query.at(c) * input.keys(k, c);
      }
      logits[k] /= std::sqrt(static_cast<double>(dim));
    }
    const std::vector<double> probabilities = softmax(logits);
    for (std::size_t k = 0; k < mean.size(); ++k) {
      mean[k] += probabilities[k] / static_cast<double>(heads);
    }
  }
  std::vector<double> result;
  for (std::size_t row : input.patch_rows) result.push_back(mean[row]);
  return result;
}

/// Q3 + factor * (Q3 - Q1), quartiles as numpy's default.
inline double upper_fence(const std::vector<double>& values, double factor = 1.5) {
  const double q1 = quantile(values, 0.25);
  const double q3 = quantile(values, 0.75);
  return q3 + factor * (q3 - q1);
}

/// Positions by falling value; ties: lower position first; non-finite values last.
inline Rows best_first(const std::vector<double>& values) {
  auto rank = [&](std::size_t i) {
    return std::isfinite(values[i]) ? values[i] : -std::numeric_limits<double>::infinity();
  };
  Rows order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t i, std::size_t j) { return rank(i) > rank(j); });
  return order;
}

/// Raster samples of PruMerge+ among n patches, ascending, the kept ones not yet removed. `step` is
/// int(1/rho). once: 0, step, .. < n. three_times: 0, s, .. < n-1 with s = int(step/3) when
/// adaptive; int(step/2), +step, .. < n-1 with a fixed ratio (n-1 is the release's constant 575 at
/// n = 576).
inline Rows raster_samples(std::size_t n, std::size_t step, PruMergePlus plus,
                           PruMergeBudget budget) {
  step = std::max<std::size_t>(step, 1);
  std::size_t begin = 0;
  std::size_t end = n;
  if (plus == PruMergePlus::three_times) {
    end = n == 0 ? 0 : n - 1;
    if (budget == PruMergeBudget::adaptive) {
      step = std::max<std::size_t>(step / 3, 1);
    } else {
      begin = step / 2;
    }
  }
  Rows samples;
  if (plus == PruMergePlus::off) return samples;
  for (std::size_t i = begin; i < end; i += step) samples.push_back(i);
  return samples;
}

inline PruMergeResult prumerge(const PruMergeInput& input, const PruMergeOptions& options) {
  const std::size_t n = input.patch_rows.size();
  if (n == 0) throw std::invalid_argument("reference: no patches");
  PruMergeResult result;
  result.attention = prumerge_attention(input, options.attention);
  const std::vector<double>& a = result.attention;

  // Filter: how many, m and the step int(1/rho).
  const double size = static_cast<double>(n);
  std::size_t step = 0;
  result.fence = upper_fence(a, options.fence);
  for (double value : a) result.outliers += value > result.fence ? 1 : 0;
  if (options.budget == PruMergeBudget::fixed_ratio) {
    result.top = static_cast<std::size_t>(size * options.ratio);
    step = static_cast<std::size_t>(1.0 / options.ratio);
  } else if (options.count == PruMergeCount::truncated && result.outliers > 0) {
    const double ratio = static_cast<double>(result.outliers) / size;
    result.top = static_cast<std::size_t>(size * ratio);
    step = static_cast<std::size_t>(1.0 / ratio);
  } else {
    result.top = result.outliers;
  }
  result.top = std::min(std::max(result.top, options.min_tokens), n);
  if (step == 0) step = result.top > 0 ? n / result.top : n;

  // Filter: which. The top m, then the raster samples.
  const Rows order = best_first(a);
  Rows kept(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(result.top));
  std::vector<bool> is_kept(n, false);
  for (std::size_t p : kept) is_kept[p] = true;
  const bool duplicates = options.keep_duplicates && options.plus == PruMergePlus::three_times &&
                          options.budget == PruMergeBudget::fixed_ratio;
  for (std::size_t p : raster_samples(n, step, options.plus, options.budget)) {
    if (!is_kept[p] || duplicates) kept.push_back(p);
    is_kept[p] = true;
  }
  if (options.order == PruMergeOrder::raster) std::sort(kept.begin(), kept.end());
  result.kept_patches = kept;
  for (std::size_t p : kept) result.kept.push_back(input.patch_rows[p]);

  // The complement has n - |kept| entries in the release: for every duplicate the lowest is lost.
  Rows rest;
  for (std::size_t p = 0; p < n; ++p) {
    if (!is_kept[p]) rest.push_back(p);
  }
  const std::size_t unique = n - rest.size();
  const std::size_t lost = std::min(kept.size() - unique, rest.size());
  for (std::size_t r = 0; r < rest.size(); ++r) {
    (r < lost ? result.lost : result.discarded).push_back(input.patch_rows[rest[r]]);
  }

  // Candidates for the clusters: everything kept or discarded. In the release a patch kept twice is
  // a candidate twice, also for its own copy, and a lost one is none.
  std::vector<std::size_t> copies(n, 0);
  for (std::size_t p : kept) ++copies[p];
  for (std::size_t r = lost; r < rest.size(); ++r) copies[rest[r]] = 1;

  // A weight that is not finite is never merged.
  std::vector<double> weight(n);
  for (std::size_t p = 0; p < n; ++p) weight[p] = std::isfinite(a[p]) ? a[p] : 0.0;

  // Correlate and compress, from the original features.
  result.has_extra = options.extra_token && !result.discarded.empty();
  const std::size_t output_rows = kept.size() + (result.has_extra ? 1 : 0);
  result.weights = Matrix(output_rows, input.tokens.rows);
  for (std::size_t k = 0; k < kept.size(); ++k) {
    const std::size_t p = kept[k];
    Rows candidates;
    std::vector<double> similarity;
    for (std::size_t j = 0; j < n; ++j) {
      if (options.sources == PruMergeSources::discarded && is_kept[j]) continue;
      for (std::size_t copy = j == p ? 1 : 0; copy < copies[j]; ++copy) {
        candidates.push_back(j);
        similarity.push_back(
            cosine(input.keys.row(input.patch_rows[p]), input.keys.row(input.patch_rows[j])));
      }
    }
    const Rows nearest = best_first(similarity);
    Rows cluster;
    for (std::size_t c = 0; c < std::min(options.neighbours, nearest.size()); ++c) {
      cluster.push_back(candidates[nearest[c]]);
    }
    Rows neighbour_rows;
    for (std::size_t j : cluster) neighbour_rows.push_back(input.patch_rows[j]);
    result.neighbours.push_back(neighbour_rows);

    double own = 1.0;
    double scale = 1.0;
    if (options.normalization == PruMergeNormalization::attention_sum) {
      // Published cluster centre, the weighted average: x'_p = sum a_j x_j / sum a_j over j in {p}
      // and kNN(p). A zero sum leaves x_p as it is.
      double total = weight[p];
      for (std::size_t j : cluster) total += weight[j];
      own = total > 0.0 ? weight[p] / total : 1.0;
      scale = total > 0.0 ? 1.0 / total : 0.0;
    }
    // Released: x'_p = x_p + sum_{j in kNN} a_j x_j.
    result.weights(k, input.patch_rows[p]) = own;
    for (std::size_t j : cluster) result.weights(k, input.patch_rows[j]) += weight[j] * scale;
  }
  if (result.has_extra) {  // x_extra = sum over the discarded of a_i x_i
    for (std::size_t r = lost; r < rest.size(); ++r) {
      result.weights(kept.size(), input.patch_rows[rest[r]]) = weight[rest[r]];
    }
  }
  result.output = multiply(result.weights, input.tokens);
  return result;
}

}  // namespace reference
