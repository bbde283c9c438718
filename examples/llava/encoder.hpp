// SPDX-License-Identifier: Apache-2.0
// CLIP's vision transformer (Radford et al., arXiv 2103.00020), as LLaVA runs it.
#pragma once

#include <string>
#include <vector>

#include "config.hpp"
#include "step.hpp"

namespace llava {

/// Q and K of a layer, [P × C], heads side by side.
struct QueriesKeys {
  Matrix queries;
  Matrix keys;
};

class Encoder {
 public:
  /// What `run` returns: hidden states, [CLS] first, and the queries and keys of the layer that
  /// made them, one for each token that entered it.
  struct Output {
    Matrix hidden;
    QueriesKeys last;
  };

  Encoder(const EncoderConfig& config, Weights& weights, Threads threads)
      : config_(config), threads_(threads) {
    const std::string model = "vision_tower.vision_model.";
    const std::string embeddings = model + "embeddings.";
    const Index width = config.width;
    patch_.weight = weights.matrix(embeddings + "patch_embedding.weight", width,
                                   3 * config.patch_size * config.patch_size);
    class_ = weights.vector(embeddings + "class_embedding", width);
    const WeightMatrix positions =
        weights.matrix(embeddings + "position_embedding.weight", 1 + config.patches(), width);
    positions_.resize(positions.rows, positions.cols);
    to_float(positions, 0, positions.rows, positions_.data());
    pre_norm_ = LayerNorm(weights, model + "pre_layrnorm", width, config.norm_epsilon);
    for (Index l = 0; l < config.layers; ++l) {
      const std::string layer = model + "encoder.layers." + std::to_string(l) + ".";
      const auto square = [&](const char* name) {
        return Linear(weights, layer + "self_attn." + name, width, width, true);
      };
      layers_.push_back({LayerNorm(weights, layer + "layer_norm1", width, config.norm_epsilon),
                         square("q_proj"), square("k_proj"), square("v_proj"), square("out_proj"),
                         LayerNorm(weights, layer + "layer_norm2", width, config.norm_epsilon),
                         Linear(weights, layer + "mlp.fc1", config.ffn, width, true),
                         Linear(weights, layer + "mlp.fc2", width, config.ffn, true)});
    }
  }

  const EncoderConfig& config() const { return config_; }

  /// `pixels`: [3 × side²], normalised. `after_attention` is called in every layer between
  /// attention and MLP.
  Output run(const Matrix& pixels, const Hook& after_attention = {}) const {
    Matrix hidden = embed(pixels);
    LayerStep::Rows rows;
    rows.sizes.assign(static_cast<std::size_t>(hidden.rows()), 1.0F);
    QueriesKeys qk;
    Matrix normed, v, mixed, update;
    for (Index l = 0; l < config_.layers_run; ++l) {
      const Layer& layer = layers_[static_cast<std::size_t>(l)];
      layer.norm_1(hidden, normed);
      layer.query(normed, qk.queries, threads_);
      layer.key(normed, qk.keys, threads_);
      layer.value(normed, v, threads_);
      const HeadsView q = heads(qk.queries);
      const HeadsView k = heads(qk.keys);
      attention(q, k, heads(v), false, rows.key_bias, mixed, threads_);
      layer.out(mixed, update, threads_);
      hidden += update;
      if (after_attention) {
        LayerStep step(l, q, k, heads(v), hidden, rows);
        after_attention(step);
      }
      layer.norm_2(hidden, normed);
      layer.fc1(normed, mixed, threads_);
      activate(mixed);
      layer.fc2(mixed, update, threads_);
      hidden += update;
    }
    return {std::move(hidden), std::move(qk)};
  }

  /// The queries and keys that layer `layer` would make of hidden states that enter it: for methods
  /// that look at the layer behind the last one that ran (PruMerge).
  QueriesKeys project(Index layer, const Matrix& hidden) const {
    tokenfold::require(0 <= layer && layer < config_.layers, "encoder: no layer ", layer, " of ",
                       config_.layers);
    const Layer& weights = layers_[static_cast<std::size_t>(layer)];
    Matrix normed;
    QueriesKeys qk;
    weights.norm_1(hidden, normed);
    weights.query(normed, qk.queries, threads_);
    weights.key(normed, qk.keys, threads_);
    return qk;
  }

  /// Of matrices [P × C].
  HeadsView heads(const Matrix& rows) const { return tokenfold::split_heads(rows, config_.heads); }

 private:
  struct Layer {
    LayerNorm norm_1;
    Linear query, key, value, out;
    LayerNorm norm_2;
    Linear fc1, fc2;
  };

  /// [CLS] and one row per patch, with positions, normalised.
  Matrix embed(const Matrix& pixels) const {
    const Index side = config_.image_size;
    const Index patch = config_.patch_size;
    const Index grid = config_.grid();
    tokenfold::require(pixels.rows() == 3 && pixels.cols() == side * side,
                       "encoder: pixels must be [3 x ", side * side, "], got [", pixels.rows(),
                       " x ", pixels.cols(), "]");
    // The convolution of stride `patch` is a product with the patches laid out in rows.
    Matrix patches(config_.patches(), 3 * patch * patch);
    for (Index i = 0; i < patches.rows(); ++i) {
      const Index corner = (i / grid * side + i % grid) * patch;
      for (Index line = 0; line < 3 * patch; ++line) {
        patches.row(i).segment(line * patch, patch) =
            pixels.row(line / patch).segment(corner + line % patch * side, patch);
      }
    }
    Matrix embedded;
    patch_(patches, embedded, threads_);
    Matrix hidden(1 + embedded.rows(), config_.width);
    hidden.row(0) = class_;
    hidden.bottomRows(embedded.rows()) = embedded;
    hidden += positions_;
    Matrix normed;
    pre_norm_(hidden, normed);
    return normed;
  }

  void activate(Matrix& x) const {
    const Index rows = x.rows();
    tokenfold::parallel_for(threads_, tokenfold::worker_count(threads_, rows), rows,
                            [&](Index i, Index) {
                              auto row = x.row(i).array();
                              row = sigmoid_unit(row, 1.702F);
                            });
  }

  EncoderConfig config_;
  Threads threads_;
  Linear patch_;
  Vector class_;
  Matrix positions_;
  LayerNorm pre_norm_;
  std::vector<Layer> layers_;
};

}  // namespace llava
