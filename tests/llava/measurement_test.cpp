// SPDX-License-Identifier: Apache-2.0
// What a run says about itself, and the tables that people read of it.
#include "measurement.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "llava/runs.hpp"
#include "report.hpp"
#include "sweep.hpp"

namespace {

using llava::Index;
using llava::kl_divergence;
using llava::Measurement;
using llava_test::reduced;
using llava_test::reference;
using llava_test::small;
using llava_test::small_tokens;
using Logits = std::vector<float>;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

// --- times and tokens

TEST(LlavaMeasurement, time_to_first_token_is_the_stages_and_the_reductions) {
  const llava::Seconds s = {.encoder = 1,
                            .reduction_in_encoder = 0.5,
                            .projector = 2,
                            .reduction_between = 0.25,
                            .prefill = 4,
                            .reduction_in_decoder = 0.25,
                            .per_decoded_token = 100};
  EXPECT_EQ(llava::reduction_seconds(s), 1);
  EXPECT_EQ(llava::time_to_first_token(s), 8);
  EXPECT_EQ(llava::reduction_share(s), 0.125);
  EXPECT_TRUE(std::isnan(llava::reduction_share({})));
}

TEST(LlavaMeasurement, mean_visual_tokens_counts_what_enters_a_layer) {
  llava::TokenCounts tokens;
  EXPECT_TRUE(std::isnan(llava::mean_visual_tokens(tokens)));
  tokens.decoder = {{576, 576}, {64, 64}, {64, 32}, {32, 32}};
  EXPECT_EQ(llava::mean_visual_tokens(tokens), (576 + 64 + 64 + 32) / 4.0);
}

TEST(LlavaMeasurement, speed_ups) {
  EXPECT_EQ(llava::measured_speed_up(reference(), reduced()), 4.5 / 2);
  EXPECT_EQ(llava::predicted_speed_up(reference(), reduced()), 18176.0 / 11184.0);
  EXPECT_EQ(llava::measured_speed_up(reference(), reference()), 1);
  EXPECT_TRUE(std::isnan(llava::measured_speed_up(reference(), Measurement{})));
}

// --- operations and cache

TEST(LlavaMeasurement, flops_by_hand) {
  // Encoder, [CLS] counted: 128 n + 16 n² for attention, 96 n for the MLP, 96 a patch to embed.
  // Projector: 192 n. Decoder: 384 n + 16 n² with half of the scores, 480 n, and 320 for the head.
  const auto plain = llava::flops_of(small(), llava::unreduced(small(), 3));
  EXPECT_EQ(plain.encoder, 4 * 96 + 2 * (128 * 5 + 16 * 25 + 96 * 5));
  EXPECT_EQ(plain.projector, 192 * 4);
  EXPECT_EQ(plain.prefill, 2 * (384 * 7 + 16 * 49 + 480 * 7) + 320);
  EXPECT_EQ(plain.total(), 18176);
  const auto fewer = llava::flops_of(small(), small_tokens());
  EXPECT_EQ(fewer.encoder, 4 * 96 + (128 * 5 + 16 * 25 + 96 * 3) + (128 * 3 + 16 * 9 + 96 * 3));
  EXPECT_EQ(fewer.projector, 192 * 2);
  EXPECT_EQ(fewer.prefill, (384 * 5 + 16 * 25 + 480 * 4) + (384 * 4 + 16 * 16 + 480 * 4) + 320);
  EXPECT_EQ(fewer.total(), 11184);
  const auto all_scores =
      llava::flops_of(small(), llava::unreduced(small(), 3), tokenfold::ScoresCounted::all);
  EXPECT_EQ(all_scores.prefill, plain.prefill + 2 * 16 * 49);
  EXPECT_EQ(all_scores.encoder, plain.encoder);
}

TEST(LlavaMeasurement, flops_of_a_model_are_those_of_its_prefill) {
  const llava::Config config;  // 7B
  const auto tokens = llava::pruned_before_decoder(config, 64, 60);
  const auto shape = shape_of(config.decoder);
  EXPECT_NEAR(llava::flops_of(config, tokens, tokenfold::ScoresCounted::all).prefill,
              tokenfold::prefill_flops(shape, tokenfold::layer_tokens(shape, 124)), 1e3);
  EXPECT_EQ(tokens.image, 576);
  EXPECT_EQ(tokens.encoder.size(), 23u);
  EXPECT_EQ(tokens.encoder.back().mlp, 576);
  EXPECT_EQ(tokens.projected, 576);
  EXPECT_EQ(tokens.left, 64);
}

TEST(LlavaMeasurement, flops_need_the_tokens_of_every_layer) {
  auto tokens = small_tokens();
  tokens.decoder.pop_back();
  try {
    llava::flops_of(small(), tokens);
    FAIL();
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "flops of the decoder: expected token counts of 2 layers, got 1");
  }
  tokens = small_tokens();
  tokens.encoder.push_back({1, 1});
  EXPECT_THROW(llava::flops_of(small(), tokens), std::runtime_error);
}

