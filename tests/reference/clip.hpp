// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "transformer.hpp"

// CLIP's vision transformer (Radford et al., arXiv 2103.00020) and LLaVA-1.5's projector.
namespace reference {

struct ClipShape {
  std::size_t width = 0;
  std::size_t heads = 0;
  std::size_t ffn = 0;
  std::size_t image_size = 0;
  std::size_t patch_size = 0;
  double norm_epsilon = 1e-5;
};

/// What one layer does to the sequence that enters it.
struct ClipLayer {
  /// Added to the scores of each key: log of the tokens' sizes, for proportional attention.
  std::vector<double> key_bias = {};
  /// The residual stream behind attention becomes W · it.
  std::optional<Matrix> after_attention = {};
};

struct ClipOutput {
  Matrix hidden;  // behind the last layer that ran, [CLS] first
  std::vector<Heads> queries, keys, values;
};

/// (x − mean) / √(variance + ε) · w + b.
inline Matrix layer_norm(const Matrix& x, const std::vector<double>& weight,
                         const std::vector<double>& bias, double epsilon) {
  Matrix y = x;
  const auto n = static_cast<double>(x.cols);
  for (std::size_t i = 0; i < x.rows; ++i) {
    double mean = 0;
    double variance = 0;
    for (std::size_t c = 0; c < x.cols; ++c) mean += x(i, c) / n;
    for (std::size_t c = 0; c < x.cols; ++c) variance += (x(i, c) - mean) * (x(i, c) - mean) / n;
    for (std::size_t c = 0; c < x.cols; ++c) {
      y(i, c) = (x(i, c) - mean) / std::sqrt(variance + epsilon) * weight.at(c) + bias.at(c);
    }
  }
  return y;
}

/// A linear layer with bias, by name.
inline Matrix clip_linear(const WeightSource& weight, const std::string& name, const Matrix& x,
                          std::size_t outputs) {
  return linear(x, weight(name + ".weight", outputs, x.cols), weight(name + ".bias", outputs, 1));
}
inline Matrix clip_norm(const WeightSource& weight, const std::string& name, const Matrix& x,
                        double epsilon) {
  return layer_norm(x, weight(name + ".weight", x.cols, 1), weight(name + ".bias", x.cols, 1),
                    epsilon);
}

/// [CLS] and the patches row by row, with positions, normalised. `pixels`: [3 × side²].
inline Matrix clip_embeddings(const ClipShape& shape, const WeightSource& weight,
                              const Matrix& pixels) {
  const std::string model = "vision_tower.vision_model.";
  const std::size_t patch = shape.patch_size;
  const std::size_t grid = shape.image_size / patch;
  const std::vector<double> kernel =
      weight(model + "embeddings.patch_embedding.weight", shape.width, 3 * patch * patch);
  const std::vector<double> cls = weight(model + "embeddings.class_embedding", shape.width, 1);
  const Matrix positions(
      1 + grid * grid, shape.width,
      weight(model + "embeddings.position_embedding.weight", 1 + grid * grid, shape.width));
  Matrix x = positions;
  for (std::size_t c = 0; c < shape.width; ++c) x(0, c) += cls.at(c);
  for (std::size_t gy = 0; gy < grid; ++gy) {
    for (std::size_t gx = 0; gx < grid; ++gx) {
      for (std::size_t c = 0; c < shape.width; ++c) {
        for (std::size_t channel = 0; channel < 3; ++channel) {
          for (std::size_t py = 0; py < patch; ++py) {
            for (std::size_t px = 0; px < patch; ++px) {
              const std::size_t pixel = (gy * patch + py) * shape.image_size + gx * patch + px;
              x(1 + gy * grid + gx, c) +=
                  kernel.at(((c * 3 + channel) * patch + py) * patch + px) * pixels(channel, pixel);
            }
          }
        }
      }
    }
  }
  return clip_norm(weight, model + "pre_layrnorm", x, shape.norm_epsilon);
}

/// As many layers as `layers` has.
inline ClipOutput run_clip(const ClipShape& shape, const WeightSource& weight, const Matrix& pixels,
                           const std::vector<ClipLayer>& layers) {
  ClipOutput output;
  Matrix hidden = clip_embeddings(shape, weight, pixels);
  for (std::size_t l = 0; l < layers.size(); ++l) {
    const std::string name = "vision_tower.vision_model.encoder.layers." + std::to_string(l) + ".";
    Matrix normed = clip_norm(weight, name + "layer_norm1", hidden, shape.norm_epsilon);
    const auto project = [&](const char* what) {
      return split_heads(clip_linear(weight, name + "self_attn." + what, normed, shape.width),
                         shape.heads);
    };
    output.queries.push_back(project("q_proj"));
    output.keys.push_back(project("k_proj"));
    output.values.push_back(project("v_proj"));
    const Matrix mixed = attend(
        output.queries.back(), output.keys.back(), output.values.back(),
        [](std::size_t, std::size_t) { return true; }, layers[l].key_bias);
    add(hidden, clip_linear(weight, name + "self_attn.out_proj", mixed, shape.width));
    if (layers[l].after_attention) hidden = multiply(*layers[l].after_attention, hidden);

    normed = clip_norm(weight, name + "layer_norm2", hidden, shape.norm_epsilon);
    Matrix inner = clip_linear(weight, name + "mlp.fc1", normed, shape.ffn);
    for (double& x : inner.values) x *= 1 / (1 + std::exp(-1.702 * x));
    add(hidden, clip_linear(weight, name + "mlp.fc2", inner, shape.width));
  }
  output.hidden = hidden;
  return output;
}

/// Two linear layers with the exact GELU x · Φ(x) between them.
inline Matrix run_projector(const WeightSource& weight, const Matrix& features, std::size_t width) {
  Matrix inner = clip_linear(weight, "multi_modal_projector.linear_1", features, width);
  for (double& x : inner.values) x *= 0.5 * (1 + std::erf(x / std::sqrt(2.0)));
  return clip_linear(weight, "multi_modal_projector.linear_2", inner, width);
}

}  // namespace reference
