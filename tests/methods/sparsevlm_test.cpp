// SPDX-License-Identifier: Apache-2.0
// SparseVLM on cases worked out by hand, and against the naive reference on random inputs.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <tokenfold/methods/sparsevlm.hpp>
#include <tokenfold/tokenfold.hpp>
#include <type_traits>
#include <vector>

#include "reference/sparsevlm.hpp"
#include "support/outcome.hpp"
#include "support/random.hpp"

namespace {

using support::Outcome;
using support::Random;
using support::Tensor;
using tokenfold::Budget;
using tokenfold::Correlation;
using tokenfold::Features;
using tokenfold::HeadsView;
using tokenfold::Index;
using tokenfold::MatrixView;
using tokenfold::Partition;
using tokenfold::Positions;
using tokenfold::Raters;
using tokenfold::RaterSource;
using tokenfold::RaterThreshold;
using tokenfold::ReductionPlan;
using tokenfold::Sequence;
using tokenfold::Span;
using tokenfold::SparseVLM;
using tokenfold::SparseVLMv2;
using tokenfold::SparseVLMWithoutRecycling;
using tokenfold::Token;
using tokenfold::TokenLayout;
using tokenfold::Workspace;

using Rows = std::vector<Index>;
using Tokens = std::vector<Token>;
constexpr Index extra = tokenfold::no_token;
constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

template <class Container>
reference::Rows as_rows(const Container& values) {
  reference::Rows rows;
  for (const auto value : values) rows.push_back(static_cast<std::size_t>(value));
  return rows;
}

Tensor<double> column(const std::vector<double>& values) {
  Tensor<double> m(static_cast<Index>(values.size()), 1);
  std::copy(values.begin(), values.end(), m.data());
  return m;
}

reference::Rows text_rows(const TokenLayout& layout) {
  reference::Rows rows(static_cast<std::size_t>(layout.text_after().size()));
  std::iota(rows.begin(), rows.end(), static_cast<std::size_t>(layout.text_after().begin));
  return rows;
}

// -------------------------------------------------------------------------------------- raters

TEST(TextRaters, text_above_the_mean_of_the_softmax_rates) {
  // One visual token, 1: the softmax over the text is proportional to exp(x), 1 : 2 : 5.
  const TokenLayout layout = TokenLayout::decoder(1, 1, 3);
  const Tensor<double> x = column({9, 1, 0, std::log(2.0), std::log(5.0)});
  EXPECT_EQ(tokenfold::text_raters(layout, x), (Tokens{4}));
  Workspace workspace;
  std::vector<double> r(3);
  tokenfold::detail::text_relevance(layout, MatrixView<const double>(x), Span<double>(r),
                                    workspace);
  EXPECT_TRUE(support::close(r, {1.0 / 8, 2.0 / 8, 5.0 / 8}, 1e-14));
}

/// Four visual tokens in directions so long that the softmax is exact: two of them point to text 0,
/// one each to 1 and 2, none to 3, so r = 1/2, 1/4, 1/4, 0, mean 1/4.
Tensor<double> exact_relevance() {
  Tensor<double> x = Tensor<double>::Zero(8, 4);
  const Index to[] = {0, 0, 1, 2, 0, 1, 2, 3};
  for (Index i = 0; i < 8; ++i) x(i, to[i]) = 100;
  return x;
}

TEST(TextRaters, thresholds_differ_at_the_mean) {
  const TokenLayout layout = TokenLayout::decoder(0, 4, 4);
  const Tensor<double> x = exact_relevance();
  EXPECT_EQ(tokenfold::text_raters(layout, x), (Tokens{4}));
  EXPECT_EQ(tokenfold::text_raters(layout, x, RaterThreshold::at_least_mean), (Tokens{4, 5, 6}));
}

TEST(TextRaters, equal_text_rates_together) {
  const TokenLayout layout = TokenLayout::decoder(1, 2, 3);
  const Tensor<double> x = column({9, 1, 0.3, 0.7, 0.7, 0.7});
  for (const auto threshold : {RaterThreshold::above_mean, RaterThreshold::at_least_mean}) {
    EXPECT_EQ(tokenfold::text_raters(layout, x, threshold), (Tokens{3, 4, 5}));
  }
}

TEST(TextRaters, one_word_rates_alone_and_none_is_nobody) {
  EXPECT_EQ(tokenfold::text_raters(TokenLayout::decoder(0, 2, 1), column({1, 2, 3})), (Tokens{2}));
  EXPECT_EQ(tokenfold::text_raters(TokenLayout::decoder(1, 2, 0), column({1, 2, 3})), (Tokens{}));
}

TEST(TextRaters, without_an_image_all_text_rates) {
  EXPECT_EQ(tokenfold::text_raters(TokenLayout::decoder(1, 0, 2), column({1, 2, 3})),
            (Tokens{1, 2}));
}

TEST(TextRaters, what_is_not_finite_does_not_rate) {
  const TokenLayout layout = TokenLayout::decoder(0, 4, 4);
  for (const double bad : {nan, infinity, -infinity}) {
    Tensor<double> x = exact_relevance();
    x(4, 1) = bad;  // text 0 has no product with anybody, so visual 0 and 1 count for all others
    EXPECT_EQ(tokenfold::text_raters(layout, x), (Tokens{5, 6}));
    x = exact_relevance();
    x.row(0).setConstant(bad);  // visual 0 has none either: r = 1/3, 1/3, 1/3, 0
    EXPECT_EQ(tokenfold::text_raters(layout, x), (Tokens{4, 5, 6}));
    x.setConstant(bad);
    EXPECT_EQ(tokenfold::text_raters(layout, x), (Tokens{4, 5, 6, 7}));
  }
}

TEST(TextRaters, rows_between_visual_tokens_do_not_count) {
  tokenfold::LayoutDescription d;
  d.tokens = 9;
  d.visual = {0, 5};
  d.cells = {0, 1, tokenfold::no_token, 2, 3};
  d.text_after = {5, 9};
  Tensor<double> x(9, 4);
  x << exact_relevance().topRows(2), Tensor<double>::Constant(1, 4, 7),
      exact_relevance().bottomRows(6);
  x(2, 3) = 1000;
  EXPECT_EQ(tokenfold::text_raters(TokenLayout(d), x), (Tokens{5}));
}

TEST(TextRaters, needs_a_row_for_every_token) {
  EXPECT_EQ(support::refusal([] {
              tokenfold::text_raters(TokenLayout::decoder(1, 2, 3), column({1, 2, 3}));
            }),
            "text raters: 3 rows of embeddings were given for 6 tokens");
}

template <class T>
void check_random_raters() {
  Random random(31);
  int decided = 0;
  for (int trial = 0; trial < 40; ++trial) {
    const Index n = 1 + random.below(150);
    const TokenLayout layout = TokenLayout::decoder(random.below(4), n, 1 + random.below(20));
    const reference::Matrix x =
        support::normal_matrix<T>(static_cast<std::size_t>(layout.tokens()),
                                  static_cast<std::size_t>(1 + random.below(40)), random, 0.5);
    const reference::Rows visual = as_rows(layout.visual());
    const reference::Rows text = text_rows(layout);
    const std::vector<double> r = reference::sparsevlm_text_relevance(x, visual, text);
    const double mean = std::accumulate(r.begin(), r.end(), 0.0) / static_cast<double>(r.size());
    if (r.size() == 1 || std::any_of(r.begin(), r.end(), [&](double value) {
          return std::abs(value - mean) < 1e-5 * mean;
        })) {
      continue;  // rounding decides
    }
    ++decided;
    EXPECT_EQ(as_rows(tokenfold::text_raters(layout, support::tensor<T>(x))),
              reference::sparsevlm_raters(x, visual, text, true));
  }
  EXPECT_GE(decided, 30);
}
TEST(TextRaters, random_float_equals_the_reference) { check_random_raters<float>(); }
TEST(TextRaters, random_double_equals_the_reference) { check_random_raters<double>(); }

TEST(TextRaters, narrow_types_are_accepted) {
  const TokenLayout layout = TokenLayout::decoder(0, 4, 4);
  const Tensor<Eigen::half> half = (exact_relevance() / 10).cast<Eigen::half>();
  const Tensor<Eigen::bfloat16> bfloat = (exact_relevance() / 10).cast<Eigen::bfloat16>();
  EXPECT_EQ(tokenfold::text_raters(layout, half, RaterThreshold::at_least_mean).front(), 4);
  EXPECT_EQ(tokenfold::text_raters(layout, bfloat, RaterThreshold::at_least_mean).front(), 4);
}

// ---------------------------------------------------------------------- filter, without recycling

/// Two words, as many visual tokens as a row of `a` has, and the rows of `a` as text after them.
struct RatedImage {
  explicit RatedImage(const std::vector<std::vector<double>>& a)
      : layout(TokenLayout::decoder(2, static_cast<Index>(a.at(0).size()),
                                    static_cast<Index>(a.size()))),
        attention(Tensor<double>::Constant(layout.tokens(), layout.tokens(), 0.7)) {
    for (std::size_t t = 0; t < a.size(); ++t) {
      std::copy(a[t].begin(), a[t].end(),
                attention.row(layout.text_after().begin + static_cast<Index>(t)).data() + 2);
    }
  }
  /// The row of word t after the image.
  Token word(Index t) const { return static_cast<Token>(layout.text_after().begin + t); }

