// SPDX-License-Identifier: Apache-2.0
// The engine against transformers, on the tiny checkpoint of this folder (README.md), in each form
// that a checkpoint has on disk.

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../../examples/common/safetensors.hpp"
#include "../../examples/llava/config_file.hpp"
#include "../../examples/llava/model.hpp"

namespace {

using llava::Index;
using llava::Matrix;

std::filesystem::path tiny() {
  return std::filesystem::path(TOKENFOLD_SOURCE_DIR) / "tests" / "llava" / "tiny";
}

// ---------------------------------------------------------------------------- what is expected

const safetensors::File& expected() {
  static const safetensors::File file = safetensors::load(tiny() / "expected.safetensors");
  return file;
}

/// The first dimension in rows, the others in columns.
Matrix expected_rows(const std::string& name) {
  const safetensors::Tensor& tensor = expected().at(name);
  const std::vector<float> values = tensor.floats();
  const auto rows = static_cast<Index>(tensor.shape.at(0));
  return Eigen::Map<const Matrix>(values.data(), rows, tensor.size() / rows);
}

/// [heads][tokens][dim] as rows of tokens, heads side by side.
Matrix expected_heads(const std::string& name) {
  const auto& shape = expected().at(name).shape;
  const Matrix heads = expected_rows(name);
  Matrix rows(shape.at(1), shape.at(0) * shape.at(2));
  for (Index h = 0; h < heads.rows(); ++h) {
    rows.middleCols(h * shape.at(2), shape.at(2)) =
        Eigen::Map<const Matrix>(heads.row(h).data(), shape.at(1), shape.at(2));
  }
  return rows;
}

Matrix side_by_side(const llava::HeadsView& heads) {
  Matrix rows(heads.tokens(), heads.heads() * heads.dim());
  for (Index h = 0; h < heads.heads(); ++h) {
    rows.middleCols(h * heads.dim(), heads.dim()) = heads.head(h).map();
  }
  return rows;
}

/// To 1e-4, of 1 or of what is expected. transformers in float32 needs a tenth of that.
testing::AssertionResult near(const Matrix& actual, const Matrix& wanted) {
  if (actual.rows() != wanted.rows() || actual.cols() != wanted.cols()) {
    return testing::AssertionFailure()
           << "[" << actual.rows() << " x " << actual.cols() << "] instead of [" << wanted.rows()
           << " x " << wanted.cols() << "]";
  }
  for (Index i = 0; i < wanted.size(); ++i) {
    const float is = actual.data()[i];
    const float should = wanted.data()[i];
    if (!(std::abs(is - should) <= 1e-4F * std::max(1.0F, std::abs(should)))) {
      return testing::AssertionFailure() << is << " instead of " << should << " in row "
                                         << i / wanted.cols() << ", column " << i % wanted.cols();
    }
  }
  return testing::AssertionSuccess();
}

std::string numbered(const std::string& name, Index number) {
  return name + "_" + std::to_string(number);
}

// ---------------------------------------------------------------------------- forms on disk

using Prefixes = std::vector<std::pair<std::string_view, std::string_view>>;

/// How the tensors are named and shared out over files.
struct Form {
  std::string name;
  Prefixes renamed = {};
  int shards = 1;
  /// A tensor of one byte in front, so that no other one is aligned.
  bool unaligned = false;
  Index threads = 1;
};

void PrintTo(const Form& form, std::ostream* out) { *out << form.name; }

std::string renamed(const std::string& name, const Prefixes& prefixes) {
  for (const auto& [from, to] : prefixes) {
    if (name.starts_with(from)) return std::string(to) + name.substr(from.size());
  }
  return name;
}

void save_as(const Form& form, const std::filesystem::path& folder) {
  std::vector<safetensors::File> files(static_cast<std::size_t>(form.shards));
  if (form.unaligned) {
    files[0].tensors["a"] = {.dtype = safetensors::Dtype::u8, .shape = {1}, .bytes = {{}}};
  }
  std::size_t next = 0;
  for (const int shard : {1, 2}) {
    const std::string file = "model-0000" + std::to_string(shard) + "-of-00002.safetensors";
    for (const auto& [name, tensor] : safetensors::load(tiny() / file).tensors) {
      files[next++ % files.size()].tensors[renamed(name, form.renamed)] = tensor;
    }
  }
  if (form.shards == 1) {
    safetensors::save(folder / "model.safetensors", files[0]);
    return;
  }
  nlohmann::json index;
  for (std::size_t i = 0; i < files.size(); ++i) {
    const std::string file = "part" + std::to_string(i) + ".safetensors";
    safetensors::save(folder / file, files[i]);
    for (const auto& [name, tensor] : files[i].tensors) index["weight_map"][name] = file;
  }
  std::ofstream(folder / "model.safetensors.index.json") << index;
}

class LlavaGolden : public testing::TestWithParam<Form> {
 protected:
  void SetUp() override {
    if (GetParam().name != "as_stored") {
      const auto* test = testing::UnitTest::GetInstance()->current_test_info();
      std::string name = test->name();
      std::replace(name.begin(), name.end(), '/', '_');
      written_ = std::filesystem::temp_directory_path() /
                 ("tokenfold_llava_" + std::to_string(::getpid()) + "_" + name);
      std::filesystem::create_directories(written_);
      save_as(GetParam(), written_);
    }
    weights_.emplace(llava::Weights::open(written_.empty() ? tiny() : written_));
  }
  void TearDown() override {
    weights_.reset();
    if (!written_.empty()) std::filesystem::remove_all(written_);
  }

