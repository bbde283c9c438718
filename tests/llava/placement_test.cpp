// SPDX-License-Identifier: Apache-2.0
// What a method is fed, and where: `llava::run` against the same run by hand, written from what the
// header of each method says under "Where" and "Needs". The same bits, for several pictures.
#include "reduction.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "checkpoint.hpp"
#include "model.hpp"
#include "run.hpp"
#include "tokenfold/tokenfold.hpp"

namespace {

namespace tf = tokenfold;
using llava::Choice;
using llava::DecoderHooks;
using llava::Hook;
using llava::Index;
using llava::LayerStep;
using llava::Matrix;
using llava::Model;
using llava::Prompt;
using tf::PositionRule;

using Logits = std::vector<float>;
/// What a layer, by its number, keeps or discards.
using ByLayer = std::map<Index, Index>;

constexpr tf::Grid grid{6, 6};
constexpr Index patches = 36;
constexpr Index third = 12;
constexpr Index before = 3;
constexpr Index after = 4;

/// Eight layers each, of which the encoder runs seven. Norms scale (DART compares normalised
/// tokens), queries are grouped, and RoPE has a base of its own.
llava::Config eight_layers(Index encoder_layers_run = 7) {
  llava::Config config;
  config.encoder = {.layers = 8,
                    .width = 12,
                    .heads = 2,
                    .ffn = 16,
                    .image_size = 12,
                    .patch_size = 2,
                    .layers_run = encoder_layers_run};
  config.decoder = {.layers = 8,
                    .width = 24,
                    .heads = 4,
                    .key_value_heads = 2,
                    .head_dim = 6,
                    .ffn = 32,
                    .vocabulary = 40,
                    .rope_theta = 100};
  return config;
}
const Model& small() {
  static const Model made(eight_layers(), llava_test::Checkpoint(eight_layers()).weights(),
                          llava::Threads{1});
  return made;
}
const Prompt& prompt() {
  static const Prompt words{{1, 5, 9}, {7, 8, 3, 22}};
  return words;
}

// ------------------------------------------------------------------------------ a run by hand

Logits decoded(const Model& model, const Matrix& input, const DecoderHooks& hooks) {
  llava::Cache cache = model.decoder.empty_cache();
  const llava::Vector logits = model.decoder.logits(model.decoder.prefill(input, cache, hooks));
  return {logits.begin(), logits.end()};
}
/// `image`: the picture's embeddings, to stand between the words.
Logits answer(const Model& model, const Matrix& image, const DecoderHooks& hooks = {}) {
  return decoded(model, llava::splice(model.decoder, prompt(), image), hooks);
}
Matrix without_cls(const Matrix& rows) { return rows.bottomRows(rows.rows() - 1); }

/// The embeddings of all patches that are left.
Matrix projected(const Model& model, const Matrix& picture, const Hook& in_encoder = {}) {
  return model.projector.run(without_cls(model.encoder.run(picture, in_encoder).hidden));
}

Matrix applied(const tf::ReductionPlan& plan, const Matrix& rows) {
  Matrix out(plan.output_tokens(), rows.cols());
  plan.apply(rows, out);
  return out;
}
/// Rows without [CLS].
Matrix applied_to_patches(const tf::ReductionPlan& plan, const Matrix& rows) {
  Matrix out(plan.visual().size(), rows.cols());
  plan.apply_rows(plan.visual(), rows, out);
  return out;
}

/// The picture's tokens in an encoder or a decoder, from layer to layer.
struct Tokens {
  tf::Survivors survivors;

