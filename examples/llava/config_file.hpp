// SPDX-License-Identifier: Apache-2.0
// Reads a Config from the config.json of a LLaVA-1.5 checkpoint (llava-hf/llava-1.5-7b-hf). What is
// left out of the file has the value that transformers gives it; a model that this engine would not
// compute as it was trained is refused.
#pragma once

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "../common/safetensors.hpp"
#include "config.hpp"
#include "mapped_file.hpp"

namespace llava {

/// Throws std::runtime_error, with the name that the field has in config.json, unless every size is
/// positive and of a size that can be meant, and they fit each other.
inline void check(const Config& config) {
  const auto refuse = [](const std::string& field, const std::string& expected, auto value) {
    throw std::runtime_error(field + ": expected " + expected + ", got " + std::to_string(value));
  };
  // The limits keep products of three from overflowing.
  const auto size = [&](const std::string& field, Index value, Index limit = 1 << 20) {
    if (value < 1 || value > limit) refuse(field, "1 to " + std::to_string(limit), value);
  };
  const auto epsilon = [&](const std::string& field, float value) {
    if (!(value > 0 && value < 1)) refuse(field, "a number between 0 and 1", value);
  };
  const auto divides = [&](const std::string& field, Index value, Index whole, const char* what) {
    if (whole % value != 0) {
      refuse(field, "a divisor of " + std::string(what) + " = " + std::to_string(whole), value);
    }
  };

  const EncoderConfig& e = config.encoder;
  const std::string vision = "vision_config.";
  size(vision + "num_hidden_layers", e.layers);
  size(vision + "hidden_size", e.width);
  size(vision + "num_attention_heads", e.heads);
  size(vision + "intermediate_size", e.ffn);
  size(vision + "image_size", e.image_size, 1 << 14);
  size(vision + "patch_size", e.patch_size, e.image_size);
  epsilon(vision + "layer_norm_eps", e.norm_epsilon);
  divides(vision + "num_attention_heads", e.heads, e.width, "hidden_size");
  divides(vision + "patch_size", e.patch_size, e.image_size, "image_size");
  size("vision_feature_layer, as the number of layers to run,", e.layers_run, e.layers);

  const DecoderConfig& d = config.decoder;
  const std::string text = "text_config.";
  size(text + "num_hidden_layers", d.layers);
  size(text + "hidden_size", d.width);
  size(text + "num_attention_heads", d.heads);
  size(text + "num_key_value_heads", d.key_value_heads);
  size(text + "head_dim", d.head_dim);
  size(text + "num_attention_heads * head_dim", d.heads * d.head_dim);
  size(text + "intermediate_size", d.ffn);
  size(text + "vocab_size", d.vocabulary, 1 << 24);
  epsilon(text + "rms_norm_eps", d.norm_epsilon);
  divides(text + "num_key_value_heads", d.key_value_heads, d.heads, "num_attention_heads");
  if (d.head_dim % 2 != 0) refuse(text + "head_dim", "an even number", d.head_dim);
  if (!(d.rope_theta >= 1 && std::isfinite(d.rope_theta))) {
    refuse(text + "rope_theta", "a number of at least 1", d.rope_theta);
  }

  // The image token only marks a place and is never looked up: it may lie outside the vocabulary.
  if (config.image_token < 0) refuse("image_token_index", "a token id", config.image_token);
  const auto token = [&](const std::string& field, std::int64_t value) {
    if (value < 0 || value >= d.vocabulary) {
      refuse(field, "a token below vocab_size = " + std::to_string(d.vocabulary), value);
    }
  };
  token(text + "bos_token_id", config.begin_token);
  token(text + "eos_token_id", config.end_token);
}

namespace detail {

/// The fields of a JSON object, each with the value that it has if it is left out.
class Fields {
 public:
  Fields(const nlohmann::json& object, std::string prefix)
      : object_(object), prefix_(std::move(prefix)) {
    if (!object.is_object()) {
      throw std::runtime_error((prefix_.empty() ? "the file" : prefix_) + " is not a JSON object");
    }
    if (!prefix_.empty()) prefix_ += '.';
  }

  /// Python's None, which transformers writes for "whatever follows from the rest", is no value.
  bool has(const char* name) const { return object_.contains(name) && !object_[name].is_null(); }

  Fields object(const char* name) const { return {object_[name], prefix_ + name}; }

  std::int64_t integer(const char* name, std::int64_t otherwise) const {
    if (!object_.contains(name)) return otherwise;
    const nlohmann::json& value = object_[name];
    constexpr auto most = std::uint64_t{std::numeric_limits<std::int64_t>::max()};
    if (!value.is_number_integer() ||
        (value.is_number_unsigned() && value.get<std::uint64_t>() > most)) {
      refuse(name, "an integer");
    }
    return value.get<std::int64_t>();
  }
  std::int64_t optional_integer(const char* name, std::int64_t otherwise) const {
    return has(name) ? integer(name, otherwise) : otherwise;
  }

  double number(const char* name, double otherwise) const {
    if (!object_.contains(name)) return otherwise;
    if (!object_[name].is_number()) refuse(name, "a number");
    return object_[name].get<double>();
  }

  bool flag(const char* name, bool otherwise) const {
    if (!object_.contains(name)) return otherwise;
    if (!object_[name].is_boolean()) refuse(name, "true or false");
    return object_[name].get<bool>();
  }