  llava::Threads threads() const { return {GetParam().threads}; }
  llava::Encoder encoder(Index layers_run) {
    llava::EncoderConfig layers = config_.encoder;
    layers.layers_run = layers_run;
    return {layers, *weights_, threads()};
  }
  llava::Decoder decoder() { return {config_.decoder, *weights_, threads()}; }
  llava::Projector projector() { return {config_, *weights_, threads()}; }

  const llava::Config config_ = llava::read_config(tiny() / "config.json");
  const Matrix pixels_ = expected_rows("pixel_values");
  std::optional<llava::Weights> weights_;

 private:
  std::filesystem::path written_;
};

// ---------------------------------------------------------------------------- tests

TEST_P(LlavaGolden, encoder_gives_hidden_states) {
  for (Index layers = 0; layers <= config_.encoder.layers; ++layers) {
    const Matrix hidden = encoder(layers).run(pixels_).hidden;
    EXPECT_TRUE(near(hidden, expected_rows(numbered("vision_hidden", layers)))) << layers;
  }
}

TEST_P(LlavaGolden, encoder_gives_queries_and_keys) {
  const Index layer = 2;
  const Matrix queries = expected_rows(numbered("vision_queries", layer));
  const Matrix keys = expected_rows(numbered("vision_keys", layer));
  int calls = 0;
  const auto output = encoder(layer + 1).run(pixels_, [&](llava::LayerStep& step) {
    if (step.layer != layer) return;
    ++calls;
    EXPECT_TRUE(near(side_by_side(step.queries), queries));
    EXPECT_TRUE(near(side_by_side(step.keys), keys));
  });
  EXPECT_EQ(calls, 1);
  EXPECT_TRUE(near(output.last.queries, queries));
  EXPECT_TRUE(near(output.last.keys, keys));

  const auto again = encoder(layer).project(layer, expected_rows(numbered("vision_hidden", layer)));
  EXPECT_TRUE(near(again.queries, queries));
  EXPECT_TRUE(near(again.keys, keys));
}

TEST_P(LlavaGolden, picture_and_prompt_become_the_decoders_input) {
  const Matrix hidden = encoder(config_.encoder.layers_run).run(pixels_).hidden;
  const Matrix image = projector().run(hidden.bottomRows(config_.encoder.patches()));
  EXPECT_TRUE(near(image, expected_rows("image_features")));

  const std::vector<std::int64_t> ids = expected().at("prompt_ids").int64s();
  const auto place = std::find(ids.begin(), ids.end(), config_.image_token);
  ASSERT_NE(place, ids.end());
  llava::Prompt prompt;
  prompt.before.assign(ids.begin(), place);
  prompt.after.assign(place + 1, ids.end());
  EXPECT_TRUE(near(llava::splice(decoder(), prompt, image), expected_rows("inputs_embeds")));
}

TEST_P(LlavaGolden, decoder_gives_hidden_states_and_logits) {
  const Index layer = 1;
  const Matrix queries = expected_heads(numbered("text_queries", layer));
  const Matrix keys = expected_heads(numbered("text_keys", layer));
  const auto check_queries_and_keys = [&](llava::LayerStep& step) {
    if (step.layer != layer) return;
    EXPECT_TRUE(near(side_by_side(step.queries), queries));
    EXPECT_TRUE(near(side_by_side(step.keys), keys));
  };
  int calls = 0;
  llava::DecoderHooks hooks;
  hooks.before_attention = check_queries_and_keys;
  hooks.after_attention = check_queries_and_keys;
  hooks.after_layer = [&](llava::LayerStep& step) {
    ++calls;
    EXPECT_TRUE(near(step.hidden(), expected_rows(numbered("text_hidden", step.layer + 1))))
        << step.layer;
  };
  const llava::Decoder text = decoder();
  llava::Cache cache = text.empty_cache();
  const Matrix hidden = text.prefill(expected_rows("inputs_embeds"), cache, hooks);
  EXPECT_EQ(calls, config_.decoder.layers);
  EXPECT_TRUE(near(text.normalised(hidden), expected_rows("text_normed")));
  EXPECT_TRUE(near(text.all_logits(hidden), expected_rows("logits")));
  const Matrix last = text.logits(hidden).transpose();
  EXPECT_TRUE(near(last, expected_rows("logits").bottomRows(1)));
}

TEST_P(LlavaGolden, decoder_generates) {
  const std::vector<std::int64_t> ids = expected().at("generated_ids").int64s();
  const Matrix logits = expected_rows("generated_logits");
  const llava::Decoder text = decoder();
  llava::Cache cache = text.empty_cache();
  Matrix hidden = text.prefill(expected_rows("inputs_embeds"), cache);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const Matrix scores = text.logits(hidden).transpose();
    EXPECT_TRUE(near(scores, logits.row(static_cast<Index>(i)))) << i;
    Index token = 0;
    scores.row(0).maxCoeff(&token);
    ASSERT_EQ(token, ids[i]) << i;
    hidden = text.decode(text.embed(std::vector<std::int64_t>{token}), cache);
  }
}