  static Tokens in_encoder() { return {tf::Survivors(tf::TokenLayout::encoder(grid))}; }
  static Tokens in_decoder(Index visual) {
    return {tf::Survivors(tf::TokenLayout::decoder(before, visual, after))};
  }
  const tf::TokenLayout& layout() const { return survivors.layout(); }
  void shorten(LayerStep& step, const tf::ReductionPlan& plan,
               PositionRule rule = PositionRule::original) {
    step.shorten(plan, rule);
    survivors.advance(plan);
  }
};

auto attention_of(const LayerStep& step) { return tf::QueryKeyAttention(step.queries, step.keys); }
auto causal_attention_of(const LayerStep& step) {
  return tf::QueryKeyAttention(step.queries, step.keys, {.causal = true});
}
/// Before the softmax, and before any mask.
auto logits_of(const LayerStep& step) {
  return tf::QueryKeyAttention(step.queries, step.keys, {.kind = tf::AttentionKind::logits});
}

/// `by_hand`: logits of a picture.
template <class ByHand>
void expect_same(const Choice& choice, const Model& model, ByHand&& by_hand) {
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    const Matrix picture = llava_test::random_rows(3, 12 * 12, seed);
    const Logits expected = by_hand(picture);
    EXPECT_TRUE(
        llava_test::same_bits(llava::run(model, picture, prompt(), choice, 1).logits, expected))
        << choice.method << ", picture " << seed;
  }
}
template <class ByHand>
void expect_same(const Choice& choice, ByHand&& by_hand) {
  expect_same(choice, small(), by_hand);
}

// -------------------------------------------------------------------------- inside the encoder

/// `source`: of a step.
template <class Source>
Matrix reduced_by_ficoco_v(const tf::FiCoCoV& method, Index discard, const Source& source,
                           const Matrix& picture) {
  Tokens tokens = Tokens::in_encoder();
  return projected(small(), picture, [&](LayerStep& step) {
    if (step.layer < 4) return;
    const tf::Sequence sequence(tokens.layout(), source(step));
    tokens.shorten(step, method.plan(sequence, tf::Budget::discard(discard)));
  });
}

TEST(LlavaPlacement, ficoco_v_reads_each_layers_attention_from_the_twelfth_of_24_on) {
  expect_same({.method = "ficoco_v", .keep = third}, [](const Matrix& picture) {
    return answer(small(), reduced_by_ficoco_v({}, 8, attention_of, picture));
  });
}
TEST(LlavaPlacement, released_ficoco_v_reads_logits) {
  const Choice choice{.method = "ficoco_v", .options = {{"preset", "released"}}, .keep = third};
  expect_same(choice, [](const Matrix& picture) {
    return answer(small(), reduced_by_ficoco_v(tf::ficoco_v_released(), 8, logits_of, picture));
  });
}

/// Three tokens go in each of seven layers, by `method`.
template <class Method>
void expect_tome(const char* name, const Method& method) {
  expect_same({.method = name, .keep = patches - 7 * 3}, [&](const Matrix& picture) {
    Tokens tokens = Tokens::in_encoder();
    std::vector<float> sizes(1 + patches, 1.0F);
    return answer(small(), projected(small(), picture, [&](LayerStep& step) {
                    step.weigh_by_size();  // log n in the next layer's attention
                    const tf::Sequence sequence(tokens.layout(), tf::Keys(step.keys),
                                                tf::Sizes(sizes));
                    const tf::ReductionPlan plan = method.plan(sequence, tf::Budget::discard(3));
                    std::vector<float> merged(llava_test::size(plan.output_tokens()));
                    plan.sizes(sizes, merged);
                    sizes = merged;
                    tokens.shorten(step, plan);
                  }));
  });
}
TEST(LlavaPlacement, tome_reads_keys_and_sizes_which_weigh_in_the_next_layer) {
  expect_tome("tome", tf::ToMe{});
}
TEST(LlavaPlacement, tomes_other_matchers_are_weighed_likewise) {
  expect_tome("tome_every_kth", tf::ToMeEveryKth{});
  expect_tome("tome_random", tf::ToMeRandom{});
}

