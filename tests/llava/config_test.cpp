// SPDX-License-Identifier: Apache-2.0

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "config_file.hpp"
#include "llava/weights_files.hpp"
#include "support/random.hpp"

namespace {

using llava::Config;
using llava::Index;
using llava::files::Folder;
using llava::files::message_of;
using nlohmann::json;
using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

/// What llava-hf/llava-1.5-7b-hf says of itself, as far as it matters.
const char* const kLlava7b = R"({
  "architectures": ["LlavaForConditionalGeneration"],
  "ignore_index": -100,
  "image_token_index": 32000,
  "model_type": "llava",
  "pad_token_id": 32001,
  "projector_hidden_act": "gelu",
  "text_config": {
    "_name_or_path": "lmsys/vicuna-7b-v1.5",
    "architectures": ["LlamaForCausalLM"],
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "rms_norm_eps": 1e-05,
    "torch_dtype": "float16",
    "vocab_size": 32064
  },
  "tie_word_embeddings": false,
  "torch_dtype": "float16",
  "vision_config": {
    "hidden_size": 1024,
    "image_size": 336,
    "intermediate_size": 4096,
    "model_type": "clip_vision_model",
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "projection_dim": 768,
    "vocab_size": 32000
  },
  "vision_feature_layer": -2,
  "vision_feature_select_strategy": "default",
  "vocab_size": 32064
})";

Config parse(const json& file) { return llava::detail::parse_config(file.dump()); }

/// `path` is a JSON pointer; what is there becomes `value`.
json with(const std::string& path, const json& value) {
  json file = json::parse(kLlava7b);
  file[json::json_pointer(path)] = value;
  return file;
}
json without(const std::string& object, const std::string& field) {
  json file = json::parse(kLlava7b);
  (object.empty() ? file : file[object]).erase(field);
  return file;
}

std::string refusal(const std::string& path, const json& value) {
  return message_of([&] { parse(with(path, value)); });
}

TEST(LlavaConfig, OfLlava7b) {
  const Folder folder;
  const Config config = llava::read_config(folder.write("config.json", kLlava7b));
  EXPECT_EQ(config.encoder.layers, 24);
  EXPECT_EQ(config.encoder.layers_run, 23);
  EXPECT_EQ(config.encoder.width, 1024);
  EXPECT_EQ(config.encoder.heads, 16);
  EXPECT_EQ(config.encoder.ffn, 4096);
  EXPECT_EQ(config.encoder.patches(), 576);
  EXPECT_EQ(config.encoder.norm_epsilon, 1e-5F);
  EXPECT_EQ(config.decoder.layers, 32);
  EXPECT_EQ(config.decoder.width, 4096);
  EXPECT_EQ(config.decoder.heads, 32);
  EXPECT_EQ(config.decoder.key_value_heads, 32);
  EXPECT_EQ(config.decoder.head_dim, 128);
  EXPECT_EQ(config.decoder.ffn, 11008);
  EXPECT_EQ(config.decoder.vocabulary, 32064);
  EXPECT_EQ(config.decoder.norm_epsilon, 1e-5F);
  EXPECT_EQ(config.decoder.rope_theta, 10000.0);
  EXPECT_FALSE(config.decoder.tied_embeddings);
  EXPECT_EQ(config.image_token, 32000);
  EXPECT_EQ(config.begin_token, 1);
  EXPECT_EQ(config.end_token, 2);
}

/// Config{} is that model too, so that random weights need no file.
TEST(LlavaConfig, DefaultsAreLlava7b) {
  EXPECT_NO_THROW(llava::check(Config{}));
  const Config file = parse(json::parse(kLlava7b));
  const Config config;
  EXPECT_EQ(config.encoder.layers_run, file.encoder.layers_run);
  EXPECT_EQ(config.encoder.ffn, file.encoder.ffn);
  EXPECT_EQ(config.decoder.ffn, file.decoder.ffn);
  EXPECT_EQ(config.decoder.vocabulary, file.decoder.vocabulary);
  EXPECT_EQ(config.decoder.norm_epsilon, file.decoder.norm_epsilon);
}

