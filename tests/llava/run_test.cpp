// SPDX-License-Identifier: Apache-2.0
// `llava::run`: what it says of a run, besides the run itself (see reduction_test.cpp and
// placement_test.cpp).
#include "run.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "small_model.hpp"

namespace {

using llava::Choice;
using llava::Index;
using llava::LayerTokens;
using llava::Matrix;
using llava::Measurement;
using llava::Model;
using llava::Prompt;
using llava_test::small_config;
using testing::ElementsAre;

constexpr Index third = 12;  // of 6 x 6 patches
constexpr Index text = llava_test::small_prompt_size;

const Model& small() {
  static const Model made(small_config(4, 5), llava::Weights::random(8), llava::Threads{1});
  return made;
}
/// As deep as LLaVA-1.5.
const Model& deep() {
  static const Model made(small_config(24, 32), llava::Weights::random(8), llava::Threads{1});
  return made;
}
const Prompt& prompt() { return llava_test::small_prompt(); }
const Matrix& pixels() { return llava_test::small_pixels(); }

Measurement run(const Choice& choice, const Model& model = small(), Index new_tokens = 1) {
  return llava::run(model, pixels(), prompt(), choice, new_tokens);
}

// --------------------------------------------------------------------------------- description

std::array<std::string, 4> description(const Choice& choice) {
  const Measurement m = run(choice);
  return {m.method, m.title, m.where, m.options};
}

TEST(LlavaRun, says_what_was_run) {
  EXPECT_THAT(description({}), ElementsAre("none", "no reduction", "", ""));
  EXPECT_THAT(description({.method = "ficoco_v", .keep = third}),
              ElementsAre("ficoco_v", "FiCoCo-V", "in the encoder", "keep 12"));
  EXPECT_THAT(description({.method = "prumerge"}),
              ElementsAre("prumerge", "PruMerge", "behind the encoder", ""));
  EXPECT_THAT(description({.method = "uniform", .keep = 0}),
              ElementsAre("uniform", "uniform sampling", "behind the encoder", "keep 0"));
  EXPECT_THAT(description({.method = "fastv", .keep = third}),
              ElementsAre("fastv", "FastV", "in the decoder", "keep 12"));
  EXPECT_THAT(description({.method = "ficoco_vl", .keep = third}),
              ElementsAre("ficoco_vl", "FiCoCo-VL", "in encoder and decoder", "keep 12"));
}

TEST(LlavaRun, says_with_which_options) {
  const std::vector<tokenfold::OptionSetting> options{{"preset", "released"}, {"lambda", "0.5"}};
  EXPECT_THAT(description({.method = "ficoco_v", .options = options, .keep = third}),
              ElementsAre("ficoco_v", "FiCoCo-V", "in the encoder",
                          "keep 12, preset=released, lambda=0.5"));
  EXPECT_EQ(description({.method = "prumerge", .options = {{"preset", "released"}}})[3],
            "preset=released");
  // What the engine sets itself is nothing that the user said.
  EXPECT_EQ(description({.method = "sparsevlm_v2", .keep = third})[3], "keep 12");
}

// ------------------------------------------------------------------------------------ progress

using Told = std::vector<std::tuple<std::string, Index, Index>>;

Told told(const Choice& choice, Index new_tokens) {
  Told calls;
  llava::run(small(), pixels(), prompt(), choice, new_tokens,
             [&](std::string_view stage, Index layer, Index layers) {
               calls.emplace_back(stage, layer, layers);
             });
  return calls;
}

TEST(LlavaRun, tells_what_it_is_at_layer_by_layer) {
  const Told prefill = {{"encoder", 1, 3},   {"encoder", 2, 3}, {"encoder", 3, 3},
                        {"projector", 1, 1}, {"decoder", 1, 5}, {"decoder", 2, 5},
                        {"decoder", 3, 5},   {"decoder", 4, 5}, {"decoder", 5, 5}};
  EXPECT_EQ(told({}, 0), prefill);
  EXPECT_EQ(told({}, 1), prefill);  // the first token is there
  Told with_answer = prefill;
  with_answer.insert(with_answer.end(), {{"answer", 1, 3}, {"answer", 2, 3}});
  EXPECT_EQ(told({}, 3), with_answer);
  for (const char* method : {"ficoco_v", "divprune", "fastv", "pyramiddrop", "ficoco_l"}) {
    EXPECT_EQ(told({.method = method, .keep = third}, 3), with_answer) << method;
  }
}

// ---------------------------------------------------------------------------------------- time

TEST(LlavaRun, a_reduction_takes_time_only_where_it_happens) {
  struct Case {
    const char* method;
    bool in_encoder, between, in_decoder;
  };
  for (const Case& c :
       {Case{"none", false, false, false}, Case{"ficoco_v", true, false, false},
        Case{"tome", true, false, false}, Case{"prumerge", false, true, false},
        Case{"divprune", false, true, false}, Case{"fastv", false, false, true},
        Case{"pyramiddrop", false, false, true}, Case{"sparsevlm", false, false, true},
        Case{"ficoco_l", false, false, true}, Case{"ficoco_vl", true, false, true}}) {
    const bool none = std::string_view(c.method) == "none";
    const llava::Seconds s =
        run(none ? Choice{} : Choice{.method = c.method, .keep = third}).seconds;
    EXPECT_EQ(s.reduction_in_encoder > 0, c.in_encoder) << c.method;
    EXPECT_EQ(s.reduction_between > 0, c.between) << c.method;
    EXPECT_EQ(s.reduction_in_decoder > 0, c.in_decoder) << c.method;
    // Exactly nothing, where it is not more.
    for (const double seconds :
         {s.reduction_in_encoder, s.reduction_between, s.reduction_in_decoder}) {
      EXPECT_GE(seconds, 0) << c.method;
    }
    EXPECT_GT(s.encoder, 0) << c.method;
    EXPECT_GT(s.projector, 0) << c.method;
    EXPECT_GT(s.prefill, 0) << c.method;
  }
}

TEST(LlavaRun, stages_and_reductions_do_not_count_the_same_time) {
  for (const char* method : {"ivtp", "mmtok", "sparsevlm", "ficoco_vl"}) {
    const auto start = std::chrono::steady_clock::now();
    const llava::Seconds s = run({.method = method, .keep = third}, small(), 3).seconds;
    const double wall = llava::detail::seconds_since(start);
    EXPECT_LE(llava::time_to_first_token(s) + 2 * s.per_decoded_token, wall * (1 + 1e-9)) << method;
  }
}

TEST(LlavaRun, time_of_decoded_tokens_is_that_of_those_behind_the_first) {
  EXPECT_EQ(run({}, small(), 0).seconds.per_decoded_token, 0);
  EXPECT_EQ(run({}, small(), 1).seconds.per_decoded_token, 0);
  EXPECT_GT(run({}, small(), 2).seconds.per_decoded_token, 0);
}

// -------------------------------------------------------------------------------------- tokens

using Counts = std::vector<std::pair<Index, Index>>;

Counts by_layer(const std::vector<LayerTokens>& layers) {
  Counts counts;
  for (const LayerTokens& layer : layers) counts.emplace_back(layer.attention, layer.mlp);
  return counts;
}
/// Image, encoded, projected, into the decoder, left, text.
std::array<Index, 6> on_the_way(const llava::TokenCounts& t) {
  return {t.image, t.encoded, t.projected, t.into_decoder, t.left, t.text};
}
const Counts whole_encoder(3, {36, 36});
const Counts whole_decoder(5, {36, 36});

TEST(LlavaRun, counts_tokens_of_a_run_that_reduces_nothing) {
  const llava::TokenCounts tokens = run({}).tokens;
  EXPECT_EQ(by_layer(tokens.encoder), whole_encoder);
  EXPECT_EQ(by_layer(tokens.decoder), whole_decoder);
  EXPECT_THAT(on_the_way(tokens), ElementsAre(36, 36, 36, 36, 36, text));
}

TEST(LlavaRun, counts_tokens_of_a_reduction_in_the_encoder) {
  // From the layer on that is the 12th of 24, between attention and MLP.
  const llava::TokenCounts tokens = run({.method = "ficoco_v", .keep = third}).tokens;
  EXPECT_EQ(by_layer(tokens.encoder), (Counts{{36, 36}, {36, 36}, {36, 12}}));
  EXPECT_EQ(by_layer(tokens.decoder), Counts(5, {12, 12}));
  EXPECT_THAT(on_the_way(tokens), ElementsAre(36, 12, 12, 12, 12, text));
}

TEST(LlavaRun, counts_tokens_of_a_reduction_before_and_behind_the_projector) {
  const llava::TokenCounts merged = run({.method = "prumerge", .keep = third}).tokens;
  EXPECT_EQ(by_layer(merged.encoder), whole_encoder);
  EXPECT_EQ(by_layer(merged.decoder), Counts(5, {13, 13}));
  EXPECT_THAT(on_the_way(merged), ElementsAre(36, 36, 13, 13, 13, text));

  const llava::TokenCounts with_cls = run({.method = "visionzip", .keep = third}).tokens;
  EXPECT_EQ(by_layer(with_cls.decoder), Counts(5, {13, 13}));
  EXPECT_THAT(on_the_way(with_cls), ElementsAre(36, 36, 13, 13, 13, text));

  const llava::TokenCounts selected = run({.method = "divprune", .keep = third}).tokens;
  EXPECT_EQ(by_layer(selected.encoder), whole_encoder);
  EXPECT_EQ(by_layer(selected.decoder), Counts(5, {12, 12}));
  EXPECT_THAT(on_the_way(selected), ElementsAre(36, 36, 36, 12, 12, text));
}

TEST(LlavaRun, counts_tokens_of_a_reduction_in_the_decoder) {
  // Behind a layer, before its attention, and between its attention and MLP.
  const llava::TokenCounts behind = run({.method = "fastv", .keep = third}).tokens;
  EXPECT_EQ(by_layer(behind.encoder), whole_encoder);
  EXPECT_EQ(by_layer(behind.decoder), (Counts{{36, 36}, {36, 36}, {12, 12}, {12, 12}, {12, 12}}));
  EXPECT_THAT(on_the_way(behind), ElementsAre(36, 36, 36, 36, 12, text));

  const llava::TokenCounts ahead = run({.method = "pyramiddrop", .keep = third}).tokens;
  EXPECT_EQ(by_layer(ahead.decoder), (Counts{{36, 36}, {25, 25}, {25, 25}, {17, 17}, {12, 12}}));
  EXPECT_THAT(on_the_way(ahead), ElementsAre(36, 36, 36, 36, 12, text));

  const llava::TokenCounts within = run({.method = "ficoco_l", .keep = third}).tokens;
  EXPECT_EQ(by_layer(within.decoder), (Counts{{36, 36}, {36, 30}, {30, 24}, {24, 18}, {18, 12}}));
  EXPECT_THAT(on_the_way(within), ElementsAre(36, 36, 36, 36, 12, text));

  // What the last layer drops is left to nobody.
  const llava::TokenCounts last =
      run({.method = "fastv", .keep = third},
          Model(small_config(2, 2), llava::Weights::random(8), llava::Threads{1}))
          .tokens;
  EXPECT_EQ(by_layer(last.decoder), (Counts{{36, 36}, {36, 36}}));
  EXPECT_EQ(last.left, third);
}

// --------------------------------------------------------------------------------------- costs

TEST(LlavaRun, costs_are_those_of_the_counts) {
  for (const char* method : {"none", "ficoco_v", "tome", "prumerge", "divprune", "fastv",
                             "pyramiddrop", "sparsevlm", "ficoco_l", "ficoco_vl"}) {
    const bool none = std::string_view(method) == "none";
    const Measurement m = run(none ? Choice{} : Choice{.method = method, .keep = third});
    // Keys and values of 2 heads of 6 floats, for all that a layer's attention sees.
    std::int64_t bytes = 0;
    for (const LayerTokens& layer : m.tokens.decoder) {
      bytes += (layer.attention + text) * 2 * (2 * 6) * 4;
    }
    EXPECT_EQ(m.kv_bytes, bytes) << method;
    EXPECT_EQ(2 * m.kv_bytes_16_bit, bytes) << method;
    const llava::Flops flops = llava::flops_of(small().config, m.tokens);
    EXPECT_EQ(m.flops.encoder, flops.encoder) << method;
    EXPECT_EQ(m.flops.projector, flops.projector) << method;
    EXPECT_EQ(m.flops.prefill, flops.prefill) << method;
  }
}

TEST(LlavaRun, costs_fall_where_tokens_went) {
  const auto flops = [](const char* method) {
    return run({.method = method, .keep = third}).flops;
  };
  const llava::Flops plain = run({}).flops;
  EXPECT_EQ(plain.total(),
            llava::flops_of(small().config, llava::unreduced(small().config, text)).total());
  for (const char* everywhere : {"ficoco_v", "ficoco_vl"}) {
    EXPECT_LT(flops(everywhere).encoder, plain.encoder);
    EXPECT_LT(flops(everywhere).projector, plain.projector);
    EXPECT_LT(flops(everywhere).prefill, plain.prefill);
  }
  EXPECT_EQ(flops("prumerge").encoder, plain.encoder);
  EXPECT_LT(flops("prumerge").projector, plain.projector);
  const auto behind = llava::pruned_before_decoder(small().config, third, text);
  EXPECT_EQ(flops("divprune").total(), llava::flops_of(small().config, behind).total());
  EXPECT_EQ(flops("fastv").encoder, plain.encoder);
  EXPECT_EQ(flops("fastv").projector, plain.projector);
  EXPECT_LT(flops("fastv").prefill, plain.prefill);
  EXPECT_GT(flops("fastv").prefill, flops("divprune").prefill);
}

// -------------------------------------------------------------------------------------- answer

TEST(LlavaRun, decodes_the_most_likely_token_each_time) {
  constexpr Index many = 6;
  for (const Choice& choice : {Choice{}, Choice{.method = "divprune", .keep = third},
                               Choice{.method = "tops", .keep = third}}) {
    const Measurement m = run(choice, small(), many);
    ASSERT_EQ(m.generated.size(), llava_test::size(many));
    ASSERT_EQ(m.logits.size(), 40U);
    // What was generated as part of the prompt makes the same next token; these methods do not
    // look at the prompt.
    Prompt longer = prompt();
    for (const std::int64_t token : m.generated) {
      const auto logits = llava::run(small(), pixels(), longer, choice, 0).logits;
      if (longer.after.size() == prompt().after.size()) {
        EXPECT_TRUE(llava_test::same_bits(logits, m.logits));
      }
      EXPECT_EQ(std::max_element(logits.begin(), logits.end()) - logits.begin(), token)
          << choice.method << ", token " << longer.after.size() - prompt().after.size();
      longer.after.push_back(token);
    }
  }
}

TEST(LlavaRun, decodes_as_many_tokens_as_asked_for) {
  const Choice choice{.method = "fastv", .keep = third};
  const auto four = run(choice, small(), 4).generated;
  for (const Index count : {0, 1, 3}) {
    const Measurement m = run(choice, small(), count);
    EXPECT_EQ(m.generated, std::vector<std::int64_t>(four.begin(), four.begin() + count));
    EXPECT_EQ(m.logits.size(), 40U);
  }
}

// -------------------------------------------------------------------------------------- layers

TEST(LlavaLayerAt, is_the_papers_in_a_model_as_deep) {
  EXPECT_EQ(llava::layer_at(11, 24, 24, 23), 11);  // FiCoCo-V
  EXPECT_EQ(llava::layer_at(3, 32, 32, 32), 3);    // FiCoCo-L
  for (const Index pyramiddrop : {8, 16, 24}) {
    EXPECT_EQ(llava::layer_at(pyramiddrop, 32, 32, 32), pyramiddrop);
  }
  for (const Index sparsevlm : {2, 6, 15}) {
    EXPECT_EQ(llava::layer_at(sparsevlm, 32, 32, 32), sparsevlm);
  }
  for (const Index evit : {3, 6, 9}) {
    EXPECT_EQ(llava::layer_at(evit, 12, 12, 11), evit);
    EXPECT_EQ(llava::layer_at(evit, 12, 24, 23), 2 * evit);
  }
}

TEST(LlavaLayerAt, is_in_proportion_in_others) {
  // 12 layers each, the engine's own model.
  EXPECT_EQ(llava::layer_at(11, 24, 12, 11), 6);
  EXPECT_EQ(llava::layer_at(3, 32, 12, 12), 1);
  EXPECT_EQ(llava::layer_at(8, 32, 12, 12), 3);
  EXPECT_EQ(llava::layer_at(16, 32, 12, 12), 6);
  EXPECT_EQ(llava::layer_at(24, 32, 12, 12), 9);
  EXPECT_EQ(llava::layer_at(2, 32, 12, 12), 1);
  EXPECT_EQ(llava::layer_at(6, 32, 12, 12), 2);
  EXPECT_EQ(llava::layer_at(15, 32, 12, 12), 6);
  // LLaVA-1.5-13B's 40.
  EXPECT_EQ(llava::layer_at(8, 32, 40, 40), 10);
  EXPECT_EQ(llava::layer_at(24, 32, 40, 40), 30);
}

TEST(LlavaLayerAt, is_one_of_those_that_run) {
  EXPECT_EQ(llava::layer_at(9, 12, 4, 3), 2);
  EXPECT_EQ(llava::layer_at(24, 32, 1, 1), 0);
  EXPECT_EQ(llava::layer_at(23, 24, 24, 23), 22);
}

/// The layers whose `count` is below that of the layer before, or below 36 in the first.
std::vector<Index> falls(const std::vector<LayerTokens>& layers, Index LayerTokens::*count) {
  std::vector<Index> found;
  Index last = 36;
  for (std::size_t l = 0; l < layers.size(); ++l) {
    if (layers[l].*count < last) found.push_back(static_cast<Index>(l));
    last = layers[l].*count;
  }
  return found;
}

TEST(LlavaRun, reduces_in_the_papers_layers_of_a_model_as_deep_as_llava) {
  const auto tokens = [](const char* method) {
    return run({.method = method, .keep = third}, deep()).tokens;
  };
  const auto in_encoder = [&](const char* method) {
    return falls(tokens(method).encoder, &LayerTokens::mlp);
  };
  // Layer numbers from 0, as in the headers of the methods.
  EXPECT_THAT(in_encoder("ficoco_v"), ElementsAre(11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22));
  EXPECT_THAT(in_encoder("evit"), ElementsAre(6, 12, 18));
  EXPECT_THAT(in_encoder("ivtp"), ElementsAre(2, 5, 8, 11, 14, 17, 20));
  EXPECT_EQ(in_encoder("tome").front(), 0);

  const auto attention_in_decoder = [&](const char* method) {
    return falls(tokens(method).decoder, &LayerTokens::attention);
  };
  EXPECT_THAT(attention_in_decoder("pyramiddrop"), ElementsAre(8, 16, 24));
  // Behind a layer: its successor is the first to see less.
  EXPECT_THAT(attention_in_decoder("fastv"), ElementsAre(2));
  EXPECT_THAT(attention_in_decoder("dart"), ElementsAre(2));
  EXPECT_THAT(attention_in_decoder("sparsevlm"), ElementsAre(3, 7, 16));
  EXPECT_THAT(attention_in_decoder("sparsevlm_v2"), ElementsAre(3, 7, 16));
  EXPECT_EQ(falls(tokens("ficoco_l").decoder, &LayerTokens::mlp).front(), 3);
  EXPECT_EQ(falls(tokens("ficoco_vl").encoder, &LayerTokens::mlp).front(), 11);
  // The first layer sees what the encoder left already.
  EXPECT_EQ(falls(tokens("ficoco_vl").decoder, &LayerTokens::mlp).at(1), 3);
}

}  // namespace
