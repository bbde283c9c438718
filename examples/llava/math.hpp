// SPDX-License-Identifier: Apache-2.0
// What transformers are made of besides attention: linear layers, norms, activation functions,
// rotary positions.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tokenfold/std_threads.hpp"
#include "weights.hpp"

namespace llava {

using Threads = tokenfold::StdThreads;

/// y = x · Wᵀ + b; W is [outputs × inputs] as in the file, b may be empty.
struct Linear {
  WeightMatrix weight;
  Vector bias;

  Linear() = default;
  Linear(Weights& weights, const std::string& name, Index outputs, Index inputs, bool has_bias)
      : weight(weights.matrix(name + ".weight", outputs, inputs)),
        bias(has_bias ? weights.vector(name + ".bias", outputs) : Vector()) {}

  /// Outputs are independent of each other, so threads share them out, in blocks whose size does not
  /// depend on how many threads there are: a product's last bits depend on its shape. 16-bit weights
  /// become float block by block, which costs little beside a product with many tokens and nothing
  /// beside the reading of the weights with one.
  void operator()(const Matrix& x, Matrix& y, const Threads& threads) const {
    y.resize(x.rows(), weight.rows);
    if (x.rows() == 0) return;
    const bool in_place = weight.floats() != nullptr;
    const Index block = block_rows(x.rows());
    const Index blocks = (weight.rows + block - 1) / block;
    const Index workers = tokenfold::worker_count(threads, blocks);
    std::vector<std::vector<float>> scratch(static_cast<std::size_t>(workers));
    tokenfold::parallel_for(threads, workers, blocks, [&](Index i, Index worker) {
      const Index begin = i * block;
      const Index rows = std::min(block, weight.rows - begin);
      const float* w = weight.floats();
      if (in_place) {
        w += begin * weight.cols;
      } else {
        auto& converted = scratch[static_cast<std::size_t>(worker)];
        converted.resize(static_cast<std::size_t>(block * weight.cols));
        to_float(weight, begin, begin + rows, converted.data());
        w = converted.data();
      }
      multiply(x, Eigen::Map<const Matrix>(w, rows, weight.cols), begin, y);
    });
  }

 private:
  /// Outputs of a block. Eigen packs x anew for every block, which 1024 outputs make up for (140
  /// GFLOP/s with 124 tokens on two cores of a Zen 4, 116 with 192 outputs); small matrices still
  /// make four blocks. Few tokens: a block of converted weights stays in the cache.
  Index block_rows(Index tokens) const {
    if (tokens < 32) return std::min<Index>(weight.rows, 16);
    return std::clamp<Index>((weight.rows + 3) / 4, 1, 1024);
  }

  void multiply(const Matrix& x, const Eigen::Map<const Matrix>& w, Index begin, Matrix& y) const {
    auto out = y.middleCols(begin, w.rows());
    if (x.rows() == 1) {  // as matrix times vector, which reads W once
      out.row(0).transpose().noalias() = w * x.row(0).transpose();
    } else {
      // Column by column, W is the side of the product that Eigen packs faster: on one core
      // 71 against 63 GFLOP/s for 124 rows of 4096, 79 either way for 636.
      Eigen::MatrixXf product(x.rows(), w.rows());
      product.noalias() = x * w.transpose();
      out = product;
    }
    if (bias.size() > 0) {
      out.rowwise() += bias.segment(begin, w.rows()).transpose();
    }
  }
};

/// Rows to mean 0 and variance 1, then scaled and shifted.
struct LayerNorm {
  Vector weight;
  Vector bias;
  float epsilon = 0;

  LayerNorm() = default;
  LayerNorm(Weights& weights, const std::string& name, Index width, float eps)
      : weight(weights.vector(name + ".weight", width)),
        bias(weights.vector(name + ".bias", width)),
        epsilon(eps) {}

  void operator()(const Matrix& x, Matrix& y) const {
    y.resize(x.rows(), x.cols());
    for (Index i = 0; i < x.rows(); ++i) {
      const auto centred = (x.row(i).array() - x.row(i).mean()).eval();
      const float scale = 1.0F / std::sqrt(centred.square().mean() + epsilon);
      y.row(i) = centred * scale * weight.transpose().array() + bias.transpose().array();
    }
  }
};

/// Rows to a mean square of 1, then scaled.
struct RmsNorm {
  Vector weight;
  float epsilon = 0;

  RmsNorm() = default;
  RmsNorm(Weights& weights, const std::string& name, Index width, float eps)
      : weight(weights.vector(name + ".weight", width)), epsilon(eps) {}

  void operator()(const Matrix& x, Matrix& y) const {
    y.resize(x.rows(), x.cols());
    for (Index i = 0; i < x.rows(); ++i) {
      const float scale =
          1.0F / std::sqrt(x.row(i).squaredNorm() / static_cast<float>(x.cols()) + epsilon);
      y.row(i) = x.row(i).array() * scale * weight.transpose().array();
    }
  }
};

/// x · sigmoid(a · x): SiLU for a = 1, CLIP's "quick GELU" for a = 1.702.
template <class Array>
auto sigmoid_unit(const Array& x, float a) {
  return x / (1.0F + (-a * x).exp());
}

/// The exact GELU of the projector.
inline void gelu(Matrix& x) {
  x = x.unaryExpr([](float v) { return 0.5F * v * (1.0F + std::erf(v * 0.70710678F)); });
}

/// Rotary positions (Su et al., arXiv 2104.09864) in LLaMA's order: channel i of a head turns with
/// channel i + d/2 by the angle position · θ^(−2i/d). `x`: [rows × heads·d], changed in place.
inline void rotate(Matrix& x, Index head_dim, double theta,
                   std::span<const std::int32_t> positions) {
  const Index half = head_dim / 2;
  Eigen::ArrayXd frequency(half);
  for (Index i = 0; i < half; ++i) {
    frequency[i] = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
  }
  for (Index row = 0; row < x.rows(); ++row) {
    const Eigen::ArrayXd angle = positions[static_cast<std::size_t>(row)] * frequency;
    const Eigen::ArrayXf cosine = angle.cos().cast<float>();
    const Eigen::ArrayXf sine = angle.sin().cast<float>();
    for (Index head = 0; head < x.cols() / head_dim; ++head) {
      auto first = x.row(row).segment(head * head_dim, half).transpose().array();
      auto second = x.row(row).segment(head * head_dim + half, half).transpose().array();
      const Eigen::ArrayXf turned = first * cosine - second * sine;
      second = second * cosine + first * sine;
      first = turned;
    }
  }
}

}  // namespace llava