TEST(LlavaPlacement, evit_reads_attention_in_layers_4_7_and_10_of_12) {
  expect_same({.method = "evit", .keep = third}, [](const Matrix& picture) {
    Tokens tokens = Tokens::in_encoder();
    const ByLayer keep = {{2, 25}, {4, 17}, {6, 12}};
    return answer(small(), projected(small(), picture, [&](LayerStep& step) {
                    if (!keep.contains(step.layer)) return;
                    const tf::Sequence sequence(tokens.layout(), attention_of(step));
                    const auto budget = tf::Budget::keep(keep.at(step.layer));
                    tokens.shorten(step, tf::EViT{}.plan(sequence, budget));
                  }));
  });
}

TEST(LlavaPlacement, ivtp_reads_the_attention_of_three_layers_and_values_of_the_last) {
  expect_same({.method = "ivtp", .keep = third}, [](const Matrix& picture) {
    Tokens tokens = Tokens::in_encoder();
    std::vector<llava::QueriesKeys> seen(8);
    const ByLayer keep = {{2, 21}, {5, 12}};
    return answer(small(), projected(small(), picture, [&](LayerStep& step) {
                    const std::size_t l = llava_test::size(step.layer);
                    seen[l] = {llava_test::joined(step.queries), llava_test::joined(step.keys)};
                    if (!keep.contains(step.layer)) return;
                    std::vector<tf::QueryKeyAttention<float>> group;
                    for (const std::size_t layer : {l - 2, l - 1, l}) {
                      group.emplace_back(tf::split_heads(seen[layer].queries, 2),
                                         tf::split_heads(seen[layer].keys, 2));
                    }
                    const tf::Sequence sequence(tokens.layout(), tf::AttentionLayers(group),
                                                tf::Values(step.values));
                    const auto budget = tf::Budget::keep(keep.at(step.layer));
                    tokens.shorten(step, tf::IVTP{}.plan(sequence, budget));
                  }));
  });
}

// -------------------------------------------------------------------------- behind the encoder

/// By the queries and keys that layer `layer` makes of the last hidden states.
Logits merged_by(const Model& model, Index layer, const tf::PruMerge& method,
                 const tf::Budget& budget, const Matrix& picture) {
  const auto encoded = model.encoder.run(picture);
  const auto [queries, keys] = model.encoder.project(layer, encoded.hidden);
  const auto layout = tf::TokenLayout::encoder(grid);
  const tf::QueryKeyAttention attention(tf::split_heads(queries, 2), tf::split_heads(keys, 2));
  const auto plan = method.plan(tf::Sequence(layout, attention), budget);
  EXPECT_EQ(plan.visual().size(), plan.output_tokens() - 1);  // the appended token is one of them
  return answer(model, model.projector.run(applied_to_patches(plan, encoded.hidden)));
}

TEST(LlavaPlacement, prumerge_reads_queries_and_keys_of_the_encoders_last_layer) {
  const auto twelve = tf::Budget::keep(third);
  expect_same({.method = "prumerge", .keep = third},
              [&](const Matrix& picture) { return merged_by(small(), 7, {}, twelve, picture); });
  expect_same({.method = "prumerge_plus", .keep = third}, [&](const Matrix& picture) {
    return merged_by(small(), 7, tf::prumerge_plus(), twelve, picture);
  });
  expect_same({.method = "prumerge"}, [](const Matrix& picture) {
    return merged_by(small(), 7, {}, tf::Budget::adaptive(), picture);
  });
}

TEST(LlavaPlacement, prumerge_reads_those_that_the_last_layer_had_if_all_of_them_run) {
  const llava::Config config = eight_layers(8);
  const Model model(config, llava_test::Checkpoint(config).weights(), llava::Threads{1});
  expect_same({.method = "prumerge", .keep = third}, model, [&](const Matrix& picture) {
    const auto encoded = model.encoder.run(picture);
    const auto layout = tf::TokenLayout::encoder(grid);
    const tf::QueryKeyAttention attention(tf::split_heads(encoded.last.queries, 2),
                                          tf::split_heads(encoded.last.keys, 2));
    const auto plan = tf::PruMerge{}.plan(tf::Sequence(layout, attention), tf::Budget::keep(third));
    return answer(model, model.projector.run(applied_to_patches(plan, encoded.hidden)));
  });
}

