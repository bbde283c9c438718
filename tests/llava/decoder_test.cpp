// SPDX-License-Identifier: Apache-2.0
// The decoder and its cache against a reference that has none: it computes prompt and answer from
// scratch, each layer on the rows that a reduction left it.
#include "decoder.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint.hpp"
#include "support/outcome.hpp"
#include "tokenfold/core/query_key_attention.hpp"
#include "tokenfold/methods/ficoco_l.hpp"

namespace {

using llava::Cache;
using llava::DecoderHooks;
using llava::Hook;
using llava::Index;
using llava::LayerStep;
using llava::Matrix;
using llava::Vector;
using llava_test::Checkpoint;
using llava_test::near;
using llava_test::random_rows;
using llava_test::same_bits;
using llava_test::size;
using testing::ElementsAre;
using testing::HasSubstr;
using tokenfold::PositionRule;
using tokenfold::ReductionPlan;
using tokenfold::TokenLayout;

/// 3 rows of text, 8 of picture, 4 of text.
constexpr Index before = 3;
constexpr Index visual = 8;
constexpr Index after = 4;
constexpr Index prompt = before + visual + after;

/// The answer, whatever the logits say.
const std::vector<std::int64_t> answer = {5, 0, 30, 7};

llava::Config small_model() {
  llava::Config config;
  config.encoder = {
      .layers = 1, .width = 4, .heads = 1, .ffn = 4, .image_size = 4, .patch_size = 4};
  config.decoder = {.layers = 5,
                    .width = 20,
                    .heads = 4,
                    .key_value_heads = 2,
                    .head_dim = 6,
                    .ffn = 28,
                    .vocabulary = 31,
                    .norm_epsilon = 0.05F,
                    .rope_theta = 100};
  return config;
}

// --------------------------------------------------------------------------------------- plans

/// Keeps the picture's tokens with these numbers, all of the text.
ReductionPlan selection(Index visual_before, const std::vector<Index>& kept) {
  const TokenLayout layout = TokenLayout::decoder(before, visual_before, after);
  tokenfold::Workspace workspace;
  ReductionPlan plan;
  tokenfold::PlanWriter writer(layout, plan);
  for (const Index i : kept) {
    const auto row = static_cast<tokenfold::Token>(before + i);
    writer.begin_row(row);
    writer.add(row, 1);
  }
  writer.finish(workspace);
  return plan;
}

/// Of 8 tokens: 0 stays, 1 and 2 merge into 3, 5 and 6 into 5, 4 is lost, a synthetic token is made
/// of 6 and 7.
ReductionPlan merging() {
  const TokenLayout layout = TokenLayout::decoder(before, visual, after);
  tokenfold::Workspace workspace;
  ReductionPlan plan;
  tokenfold::PlanWriter writer(layout, plan);
  const auto row = [&](Index kept, std::vector<std::pair<Index, double>> sources) {
    if (kept >= 0) {
      writer.begin_row(static_cast<tokenfold::Token>(before + kept));
    } else {
      writer.begin_extra_row();
    }
    for (const auto& [i, weight] : sources) {
      writer.add(static_cast<tokenfold::Token>(before + i), weight);
    }
  };
  row(0, {{0, 1}});
  row(3, {{1, 0.25}, {2, 0.25}, {3, 0.5}});
  row(5, {{5, 0.75}, {6, 0.25}});
  row(-1, {{6, 0.5}, {7, 0.75}});
  writer.finish(workspace);
  return plan;
}

/// The same as a matrix, by hand.
reference::Matrix merging_matrix() {
  reference::Matrix w(before + 4 + after, prompt);
  for (std::size_t i = 0; i < before; ++i) w(i, i) = 1;
  w(3, 3) = 1;
  w(4, 4) = 0.25, w(4, 5) = 0.25, w(4, 6) = 0.5;
  w(5, 8) = 0.75, w(5, 9) = 0.25;
  w(6, 9) = 0.5, w(6, 10) = 0.75;
  for (std::size_t i = 0; i < after; ++i) w(7 + i, 11 + i) = 1;
  return w;
}

/// Rows of the sequence that `selection` leaves.
reference::Rows selected_rows(Index visual_before, const std::vector<Index>& kept) {
  reference::Rows rows;
  for (Index i = 0; i < before; ++i) rows.push_back(size(i));
  for (const Index i : kept) rows.push_back(size(before + i));
  for (Index i = 0; i < after; ++i) rows.push_back(size(before + visual_before + i));
  return rows;
}

reference::Matrix selecting(const reference::Rows& rows, std::size_t of) {
  reference::Matrix w(rows.size(), of);
  for (std::size_t i = 0; i < rows.size(); ++i) w(i, rows[i]) = 1;
  return w;
}

// ------------------------------------------------------------------------------- the reference

std::vector<double> counted(Index n) {
  std::vector<double> positions(size(n));
  std::iota(positions.begin(), positions.end(), 0.0);
  return positions;
}

/// A layer's part in the prefill, and the position at which its answer begins.
struct PromptLayer {
  reference::LlamaLayer layer;
  double next_position = prompt;
};

std::vector<PromptLayer> unreduced(Index layers) {
  return std::vector<PromptLayer>(size(layers), {{.positions = counted(prompt)}, prompt});
}

/// With `count` further rows that no reduction touches.
std::vector<reference::LlamaLayer> with_answer(const std::vector<PromptLayer>& prompt_layers,
                                               std::size_t count) {
  std::size_t rows = prompt;  // of the prompt that enter the layer
  const auto widened = [&](std::optional<reference::Matrix>& w) {
    if (!w) return;
    ASSERT_EQ(w->cols, rows);
    reference::Matrix wide(w->rows + count, rows + count);
    for (std::size_t i = 0; i < w->rows; ++i) {
      for (std::size_t j = 0; j < rows; ++j) wide(i, j) = (*w)(i, j);
    }
    for (std::size_t i = 0; i < count; ++i) wide(w->rows + i, rows + i) = 1;
    rows = w->rows;
    w = wide;
  };
  std::vector<reference::LlamaLayer> layers;
  for (const PromptLayer& from : prompt_layers) {
    reference::LlamaLayer layer = from.layer;
    if (layer.attending) {
      const std::size_t left = layer.attending->size();
      for (std::size_t i = 0; i < count; ++i) layer.attending->push_back(rows + i);
      rows = left;
    }
    EXPECT_EQ(layer.positions.size(), rows);
    layer.late = rows;
    for (std::size_t i = 0; i < count; ++i) {
      layer.positions.push_back(from.next_position + static_cast<double>(i));
    }
    widened(layer.after_attention);
    widened(layer.after_layer);
    layers.push_back(layer);
  }
  return layers;
}

// ------------------------------------------------------------------------------------ the tests

class LlavaDecoder : public testing::Test {
 protected:
  const llava::Config config = small_model();
  const Checkpoint checkpoint{config};
  llava::Weights weights = checkpoint.weights();
  const llava::Decoder decoder{config.decoder, weights, llava::Threads{1}};
  const Matrix input = random_rows(prompt, config.decoder.width, 11);
  Cache cache = decoder.empty_cache();

