// SPDX-License-Identifier: Apache-2.0
// A model of any depth that is small otherwise, with a picture and a prompt, for tests of whole
// runs.
#pragma once

#include "checkpoint.hpp"
#include "model.hpp"

namespace llava_test {

/// 6 x 6 patches; the last encoder layer does not run; two query heads share a key head.
inline llava::Config small_config(llava::Index encoder_layers, llava::Index decoder_layers) {
  llava::Config config;
  config.encoder = {.layers = encoder_layers,
                    .width = 12,
                    .heads = 2,
                    .ffn = 16,
                    .image_size = 12,
                    .patch_size = 2,
                    .layers_run = encoder_layers - 1};
  config.decoder = {.layers = decoder_layers,
                    .width = 24,
                    .heads = 4,
                    .key_value_heads = 2,
                    .head_dim = 6,
                    .ffn = 32,
                    .vocabulary = 40};
  return config;
}

inline const llava::Prompt& small_prompt() {
  static const llava::Prompt words{{1, 5, 9}, {7, 8, 3, 22}};
  return words;
}
inline constexpr llava::Index small_prompt_size = 7;

inline const llava::Matrix& small_pixels() {
  static const llava::Matrix picture = random_rows(3, 12 * 12, 3);
  return picture;
}

}  // namespace llava_test