TEST(LlavaPlacement, visionzip_reads_the_attention_that_made_the_hidden_states_and_keeps_cls) {
  expect_same({.method = "visionzip", .keep = third}, [](const Matrix& picture) {
    const auto encoded = small().encoder.run(picture);
    const auto layout = tf::TokenLayout::encoder(grid);
    const auto keys = tf::split_heads(encoded.last.keys, 2);
    const tf::QueryKeyAttention attention(tf::split_heads(encoded.last.queries, 2), keys);
    const auto plan = tf::VisionZip{}.plan(tf::Sequence(layout, attention, tf::Keys(keys)),
                                           tf::Budget::keep(third));
    EXPECT_EQ(plan.output_tokens(), 1 + third);
    return answer(small(), small().projector.run(applied(plan, encoded.hidden)));
  });
}

TEST(LlavaPlacement, scope_reads_hidden_states_and_the_attention_that_made_them) {
  expect_same({.method = "scope", .keep = third}, [](const Matrix& picture) {
    const auto encoded = small().encoder.run(picture);
    const auto layout = tf::TokenLayout::encoder(grid);
    const tf::QueryKeyAttention attention(tf::split_heads(encoded.last.queries, 2),
                                          tf::split_heads(encoded.last.keys, 2));
    const auto features = tf::Features(tf::MatrixView(encoded.hidden));
    const auto plan =
        tf::SCOPE{}.plan(tf::Sequence(layout, attention, features), tf::Budget::keep(third));
    return answer(small(), small().projector.run(applied_to_patches(plan, encoded.hidden)));
  });
}

/// Behind the projector there is no [CLS] any more.
const tf::TokenLayout& projected_layout() {
  static const auto layout = tf::TokenLayout::encoder(grid, tf::ClsToken::none);
  return layout;
}

TEST(LlavaPlacement, divprune_reads_projected_tokens) {
  expect_same({.method = "divprune", .keep = third}, [](const Matrix& picture) {
    const Matrix image = projected(small(), picture);
    const tf::Sequence sequence(projected_layout(), tf::Features(tf::MatrixView(image)));
    const auto plan = tf::DivPrune{}.plan(sequence, tf::Budget::keep(third));
    return answer(small(), applied(plan, image));
  });
}

TEST(LlavaPlacement, cdpruner_reads_projected_tokens_and_the_mean_of_the_question) {
  expect_same({.method = "cdpruner", .keep = third}, [](const Matrix& picture) {
    const Matrix image = projected(small(), picture);
    const Matrix mean = small().decoder.embed(prompt().after).colwise().mean();
    const tf::Sequence sequence(projected_layout(), tf::Features(tf::MatrixView(image)),
                                tf::ImageEmbeddings(tf::MatrixView(image)),
                                tf::TextEmbeddings(tf::MatrixView(mean)));
    const auto plan = tf::CDPruner{}.plan(sequence, tf::Budget::keep(third));
    return answer(small(), applied(plan, image));
  });
}

TEST(LlavaPlacement, mmtok_reads_tokens_behind_and_before_the_projector_and_the_question) {
  expect_same({.method = "mmtok", .keep = third}, [](const Matrix& picture) {
    const Matrix hidden = without_cls(small().encoder.run(picture).hidden);
    const Matrix image = small().projector.run(hidden);
    const Matrix question = small().decoder.embed(prompt().after);
    const tf::Sequence sequence(projected_layout(), tf::Features(tf::MatrixView(image)),
                                tf::ImageEmbeddings(tf::MatrixView(hidden)),
                                tf::TextEmbeddings(tf::MatrixView(question)));
    const auto plan = tf::MMTok{}.plan(sequence, tf::Budget::keep(third));
    return answer(small(), applied(plan, image));
  });
}

