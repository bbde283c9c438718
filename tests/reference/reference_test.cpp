// SPDX-License-Identifier: Apache-2.0

// The reference itself against the golden files and against cases worked out by hand.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "attention.hpp"
#include "ficoco.hpp"
#include "prumerge.hpp"
#include "safetensors.hpp"
#include "tensor.hpp"

#ifndef TOKENFOLD_GOLDEN_DIR
#error "TOKENFOLD_GOLDEN_DIR must name the folder of the golden files"
#endif

namespace {

using reference::Matrix;
using reference::Rows;

std::filesystem::path golden_path(const std::string& name) {
  return std::filesystem::path(TOKENFOLD_GOLDEN_DIR) / (name + ".safetensors");
}

std::vector<double> doubles(const safetensors::Tensor& tensor) {
  const std::vector<float> values = tensor.floats();
  return {values.begin(), values.end()};
}

std::size_t extent(const safetensors::Tensor& tensor, std::size_t axis) {
  return static_cast<std::size_t>(tensor.shape.at(axis));
}

Matrix matrix(const safetensors::Tensor& tensor) {
  return {extent(tensor, 0), extent(tensor, 1), doubles(tensor)};
}

reference::Heads heads(const safetensors::Tensor& tensor) {
  return {extent(tensor, 0), extent(tensor, 1), extent(tensor, 2), doubles(tensor)};
}

Rows rows(const safetensors::Tensor& tensor) {
  Rows result;
  for (std::int64_t value : tensor.int64s()) result.push_back(static_cast<std::size_t>(value));
  return result;
}

Rows range(std::size_t begin, std::size_t end) {
  Rows result(end - begin);
  std::iota(result.begin(), result.end(), begin);
  return result;
}

Rows ascending(Rows values) {
  std::sort(values.begin(), values.end());
  return values;
}

// 1e-5 of the expected value. The files were computed or stored in float32, so a sum whose terms
// cancel is off by the rounding of its terms: below 1 % of the tensor's largest value the tolerance
// is 1e-7 of that largest.
void expect_close(const std::vector<double>& actual, const std::vector<double>& expected,
                  const char* what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  double largest = 0.0;
  for (double value : expected) largest = std::max(largest, std::abs(value));
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double scale = std::max(std::abs(expected[i]), 0.01 * largest);
    EXPECT_LE(std::abs(actual[i] - expected[i]), 1e-5 * scale)
        << what << "[" << i << "]: " << actual[i] << " instead of " << expected[i];
  }
}

class Golden : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(std::filesystem::exists(golden_path(GetParam()))) << golden_path(GetParam());
    file_ = safetensors::load(golden_path(GetParam()));
  }

  std::string text(const std::string& key) const { return file_.metadata.at(key); }
  double number(const std::string& key) const { return std::stod(text(key)); }
  std::size_t count(const std::string& key) const {
    return static_cast<std::size_t>(std::stoull(text(key)));
  }

  reference::Direction direction() const {
    return text("direction") == "given" ? reference::Direction::given
                                        : reference::Direction::received;
  }

  // Head-averaged attention, once as stored and once from the stored queries and keys.
  std::vector<Matrix> attentions(bool causal) const {
    const reference::Heads queries = heads(file_.at("queries"));
    const reference::Heads keys = heads(file_.at("keys"));
    if (text("kind") == "logits") {
      return {matrix(file_.at("head_mean_logits")), reference::mean_logits(queries, keys)};
    }
    const safetensors::Tensor& stored = file_.at("attention");
    const std::size_t length = extent(stored, 1);
    const std::vector<double> values = doubles(stored);
    std::vector<Matrix> per_head;
    for (std::size_t h = 0; h < extent(stored, 0); ++h) {
      const auto begin = values.begin() + static_cast<std::ptrdiff_t>(h * length * length);
      per_head.emplace_back(
          length, length,
          std::vector<double>(begin, begin + static_cast<std::ptrdiff_t>(length * length)));
    }
    return {reference::mean_over_heads(per_head),
            reference::mean_probabilities(queries, keys, {{}, causal})};
  }

  void expect_paper_result(const reference::FicocoResult& result) const {
    expect_close(result.scores, doubles(file_.at("scores")), "scores");
    EXPECT_EQ(result.discarded, rows(file_.at("discarded_indices")));
    EXPECT_EQ(result.kept, rows(file_.at("kept_indices")));
    Rows sources;
    Rows targets;
    std::vector<double> alphas;
    for (std::size_t n = 0; n < result.links.size(); ++n) {
      for (std::size_t t = 0; t < result.links[n].targets.size(); ++t) {
        sources.push_back(result.discarded[n]);
        targets.push_back(result.links[n].targets[t]);
        alphas.push_back(result.links[n].alphas[t]);
      }
    }
    EXPECT_EQ(sources, rows(file_.at("link_src_indices")));
    EXPECT_EQ(targets, rows(file_.at("link_dst_indices")));
    expect_close(alphas, doubles(file_.at("link_weights")), "link_weights");
    expect_close(result.output.values, doubles(file_.at("output")), "output");
  }

  safetensors::File file_;
};