TEST(LlavaConfig, WhatIsLeftOutIsAsInTransformers) {
  const Config bare = parse({{"model_type", "llava"}});
  EXPECT_EQ(bare.encoder.width, 1024);  // LlavaConfig's own vision model
  EXPECT_EQ(bare.encoder.layers_run, 23);
  EXPECT_EQ(bare.decoder.width, 4096);
  EXPECT_EQ(bare.decoder.vocabulary, 32000);
  EXPECT_EQ(bare.decoder.norm_epsilon, 1e-6F);
  EXPECT_EQ(bare.decoder.head_dim, 128);
  EXPECT_EQ(bare.image_token, 32000);

  const Config empty =
      parse({{"model_type", "llava"}, {"vision_config", json::object()}, {"text_config", nullptr}});
  EXPECT_EQ(empty.encoder.layers, 12);  // CLIPVisionConfig's
  EXPECT_EQ(empty.encoder.layers_run, 11);
  EXPECT_EQ(empty.encoder.width, 768);
  EXPECT_EQ(empty.encoder.heads, 12);
  EXPECT_EQ(empty.encoder.ffn, 3072);
  EXPECT_EQ(empty.encoder.image_size, 224);
  EXPECT_EQ(empty.encoder.patch_size, 32);
  EXPECT_EQ(empty.decoder.layers, 32);
}

TEST(LlavaConfig, EveryFieldIsRead) {
  EXPECT_EQ(parse(with("/vision_config/num_hidden_layers", 7)).encoder.layers, 7);
  EXPECT_EQ(parse(with("/vision_config/num_attention_heads", 8)).encoder.heads, 8);
  EXPECT_EQ(parse(with("/vision_config/hidden_size", 64)).encoder.width, 64);
  EXPECT_EQ(parse(with("/vision_config/intermediate_size", 9)).encoder.ffn, 9);
  EXPECT_EQ(parse(with("/vision_config/image_size", 28)).encoder.grid(), 2);
  EXPECT_EQ(parse(with("/vision_config/patch_size", 16)).encoder.grid(), 21);
  EXPECT_EQ(parse(with("/vision_config/layer_norm_eps", 0.5)).encoder.norm_epsilon, 0.5F);
  EXPECT_EQ(parse(with("/text_config/num_hidden_layers", 3)).decoder.layers, 3);
  EXPECT_EQ(parse(with("/text_config/hidden_size", 64)).decoder.head_dim, 2);
  EXPECT_EQ(parse(with("/text_config/num_attention_heads", 64)).decoder.head_dim, 64);
  EXPECT_EQ(parse(with("/text_config/num_key_value_heads", 8)).decoder.key_value_heads, 8);
  EXPECT_EQ(parse(with("/text_config/num_key_value_heads", nullptr)).decoder.key_value_heads, 32);
  EXPECT_EQ(parse(with("/text_config/head_dim", 6)).decoder.head_dim, 6);
  EXPECT_EQ(parse(with("/text_config/head_dim", nullptr)).decoder.head_dim, 128);
  EXPECT_EQ(parse(with("/text_config/intermediate_size", 5)).decoder.ffn, 5);
  EXPECT_EQ(parse(with("/text_config/vocab_size", 3)).decoder.vocabulary, 3);
  EXPECT_EQ(parse(with("/text_config/rms_norm_eps", 0.25)).decoder.norm_epsilon, 0.25F);
  EXPECT_EQ(parse(with("/text_config/rope_theta", 500000)).decoder.rope_theta, 500000.0);
  EXPECT_EQ(parse(with("/text_config/bos_token_id", 5)).begin_token, 5);
  EXPECT_EQ(parse(with("/text_config/eos_token_id", 6)).end_token, 6);
  EXPECT_EQ(parse(with("/text_config/eos_token_id", nullptr)).end_token, 2);
  EXPECT_TRUE(parse(with("/text_config/tie_word_embeddings", true)).decoder.tied_embeddings);
  EXPECT_TRUE(parse(with("/tie_word_embeddings", true)).decoder.tied_embeddings);
  EXPECT_EQ(parse(with("/image_token_index", 64000)).image_token, 64000);  // only marks a place
  EXPECT_EQ(parse(with("/image_token_id", 9)).image_token, 9);
}

