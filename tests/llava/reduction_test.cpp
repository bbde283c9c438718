// SPDX-License-Identifier: Apache-2.0
// Every method of the registry in its place in the model, through `llava::run`.
#include "reduction.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "methods.hpp"
#include "run.hpp"
#include "small_model.hpp"
#include "support/outcome.hpp"

namespace {

using llava::Choice;
using llava::Index;
using llava::Matrix;
using llava::Measurement;
using llava::Model;
using llava::Prompt;
using llava_test::same_bits;
using llava_test::size;
using llava_test::small_config;
using testing::ElementsAre;
using testing::HasSubstr;
using tokenfold::PositionRule;

constexpr Index patches = 36;  // 6 x 6
constexpr Index third = 12;
constexpr Index new_tokens = 4;

const Model& model() {
  static const Model made(small_config(8, 8), llava::Weights::random(8), llava::Threads{1});
  return made;
}
const Prompt& prompt() { return llava_test::small_prompt(); }
constexpr Index text = llava_test::small_prompt_size;
const Matrix& pixels() { return llava_test::small_pixels(); }

Measurement run(const Choice& choice, const Model& with = model(), const Prompt& words = prompt()) {
  return llava::run(with, pixels(), words, choice, new_tokens);
}
std::string refusal(const Choice& choice) {
  return support::refusal([&] { run(choice); });
}

bool same_outcome(const Measurement& a, const Measurement& b) {
  return same_bits(a.logits, b.logits) && a.generated == b.generated;
}
bool finite(const Measurement& m) {
  return std::all_of(m.logits.begin(), m.logits.end(), [](float z) { return std::isfinite(z); });
}

std::vector<std::string> picture_methods() {
  std::vector<std::string> names;
  for (const tokenfold::MethodInfo& info : llava::list_methods()) {
    if (!info.video) names.emplace_back(info.name);
  }
  names.emplace_back("ficoco_vl");
  return names;
}
const tokenfold::MethodInfo* info_of(const std::string& name) {
  static const std::vector<tokenfold::MethodInfo> all = llava::list_methods();
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const auto& info) { return info.name == name; });
  return found == all.end() ? nullptr : &*found;
}
bool is_tome(const std::string& name) { return name.starts_with("tome"); }

/// Rows beyond those that were asked for, while fewer than all are.
Index extra_tokens(const std::string& method) {
  static const std::map<std::string, Index> extra = {
      {"evit", 1},           // what was fused
      {"prumerge", 1},       // the sum of what was discarded
      {"prumerge_plus", 1},  // likewise
      {"sparsevlm", 1},      // one cluster of so few recycled tokens
      {"visionzip", 1},      // [CLS]
  };
  const auto found = extra.find(method);
  return found == extra.end() ? 0 : found->second;
}

/// Visual tokens that each decoder layer's attention, or MLP, sees.
std::vector<Index> attention(const Measurement& m) {
  std::vector<Index> counts;
  for (const llava::LayerTokens& layer : m.tokens.decoder) counts.push_back(layer.attention);
  return counts;
}
std::vector<Index> mlp(const Measurement& m) {
  std::vector<Index> counts;
  for (const llava::LayerTokens& layer : m.tokens.decoder) counts.push_back(layer.mlp);
  return counts;
}
std::vector<Index> encoder_mlp(const Measurement& m) {
  std::vector<Index> counts;
  for (const llava::LayerTokens& layer : m.tokens.encoder) counts.push_back(layer.mlp);
  return counts;
}

/// What each decoder layer has cached behind the prefill.
std::vector<Index> cache_lengths(const Choice& choice) {
  llava::Reduction reduction(model(), prompt(), choice);
  const auto encoded = model().encoder.run(pixels(), reduction.in_encoder());
  const Matrix input = llava::splice(model().decoder, prompt(), reduction.embeddings(encoded));
  llava::Cache cache = model().decoder.empty_cache();
  model().decoder.prefill(input, cache, reduction.in_decoder(input));
  std::vector<Index> lengths;
  for (const llava::LayerCache& layer : cache) lengths.push_back(layer.length - text);
  return lengths;
}

// ------------------------------------------------------------------------------- every method

class LlavaMethod : public testing::TestWithParam<std::string> {
 protected:
  const std::string method = GetParam();
};