std::string test_name(const testing::TestParamInfo<std::string>& info) { return info.param; }

// --- FiCoCo-V ------------------------------------------------------------------------------------

class ReferenceFicocoVGolden : public Golden {};

TEST_P(ReferenceFicocoVGolden, MatchesFile) {
  const bool has_cls = text("cls") == "True";
  reference::FicocoInput input;
  input.tokens = matrix(file_.at("tokens"));
  input.logits = text("kind") == "logits";
  input.visual_rows = range(has_cls ? 1 : 0, input.tokens.rows);
  input.grid_cells = file_.at("grid_positions").int64s();
  const std::string grid = text("grid");
  input.grid_height = std::stoul(grid);
  input.grid_width = std::stoul(grid.substr(grid.find('x') + 1));
  input.cls_row = has_cls ? 0 : -1;
  if (!has_cls) input.patch_keys = reference::mean_rows_over_heads(heads(file_.at("keys")));

  reference::FicocoVOptions options;
  options.discard = count("discard");
  options.lambda = number("lam");
  options.direction = direction();
  options.normalization = text("score_normalization") == "l2" ? reference::ScoreNormalization::l2
                                                              : reference::ScoreNormalization::none;
  ASSERT_EQ(text("window"), "(2, 2)");
  options.penalty.coefficient = number("c");
  options.targets.epsilon = number("eps");

  for (const Matrix& attention : attentions(false)) {
    input.attention = attention;
    const reference::FicocoResult result = reference::ficoco_v(input, options);
    expect_close(result.scores_before_penalty, doubles(file_.at("scores_before_penalty")),
                 "scores_before_penalty");
    expect_paper_result(result);
  }
}

INSTANTIATE_TEST_SUITE_P(Files, ReferenceFicocoVGolden,
                         testing::Values("ficoco_v_g12x12_r42", "ficoco_v_g4x4_r4",
                                         "ficoco_v_g5x7_ragged_r9", "ficoco_v_g6x6_alive25_r6",
                                         "ficoco_v_g6x6_nocls_r10",
                                         "ficoco_v_g8x8_logits_given_l2_r12"),
                         test_name);

// --- FiCoCo-L, the paper's equations -------------------------------------------------------------

class ReferenceFicocoLPaperGolden : public Golden {};

TEST_P(ReferenceFicocoLPaperGolden, MatchesFile) {
  const std::size_t begin = count("visual_begin");
  const std::size_t visual = count("visual_count");
  reference::FicocoInput input;
  input.tokens = matrix(file_.at("tokens"));
  input.logits = text("kind") == "logits";
  input.visual_rows = range(begin, begin + visual);
  input.text_rows =
      reference::text_rows(input.tokens.rows, begin, visual, reference::TextRange::after);
  ASSERT_EQ(input.text_rows.size(), count("text_after"));

  reference::FicocoLOptions options;
  options.discard = count("discard");
  options.beta = number("beta");
  options.gamma = number("gamma");
  options.direction = direction();
  options.targets.epsilon = number("eps");

  for (const Matrix& attention : attentions(text("causal") == "True")) {
    input.attention = attention;
    expect_paper_result(reference::ficoco_l(input, options));
  }
}

INSTANTIATE_TEST_SUITE_P(Files, ReferenceFicocoLPaperGolden,
                         testing::Values("ficoco_l_paper_s0_v64_t6_r20_logits_given",
                                         "ficoco_l_paper_s5_v36_t9_r10",
                                         "ficoco_l_paper_s20_v144_t15_r42"),
                         test_name);