TEST(LlavaConfig, RotaryPositionsInBothSpellings) {
  const auto theta = [](const char* field, const json& value) {
    return parse(with("/text_config/" + std::string(field), value)).decoder.rope_theta;
  };
  EXPECT_EQ(theta("rope_parameters", {{"rope_type", "default"}, {"rope_theta", 5e5}}), 5e5);
  EXPECT_EQ(theta("rope_parameters", nullptr), 1e4);
  EXPECT_EQ(theta("rope_scaling", nullptr), 1e4);
  EXPECT_EQ(theta("rope_scaling", {{"type", "default"}}), 1e4);
  EXPECT_EQ(theta("rope_scaling", {{"rope_type", "default"}, {"partial_rotary_factor", 1}}), 1e4);
  EXPECT_EQ(refusal("/text_config/rope_scaling", {{"type", "linear"}, {"factor", 2.0}}),
            "text_config.rope_scaling.type: expected \"default\", nothing else is implemented, got "
            "\"linear\"");
  EXPECT_THAT(refusal("/text_config/rope_parameters", {{"rope_type", "llama3"}}),
              StartsWith("text_config.rope_parameters.rope_type: expected \"default\""));
  EXPECT_THAT(refusal("/text_config/rope_parameters", {{"partial_rotary_factor", 0.5}}),
              StartsWith("text_config.rope_parameters.partial_rotary_factor: expected 1.0"));
  EXPECT_EQ(refusal("/text_config/rope_scaling", "linear"),
            "text_config.rope_scaling is not a JSON object");
}

TEST(LlavaConfig, FeatureLayers) {
  const auto run = [](int layer) {
    return parse(with("/vision_feature_layer", layer)).encoder.layers_run;
  };
  EXPECT_EQ(run(-1), 24);
  EXPECT_EQ(run(-24), 1);
  EXPECT_EQ(run(24), 24);
  EXPECT_EQ(run(1), 1);
  EXPECT_EQ(parse(without("", "vision_feature_layer")).encoder.layers_run, 23);
  for (const int layer : {0, 25, -25, 1000000}) {
    EXPECT_EQ(refusal("/vision_feature_layer", layer),
              "vision_feature_layer: expected 1 to 24 or -1 to -24, got " + std::to_string(layer));
  }
  EXPECT_THAT(refusal("/vision_feature_layer", std::numeric_limits<std::int64_t>::min()),
              StartsWith("vision_feature_layer: "));
  EXPECT_EQ(refusal("/vision_feature_layer", {-2, -5}),
            "vision_feature_layer: expected an integer, got array");
}

TEST(LlavaConfig, OtherModelsAreRefused) {
  const std::vector<std::pair<std::string, json>> wrong{
      {"/model_type", "llava_next"},
      {"/model_type", 1},
      {"/vision_feature_select_strategy", "full"},
      {"/projector_hidden_act", "relu"},
      {"/multimodal_projector_bias", false},
      {"/vision_config/model_type", "siglip_vision_model"},
      {"/vision_config/hidden_act", "gelu"},
      {"/vision_config/num_channels", 1},
      {"/text_config/model_type", "qwen2"},
      {"/text_config/hidden_act", "gelu"},
      {"/text_config/attention_bias", true},
      {"/text_config/mlp_bias", true}};
  for (const auto& [path, value] : wrong) {
    std::string field = path.substr(1);
    if (const auto slash = field.find('/'); slash != field.npos) field[slash] = '.';
    EXPECT_THAT(refusal(path, value), StartsWith(field + ": expected ")) << value;
    EXPECT_THAT(refusal(path, value), EndsWith("got " + value.dump()));
  }
  EXPECT_EQ(message_of([] { parse(without("", "model_type")); }),
            "model_type: expected \"llava\", nothing else is implemented, got null");
}

