// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <tokenfold/core/types.hpp>
#include <vector>

#include "reference/attention.hpp"
#include "reference/tensor.hpp"

// Random inputs, the same on every platform (the standard distributions are not).
namespace support {

using tokenfold::Index;
using tokenfold::Token;

template <class T>
using Tensor = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t bits() {  // splitmix64
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  /// In [0, 1).
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  /// Mean 0, variance 1, bounded: a sum of twelve uniforms.
  double normal() {
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return sum;
  }
  Index below(Index n) {
    return static_cast<Index>(bits() % static_cast<std::uint64_t>(std::max<Index>(n, 1)));
  }
  bool chance(double probability) { return uniform() < probability; }

  template <class T>
  void shuffle(std::vector<T>& values) {
    for (std::size_t i = values.size(); i > 1; --i) {
      std::swap(values[i - 1], values[static_cast<std::size_t>(below(static_cast<Index>(i)))]);
    }
  }
  /// `count` of the numbers 0 … n − 1, ascending.
  std::vector<Token> sample(Index count, Index n) {
    std::vector<Token> all(static_cast<std::size_t>(n));
    std::iota(all.begin(), all.end(), Token{0});
    shuffle(all);
    all.resize(static_cast<std::size_t>(count));
    std::sort(all.begin(), all.end());
    return all;
  }

 private:
  std::uint64_t state_;
};

/// Entries rounded to T, so that library and reference read the same numbers.
template <class T>
reference::Matrix normal_matrix(std::size_t rows, std::size_t cols, Random& random,
                                double scale = 1) {
  reference::Matrix m(rows, cols);
  for (double& value : m.values)
    value = static_cast<double>(static_cast<T>(scale * random.normal()));
  return m;
}

/// Rows that sum to 1 (but for the rounding to T); causal: row q sees 0 … q.
template <class T>
reference::Matrix random_probabilities(std::size_t tokens, Random& random, bool causal = false,
                                       double sharpness = 1) {
  reference::Matrix m(tokens, tokens);
  for (std::size_t q = 0; q < tokens; ++q) {
    std::vector<double> logits(causal ? q + 1 : tokens);
    for (double& value : logits) value = sharpness * random.normal();
    const std::vector<double> row = reference::softmax(logits);
    for (std::size_t k = 0; k < row.size(); ++k)
      m(q, k) = static_cast<double>(static_cast<T>(row[k]));
  }
  return m;
}

template <class T>
reference::Heads normal_heads(std::size_t heads, std::size_t tokens, std::size_t dim,
                              Random& random) {
  reference::Heads result(heads, tokens, dim);
  for (double& value : result.values) value = static_cast<double>(static_cast<T>(random.normal()));
  return result;
}

template <class T>
Tensor<T> tensor(const reference::Matrix& m) {
  Tensor<T> result(static_cast<Index>(m.rows), static_cast<Index>(m.cols));
  std::transform(m.values.begin(), m.values.end(), result.data(),
                 [](double value) { return static_cast<T>(value); });
  return result;
}

template <class T>
std::vector<T> cast(const std::vector<double>& values) {
  std::vector<T> result(values.size());
  std::transform(values.begin(), values.end(), result.begin(),
                 [](double value) { return static_cast<T>(value); });
  return result;
}

/// Every value changed by up to the share `relative` of itself.
inline std::vector<double> perturbed(std::vector<double> values, double relative, Random& random) {
  for (double& value : values) value *= 1 + relative * (2 * random.uniform() - 1);
  return values;
}

}  // namespace support