// --- FiCoCo-L as released ------------------------------------------------------------------------

class ReferenceFicocoLReleasedGolden : public Golden {};

TEST_P(ReferenceFicocoLReleasedGolden, MatchesFile) {
  const std::size_t visual = count("v_tokens");
  reference::FicocoInput input;
  input.tokens = matrix(file_.at("tokens"));
  input.attention = matrix(file_.at("logits"));
  input.logits = true;
  input.visual_rows = range(0, visual);
  input.text_rows = reference::text_rows(input.tokens.rows, 0, visual, reference::TextRange::after);
  ASSERT_EQ(input.text_rows.size(), count("text_tokens"));

  reference::FicocoLReleasedOptions options;
  options.discard = count("r");
  options.beta = number("beta_g");
  options.gamma = number("gamma_a");
  options.epsilon = number("quantile");
  options.protect_first = text("protect_first") == "True";

  const reference::FicocoResult result = reference::ficoco_l_released(input, options);
  EXPECT_EQ(result.discard_order, rows(file_.at("discarded_indices")));
  EXPECT_EQ(result.kept, rows(file_.at("kept_indices")));
  expect_close(result.output.values, doubles(file_.at("output")), "output");

  // The file lists the sources in discard order, the targets of each by falling weight.
  Rows targets;
  std::vector<std::int64_t> target_rows;
  std::vector<double> weights;
  std::size_t lost = 0;
  for (std::size_t source : result.discard_order) {
    const auto at = std::find(result.discarded.begin(), result.discarded.end(), source);
    const reference::Links& links =
        result.links[static_cast<std::size_t>(at - result.discarded.begin())];
    ASSERT_EQ(links.targets.size(), count("topk"));
    bool loses = false;
    for (std::size_t t : reference::falling_order(links.alphas)) {
      const std::size_t target = links.targets[t];
      const auto place = std::find(result.kept.begin(), result.kept.end(), target);
      const bool remains = place != result.kept.end();
      targets.push_back(target);
      target_rows.push_back(remains ? place - result.kept.begin() : -1);
      weights.push_back(links.alphas[t]);
      loses = loses || !remains;
    }
    lost += loses ? 1 : 0;
  }
  EXPECT_EQ(targets, rows(file_.at("target_indices")));
  EXPECT_EQ(target_rows, file_.at("target_rows").int64s());
  expect_close(weights, doubles(file_.at("target_weights")), "target_weights");
  EXPECT_EQ(lost, count("sources_that_target_a_discarded_token"));
}

INSTANTIATE_TEST_SUITE_P(Files, ReferenceFicocoLReleasedGolden,
                         testing::Values("ficoco_l_released_v144_t20_r42",
                                         "ficoco_l_released_v20_t8_r4",
                                         "ficoco_l_released_v45_t10_r12_noprotect",
                                         "ficoco_l_released_v520_t10_r42_topk2"),
                         test_name);

// --- PruMerge, PruMerge+ as released -------------------------------------------------------------

class ReferencePruMergeGolden : public Golden {};

