// SPDX-License-Identifier: Apache-2.0
// The vision encoder and the projector against the reference, whole and with tokens merged in the
// middle.
#include "encoder.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "checkpoint.hpp"
#include "projector.hpp"
#include "support/outcome.hpp"
#include "tokenfold/core/query_key_attention.hpp"
#include "tokenfold/core/survivors.hpp"
#include "tokenfold/methods/evit.hpp"
#include "tokenfold/methods/tome.hpp"

namespace {

using llava::Hook;
using llava::Index;
using llava::LayerStep;
using llava::Matrix;
using llava_test::Checkpoint;
using llava_test::near;
using llava_test::random_rows;
using llava_test::same_bits;
using llava_test::size;
using testing::ElementsAre;
using testing::HasSubstr;
using tokenfold::ReductionPlan;

/// 4 x 4 patches; the last of 5 layers does not run.
llava::Config small_model() {
  llava::Config config;
  config.encoder = {.layers = 5,
                    .width = 18,
                    .heads = 3,
                    .ffn = 26,
                    .image_size = 12,
                    .patch_size = 3,
                    .norm_epsilon = 0.05F,
                    .layers_run = 4};
  config.decoder = {.layers = 1,
                    .width = 22,
                    .heads = 1,
                    .key_value_heads = 1,
                    .head_dim = 4,
                    .ffn = 4,
                    .vocabulary = 4};
  return config;
}

class LlavaEncoder : public testing::Test {
 protected:
  const llava::Config config = small_model();
  const Checkpoint checkpoint{config};
  llava::Weights weights = checkpoint.weights();
  const llava::Encoder encoder{config.encoder, weights, llava::Threads{1}};
  const Matrix pixels = random_rows(3, 12 * 12, 4);

  reference::ClipOutput expected(const std::vector<reference::ClipLayer>& layers) const {
    return reference::run_clip(llava_test::shape_of(config.encoder), checkpoint.source(),
                               llava_test::doubles(pixels), layers);
  }
};

TEST_F(LlavaEncoder, equals_the_reference) {
  const auto all = expected(std::vector<reference::ClipLayer>(4));
  const llava::Encoder::Output encoded = encoder.run(pixels);
  EXPECT_EQ(encoded.hidden.rows(), 17);
  EXPECT_TRUE(near(encoded.hidden, all.hidden));
  EXPECT_TRUE(near(encoded.last.queries, llava_test::joined(all.queries[3])));
  EXPECT_TRUE(near(encoded.last.keys, llava_test::joined(all.keys[3])));
}

TEST_F(LlavaEncoder, runs_as_many_layers_as_it_is_told) {
  for (const Index layers : {1, 5}) {
    llava::EncoderConfig other = config.encoder;
    other.layers_run = layers;
    const llava::Encoder shorter(other, weights, llava::Threads{1});
    EXPECT_TRUE(near(shorter.run(pixels).hidden,
                     expected(std::vector<reference::ClipLayer>(size(layers))).hidden));
  }
}

TEST_F(LlavaEncoder, hooks_are_shown_what_attention_takes) {
  const auto all = expected(std::vector<reference::ClipLayer>(4));
  std::vector<Index> layers;
  const llava::Encoder::Output encoded = encoder.run(pixels, [&](LayerStep& step) {
    layers.push_back(step.layer);
    const std::size_t l = size(step.layer);
    EXPECT_TRUE(near(llava_test::joined(step.queries), llava_test::joined(all.queries[l])));
    EXPECT_TRUE(near(llava_test::joined(step.keys), llava_test::joined(all.keys[l])));
    EXPECT_TRUE(near(llava_test::joined(step.values), llava_test::joined(all.values[l])));
    EXPECT_EQ(step.queries.heads(), 3);
    EXPECT_EQ(step.hidden().rows(), 17);
    EXPECT_EQ(step.sizes().size(), 17U);
    EXPECT_TRUE(step.positions().empty());
    EXPECT_TRUE(step.key_bias().empty());
  });
  EXPECT_THAT(layers, ElementsAre(0, 1, 2, 3));
  EXPECT_TRUE(same_bits(encoded.hidden, encoder.run(pixels).hidden));
}

// -------------------------------------------------------------------------- merging in layers

/// ToMe, 4 patches in each of the layers 0 and 1, none behind. Says what it did, in the reference's words.
struct Merging {
  enum class Weigh { never, at_first, in_every_layer, in_layer_2 };

  Weigh weigh = Weigh::never;
  tokenfold::Survivors patches{tokenfold::TokenLayout::encoder({4, 4})};
  std::vector<reference::ClipLayer> layers = std::vector<reference::ClipLayer>(4);
  std::vector<double> sizes = std::vector<double>(17, 1.0);
  bool weighed = false;

