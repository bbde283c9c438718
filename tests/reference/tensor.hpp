// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

// The naive float64 reference: loops that follow the equations, no speed, no cleverness.
namespace reference {

using Rows = std::vector<std::size_t>;

/// Dense row-major matrix.
struct Matrix {
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::vector<double> values;

  Matrix() = default;
  Matrix(std::size_t row_count, std::size_t col_count)
      : rows(row_count), cols(col_count), values(row_count * col_count, 0.0) {}
  Matrix(std::size_t row_count, std::size_t col_count, std::vector<double> entries)
      : rows(row_count), cols(col_count), values(std::move(entries)) {}

  double& operator()(std::size_t i, std::size_t j) { return values.at(i * cols + j); }
  double operator()(std::size_t i, std::size_t j) const { return values.at(i * cols + j); }

  std::vector<double> row(std::size_t i) const {
    std::vector<double> result(cols);
    for (std::size_t j = 0; j < cols; ++j) result[j] = (*this)(i, j);
    return result;
  }
};

/// Queries or keys, [head][token][dim].
struct Heads {
  std::size_t heads = 0;
  std::size_t tokens = 0;
  std::size_t dim = 0;
  std::vector<double> values;

  Heads() = default;
  Heads(std::size_t head_count, std::size_t token_count, std::size_t width)
      : heads(head_count),
        tokens(token_count),
        dim(width),
        values(head_count * token_count * width, 0.0) {}
  Heads(std::size_t head_count, std::size_t token_count, std::size_t width,
        std::vector<double> entries)
      : heads(head_count), tokens(token_count), dim(width), values(std::move(entries)) {}

  double& operator()(std::size_t h, std::size_t n, std::size_t c) {
    return values.at((h * tokens + n) * dim + c);
  }
  double operator()(std::size_t h, std::size_t n, std::size_t c) const {
    return values.at((h * tokens + n) * dim + c);
  }
};

/// W·X. A zero weight contributes nothing, even where X is not finite.
inline Matrix multiply(const Matrix& weights, const Matrix& tokens) {
  Matrix result(weights.rows, tokens.cols);
  for (std::size_t i = 0; i < weights.rows; ++i) {
    for (std::size_t k = 0; k < weights.cols; ++k) {
      if (weights(i, k) == 0.0) continue;
      for (std::size_t c = 0; c < tokens.cols; ++c) result(i, c) += weights(i, k) * tokens(k, c);
    }
  }
  return result;
}

}  // namespace reference