TEST_P(ReferencePruMergeGolden, MatchesFile) {
  reference::PruMergeInput input;
  input.tokens = matrix(file_.at("tokens"));
  input.keys = matrix(file_.at("keys"));
  input.cls_query = matrix(file_.at("queries")).row(0);
  input.patch_rows = range(1, input.tokens.rows);

  reference::PruMergeOptions options;
  options.order = reference::PruMergeOrder::attention;
  options.count = reference::PruMergeCount::truncated;
  options.neighbours = count("neighbours");
  options.ratio = number("reduction_ratio_in");
  if (text("if_adaptive") != "True") options.budget = reference::PruMergeBudget::fixed_ratio;
  if (text("method") == "prumerge_plus") options.plus = reference::PruMergePlus::three_times;

  const reference::PruMergeResult result = reference::prumerge(input, options);
  expect_close(result.attention, doubles(file_.at("cls_attention")), "cls_attention");
  if (file_.metadata.contains("iqr_upper_bound")) {
    expect_close({result.fence}, {number("iqr_upper_bound")}, "iqr_upper_bound");
    EXPECT_EQ(result.outliers, count("outlier_count"));
  }
  EXPECT_EQ(result.top, count("n_top"));
  EXPECT_EQ(result.kept_patches, rows(file_.at("kept_patches")));
  EXPECT_EQ(result.kept, rows(file_.at("kept_indices")));
  EXPECT_EQ(result.discarded, rows(file_.at("discarded_indices")));
  std::string lost;  // as a Python list of patches
  for (std::size_t row : result.lost) lost += (lost.empty() ? "" : ", ") + std::to_string(row - 1);
  EXPECT_EQ("[" + lost + "]", text("patches_neither_kept_nor_discarded"));
  Rows neighbours;
  for (const Rows& cluster : result.neighbours) {
    neighbours.insert(neighbours.end(), cluster.begin(), cluster.end());
  }
  EXPECT_EQ(neighbours, rows(file_.at("neighbour_indices")));
  EXPECT_EQ(result.output.rows, count("n_output"));
  expect_close(result.output.values, doubles(file_.at("output")), "output");

  // Raster order and an exact count give the same rows, sorted, unless the release truncates.
  reference::PruMergeOptions raster = options;
  raster.order = reference::PruMergeOrder::raster;
  raster.count = reference::PruMergeCount::exact;
  const reference::PruMergeResult sorted = reference::prumerge(input, raster);
  if (GetParam() == "prumerge_n98_adaptive_trunc") {
    EXPECT_EQ(sorted.kept.size(), result.kept.size() + 1);
  } else {
    EXPECT_EQ(sorted.kept, ascending(result.kept));
  }
}

INSTANTIATE_TEST_SUITE_P(Files, ReferencePruMergeGolden,
                         testing::Values("prumerge_n144_adaptive", "prumerge_n36_adaptive",
                                         "prumerge_n64_ratio8", "prumerge_n98_adaptive_trunc",
                                         "prumerge_plus_n576_adaptive",
                                         "prumerge_plus_n576_ratio8"),
                         test_name);

// --- Worked by hand ------------------------------------------------------------------------------

TEST(ReferenceQuantile, InterpolatesBetweenOrderStatistics) {
  const std::vector<double> values = {5, 1, 4, 2, 8};  // sorted 1 2 4 5 8
  EXPECT_DOUBLE_EQ(reference::quantile(values, 0.0), 1);
  EXPECT_DOUBLE_EQ(reference::quantile(values, 0.25), 2);
  EXPECT_DOUBLE_EQ(reference::quantile(values, 0.5), 4);
  EXPECT_DOUBLE_EQ(reference::quantile(values, 0.875), 6.5);  // position 3.5
  EXPECT_DOUBLE_EQ(reference::quantile(values, 1.0), 8);
  EXPECT_DOUBLE_EQ(reference::quantile({3}, 0.7), 3);
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(reference::quantile({-infinity, 3}, 0.998), -infinity);
}

TEST(ReferenceAttention, GroupedHeadsCausalMaskAndMean) {
  // Two query heads, one key head, d = 1, scale 1: logits q·k.
  const double log3 = std::log(3.0);
  const reference::Heads queries(2, 2, 1, {1, 1, 0, 0});
  const reference::Heads keys(1, 2, 1, {0, log3});
  const Matrix full = reference::mean_probabilities(queries, keys, {1.0, false});
  EXPECT_NEAR(full(0, 0), (0.25 + 0.5) / 2, 1e-15);
  EXPECT_NEAR(full(1, 1), (0.75 + 0.5) / 2, 1e-15);
  const Matrix causal = reference::mean_probabilities(queries, keys, {1.0, true});
  EXPECT_EQ(causal(0, 0), 1.0);
  EXPECT_EQ(causal(0, 1), 0.0);
  EXPECT_NEAR(causal(1, 1), 0.625, 1e-15);
  EXPECT_NEAR(reference::mean_logits(queries, keys)(1, 1), log3 / 2, 1e-15);

  const std::vector<double> in = reference::received(causal, {0.5, 0.5});
  EXPECT_NEAR(in[0], (1 + 0.375) / 2, 1e-15);
  const std::vector<double> out = reference::given(causal, {0, 1});
  EXPECT_NEAR(out[1], 0.625, 1e-15);
}