TEST_P(LlavaGolden, decoder_takes_the_prompt_in_parts) {
  const Matrix input = expected_rows("inputs_embeds");
  const Matrix logits = expected_rows("logits");
  const llava::Decoder text = decoder();
  llava::Cache cache = text.empty_cache();
  EXPECT_TRUE(near(text.all_logits(text.prefill(input.topRows(5), cache)), logits.topRows(5)));
  for (Index begin = 5, rows = 1; begin < input.rows(); begin += rows, ++rows) {
    rows = std::min(rows, input.rows() - begin);
    const Matrix hidden = text.decode(input.middleRows(begin, rows), cache);
    EXPECT_TRUE(near(text.all_logits(hidden), logits.middleRows(begin, rows))) << begin;
  }
}

/// As the modules are named from transformers 4.52 on.
const Prefixes kPrefixed{{"vision_tower.", "model.vision_tower."},
                         {"multi_modal_projector.", "model.multi_modal_projector."},
                         {"language_model.lm_head.", "lm_head."},
                         {"language_model.model.", "model.language_model."}};

/// As a model made by transformers 5 is saved.
const Prefixes kWithoutVisionModel{{"vision_tower.vision_model.", "vision_tower."}};

INSTANTIATE_TEST_SUITE_P(
    Forms, LlavaGolden,
    testing::Values(Form{.name = "as_stored"}, Form{.name = "one_file"},
                    Form{.name = "one_file_unaligned", .unaligned = true},
                    Form{.name = "new_names_one_file", .renamed = kPrefixed},
                    Form{.name = "new_names_three_shards", .renamed = kPrefixed, .shards = 3},
                    Form{.name = "no_vision_model", .renamed = kWithoutVisionModel, .shards = 2},
                    Form{.name = "three_threads", .threads = 3}),
    [](const auto& param) { return param.param.name; });

}  // namespace
