// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "config.hpp"
#include "reference/clip.hpp"
#include "reference/llama.hpp"
#include "safetensors.hpp"
#include "support/random.hpp"
#include "tokenfold/core/views.hpp"
#include "weights.hpp"

// A seeded checkpoint of any sizes, for the engine as a file and for the reference as numbers.
// Nothing in it is trivial: norms scale and shift, biases are not 0.
namespace llava_test {

using llava::Index;
using llava::Matrix;

inline std::size_t size(Index n) { return static_cast<std::size_t>(n); }

class Checkpoint {
 public:
  /// Values are rounded to `rounded_to`, and stored as it too unless `widened`: then as floats.
  explicit Checkpoint(const llava::Config& config, std::uint64_t seed = 1,
                      llava::Element rounded_to = llava::Element::f32, bool widened = false)
      : random_(seed), element_(rounded_to), widened_(widened) {
    add_encoder(config.encoder);
    add_projector(config);
    add_decoder(config.decoder);
  }

  void remove(const std::string& name) { file_.tensors.erase(name); }

  /// As the engine reads it, from a file that is gone again.
  llava::Weights weights() const {
    const std::filesystem::path path = std::filesystem::path(testing::TempDir()) /
                                       ("llava_" + std::to_string(::getpid()) + ".safetensors");
    safetensors::save(path, file_);
    llava::Weights opened = llava::Weights::open(path);
    std::filesystem::remove(path);  // what is mapped stays
    return opened;
  }

  /// For the reference.
  reference::WeightSource source() const {
    return [this](const std::string& name, std::size_t rows, std::size_t cols) {
      const safetensors::Tensor& tensor = file_.at(name);
      std::vector<double> values = tensor.doubles();
      EXPECT_EQ(values.size(), rows * cols) << name;
      EXPECT_EQ(tensor.shape.at(0), static_cast<std::int64_t>(rows)) << name;
      return values;
    };
  }

 private:
  void add(const std::string& name, std::vector<Index> shape, double deviation, double mean = 0) {
    Index count = 1;
    for (const Index n : shape) count *= n;
    std::vector<float> values(size(count));
    for (float& value : values) {
      value = rounded(static_cast<float>(mean + deviation * random_.normal()));
    }
    safetensors::Tensor tensor = safetensors::make({shape.begin(), shape.end()}, values);
    if (element_ != llava::Element::f32 && !widened_) narrow(tensor, values);
    file_.tensors[name] = tensor;
  }
  /// Weights keep activations of order 1 and attention away from uniform.
  void add_matrix(const std::string& name, Index outputs, Index inputs, double gain = 1) {
    add(name + ".weight", {outputs, inputs}, gain / std::sqrt(static_cast<double>(inputs)));
  }
  void add_linear(const std::string& name, Index outputs, Index inputs, double gain = 1) {
    add_matrix(name, outputs, inputs, gain);
    add(name + ".bias", {outputs}, 0.3);
  }
  void add_norm(const std::string& name, Index width, bool has_bias) {
    add(name + ".weight", {width}, 0.2, 1);
    if (has_bias) add(name + ".bias", {width}, 0.2);
  }

  void add_encoder(const llava::EncoderConfig& c) {
    const std::string model = "vision_tower.vision_model.";
    add(model + "embeddings.class_embedding", {c.width}, 1);
    add(model + "embeddings.patch_embedding.weight", {c.width, 3, c.patch_size, c.patch_size},
        1 / std::sqrt(3.0 * static_cast<double>(c.patch_size * c.patch_size)));
    add(model + "embeddings.position_embedding.weight", {1 + c.patches(), c.width}, 0.5);
    add_norm(model + "pre_layrnorm", c.width, true);
    for (Index l = 0; l < c.layers; ++l) {
      const std::string layer = model + "encoder.layers." + std::to_string(l) + ".";
      add_norm(layer + "layer_norm1", c.width, true);
      add_norm(layer + "layer_norm2", c.width, true);
      for (const char* name : {"q_proj", "k_proj", "v_proj", "out_proj"}) {
        add_linear(layer + "self_attn." + name, c.width, c.width);
      }
      add_linear(layer + "mlp.fc1", c.ffn, c.width);
      add_linear(layer + "mlp.fc2", c.width, c.ffn);
    }
  }
  void add_projector(const llava::Config& config) {
    add_linear("multi_modal_projector.linear_1", config.decoder.width, config.encoder.width);
    add_linear("multi_modal_projector.linear_2", config.decoder.width, config.decoder.width);
  }
  void add_decoder(const llava::DecoderConfig& c) {
    const std::string model = "language_model.model.";
    add(model + "embed_tokens.weight", {c.vocabulary, c.width}, 1);
    for (Index l = 0; l < c.layers; ++l) {
      const std::string layer = model + "layers." + std::to_string(l) + ".";
      add_norm(layer + "input_layernorm", c.width, false);
      add_norm(layer + "post_attention_layernorm", c.width, false);
      const Index wide = c.heads * c.head_dim;
      const Index narrow = c.key_value_heads * c.head_dim;
      add_matrix(layer + "self_attn.q_proj", wide, c.width, 1.5);
      add_matrix(layer + "self_attn.k_proj", narrow, c.width, 1.5);
      add_matrix(layer + "self_attn.v_proj", narrow, c.width);
      add_matrix(layer + "self_attn.o_proj", c.width, wide);
      add_matrix(layer + "mlp.gate_proj", c.ffn, c.width);
      add_matrix(layer + "mlp.up_proj", c.ffn, c.width);
      add_matrix(layer + "mlp.down_proj", c.width, c.ffn);
    }
    add_norm(model + "norm", c.width, false);
    if (!c.tied_embeddings) add_matrix("language_model.lm_head", c.vocabulary, c.width);
  }