TEST(LlavaPlacement, tops_reads_projected_tokens_and_what_cls_pays) {
  expect_same({.method = "tops", .keep = third}, [](const Matrix& picture) {
    const auto encoded = small().encoder.run(picture);
    const auto layout = tf::TokenLayout::encoder(grid);
    const tf::QueryKeyAttention attention(tf::split_heads(encoded.last.queries, 2),
                                          tf::split_heads(encoded.last.keys, 2));
    const Matrix image = small().projector.run(without_cls(encoded.hidden));
    const auto features = tf::Features(tf::MatrixView(image), 1);  // row 0 is [CLS]
    const auto plan =
        tf::TOPS{}.plan(tf::Sequence(layout, attention, features), tf::Budget::keep(third));
    return answer(small(), applied(plan.within({1, 1 + patches}), image));
  });
}

// -------------------------------------------------------------------------- inside the decoder

/// `discard`: how many go in which layer; `source`: of a step.
template <class Source>
Logits reduced_by_ficoco_l(const tf::FiCoCoL& method, const ByLayer& discard, const Source& source,
                           const Matrix& image) {
  Tokens tokens = Tokens::in_decoder(image.rows());
  const Hook reduce = [&](LayerStep& step) {
    if (!discard.contains(step.layer)) return;
    const tf::Sequence sequence(tokens.layout(), source(step));
    tokens.shorten(step, method.plan(sequence, tf::Budget::discard(discard.at(step.layer))));
  };
  return answer(small(), image, {.after_attention = reduce});
}
const ByLayer ficoco_l_discards = {{1, 4}, {2, 4}, {3, 4}, {4, 3}, {5, 3}, {6, 3}, {7, 3}};

TEST(LlavaPlacement, ficoco_l_reads_causal_attention_from_the_fourth_layer_of_32_on) {
  expect_same({.method = "ficoco_l", .keep = third}, [](const Matrix& picture) {
    return reduced_by_ficoco_l({}, ficoco_l_discards, causal_attention_of,
                               projected(small(), picture));
  });
}
TEST(LlavaPlacement, released_ficoco_l_reads_logits) {
  const Choice choice{.method = "ficoco_l", .options = {{"preset", "released"}}, .keep = third};
  expect_same(choice, [](const Matrix& picture) {
    return reduced_by_ficoco_l(tf::ficoco_l_released(), ficoco_l_discards, logits_of,
                               projected(small(), picture));
  });
}

TEST(LlavaPlacement, ficoco_vl_is_both_one_after_the_other) {
  expect_same({.method = "ficoco_vl", .keep = third}, [](const Matrix& picture) {
    const Matrix image = reduced_by_ficoco_v({}, 4, attention_of, picture);
    EXPECT_EQ(image.rows(), patches - 3 * 4);
    const ByLayer discard = {{1, 2}, {2, 2}, {3, 2}, {4, 2}, {5, 2}, {6, 1}, {7, 1}};
    return reduced_by_ficoco_l({}, discard, causal_attention_of, image);
  });
}

TEST(LlavaPlacement, fastv_reads_the_attention_of_the_second_layer) {
  expect_same({.method = "fastv", .keep = third}, [](const Matrix& picture) {
    const auto layout = tf::TokenLayout::decoder(before, patches, after);
    const Hook reduce = [&](LayerStep& step) {
      if (step.layer != 1) return;
      const tf::Sequence sequence(layout, causal_attention_of(step));
      step.shorten(tf::FastV{}.plan(sequence, tf::Budget::keep(third)), PositionRule::original);
    };
    return answer(small(), projected(small(), picture), {.after_layer = reduce});
  });
}
TEST(LlavaPlacement, published_fastv_reads_causal_attention) {
  const Choice choice{.method = "fastv", .options = {{"preset", "published"}}, .keep = third};
  expect_same(choice, [](const Matrix& picture) {
    const auto layout = tf::TokenLayout::decoder(before, patches, after);
    const Hook reduce = [&](LayerStep& step) {
      if (step.layer != 1) return;
      const tf::Sequence sequence(layout, causal_attention_of(step));
      step.shorten(tf::fastv_published().plan(sequence, tf::Budget::keep(third)));
    };
    return answer(small(), projected(small(), picture), {.after_layer = reduce});
  });
}

