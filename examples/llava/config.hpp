// SPDX-License-Identifier: Apache-2.0
// The sizes of a LLaVA model, as its config.json has them.
#pragma once

#include <cstdint>

#include "tokenfold/cost.hpp"

namespace llava {

using Index = tokenfold::Index;

/// CLIP's vision transformer.
struct EncoderConfig {
  Index layers = 24;
  Index width = 1024;
  Index heads = 16;
  Index ffn = 4096;
  Index image_size = 336;
  Index patch_size = 14;
  float norm_epsilon = 1e-5F;
  /// Layers that run: LLaVA takes the hidden state before the last one (feature layer −2).
  Index layers_run = 23;

  Index grid() const { return image_size / patch_size; }
  Index patches() const { return grid() * grid(); }
};

/// A LLaMA decoder.
struct DecoderConfig {
  Index layers = 32;
  Index width = 4096;
  Index heads = 32;
  Index key_value_heads = 32;
  Index head_dim = 128;
  Index ffn = 11008;
  Index vocabulary = 32064;
  float norm_epsilon = 1e-5F;
  double rope_theta = 10000;
  /// The output head is the embedding table.
  bool tied_embeddings = false;
};

struct Config {
  EncoderConfig encoder;
  DecoderConfig decoder;
  /// Token ids.
  std::int64_t image_token = 32000;
  std::int64_t begin_token = 1;
  std::int64_t end_token = 2;
};

/// As `tokenfold/cost.hpp` counts them.
inline tokenfold::TransformerShape shape_of(const EncoderConfig& c) {
  return {.layers = c.layers_run,
          .width = c.width,
          .ffn = c.ffn,
          .ffn_matrices = 2,
          .heads = c.heads,
          .key_value_width = c.width,
          .vocabulary = 0,
          .query_width = c.width};
}
inline tokenfold::TransformerShape shape_of(const DecoderConfig& c) {
  return {.layers = c.layers,
          .width = c.width,
          .ffn = c.ffn,
          .ffn_matrices = 3,
          .heads = c.heads,
          .key_value_width = c.key_value_heads * c.head_dim,
          .vocabulary = c.vocabulary,
          .query_width = c.heads * c.head_dim};
}

}  // namespace llava
