// SPDX-License-Identifier: Apache-2.0
// LLaVA-1.5's bridge from the encoder's width to the decoder's: two linear layers (Liu et al.,
// arXiv 2310.03744).
#pragma once

#include "config.hpp"
#include "math.hpp"

namespace llava {

class Projector {
 public:
  Projector(const Config& config, Weights& weights, Threads threads)
      : first_(weights, "multi_modal_projector.linear_1", config.decoder.width,
               config.encoder.width, true),
        second_(weights, "multi_modal_projector.linear_2", config.decoder.width,
                config.decoder.width, true),
        threads_(threads) {}

  /// One row per visual token, in and out.
  Matrix run(const Matrix& features) const {
    Matrix hidden, embeddings;
    first_(features, hidden, threads_);
    gelu(hidden);
    second_(hidden, embeddings, threads_);
    return embeddings;
  }

 private:
  Linear first_;
  Linear second_;
  Threads threads_;
};

}  // namespace llava