TEST(LlavaPlacement, dart_reads_normalised_hidden_states_and_keys_of_the_layer_before) {
  expect_same({.method = "dart", .keep = third}, [](const Matrix& picture) {
    const auto layout = tf::TokenLayout::decoder(before, patches, after);
    const Hook reduce = [&](LayerStep& step) {
      if (step.layer != 1) return;
      const Matrix normalised = small().decoder.normalised(step.hidden());
      const tf::Sequence sequence(layout, tf::Features(tf::MatrixView(normalised)),
                                  tf::Keys(step.keys));
      step.shorten(tf::DART{}.plan(sequence, tf::Budget::keep(third)), PositionRule::original);
    };
    return answer(small(), projected(small(), picture), {.after_layer = reduce});
  });
}

/// A quarter of 32 layers is two of eight; each pruning keeps the same share.
const ByLayer pyramid = {{2, 25}, {4, 17}, {6, 12}};

TEST(LlavaPlacement, pyramiddrop_reads_queries_and_keys_of_the_next_layer) {
  expect_same({.method = "pyramiddrop", .keep = third}, [](const Matrix& picture) {
    Tokens tokens = Tokens::in_decoder(patches);
    const Hook reduce = [&](LayerStep& step) {
      if (!pyramid.contains(step.layer)) return;
      const tf::Sequence sequence(tokens.layout(), causal_attention_of(step));
      const auto budget = tf::Budget::keep(pyramid.at(step.layer));
      tokens.shorten(step, tf::PyramidDrop{}.plan(sequence, budget), PositionRule::packed);
    };
    return answer(small(), projected(small(), picture), {.before_attention = reduce});
  });
}

/// Layers 2, 6 and 15 of 32.
const ByLayer sparse = {{1, 25}, {2, 17}, {4, 12}};

/// `budget_of`: of a layer in `sparse`.
template <class BudgetOf>
Logits sparsified(const tf::SparseVLM& method, const BudgetOf& budget_of, const Matrix& input,
                  tf::RaterThreshold threshold = tf::RaterThreshold::above_mean) {
  Tokens tokens = Tokens::in_decoder(patches);
  // Once, by the input embeddings.
  std::vector<tf::Token> raters = tf::text_raters(tokens.layout(), input, threshold);
  const Hook reduce = [&](LayerStep& step) {
    if (!sparse.contains(step.layer)) return;
    const tf::Sequence sequence(tokens.layout(), causal_attention_of(step), tf::Raters(raters),
                                tf::Features(tf::MatrixView(step.hidden())));
    const tf::ReductionPlan plan = method.plan(sequence, budget_of(step.layer));
    tf::follow_raters(plan, raters);
    tokens.shorten(step, plan, PositionRule::packed);
  };
  return decoded(small(), input, {.after_layer = reduce});
}
tf::Budget sparse_budget(Index layer) { return tf::Budget::keep(sparse.at(layer)); }
Matrix input_of(const Matrix& picture) {
  return llava::splice(small().decoder, prompt(), projected(small(), picture));
}

TEST(LlavaPlacement, sparsevlm_asks_the_raters_of_the_input_behind_three_layers) {
  expect_same({.method = "sparsevlm", .keep = third}, [](const Matrix& picture) {
    return sparsified({}, sparse_budget, input_of(picture));
  });
  expect_same({.method = "sparsevlm"}, [](const Matrix& picture) {
    return sparsified(
        {}, [](Index) { return tf::Budget::adaptive(); }, input_of(picture));
  });
}

