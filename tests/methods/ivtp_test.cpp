// SPDX-License-Identifier: Apache-2.0
// IVTP on cases worked out by hand, and against the reference.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <tokenfold/methods/ivtp.hpp>
#include <tokenfold/tokenfold.hpp>
#include <vector>

#include "reference/ivtp.hpp"
#include "support/outcome.hpp"

namespace {

using support::Random;
using support::Tensor;
using tokenfold::AttentionLayers;
using tokenfold::Budget;
using tokenfold::DenseAttention;
using tokenfold::HeadsView;
using tokenfold::Index;
using tokenfold::IVTP;
using tokenfold::MatrixView;
using tokenfold::Span;
using tokenfold::TokenLayout;
using tokenfold::filter::ValueNorm;

using Rows = std::vector<Index>;
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

const IVTP without_values{
    .filter = {.value_norm = ValueNorm::none}, .correlate = {}, .compress = {}};

/// [CLS] and three patches; layer 1 sends patch 1 to patch 3, layer 2 sends [CLS] to patch 1.
struct Case {
  TokenLayout layout = TokenLayout::encoder({1, 3});
  Tensor<double> first = Tensor<double>::Identity(4, 4);
  Tensor<double> second = Tensor<double>::Identity(4, 4);
  Tensor<double> values = Tensor<double>::Ones(4, 2);

  Case() {
    first.row(1) << 0, 0, 0, 1;
    second.row(0) << 0, 0.8, 0.2, 0;
  }