  TokenLayout layout;
  Tensor<double> attention;
};

Rows preserved(const SparseVLMWithoutRecycling& method, const RatedImage& image,
               const Tokens& raters, const Budget& budget, std::vector<double>* scores = nullptr) {
  Workspace workspace;
  ReductionPlan plan;
  method.plan(
      Sequence(image.layout, tokenfold::head_mean_attention(image.attention), Raters(raters)),
      budget, workspace, plan);
  if (scores != nullptr) *scores = workspace.partition.scores;
  EXPECT_TRUE(plan.selects_only());
  return support::indices(workspace.partition.preserved);
}

TEST(SparseVlmFilter, raters_decide_and_others_do_not) {
  const RatedImage image({{0.125, 0.5, 0.25, 0.25}, {9, 9, 0, 0}, {0.5, 0.125, 0.125, 0.375}});
  std::vector<double> p;
  EXPECT_EQ(preserved({}, image, {image.word(0), image.word(2)}, Budget::keep(2), &p),
            (Rows{2, 3}));  // three are equal: the lower two
  EXPECT_TRUE(support::close(p, {0.3125, 0.3125, 0.1875, 0.3125}, 0, 0));
  EXPECT_EQ(preserved({}, image, {image.word(0)}, Budget::keep(2)), (Rows{3, 4}));
}

TEST(SparseVlmFilter, all_text_needs_no_raters) {
  const RatedImage image({{0.1, 0.5, 0.3}, {0.6, 0, 0.6}});
  SparseVLMWithoutRecycling method;
  method.filter.raters = RaterSource::all_text;
  EXPECT_EQ(preserved(method, image, {}, Budget::keep(1)), (Rows{4}));
  const auto plan = method.plan(
      Sequence(image.layout, tokenfold::head_mean_attention(image.attention)), Budget::keep(1));
  EXPECT_EQ(support::indices(plan.kept()), (Rows{0, 1, 4, 5, 6}));
}

TEST(SparseVlmFilter, only_the_raters_rows_of_attention_are_asked_for) {
  const TokenLayout layout = TokenLayout::decoder(1, 3, 3);
  Tensor<double> rows(2, 3);
  rows << 0.1, 0.2, 0.3, 0.5, 0.1, 0.1;
  const Tokens raters = {5, 6};
  const auto plan = SparseVLMWithoutRecycling{}.plan(
      Sequence(layout, tokenfold::head_mean_attention(rows, {.first_query = 5, .first_key = 1}),
               Raters(raters)),
      Budget::keep(2));
  EXPECT_EQ(support::indices(plan.kept()), (Rows{0, 1, 3, 4, 5, 6}));
}

TEST(SparseVlmFilter, attention_that_is_not_finite_goes_first) {
  const RatedImage image({{nan, 0.1, infinity, 0.2}});
  EXPECT_EQ(preserved({}, image, {image.word(0)}, Budget::keep(2)), (Rows{3, 5}));
}

TEST(SparseVlmFilter, refuses_what_cannot_rate) {
  const RatedImage image({{0.1, 0.2}});
  const std::string none =
      "raters: none were given; choose them with text_raters(), or set raters = all_text";
  EXPECT_EQ(support::refusal([&] { preserved({}, image, {}, Budget::keep(1)); }), none);
  EXPECT_EQ(support::refusal([&] {
              SparseVLMWithoutRecycling{}.plan(
                  Sequence(image.layout, tokenfold::head_mean_attention(image.attention)),
                  Budget::keep(1));
            }),
            none);
  EXPECT_EQ(support::refusal([&] { preserved({}, image, {5}, Budget::keep(1)); }),
            "raters: row 5 is not a text token of the 5 rows");
  EXPECT_EQ(support::refusal([&] { preserved({}, image, {-1}, Budget::keep(1)); }),
            "raters: row -1 is not a text token of the 5 rows");
  EXPECT_EQ(support::refusal([&] {
              preserved({}, image, {4, 3}, Budget::keep(1));
            }),
            "raters: row 3 is not a text token of the 5 rows");
  const TokenLayout no_text = TokenLayout::decoder(3, 2, 0);
  SparseVLMWithoutRecycling method;
  method.filter.raters = RaterSource::all_text;
  EXPECT_EQ(support::refusal([&] {
              method.plan(Sequence(no_text, tokenfold::head_mean_attention(image.attention)),
                          Budget::keep(1));
            }),
            "raters: the layout has no text tokens after the image");
}

TEST(SparseVlmFilter, no_image_and_whole_image_change_nothing) {
  const RatedImage image({{0.1, 0.2}});
  EXPECT_EQ(preserved({}, image, {4}, Budget::keep(2)), (Rows{2, 3}));
  EXPECT_EQ(preserved({}, image, {4}, Budget::keep(0)), (Rows{}));
  const TokenLayout empty = TokenLayout::decoder(2, 0, 3);
  const Sequence sequence(empty, tokenfold::head_mean_attention(image.attention));
  EXPECT_TRUE(SparseVLMWithoutRecycling{}.plan(sequence, Budget::keep(0)).is_identity());
  EXPECT_TRUE(SparseVLMWithoutRecycling{}.plan(sequence, Budget::adaptive()).is_identity());
  EXPECT_TRUE(SparseVLMv2{}.plan(sequence, Budget::keep(0)).is_identity());
}

// ----------------------------------------------------------------------------------- rank rule

TEST(SparseVlmRankRule, as_many_stay_as_the_rank_says) {
  const RatedImage one({{0.1, 0.2, 0.3, 0.4}, {0.2, 0.4, 0.6, 0.8}});
  EXPECT_EQ(preserved({}, one, {one.word(0)}, Budget::adaptive()), (Rows{5}));
  const RatedImage two({{0.1, 0.2, 0.3, 0.4}, {0.1, 0.2, 0.3, 0.5}});
  EXPECT_EQ(preserved({}, two, {two.word(0)}, Budget::adaptive()), (Rows{4, 5}));
  const RatedImage zero({{0, 0, 0}, {0, 0, 0}});
  EXPECT_EQ(preserved({}, zero, {zero.word(0)}, Budget::adaptive()), (Rows{}));
  const RatedImage full({{1, 0}, {0, 1}, {1, 1}});
  EXPECT_EQ(preserved({}, full, {full.word(0)}, Budget::adaptive()), (Rows{2, 3}));
}

TEST(SparseVlmRankRule, factor_scales_what_goes_and_rounds_it_down) {
  const RatedImage image({{0.1, 0.2, 0.3, 0.4, 0.5, 0.6}});  // N - rank = 5
  SparseVLMWithoutRecycling method;
  for (const auto& [factor, kept] :
       {std::pair{0.0, 6u}, {0.19, 6u}, {0.2, 5u}, {0.5, 4u}, {1.0, 1u}}) {
    method.filter.rank_factor = factor;
    EXPECT_EQ(preserved(method, image, {image.word(0)}, Budget::adaptive()).size(), kept) << factor;
  }
}

TEST(SparseVlmRankRule, tolerance_says_what_is_the_same) {
  const RatedImage image({{0.1, 0.2, 0.3}, {0.1, 0.2, 0.3001}});
  SparseVLMWithoutRecycling method;
  EXPECT_EQ(preserved(method, image, {image.word(0)}, Budget::adaptive()).size(), 2u);
  method.filter.rank_tolerance = 1e-3;
  EXPECT_EQ(preserved(method, image, {image.word(0)}, Budget::adaptive()).size(), 1u);
}

TEST(SparseVlmRankRule, entries_that_are_not_finite_count_as_zero) {
  const RatedImage image({{nan, 0.2, 0.3}, {nan, 0.2, 0.3}});
  EXPECT_EQ(preserved({}, image, {image.word(0)}, Budget::adaptive()), (Rows{4}));
}

TEST(SparseVlmRankRule, options_are_checked) {
  const RatedImage image({{0.1, 0.2}});
  SparseVLMWithoutRecycling method;
  method.filter.rank_factor = 1.5;
  EXPECT_EQ(support::refusal([&] { preserved(method, image, {4}, Budget::keep(1)); }),
            "text raters: rank_factor must lie in [0, 1], got 1.5");
  method.filter.rank_factor = 1;
  method.filter.rank_tolerance = nan;
  EXPECT_NE(support::refusal([&] { preserved(method, image, {4}, Budget::keep(1)); }), "");
}

TEST(SparseVlmRankRule, rank_counts_the_singular_values) {
  Random random(7);
  for (int trial = 0; trial < 60; ++trial) {
    const auto rows = static_cast<std::size_t>(1 + random.below(12));
    const auto cols = static_cast<std::size_t>(1 + random.below(30));
    const auto inner = static_cast<std::size_t>(random.below(14));
    const reference::Matrix a =
        reference::multiply(support::normal_matrix<double>(rows, inner, random),
                            support::normal_matrix<double>(inner, cols, random));
    const std::vector<double> values = reference::sparsevlm_singular_values(a);
    const auto rank = std::count_if(values.begin(), values.end(),
                                    [&](double value) { return value > 1e-12 * values[0]; });
    Tensor<double> copy = support::tensor<double>(a);
    EXPECT_EQ(tokenfold::detail::numerical_rank(MatrixView<double>(copy), 1e-12), rank);
    EXPECT_EQ(static_cast<std::size_t>(rank), std::min({rows, cols, inner}));
  }
}

// ----------------------------------------------------------------------------------- recycling

/// All visual tokens discarded, one word that rates, features and scores as given: what becomes of
/// them. Row 0 is text, visual token v is row 1 + v.
struct Recycled {
  std::vector<Rows> clusters;  // visual ordinals
  std::vector<double> output;  // of the synthetic tokens
};

Recycled recycle(const SparseVLM& method, const Tensor<double>& features,
                 const std::vector<double>& scores) {
  const Index n = features.rows();
  const TokenLayout layout = TokenLayout::decoder(1, n, 1);
  Tensor<double> attention = Tensor<double>::Zero(1, n);
  std::copy(scores.begin(), scores.end(), attention.data());
  const Tokens raters = {static_cast<Token>(n + 1)};
  reference::Matrix tokens(static_cast<std::size_t>(n + 2),
                           static_cast<std::size_t>(features.cols()));
  std::copy(features.data(), features.data() + features.size(),
            tokens.values.begin() + features.cols());
  const Outcome outcome = support::run<double>(
      method,
      Sequence(layout,
               tokenfold::head_mean_attention(attention, {.first_query = n + 1, .first_key = 1}),
               Features(features, 1), Raters(raters)),
      Budget::keep(0), tokens);
  Recycled result;
  result.clusters.resize(outcome.kept.size() - 2);
  for (const support::Link& link : outcome.links) {
    result.clusters.at(static_cast<std::size_t>(-1 - link.target)).push_back(link.source - 1);
  }
  const auto& values = outcome.output.values;
  result.output.assign(values.begin() + features.cols(), values.end() - features.cols());
  return result;
}

/// Recycles all, `tokens` a cluster; the scores do not matter then.
Recycled recycle_all(Index tokens, const std::vector<double>& features) {
  return recycle({.filter = {},
                  .correlate = {.share = 1, .tokens_per_cluster = tokens},
                  .compress = {.epsilon = 0}},
                 column(features), std::vector<double>(features.size(), 0.5));
}

TEST(DensityPeaks, centres_are_dense_and_apart) {
  // Two clusters, k = 2. −log ρ: 1/2 for all but 30, which has 361/2. Of 0, 1, 10, 11 the lower are
  // denser: η = 30 (the largest distance), 1, 9, 1. So 0 and 10 are the centres.
  const Recycled r = recycle_all(3, {0, 1, 10, 11, 30});
  EXPECT_EQ(r.clusters, (std::vector<Rows>{{0, 1}, {2, 3, 4}}));
  EXPECT_TRUE(support::close(r.output, {0.5, 17}, 1e-6));
}

TEST(DensityPeaks, synthetic_tokens_come_by_falling_centre_score) {
  // k = 2. −log ρ: 0.005, 0.005, 0, 0; the duplicates at 10 are densest, the lower first. η of
  // token 2 is 10 (the largest distance), of the other duplicate 0, of 0 is 10, of 0.1 is 0.1.
  const Recycled r = recycle_all(3, {0, 0.1, 10, 10});
  EXPECT_EQ(r.clusters, (std::vector<Rows>{{2, 3}, {0, 1}}));
  EXPECT_TRUE(support::close(r.output, {10, 0.05}, 1e-6));
}

TEST(DensityPeaks, one_cluster_takes_all) {
  const Recycled r = recycle_all(10, {3, 1, 2});
  EXPECT_EQ(r.clusters, (std::vector<Rows>{{0, 1, 2}}));
  EXPECT_TRUE(support::close(r.output, {2}, 1e-6));
}

TEST(DensityPeaks, tie_between_centres_goes_to_the_lower_token) {
  // 10 and 0 are pairs; 5 is as far from both.
  const Recycled r = recycle_all(3, {10, 10, 0, 0, 5});
  EXPECT_EQ(r.clusters, (std::vector<Rows>{{0, 1, 4}, {2, 3}}));
}

TEST(DensityPeaks, duplicates_everywhere_make_clusters_all_the_same) {
  const Recycled r = recycle_all(2, {7, 7, 7, 7});  // three clusters of 0, 1, 2
  EXPECT_EQ(r.clusters, (std::vector<Rows>{{0, 3}, {1}, {2}}));
  EXPECT_TRUE(support::close(r.output, {7, 7, 7}, 1e-6));
}

TEST(DensityPeaks, more_clusters_than_tokens_are_one_each) {
  const Recycled r = recycle_all(1, {1, 5, 2});
  ASSERT_EQ(r.clusters.size(), 3u);
  for (const Rows& cluster : r.clusters) EXPECT_EQ(cluster.size(), 1u);
}

TEST(DensityPeaks, best_of_the_discarded_are_recycled) {
  // ⌊0.3 · 7⌋ + 1 = 3; of the equal scores the lower.
  const Recycled r = recycle({}, column({1, 2, 3, 4, 5, 6, 7}), {0, 0.2, 0.1, 0.9, 0.1, 0, 0.1});
  EXPECT_EQ(r.clusters, (std::vector<Rows>{{1, 2, 3}}));
  EXPECT_TRUE(support::close(r.output, {9 / 3.000001}, 1e-6));
  SparseVLM least;
  least.correlate.share = 0;
  EXPECT_EQ(recycle(least, column({1, 2, 3}), {0, 0.2, 0.1}).clusters, (std::vector<Rows>{{1}}));
}

TEST(DensityPeaks, what_is_not_finite_is_not_recycled) {
  for (const double bad : {nan, infinity, -infinity}) {
    const Recycled r = recycle({}, column({1, bad, 3, 4, 5}), {0.1, 0.9, bad, 0.2, 0.3});
    EXPECT_EQ(r.clusters, (std::vector<Rows>{{3, 4}}));
    EXPECT_TRUE(support::close(r.output, {4.5}, 1e-5));
    EXPECT_EQ(recycle({}, column({bad, bad}), {0.1, 0.9}).clusters, (std::vector<Rows>{}));
    EXPECT_EQ(recycle({}, column({1, 2}), {bad, bad}).clusters, (std::vector<Rows>{}));
  }
}

TEST(DensityPeaks, distances_that_overflow_break_nothing) {
  const Recycled r = recycle_all(2, {1e200, -1e200, 0, 1, 1e200});
  std::size_t members = 0;
  for (const Rows& cluster : r.clusters) members += cluster.size();
  EXPECT_EQ(members, 5u);
}

TEST(DensityPeaks, cosine_joins_by_direction) {
  // The lower of each pair are the centres (k = 2); the last token is nearer to the first pair, but
  // points where the second does.
  Tensor<double> x(5, 2);
  x << 1, 0, 1, 0, 0, 9, 0, 9, 0, 1;
  SparseVLM method;
  method.correlate = {.share = 1, .tokens_per_cluster = 3};
  const std::vector<double> scores(5, 0.5);
  EXPECT_EQ(recycle(method, x, scores).clusters, (std::vector<Rows>{{0, 1, 4}, {2, 3}}));
  method.correlate.joining = tokenfold::correlate::Joining::cosine;
  EXPECT_EQ(recycle(method, x, scores).clusters, (std::vector<Rows>{{0, 1}, {2, 3, 4}}));
}

TEST(DensityPeaks, zero_tokens_have_no_direction) {
  SparseVLM method{.filter = {},
                   .correlate = {.share = 1,
                                 .tokens_per_cluster = 2,
                                 .joining = tokenfold::correlate::Joining::cosine},
                   .compress = {}};
  Tensor<double> x = Tensor<double>::Zero(5, 2);
  x(3, 0) = 1;
  const Recycled r = recycle(method, x, std::vector<double>(5, 0.5));
  std::size_t members = 0;
  for (const Rows& cluster : r.clusters) members += cluster.size();
  EXPECT_EQ(members, 5u);
  for (const double value : r.output) EXPECT_TRUE(std::isfinite(value));
}

TEST(DensityPeaks, blocks_of_distances_are_the_same_as_all_at_once) {
  Random random(3);
  const Tensor<float> x = support::tensor<float>(support::normal_matrix<float>(40, 9, random));
  const Features features(x);
  const Tokens rows = random.sample(33, 40);
  for (const Index held : {1, 50, 200, 1 << 20}) {
    Workspace workspace;
    Workspace::Frame frame(workspace);
    tokenfold::detail::PairDistances distances(features.features, Span<const Token>(rows),
                                               workspace, held);
    for (const Index start : {0, 1}) {  // again, from elsewhere
      for (Index i = start; i < distances.size(); ++i) {
        const auto row = distances.row(i);
        for (Index j = 0; j < row.size(); ++j) {
          const double exact = reference::sparsevlm_distance(
              reference::Matrix(40, 9, std::vector<double>(x.data(), x.data() + x.size())),
              static_cast<std::size_t>(rows[static_cast<std::size_t>(i)]),
              static_cast<std::size_t>(rows[static_cast<std::size_t>(j)]));
          EXPECT_NEAR(static_cast<double>(row[j]), exact * exact, 1e-5);
        }
      }
    }
    tokenfold::detail::PairDistances again(features.features, Span<const Token>(rows), workspace,
                                           held);
    Workspace whole_workspace;
    Workspace::Frame whole_frame(whole_workspace);
    tokenfold::detail::PairDistances whole(features.features, Span<const Token>(rows),
                                           whole_workspace);
    EXPECT_EQ(support::indices(tokenfold::detail::density_peaks(again, 5, workspace)),
              support::indices(tokenfold::detail::density_peaks(whole, 5, whole_workspace)));
  }
}

TEST(DensityPeaks, options_and_inputs_are_checked) {
  SparseVLM method;
  method.correlate.share = 2;
  EXPECT_EQ(support::refusal([&] {
              recycle(method, column({1, 2}), {0, 1});
            }),
            "density peaks: share must lie in [0, 1], got 2");
  method.correlate = {.tokens_per_cluster = 0};
  EXPECT_EQ(support::refusal([&] {
              recycle(method, column({1, 2}), {0, 1});
            }),
            "density peaks: tokens_per_cluster must be positive, got 0");
  method = {};
  method.compress.epsilon = -1;
  EXPECT_EQ(support::refusal([&] {
              recycle(method, column({1, 2}), {0, 1});
            }),
            "cluster tokens: epsilon must not be negative, got -1");

  const RatedImage image({{0.1, 0.2}});
  const Tokens raters = {4};
  const Tensor<double> features = column({1, 2});
  EXPECT_EQ(support::refusal([&] {
              SparseVLM{}.plan(
                  Sequence(image.layout, tokenfold::head_mean_attention(image.attention),
                           Features(features, 1), Raters(raters)),
                  Budget::keep(1));
            }),
            "density peaks: rows [1, 3) of features were given, but the visual tokens lie in rows "
            "[2, 4)");
  const Partition no_scores{.preserved = {2}, .discarded = {3}, .targets = {}, .scores = {}};
  Correlation correlation;
  Workspace workspace;
  EXPECT_EQ(support::refusal([&] {
              tokenfold::correlate::DensityPeaks{}(Sequence(image.layout, Features(features, 2)),
                                                   no_scores, correlation, workspace);
            }),
            "density peaks: the filter gave 0 scores for 2 visual tokens");
}

// ------------------------------------------------------------------------------------ compress

struct Compressed {
  Rows kept;
  reference::Matrix weights;
};

Compressed compress(const tokenfold::compress::ClusterTokens& stage,
                    const Correlation& correlation) {
  const TokenLayout layout = TokenLayout::decoder(1, 4, 1);
  const Partition partition{.preserved = {2}, .discarded = {1, 3, 4}, .targets = {}, .scores = {}};
  ReductionPlan plan;
  Workspace workspace;
  tokenfold::PlanWriter writer(layout, plan);
  stage(Sequence(layout), partition, correlation, writer, workspace);
  writer.finish(workspace);
  return {support::indices(plan.kept()), support::dense_weights(plan)};
}

Correlation links(const std::vector<support::Link>& list) {
  Correlation correlation;
  for (const support::Link& link : list) {
    correlation.begin_source(static_cast<Token>(link.source));
    correlation.link(static_cast<Token>(link.target), link.alpha);
  }
  return correlation;
}

TEST(ClusterTokens, mean_and_sum_by_cluster) {
  const Correlation correlation = links({{4, -1, 1}, {1, -2, 1}, {3, -1, 1}});
  Compressed c = compress({}, correlation);
  EXPECT_EQ(c.kept, (Rows{0, 2, extra, extra, 5}));
  const double half = 1 / 2.000001;
  EXPECT_TRUE(support::close(c.weights.row(2), {0, 0, 0, half, half, 0}, 1e-7));
  EXPECT_TRUE(support::close(c.weights.row(3), {0, 1 / 1.000001, 0, 0, 0, 0}, 1e-7));
  c = compress({.rule = tokenfold::Aggregate::sum}, correlation);
  EXPECT_TRUE(support::close(c.weights.row(2), {0, 0, 0, 1, 1, 0}, 0, 0));
}

TEST(ClusterTokens, strengths_weigh) {
  const Compressed c = compress({.epsilon = 0}, links({{1, -1, 3}, {3, -1, 1}}));
  EXPECT_TRUE(support::close(c.weights.row(2), {0, 0.75, 0, 0.25, 0, 0}, 0, 0));
}

TEST(ClusterTokens, empty_clusters_and_links_that_are_nothing_are_left_out) {
  const Compressed c = compress({}, links({{1, -3, 1}, {3, -1, 0}, {4, -2, nan}}));
  EXPECT_EQ(c.kept, (Rows{0, 2, extra, 5}));
  EXPECT_EQ(compress({}, {}).kept, (Rows{0, 2, 5}));
}

TEST(ClusterTokens, refuses_links_to_rows) {
  EXPECT_EQ(support::refusal([] {
              compress({}, links({{1, 2, 1}}));
            }),
            "cluster tokens: links must point to the synthetic tokens 0 to 0, got -3");
  EXPECT_EQ(support::refusal([] {
              compress({}, links({{1, -100, 1}}));
            }),
            "cluster tokens: links must point to the synthetic tokens 0 to 0, got 99");
}

// --------------------------------------------------------------------------------- whole method

/// Special rows between visual tokens now and then; text, raters, features and attention at random.
template <class T>
struct RandomCase {
  RandomCase(Random& random, Index n) {
    tokenfold::LayoutDescription d;
    const bool gap = random.chance(0.3);
    for (Index i = 0; i < n; ++i) {
      if (gap && i == n / 2) d.cells.push_back(tokenfold::no_token);
      d.cells.push_back(static_cast<Token>(i));
    }
    const Index before = random.below(4);
    const Index after = 1 + random.below(9);
    d.text_before = {0, before};
    d.visual = {before, before + static_cast<Index>(d.cells.size())};
    d.tokens = d.visual.end + after;
    d.text_after = {d.visual.end, d.tokens};
    layout = TokenLayout(d);
    const auto p = static_cast<std::size_t>(d.tokens);
    queries = support::normal_heads<T>(4, p, 6, random);
    keys = support::normal_heads<T>(2, p, 6, random);
    input.tokens = support::normal_matrix<T>(p, 8, random);
    input.visual_rows = as_rows(layout.visual());
    for (const Token row : random.sample(1 + random.below(after), after)) {
      raters.push_back(static_cast<Token>(d.visual.end) + row);
    }
    input.raters = as_rows(raters);
    input.keep = static_cast<std::size_t>(random.below(n + 1));
    input.first_after_image = static_cast<std::size_t>(layout.visual_range().end);
    input.attention = attention(queries);
  }