TEST(ReferencePenalty, EachWindowOfATwoByFourGridGivesOne) {
  //   1  2 | -4 -2        the best of the left window is 3, doubled;
  //   3  0 | -3 -6        of the right -2, halved
  const std::vector<std::int64_t> cells = {0, 1, 2, 3, 4, 5, 6, 7};
  const std::vector<double> scores = {1, 2, -4, -2, 3, 0, -3, -6};
  EXPECT_EQ(reference::penalized(scores, cells, 2, 4, {}),
            (std::vector<double>{1, 2, -4, -1, 6, 0, -3, -6}));
  EXPECT_EQ(reference::penalized(scores, cells, 2, 4, {2, 2, 1.0}), scores);
  EXPECT_EQ(reference::penalized(scores, cells, 2, 4, {2, 3, 2.0}),  // ragged: last window 2 x 1
            (std::vector<double>{1, 2, -4, -1, 6, 0, -3, -6}));
  EXPECT_EQ(reference::penalized(scores, {}, 0, 0, {}), scores);
}

TEST(ReferencePenalty, PaddingAndTies) {
  // Cell 0 is empty; cells 1 and 4 tie at 3: the lower cell wins, although its token comes later.
  EXPECT_EQ(reference::penalized({3, 3, 1}, {4, 1, 2}, 2, 4, {}), (std::vector<double>{3, 6, 2}));
  // A token without a cell takes no part.
  EXPECT_EQ(reference::penalized({9, 3, 1}, {-1, 1, 0}, 2, 2, {}), (std::vector<double>{9, 6, 1}));
}

TEST(ReferenceFilter, TiesAndNonFiniteScores) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(reference::falling_order({1, 3, nan, 3, infinity, 2, -infinity}),
            (Rows{2, 4, 6, 1, 3, 5, 0}));
}

TEST(ReferenceTargets, FourPolicies) {
  const std::vector<double> row = {0.1, 0.4, 0.1, 0.3, 0.1};
  auto chosen = [&](reference::TargetRule rule, double value) {
    reference::TargetPolicy policy;
    policy.rule = rule;
    policy.epsilon = policy.ratio = policy.mass = value;
    policy.count = static_cast<std::size_t>(value);
    return reference::choose_targets(row, policy);
  };
  using reference::TargetRule;
  EXPECT_EQ(chosen(TargetRule::quantile, 0.998), (Rows{1}));
  EXPECT_EQ(chosen(TargetRule::quantile, 0.75), (Rows{1, 3}));  // threshold 0.3: reached counts
  EXPECT_EQ(chosen(TargetRule::quantile, 0.0), (Rows{0, 1, 2, 3, 4}));
  EXPECT_EQ(chosen(TargetRule::fixed, 0), (Rows{}));
  EXPECT_EQ(chosen(TargetRule::fixed, 3), (Rows{0, 1, 3}));  // tie at 0.1: lower index
  EXPECT_EQ(chosen(TargetRule::fixed, 9), (Rows{0, 1, 2, 3, 4}));
  EXPECT_EQ(chosen(TargetRule::relative, 0.7), (Rows{1, 3}));
  EXPECT_EQ(chosen(TargetRule::relative, 1.0), (Rows{1}));
  EXPECT_EQ(chosen(TargetRule::nucleus, 0.35), (Rows{1}));
  EXPECT_EQ(chosen(TargetRule::nucleus, 0.65), (Rows{1, 3}));
  EXPECT_EQ(chosen(TargetRule::nucleus, 0.75), (Rows{0, 1, 3}));
}

TEST(ReferenceTargets, QuantileFixesTheCountByTheRowLength) {
  for (const std::size_t length : {10U, 500U, 501U, 600U, 1000U, 1002U}) {
    std::vector<double> row(length);
    std::iota(row.begin(), row.end(), 1.0);
    const std::size_t expected = length <= 500 ? 1 : length <= 1000 ? 2 : 3;
    EXPECT_EQ(reference::choose_targets(row, {}).size(), expected) << length;
  }
}

// [CLS] and three patches; patch 1 is read by all and ignored by [CLS].
reference::FicocoInput small_input() {
  reference::FicocoInput input;
  input.tokens = Matrix(4, 1, {100, 1, 2, 4});
  input.attention = Matrix(4, 4,
                           {0.1, 0.0, 0.5, 0.4,  //
                            0.0, 0.2, 0.6, 0.2,  //
                            0.0, 0.7, 0.1, 0.2,  //
                            0.0, 0.6, 0.2, 0.2});
  input.visual_rows = {1, 2, 3};
  input.cls_row = 0;
  return input;
}

