// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <vector>

#include "tensor.hpp"

// IVTP's group-wise token pruning, methods.md part II section 5.
namespace reference {

struct IvtpInput {
  std::vector<Matrix> layers;  // A_1 … A_g, [P, P], averaged over the heads
  Heads values;                // of the last layer; no heads: norms are 1
  std::size_t start = 0;       // row of [CLS]
  Rows visual;
};

struct IvtpResult {
  std::vector<double> scores;  // by visual ordinal
  Rows preserved;              // ascending
};

/// The whole roll-out Ã_g ⋯ Ã_1 as a product of matrices.
inline Matrix roll_out(const std::vector<Matrix>& layers, double attention_share) {
  const std::size_t p = layers.at(0).rows;
  Matrix product(p, p);
  for (std::size_t i = 0; i < p; ++i) product(i, i) = 1.0;
  for (const Matrix& layer : layers) {
    Matrix mixed(p, p);
    for (std::size_t i = 0; i < p; ++i) {
      for (std::size_t j = 0; j < p; ++j) {
        mixed(i, j) = attention_share * layer(i, j) + (i == j ? 1.0 - attention_share : 0.0);
      }
    }
    product = multiply(mixed, product);
  }
  return product;
}

inline IvtpResult ivtp(const IvtpInput& input, std::size_t keep, double attention_share = 0.5) {
  const Matrix product = roll_out(input.layers, attention_share);
  IvtpResult result;
  for (const std::size_t row : input.visual) {
    double square = input.values.heads == 0 ? 1.0 : 0.0;
    for (std::size_t h = 0; h < input.values.heads; ++h) {
      for (std::size_t c = 0; c < input.values.dim; ++c) {
        square += input.values(h, row, c) * input.values(h, row, c);
      }
    }
    result.scores.push_back(product(input.start, row) * std::sqrt(square));
  }
  Rows ranking(input.visual.size());
  std::iota(ranking.begin(), ranking.end(), std::size_t{0});
  std::stable_sort(ranking.begin(), ranking.end(), [&](std::size_t a, std::size_t b) {
    return result.scores[a] > result.scores[b];
  });
  for (std::size_t i = 0; i < keep; ++i) result.preserved.push_back(input.visual[ranking[i]]);
  std::sort(result.preserved.begin(), result.preserved.end());
  return result;
}

/// Mean of the embeddings of the words whose relevance exceeds the threshold, of all if none does.
inline std::vector<double> pseudo_cls(const Matrix& embeddings,
                                      const std::vector<double>& relevance, double threshold) {
  Rows words;
  for (std::size_t i = 0; i < relevance.size(); ++i) {
    if (relevance[i] > threshold) words.push_back(i);
  }
  if (words.empty()) {
    for (std::size_t i = 0; i < relevance.size(); ++i) words.push_back(i);
  }
  std::vector<double> mean(embeddings.cols, 0.0);
  for (std::size_t c = 0; c < embeddings.cols; ++c) {
    for (const std::size_t word : words) mean[c] += embeddings(word, c);
    mean[c] /= static_cast<double>(words.size());
  }
  return mean;
}

}  // namespace reference
