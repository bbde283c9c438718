// SPDX-License-Identifier: Apache-2.0
// Two runs of a model small enough to work out by hand.
#pragma once

#include "measurement.hpp"

namespace llava_test {

/// 2 x 2 patches; every size different, grouped queries.
inline llava::Config small() {
  llava::Config config;
  config.encoder = {.layers = 3,
                    .width = 4,
                    .heads = 1,
                    .ffn = 6,
                    .image_size = 4,
                    .patch_size = 2,
                    .layers_run = 2};
  config.decoder = {.layers = 2,
                    .width = 8,
                    .heads = 2,
                    .key_value_heads = 1,
                    .head_dim = 4,
                    .ffn = 10,
                    .vocabulary = 20};
  return config;
}

/// 4 -> 2 tokens in the first encoder layer, 2 -> 1 in the first decoder layer, 3 of text.
inline llava::TokenCounts small_tokens() {
  return {.image = 4,
          .encoder = {{4, 2}, {2, 2}},
          .encoded = 2,
          .projected = 2,
          .into_decoder = 2,
          .decoder = {{2, 1}, {1, 1}},
          .left = 1,
          .text = 3};
}

/// 4.5 s to the first token.
inline llava::Measurement reference() {
  llava::Measurement m;
  m.method = "none";
  m.title = "unreduced";
  m.tokens = llava::unreduced(small(), 3);
  m.seconds = {.encoder = 1, .projector = 0.5, .prefill = 3, .per_decoded_token = 0.4};
  m.flops = llava::flops_of(small(), m.tokens);
  m.kv_bytes = 2'000'000;
  m.kv_bytes_16_bit = 1'000'000;
  m.generated = {7, 8, 9};
  m.logits = {0, 3, 1, 0, 0, 0};
  return m;
}

/// 2 s to the first token, 0.25 s of them for reductions.
inline llava::Measurement reduced() {
  llava::Measurement m = reference();
  m.method = "ficoco_v";
  m.title = "FiCoCo-V";
  m.where = "inside the encoder";
  m.options = "keep=2, order=\"raster\"";
  m.tokens = small_tokens();
  m.seconds = {.encoder = 0.5,
               .reduction_in_encoder = 0.125,
               .projector = 0.25,
               .reduction_between = 0.0625,
               .prefill = 1,
               .reduction_in_decoder = 0.0625,
               .per_decoded_token = 0.2};
  m.flops = llava::flops_of(small(), m.tokens);
  m.kv_bytes = 500'000;
  m.kv_bytes_16_bit = 250'000;
  m.generated = {7, 8, 5};
  m.logits = {0, 1, 3, 0, 0, 0};
  return m;
}

}  // namespace llava_test
