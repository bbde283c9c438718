// SPDX-License-Identifier: Apache-2.0
#include "tokenfold/cost.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "core/support.hpp"
#include "tokenfold/schedule.hpp"

namespace {

using core_test::expect_error;
using core_test::Numbers;
using core_test::numbers;
using tokenfold::bytes_moved;
using tokenfold::clip_l_336;
using tokenfold::FlopConvention;
using tokenfold::Index;
using tokenfold::kv_cache_bytes;
using tokenfold::layer_flops;
using tokenfold::layer_tokens;
using tokenfold::llava_13b;
using tokenfold::llava_7b;
using tokenfold::matrix_flops;
using tokenfold::prefill_flops;
using tokenfold::Schedule;
using tokenfold::ScoresCounted;
using tokenfold::ScoresKept;
using tokenfold::Traffic;
using tokenfold::TransformerShape;

/// Two layers with every size different: grouped queries, 3 matrices.
constexpr TransformerShape small = {.layers = 2,
                                    .width = 8,
                                    .ffn = 20,
                                    .ffn_matrices = 3,
                                    .heads = 4,
                                    .key_value_width = 2,
                                    .vocabulary = 50};

/// `value` as a table prints it.
double printed(double value, int decimals) {
  const double scale = std::pow(10.0, decimals);
  return std::round(value * scale) / scale;
}

double tera(const TransformerShape& shape, Index tokens,
            FlopConvention convention = FlopConvention::flop) {
  return 1e-12 *
         prefill_flops(shape, layer_tokens(shape, tokens), convention, ScoresCounted::all, 0);
}

double kv_megabytes(const TransformerShape& shape, Index tokens, Index bits = 16) {
  return 1e-6 * static_cast<double>(kv_cache_bytes(shape, layer_tokens(shape, tokens), bits));
}

double gigabytes_moved(const TransformerShape& shape, Index tokens,
                       tokenfold::Precision precision = {}, Index output_tokens = 1) {
  return 1e-9 * static_cast<double>(bytes_moved(shape, layer_tokens(shape, tokens), precision,
                                                ScoresKept::in_memory, output_tokens)
                                        .total());
}

/// With what LLM-Viewer also counts: softmax, norms, additions, activation function, and the head
/// for one token, one operation per multiply-add.
double tera_of_llm_viewer(const TransformerShape& shape, Index tokens) {
  const auto n = static_cast<double>(tokens);
  const auto d = static_cast<double>(shape.width);
  const double layer = 5 * n * n * static_cast<double>(shape.heads) + (2 * 7 + 2 + 2) * n * d;
  const double head = d * static_cast<double>(shape.vocabulary);
  return tera(shape, tokens) + 1e-12 * (static_cast<double>(shape.layers) * layer + head);
}

/// The mean over inputs of ⌊tokens⌋ and ⌈tokens⌉ tokens that have `tokens` on average.
double at_average(double tokens, const std::function<double(Index)>& cost) {
  const auto low = static_cast<Index>(std::floor(tokens));
  const double share = tokens - static_cast<double>(low);
  return (1 - share) * cost(low) + share * cost(low + 1);
}

// --- by hand
// ----------------------------------------------------------------------------------------

TEST(CostTest, operations_of_a_layer_by_hand) {
  // n = 10: Q and output 10·8·8 each, K and V 10·8·2 each, scores and their use 10·10·8 each,
  // MLP 10·8·20 a matrix.
  const double attention = 2 * 640 + 2 * 160 + 2 * 800;
  EXPECT_EQ(attention_flops(small, 10, FlopConvention::mac), attention);
  EXPECT_EQ(mlp_flops(small, 10, FlopConvention::mac), 3 * 1600);
  EXPECT_EQ(layer_flops(small, 10, FlopConvention::mac), attention + 3 * 1600);
  EXPECT_EQ(layer_flops(small, 10, FlopConvention::mac_two_matrix_ffn), attention + 2 * 1600);
  EXPECT_EQ(layer_flops(small, 10), 2 * (attention + 3 * 1600));
  EXPECT_EQ(layer_flops(small, 10, FlopConvention::mac, ScoresCounted::causal_half),
            attention - 800 + 3 * 1600);
  EXPECT_EQ(layer_flops(small, 0), 0);
  // Without a gate the conventions for multiply-adds agree.
  TransformerShape encoder = small;
  encoder.ffn_matrices = 2;
  EXPECT_EQ(layer_flops(encoder, 10, FlopConvention::mac), attention + 2 * 1600);
  EXPECT_EQ(layer_flops(encoder, 10, FlopConvention::mac_two_matrix_ffn), attention + 2 * 1600);
}

TEST(CostTest, operations_of_a_prefill_are_those_of_its_layers_and_its_head) {
  const std::vector<Index> tokens = {10, 6};
  const double layers = layer_flops(small, 10) + layer_flops(small, 6);
  EXPECT_EQ(prefill_flops(small, tokens), layers + 2 * 8 * 50);
  EXPECT_EQ(prefill_flops(small, tokens, FlopConvention::flop, ScoresCounted::all, 0), layers);
  EXPECT_EQ(prefill_flops(small, tokens, FlopConvention::flop, ScoresCounted::all, 6),
            layers + 6 * 2 * 8 * 50);
  EXPECT_EQ(prefill_flops(small, tokens, FlopConvention::mac), (layers + 2 * 8 * 50) / 2);
  EXPECT_EQ(prefill_flops(small, tokens, FlopConvention::flop, ScoresCounted::causal_half, 0),
            layer_flops(small, 10, FlopConvention::flop, ScoresCounted::causal_half) +
                layer_flops(small, 6, FlopConvention::flop, ScoresCounted::causal_half));
  EXPECT_EQ(matrix_flops(3, 5, 7), 210);
  EXPECT_EQ(matrix_flops(3, 5, 7, FlopConvention::mac), 105);
}

TEST(CostTest, bytes_by_hand) {
  EXPECT_EQ(layer_kv_bytes(small, 10), 2 * 10 * 2 * 2);
  EXPECT_EQ(kv_cache_bytes(small, std::vector<Index>{10, 6}), (10 + 6) * 2 * 2 * 2);
  EXPECT_EQ(kv_cache_bytes(small, std::vector<Index>{10, 6}, 8), (10 + 6) * 2 * 2);
  EXPECT_EQ(kv_cache_bytes(small, std::vector<Index>{10, 6}, 4), (10 + 6) * 2);
  EXPECT_EQ(layer_kv_bytes(small, 1, 3), 2) << "12 bits fill two bytes";
  EXPECT_EQ(layer_kv_bytes(small, 0), 0);
  const std::int64_t weights = 2 * 64 + 2 * 16 + 3 * 160;
  EXPECT_EQ(layer_weight_bytes(small), 2 * weights);
  EXPECT_EQ(weight_bytes(small), 2 * (2 * weights + 2 * 8 * 50));
  EXPECT_EQ(weight_bytes(small, 4) * 4, weight_bytes(small));
}

TEST(CostTest, bytes_moved_by_hand) {
  // Operator by operator for one token of `small`: what is loaded, what is stored.
  const Index norms = 2 * 8, additions = 2 * 8;
  const Index loaded = 4 * 8 /* q k v o */ + 8 /* Q */ + 2 * 8 + 20 /* MLP */ + 2 * 8 /* gate */;
  const Index stored = 2 * 8 /* q o */ + 8 /* attention */ + 2 * 20 + 8 /* MLP */ + 8 /* gate */;
  const Index scores = 2 * 4;  // [1 × 1] of 4 heads: by QKᵀ and softmax, or by softmax and V
  const Traffic one = layer_traffic(small, 1);
  EXPECT_EQ(one.weights, layer_weight_bytes(small));
  EXPECT_EQ(one.loaded, 2 * (loaded + norms + additions + scores));
  EXPECT_EQ(one.stored, 2 * (stored + norms + additions + scores));
  EXPECT_EQ(one.cache, 2 * layer_kv_bytes(small, 1));
  EXPECT_EQ(one.total(), one.weights + one.loaded + one.stored + one.cache);

  const Traffic fused = layer_traffic(small, 10, {}, ScoresKept::on_chip);
  EXPECT_EQ(fused.loaded, 20 * (loaded + norms + additions));
  EXPECT_EQ(fused.stored, 20 * (stored + norms + additions));
  EXPECT_EQ(layer_traffic(small, 10).stored - fused.stored, 2 * 2 * 10 * 10 * 4);

  const Traffic mixed = layer_traffic(small, 10, {.weights = 4, .activations = 32, .cache = 8});
  const Traffic plain = layer_traffic(small, 10);
  EXPECT_EQ(mixed.weights * 4, plain.weights);
  EXPECT_EQ(mixed.loaded, plain.loaded * 2);
  EXPECT_EQ(mixed.stored, plain.stored * 2);
  EXPECT_EQ(mixed.cache * 2, plain.cache);

  // Two matrices: one hidden row less stored, one d less loaded by MLP and by activation function.
  TransformerShape encoder = small;
  encoder.ffn_matrices = 2;
  EXPECT_EQ(one.loaded - layer_traffic(encoder, 1).loaded, 2 * 2 * 8);
  EXPECT_EQ(one.stored - layer_traffic(encoder, 1).stored, 2 * 20);

  const Traffic both = bytes_moved(small, std::vector<Index>{10, 1});
  EXPECT_EQ(both.weights, plain.weights + one.weights + 2 * 8 * 50);
  EXPECT_EQ(both.loaded, plain.loaded + one.loaded + 2 * 8);
  EXPECT_EQ(both.stored, plain.stored + one.stored + 2 * 50);
  EXPECT_EQ(both.cache, plain.cache + one.cache);
  const auto headless = bytes_moved(small, std::vector<Index>{10, 1}, {}, ScoresKept::in_memory, 0);
  EXPECT_EQ(headless.total(), plain.total() + one.total());
}

TEST(CostTest, queries_wider_than_tokens_by_hand) {
  TransformerShape wide = small;
  wide.query_width = 12;
  // n = 10: four channels more in Q's and the output's projection, in the scores and in their use.
  EXPECT_EQ(attention_flops(wide, 10, FlopConvention::mac),
            attention_flops(small, 10, FlopConvention::mac) + 2 * 10 * 8 * 4 + 2 * 10 * 10 * 4);
  EXPECT_EQ(mlp_flops(wide, 10), mlp_flops(small, 10));
  EXPECT_EQ(layer_weight_bytes(wide), layer_weight_bytes(small) + 2 * 2 * 8 * 4);
  EXPECT_EQ(layer_kv_bytes(wide, 10), layer_kv_bytes(small, 10));
  // Loaded by QKᵀ and by the output's projection, stored by Q's projection and by attention.
  const Traffic one = layer_traffic(small, 1);
  EXPECT_EQ(layer_traffic(wide, 1).loaded, one.loaded + 2 * 2 * 4);
  EXPECT_EQ(layer_traffic(wide, 1).stored, one.stored + 2 * 2 * 4);
  wide.query_width = small.width;
  EXPECT_EQ(layer_flops(wide, 10), layer_flops(small, 10));
}

TEST(CostTest, tokens_per_layer_come_from_a_schedule) {
  EXPECT_EQ(numbers(layer_tokens(small, 7)), (Numbers{7, 7}));
  EXPECT_EQ(numbers(layer_tokens(small, Schedule({3, 1}).counts(9), 5)), (Numbers{14, 11}));
  EXPECT_EQ(numbers(layer_tokens(small, std::vector<Index>{9, 6}, 5)), (Numbers{14, 11}));
}

TEST(CostTest, a_schedule_is_solved_for_it) {
  const auto llm = llava_7b();
  const auto flops = [&](Index visual) { return layer_flops(llm, visual + 60); };
  const auto schedule = Schedule::for_cost(576, {llm.layers, 3}, flops, 3.3e12);
  const auto tokens = layer_tokens(llm, schedule.counts(576), 60);
  const double cost = prefill_flops(llm, tokens, FlopConvention::flop, ScoresCounted::all, 0);
  EXPECT_LE(cost, 3.3e12);
  EXPECT_GT(cost, 3.3e12 - 32 * 1.4e10) << "a token less discarded a layer would fit";
  EXPECT_NEAR(cost, schedule.cost(576, flops), 1);

  const auto bytes = [&](Index visual) { return layer_kv_bytes(llm, visual + 60); };
  const auto cached = Schedule::for_cost(576, {llm.layers, 3}, bytes, 100e6);
  const auto kept = kv_cache_bytes(llm, layer_tokens(llm, cached.counts(576), 60));
  EXPECT_LE(kept, 100'000'000);
  EXPECT_GT(kept, 100'000'000 - 524'288);
}

// --- what papers print
// ------------------------------------------------------------------------------

TEST(CostTest, shapes_are_those_of_the_models) {
  // Parameters of Vicuna less the gains of its norms, 65 and 81 rows.
  EXPECT_EQ(weight_bytes(llava_7b()), 2 * (std::int64_t{6'738'415'616} - 65 * 4096));
  EXPECT_EQ(weight_bytes(llava_13b()), 2 * (std::int64_t{13'015'864'320} - 81 * 5120));
  EXPECT_EQ(kv_cache_bytes(llava_7b(), layer_tokens(llava_7b(), 1)), 524'288);
  EXPECT_EQ(kv_cache_bytes(llava_13b(), layer_tokens(llava_13b(), 1)), 819'200);
  EXPECT_EQ(weight_bytes(clip_l_336()), 24 * 2 * 12 * 1024 * 1024);
}

TEST(CostTest, ficoco_7b) {
  const auto llm = llava_7b();
  EXPECT_EQ(printed(tera(llm, 576 + 60), 3), 8.450);
  EXPECT_EQ(printed(tera_of_llm_viewer(llm, 576 + 60), 3), 8.453);
  EXPECT_EQ(kv_cache_bytes(llm, layer_tokens(llm, 576 + 60)), 333'447'168);
  EXPECT_EQ(printed(kv_megabytes(llm, 576 + 60), 1), 333.4);
  EXPECT_EQ(kv_cache_bytes(llm, layer_tokens(llm, 64 + 60)), 65'011'712);
  EXPECT_EQ(printed(kv_megabytes(llm, 64 + 60), 1), 65.0);
  EXPECT_EQ(printed(tera(llm, 192 + 60), 3), 3.297);
  EXPECT_EQ(printed(tera(llm, 128 + 60), 3), 2.454);
  EXPECT_EQ(printed(tera(llm, 64 + 60), 3), 1.614) << "printed 1.5 and 1.6";
  // 1.5 T would be 52 to 59 visual tokens.
  EXPECT_EQ(printed(tera(llm, 51 + 60), 1), 1.4);
  EXPECT_EQ(printed(tera(llm, 52 + 60), 1), 1.5);
  EXPECT_EQ(printed(tera(llm, 59 + 60), 1), 1.5);
  EXPECT_EQ(printed(tera(llm, 60 + 60), 1), 1.6);
  // Quantised caches.
  EXPECT_EQ(printed(kv_megabytes(llm, 636, 8), 1), 166.7);
  EXPECT_EQ(printed(kv_megabytes(llm, 636, 4), 1), 83.4);
  EXPECT_EQ(printed(kv_megabytes(llm, 124, 8), 1), 32.5);
  EXPECT_EQ(printed(kv_megabytes(llm, 124, 4), 1), 16.3);
  // "Memory": bytes moved.
  EXPECT_EQ(printed(gigabytes_moved(llm, 636), 1), 22.2) << "printed 22.4";
  EXPECT_EQ(printed(gigabytes_moved(llm, 124), 2), 14.45) << "printed 14.4";
  EXPECT_EQ(printed(gigabytes_moved(llm, 636, {8, 8, 8}), 1), 11.1) << "printed 11.2";
  EXPECT_EQ(printed(gigabytes_moved(llm, 124, {8, 8, 8}), 1), 7.2) << "printed 7.8";
  EXPECT_EQ(printed(gigabytes_moved(llm, 636, {4, 4, 4}), 1), 5.6) << "printed 6.2";
  EXPECT_EQ(printed(gigabytes_moved(llm, 124, {4, 4, 4}), 1), 3.6) << "printed 4.4";
  // What resides: weights of the layers, cache, one layer's activations.
  const auto resident = [&](Index n) {
    return 1e-9 * static_cast<double>(llm.layers * layer_weight_bytes(llm) +
                                      kv_cache_bytes(llm, layer_tokens(llm, n)) +
                                      layer_traffic(llm, n).stored);
  };
  EXPECT_EQ(printed(resident(636), 1), 13.4);
  EXPECT_EQ(printed(resident(124), 1), 13.0);
}

TEST(CostTest, ficoco_l_cannot_have_what_its_table_prints) {
  // Four full layers, and no visual token in the others: more than 1.5 T and 64.2 MB.
  const auto llm = llava_7b();
  const auto tokens = layer_tokens(llm, Schedule::stages(576, {{4, 0}}, 32).counts(576), 60);
  EXPECT_EQ(printed(1e-12 * prefill_flops(llm, tokens), 2), 1.74);
  EXPECT_EQ(printed(1e-6 * static_cast<double>(kv_cache_bytes(llm, tokens)), 0), 69);
  const auto with_64 = layer_tokens(llm, Schedule::stages(576, {{4, 64}}, 32).counts(576), 60);
  EXPECT_EQ(printed(1e-12 * prefill_flops(llm, with_64), 2), 2.47);
  EXPECT_EQ(printed(1e-6 * static_cast<double>(kv_cache_bytes(llm, with_64)), 1), 98.6);
}

TEST(CostTest, ficoco_13b) {
  const auto llm = llava_13b();
  EXPECT_EQ(printed(tera(llm, 576 + 512), 2), 28.58);
  EXPECT_EQ(printed(kv_megabytes(llm, 576 + 512), 1), 891.3);
  EXPECT_EQ(printed(gigabytes_moved(llm, 576 + 512), 2), 56.05);
  EXPECT_EQ(printed(tera(llm, 439 + 512), 1), 24.9);
  EXPECT_EQ(printed(tera(llm, 84 + 512), 1), 15.4);
  EXPECT_EQ(printed(kv_megabytes(llm, 84 + 512), 0), 488);
  EXPECT_EQ(printed(gigabytes_moved(llm, 84 + 512), 1), 38.6);
}

TEST(CostTest, prumerge) {
  EXPECT_EQ(printed(tera(llava_7b(), 700), 1), 9.3);
  EXPECT_EQ(printed(tera_of_llm_viewer(llava_7b(), 700), 2), 9.33);
  EXPECT_EQ(printed(tera(llava_7b(), 70), 2), 0.91);
  EXPECT_EQ(printed(tera(llava_13b(), 700), 1), 18.2);
  EXPECT_EQ(printed(tera(llava_13b(), 70), 2), 1.78) << "printed 1.80";
  EXPECT_EQ(printed(tera(llava_7b(), 616), 2), 8.18) << "what its caption says";
  // "Total memory" is bytes moved; the tool of the time counted one byte a weight of the head.
  const auto moved = [](const TransformerShape& llm, Index n, Index bits) {
    const double head = 1e-9 * static_cast<double>(llm.width * llm.vocabulary);
    return printed(gigabytes_moved(llm, n, {bits, bits, bits}, 0) + head, 1);
  };
  EXPECT_EQ(moved(llava_7b(), 700, 16), 23.3);
  EXPECT_EQ(moved(llava_7b(), 70, 16), 13.7);
  EXPECT_EQ(moved(llava_7b(), 700, 4), 5.9);
  EXPECT_EQ(moved(llava_7b(), 70, 4), 3.5);
  EXPECT_EQ(moved(llava_13b(), 700, 16), 41.6);
  EXPECT_EQ(moved(llava_13b(), 70, 16), 26.6);
  EXPECT_EQ(moved(llava_13b(), 700, 4), 10.5);
  EXPECT_EQ(moved(llava_13b(), 70, 4), 6.8);
  // "Activation": what all layers store.
  const auto stored = [](const TransformerShape& llm, Index n) {
    const Traffic all = bytes_moved(llm, layer_tokens(llm, n), {}, ScoresKept::in_memory, 0);
    return printed(1e-9 * static_cast<double>(all.stored), 2);
  };
  EXPECT_EQ(stored(llava_7b(), 700), 4.64) << "printed 4.60";
  EXPECT_EQ(stored(llava_7b(), 70), 0.28);
  EXPECT_EQ(stored(llava_13b(), 700), 7.26) << "printed 7.30";
  EXPECT_EQ(stored(llava_13b(), 70), 0.44);
}

TEST(CostTest, fastv) {
  const auto one_layer = [](const TransformerShape& llm, double tokens) {
    return 1e-9 * at_average(tokens, [&](Index n) {
             return layer_flops(llm, n, FlopConvention::mac_two_matrix_ffn);
           });
  };
  // The mean layer if all but K see 576 (1 − R) visual tokens.
  const auto mean_layer = [&](const TransformerShape& llm, double k, double r) {
    const auto layers = static_cast<double>(llm.layers);
    return (k * one_layer(llm, 612) + (layers - k) * one_layer(llm, 612 - 576 * r)) / layers;
  };
  const double baseline = one_layer(llava_7b(), 576 + 36);
  EXPECT_EQ(printed(baseline, 2), 99.33);
  struct Cell {
    double k, r, value;
  };
  // The table's percentages are whole, and its G are such a percentage of 99.3.
  const auto cell = [&](double k, double r) {
    return printed(99.3 * printed(mean_layer(llava_7b(), k, r) / baseline, 2), 1);
  };
  for (const auto& [k, r, value] : std::vector<Cell>{{0, 0.75, 28.8},
                                                     {0, 0.50, 51.6},
                                                     {2, 0.90, 19.9},
                                                     {2, 0.75, 32.8},
                                                     {2, 0.50, 54.6},
                                                     {3, 0.90, 22.8},
                                                     {3, 0.75, 34.8},
                                                     {3, 0.50, 56.6},
                                                     {5, 0.90, 27.8},
                                                     {5, 0.75, 39.7},
                                                     {5, 0.50, 59.6}}) {
    EXPECT_EQ(cell(k, r), value) << k << ' ' << r;
  }
  EXPECT_EQ(cell(0, 0.9), 14.9) << "printed 18.9";
  // 13B is printed as it comes.
  EXPECT_EQ(printed(one_layer(llava_13b(), 612), 2), 154.64);
  EXPECT_EQ(printed(mean_layer(llava_13b(), 2, 0.50), 1), 84.6);
  EXPECT_EQ(printed(mean_layer(llava_13b(), 2, 0.75), 1), 50.2);
  EXPECT_EQ(printed(mean_layer(llava_13b(), 2, 0.90), 1), 29.7);
}

TEST(CostTest, pyramiddrop) {
  const auto llm = llava_7b();
  const auto macs = [&](const Schedule& schedule) {
    return 1e-12 * prefill_flops(llm, layer_tokens(llm, schedule.counts(576), 0),
                                 FlopConvention::mac, ScoresCounted::all, 0);
  };
  EXPECT_EQ(printed(macs(Schedule::constant(0, {32})), 2), 3.82);
  EXPECT_EQ(printed(macs(Schedule::pyramid(576, {0.5, 0.25}, 32)), 2), 2.13);
  EXPECT_EQ(printed(macs(Schedule::pyramid(576, {0.5, 0.25, 0.125}, 32)), 2), 1.78);
  // Printed 1.38, which five stages of 6 layers have, without the two that are left of 32.
  const auto five = Schedule::pyramid(576, {0.5, 0.25, 0.125, 0.0625}, 32);
  EXPECT_EQ(printed(macs(five), 2), 1.39);
  const double two_layers = 2e-12 * layer_flops(llm, 36, FlopConvention::mac);
  EXPECT_EQ(printed(macs(five) - two_layers, 2), 1.38);
}

TEST(CostTest, divprune) {
  const auto macs = [](Index n) { return tera(llava_7b(), n, FlopConvention::mac_two_matrix_ffn); };
  EXPECT_EQ(printed(at_average(576 + 45.2, macs), 3), 3.228);
  EXPECT_EQ(printed(at_average(56 + 45.2, macs), 3), 0.512);
}

TEST(CostTest, sparsevlm_and_cen_prune) {
  const auto macs = [](Index n) { return tera(llava_7b(), n, FlopConvention::mac); };
  EXPECT_EQ(printed(macs(576 + 118), 2), 4.62);
  EXPECT_EQ(printed(macs(192 + 118), 2), 2.03) << "printed 2.05 for ToMe";
  EXPECT_EQ(printed(macs(128 + 118), 2), 1.61) << "printed 1.62";
  EXPECT_EQ(printed(macs(64 + 118), 2), 1.19);
  EXPECT_NEAR(macs(576 + 90), 4.431, 0.004);
  EXPECT_NEAR(macs(64 + 97), 1.048, 0.004);
}

TEST(CostTest, ivtp) {
  const auto clip = clip_l_336();
  const double tower = prefill_flops(clip, layer_tokens(clip, 577));
  EXPECT_EQ(printed(1e-12 * tower, 3), 0.381);
  const auto all = [&](const TransformerShape& llm) {
    const Index n = 576 + 512;
    const double projector =
        matrix_flops(576, 1024, llm.width) + matrix_flops(576, llm.width, llm.width);
    return 1e-12 *
           (tower + projector +
            prefill_flops(llm, layer_tokens(llm, n), FlopConvention::flop, ScoresCounted::all, n));
  };
  EXPECT_EQ(printed(all(llava_7b()), 2), 15.40);
  EXPECT_EQ(printed(all(llava_13b()), 2), 29.35) << "printed 29.4";
}

TEST(CostTest, dart) {
  // Visual tokens alone; the paper's megabytes are 0.1 % larger.
  EXPECT_NEAR(kv_megabytes(llava_7b(), 2880) / 1512.1, 1, 0.002);
  EXPECT_NEAR(kv_megabytes(llava_7b(), 320) / 168.0, 1, 0.002);
}

TEST(CostTest, evit) {
  const TransformerShape deit_s = {.layers = 12,
                                   .width = 384,
                                   .ffn = 1536,
                                   .ffn_matrices = 2,
                                   .heads = 6,
                                   .key_value_width = 384,
                                   .vocabulary = 0};
  const auto full = layer_tokens(deit_s, 197);
  EXPECT_EQ(printed(1e-9 * prefill_flops(deit_s, full, FlopConvention::mac), 2), 4.54);
  // 197 → 140 → 100 → 72 tokens between attention and MLP of layers 3, 6 and 9.
  const auto tokens = Schedule::stages(197, {{4, 140}, {7, 100}, {10, 72}}, 12).counts(197);
  double macs = 0;
  for (std::size_t l = 0; l < 12; ++l) {
    macs += attention_flops(deit_s, tokens[l], FlopConvention::mac) +
            mlp_flops(deit_s, tokens[l + 1], FlopConvention::mac);
  }
  EXPECT_EQ(printed(1e-9 * macs, 2), 2.97);
}

TEST(CostTest, the_example_of_the_header) {
  const auto llm = llava_7b();
  const auto fastv =
      layer_tokens(llm, Schedule::stages(576, {{2, 64}}, llm.layers).counts(576), 60);
  EXPECT_EQ(printed(1e-12 * prefill_flops(llm, layer_tokens(llm, 636)), 2), 8.45);
  EXPECT_EQ(printed(1e-12 * prefill_flops(llm, layer_tokens(llm, 124)), 2), 1.61);
  EXPECT_EQ(printed(1e-12 * prefill_flops(llm, fastv), 2), 2.04);
}

// --- refusals
// ---------------------------------------------------------------------------------------

TEST(CostTest, bad_shapes_are_refused) {
  const auto refused = [](auto&& change, const std::string& message) {
    TransformerShape shape = small;
    change(shape);
    const std::vector<Index> tokens = {1, 1};
    expect_error([&] { layer_flops(shape, 1); }, message);
    expect_error([&] { layer_tokens(shape, 1); }, message);
    expect_error([&] { prefill_flops(shape, tokens); }, message);
    expect_error([&] { kv_cache_bytes(shape, tokens); }, message);
    expect_error([&] { layer_weight_bytes(shape); }, message);
    expect_error([&] { weight_bytes(shape); }, message);
    expect_error([&] { bytes_moved(shape, tokens); }, message);
  };
  const std::string positive =
      "cost: layers, width, ffn, heads and key_value_width must be positive";
  refused([](auto& shape) { shape.layers = 0; }, positive);
  refused([](auto& shape) { shape.width = -1; }, positive);
  refused([](auto& shape) { shape.ffn = 0; }, positive);
  refused([](auto& shape) { shape.heads = 0; }, positive);
  refused([](auto& shape) { shape.key_value_width = 0; }, positive);
  refused([](auto& shape) { shape.vocabulary = -5; },
          "vocabulary and query_width not negative, got -5, 0");
  refused([](auto& shape) { shape.query_width = -1; }, "not negative, got 50, -1");
  refused([](auto& shape) { shape.ffn_matrices = 4; }, "cost: an MLP has 2 or 3 matrices, got 4");
}

TEST(CostTest, bad_counts_are_refused) {
  expect_error([] { layer_flops(small, -1); }, "cost: negative token count -1");
  expect_error([] { layer_kv_bytes(small, -1); }, "cost: negative token count -1");
  expect_error([] { layer_traffic(small, -1); }, "cost: negative token count -1");
  expect_error([] { layer_tokens(small, -1); }, "cost: negative token count -1");
  expect_error([] { matrix_flops(1, -2, 3); }, "cost: negative matrix size -2 x 3");
  expect_error([] { matrix_flops(-1, 2, 3); }, "cost: negative token count -1");
  const std::vector<Index> two = {4, 3}, three = {4, 3, 2}, negative = {4, -3};
  expect_error([&] { prefill_flops(small, three); },
               "cost: expected token counts of 2 layers, got 3");
  expect_error([&] { kv_cache_bytes(small, three); }, "of 2 layers, got 3");
  expect_error([&] { bytes_moved(small, three); }, "of 2 layers, got 3");
  expect_error([&] { prefill_flops(small, negative); }, "negative token count -3");
  expect_error([&] { kv_cache_bytes(small, negative); }, "negative token count -3");
  expect_error([&] { bytes_moved(small, negative); }, "negative token count -3");
  expect_error([&] { layer_tokens(small, negative, 5); }, "negative token count -3");
  expect_error([&] { layer_tokens(small, two, -5); }, "negative token count -5");
  expect_error([&] { layer_tokens(small, std::vector<Index>{4}, 0); },
               "cost: expected visual token counts of 2 layers, got 1");
  expect_error([&] { prefill_flops(small, two, FlopConvention::flop, ScoresCounted::all, -1); },
               "negative token count -1");
  expect_error([&] { bytes_moved(small, two, {}, ScoresKept::in_memory, -1); },
               "negative token count -1");
  expect_error([&] { kv_cache_bytes(small, two, 0); }, "cost: a value has 1 to 64 bits, got 0");
  expect_error([&] { weight_bytes(small, 65); }, "cost: a value has 1 to 64 bits, got 65");
}

TEST(CostTest, byte_counts_that_do_not_fit_are_refused) {
  const Index many = std::numeric_limits<Index>::max();
  expect_error([&] { layer_kv_bytes(small, many); }, "cost: a count exceeds 64 bits");
  expect_error([&] { layer_traffic(small, Index{1} << 32); }, "exceeds 64 bits");
  expect_error([&] { layer_tokens(small, std::vector<Index>{many, 1}, 1); }, "exceeds 64 bits");
  TransformerShape wide = small;
  wide.width = many;
  expect_error([&] { weight_bytes(wide); }, "exceeds 64 bits");
  wide = small;
  wide.vocabulary = many / 4;
  expect_error([&] { weight_bytes(wide, 64); }, "exceeds 64 bits");
  const Traffic traffic{.weights = many, .loaded = 1, .stored = 0, .cache = 0};
  expect_error([&] { traffic.total(); }, "exceeds 64 bits");
  // The last that fits: 2^31 tokens of a 7B model.
  EXPECT_EQ(kv_cache_bytes(llava_7b(), layer_tokens(llava_7b(), Index{1} << 31)),
            std::int64_t{1} << 50);
  // Operations are doubles and have room.
  EXPECT_TRUE(std::isfinite(layer_flops(llava_7b(), many)));
}

TEST(CostTest, conventions_have_names) {
  for (const auto& [name, convention] : enum_names(FlopConvention{})) {
    EXPECT_FALSE(name.empty());
    if (convention == FlopConvention::mac) {
      EXPECT_EQ(name, "mac");
    }
  }
}

}  // namespace