TEST(ReferenceFicocoV, ThreePatchesByHand) {
  reference::FicocoInput input = small_input();
  reference::FicocoVOptions options;
  options.discard = 1;
  options.lambda = 0.5;
  options.targets.rule = reference::TargetRule::fixed;
  options.targets.count = 2;
  reference::FicocoResult result = reference::ficoco_v(input, options);
  // received: 1.5/3, 0.9/3, 0.6/3; [CLS]: 0, 0.5, 0.4.
  EXPECT_NEAR(result.scores[0], 0.25, 1e-15);
  EXPECT_NEAR(result.scores[1], -0.1, 1e-15);
  EXPECT_NEAR(result.scores[2], -0.1, 1e-15);
  EXPECT_EQ(result.discarded, (Rows{1}));
  EXPECT_EQ(result.preserved, (Rows{2, 3}));
  EXPECT_EQ(result.kept, (Rows{0, 2, 3}));
  ASSERT_EQ(result.links[0].targets, (Rows{2, 3}));
  EXPECT_NEAR(result.links[0].alphas[0], 0.75, 1e-15);
  EXPECT_EQ(result.output(0, 0), 100);
  EXPECT_NEAR(result.output(1, 0), (2 + 0.75 * 1) / 1.75, 1e-15);
  EXPECT_NEAR(result.output(2, 0), (4 + 0.25 * 1) / 1.25, 1e-15);

  // The same numbers as logits: strengths go through softmax over the two targets.
  input.logits = true;
  result = reference::ficoco_v(input, options);
  EXPECT_NEAR(result.links[0].alphas[0], 1 / (1 + std::exp(-0.4)), 1e-15);

  // given: rows sum to 1 without their [CLS] share, so v_i = 1/3 for all.
  options.direction = reference::Direction::given;
  result = reference::ficoco_v(input, options);
  EXPECT_NEAR(result.scores[1], 0.5 / 3 - 0.25, 1e-15);

  // L2: v = (1, 1, 1)/sqrt(3), a = (0, 5, 4)/sqrt(41).
  options.normalization = reference::ScoreNormalization::l2;
  result = reference::ficoco_v(input, options);
  EXPECT_NEAR(result.scores[2], 0.5 / std::sqrt(3.0) - 0.5 * 4 / std::sqrt(41.0), 1e-15);
}

TEST(ReferenceFicocoV, RecycledShareIsCapped) {
  reference::FicocoInput input = small_input();
  input.attention = Matrix(4, 4,
                           {0.0, 0.1, 0.1, 0.8,  //
                            0.0, 0.2, 0.6, 0.2,  //
                            0.0, 0.7, 0.1, 0.2,  //
                            0.0, 0.6, 0.2, 0.2});
  reference::FicocoVOptions options;
  options.discard = 2;  // both go into patch 3 with alpha 1
  reference::FicocoResult result = reference::ficoco_v(input, options);
  EXPECT_NEAR(result.output(1, 0), (4.0 + 1 + 2) / 3, 1e-15);
  options.max_recycled_share = 0.5;  // alphas 1/2 each
  result = reference::ficoco_v(input, options);
  EXPECT_NEAR(result.output(1, 0), (4.0 + 0.5 + 1) / 2, 1e-15);
  EXPECT_NEAR(result.weights(1, 3), 0.5, 1e-15);
  options.max_recycled_share = 0.0;
  EXPECT_EQ(reference::ficoco_v(input, options).output(1, 0), 4);
}

TEST(ReferenceFicocoV, EmptyOrNonFiniteRowsRecycleNothing) {
  reference::FicocoInput input = small_input();
  input.attention(1, 2) = input.attention(1, 3) = 0.0;
  reference::FicocoVOptions options;
  options.discard = 1;
  reference::FicocoResult result = reference::ficoco_v(input, options);
  EXPECT_EQ(result.discarded, (Rows{1}));
  EXPECT_TRUE(result.links[0].targets.empty());
  EXPECT_EQ(result.output.values, (std::vector<double>{100, 2, 4}));

  input.attention(1, 2) = std::numeric_limits<double>::quiet_NaN();  // also makes score 2 NaN
  result = reference::ficoco_v(input, options);
  EXPECT_EQ(result.discarded, (Rows{2}));
  EXPECT_TRUE(std::isfinite(result.output(1, 0)));

  options.discard = 3;
  EXPECT_EQ(reference::ficoco_v(input, options).output.values, (std::vector<double>{100}));
}