TEST(LlavaMeasurement, kv_bytes_of_the_rows_that_layers_hold) {
  const std::vector<Index> rows = {5, 4};
  EXPECT_EQ(llava::kv_bytes(small().decoder, rows), 9 * 2 * 4 * 4);
  EXPECT_EQ(llava::kv_bytes(small().decoder, rows, 16), 9 * 2 * 4 * 2);
}

TEST(LlavaMeasurement, predicted_line_goes_from_every_token_to_the_fewest) {
  const llava::Config config;
  const llava::Series line = llava::predicted_speed_ups(config, 60, 64);
  EXPECT_TRUE(line.guide);
  ASSERT_GT(line.points.size(), 20u);
  EXPECT_EQ(line.points.front().x, 576);
  EXPECT_EQ(line.points.front().y, 1);
  EXPECT_EQ(line.points.back().x, 64);
  const auto flops = [&](Index kept) {
    return llava::flops_of(config, llava::pruned_before_decoder(config, kept, 60)).total();
  };
  EXPECT_EQ(line.points.back().y, flops(576) / flops(64));
  for (std::size_t i = 1; i < line.points.size(); ++i) {
    EXPECT_LT(line.points[i].x, line.points[i - 1].x);
    EXPECT_GT(line.points[i].y, line.points[i - 1].y);
  }
  EXPECT_EQ(llava::predicted_speed_ups(config, 60, 0).points.back().x, 1);
  EXPECT_EQ(llava::predicted_speed_ups(config, 60, 576).points.size(), 1u);
}

// --- distributions

TEST(LlavaMeasurement, kl_by_hand) {
  // p = (3/4, 1/4), q = (1/2, 1/2).
  const Logits p = {std::log(3.0F), 0};
  const Logits q = {0, 0};
  EXPECT_NEAR(kl_divergence(p, q), 0.75 * std::log(1.5) + 0.25 * std::log(0.5), 1e-7);
  EXPECT_NEAR(kl_divergence(p, q), 0.130812, 1e-6);
  EXPECT_NEAR(kl_divergence(q, p), 0.143841, 1e-6);
}

TEST(LlavaMeasurement, kl_is_zero_for_the_same_and_never_negative) {
  std::mt19937 random(1);
  const auto draw = [&random] {
    Logits logits(200);
    for (float& z : logits) z = static_cast<float>(random() % 4000) / 100.0F - 20.0F;
    return logits;
  };
  for (int i = 0; i < 50; ++i) {
    const Logits a = draw();
    const Logits b = draw();
    EXPECT_EQ(kl_divergence(a, a), 0);
    EXPECT_GT(kl_divergence(a, b), 0);
    // A hair beside it: all that is left is rounding, which must not become negative.
    Logits c = a;
    c[0] = std::nextafter(c[0], 100.0F);
    EXPECT_GE(kl_divergence(a, c), 0);
    EXPECT_LT(kl_divergence(a, c), 1e-9);
    // Softmax does not see what all logits share. 4096 is exact in float for these.
    Logits shifted = b;
    for (float& z : shifted) z = std::round(z) + 4096;
    Logits rounded = b;
    for (float& z : rounded) z = std::round(z);
    EXPECT_NEAR(kl_divergence(a, shifted), kl_divergence(a, rounded), 1e-9);
  }
}

TEST(LlavaMeasurement, kl_of_large_logits_does_not_overflow) {
  // p is certain of the first token, q of the second: 20000 nats.
  EXPECT_EQ(kl_divergence(Logits{10000, -10000}, Logits{-10000, 10000}), 20000);
  EXPECT_EQ(kl_divergence(Logits{3e38F, 0}, Logits{3e38F, 0}), 0);
}

TEST(LlavaMeasurement, kl_of_logits_that_are_not_finite) {
  // A token that p excludes does not count; one that only q excludes is infinitely surprising.
  EXPECT_NEAR(kl_divergence(Logits{0, -infinity}, Logits{0, 0}), std::log(2.0), 1e-15);
  EXPECT_EQ(kl_divergence(Logits{0, -infinity}, Logits{0, -infinity}), 0);
  EXPECT_EQ(kl_divergence(Logits{0, 0}, Logits{0, -infinity}),
            std::numeric_limits<double>::infinity());
  for (const float bad : {nan, infinity}) {
    EXPECT_TRUE(std::isnan(kl_divergence(Logits{0, bad}, Logits{0, 0})));
    EXPECT_TRUE(std::isnan(kl_divergence(Logits{bad, 0}, Logits{0, 0})));
    EXPECT_TRUE(std::isnan(kl_divergence(Logits{0, 0}, Logits{bad, 0})));
  }
  EXPECT_TRUE(std::isnan(kl_divergence(Logits{-infinity, -infinity}, Logits{0, 0})));
}