  void operator()(LayerStep& step) {
    const bool now = weigh == Weigh::in_every_layer ||
                     (weigh == Weigh::at_first && step.layer == 0) ||
                     (weigh == Weigh::in_layer_2 && step.layer == 2);
    if (now) step.weigh_by_size();
    weighed = weighed || now;
    if (step.layer < 2) {
      tokenfold::Workspace workspace;
      ReductionPlan plan;
      tokenfold::ToMe{}.plan(
          tokenfold::Sequence(patches.layout(), tokenfold::Keys(step.keys),
                              tokenfold::Sizes({step.sizes().data(), step.hidden().rows()})),
          tokenfold::Budget::discard(4), workspace, plan);
      step.shorten(plan);
      patches.advance(plan, workspace);
      follow(support::dense_weights(plan), size(step.layer));
    }
    if (step.layer + 1 < 4 && weighed) {
      std::vector<double>& bias = layers[size(step.layer) + 1].key_bias;
      for (const double n : sizes) bias.push_back(std::log(n));
    }
  }

 private:
  void follow(const reference::Matrix& w, std::size_t layer) {
    layers[layer].after_attention = w;
    std::vector<double> merged(w.rows);  // each token goes to one other
    for (std::size_t i = 0; i < w.rows; ++i) {
      for (std::size_t j = 0; j < w.cols; ++j) merged[i] += w(i, j) > 0 ? sizes[j] : 0;
    }
    sizes = merged;
  }
};

class LlavaEncoderMerging : public LlavaEncoder,
                            public testing::WithParamInterface<Merging::Weigh> {};

TEST_P(LlavaEncoderMerging, equals_the_reference) {
  Merging merging{.weigh = GetParam()};
  const auto encoded = encoder.run(pixels, std::ref(merging));
  EXPECT_EQ(encoded.hidden.rows(), 17 - 8);
  EXPECT_TRUE(near(encoded.hidden, expected(merging.layers).hidden));
  double total = 0;
  for (const double n : merging.sizes) total += n;
  EXPECT_EQ(total, 17);
}

TEST_P(LlavaEncoderMerging, is_shown_the_bias_that_attention_has) {
  Merging merging{.weigh = GetParam()};
  encoder.run(pixels, [&](LayerStep& step) {
    const std::vector<double>& bias = merging.layers[size(step.layer)].key_bias;
    const std::vector<double> shown(step.key_bias().begin(), step.key_bias().end());
    EXPECT_THAT(shown, testing::Pointwise(testing::DoubleNear(1e-6), bias));
    merging(step);
    for (std::size_t i = 0; i < merging.sizes.size(); ++i) {
      EXPECT_NEAR(step.sizes()[i], merging.sizes[i], 1e-5);
    }
  });
}

using Weigh = Merging::Weigh;
INSTANTIATE_TEST_SUITE_P(Weighing, LlavaEncoderMerging,
                         testing::Values(Weigh::never, Weigh::at_first, Weigh::in_every_layer,
                                         Weigh::in_layer_2));

TEST_F(LlavaEncoder, weighing_by_size_matters) {
  Merging plain;
  Merging weighed{.weigh = Weigh::at_first};
  const Matrix a = encoder.run(pixels, std::ref(plain)).hidden;
  const Matrix b = encoder.run(pixels, std::ref(weighed)).hidden;
  EXPECT_FALSE(near(a, llava_test::doubles(b), 1e-3));
}

TEST_F(LlavaEncoder, carries_a_synthetic_token) {
  std::vector<reference::ClipLayer> layers(4);
  const llava::Encoder::Output encoded = encoder.run(pixels, [&](LayerStep& step) {
    if (step.layer != 1) return;
    const auto layout = tokenfold::TokenLayout::encoder({4, 4});
    const ReductionPlan plan = tokenfold::EViT{}.plan(
        tokenfold::Sequence(layout, tokenfold::QueryKeyAttention(step.queries, step.keys)),
        tokenfold::Budget::keep(5));
    EXPECT_EQ(plan.extra_tokens(), 1);
    step.shorten(plan);
    layers[1].after_attention = support::dense_weights(plan);
  });
  EXPECT_EQ(encoded.hidden.rows(), 1 + 5 + 1);
  EXPECT_TRUE(near(encoded.hidden, expected(layers).hidden));
}

TEST_F(LlavaEncoder, a_reduction_in_the_last_layer_leaves_its_queries_and_keys_whole) {
  const auto whole = encoder.run(pixels);
  const auto encoded = encoder.run(pixels, [](LayerStep& step) {
    if (step.layer != 3) return;
    const auto layout = tokenfold::TokenLayout::encoder({4, 4});
    step.shorten(tokenfold::ToMe{}.plan(tokenfold::Sequence(layout, tokenfold::Keys(step.keys)),
                                        tokenfold::Budget::keep(9)));
  });
  EXPECT_EQ(encoded.hidden.rows(), 10);
  EXPECT_TRUE(same_bits(encoded.last.queries, whole.last.queries));
  EXPECT_TRUE(same_bits(encoded.last.keys, whole.last.keys));
}

// ------------------------------------------------------------------- the layer behind, projector

TEST_F(LlavaEncoder, projects_for_the_layer_behind) {
  const auto all = expected(std::vector<reference::ClipLayer>(5));
  const llava::Encoder::Output encoded = encoder.run(pixels);
  const llava::QueriesKeys next = encoder.project(4, encoded.hidden);
  EXPECT_TRUE(near(next.queries, llava_test::joined(all.queries[4])));
  EXPECT_TRUE(near(next.keys, llava_test::joined(all.keys[4])));
  EXPECT_EQ(encoder.heads(next.keys).heads(), 3);
  EXPECT_EQ(encoder.heads(next.keys).dim(), 6);
  for (const Index layer : {-1, 5}) {
    EXPECT_THAT(support::refusal([&] { encoder.project(layer, encoded.hidden); }),
                HasSubstr("no layer " + std::to_string(layer) + " of 5"));
  }
}

TEST_F(LlavaEncoder, projector_equals_the_reference) {
  const llava::Projector projector(config, weights, llava::Threads{2});
  for (const Index rows : {1, 17, 0}) {
    const Matrix features = random_rows(rows, config.encoder.width, 6);
    EXPECT_TRUE(near(projector.run(features),
                     reference::run_projector(checkpoint.source(), llava_test::doubles(features),
                                              size(config.decoder.width))));
  }
}

// --------------------------------------------------------------------------------- the same bits

TEST_F(LlavaEncoder, keeping_every_token_changes_no_bit) {
  const auto plain = encoder.run(pixels);
  const auto kept = encoder.run(pixels, [](LayerStep& step) {
    if (step.layer == 1) step.weigh_by_size();  // log 1 = 0
    step.shorten(ReductionPlan::identity(17, {1, 17}));
  });
  EXPECT_TRUE(same_bits(kept.hidden, plain.hidden));
  EXPECT_TRUE(same_bits(kept.last.keys, plain.last.keys));
}

TEST(LlavaEncoderBits, do_not_depend_on_the_number_of_threads) {
  llava::Config wider = small_model();
  wider.encoder = {.layers = 2,
                   .width = 76,
                   .heads = 4,
                   .ffn = 213,
                   .image_size = 50,
                   .patch_size = 5,
                   .layers_run = 2};
  for (const llava::Config& config : {small_model(), wider}) {
    llava::Weights weights = Checkpoint(config).weights();
    const Index side = config.encoder.image_size;
    const Matrix pixels = random_rows(3, side * side, 4);
    Matrix hidden, embeddings;
    for (const Index threads : {1, 2, 3}) {
      const llava::Encoder encoder(config.encoder, weights, llava::Threads{threads});
      const llava::Projector projector(config, weights, llava::Threads{threads});
      const Matrix encoded = encoder.run(pixels).hidden;
      const Matrix projected = projector.run(encoded);
      if (threads == 1) hidden = encoded, embeddings = projected;
      EXPECT_TRUE(same_bits(encoded, hidden)) << threads;
      EXPECT_TRUE(same_bits(projected, embeddings)) << threads;
    }
  }
}

// ------------------------------------------------------------------------------------- bad input

TEST_F(LlavaEncoder, refuses_pictures_of_another_size) {
  EXPECT_THAT(support::refusal([&] { encoder.run(random_rows(3, 12 * 13, 1)); }),
              HasSubstr("[3 x 144], got [3 x 156]"));
  EXPECT_THAT(support::refusal([&] { encoder.run(random_rows(1, 144, 1)); }),
              HasSubstr("[3 x 144], got [1 x 144]"));
}

TEST(LlavaEncoderWeights, that_are_missing_are_named) {
  const std::string model = "vision_tower.vision_model.";
  for (const std::string& name :
       {model + "embeddings.class_embedding", model + "pre_layrnorm.bias",
        model + "encoder.layers.4.mlp.fc2.bias", model + "embeddings.position_embedding.weight",
        model + "encoder.layers.0.self_attn.out_proj.weight"}) {
    Checkpoint checkpoint(small_model());
    checkpoint.remove(name);
    llava::Weights weights = checkpoint.weights();
    EXPECT_THAT(llava_test::runtime_error(
                    [&] { llava::Encoder(small_model().encoder, weights, llava::Threads{1}); }),
                HasSubstr(name));
  }
}

}  // namespace
