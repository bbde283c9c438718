// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "transformer.hpp"

// A LLaMA decoder (Touvron et al., arXiv 2302.13971) without a cache: the whole sequence, prompt and
// answer, from the first layer to the last. Reductions change which rows there are.
namespace reference {

struct LlamaShape {
  std::size_t layers = 0;
  std::size_t width = 0;
  std::size_t heads = 0;
  std::size_t key_value_heads = 0;
  std::size_t head_dim = 0;
  std::size_t ffn = 0;
  std::size_t vocabulary = 0;
  double norm_epsilon = 1e-5;
  double rope_theta = 10000;
  bool tied_embeddings = false;
};

/// What one layer does to the sequence that enters it, in this order.
struct LlamaLayer {
  /// The rows that take part at all; none given: all. The others leave before attention.
  std::optional<Rows> attending = {};
  /// RoPE position of each row that attends.
  std::vector<double> positions = {};
  /// Attending rows that those from `late` on do not see: what a cache was shortened by before the
  /// late rows came.
  Rows forgotten = {};
  std::size_t late = 0;
  /// The residual stream behind attention becomes W · it, likewise behind the layer.
  std::optional<Matrix> after_attention = {};
  std::optional<Matrix> after_layer = {};
};

struct LlamaOutput {
  Matrix hidden;  // behind the last layer
  Matrix logits;  // one row each
  /// Of each layer, as its attention takes them.
  std::vector<Heads> queries, keys, values;
};

/// x / √(mean x² + ε) · w.
inline Matrix rms_norm(const Matrix& x, const std::vector<double>& weight, double epsilon) {
  Matrix y = x;
  for (std::size_t i = 0; i < x.rows; ++i) {
    double squares = 0;
    for (std::size_t c = 0; c < x.cols; ++c) squares += x(i, c) * x(i, c);
    const double length = std::sqrt(squares / static_cast<double>(x.cols) + epsilon);
    for (std::size_t c = 0; c < x.cols; ++c) y(i, c) = x(i, c) / length * weight.at(c);
  }
  return y;
}

/// Channels c and c + d/2 of a head are a complex number, turned by position · θ^(−2c/d).
inline Heads rope(const Heads& x, const std::vector<double>& positions, double theta) {
  Heads y = x;
  const std::size_t half = x.dim / 2;
  for (std::size_t h = 0; h < x.heads; ++h) {
    for (std::size_t n = 0; n < x.tokens; ++n) {
      for (std::size_t c = 0; c < half; ++c) {
        const double exponent = -2.0 * static_cast<double>(c) / static_cast<double>(x.dim);
        const double angle = positions.at(n) * std::pow(theta, exponent);
        const double re = x(h, n, c);
        const double im = x(h, n, c + half);
        y(h, n, c) = re * std::cos(angle) - im * std::sin(angle);
        y(h, n, c + half) = re * std::sin(angle) + im * std::cos(angle);
      }
    }
  }
  return y;
}

inline Matrix swiglu(const Matrix& gate, const Matrix& up) {
  Matrix y = up;
  for (std::size_t i = 0; i < y.values.size(); ++i) {
    y.values[i] *= gate.values[i] / (1 + std::exp(-gate.values[i]));
  }
  return y;
}

inline LlamaOutput run_llama(const LlamaShape& shape, const WeightSource& weight, Matrix hidden,
                             const std::vector<LlamaLayer>& layers) {
  LlamaOutput output;
  const std::string model = "language_model.model.";
  const std::size_t width = shape.width;
  const std::size_t wide = shape.heads * shape.head_dim;
  const std::size_t narrow = shape.key_value_heads * shape.head_dim;
  for (std::size_t l = 0; l < shape.layers; ++l) {
    const LlamaLayer& layer = layers.at(l);
    const std::string name = model + "layers." + std::to_string(l) + ".";
    if (layer.attending) hidden = some_rows(hidden, *layer.attending);

    Matrix normed =
        rms_norm(hidden, weight(name + "input_layernorm.weight", width, 1), shape.norm_epsilon);
    const auto project = [&](const char* what, std::size_t outputs) {
      return linear(normed, weight(name + "self_attn." + what + ".weight", outputs, width),
                    outputs);
    };
    const Heads q =
        rope(split_heads(project("q_proj", wide), shape.heads), layer.positions, shape.rope_theta);
    const Heads k = rope(split_heads(project("k_proj", narrow), shape.key_value_heads),
                         layer.positions, shape.rope_theta);
    const Heads v = split_heads(project("v_proj", narrow), shape.key_value_heads);
    const auto sees = [&](std::size_t query, std::size_t key) {
      bool forgotten = false;
      for (std::size_t row : layer.forgotten) forgotten = forgotten || row == key;
      return key <= query && !(forgotten && query >= layer.late);
    };
    const Matrix mixed = attend(q, k, v, sees);
    add(hidden, linear(mixed, weight(name + "self_attn.o_proj.weight", width, wide), width));
    output.queries.push_back(q);
    output.keys.push_back(k);
    output.values.push_back(v);
    if (layer.after_attention) hidden = multiply(*layer.after_attention, hidden);

    normed = rms_norm(hidden, weight(name + "post_attention_layernorm.weight", width, 1),
                      shape.norm_epsilon);
    const Matrix gate =
        linear(normed, weight(name + "mlp.gate_proj.weight", shape.ffn, width), shape.ffn);
    const Matrix up =
        linear(normed, weight(name + "mlp.up_proj.weight", shape.ffn, width), shape.ffn);
    add(hidden,
        linear(swiglu(gate, up), weight(name + "mlp.down_proj.weight", width, shape.ffn), width));
    if (layer.after_layer) hidden = multiply(*layer.after_layer, hidden);
  }
  output.hidden = hidden;
  const Matrix normed =
      rms_norm(hidden, weight(model + "norm.weight", width, 1), shape.norm_epsilon);
  const std::string head =
      shape.tied_embeddings ? model + "embed_tokens.weight" : "language_model.lm_head.weight";
  output.logits = linear(normed, weight(head, shape.vocabulary, width), shape.vocabulary);
  return output;
}

/// Rows of the embedding table.
inline Matrix embed(const LlamaShape& shape, const WeightSource& weight, const Rows& tokens) {
  const Matrix table(
      shape.vocabulary, shape.width,
      weight("language_model.model.embed_tokens.weight", shape.vocabulary, shape.width));
  return some_rows(table, tokens);
}

}  // namespace reference