TEST(LlavaMeasurement, logits_of_different_vocabularies_are_refused) {
  EXPECT_THROW(kl_divergence(Logits{0, 0}, Logits{0}), std::runtime_error);
  EXPECT_THROW(kl_divergence(Logits{}, Logits{}), std::runtime_error);
  EXPECT_THROW(llava::same_top_token(Logits{0, 0}, Logits{0}), std::runtime_error);
  EXPECT_THROW(llava::top_overlap(Logits{0}, Logits{0, 0}), std::runtime_error);
  EXPECT_THROW(llava::top_token(Logits{}), std::runtime_error);
}

TEST(LlavaMeasurement, top_tokens) {
  EXPECT_EQ(llava::top_token(Logits{1, 4, 4, 2}), 1) << "the lower index of a tie";
  EXPECT_EQ(llava::top_token(Logits{nan, 1, nan, 2}), 3);
  EXPECT_EQ(llava::top_token(Logits{nan, nan}), 0);
  EXPECT_EQ(llava::top_token(Logits{-infinity, nan}), 0);
  EXPECT_TRUE(llava::same_top_token(Logits{1, 4}, Logits{-9, -8}));
  EXPECT_FALSE(llava::same_top_token(Logits{1, 4}, Logits{-8, -9}));
}

TEST(LlavaMeasurement, top_overlap_is_of_sets) {
  const Logits a = {9, 8, 7, 6, 5, 4, 3, 2, 1, 0};
  EXPECT_EQ(llava::top_overlap(a, a), 5);
  EXPECT_EQ(llava::top_overlap(a, Logits{5, 6, 7, 8, 9, 0, 0, 0, 0, 0}), 5);
  EXPECT_EQ(llava::top_overlap(a, Logits{9, 0, 8, 0, 0, 7, 6, 5, 0, 0}), 2);
  EXPECT_EQ(llava::top_overlap(a, Logits{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}), 0);
  EXPECT_EQ(llava::top_overlap(a, Logits{8, 9, 7, 6, 5, 4, 3, 2, 1, 0}, 1), 0);
  EXPECT_EQ(llava::top_overlap(Logits{1, 2}, Logits{2, 1}), 2) << "fewer than five tokens";
}

TEST(LlavaMeasurement, generated_tokens_are_compared_up_to_the_first_difference) {
  EXPECT_EQ(llava::same_generated(reference(), reduced()), 2);
  EXPECT_EQ(llava::same_generated(reference(), reference()), 3);
  Measurement shorter = reference();
  shorter.generated = {7};
  EXPECT_EQ(llava::same_generated(reference(), shorter), 1);
  EXPECT_EQ(llava::same_generated(shorter, reference()), 1);
}

// --- text

TEST(LlavaText, numbers) {
  EXPECT_EQ(llava::fixed(1234.5, 2), "1234.50");
  EXPECT_EQ(llava::fixed(-0.001, 1), "0.0");
  EXPECT_EQ(llava::fixed(-0.06, 1), "-0.1");
  EXPECT_EQ(llava::fixed(nan, 2), "-");
  EXPECT_EQ(llava::fixed(infinity, 2), "inf");
  EXPECT_EQ(llava::fixed(-infinity, 2), "-inf");
  EXPECT_EQ(llava::fixed(1e300, 0).size(), 301u);
  EXPECT_EQ(llava::significant(0.0123456, 3), "0.0123");
  EXPECT_EQ(llava::significant(1.23456e-5, 3), "1.23e-05");
  EXPECT_EQ(llava::significant(0, 3), "0");
  EXPECT_EQ(llava::shortest(0.1), "0.1");
  EXPECT_EQ(llava::shortest(1.0 / 3), "0.3333333333333333");
  EXPECT_EQ(llava::characters("a→b"), 3u);
}

TEST(LlavaText, tables_are_aligned) {
  llava::Table table;
  table.row({"a heading that reaches over the columns"});
  table.row({"→", "1", "22"});
  table.row({"long", "333", "4"});
  table.row({});
  table.row({"short", "5"});
  table.row({"end", "", "7"});
  EXPECT_EQ(table.str(),
            "a heading that reaches over the columns\n"
            "→        1  22\n"
            "long   333   4\n"
            "\n"
            "short    5\n"
            "end          7\n");
}

TEST(LlavaText, long_lines_are_broken_at_spaces) {
  EXPECT_EQ(llava::wrapped("at: ", "aa bb cc dd", 9), "at: aa bb\n    cc dd\n");
  EXPECT_EQ(llava::wrapped("at: ", "", 9), "at: \n");
  EXPECT_EQ(llava::wrapped("", "toolongforit b", 5), "toolongforit\nb\n");
}