/// Methods that change something although every token stays, as their headers say.
bool changes_what_it_keeps(const std::string& method) {
  // PruMerge: x'_p = x_p + Σ over the 32 nearest keys, preserved tokens among them.
  // VisionZip hands [CLS] on to the decoder.
  return method == "prumerge" || method == "prumerge_plus" || method == "visionzip";
}

TEST_P(LlavaMethod, changes_no_bit_if_all_tokens_stay) {
  const Measurement plain = run({});
  const Measurement kept = run({.method = method, .keep = patches});
  EXPECT_EQ(same_outcome(kept, plain), !changes_what_it_keeps(method));
  const Index cls = method == "visionzip" ? 1 : 0;
  EXPECT_EQ(kept.tokens.encoded, patches);
  EXPECT_EQ(kept.tokens.into_decoder, patches + cls);
  EXPECT_EQ(kept.tokens.left, patches + cls);
}

TEST_P(LlavaMethod, leaves_as_many_as_were_asked_for) {
  const Measurement reduced = run({.method = method, .keep = third});
  const llava::TokenCounts& tokens = reduced.tokens;
  EXPECT_EQ(tokens.image, patches);
  EXPECT_EQ(tokens.text, text);
  EXPECT_EQ(tokens.left, third + extra_tokens(method));
  ASSERT_EQ(tokens.encoder.size(), 7U);
  ASSERT_EQ(tokens.decoder.size(), 8U);
  EXPECT_EQ(tokens.encoder[0].attention, patches);
  EXPECT_EQ(tokens.encoder.back().mlp, tokens.encoded);
  EXPECT_EQ(tokens.decoder[0].attention, tokens.into_decoder);

  const tokenfold::MethodInfo* info = info_of(method);
  if (info == nullptr) {  // FiCoCo-VL: half of what goes, goes in the encoder
    EXPECT_EQ(tokens.encoded, 24);
    EXPECT_EQ(tokens.into_decoder, 24);
  } else if (info->place == tokenfold::Place::encoder) {
    EXPECT_EQ(tokens.encoded, tokens.left);
    EXPECT_EQ(tokens.projected, tokens.left);
    EXPECT_EQ(tokens.into_decoder, tokens.left);
  } else if (info->place == tokenfold::Place::after_encoder) {
    EXPECT_EQ(tokens.encoded, patches);
    EXPECT_EQ(tokens.into_decoder, tokens.left);
    EXPECT_THAT(tokens.projected, testing::AnyOf(patches, tokens.left));
  } else {
    EXPECT_EQ(tokens.into_decoder, patches);
  }
  EXPECT_TRUE(finite(reduced));
  EXPECT_EQ(reduced.logits.size(), 40U);
  EXPECT_EQ(reduced.generated.size(), size(new_tokens));
  EXPECT_FALSE(same_bits(reduced.logits, run({}).logits));
}

TEST_P(LlavaMethod, has_the_same_bits_in_every_run) {
  static const Model two(small_config(8, 8), llava::Weights::random(8), llava::Threads{2});
  static const Model three(small_config(8, 8), llava::Weights::random(8), llava::Threads{3});
  const Choice choice{.method = method, .keep = third};
  const Measurement first = run(choice);
  EXPECT_TRUE(same_outcome(run(choice), first));
  EXPECT_TRUE(same_outcome(run(choice, two), first));
  EXPECT_TRUE(same_outcome(run(choice, three), first));
}

TEST_P(LlavaMethod, counts_what_the_cache_holds) {
  const Choice choice{.method = method, .keep = third};
  const Measurement reduced = run(choice);
  const std::vector<Index> lengths = cache_lengths(choice);
  EXPECT_EQ(attention(reduced), lengths);
  Index rows = 0;
  for (const Index length : lengths) rows += length + text;
  EXPECT_EQ(reduced.kv_bytes, rows * 2 * (2 * 6) * 4);
  EXPECT_EQ(reduced.kv_bytes_16_bit, rows * 2 * (2 * 6) * 2);
}

TEST_P(LlavaMethod, can_leave_nothing) {
  // A matching takes half of what is left, and never the last one. What it can reach it reaches,
  // though even steps of 36 / 7 tokens would be more than half in the last layers.
  if (is_tome(method)) {
    EXPECT_EQ(run({.method = method, .keep = 2}).tokens.left, 2);
    EXPECT_EQ(run({.method = method, .keep = 0}).tokens.left, 1);
    return;
  }
  const Measurement reduced = run({.method = method, .keep = 0});
  EXPECT_EQ(reduced.tokens.left, extra_tokens(method));
  EXPECT_TRUE(finite(reduced));
}