TEST(ReferenceFicocoV, WithoutClsUsesTheMeanKey) {
  reference::FicocoInput input = small_input();
  input.cls_row = -1;
  input.patch_keys = Matrix(3, 2, {1, 0, 0, 1, 0, 0});  // mu = (1, 1)/3
  reference::FicocoVOptions options;
  options.lambda = 0.0;  // s_i = -a_i = cos(mu, m_i)
  const std::vector<double> scores = reference::ficoco_v_scores(input, options);
  EXPECT_NEAR(scores[0], std::sqrt(0.5), 1e-15);
  EXPECT_NEAR(scores[1], std::sqrt(0.5), 1e-15);
  EXPECT_EQ(scores[2], 0.0);
}

TEST(ReferenceFicocoL, BothDirectionsByHand) {
  // Text, two visual tokens, text; causal.
  reference::FicocoInput input;
  input.tokens = Matrix(4, 1, {1, 2, 3, 4});
  input.attention = Matrix(4, 4,
                           {1.0, 0.0, 0.0, 0.0,  //
                            0.5, 0.5, 0.0, 0.0,  //
                            0.2, 0.3, 0.5, 0.0,  //
                            0.1, 0.4, 0.3, 0.2});
  input.visual_rows = {1, 2};
  input.text_rows = reference::text_rows(4, 1, 2, reference::TextRange::after);
  EXPECT_EQ(input.text_rows, (Rows{3}));
  EXPECT_EQ(reference::text_rows(4, 1, 2, reference::TextRange::all), (Rows{0, 3}));

  reference::FicocoLOptions options;
  options.discard = 1;
  std::vector<double> scores = reference::ficoco_l_scores(input, options);
  EXPECT_NEAR(scores[0], 0.6 * 0.8 / 2 - 0.4 * 0.4, 1e-15);
  EXPECT_NEAR(scores[1], 0.6 * 0.5 / 2 - 0.4 * 0.3, 1e-15);
  // A[1, 2] = 0 under the mask: only the bridge A[3,1] A[3,2] links them.
  EXPECT_NEAR(reference::ficoco_l_correlation(input, 1, {2}, options)[0], 0.4 * 0.4 * 0.3, 1e-15);
  const reference::FicocoResult result = reference::ficoco_l(input, options);
  EXPECT_EQ(result.discarded, (Rows{1}));
  EXPECT_EQ(result.output.values, (std::vector<double>{1, 2.5, 4}));

  options.direction = reference::Direction::given;
  scores = reference::ficoco_l_scores(input, options);
  EXPECT_NEAR(scores[0], 0.6 * 0.5 / 2, 1e-15);
  EXPECT_NEAR(scores[1], 0.6 * 0.8 / 2, 1e-15);
  EXPECT_EQ(reference::ficoco_l_correlation(input, 1, {2}, options)[0], 0.0);
  input.text_rows = {0, 3};
  EXPECT_NEAR(reference::ficoco_l_scores(input, options)[0], 0.6 * 0.25 - 0.4 * 0.25, 1e-15);
}

TEST(ReferencePruMerge, FenceByHand) {
  // Sorted 1 2 3 4 100: Q1 = 2, Q3 = 4, fence 4 + 1.5 * 2.
  EXPECT_DOUBLE_EQ(reference::upper_fence({100, 1, 3, 2, 4}), 7);
  // Sorted 1 2 3 4: Q1 = 1.75, Q3 = 3.25.
  EXPECT_DOUBLE_EQ(reference::upper_fence({4, 3, 2, 1}), 5.5);
}

// Row 0 is [CLS]; five patches whose logits are 0 but for one of log(16): a = 1/21 (x4), 16/21.
reference::PruMergeInput small_prumerge() {
  reference::PruMergeInput input;
  input.tokens = Matrix(6, 1, {1000, 1, 2, 3, 4, 5});
  input.keys = Matrix(6, 2, {0, 0, 0, 1, 0, 3, std::log(16.0), 1, 0, 2, 0, -1});
  input.cls_query = {std::sqrt(2.0), 0};  // cancels the scale
  input.patch_rows = {1, 2, 3, 4, 5};
  return input;
}