  reference::LlamaOutput expected(const std::vector<PromptLayer>& layers,
                                  std::size_t answered = 0) const {
    const reference::LlamaShape shape = llava_test::shape_of(config.decoder);
    reference::Matrix rows = llava_test::doubles(input);
    const reference::Matrix late =
        reference::embed(shape, checkpoint.source(),
                         {answer.begin(), answer.begin() + static_cast<std::ptrdiff_t>(answered)});
    rows.values.insert(rows.values.end(), late.values.begin(), late.values.end());
    rows.rows += late.rows;
    return reference::run_llama(shape, checkpoint.source(), rows, with_answer(layers, answered));
  }

  void expect_prefill(const Matrix& hidden, const std::vector<PromptLayer>& layers) const {
    const reference::LlamaOutput all = expected(layers);
    EXPECT_TRUE(near(hidden, all.hidden));
    EXPECT_TRUE(near(decoder.all_logits(hidden), all.logits));
    EXPECT_TRUE(
        near(decoder.logits(hidden), reference::some_rows(all.logits, {all.logits.rows - 1})));
  }
  /// Token by token.
  void expect_answer(const std::vector<PromptLayer>& layers) {
    for (std::size_t i = 0; i < answer.size(); ++i) {
      const std::int64_t token[] = {answer[i]};
      const Matrix hidden = decoder.decode(decoder.embed(token), cache);
      const reference::LlamaOutput all = expected(layers, i + 1);
      const reference::Rows last = {all.hidden.rows - 1};
      EXPECT_TRUE(near(hidden, reference::some_rows(all.hidden, last))) << "token " << i;
      EXPECT_TRUE(near(decoder.logits(hidden), reference::some_rows(all.logits, last)))
          << "token " << i;
    }
  }
  std::vector<Index> lengths() const {
    std::vector<Index> result;
    for (const llava::LayerCache& layer : cache) result.push_back(layer.length);
    return result;
  }
  std::vector<Index> next_positions() const {
    std::vector<Index> result;
    for (const llava::LayerCache& layer : cache) result.push_back(layer.next_position);
    return result;
  }
};

TEST_F(LlavaDecoder, prefill_and_decoding_equal_the_reference) {
  const auto layers = unreduced(config.decoder.layers);
  expect_prefill(decoder.prefill(input, cache), layers);
  EXPECT_THAT(lengths(), ElementsAre(15, 15, 15, 15, 15));
  expect_answer(layers);
  EXPECT_THAT(lengths(), ElementsAre(19, 19, 19, 19, 19));
}

TEST_F(LlavaDecoder, several_tokens_at_once_equal_one_after_the_other) {
  decoder.prefill(input, cache);
  const Matrix hidden = decoder.decode(decoder.embed(answer), cache);
  const reference::LlamaOutput all = expected(unreduced(config.decoder.layers), answer.size());
  EXPECT_TRUE(near(hidden, reference::some_rows(all.hidden, {15, 16, 17, 18})));
  EXPECT_THAT(next_positions(), ElementsAre(19, 19, 19, 19, 19));
}

TEST_F(LlavaDecoder, one_token_is_a_prompt) {
  const Matrix hidden = decoder.prefill(input.topRows(1), cache);
  const auto all = expected(unreduced(config.decoder.layers));
  EXPECT_TRUE(near(hidden, reference::some_rows(all.hidden, {0})));  // later ones are not seen
}

TEST_F(LlavaDecoder, hooks_are_shown_what_attention_takes) {
  const reference::LlamaOutput all = expected(unreduced(config.decoder.layers));
  std::vector<std::string> calls;
  const auto look = [&](const char* where) {
    return [&, where](LayerStep& step) {
      const std::size_t l = size(step.layer);
      calls.push_back(where + std::to_string(step.layer));
      EXPECT_TRUE(near(llava_test::joined(step.queries), llava_test::joined(all.queries[l])));
      EXPECT_TRUE(near(llava_test::joined(step.keys), llava_test::joined(all.keys[l])));
      EXPECT_TRUE(near(llava_test::joined(step.values), llava_test::joined(all.values[l])));
      EXPECT_EQ(step.hidden().rows(), prompt);
      EXPECT_EQ(step.positions().size(), size(prompt));
      EXPECT_EQ(step.positions()[5], 5);
      EXPECT_EQ(step.sizes()[5], 1);
      EXPECT_TRUE(step.key_bias().empty());
      if (where[0] == 'c' && step.layer == config.decoder.layers - 1) {
        EXPECT_TRUE(near(step.hidden(), all.hidden));
      }
      if (where[0] == 'a' && step.layer == 0) {
        EXPECT_TRUE(same_bits(step.hidden(), input));
      }
    };
  };
  const Matrix watched = decoder.prefill(input, cache, {look("a"), look("b"), look("c")});
  EXPECT_THAT(calls, ElementsAre("a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2", "a3", "b3",
                                 "c3", "a4", "b4", "c4"));
  Cache other = decoder.empty_cache();
  EXPECT_TRUE(same_bits(watched, decoder.prefill(input, other)));
}

// ------------------------------------------------------------------------------- behind a layer

const std::vector<Index> some = {0, 3, 4, 6};
const std::vector<double> gaps = {0, 1, 2, 3, 6, 7, 9, 11, 12, 13, 14};

Hook drop_at(Index layer, ReductionPlan plan, PositionRule rule) {
  return [=](LayerStep& step) {
    if (step.layer == layer) step.shorten(plan, rule);
  };
}

/// FastV: behind layer 1, positions as they were.
std::vector<PromptLayer> dropped_behind_layer_1() {
  auto layers = unreduced(5);
  layers[1].layer.after_layer = selecting(selected_rows(visual, some), prompt);
  for (std::size_t l = 2; l < 5; ++l) layers[l].layer.positions = gaps;
  return layers;
}

TEST_F(LlavaDecoder, a_drop_behind_a_layer_leaves_gaps_in_positions) {
  const auto layers = dropped_behind_layer_1();
  const Hook drop = drop_at(1, selection(visual, some), PositionRule::original);
  expect_prefill(decoder.prefill(input, cache, {.after_layer = drop}), layers);
  EXPECT_THAT(lengths(), ElementsAre(15, 15, 11, 11, 11));
  EXPECT_THAT(next_positions(), ElementsAre(15, 15, 15, 15, 15));
  expect_answer(layers);
  EXPECT_THAT(lengths(), ElementsAre(19, 19, 15, 15, 15));
  EXPECT_THAT(next_positions(), ElementsAre(19, 19, 19, 19, 19));
}

TEST_F(LlavaDecoder, what_the_drop_leaves_does_matter) {
  // The comparisons above can fail: other tokens, another rule, no reduction.
  const Hook drop = drop_at(1, selection(visual, some), PositionRule::original);
  const Matrix hidden = decoder.prefill(input, cache, {.after_layer = drop});
  const auto differs = [&](Hook other) {
    Cache fresh = decoder.empty_cache();
    const Matrix rows = decoder.prefill(input, fresh, {.after_layer = std::move(other)});
    return !near(Matrix(rows.bottomRows(1)), llava_test::doubles(Matrix(hidden.bottomRows(1))),
                 1e-3);
  };
  EXPECT_TRUE(differs(drop_at(1, selection(visual, {0, 3, 5, 6}), PositionRule::original)));
  EXPECT_TRUE(differs(drop_at(1, selection(visual, some), PositionRule::packed)));
  EXPECT_TRUE(differs(drop_at(2, selection(visual, some), PositionRule::original)));
  EXPECT_TRUE(differs({}));
}

TEST_F(LlavaDecoder, a_drop_behind_a_layer_packs_positions_if_asked) {
  auto layers = dropped_behind_layer_1();
  for (std::size_t l = 2; l < 5; ++l) {
    layers[l].layer.positions = counted(11);
    layers[l].next_position = 11;
  }
  const Hook drop = drop_at(1, selection(visual, some), PositionRule::packed);
  expect_prefill(decoder.prefill(input, cache, {.after_layer = drop}), layers);
  EXPECT_THAT(next_positions(), ElementsAre(15, 15, 11, 11, 11));
  expect_answer(layers);
  EXPECT_THAT(next_positions(), ElementsAre(19, 19, 15, 15, 15));
}

TEST_F(LlavaDecoder, a_drop_behind_the_last_layer_concerns_no_attention) {
  auto layers = unreduced(5);
  layers[4].layer.after_layer = selecting(selected_rows(visual, {}), prompt);
  const Hook drop = drop_at(4, selection(visual, {}), PositionRule::original);
  expect_prefill(decoder.prefill(input, cache, {.after_layer = drop}), layers);
  EXPECT_THAT(lengths(), ElementsAre(15, 15, 15, 15, 15));
  expect_answer(layers);
}

TEST_F(LlavaDecoder, generation_goes_on_behind_a_picture_that_ends_the_prompt) {
  // The prompt's last row is dropped, its position stays taken, as ReductionPlan::positions has it.
  const auto layout = TokenLayout::decoder(before, visual + after, 0);
  tokenfold::Workspace workspace;
  ReductionPlan plan;
  tokenfold::PlanWriter writer(layout, plan);
  for (const tokenfold::Token row : {4, 8, 12}) {
    writer.begin_row(row);
    writer.add(row, 1);
  }
  writer.finish(workspace);
  auto layers = unreduced(5);
  layers[1].layer.after_layer = selecting({0, 1, 2, 4, 8, 12}, prompt);
  for (std::size_t l = 2; l < 5; ++l) layers[l].layer.positions = {0, 1, 2, 4, 8, 12};
  decoder.prefill(input, cache, {.after_layer = drop_at(1, plan, PositionRule::original)});
  EXPECT_THAT(next_positions(), ElementsAre(15, 15, 15, 15, 15));
  expect_answer(layers);
}

// ---------------------------------------------------------------------------- before attention

TEST_F(LlavaDecoder, drops_before_attention_pack_positions_layer_by_layer) {
  // PyramidDrop, in layers 2 and 4.
  auto layers = unreduced(5);
  layers[2].layer.attending = selected_rows(visual, some);
  layers[4].layer.attending = selected_rows(4, {1, 3});
  for (const std::size_t l : {2U, 3U}) {
    layers[l].layer.positions = counted(11);
    layers[l].next_position = 11;
  }
  layers[4].layer.positions = counted(9);
  layers[4].next_position = 9;
  const auto drop = [&](LayerStep& step) {
    if (step.layer == 2) step.shorten(selection(visual, some), PositionRule::packed);
    if (step.layer == 4) step.shorten(selection(4, {1, 3}), PositionRule::packed);
  };
  expect_prefill(decoder.prefill(input, cache, {.before_attention = drop}), layers);
  EXPECT_THAT(lengths(), ElementsAre(15, 15, 11, 11, 9));
  EXPECT_THAT(next_positions(), ElementsAre(15, 15, 11, 11, 9));
  expect_answer(layers);
  EXPECT_THAT(lengths(), ElementsAre(19, 19, 15, 15, 13));
  EXPECT_THAT(next_positions(), ElementsAre(19, 19, 15, 15, 13));
}

TEST_F(LlavaDecoder, a_drop_before_attention_may_leave_gaps) {
  auto layers = unreduced(5);
  layers[0].layer.attending = selected_rows(visual, some);
  for (PromptLayer& layer : layers) layer.layer.positions = gaps;
  const Hook drop = drop_at(0, selection(visual, some), PositionRule::original);
  expect_prefill(decoder.prefill(input, cache, {.before_attention = drop}), layers);
  EXPECT_THAT(lengths(), ElementsAre(11, 11, 11, 11, 11));
  expect_answer(layers);
}

TEST_F(LlavaDecoder, refuses_to_merge_before_attention) {
  const Hook merge = drop_at(2, merging(), PositionRule::original);
  EXPECT_THAT(support::refusal([&] { decoder.prefill(input, cache, {.before_attention = merge}); }),
              HasSubstr("before attention tokens can only be dropped"));
}

// ----------------------------------------------------------------------------- after attention

TEST_F(LlavaDecoder, merges_after_attention) {
  for (const PositionRule rule : {PositionRule::original, PositionRule::packed}) {
    auto layers = unreduced(5);
    layers[2].layer.after_attention = merging_matrix();
    const bool packed = rule == PositionRule::packed;
    for (const std::size_t l : {3U, 4U}) {
      // The synthetic token stands where the picture ended.
      layers[l].layer.positions =
          packed ? counted(11) : std::vector<double>{0, 1, 2, 3, 6, 8, 10, 11, 12, 13, 14};
      layers[l].next_position = packed ? 11 : 15;
    }
    cache = decoder.empty_cache();
    const Hook merge = drop_at(2, merging(), rule);
    expect_prefill(decoder.prefill(input, cache, {.after_attention = merge}), layers);
    EXPECT_THAT(lengths(), ElementsAre(15, 15, 15, 11, 11));
    expect_answer(layers);
  }
}

TEST_F(LlavaDecoder, carries_how_many_tokens_each_row_stands_for) {
  // Token 6 lives on in two rows, by its weights of 0.25 and 0.5.
  const auto merge = [&](LayerStep& step) {
    if (step.layer == 2) step.shorten(merging());
    if (step.layer != 3) return;
    const std::vector<float> sizes(step.sizes().begin(), step.sizes().end());
    EXPECT_THAT(sizes, testing::Pointwise(testing::FloatEq(), {1.F, 1.F, 1.F, 1.F, 3.F, 1 + 1 / 3.F,
                                                               1 + 2 / 3.F, 1.F, 1.F, 1.F, 1.F}));
  };
  decoder.prefill(input, cache, {.after_attention = merge});
}

TEST_F(LlavaDecoder, runs_a_method_in_every_layer_after_attention) {
  // FiCoCo-L discards 2 in layers 1 to 3; the reference repeats what it decided.
  auto layers = unreduced(5);
  std::vector<double> positions = counted(prompt);
  tokenfold::Workspace workspace;
  ReductionPlan plan;
  Index left = visual;
  const auto reduce = [&](LayerStep& step) {
    if (step.layer == 0 || step.layer == 4) return;
    const TokenLayout layout = TokenLayout::decoder(before, left, after);
    const tokenfold::QueryKeyAttention attention(step.queries, step.keys, {.causal = true});
    tokenfold::FiCoCoL{}.plan(tokenfold::Sequence(layout, attention), tokenfold::Budget::discard(2),
                              workspace, plan);
    EXPECT_FALSE(plan.selects_only());
    step.shorten(plan);
    left -= 2;
    layers[size(step.layer)].layer.after_attention = support::dense_weights(plan);
    std::vector<double> kept;
    for (const tokenfold::Token row : plan.kept()) kept.push_back(positions[size(row)]);
    positions = kept;
    for (std::size_t l = size(step.layer) + 1; l < 5; ++l) layers[l].layer.positions = positions;
  };
  const Matrix hidden = decoder.prefill(input, cache, {.after_attention = reduce});
  EXPECT_EQ(hidden.rows(), prompt - 6);
  expect_prefill(hidden, layers);
  EXPECT_THAT(lengths(), ElementsAre(15, 15, 13, 11, 9));
  expect_answer(layers);
}

// ---------------------------------------------------------------------------------- the cache

TEST_F(LlavaDecoder, caches_of_earlier_layers_can_be_shortened_behind_the_prefill) {
  const ReductionPlan plan = selection(visual, some);
  auto layers = dropped_behind_layer_1();
  for (const std::size_t l : {0U, 1U}) layers[l].layer.forgotten = {4, 5, 8, 10};
  decoder.prefill(input, cache, {.after_layer = drop_at(1, plan, PositionRule::original)});
  tokenfold::Workspace workspace;
  cache[0].shorten(plan, workspace);
  cache[1].shorten(plan, workspace);
  EXPECT_THAT(lengths(), ElementsAre(11, 11, 11, 11, 11));
  EXPECT_THAT(next_positions(), ElementsAre(15, 15, 15, 15, 15));
  expect_answer(layers);
  EXPECT_THAT(lengths(), ElementsAre(15, 15, 15, 15, 15));
}

TEST_F(LlavaDecoder, a_cache_is_not_shortened_by_a_plan_for_another_length) {
  decoder.prefill(input, cache);
  const std::int64_t token[] = {1};
  decoder.decode(decoder.embed(token), cache);
  tokenfold::Workspace workspace;
  EXPECT_NE(support::refusal([&] { cache[0].shorten(selection(visual, some), workspace); }), "");
  EXPECT_NE(support::refusal([&] { cache[0].shorten(selection(visual + 3, some), workspace); }),
            "");
  EXPECT_EQ(cache[0].length, 16);
}

// ------------------------------------------------------------------------------- the same bits

TEST_F(LlavaDecoder, keeping_every_token_changes_no_bit) {
  const Matrix plain = decoder.prefill(input, cache);
  std::vector<Matrix> said;
  for (const std::int64_t token : answer)
    said.push_back(decoder.decode(decoder.embed({{token}}), cache));

  for (const PositionRule rule : {PositionRule::original, PositionRule::packed}) {
    const Hook keep = [rule](LayerStep& step) {
      step.shorten(ReductionPlan::identity(prompt, {before, before + visual}), rule);
    };
    const DecoderHooks everywhere[] = {
        {keep, {}, {}}, {{}, keep, {}}, {{}, {}, keep}, {keep, keep, keep}};
    for (const DecoderHooks& hooks : everywhere) {
      Cache fresh = decoder.empty_cache();
      EXPECT_TRUE(same_bits(decoder.prefill(input, fresh, hooks), plain));
      for (std::size_t i = 0; i < answer.size(); ++i) {
        const Matrix hidden = decoder.decode(decoder.embed({{answer[i]}}), fresh);
        EXPECT_TRUE(same_bits(hidden, said[i]));
        EXPECT_TRUE(same_bits(decoder.logits(hidden), decoder.logits(said[i])));
      }
    }
  }
}

/// Wide enough for Eigen's blocked products, with remainders everywhere.
llava::Config wider_model(llava::Config config = small_model()) {
  config.decoder = {.layers = 2,
                    .width = 75,
                    .heads = 6,
                    .key_value_heads = 3,
                    .head_dim = 14,
                    .ffn = 101,
                    .vocabulary = 533};
  return config;
}

TEST(LlavaDecoderBits, do_not_depend_on_the_number_of_threads) {
  for (const llava::Element element :
       {llava::Element::f32, llava::Element::f16, llava::Element::bf16}) {
    for (const llava::Config& config : {small_model(), wider_model()}) {
      llava::Weights weights = llava::Weights::random(3, 0, element);
      for (const Index rows : {1, 2, 5, 33, 70}) {
        const Matrix input = random_rows(rows, config.decoder.width, 5);
        Matrix prefilled, decoded, scores;
        for (const Index threads : {1, 2, 3}) {
          const llava::Decoder decoder(config.decoder, weights, llava::Threads{threads});
          Cache cache = decoder.empty_cache();
          const Matrix hidden = decoder.prefill(input, cache);
          const Matrix next = decoder.decode(decoder.embed(answer), cache);
          const Matrix logits = decoder.all_logits(hidden);
          const Vector last = decoder.logits(hidden);
          if (threads == 1) {
            prefilled = hidden, decoded = next, scores = logits;
            continue;
          }
          EXPECT_TRUE(same_bits(hidden, prefilled)) << rows << " rows, " << threads << " threads";
          EXPECT_TRUE(same_bits(next, decoded)) << rows << " rows, " << threads << " threads";
          EXPECT_TRUE(same_bits(logits, scores)) << rows << " rows, " << threads << " threads";
        }
      }
    }
  }
}

// ------------------------------------------------------------------------------------- weights

TEST(LlavaDecoderWeights, of_16_bits_equal_their_values_in_floats) {
  for (const llava::Element element : {llava::Element::f16, llava::Element::bf16}) {
    const llava::Config config = wider_model();
    const Checkpoint narrow(config, 1, element);
    llava::Weights as_stored = narrow.weights();
    llava::Weights widened = Checkpoint(config, 1, element, true).weights();
    llava::Weights exact = Checkpoint(config, 1).weights();
    const std::string name = "language_model.lm_head.weight";
    ASSERT_EQ(as_stored.matrix(name, 533, 75).element, element);
    ASSERT_EQ(widened.matrix(name, 533, 75).element, llava::Element::f32);

    for (const Index rows : {3, 40}) {  // few and many rows take blocks of different sizes
      const Matrix input = random_rows(rows, config.decoder.width, 5);
      const auto logits = [&](llava::Weights& weights) {
        const llava::Decoder decoder(config.decoder, weights, llava::Threads{2});
        Cache cache = decoder.empty_cache();
        const Matrix prefilled = decoder.all_logits(decoder.prefill(input, cache));
        Matrix all(rows + 1, prefilled.cols());
        all << prefilled, decoder.all_logits(decoder.decode(decoder.embed({{7}}), cache));
        return all;
      };
      const Matrix actual = logits(as_stored);
      EXPECT_TRUE(near(actual, llava_test::doubles(logits(widened)), 1e-5));
      EXPECT_FALSE(near(actual, llava_test::doubles(logits(exact)), 1e-4));
    }
  }
}

TEST(LlavaDecoderWeights, of_16_bits_equal_the_reference) {
  const llava::Config config = small_model();
  const Checkpoint checkpoint(config, 9, llava::Element::bf16);
  llava::Weights weights = checkpoint.weights();
  const llava::Decoder decoder(config.decoder, weights, llava::Threads{1});
  const Matrix input = random_rows(prompt, config.decoder.width, 5);
  Cache cache = decoder.empty_cache();
  const auto all = reference::run_llama(llava_test::shape_of(config.decoder), checkpoint.source(),
                                        llava_test::doubles(input),
                                        with_answer(unreduced(config.decoder.layers), 0));
  EXPECT_TRUE(near(decoder.all_logits(decoder.prefill(input, cache)), all.logits));
}

TEST(LlavaDecoderWeights, of_the_embeddings_can_be_the_head) {
  llava::Config config = small_model();
  config.decoder.tied_embeddings = true;
  const Checkpoint checkpoint(config);  // has no lm_head
  llava::Weights weights = checkpoint.weights();
  const llava::Decoder decoder(config.decoder, weights, llava::Threads{1});
  const Matrix input = random_rows(prompt, config.decoder.width, 5);
  Cache cache = decoder.empty_cache();
  const auto all = reference::run_llama(llava_test::shape_of(config.decoder), checkpoint.source(),
                                        llava_test::doubles(input),
                                        with_answer(unreduced(config.decoder.layers), 0));
  EXPECT_TRUE(near(decoder.all_logits(decoder.prefill(input, cache)), all.logits));
}

TEST_F(LlavaDecoder, compares_tokens_by_the_final_norm) {
  const auto norm = checkpoint.source()("language_model.model.norm.weight", 20, 1);
  EXPECT_TRUE(
      near(decoder.normalised(input), reference::rms_norm(llava_test::doubles(input), norm, 0.05)));
}

// ----------------------------------------------------------------------------------- bad input

TEST_F(LlavaDecoder, refuses_tokens_that_are_not_in_the_vocabulary) {
  EXPECT_EQ(decoder.embed({{0, 30}}).rows(), 2);
  EXPECT_EQ(decoder.embed({}).rows(), 0);
  for (const std::int64_t token : {std::int64_t{-1}, std::int64_t{31}, std::int64_t{1} << 40}) {
    EXPECT_THAT(support::refusal([&] {
                  decoder.embed({{1, token}});
                }),
                HasSubstr("token " + std::to_string(token)));
  }
}

TEST_F(LlavaDecoder, refuses_a_plan_for_another_sequence) {
  const Hook drop = drop_at(1, selection(visual + 1, some), PositionRule::original);
  for (const DecoderHooks& hooks :
       {DecoderHooks{drop, {}, {}}, DecoderHooks{{}, drop, {}}, DecoderHooks{{}, {}, drop}}) {
    Cache fresh = decoder.empty_cache();
    EXPECT_THAT(support::refusal([&] { decoder.prefill(input, fresh, hooks); }),
                HasSubstr("takes 16 tokens, got 15"));
  }
}

TEST_F(LlavaDecoder, refuses_an_empty_prompt_and_a_foreign_cache) {
  EXPECT_NE(support::refusal([&] { decoder.prefill(input.topRows(0), cache); }), "");
  EXPECT_NE(support::refusal([&] { decoder.prefill(input.leftCols(19), cache); }), "");
  Cache foreign(4);
  EXPECT_NE(support::refusal([&] { decoder.prefill(input, foreign); }), "");
  decoder.prefill(input, cache);
  EXPECT_NE(support::refusal([&] { decoder.prefill(input, cache); }), "");  // not empty
}

TEST(LlavaDecoderWeights, that_are_missing_are_named) {
  for (const std::string name :
       {"language_model.model.layers.3.self_attn.k_proj.weight",
        "language_model.model.layers.0.post_attention_layernorm.weight",
        "language_model.model.norm.weight", "language_model.lm_head.weight",
        "language_model.model.embed_tokens.weight"}) {
    Checkpoint checkpoint(small_model());
    checkpoint.remove(name);
    llava::Weights weights = checkpoint.weights();
    EXPECT_THAT(llava_test::runtime_error(
                    [&] { llava::Decoder(small_model().decoder, weights, llava::Threads{1}); }),
                HasSubstr(name));
  }
}

TEST(LlavaDecoderWeights, of_another_shape_are_named) {
  llava::Config other = small_model();
  other.decoder.ffn += 1;
  llava::Weights weights = Checkpoint(small_model()).weights();
  EXPECT_THAT(
      llava_test::runtime_error([&] { llava::Decoder(other.decoder, weights, llava::Threads{1}); }),
      HasSubstr("layers.0.mlp.gate_proj.weight"));
}

}  // namespace