  reference::Matrix attention(const reference::Heads& q) const {
    return reference::mean_probabilities(q, keys, {.scale = {}, .causal = true});
  }
  HeadsView<const T> view(const reference::Heads& heads, std::vector<T>& storage) const {
    storage = support::cast<T>(heads.values);
    const auto tokens = static_cast<Index>(heads.tokens);
    const auto dim = static_cast<Index>(heads.dim);
    return {storage.data(), {static_cast<Index>(heads.heads), tokens, dim}, {tokens * dim, dim}};
  }

  TokenLayout layout;
  reference::Heads queries;
  reference::Heads keys;
  reference::SparseVlmInput input;
  Tokens raters;
};

template <class T>
void check_random_reductions() {
  Random random(11);
  int decided = 0;
  constexpr int trials = 60;
  for (int trial = 0; trial < trials; ++trial) {
    const RandomCase<T> c(random, 1 + random.below(120));
    SparseVLM method = trial % 3 == 0 ? tokenfold::sparsevlm_published() : SparseVLM{};
    method.correlate.share = trial % 4 == 0 ? 0.9 : 0.3;
    method.correlate.tokens_per_cluster = 1 + random.below(12);
    reference::SparseVlmOptions options;
    options.share = method.correlate.share;
    options.tokens_per_cluster = static_cast<std::size_t>(method.correlate.tokens_per_cluster);
    options.join_by_cosine = trial % 3 == 0;
    options.sum = trial % 3 == 0;
    const reference::SparseVlmResult expected = reference::sparsevlm(c.input, options);

    bool determined = true;
    for (int other = 0; other < 3; ++other) {
      reference::SparseVlmInput rounded = c.input;
      const double rounding = std::is_same_v<T, float> ? 1e-6 : 1e-13;
      rounded.tokens.values = support::perturbed(rounded.tokens.values, rounding, random);
      rounded.attention.values = support::perturbed(rounded.attention.values, rounding, random);
      const auto result = reference::sparsevlm(rounded, options);
      determined = determined && result.discarded == expected.discarded &&
                   result.recycled == expected.recycled && result.centers == expected.centers &&
                   result.cluster == expected.cluster;
    }
    if (!determined) continue;
    ++decided;

    std::vector<T> q;
    std::vector<T> k;
    const tokenfold::QueryKeyAttention<T> attention(c.view(c.queries, q), c.view(c.keys, k),
                                                    {.causal = true});
    const Tensor<T> features = support::tensor<T>(c.input.tokens);
    const Outcome outcome =
        support::run<T>(method, Sequence(c.layout, attention, Features(features), Raters(c.raters)),
                        Budget::keep(static_cast<Index>(c.input.keep)), c.input.tokens);
    EXPECT_TRUE(
        support::close(outcome.scores, expected.scores, std::is_same_v<T, float> ? 1e-5 : 1e-12));
    EXPECT_EQ(outcome.preserved, support::indices(expected.preserved));
    EXPECT_EQ(outcome.discarded, support::indices(expected.discarded));
    EXPECT_EQ(outcome.kept, support::indices(expected.kept));
    EXPECT_TRUE(support::close(outcome.weights.values, expected.weights.values, 2e-7, 1e-7));
    EXPECT_TRUE(support::close(outcome.output.values, expected.output.values, 1e-5, 1e-6));
  }
  // A cluster of two is a tie that rounding decides, so that many cases with two centres drop out.
  EXPECT_GE(decided, trials / 2);
}
TEST(SparseVlm, random_float_equals_the_reference) { check_random_reductions<float>(); }
TEST(SparseVlm, random_double_equals_the_reference) { check_random_reductions<double>(); }

TEST(SparseVlm, keeping_all_is_the_identity_without_synthetic_tokens) {
  const RatedImage image({{0.1, 0.2, 0.3}});
  const Tensor<double> features = column({0, 0, 1, 2, 3, 0});
  const Tokens raters = {5};
  const Sequence sequence(image.layout, tokenfold::head_mean_attention(image.attention),
                          Features(features), Raters(raters));
  EXPECT_TRUE(SparseVLM{}.plan(sequence, Budget::keep(3)).is_identity());
  const auto one_less = SparseVLM{}.plan(sequence, Budget::keep(2));
  EXPECT_EQ(support::indices(one_less.kept()), (Rows{0, 1, 3, 4, extra, 5}));
  EXPECT_EQ(one_less.visual(), (tokenfold::Range{2, 5}));
}

TEST(SparseVlm, published_sums_and_joins_by_cosine) {
  const SparseVLM method = tokenfold::sparsevlm_published();
  EXPECT_EQ(method.compress.rule, tokenfold::Aggregate::sum);
  EXPECT_EQ(method.correlate.joining, tokenfold::correlate::Joining::cosine);
}

TEST(SparseVlm, raters_follow_from_layer_to_layer) {
  Random random(23);
  const TokenLayout layout = TokenLayout::decoder(3, 40, 6);
  Tokens raters = {44, 47, 48};
  const Tokens original = raters;
  tokenfold::Survivors survivors(layout);
  Workspace workspace;
  ReductionPlan plan;
  for (const Index keep : {25, 12, 4}) {
    const auto p = static_cast<std::size_t>(survivors.layout().tokens());
    const Tensor<double> attention =
        support::tensor<double>(support::random_probabilities<double>(p, random));
    const Tensor<double> features =
        support::tensor<double>(support::normal_matrix<double>(p, 4, random));
    SparseVLM{}.plan(Sequence(survivors.layout(), tokenfold::head_mean_attention(attention),
                              Features(features), Raters(raters)),
                     Budget::keep(keep), workspace, plan);
    survivors.advance(plan, workspace);
    tokenfold::follow_raters(plan, raters);
    for (std::size_t i = 0; i < raters.size(); ++i) {
      EXPECT_EQ(survivors.total().kept()[raters[i]], original[i]);
    }
  }
  Tokens wrong = {1};
  EXPECT_EQ(support::refusal([&] { tokenfold::follow_raters(plan, wrong); }),
            "raters: row 1 is not a row after the image");
}

TEST(SparseVlm, schedules_are_the_tables_and_never_keep_all) {
  using Kept = std::array<Index, 3>;
  EXPECT_EQ(tokenfold::sparsevlm_schedule(192).kept, (Kept{300, 200, 110}));
  EXPECT_EQ(tokenfold::sparsevlm_schedule(128).kept, (Kept{303, 110, 36}));
  EXPECT_EQ(tokenfold::sparsevlm_schedule(96).kept, (Kept{238, 48, 26}));
  EXPECT_EQ(tokenfold::sparsevlm_schedule(64).kept, (Kept{66, 30, 17}));
  EXPECT_EQ(tokenfold::sparsevlm_v2_schedule(192).kept, (Kept{300, 200, 118}));
  EXPECT_EQ(tokenfold::sparsevlm_v2_schedule(128).kept, (Kept{238, 108, 60}));
  EXPECT_EQ(tokenfold::sparsevlm_v2_schedule(96).kept, (Kept{246, 54, 28}));
  EXPECT_EQ(tokenfold::sparsevlm_v2_schedule(64).kept, (Kept{66, 34, 20}));
  const auto schedule = tokenfold::sparsevlm_schedule(64);
  EXPECT_EQ(schedule.layers, (Kept{2, 6, 15}));
  EXPECT_EQ(schedule.budget(0, 576).keep_count(576), 66);
  EXPECT_EQ(schedule.budget(2, 17).keep_count(17), 16);
  EXPECT_EQ(schedule.budget(1, 0).keep_count(0), 0);
  EXPECT_EQ(support::refusal([&] { schedule.budget(3, 576); }),
            "sparsevlm: there are three prunings, got 3");
  for (const auto& table : {tokenfold::sparsevlm_schedule, tokenfold::sparsevlm_v2_schedule}) {
    EXPECT_EQ(support::refusal([&] { table(100); }),
              "sparsevlm: the schedules are 192, 128, 96 and 64");
  }
}

TEST(SparseVlm, options_are_listed_by_name) {
  const auto names = [](auto method) {
    std::vector<std::string> list;
    method.options([&](const char* name, auto&, const char*) { list.emplace_back(name); });
    return list;
  };
  EXPECT_EQ(names(SparseVLM{}),
            (std::vector<std::string>{"raters", "rank_factor", "rank_tolerance", "share",
                                      "tokens_per_cluster", "joining", "rule", "epsilon"}));
  EXPECT_EQ(names(SparseVLMv2{}),
            (std::vector<std::string>{"raters", "heads", "head_dim", "rope_theta", "rope_floor"}));
}

// ----------------------------------------------------------------------------------- version 2

/// One rater in the last row; per head what it pays the visual tokens, which begin the sequence.
std::vector<double> v2_scores(const SparseVLMv2& method,
                              const std::vector<std::vector<double>>& heads,
                              const std::vector<std::int32_t>& positions = {},
                              Rows* kept = nullptr) {
  const auto n = static_cast<Index>(heads.at(0).size());
  const TokenLayout layout = TokenLayout::decoder(0, n, 1);
  std::vector<double> values;
  for (const auto& head : heads) values.insert(values.end(), head.begin(), head.end());
  const tokenfold::DenseAttention<double> attention(
      HeadsView<const double>(values.data(), {static_cast<Index>(heads.size()), 1, n}, {n, n}),
      {.first_query = n});
  const Tokens raters = {static_cast<Token>(n)};
  Workspace workspace;
  ReductionPlan plan;
  method.plan(Sequence(layout, attention, Raters(raters), Positions(positions)),
              Budget::keep(n / 2), workspace, plan);
  if (kept != nullptr) *kept = support::indices(workspace.partition.preserved);
  return workspace.partition.scores;
}

/// Heads of two channels: w(Δ) = √2 cos Δ.
SparseVLMv2 two_channels(Index heads, double floor = 0.05) {
  return {.filter = {.heads = heads, .rope = {.head_dim = 2, .floor = floor}},
          .correlate = {},
          .compress = {}};
}

TEST(SparseVlmV2, attention_is_divided_by_what_the_distance_gives) {
  const double w1 = std::sqrt(2.0) * std::cos(1.0);
  Rows kept;
  EXPECT_TRUE(support::close(v2_scores(two_channels(1), {{0.3, 0.4}}, {7, 8, 8}, &kept),
                             {0.3 / w1, 0.4 / std::sqrt(2.0)}, 1e-12));
  EXPECT_EQ(kept, (Rows{0}));  // 0.39 against 0.28
  // Rows as positions: distances 2 and 1; cos 2 is negative, so the floor holds.
  EXPECT_TRUE(support::close(v2_scores(two_channels(1), {{0.3, 0.4}}),
                             {0.3 / (0.05 * std::sqrt(2.0)), 0.4 / w1}, 1e-12));
  EXPECT_TRUE(support::close(v2_scores(two_channels(1, -1), {{0.3, 0.4}}),
                             {0.3 / (std::sqrt(2.0) * std::cos(2.0)), 0.4 / w1}, 1e-12));
}

TEST(SparseVlmV2, heads_of_the_largest_mass_after_the_division_count) {
  // Positions such that token 1 is divided by less: head 1 has the larger sum only then.
  const std::vector<std::vector<double>> heads = {{0.4, 0.1}, {0.1, 0.3}, {0.1, 0.1}};
  const std::vector<std::int32_t> positions = {8, 7, 8};
  const double w0 = std::sqrt(2.0);
  const double w1 = w0 * std::cos(1.0);
  EXPECT_TRUE(
      support::close(v2_scores(two_channels(1), heads, positions), {0.1 / w0, 0.3 / w1}, 1e-12));
  EXPECT_TRUE(
      support::close(v2_scores(two_channels(2), heads, positions), {0.25 / w0, 0.2 / w1}, 1e-12));
  for (const Index all : {0, 3, 14}) {
    EXPECT_TRUE(support::close(v2_scores(two_channels(all), heads, positions),
                               {0.2 / w0, 0.5 / 3 / w1}, 1e-12));
  }
}

TEST(SparseVlmV2, heads_of_equal_mass_lower_first) {
  EXPECT_TRUE(support::close(v2_scores(two_channels(1), {{0.4, 0.1}, {0.1, 0.4}}, {8, 8, 8}),
                             {0.4 / std::sqrt(2.0), 0.1 / std::sqrt(2.0)}, 1e-12));
}

TEST(SparseVlmV2, token_that_is_not_finite_goes_first_and_chooses_no_heads) {
  for (const double bad : {nan, infinity}) {
    Rows kept;
    const std::vector<double> p = v2_scores(
        two_channels(1), {{bad, 0.1, 0.1, 0.1}, {0.1, 0.1, 0.2, 0.3}}, {8, 8, 8, 8, 8}, &kept);
    EXPECT_EQ(kept, (Rows{2, 3}));
    EXPECT_NEAR(p[3], 0.3 / std::sqrt(2.0), 1e-12);
    v2_scores(two_channels(0), {{bad, 0.1, 0.1, 0.1}, {0.1, 0.1, 0.2, 0.3}}, {8, 8, 8, 8, 8},
              &kept);
    EXPECT_EQ(kept, (Rows{2, 3}));
  }
}

TEST(SparseVlmV2, ties_preserve_the_lower_row) {
  Rows kept;
  v2_scores(two_channels(1), {{0.2, 0.2, 0.2, 0.2}}, {8, 8, 8, 8, 8}, &kept);
  EXPECT_EQ(kept, (Rows{0, 1}));
}

TEST(SparseVlmV2, refuses_bad_options_and_inputs) {
  const std::vector<std::vector<double>> heads = {{0.3, 0.4}};
  EXPECT_EQ(support::refusal([&] { v2_scores(two_channels(-1), heads); }),
            "unbiased raters: heads must not be negative, got -1");
  EXPECT_EQ(support::refusal([&] { v2_scores(two_channels(1, 2), heads); }),
            "rope bias: rope_floor must lie in [-1, 1], got 2");
  SparseVLMv2 method;
  method.filter.rope.head_dim = 3;
  EXPECT_EQ(support::refusal([&] { v2_scores(method, heads); }),
            "rope bias: head_dim must be even, got 3");
  method.filter.rope = {.theta = 0};
  EXPECT_EQ(support::refusal([&] { v2_scores(method, heads); }),
            "rope bias: rope_theta must be positive, got 0");
  EXPECT_EQ(support::refusal([&] {
              v2_scores({}, heads, {1, 2});
            }),
            "unbiased raters: 2 positions were given for 3 tokens");
  const RatedImage image({{0.1, 0.2}});
  const Tokens raters = {4};
  EXPECT_EQ(support::refusal([&] {
              SparseVLMv2{}.plan(
                  Sequence(image.layout,
                           tokenfold::head_mean_attention(
                               image.attention, {.kind = tokenfold::AttentionKind::logits}),
                           Raters(raters)),
                  Budget::keep(1));
            }),
            "unbiased raters: the attention must hold probabilities");
  EXPECT_EQ(support::refusal([&] {
              SparseVLMv2{}.plan(
                  Sequence(image.layout, tokenfold::head_mean_attention(image.attention)),
                  Budget::keep(1));
            }),
            "raters: none were given; choose them with text_raters(), or set raters = all_text");
  EXPECT_EQ(
      support::refusal([&] {
        SparseVLMv2{}.plan(
            Sequence(image.layout, tokenfold::head_mean_attention(image.attention), Raters(raters)),
            Budget::adaptive());
      }),
      "budget: this method has no rule of its own; give keep, discard or keep_ratio");
}

TEST(SparseVlmV2, head_dim_is_that_of_llava_where_nobody_knows_it) {
  const std::vector<std::vector<double>> heads = {{0.3, 0.4, 0.2, 0.1}};
  SparseVLMv2 named;
  named.filter.rope.head_dim = 128;
  EXPECT_EQ(v2_scores({}, heads), v2_scores(named, heads));
}

template <class T>
void check_random_v2() {
  Random random(17);
  for (int trial = 0; trial < 30; ++trial) {
    const RandomCase<T> c(random, 1 + random.below(60));
    const std::vector<reference::Matrix> heads =
        reference::head_probabilities(c.queries, c.keys, {.scale = {}, .causal = true});
    std::vector<std::int32_t> positions;
    if (trial % 2 == 0) {
      std::int32_t position = 0;
      for (Index row = 0; row < c.layout.tokens(); ++row) {
        position += 1 + static_cast<std::int32_t>(random.below(90));
        positions.push_back(position);
      }
    }
    const auto where = [&](std::size_t row) {
      return positions.empty() ? static_cast<double>(row) : static_cast<double>(positions[row]);
    };
    reference::SparseVlmV2Input input;
    for (const reference::Matrix& head : heads) {
      reference::Matrix rows(c.input.raters.size(), c.input.visual_rows.size());
      for (std::size_t t = 0; t < rows.rows; ++t) {
        for (std::size_t v = 0; v < rows.cols; ++v) {
          rows(t, v) = head(c.input.raters[t], c.input.visual_rows[v]);
        }
      }
      input.attention.push_back(rows);
    }
    for (const std::size_t row : c.input.raters) input.rater_positions.push_back(where(row));
    for (const std::size_t row : c.input.visual_rows) input.visual_positions.push_back(where(row));
    input.head_dim = 6;  // of the keys
    input.theta = 100;
    input.heads = static_cast<std::size_t>(random.below(5));
    const reference::SparseVlmV2Scores expected = reference::sparsevlm_v2_scores(input);

    SparseVLMv2 method;
    method.filter.heads = static_cast<Index>(input.heads);
    method.filter.rope.theta = 100;
    std::vector<T> q;
    std::vector<T> k;
    const tokenfold::QueryKeyAttention<T> attention(c.view(c.queries, q), c.view(c.keys, k),
                                                    {.causal = true});
    Workspace workspace;
    ReductionPlan plan;
    method.plan(Sequence(c.layout, attention, Raters(c.raters), Positions(positions)),
                Budget::keep(static_cast<Index>(c.input.keep)), workspace, plan);
    EXPECT_TRUE(support::close(workspace.partition.scores, expected.scores,
                               std::is_same_v<T, float> ? 1e-5 : 1e-12));
    const auto reduced =
        reference::sparsevlm_reduce(c.input, {}, workspace.partition.scores, false);
    EXPECT_EQ(support::indices(plan.kept()), support::indices(reduced.kept));
    EXPECT_TRUE(plan.selects_only());
  }
}
TEST(SparseVlmV2, random_float_equals_the_reference) { check_random_v2<float>(); }
TEST(SparseVlmV2, random_double_equals_the_reference) { check_random_v2<double>(); }

}  // namespace
