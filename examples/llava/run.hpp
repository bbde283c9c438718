// SPDX-License-Identifier: Apache-2.0
// One picture and prompt through the model, measured.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "measurement.hpp"
#include "reduction.hpp"

namespace llava {

/// Told what the model is at: "encoder", layer, of how many.
using Watch = std::function<void(std::string_view stage, Index layer, Index layers)>;

namespace detail {

inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

inline std::string where(const tokenfold::MethodInfo& info) {
  switch (info.place) {
    case tokenfold::Place::encoder:
      return "in the encoder";
    case tokenfold::Place::after_encoder:
      return "behind the encoder";
    case tokenfold::Place::decoder:
      break;
  }
  return "in the decoder";
}

/// Names for people.
inline void describe(const Choice& choice, Measurement& result) {
  result.method = choice.method;
  if (choice.method == "none") result.title = "no reduction";
  if (choice.method == "ficoco_vl") {
    result.title = "FiCoCo-VL";
    result.where = "in encoder and decoder";
  }
  for (const tokenfold::MethodInfo& info : list_methods()) {
    if (info.name == choice.method) {
      result.title = info.title.empty() ? info.name : info.title;
      result.where = where(info);
    }
  }
  result.options = choice.keep ? "keep " + std::to_string(*choice.keep) : "";
  for (const auto& [name, value] : choice.options) {
    result.options += (result.options.empty() ? "" : ", ") + name + "=" + value;
  }
}

}  // namespace detail

/// Runs the picture through encoder, projector and decoder, reduces as `choice` says, and decodes
/// `new_tokens` tokens greedily, the end token or not. The same code runs without a reduction,
/// which is what the others are compared with.
inline Measurement run(const Model& model, const Matrix& pixels, const Prompt& prompt,
                       const Choice& choice, Index new_tokens, const Watch& watch = {}) {
  using Clock = std::chrono::steady_clock;
  const auto tell = [&](std::string_view stage, Index layer, Index layers) {
    if (watch) watch(stage, layer, layers);
  };
  Measurement result;
  detail::describe(choice, result);
  TokenCounts& tokens = result.tokens;
  Seconds& seconds = result.seconds;
  tokens.image = model.config.encoder.patches();
  tokens.text = static_cast<Index>(prompt.before.size() + prompt.after.size());
  Reduction reduction(model, prompt, choice);

  auto start = Clock::now();
  const Hook reduce_in_encoder = reduction.in_encoder();
  const Encoder::Output encoded = model.encoder.run(pixels, [&](LayerStep& step) {
    tell("encoder", step.layer + 1, model.config.encoder.layers_run);
    const Index entered = step.hidden().rows() - 1;
    if (reduce_in_encoder) reduce_in_encoder(step);
    tokens.encoder.push_back({entered, step.hidden().rows() - 1});
  });
  seconds.reduction_in_encoder = reduction.seconds_in_encoder;
  seconds.encoder = detail::seconds_since(start) - reduction.seconds_in_encoder;
  tokens.encoded = encoded.hidden.rows() - 1;

  tell("projector", 1, 1);
  start = Clock::now();
  const Matrix image = reduction.embeddings(encoded);
  seconds.reduction_between = reduction.seconds_between;
  seconds.projector = detail::seconds_since(start) - reduction.seconds_between;
  tokens.projected = reduction.projected_rows();
  tokens.into_decoder = image.rows();

  start = Clock::now();
  const Matrix input = splice(model.decoder, prompt, image);
  DecoderHooks hooks = reduction.in_decoder(input);
  tokens.decoder.resize(static_cast<std::size_t>(model.config.decoder.layers));
  hooks.after_attention = [&, reduce = hooks.after_attention](LayerStep& step) {
    tell("decoder", step.layer + 1, model.config.decoder.layers);
    LayerTokens& counts = tokens.decoder[static_cast<std::size_t>(step.layer)];
    counts.attention = step.hidden().rows() - tokens.text;
    if (reduce) reduce(step);
    counts.mlp = step.hidden().rows() - tokens.text;
  };
  Cache cache = model.decoder.empty_cache();
  const Matrix hidden = model.decoder.prefill(input, cache, hooks);
  Vector logits = model.decoder.logits(hidden);
  seconds.reduction_in_decoder = reduction.seconds_in_decoder;
  seconds.prefill = detail::seconds_since(start) - reduction.seconds_in_decoder;
  tokens.left = hidden.rows() - tokens.text;

  result.logits.assign(logits.begin(), logits.end());
  result.flops = flops_of(model.config, tokens);
  std::vector<Index> rows;
  for (const LayerCache& layer : cache) rows.push_back(layer.length);
  result.kv_bytes = kv_bytes(model.config.decoder, rows, 32);
  result.kv_bytes_16_bit = kv_bytes(model.config.decoder, rows, 16);

  start = Clock::now();
  for (Index i = 0; i < new_tokens; ++i) {
    result.generated.push_back(top_token({logits.data(), static_cast<std::size_t>(logits.size())}));
    if (i + 1 == new_tokens) break;
    tell("answer", i + 1, new_tokens);
    const std::int64_t next[] = {result.generated.back()};
    logits = model.decoder.logits(model.decoder.decode(model.decoder.embed(next), cache));
  }
  if (new_tokens > 1) {
    seconds.per_decoded_token = detail::seconds_since(start) / static_cast<double>(new_tokens - 1);
  }
  return result;
}

}  // namespace llava