TEST(LlavaConfig, HostileSizesAreNamed) {
  const std::vector<std::string> sizes{"/vision_config/num_hidden_layers",
                                       "/vision_config/hidden_size",
                                       "/vision_config/num_attention_heads",
                                       "/vision_config/intermediate_size",
                                       "/vision_config/image_size",
                                       "/vision_config/patch_size",
                                       "/text_config/num_hidden_layers",
                                       "/text_config/hidden_size",
                                       "/text_config/num_attention_heads",
                                       "/text_config/num_key_value_heads",
                                       "/text_config/head_dim",
                                       "/text_config/intermediate_size",
                                       "/text_config/vocab_size"};
  const std::vector<json> values{0,
                                 -1,
                                 std::numeric_limits<std::int64_t>::min(),
                                 std::numeric_limits<std::int64_t>::max(),
                                 std::numeric_limits<std::uint64_t>::max(),
                                 1 << 25,
                                 16.0,
                                 1e300,
                                 "16",
                                 true,
                                 json::array({16}),
                                 json::object()};
  for (const std::string& path : sizes) {
    const std::string field = path.substr(path.rfind('/') + 1);
    for (const json& value : values) {
      EXPECT_THAT(refusal(path, value), HasSubstr(field)) << value;
      EXPECT_THAT(refusal(path, value), HasSubstr(": expected ")) << value;
    }
  }
  EXPECT_EQ(refusal("/text_config/hidden_size", nullptr),
            "text_config.hidden_size: expected an integer, got null");
  EXPECT_EQ(refusal("/vision_config/hidden_size", -3),
            "vision_config.hidden_size: expected 1 to 1048576, got -3");
  EXPECT_THAT(refusal("/text_config/head_dim", 1 << 16),
              StartsWith("text_config.num_attention_heads * head_dim: expected 1 to"));
}

TEST(LlavaConfig, SizesMustFitEachOther) {
  EXPECT_EQ(refusal("/vision_config/num_attention_heads", 15),
            "vision_config.num_attention_heads: expected a divisor of hidden_size = 1024, got 15");
  EXPECT_EQ(refusal("/vision_config/patch_size", 15),
            "vision_config.patch_size: expected a divisor of image_size = 336, got 15");
  EXPECT_EQ(refusal("/vision_config/patch_size", 337),
            "vision_config.patch_size: expected 1 to 336, got 337");
  EXPECT_EQ(refusal("/text_config/num_attention_heads", 31),
            "text_config.num_attention_heads: expected a divisor of hidden_size = 4096, got 31");
  EXPECT_EQ(refusal("/text_config/num_key_value_heads", 5),
            "text_config.num_key_value_heads: expected a divisor of num_attention_heads = 32, got "
            "5");
  EXPECT_EQ(refusal("/text_config/head_dim", 63),
            "text_config.head_dim: expected an even number, got 63");
  EXPECT_EQ(refusal("/text_config/bos_token_id", 32064),
            "text_config.bos_token_id: expected a token below vocab_size = 32064, got 32064");
  EXPECT_THAT(refusal("/text_config/eos_token_id", -1), StartsWith("text_config.eos_token_id: "));
  EXPECT_EQ(refusal("/text_config/eos_token_id", {1, 2}),
            "text_config.eos_token_id: expected an integer, got array");
  EXPECT_THAT(refusal("/image_token_index", -1), StartsWith("image_token_index: expected"));
}

