// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "attention.hpp"
#include "tensor.hpp"

// What the naive float64 LLaMA and CLIP have in common.
namespace reference {

/// A tensor by its Hugging Face name, row-major; a vector has one column.
using WeightSource =
    std::function<std::vector<double>(const std::string& name, std::size_t rows, std::size_t cols)>;

/// y = x·Wᵀ, W [outputs × inputs].
inline Matrix linear(const Matrix& x, const std::vector<double>& weight, std::size_t outputs) {
  if (weight.size() != outputs * x.cols) throw std::invalid_argument("reference: linear");
  Matrix y(x.rows, outputs);
  for (std::size_t i = 0; i < x.rows; ++i) {
    for (std::size_t o = 0; o < outputs; ++o) {
      for (std::size_t c = 0; c < x.cols; ++c) y(i, o) += x(i, c) * weight[o * x.cols + c];
    }
  }
  return y;
}

/// y = x·Wᵀ + b.
inline Matrix linear(const Matrix& x, const std::vector<double>& weight,
                     const std::vector<double>& bias) {
  Matrix y = linear(x, weight, bias.size());
  for (std::size_t i = 0; i < y.rows; ++i) {
    for (std::size_t o = 0; o < y.cols; ++o) y(i, o) += bias[o];
  }
  return y;
}

inline void add(Matrix& x, const Matrix& y) {
  if (x.rows != y.rows || x.cols != y.cols) throw std::invalid_argument("reference: add");
  for (std::size_t i = 0; i < x.values.size(); ++i) x.values[i] += y.values[i];
}

inline Matrix some_rows(const Matrix& x, const Rows& rows) {
  Matrix result(rows.size(), x.cols);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (std::size_t c = 0; c < x.cols; ++c) result(i, c) = x(rows[i], c);
  }
  return result;
}

/// [rows × H·d] as heads.
inline Heads split_heads(const Matrix& x, std::size_t heads) {
  Heads result(heads, x.rows, x.cols / heads);
  for (std::size_t h = 0; h < heads; ++h) {
    for (std::size_t n = 0; n < x.rows; ++n) {
      for (std::size_t c = 0; c < result.dim; ++c) result(h, n, c) = x(n, h * result.dim + c);
    }
  }
  return result;
}

/// out[q] = Σ_k softmax_k(q·k / √d + bias_k) v_k over the keys that `sees(q, k)`, heads side by
/// side.
template <class Sees>
Matrix attend(const Heads& queries, const Heads& keys, const Heads& values, const Sees& sees,
              const std::vector<double>& key_bias = {}) {
  const std::vector<Matrix> logits = head_logits(queries, keys);
  Matrix out(queries.tokens, queries.heads * queries.dim);
  for (std::size_t h = 0; h < queries.heads; ++h) {
    const std::size_t shared = h / (queries.heads / keys.heads);
    for (std::size_t q = 0; q < queries.tokens; ++q) {
      Rows seen;
      std::vector<double> scores;
      for (std::size_t k = 0; k < keys.tokens; ++k) {
        if (!sees(q, k)) continue;
        seen.push_back(k);
        scores.push_back(logits[h](q, k) + (key_bias.empty() ? 0.0 : key_bias.at(k)));
      }
      const std::vector<double> p = softmax(scores);
      for (std::size_t i = 0; i < seen.size(); ++i) {
        for (std::size_t c = 0; c < values.dim; ++c) {
          out(q, h * values.dim + c) += p[i] * values(shared, seen[i], c);
        }
      }
    }
  }
  return out;
}

}  // namespace reference