TEST_P(LlavaMethod, fits_models_of_few_layers) {
  for (const Index layers : {1, 2, 3, 4}) {
    // IVTP's groups have 3 encoder layers; fewer do not make one.
    const Model shallow(small_config(std::max<Index>(layers, method == "ivtp" ? 4 : 2), layers),
                        llava::Weights::random(8), llava::Threads{1});
    // ToMe cannot do more than half a layer.
    const Index keep = is_tome(method) ? 20 : third;
    const Measurement reduced = run({.method = method, .keep = keep}, shallow);
    EXPECT_EQ(reduced.tokens.left, keep + extra_tokens(method)) << layers << " layers";
    EXPECT_TRUE(finite(reduced)) << layers << " layers";
  }
}

TEST_P(LlavaMethod, takes_a_prompt_without_words_around_the_picture_or_says_why_not) {
  const Measurement question = run({.method = method, .keep = third}, model(), {{}, {7, 8}});
  EXPECT_TRUE(finite(question));
  // These ask what the question is.
  const bool needs_question = method == "cdpruner" || method == "sparsevlm" ||
                              method == "sparsevlm_v2" || method == "ficoco_l" ||
                              method == "ficoco_vl";
  const Choice choice{.method = method, .keep = third};
  if (needs_question) {
    EXPECT_NE(support::refusal([&] { run(choice, model(), {{1, 2}, {}}); }), "");
  } else {
    const Measurement silent = run(choice, model(), {{1, 2}, {}});
    EXPECT_EQ(silent.tokens.left, third + extra_tokens(method));
    EXPECT_TRUE(finite(silent));
  }
}

TEST_P(LlavaMethod, needs_a_number_unless_it_has_a_rule) {
  const tokenfold::MethodInfo* info = info_of(method);
  if (info != nullptr && info->adaptive) {
    const Measurement reduced = run({.method = method});
    EXPECT_TRUE(finite(reduced));
    EXPECT_LE(reduced.tokens.left, patches);
    EXPECT_GT(reduced.tokens.left, 0);
  } else {
    EXPECT_THAT(refusal({.method = method}), HasSubstr(method));
  }
}

TEST_P(LlavaMethod, refuses_counts_that_there_are_not) {
  for (const Index keep : {Index{-1}, patches + 1}) {
    EXPECT_THAT(refusal({.method = method, .keep = keep}),
                HasSubstr("cannot keep " + std::to_string(keep) + " of 36"));
  }
}

INSTANTIATE_TEST_SUITE_P(Registry, LlavaMethod, testing::ValuesIn(picture_methods()),
                         [](const auto& method) { return method.param; });

// -------------------------------------------------------------------------------- the schedules

TEST(LlavaSchedule, without_a_reduction_every_layer_sees_every_token) {
  const Measurement plain = run({});
  EXPECT_THAT(attention(plain), ElementsAre(36, 36, 36, 36, 36, 36, 36, 36));
  EXPECT_EQ(attention(plain), mlp(plain));
  EXPECT_THAT(encoder_mlp(plain), ElementsAre(36, 36, 36, 36, 36, 36, 36));
  EXPECT_EQ(plain.tokens.projected, patches);
}

TEST(LlavaSchedule, fastv_and_dart_prune_behind_the_second_layer) {
  for (const std::string method : {"fastv", "dart"}) {
    const Measurement reduced = run({.method = method, .keep = third});
    EXPECT_THAT(attention(reduced), ElementsAre(36, 36, 12, 12, 12, 12, 12, 12)) << method;
    EXPECT_EQ(attention(reduced), mlp(reduced)) << method;
  }
}

TEST(LlavaSchedule, pyramiddrop_prunes_before_three_layers) {
  const Measurement reduced = run({.method = "pyramiddrop", .keep = third});
  EXPECT_THAT(attention(reduced), ElementsAre(36, 36, 25, 25, 17, 17, 12, 12));
  EXPECT_EQ(attention(reduced), mlp(reduced));
}

TEST(LlavaSchedule, sparsevlm_prunes_behind_three_layers) {
  const Measurement reduced = run({.method = "sparsevlm", .keep = third});
  EXPECT_THAT(attention(reduced), ElementsAre(36, 36, 26, 18, 18, 13, 13, 13));  // and a cluster
  EXPECT_EQ(attention(reduced), mlp(reduced));
  const Measurement v2 = run({.method = "sparsevlm_v2", .keep = third});
  EXPECT_THAT(attention(v2), ElementsAre(36, 36, 25, 17, 17, 12, 12, 12));
}