// --- reports

TEST(LlavaReport, shows_a_run_beside_its_reference) {
  const std::string text = llava::report(reference(), reduced());
  for (const std::string part :
       {"FiCoCo-V, inside the encoder\n  keep=2, order=\"raster\"\n",
        "                              unreduced  reduced\n",
        "  of the image                        4        4\n",
        "  out of the encoder                  4        2\n",
        "  mean of the decoder layers        4.0      1.5\n",
        "  out of the decoder                  4        1\n",
        "text tokens                           3        3\n",
        "  encoder                        1000.0    500.0    2.00 x    1.35 x\n"
        "    + reduction                            125.0\n"
        "  projector                       500.0    250.0    2.00 x    2.00 x\n"
        "    + reduction                             62.5\n"
        "  prefill                        3000.0   1000.0    3.00 x    1.69 x\n"
        "    + reduction                             62.5\n"
        "  = time to first token          4500.0   2000.0    2.25 x    1.63 x\n"
        "  of which reduction, %            0.00    12.50\n"
        "  a token after that              400.0    200.0    2.00 x\n",
        "KV cache, MB                        2.0      0.5\n"
        "  if held in 16 bits                1.0      0.2\n",
        "  most likely token           differs, 2 instead of 1\n",
        "  5 most likely tokens        5 in common\n",
        "  greedy continuation         the first 2 of 3 tokens are the same\n",
        "  encoder  4>2, 2\n", "  decoder  2>1, 1\n"}) {
    EXPECT_TRUE(contains(text, part)) << "misses\n" << part << "in\n" << text;
  }
  EXPECT_TRUE(contains(llava::report(reference(), reference()), "the same, 1\n"));
}

TEST(LlavaReport, fits_into_100_columns) {
  Measurement run = reduced();
  run.options.clear();
  for (int i = 0; i < 40; ++i) run.options += "option_" + std::to_string(i) + "=0.5 ";
  run.tokens.encoder.clear();
  for (Index i = 0; i < 40; ++i) run.tokens.encoder.push_back({1000 - i, 999 - i});
  run.seconds.prefill = 1e5;
  const auto lines = lines_of(llava::report(reference(), run));
  EXPECT_GT(lines.size(), 30u);
  for (const std::string& line : lines) EXPECT_LE(llava::characters(line), 100u) << line;
}

TEST(LlavaReport, of_a_run_without_logits_or_times) {
  Measurement empty;
  const std::string text = llava::report(empty, empty);
  EXPECT_FALSE(contains(text, "KL"));
  EXPECT_FALSE(contains(text, "nan"));
  EXPECT_TRUE(contains(text, "  decoder  -\n"));
}

TEST(LlavaReport, alike_layers_are_shown_together) {
  const std::vector<llava::LayerTokens> layers = {{9, 9}, {9, 9}, {9, 5}, {5, 5}, {5, 5}, {5, 5}};
  EXPECT_EQ(llava::detail::by_layer(layers), "2 x 9, 9>5, 3 x 5");
}

TEST(LlavaReport, sweep_table_has_a_line_per_run) {
  const std::vector<Measurement> runs = {reduced(), reduced()};
  const auto lines = lines_of(llava::sweep_table(reference(), runs));
  ASSERT_EQ(lines.size(), 5u);
  const std::string cells =
      "FiCoCo-V        1.5     2000.0       12.50       2.25       1.63        0.5   1.3      no";
  EXPECT_EQ(lines[3], cells);
  EXPECT_EQ(lines[4], cells);
  for (const std::string& line : lines) EXPECT_LE(line.size(), 100u);
}

TEST(LlavaProgress, is_one_line_that_disappears) {
  std::ostringstream out;
  {
    llava::Progress progress(out, true);
    progress.show("prefill", 16, 32);
    EXPECT_EQ(out.str(), "\rprefill  [############------------]  16/32");
    progress.show("go", 1, 1);
    // Blanks over what was longer.
    EXPECT_TRUE(contains(out.str(), "\rgo  [########################]  1/1       "));
    EXPECT_FALSE(contains(out.str(), "\n"));
  }
  EXPECT_EQ(out.str().substr(out.str().size() - 6), "     \r");
  std::ostringstream wide;
  llava::Progress(wide, true).show(std::string(200, 'a'), 40, 32);
  EXPECT_LE(wide.str().find('\r', 1), 80u);
}

TEST(LlavaProgress, writes_nothing_where_nobody_looks) {
  std::ostringstream out;
  {
    llava::Progress progress(out, false);
    progress.show("prefill", 0, 0);
    progress.clear();
  }
  EXPECT_EQ(out.str(), "");
}

}  // namespace