TEST(LlavaConfig, NumbersMustBeUsable) {
  for (const json& value : {json(0), json(-1e-5), json(1.5), json(1e300), json("1e-5"), json(1e-60),
                            json(nullptr), json(true)}) {
    EXPECT_THAT(refusal("/text_config/rms_norm_eps", value),
                StartsWith("text_config.rms_norm_eps: expected a number"))
        << value;
    EXPECT_THAT(refusal("/vision_config/layer_norm_eps", value),
                StartsWith("vision_config.layer_norm_eps: expected a number"))
        << value;
  }
  for (const json& value : {json(0), json(-1e4), json(0.5), json("1e4"), json(nullptr)}) {
    EXPECT_THAT(refusal("/text_config/rope_theta", value),
                StartsWith("text_config.rope_theta: expected a number"))
        << value;
  }
  EXPECT_EQ(refusal("/text_config/tie_word_embeddings", 1),
            "text_config.tie_word_embeddings: expected true or false, got 1");
}

TEST(LlavaConfig, FilesThatAreNone) {
  const Folder folder;
  const auto error = [&](const std::string& text) {
    const auto path = folder.write("config.json", text);
    const std::string message = message_of([&] { llava::read_config(path); });
    EXPECT_THAT(message, StartsWith(path.string() + ": "));
    return message;
  };
  EXPECT_THAT(error(""), EndsWith("the file is empty"));
  EXPECT_THAT(error("{"), HasSubstr("the file is not valid JSON"));
  EXPECT_THAT(error("[]"), EndsWith("the file is not a JSON object"));
  EXPECT_THAT(error(std::string(100000, '[')), EndsWith("the file is nested too deeply"));
  EXPECT_THAT(error(R"({"model_type":"llava","model_type":"x"})"), HasSubstr("duplicated key"));
  EXPECT_THAT(error(R"({"model_type":"llava","text_config":[]})"),
              EndsWith("text_config is not a JSON object"));
  const auto absent = folder.path() / "absent.json";
  EXPECT_THAT(message_of([&] { llava::read_config(absent); }),
              StartsWith(absent.string() + ": cannot open the file"));
}

TEST(LlavaConfig, StringsFromTheFileAreSafeToPrint) {
  const std::string message = refusal("/model_type", "\x1b[31m" + std::string(100000, 'x'));
  EXPECT_THAT(message, HasSubstr("\\u001b[31m"));
  EXPECT_LT(message.size(), 300U);
}

/// Whatever a file says, it is refused or becomes a configuration that passes `check`.
TEST(LlavaConfigFuzz, Mutations) {
  const std::string good = json::parse(kLlava7b).dump();
  const std::vector<std::string> words{"0",
                                       "-1",
                                       "2",
                                       "1e9",
                                       "9223372036854775807",
                                       "-9223372036854775808",
                                       "1e999",
                                       "null",
                                       "true",
                                       "\"\"",
                                       "[]",
                                       "{}",
                                       "0.5",
                                       "\"head_dim\":",
                                       ",",
                                       "}"};
  support::Random random(20250607);
  const auto below = [&](std::size_t n) {
    return static_cast<std::size_t>(random.below(static_cast<Index>(n)));
  };
  int accepted = 0;
  int refused = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string text = good;
    for (std::size_t edit = 0; edit < 1 + below(2); ++edit) {
      const std::size_t at = below(text.size());
      switch (below(4)) {
        case 0:
          text[at] = static_cast<char>(below(256));
          break;
        case 1:
          text[at] = static_cast<char>('0' + below(10));
          break;
        default: {  // a value of some field becomes another
          const std::size_t colon = text.find(':', at);
          if (colon == text.npos) break;
          const std::size_t end = text.find_first_of(",}", colon);
          if (end == text.npos) break;
          text.replace(colon + 1, end - colon - 1, words[below(words.size())]);
        }
      }
    }
    try {
      const Config config = llava::detail::parse_config(text);
      llava::check(config);
      ASSERT_GE(config.encoder.layers_run, 1);
      ASSERT_LE(config.encoder.layers_run, config.encoder.layers);
      ++accepted;
    } catch (const std::runtime_error& error) {
      ASSERT_STRNE(error.what(), "");
      ++refused;
    }
  }
  EXPECT_GT(accepted, 1000);
  EXPECT_GT(refused, 1000);
}

}  // namespace