TEST(LlavaPlacement, published_sparsevlm_asks_those_at_the_mean_too) {
  // The four words have half, a quarter, a quarter and nothing of the patches, each all of it.
  Matrix input = Matrix::Zero(before + patches + after, small().config.decoder.width);
  input.topRows(before).setOnes();
  for (Index patch = 0; patch < patches; ++patch) {
    input(before + patch, patch % 4 == 3 ? 0 : patch % 4) = 100;
    input(before + patch, 4 + patch % 20) = static_cast<float>(patch - 18);  // not all alike
  }
  for (Index word = 0; word < after; ++word) input(before + patches + word, word) = 10;

  using tf::RaterThreshold;
  const auto layout = tf::TokenLayout::decoder(before, patches, after);
  constexpr Index first = before + patches;
  EXPECT_THAT(tf::text_raters(layout, input, RaterThreshold::above_mean),
              testing::ElementsAre(first));
  EXPECT_THAT(tf::text_raters(layout, input, RaterThreshold::at_least_mean),
              testing::ElementsAre(first, first + 1, first + 2));

  const auto by_name = [&](const char* preset) {
    llava::Reduction reduction(
        small(), prompt(), {.method = "sparsevlm", .options = {{"preset", preset}}, .keep = third});
    return decoded(small(), input, reduction.in_decoder(input));
  };
  const auto same = [](const Logits& a, const Logits& b) { return llava_test::same_bits(a, b); };
  const tf::SparseVLM published = tf::sparsevlm_published();
  const Logits at_least =
      sparsified(published, sparse_budget, input, RaterThreshold::at_least_mean);
  EXPECT_TRUE(same(by_name("published"), at_least));
  EXPECT_FALSE(same(sparsified(published, sparse_budget, input), at_least));
  EXPECT_TRUE(same(by_name("released"), sparsified({}, sparse_budget, input)));
}

Logits sparsified(const tf::SparseVLMv2& method, const Matrix& input) {
  Tokens tokens = Tokens::in_decoder(patches);
  std::vector<tf::Token> raters = tf::text_raters(tokens.layout(), input);
  const Hook reduce = [&](LayerStep& step) {
    if (!sparse.contains(step.layer)) return;
    // Positions stay what they were: rows of the input.
    const auto rows = tokens.survivors.total().kept();
    const std::vector<std::int32_t> positions(rows.begin(), rows.end());
    const tf::Sequence sequence(tokens.layout(), causal_attention_of(step), tf::Raters(raters),
                                tf::Positions(positions));
    const tf::ReductionPlan plan = method.plan(sequence, sparse_budget(step.layer));
    tf::follow_raters(plan, raters);
    tokens.shorten(step, plan, PositionRule::original);
  };
  return decoded(small(), input, {.after_layer = reduce});
}

TEST(LlavaPlacement, sparsevlm_v2_reads_positions_and_knows_how_they_rotate) {
  tf::SparseVLMv2 method;
  method.filter.rope.theta = 100;
  expect_same({.method = "sparsevlm_v2", .keep = third},
              [&](const Matrix& picture) { return sparsified(method, input_of(picture)); });
  method = tf::sparsevlm_v2_released();
  method.filter.rope.theta = 100;
  expect_same({.method = "sparsevlm_v2", .options = {{"preset", "released"}}, .keep = third},
              [&](const Matrix& picture) { return sparsified(method, input_of(picture)); });
  method.filter.rope.theta = 7;
  const std::vector<tf::OptionSetting> options{{"preset", "released"}, {"rope_theta", "7"}};
  expect_same({.method = "sparsevlm_v2", .options = options, .keep = third},
              [&](const Matrix& picture) { return sparsified(method, input_of(picture)); });
}

}  // namespace