  tokenfold::Partition plan(const IVTP& method, Index keep) const {
    const std::vector<DenseAttention<double>> layers = {tokenfold::head_mean_attention(first),
                                                        tokenfold::head_mean_attention(second)};
    tokenfold::Workspace workspace;
    tokenfold::ReductionPlan plan;
    method.plan(tokenfold::Sequence(layout, AttentionLayers(layers),
                                    tokenfold::Values(tokenfold::split_heads(values, 2))),
                Budget::keep(keep), workspace, plan);
    EXPECT_TRUE(plan.selects_only());
    return workspace.partition;
  }
  std::vector<double> scores(const IVTP& method = {}) const { return plan(method, 2).scores; }
};

TEST(IVTP, attention_is_rolled_out_from_the_last_layer_to_the_first) {
  // After layer 2: [CLS] ½, patch 1 0.4, patch 2 0.1. Layer 1 moves half of patch 1 to patch 3.
  EXPECT_TRUE(support::close(Case().scores(without_values), {0.2, 0.1, 0.2}, 1e-12));
  Case reversed;
  std::swap(reversed.first, reversed.second);
  EXPECT_TRUE(support::close(reversed.scores(without_values), {0.4, 0.1, 0}, 1e-12, 1e-12));
}

TEST(IVTP, attention_share_weighs_against_the_residual) {
  IVTP method = without_values;
  method.filter.attention_share = 1;
  EXPECT_TRUE(support::close(Case().scores(method), {0, 0.2, 0.8}, 1e-12, 1e-12));
  method.filter.attention_share = 0.25;  // ¾ stays: 0.2 of patch 1, of which ¼ moves on
  EXPECT_TRUE(support::close(Case().scores(method), {0.15, 0.05, 0.05}, 1e-12));
  method.filter.attention_share = 0;
  EXPECT_TRUE(support::close(Case().scores(method), {0, 0, 0}, 0, 0));
}

TEST(IVTP, values_weigh_by_their_length_over_all_heads) {
  Case c;
  c.values.row(1) << 3, 4;
  c.values.row(2) << 0, -30;
  EXPECT_TRUE(support::close(c.scores(), {0.2 * 5, 0.1 * 30, 0.2 * std::sqrt(2.0)}, 1e-12));
  EXPECT_EQ(support::indices(c.plan({}, 1).preserved), Rows{2});
  EXPECT_EQ(support::indices(c.plan({}, 2).preserved), (Rows{1, 2}));
}

TEST(IVTP, order_by_score) {
  Case c;
  c.values.row(2) *= 30;
  IVTP method;
  method.filter.order = tokenfold::TokenOrder::score;
  EXPECT_EQ(support::indices(c.plan(method, 2).preserved), (Rows{2, 1}));
  EXPECT_EQ(support::indices(c.plan(method, 3).preserved), (Rows{1, 2, 3}));
}

TEST(IVTP, ties_keep_the_lower_row_and_what_is_not_finite_goes_first) {
  Case c;
  EXPECT_EQ(support::indices(c.plan(without_values, 1).preserved), Rows{1});  // 1 and 3 tie
  c.values(1, 0) = nan;
  EXPECT_EQ(support::indices(c.plan({}, 2).preserved), (Rows{2, 3}));
  EXPECT_EQ(support::indices(c.plan({}, 0).preserved), Rows{});
  EXPECT_EQ(support::indices(c.plan({}, 3).preserved), (Rows{1, 2, 3}));
}

TEST(IVTP, attention_that_is_not_finite_is_not_passed_on) {
  Case c;
  c.second(0, 2) = nan;  // [CLS] to patch 2, in the layer that is asked first
  EXPECT_TRUE(support::close(c.scores(without_values), {0.2, nan, 0.2}, 1e-12));
  c.first(1, 3) = std::numeric_limits<double>::infinity();
  EXPECT_TRUE(support::close(c.scores(without_values), {0.2, nan, nan}, 1e-12));
}

TEST(IVTP, one_layer_needs_no_more_than_the_cls_row) {
  const TokenLayout layout = TokenLayout::encoder({1, 3});
  const Tensor<double> row = (Tensor<double>(1, 4) << 0.4, 0.1, 0.3, 0.2).finished();
  const DenseAttention<double> layer = tokenfold::head_mean_attention(row);
  const tokenfold::Sequence sequence(layout, AttentionLayers<DenseAttention<double>>(
                                                 Span<const DenseAttention<double>>(&layer, 1)));
  EXPECT_EQ(support::indices(without_values.plan(sequence, Budget::keep(2)).kept()),
            (Rows{0, 2, 3}));
}

TEST(IVTP, without_cls_the_last_row_takes_its_place) {
  const TokenLayout layout = TokenLayout::decoder(1, 3, 2);
  Tensor<double> attention = Tensor<double>::Identity(6, 6);
  attention.row(5) << 0, 0.1, 0.3, 0.2, 0, 0.4;
  attention.row(4) << 0, 0.3, 0.1, 0.2, 0.4, 0;
  const DenseAttention<double> layer = tokenfold::head_mean_attention(attention);
  const std::vector<DenseAttention<double>> layers(1, layer);
  const auto kept = [&](const TokenLayout& tokens) {
    return support::indices(
        without_values.plan(tokenfold::Sequence(tokens, AttentionLayers(layers)), Budget::keep(1))
            .kept());
  };
  EXPECT_EQ(kept(layout), (Rows{0, 2, 4, 5}));
  tokenfold::LayoutDescription d;
  d.tokens = 6;
  d.visual = {1, 4};
  d.cls = 4;
  EXPECT_EQ(kept(TokenLayout(d)), (Rows{0, 1, 4, 5}));
}

TEST(IVTP, bad_calls_are_refused) {
  const Case c;
  IVTP method;
  method.filter.attention_share = 1.5;
  EXPECT_EQ(support::refusal([&] { c.plan(method, 1); }),
            "ivtp: attention_share must lie in [0, 1], got 1.5");
  EXPECT_EQ(support::refusal([&] { c.plan({}, 4); }), "budget: cannot keep 4 of 3 visual tokens");

  const auto refusal = [&](const auto& sequence) {
    return support::refusal([&] { IVTP{}.plan(sequence, Budget::keep(1)); });
  };
  std::vector<DenseAttention<double>> layers = {tokenfold::head_mean_attention(c.first)};
  const tokenfold::Values values(tokenfold::split_heads(c.values, 2));
  EXPECT_EQ(refusal(tokenfold::Sequence(c.layout, AttentionLayers(layers))),
            "ivtp: value norms need values; or set value_norm = none");
  const tokenfold::Values few(HeadsView<const double>(c.values.data(), {1, 3, 2}, {6, 2}));
  EXPECT_EQ(refusal(tokenfold::Sequence(c.layout, AttentionLayers(layers), few)),
            "ivtp: 3 values were given for 4 tokens");
  const TokenLayout no_cls = TokenLayout::encoder({2, 2}, tokenfold::ClsToken::none);
  EXPECT_EQ(refusal(tokenfold::Sequence(no_cls, AttentionLayers(layers), values)),
            "ivtp: the layout has no [CLS] row and ends with a patch");
  layers = {tokenfold::head_mean_attention(c.first, {.kind = tokenfold::AttentionKind::logits})};
  EXPECT_EQ(refusal(tokenfold::Sequence(c.layout, AttentionLayers(layers), values)),
            "ivtp: the attention must hold probabilities");
  layers.clear();
  EXPECT_EQ(refusal(tokenfold::Sequence(c.layout, AttentionLayers(layers), values)),
            "ivtp: the attention of at least one layer is needed");
}

TEST(IVTP, no_visual_tokens_is_the_identity) {
  const TokenLayout layout = TokenLayout::decoder(2, 0, 1);
  const std::vector<DenseAttention<double>> layers;
  EXPECT_TRUE(IVTP{}
                  .plan(tokenfold::Sequence(layout, AttentionLayers(layers)), Budget::keep(0))
                  .is_identity());
}

TEST(IVTP, counts_fall_by_a_constant_share_to_the_target) {
  EXPECT_EQ(tokenfold::ivtp_counts(256, 1, 8), (Rows{128, 64, 32, 16, 8, 4, 2, 1}));
  EXPECT_EQ(tokenfold::ivtp_counts(576, 64, 2), (Rows{192, 64}));
  EXPECT_EQ(tokenfold::ivtp_counts(576, 64, 1), (Rows{64}));
  EXPECT_EQ(tokenfold::ivtp_counts(10, 9, 3), (Rows{10, 9, 9}));
  EXPECT_EQ(tokenfold::ivtp_counts(10, 0, 2), (Rows{0, 0}));
  EXPECT_EQ(tokenfold::ivtp_counts(0, 0, 2), (Rows{0, 0}));
  const Rows counts = tokenfold::ivtp_counts(576, 64, 12);
  EXPECT_EQ(counts.back(), 64);
  for (std::size_t i = 0; i < counts.size(); ++i) {
    EXPECT_NEAR(static_cast<double>(counts[i]),
                576 * std::pow(1.0 / 9, static_cast<double>(i + 1) / 12), 0.5);
  }
  EXPECT_EQ(support::refusal([] { tokenfold::ivtp_counts(4, 5, 2); }),
            "ivtp: cannot keep 5 of 4 visual tokens");
  EXPECT_EQ(support::refusal([] { tokenfold::ivtp_counts(4, 2, 0); }),
            "ivtp: at least one group is needed, got 0");
}

Rows relevant(const std::vector<double>& relevance, double threshold = 0.2) {
  tokenfold::Workspace workspace;
  return support::indices(
      tokenfold::ivtp_relevant_text(Span<const double>(relevance), workspace, threshold));
}

TEST(IVTP, relevant_text_is_above_the_threshold_or_all) {
  EXPECT_EQ(relevant({0.1, 0.3, 0.2, 0.21}), (Rows{1, 3}));
  EXPECT_EQ(relevant({0.1, 0.3, 0.2, 0.21}, 0.25), (Rows{1}));
  EXPECT_EQ(relevant({0.1, 0.2}), (Rows{0, 1}));
  EXPECT_EQ(relevant({nan, 0.3, std::numeric_limits<double>::infinity()}), (Rows{1}));
  EXPECT_EQ(relevant({nan}), (Rows{0}));
  EXPECT_EQ(relevant({}), Rows{});
}

TEST(IVTP, pseudo_cls_is_the_mean_of_the_relevant_words) {
  Random random(31);
  const reference::Matrix embeddings = support::normal_matrix<float>(5, 3, random);
  const Tensor<float> words = support::tensor<float>(embeddings);
  for (const std::vector<double>& relevance :
       {std::vector<double>{0.1, 0.5, 0.2, 0.3, 0}, std::vector<double>(5, 0.1)}) {
    tokenfold::Workspace workspace;
    const auto chosen = tokenfold::ivtp_relevant_text(Span<const double>(relevance), workspace);
    std::vector<float> row(3, -1.0f);
    tokenfold::ivtp_pseudo_cls(MatrixView(words), chosen, Span<float>(row), workspace);
    EXPECT_TRUE(support::close({row.begin(), row.end()},
                               reference::pseudo_cls(embeddings, relevance, 0.2), 1e-5, 1e-6));
  }
}

TEST(IVTP, pseudo_cls_refuses_what_it_cannot_average) {
  const Tensor<float> words = Tensor<float>::Ones(2, 3);
  std::vector<float> row(3);
  const auto refusal = [&](const std::vector<Index>& chosen, Index channels) {
    tokenfold::Workspace workspace;
    return support::refusal([&] {
      tokenfold::ivtp_pseudo_cls(MatrixView(words), Span<const Index>(chosen),
                                 Span<float>(row.data(), channels), workspace);
    });
  };
  EXPECT_EQ(refusal({}, 3), "ivtp: a pseudo-[CLS] needs at least one word");
  EXPECT_EQ(refusal({0}, 2), "ivtp: the pseudo-[CLS] must have 3 channels, got 2");
  EXPECT_EQ(refusal({0, 2}, 3), "ivtp: word 2 is not one of the 2 text tokens");
  EXPECT_EQ(refusal({-1}, 3), "ivtp: word -1 is not one of the 2 text tokens");
}

struct RandomCase {
  TokenLayout layout;
  reference::IvtpInput input;
  double share = 0.5;
  Index keep = 0;
};

template <class T>
RandomCase random_case(Random& random) {
  RandomCase c;
  const bool encoder = random.chance(0.5);
  const Index visual = 1 + random.below(30);
  c.layout = encoder ? TokenLayout::encoder({1, visual})
                     : TokenLayout::decoder(random.below(3), visual, 1 + random.below(5));
  const auto p = static_cast<std::size_t>(c.layout.tokens());
  const Index layers = 1 + random.below(4);
  for (Index l = 0; l < layers; ++l) {
    c.input.layers.push_back(support::random_probabilities<T>(p, random, !encoder, 2));
  }
  c.input.values = support::normal_heads<T>(2, p, 4, random);
  c.input.start = encoder ? 0 : p - 1;
  for (const auto row : c.layout.visual()) c.input.visual.push_back(static_cast<std::size_t>(row));
  c.share = random.chance(0.5) ? 0.5 : random.uniform();
  c.keep = random.below(visual + 1);
  return c;
}

/// In float, a case whose decisions hang on the last bits proves nothing: the scores around the cut
/// must differ in the fifth digit.
bool is_determined(const reference::IvtpResult& result, Index keep) {
  std::vector<double> sorted = result.scores;
  std::sort(sorted.rbegin(), sorted.rend());
  const auto k = static_cast<std::size_t>(keep);
  return k == 0 || k == sorted.size() || sorted[k - 1] - sorted[k] > 1e-5 * sorted[k - 1];
}

template <class T>
void follows_the_reference() {
  Random random(41);
  int checked = 0;
  for (int i = 0; i < 200; ++i) {
    const RandomCase c = random_case<T>(random);
    const auto expected = reference::ivtp(c.input, static_cast<std::size_t>(c.keep), c.share);
    if (std::is_same_v<T, float> && !is_determined(expected, c.keep)) continue;
    ++checked;
    std::vector<Tensor<T>> matrices;
    for (const auto& layer : c.input.layers) matrices.push_back(support::tensor<T>(layer));
    std::vector<DenseAttention<T>> layers;
    for (const auto& matrix : matrices) layers.push_back(tokenfold::head_mean_attention(matrix));
    const std::vector<T> values = support::cast<T>(c.input.values.values);
    const Index p = c.layout.tokens();
    IVTP method;
    method.filter.attention_share = c.share;
    tokenfold::Workspace workspace;
    tokenfold::ReductionPlan plan;
    method.plan(tokenfold::Sequence(
                    c.layout, AttentionLayers(layers),
                    tokenfold::Values(HeadsView<const T>(values.data(), {2, p, 4}, {p * 4, 4}))),
                Budget::keep(c.keep), workspace, plan);
    EXPECT_TRUE(support::close(workspace.partition.scores, expected.scores,
                               std::is_same_v<T, float> ? 1e-5 : 1e-12,
                               std::is_same_v<T, float> ? 1e-6 : 1e-13))
        << "case " << i;
    EXPECT_EQ(support::indices(workspace.partition.preserved), support::indices(expected.preserved))
        << "case " << i;
  }
  EXPECT_GT(checked, 180);
}

TEST(IVTP, random_cases_follow_the_reference_in_float) { follows_the_reference<float>(); }
TEST(IVTP, random_cases_follow_the_reference_in_double) { follows_the_reference<double>(); }

/// Three layers as queries and keys, grouped heads; nothing of size P × P exists.
TEST(IVTP, layers_from_queries_and_keys_equal_the_reference) {
  Random random(43);
  const TokenLayout layout = TokenLayout::encoder({3, 5});
  const std::size_t p = 16;
  std::vector<reference::Heads> queries;
  std::vector<reference::Heads> keys;
  reference::IvtpInput input;
  std::vector<tokenfold::QueryKeyAttention<double>> layers;
  for (int l = 0; l < 3; ++l) {
    queries.push_back(support::normal_heads<double>(4, p, 8, random));
    keys.push_back(support::normal_heads<double>(2, p, 8, random));
    input.layers.push_back(reference::mean_probabilities(queries.back(), keys.back()));
  }
  for (std::size_t l = 0; l < 3; ++l) {
    layers.emplace_back(HeadsView<const double>(queries[l].values.data(), {4, 16, 8}, {128, 8}),
                        HeadsView<const double>(keys[l].values.data(), {2, 16, 8}, {128, 8}));
  }
  for (std::size_t row = 1; row < p; ++row) input.visual.push_back(row);
  tokenfold::Workspace workspace;
  tokenfold::ReductionPlan plan;
  without_values.plan(tokenfold::Sequence(layout, AttentionLayers(layers)), Budget::keep(6),
                      workspace, plan);
  const auto expected = reference::ivtp(input, 6);
  EXPECT_TRUE(support::close(workspace.partition.scores, expected.scores, 1e-12));
  EXPECT_EQ(support::indices(workspace.partition.preserved), support::indices(expected.preserved));
}

TEST(IVTP, narrow_types_compile_and_agree) {
  const Case c;
  const auto kept = [&](auto zero) {
    using T = decltype(zero);
    const Tensor<T> first = c.first.cast<T>();
    const Tensor<T> second = c.second.cast<T>();
    const Tensor<T> values = c.values.cast<T>();
    const std::vector<DenseAttention<T>> layers = {tokenfold::head_mean_attention(first),
                                                   tokenfold::head_mean_attention(second)};
    return support::indices(
        IVTP{}
            .plan(tokenfold::Sequence(c.layout, AttentionLayers(layers),
                                      tokenfold::Values(tokenfold::split_heads(values, 2))),
                  Budget::keep(2))
            .kept());
  };
  EXPECT_EQ(kept(Eigen::half{}), (Rows{0, 1, 3}));
  EXPECT_EQ(kept(Eigen::bfloat16{}), (Rows{0, 1, 3}));
}

TEST(IVTP, options_by_name) {
  IVTP method;
  std::vector<std::string> names;
  method.options([&](const char* name, auto&, const char*) { names.push_back(name); });
  EXPECT_EQ(names, (std::vector<std::string>{"attention_share", "value_norm", "order"}));
}

}  // namespace