TEST(LlavaSchedule, ficoco_discards_evenly_from_a_layer_on) {
  const Measurement language = run({.method = "ficoco_l", .keep = third});
  EXPECT_THAT(attention(language), ElementsAre(36, 36, 32, 28, 24, 21, 18, 15));
  EXPECT_THAT(mlp(language), ElementsAre(36, 32, 28, 24, 21, 18, 15, 12));
  const Measurement vision = run({.method = "ficoco_v", .keep = third});
  EXPECT_THAT(encoder_mlp(vision), ElementsAre(36, 36, 36, 36, 28, 20, 12));
  const Measurement both = run({.method = "ficoco_vl", .keep = third});
  EXPECT_THAT(encoder_mlp(both), ElementsAre(36, 36, 36, 36, 32, 28, 24));
  EXPECT_THAT(mlp(both), ElementsAre(24, 22, 20, 18, 16, 14, 13, 12));
}

TEST(LlavaSchedule, tome_merges_in_every_layer) {
  const Measurement reduced = run({.method = "tome", .keep = third});
  EXPECT_THAT(encoder_mlp(reduced), ElementsAre(32, 28, 24, 21, 18, 15, 12));
  EXPECT_EQ(reduced.tokens.encoder[1].attention, 32);
}

TEST(LlavaSchedule, evit_and_ivtp_prune_in_stages) {
  const Measurement evit = run({.method = "evit", .keep = third});
  EXPECT_THAT(encoder_mlp(evit), ElementsAre(36, 36, 26, 26, 18, 18, 13));  // one is fused
  const Measurement ivtp = run({.method = "ivtp", .keep = third});
  EXPECT_THAT(encoder_mlp(ivtp), ElementsAre(36, 36, 21, 21, 21, 12, 12));
}

TEST(LlavaSchedule, positions_are_those_of_the_authors_unless_told_otherwise) {
  const auto logits = [](const char* method, std::optional<PositionRule> rule) {
    return run({.method = method, .keep = third, .positions = rule}).logits;
  };
  for (const char* gaps : {"fastv", "dart", "sparsevlm_v2", "ficoco_l"}) {
    EXPECT_TRUE(same_bits(logits(gaps, {}), logits(gaps, PositionRule::original))) << gaps;
    EXPECT_FALSE(same_bits(logits(gaps, {}), logits(gaps, PositionRule::packed))) << gaps;
  }
  for (const char* none : {"pyramiddrop", "sparsevlm"}) {
    EXPECT_TRUE(same_bits(logits(none, {}), logits(none, PositionRule::packed))) << none;
    EXPECT_FALSE(same_bits(logits(none, {}), logits(none, PositionRule::original))) << none;
  }
}

// ------------------------------------------------------------------------------------- choices

TEST(LlavaChoice, hands_options_on) {
  const Measurement plain = run({.method = "random", .keep = third});
  const Measurement other = run({.method = "random", .options = {{"seed", "1"}}, .keep = third});
  EXPECT_FALSE(same_bits(plain.logits, other.logits));
  EXPECT_THAT(refusal({.method = "random", .options = {{"sead", "1"}}, .keep = third}),
              HasSubstr("sead"));
  EXPECT_NE(refusal({.method = "ficoco_vl", .options = {{"lambda", "1"}}, .keep = third}), "");
}

TEST(LlavaChoice, refuses_methods_for_videos) {
  for (const char* method : {"evs", "vidcom2"}) {
    ASSERT_TRUE(info_of(method)->video);
    EXPECT_THAT(refusal({.method = method, .keep = third}), HasSubstr("video"));
  }
}

TEST(LlavaChoice, refuses_methods_that_there_are_not) {
  EXPECT_THAT(refusal({.method = "tomee", .keep = third}), HasSubstr("tomee"));
  EXPECT_NE(refusal({.method = "", .keep = third}), "");
}

TEST(LlavaChoice, without_new_tokens_nothing_is_decoded) {
  const Measurement first = llava::run(model(), pixels(), prompt(), {}, 0);
  EXPECT_TRUE(first.generated.empty());
  EXPECT_TRUE(same_bits(first.logits, run({}).logits));
}

}  // namespace