  /// Only one value will do; leaving it out means `otherwise`.
  void only(const char* name, const nlohmann::json& wanted, const nlohmann::json& otherwise) const {
    const nlohmann::json& value = object_.contains(name) ? object_[name] : otherwise;
    if (value != wanted) {
      throw std::runtime_error(prefix_ + name + ": expected " + wanted.dump() +
                               ", nothing else is implemented, got " + shown(value));
    }
  }
  void only(const char* name, const nlohmann::json& wanted) const { only(name, wanted, wanted); }

 private:
  [[noreturn]] void refuse(const char* name, const std::string& expected) const {
    throw std::runtime_error(prefix_ + name + ": expected " + expected + ", got " +
                             shown(object_[name]));
  }

  static std::string shown(const nlohmann::json& value) {
    return value.is_string()       ? safetensors::printable(value.get_ref<const std::string&>())
           : value.is_structured() ? std::string(value.type_name())
                                   : value.dump();
  }

  const nlohmann::json& object_;
  std::string prefix_;
};

/// Without `vision_config` a file means CLIP ViT-L/14-336 (EncoderConfig's values); fields that are
/// left out of one are CLIPVisionConfig's.
inline EncoderConfig read_encoder(const Fields& file) {
  EncoderConfig encoder;
  if (file.has("vision_config")) {
    const Fields vision = file.object("vision_config");
    vision.only("model_type", "clip_vision_model");
    vision.only("hidden_act", "quick_gelu");
    vision.only("num_channels", 3);
    encoder.layers = vision.integer("num_hidden_layers", 12);
    encoder.width = vision.integer("hidden_size", 768);
    encoder.heads = vision.integer("num_attention_heads", 12);
    encoder.ffn = vision.integer("intermediate_size", 3072);
    encoder.image_size = vision.integer("image_size", 224);
    encoder.patch_size = vision.integer("patch_size", 32);
    encoder.norm_epsilon = static_cast<float>(vision.number("layer_norm_eps", 1e-5));
  }
  // As Python indexes the hidden states, of which the first one enters layer 0.
  const std::int64_t feature = file.integer("vision_feature_layer", -2);
  const Index layers = encoder.layers;
  if (layers < 1) return encoder;  // for `check` to refuse
  if (feature == 0 || feature < -layers || feature > layers) {
    throw std::runtime_error("vision_feature_layer: expected 1 to " + std::to_string(layers) +
                             " or -1 to -" + std::to_string(layers) + ", got " +
                             std::to_string(feature));
  }
  encoder.layers_run = feature < 0 ? layers + (1 + feature) : feature;
  return encoder;
}

/// The base of plain rotary positions; stretched ones are refused.
inline double read_rope_theta(const Fields& text) {
  double theta = text.number("rope_theta", 10000);
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    if (!text.has(name)) continue;
    const Fields rope = text.object(name);
    rope.only("type", "default");
    rope.only("rope_type", "default");
    if (rope.has("partial_rotary_factor")) rope.only("partial_rotary_factor", 1.0);
    theta = rope.number("rope_theta", theta);
  }
  return theta;
}

/// The fields are LlamaConfig's.
inline DecoderConfig read_decoder(const Fields& text) {
  text.only("model_type", "llama");
  text.only("hidden_act", "silu");
  text.only("attention_bias", false);
  text.only("mlp_bias", false);
  DecoderConfig decoder;
  decoder.layers = text.integer("num_hidden_layers", 32);
  decoder.width = text.integer("hidden_size", 4096);
  decoder.heads = text.integer("num_attention_heads", 32);
  decoder.key_value_heads = text.optional_integer("num_key_value_heads", decoder.heads);
  if (text.has("head_dim")) {
    decoder.head_dim = text.integer("head_dim", 0);
  } else {
    if (decoder.heads < 1 || decoder.width % decoder.heads != 0) {
      throw std::runtime_error(
          "text_config.num_attention_heads: expected a divisor of hidden_size "
          "= " +
          std::to_string(decoder.width) + ", got " + std::to_string(decoder.heads));
    }
    decoder.head_dim = decoder.width / decoder.heads;
  }
  decoder.ffn = text.integer("intermediate_size", 11008);
  decoder.vocabulary = text.integer("vocab_size", 32000);
  decoder.norm_epsilon = static_cast<float>(text.number("rms_norm_eps", 1e-6));
  decoder.rope_theta = read_rope_theta(text);
  decoder.tied_embeddings = text.flag("tie_word_embeddings", false);
  return decoder;
}

inline Config parse_config(std::string_view json) {
  const nlohmann::json root = safetensors::parse_json(json, "the file");
  const Fields file(root, "");
  file.only("model_type", "llava", nullptr);
  file.only("vision_feature_select_strategy", "default");
  file.only("projector_hidden_act", "gelu");
  file.only("multimodal_projector_bias", true);

  const nlohmann::json defaults = nlohmann::json::object();
  const Fields text =
      file.has("text_config") ? file.object("text_config") : Fields(defaults, "text_config");
  Config config;
  config.encoder = read_encoder(file);
  config.decoder = read_decoder(text);
  config.decoder.tied_embeddings |= file.flag("tie_word_embeddings", false);
  config.image_token =
      file.integer(file.has("image_token_id") ? "image_token_id" : "image_token_index", 32000);
  config.begin_token = text.optional_integer("bos_token_id", 1);
  config.end_token = text.optional_integer("eos_token_id", 2);
  check(config);
  return config;
}

}  // namespace detail

/// Every message has the path, and the field by its name in the file.
inline Config read_config(const std::filesystem::path& config_json) {
  const MappedFile file(config_json);
  try {
    return detail::parse_config(file.text());
  } catch (const std::runtime_error& error) {
    detail::fail(config_json, error.what());
  }
}

}  // namespace llava
