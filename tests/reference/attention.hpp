// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <stdexcept>
#include <vector>

#include "tensor.hpp"

namespace reference {

struct AttentionOptions {
  std::optional<double> scale;  // default 1/sqrt(d)
  bool causal = false;          // query q sees keys 0..q
};

inline std::vector<double> softmax(const std::vector<double>& logits) {
  std::vector<double> result(logits.size());
  if (logits.empty()) return result;
  const double top = *std::max_element(logits.begin(), logits.end());
  double total = 0.0;
  for (std::size_t j = 0; j < logits.size(); ++j) total += result[j] = std::exp(logits[j] - top);
  for (double& value : result) value /= total;
  return result;
}

/// Softmax of logits(row, begin..end-1).
inline std::vector<double> softmax_range(const Matrix& logits, std::size_t row, std::size_t begin,
                                         std::size_t end) {
  std::vector<double> part;
  for (std::size_t j = begin; j < end; ++j) part.push_back(logits(row, j));
  return softmax(part);
}

/// Scaled logits q·k of every query head, no mask. Grouped-query heads: heads h·g .. h·g+g-1 of the
/// queries share key head h.
inline std::vector<Matrix> head_logits(const Heads& queries, const Heads& keys,
                                       std::optional<double> scale = std::nullopt) {
  if (keys.heads == 0 || queries.heads % keys.heads != 0 || queries.dim != keys.dim) {
    throw std::invalid_argument("reference: query heads must be a multiple of key heads");
  }
  const std::size_t group = queries.heads / keys.heads;
  const double factor = scale.value_or(1.0 / std::sqrt(static_cast<double>(queries.dim)));
  std::vector<Matrix> result;
  for (std::size_t h = 0; h < queries.heads; ++h) {
    Matrix logits(queries.tokens, keys.tokens);
    for (std::size_t q = 0; q < queries.tokens; ++q) {
      for (std::size_t k = 0; k < keys.tokens; ++k) {
        double dot = 0.0;
        for (std::size_t c = 0; c < keys.dim; ++c) dot += queries(h, q, c) * keys(h / group, k, c);
        logits(q, k) = factor * dot;
      }
    }
    result.push_back(logits);
  }
  return result;
}

/// Softmax probabilities of every query head; a causal row covers keys 0..q only, the rest is 0.
inline std::vector<Matrix> head_probabilities(const Heads& queries, const Heads& keys,
                                              const AttentionOptions& options = {}) {
  std::vector<Matrix> result = head_logits(queries, keys, options.scale);
  for (Matrix& head : result) {
    for (std::size_t q = 0; q < head.rows; ++q) {
      const std::size_t end = options.causal ? std::min(q + 1, head.cols) : head.cols;
      const std::vector<double> row = softmax_range(head, q, 0, end);
      for (std::size_t k = 0; k < head.cols; ++k) head(q, k) = k < end ? row[k] : 0.0;
    }
  }
  return result;
}

/// A = (1/H) sum_h A^h.
inline Matrix mean_over_heads(const std::vector<Matrix>& heads) {
  Matrix result(heads.at(0).rows, heads.at(0).cols);
  for (const Matrix& head : heads) {
    for (std::size_t n = 0; n < result.values.size(); ++n) {
      result.values[n] += head.values.at(n) / static_cast<double>(heads.size());
    }
  }
  return result;
}

inline Matrix mean_probabilities(const Heads& queries, const Heads& keys,
                                 const AttentionOptions& options = {}) {
  return mean_over_heads(head_probabilities(queries, keys, options));
}

inline Matrix mean_logits(const Heads& queries, const Heads& keys,
                          std::optional<double> scale = std::nullopt) {
  return mean_over_heads(head_logits(queries, keys, scale));
}

/// w^T A: attention received, from queries weighted by w.
inline std::vector<double> received(const Matrix& attention, const std::vector<double>& w) {
  std::vector<double> result(attention.cols, 0.0);
  for (std::size_t k = 0; k < attention.cols; ++k) {
    for (std::size_t q = 0; q < attention.rows; ++q) {
      if (w.at(q) != 0.0) result[k] += w[q] * attention(q, k);
    }
  }
  return result;
}

/// A u: attention given, to keys weighted by u.
inline std::vector<double> given(const Matrix& attention, const std::vector<double>& u) {
  std::vector<double> result(attention.rows, 0.0);
  for (std::size_t q = 0; q < attention.rows; ++q) {
    for (std::size_t k = 0; k < attention.cols; ++k) {
      if (u.at(k) != 0.0) result[q] += u[k] * attention(q, k);
    }
  }
  return result;
}

/// m_i: row i averaged over the heads, [tokens, dim] (methods.md I, encoders without [CLS]).
inline Matrix mean_rows_over_heads(const Heads& keys) {
  Matrix result(keys.tokens, keys.dim);
  for (std::size_t n = 0; n < keys.tokens; ++n) {
    for (std::size_t c = 0; c < keys.dim; ++c) {
      for (std::size_t h = 0; h < keys.heads; ++h) result(n, c) += keys(h, n, c);
      result(n, c) /= static_cast<double>(keys.heads);
    }
  }
  return result;
}

/// cos(u, v); a zero vector is orthogonal to everything.
inline double cosine(const std::vector<double>& u, const std::vector<double>& v) {
  double dot = 0.0;
  double uu = 0.0;
  double vv = 0.0;
  for (std::size_t c = 0; c < u.size(); ++c) {
    dot += u[c] * v.at(c);
    uu += u[c] * u[c];
    vv += v[c] * v[c];
  }
  if (uu == 0.0 || vv == 0.0) return 0.0;
  return dot / (std::sqrt(uu) * std::sqrt(vv));
}

/// Quantile with linear interpolation between order statistics, numpy's default.
inline double quantile(std::vector<double> values, double q) {
  if (values.empty()) throw std::invalid_argument("reference: quantile of nothing");
  for (double value : values) {
    if (std::isnan(value)) return value;
  }
  std::sort(values.begin(), values.end());
  const double position = q * static_cast<double>(values.size() - 1);
  const std::size_t below = static_cast<std::size_t>(std::floor(position));
  const std::size_t above = std::min(below + 1, values.size() - 1);
  const double fraction = position - std::floor(position);
  const double low = values[below];
  const double high = values[above];
  if (fraction == 0.0 || low == high) return low;
  return fraction < 0.5 ? low + fraction * (high - low) : high - (1.0 - fraction) * (high - low);
}

}  // namespace reference
