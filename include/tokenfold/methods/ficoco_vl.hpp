// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "tokenfold/methods/ficoco_l.hpp"
#include "tokenfold/methods/ficoco_v.hpp"
#include "tokenfold/schedule.hpp"

namespace tokenfold {

/// How many visual tokens to discard in each layer of encoder and decoder.
struct FiCoCoVLSteps {
  Schedule encoder;
  Schedule decoder;
};

/// FiCoCo-VL: FiCoCo-V in the encoder, then FiCoCo-L in the decoder, under one budget for both.
///
/// Han et al., AAAI 2026, arXiv 2411.17686, which does not say how it divides the budget. Here: a
/// share of all tokens to be discarded goes to the encoder, evenly over its layers from
/// `encoder_first_layer` on, the rest to the decoder likewise; where the division leaves a
/// remainder, earlier layers take one more.
struct FiCoCoVL {
  FiCoCoV encoder = {};
  FiCoCoL decoder = {};
  double encoder_share = 0.5;
  Index encoder_first_layer = ficoco_v_first_layer;
  Index decoder_first_layer = ficoco_l_first_layer;

  /// The discards of all layers, for an image of `visual` tokens: exactly `budget` in total.
  /// Throws if a first layer does not exist.
  FiCoCoVLSteps steps(Index visual, const Budget& budget, Index encoder_layers = 24,
                      Index decoder_layers = 32) const {
    require_in_range("ficoco-vl: encoder_share", encoder_share, 0, 1);
    const Index total = budget.discard_count(visual);
    const auto in_encoder =
        static_cast<Index>(std::floor(encoder_share * static_cast<double>(total) + 0.5));
    return {spread(in_encoder, {encoder_layers, encoder_first_layer}, "encoder"),
            spread(total - in_encoder, {decoder_layers, decoder_first_layer}, "decoder")};
  }

 private:
  static Schedule spread(Index count, Layers layers, const char* where) {
    require(layers.first >= 0 && layers.first < layers.count, "ficoco-vl: the ", where, " has ",
            layers.count, " layers, reduction cannot begin in layer ", layers.first);
    return Schedule::evenly(count, layers);
  }
};

}  // namespace tokenfold