  float rounded(float value) const {
    if (element_ == llava::Element::f16) return static_cast<float>(Eigen::half(value));
    if (element_ == llava::Element::bf16) return static_cast<float>(Eigen::bfloat16(value));
    return value;
  }
  void narrow(safetensors::Tensor& tensor, const std::vector<float>& values) const {
    const bool half = element_ == llava::Element::f16;
    tensor.dtype = half ? safetensors::Dtype::f16 : safetensors::Dtype::bf16;
    tensor.bytes.resize(2 * values.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      const auto bits = half ? Eigen::numext::bit_cast<std::uint16_t>(Eigen::half(values[i]))
                             : Eigen::numext::bit_cast<std::uint16_t>(Eigen::bfloat16(values[i]));
      std::memcpy(tensor.bytes.data() + 2 * i, &bits, 2);
    }
  }

  support::Random random_;
  llava::Element element_;
  bool widened_;
  safetensors::File file_;
};

inline reference::LlamaShape shape_of(const llava::DecoderConfig& c) {
  return {
      size(c.layers),   size(c.width),    size(c.heads),      size(c.key_value_heads),
      size(c.head_dim), size(c.ffn),      size(c.vocabulary), static_cast<double>(c.norm_epsilon),
      c.rope_theta,     c.tied_embeddings};
}
inline reference::ClipShape shape_of(const llava::EncoderConfig& c) {
  return {size(c.width),      size(c.heads),      size(c.ffn),
          size(c.image_size), size(c.patch_size), static_cast<double>(c.norm_epsilon)};
}

inline Matrix random_rows(Index rows, Index cols, std::uint64_t seed) {
  support::Random random(seed);
  return support::tensor<float>(support::normal_matrix<float>(size(rows), size(cols), random));
}
inline reference::Matrix doubles(const Matrix& m) {
  return {size(m.rows()), size(m.cols()), {m.data(), m.data() + m.size()}};
}
/// One row.
inline reference::Matrix doubles(const llava::Vector& v) {
  return {1, size(v.size()), {v.data(), v.data() + v.size()}};
}
/// Heads side by side.
inline Matrix joined(const tokenfold::HeadsView<const float>& heads) {
  Matrix rows(heads.tokens(), heads.heads() * heads.dim());
  for (Index h = 0; h < heads.heads(); ++h) {
    rows.middleCols(h * heads.dim(), heads.dim()) = heads.head(h).map();
  }
  return rows;
}
inline reference::Matrix joined(const reference::Heads& heads) {
  reference::Matrix rows(heads.tokens, heads.heads * heads.dim);
  for (std::size_t h = 0; h < heads.heads; ++h) {
    for (std::size_t n = 0; n < heads.tokens; ++n) {
      for (std::size_t c = 0; c < heads.dim; ++c) rows(n, h * heads.dim + c) = heads(h, n, c);
    }
  }
  return rows;
}

/// To `tolerance` of 1, or of what is expected.
inline testing::AssertionResult near(const reference::Matrix& actual,
                                     const reference::Matrix& expected, double tolerance = 2e-5) {
  if (actual.rows != expected.rows || actual.cols != expected.cols) {
    return testing::AssertionFailure()
           << "[" << actual.rows << " x " << actual.cols << "] instead of [" << expected.rows
           << " x " << expected.cols << "]";
  }
  for (std::size_t i = 0; i < expected.values.size(); ++i) {
    const double is = actual.values[i];
    const double should = expected.values[i];
    if (!(std::abs(is - should) <= tolerance * std::max(1.0, std::abs(should)))) {
      return testing::AssertionFailure() << is << " instead of " << should << " in row "
                                         << i / expected.cols << ", column " << i % expected.cols;
    }
  }
  return testing::AssertionSuccess();
}
inline testing::AssertionResult near(const Matrix& actual, const reference::Matrix& expected,
                                     double tolerance = 2e-5) {
  return near(doubles(actual), expected, tolerance);
}
inline testing::AssertionResult near(const llava::Vector& actual, const reference::Matrix& expected,
                                     double tolerance = 2e-5) {
  return near(doubles(actual), expected, tolerance);
}

/// Every bit.
template <class A, class B>
bool same_bits(const A& a, const B& b) {
  return a.size() == b.size() &&
         std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(*a.data())) ==
             0;
}

/// What `call` throws as a std::runtime_error.
template <class Call>
std::string runtime_error(Call&& call) {
  try {
    call();
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

}  // namespace llava_test
