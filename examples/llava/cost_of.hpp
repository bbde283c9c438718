// SPDX-License-Identifier: Apache-2.0
// What a run costs by arithmetic: operations and cache, from the sizes of the model and the tokens
// that each layer saw.
#pragma once

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "config.hpp"
#include "tokenfold/cost.hpp"

namespace llava {

/// Visual tokens of a layer. A reduction between attention and MLP leaves the latter fewer.
struct LayerTokens {
  Index attention = 0;
  Index mlp = 0;
};

/// Visual tokens from the image to the last decoder layer, and the text around them.
struct TokenCounts {
  Index image = 0;                   ///< patches
  std::vector<LayerTokens> encoder;  ///< of the layers that run; [CLS] is not counted
  Index encoded = 0;                 ///< that leave the encoder
  Index projected = 0;               ///< that the projector sees
  Index into_decoder = 0;
  std::vector<LayerTokens> decoder;
  Index left = 0;  ///< that leave the last decoder layer
  Index text = 0;
};

/// A run that reduces nowhere but in front of the decoder, to `kept` tokens.
inline TokenCounts pruned_before_decoder(const Config& config, Index kept, Index text) {
  const Index all = config.encoder.patches();
  return {.image = all,
          .encoder = std::vector<LayerTokens>(static_cast<std::size_t>(config.encoder.layers_run),
                                              LayerTokens{all, all}),
          .encoded = all,
          .projected = all,
          .into_decoder = kept,
          .decoder = std::vector<LayerTokens>(static_cast<std::size_t>(config.decoder.layers),
                                              LayerTokens{kept, kept}),
          .left = kept,
          .text = text};
}

/// A run that keeps every token.
inline TokenCounts unreduced(const Config& config, Index text) {
  return pruned_before_decoder(config, config.encoder.patches(), text);
}

/// Floating point operations up to the first token; a multiply-add is two.
struct Flops {
  double encoder = 0;
  double projector = 0;
  double prefill = 0;

  double total() const { return encoder + projector + prefill; }
};

namespace detail {

/// All layers; `others`: rows of each layer that are not visual.
inline double layers_flops(const char* model, const tokenfold::TransformerShape& shape,
                           std::span<const LayerTokens> visual, Index others,
                           tokenfold::ScoresCounted scores) {
  if (static_cast<Index>(visual.size()) != shape.layers) {
    throw std::runtime_error(std::string("flops of the ") + model + ": expected token counts of " +
                             std::to_string(shape.layers) + " layers, got " +
                             std::to_string(visual.size()));
  }
  constexpr auto convention = tokenfold::FlopConvention::flop;
  double sum = 0;
  for (const LayerTokens& tokens : visual) {
    sum += tokenfold::attention_flops(shape, tokens.attention + others, convention, scores) +
           tokenfold::mlp_flops(shape, tokens.mlp + others, convention);
  }
  return sum;
}

}  // namespace detail

/// What the engine is expected to compute: patch embedding, encoder layers with [CLS], the two
/// layers of the projector, decoder layers, and the output head for one row. Of the decoder's
/// scores half are counted, because its attention skips what the causal mask hides; papers count
/// `ScoresCounted::all`. Norms, softmax, rotary embedding and the reductions are left out, and the
/// projections of what is dropped between them and attention (PyramidDrop, 1 %).
inline Flops flops_of(
    const Config& config, const TokenCounts& tokens,
    tokenfold::ScoresCounted decoder_scores = tokenfold::ScoresCounted::causal_half) {
  using tokenfold::matrix_flops;
  const EncoderConfig& encoder = config.encoder;
  const DecoderConfig& decoder = config.decoder;
  constexpr Index cls = 1;
  return {.encoder = matrix_flops(tokens.image, 3 * encoder.patch_size * encoder.patch_size,
                                  encoder.width) +
                     detail::layers_flops("encoder", shape_of(encoder), tokens.encoder, cls,
                                          tokenfold::ScoresCounted::all),
          .projector = matrix_flops(tokens.projected, encoder.width, decoder.width) +
                       matrix_flops(tokens.projected, decoder.width, decoder.width),
          .prefill = detail::layers_flops("decoder", shape_of(decoder), tokens.decoder, tokens.text,
                                          decoder_scores) +
                     matrix_flops(1, decoder.width, decoder.vocabulary)};
}

/// Keys and values of `rows` tokens in each decoder layer; the engine holds floats.
inline std::int64_t kv_bytes(const DecoderConfig& config, std::span<const Index> rows,
                             Index bits = 32) {
  return tokenfold::kv_cache_bytes(shape_of(config), {rows.data(), static_cast<Index>(rows.size())},
                                   bits);
}

}  // namespace llava
