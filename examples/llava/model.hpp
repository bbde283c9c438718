// SPDX-License-Identifier: Apache-2.0
// Encoder, projector and decoder of one checkpoint.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "decoder.hpp"
#include "encoder.hpp"
#include "projector.hpp"
#include "tokenfold/core/layout.hpp"

namespace llava {

/// Owns the weights, of which the parts are views; hence the order of the members.
class Model {
 public:
  Model(const Config& model_config, Weights model_weights, Threads threads = {})
      : config(model_config),
        weights(std::move(model_weights)),
        encoder(config.encoder, weights, threads),
        projector(config, weights, threads),
        decoder(config.decoder, weights, threads) {}
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const Config config;

 private:
  Weights weights;

 public:
  const Encoder encoder;
  const Projector projector;
  const Decoder decoder;
};

/// A prompt around one picture: token ids before and after it.
struct Prompt {
  std::vector<std::int64_t> before;
  std::vector<std::int64_t> after;
};

/// What the decoder takes: text, the picture's embeddings, text.
inline Matrix splice(const Decoder& decoder, const Prompt& prompt, const Matrix& image) {
  const Matrix before = decoder.embed(prompt.before);
  const Matrix after = decoder.embed(prompt.after);
  Matrix all(before.rows() + image.rows() + after.rows(), image.cols());
  all << before, image, after;
  return all;
}

}  // namespace llava