TEST(ReferencePruMerge, FivePatchesByHand) {
  const reference::PruMergeInput input = small_prumerge();
  reference::PruMergeOptions options;
  options.neighbours = 2;
  const double a = 1.0 / 21;
  reference::PruMergeResult result = reference::prumerge(input, options);
  EXPECT_NEAR(result.attention[2], 16 * a, 1e-15);
  EXPECT_EQ(result.outliers, 1U);
  EXPECT_EQ(result.kept, (Rows{3}));
  EXPECT_EQ(result.neighbours[0], (Rows{1, 2}));  // cosine ties of rows 1, 2, 4: lower first
  EXPECT_EQ(result.discarded, (Rows{1, 2, 4, 5}));
  ASSERT_EQ(result.output.rows, 2U);
  EXPECT_NEAR(result.output(0, 0), 3 + a * (1 + 2), 1e-14);
  EXPECT_NEAR(result.output(1, 0), a * (1 + 2 + 4 + 5), 1e-14);

  options.extra_token = false;
  options.normalization = reference::PruMergeNormalization::attention_sum;
  result = reference::prumerge(input, options);
  ASSERT_EQ(result.output.rows, 1U);
  EXPECT_NEAR(result.output(0, 0), (16 * 3 + 1 + 2) / 18.0, 1e-14);

  // rho = 1/5: samples 0, 5, .. hold patch 0 only; in raster order it stands first.
  options.plus = reference::PruMergePlus::once;
  options.sources = reference::PruMergeSources::discarded;
  result = reference::prumerge(input, options);
  EXPECT_EQ(result.kept, (Rows{1, 3}));
  EXPECT_EQ(result.neighbours[1], (Rows{2, 4}));
  options.order = reference::PruMergeOrder::attention;
  EXPECT_EQ(reference::prumerge(input, options).kept, (Rows{3, 1}));

  // A step of int(5/3) = 1 reaches all but the last patch.
  options.plus = reference::PruMergePlus::three_times;
  EXPECT_EQ(reference::prumerge(input, options).kept, (Rows{3, 1, 2, 4}));
}

TEST(ReferencePruMerge, NoOutlierFallsBackToTheTopTokens) {
  reference::PruMergeInput input = small_prumerge();
  input.cls_query = {0, 0};
  reference::PruMergeOptions options;
  reference::PruMergeResult result = reference::prumerge(input, options);
  EXPECT_EQ(result.outliers, 0U);
  EXPECT_EQ(result.kept, (Rows{1}));
  EXPECT_EQ(result.neighbours[0].size(), 4U);  // k = min(32, candidates)
  options.min_tokens = 5;
  result = reference::prumerge(input, options);
  EXPECT_EQ(result.kept.size(), 5U);
  EXPECT_FALSE(result.has_extra);  // nothing is discarded
}

TEST(ReferencePruMerge, MeanOfHeadsIsSofterThanOneHead) {
  reference::PruMergeInput input = small_prumerge();
  input.heads = 2;
  const std::vector<double> a =
      reference::prumerge_attention(input, reference::PruMergeAttention::mean_of_heads);
  // Head 0: d = 1, logit sqrt(2) log 16; head 1: all logits 0.
  const double strong = std::pow(16.0, std::sqrt(2.0));
  EXPECT_NEAR(a[2], (strong / (5 + strong) + 1.0 / 6) / 2, 1e-15);
}

TEST(ReferencePruMerge, RasterSamples) {
  using reference::PruMergeBudget;
  using reference::PruMergePlus;
  auto samples = [](std::size_t step, PruMergePlus plus, PruMergeBudget budget) {
    return reference::raster_samples(10, step, plus, budget);
  };
  EXPECT_EQ(samples(3, PruMergePlus::once, PruMergeBudget::adaptive), (Rows{0, 3, 6, 9}));
  EXPECT_EQ(samples(9, PruMergePlus::three_times, PruMergeBudget::adaptive), (Rows{0, 3, 6}));
  EXPECT_EQ(samples(4, PruMergePlus::three_times, PruMergeBudget::fixed_ratio), (Rows{2, 6}));
  EXPECT_EQ(samples(2, PruMergePlus::three_times, PruMergeBudget::adaptive).size(), 9U);
  EXPECT_TRUE(samples(3, PruMergePlus::off, PruMergeBudget::adaptive).empty());
}

}  // namespace
