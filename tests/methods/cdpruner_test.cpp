// SPDX-License-Identifier: Apache-2.0
// CDPruner on cases worked out by hand, and against the naive reference.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <tokenfold/methods/cdpruner.hpp>
#include <vector>

#include "reference/cdpruner.hpp"
#include "support/outcome.hpp"

namespace {

using reference::Matrix;
using support::Outcome;
using tokenfold::Budget;
using tokenfold::CDPruner;
using tokenfold::Index;
using tokenfold::TokenLayout;
using tokenfold::TokenOrder;
using tokenfold::filter::RelevanceSign;
using tokenfold::filter::RelevanceWeight;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

using Rows = std::vector<Index>;
using Numbers = std::vector<double>;

Matrix matrix(const std::vector<Numbers>& rows) {
  Matrix m(rows.size(), rows.empty() ? 0 : rows[0].size());
  for (std::size_t i = 0; i < m.rows; ++i) {
    for (std::size_t c = 0; c < m.cols; ++c) m(i, c) = rows[i][c];
  }
  return m;
}

Matrix basis(std::size_t n) {
  Matrix m(n, n);
  for (std::size_t i = 0; i < n; ++i) m(i, i) = 1;
  return m;
}

template <class T = double>
Outcome cdpruner(const CDPruner& method, const Matrix& tokens, const Numbers& relevance,
                 Index keep) {
  const TokenLayout layout = TokenLayout::decoder(0, static_cast<Index>(tokens.rows), 0);
  const auto features = support::tensor<T>(tokens);
  const auto given = support::cast<T>(relevance);
  return support::run<T>(
      method,
      tokenfold::Sequence(layout, tokenfold::Features(features), tokenfold::Relevance(given)),
      Budget::keep(keep), tokens);
}

template <class T = double>
Outcome from_embeddings(const CDPruner& method, const Matrix& tokens, const Matrix& image,
                        const Matrix& text, Index keep) {
  const TokenLayout layout = TokenLayout::decoder(0, static_cast<Index>(tokens.rows), 0);
  const auto features = support::tensor<T>(tokens);
  const auto image_embeddings = support::tensor<T>(image);
  const auto text_embeddings = support::tensor<T>(text);
  return support::run<T>(method,
                         tokenfold::Sequence(layout, tokenfold::Features(features),
                                             tokenfold::ImageEmbeddings(image_embeddings),
                                             tokenfold::TextEmbeddings(text_embeddings)),
                         Budget::keep(keep), tokens);
}

const CDPruner in_order{.filter = {.order = TokenOrder::score}};

TEST(CDPruner, relevance_against_what_the_picks_span) {
  // Token 1 is at 30 degrees of token 0, token 2 at 90; lengths do not matter.
  const Matrix tokens = matrix({{3, 0}, {std::sqrt(3.0), 1}, {0, 0.5}});
  const Outcome o = cdpruner({}, tokens, {1, 0.9, 0.5}, 2);
  EXPECT_EQ(o.kept, (Rows{0, 2}));
  EXPECT_EQ(o.discarded, (Rows{1}));
  EXPECT_TRUE(support::close(o.scores, {1, 0.81 * 0.25, 0.25}, 1e-12));
  EXPECT_TRUE(support::close(o.output.values, {3, 0, 0, 0.5}, 0, 0));
  // A little more relevant, token 1 is worth more than token 2.
  EXPECT_EQ(cdpruner({}, tokens, {1.1, 1.01, 0.5}, 2).kept, (Rows{0, 1}));
}

TEST(CDPruner, order_of_picking) {
  EXPECT_EQ(cdpruner(in_order, basis(4), {0.2, 0.4, 0.1, 0.3}, 3).kept, (Rows{1, 3, 0}));
  EXPECT_EQ(cdpruner({}, basis(4), {0.2, 0.4, 0.1, 0.3}, 3).kept, (Rows{0, 1, 3}));
}

TEST(CDPruner, gains_multiply_to_the_determinant) {
  support::Random random(4);
  const Matrix tokens = support::normal_matrix<double>(12, 6, random);
  Numbers relevance;
  for (int i = 0; i < 12; ++i) relevance.push_back(0.1 + random.uniform());
  const Outcome o = cdpruner(in_order, tokens, relevance, 4);
  Eigen::Matrix4d kernel;
  double product = 1;
  for (int a = 0; a < 4; ++a) {
    const auto i = static_cast<std::size_t>(o.preserved[static_cast<std::size_t>(a)]);
    product *= o.scores[i];
    for (int b = 0; b < 4; ++b) {
      const auto j = static_cast<std::size_t>(o.preserved[static_cast<std::size_t>(b)]);
      kernel(a, b) = relevance[i] * relevance[j] * reference::cosine(tokens.row(i), tokens.row(j));
    }
  }
  double determinant = 1;  // by elimination, so that no part of Eigen beyond its core is needed
  for (int p = 0; p < 4; ++p) {
    determinant *= kernel(p, p);
    for (int r = p + 1; r < 4; ++r) kernel.row(r) -= kernel(r, p) / kernel(p, p) * kernel.row(p);
  }
  EXPECT_NEAR(product / determinant, 1, 1e-10);
}

TEST(CDPruner, relevance_from_embeddings) {
  // Cosines 1, 0, -1 with the text; scaled 1 + 5e-7, 0.5 + 5e-7, 5e-7.
  const Matrix image = matrix({{2, 0}, {0, 3}, {-1, 0}});
  const Matrix text = matrix({{5, 0}});
  const auto square = [](double x) { return x * x; };
  const double least = 1e-6 / 2;
  EXPECT_TRUE(support::close(from_embeddings({}, basis(3), image, text, 2).scores,
                             {square(1 + least), square(0.5 + least), square(least)}, 1e-12));
  EXPECT_TRUE(support::close(
      from_embeddings(tokenfold::cdpruner_released(), basis(3), image, text, 2).scores,
      {square(least), square(0.5 + least), square(1 + least)}, 1e-12));
  EXPECT_EQ(from_embeddings({}, basis(3), image, text, 2).kept, (Rows{0, 1}));
  EXPECT_EQ(from_embeddings(tokenfold::cdpruner_released(), basis(3), image, text, 2).kept,
            (Rows{1, 2}));
}

TEST(CDPruner, relevance_is_the_mean_over_text_rows) {
  // Cosines with the two texts: (1, 0), (0, 1), (0.6, 0.8); a text without direction adds nothing.
  const Matrix image = matrix({{1, 0}, {0, 1}, {3, 4}});
  const Matrix text = matrix({{2, 0}, {0, 7}, {0, 0}, {nan, 1}});
  const Outcome o = from_embeddings(in_order, basis(3), image, text, 1);
  EXPECT_EQ(o.kept, (Rows{2}));
  const double range = (1.4 - 1) / 4;
  EXPECT_NEAR(o.scores[2], std::pow((range + 1e-6) / range, 2), 1e-10);
  EXPECT_NEAR(o.scores[0], std::pow(1e-6 / range, 2), 1e-13);
}

TEST(CDPruner, exponential_weight) {
  CDPruner method{.filter = {.weight = RelevanceWeight::exponential, .theta = 0.8}};  // alpha 2
  EXPECT_TRUE(support::close(cdpruner(method, basis(3), {0, 1, 0.5}, 1).scores,
                             {std::exp(-4.0), 1, std::exp(-2.0)}, 1e-12));
  method.filter.theta = 0;  // diversity alone
  EXPECT_EQ(cdpruner(method, basis(3), {0, 1, 0.5}, 1).kept, (Rows{0}));
  method.filter.theta = 0.999;  // α = 499.5 of r~ = 1000 would overflow
  EXPECT_EQ(cdpruner(method, basis(3), {0, 1000, 999}, 2).kept, (Rows{1, 2}));
}

TEST(CDPruner, ties_go_to_the_lower_row) {
  EXPECT_EQ(cdpruner(in_order, basis(4), {1, 2, 1, 2}, 3).kept, (Rows{1, 3, 0}));
}

TEST(CDPruner, tokens_of_tiny_relevance_are_told_apart) {
  const Matrix tokens = matrix({{1, 0, 0, 0}, {1, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 0}});
  const Numbers relevance = {1, 0.9, 1e-9, 2e-9};
  // The twin of token 0 has no gain at all; 4e-18 does.
  EXPECT_EQ(cdpruner(in_order, tokens, relevance, 4 - 1).kept, (Rows{0, 3, 2}));
  EXPECT_EQ(cdpruner<float>(in_order, tokens, relevance, 4 - 1).kept, (Rows{0, 3, 2}));
  EXPECT_TRUE(
      support::close(cdpruner(in_order, tokens, relevance, 3).scores, {1, 0, 1e-18, 4e-18}, 1e-9));
}

TEST(CDPruner, beyond_the_rank_the_most_relevant_follow) {
  const Matrix tokens = matrix({{1, 0}, {0, 1}, {1, 1}, {2, 2}, {1, 2}, {-3, 1}});
  const Numbers relevance = {0.5, 1, 0.7, 0.8, 0.7, 0.1};
  // 1, then 0 for 0.25 against 0.32 of token 3: 3 first. Then rank 2 is used up.
  for (const Index keep : {2, 3, 4, 5}) {
    Rows expected = {1, 3, 2, 4, 0};
    expected.resize(static_cast<std::size_t>(keep));
    EXPECT_EQ(cdpruner(in_order, tokens, relevance, keep).kept, expected);
    EXPECT_EQ(cdpruner<float>(in_order, tokens, relevance, keep).kept, expected);
  }
}

TEST(CDPruner, identical_tokens_give_exactly_as_many_as_asked) {
  const Matrix same = matrix({{1, 2, 3}, {1, 2, 3}, {1, 2, 3}, {1, 2, 3}});
  EXPECT_EQ(cdpruner({}, same, {0.1, 0.4, 0.2, 0.3}, 3).kept, (Rows{1, 2, 3}));
  EXPECT_EQ(cdpruner<float>({}, same, {0.1, 0.4, 0.2, 0.3}, 3).kept, (Rows{1, 2, 3}));
  EXPECT_EQ(cdpruner({}, same, {1, 1, 1, 1}, 3).kept, (Rows{0, 1, 2}));
}

TEST(CDPruner, equal_relevance_leaves_diversity) {
  support::Random random(9);
  const Matrix tokens = support::normal_matrix<double>(20, 8, random);
  const Matrix image(20, 3, Numbers(60, 0.5));
  const Matrix text = matrix({{1, 2, 0}});
  for (const CDPruner& method : {CDPruner{}, tokenfold::cdpruner_released()}) {
    const Outcome o = from_embeddings(method, tokens, image, text, 7);
    EXPECT_EQ(o.kept, cdpruner({}, tokens, Numbers(20, 1.0), 7).kept);
    EXPECT_EQ(o.preserved.size(), 7u);
  }
}

TEST(CDPruner, zero_tokens_have_no_gain) {
  const Matrix tokens = matrix({{0, 0}, {1, 0}, {0, 0}, {0, 1}, {1, 1}});
  const Numbers relevance = {0.9, 0.3, 1, 0.4, 0.1};
  EXPECT_EQ(cdpruner(in_order, tokens, relevance, 4).kept, (Rows{3, 1, 2, 0}));
  EXPECT_EQ(cdpruner(in_order, tokens, relevance, 4).scores[2], 0);
}

TEST(CDPruner, zero_relevance_has_no_gain) {
  EXPECT_EQ(cdpruner(in_order, basis(4), {0, 0.5, 0, 0.1}, 3).kept, (Rows{1, 3, 0}));
  EXPECT_EQ(cdpruner(in_order, basis(4), {0, 0, 0, 0}, 3).kept, (Rows{0, 1, 2}));
}

TEST(CDPruner, what_is_not_finite_comes_last) {
  Matrix tokens = basis(5);
  tokens(0, 3) = nan;
  tokens(2, 2) = infinity;
  const Numbers relevance = {1, 0.2, 1, nan, 0.1};
  const Outcome o = cdpruner(in_order, tokens, relevance, 4);
  EXPECT_EQ(o.kept, (Rows{1, 4, 0, 2}));
  EXPECT_TRUE(std::isnan(o.scores[0]) && std::isnan(o.scores[2]) && std::isnan(o.scores[3]));
  EXPECT_EQ(cdpruner(in_order, tokens, {infinity, infinity, nan, 0.5, nan}, 2).kept, (Rows{3, 0}));
  CDPruner exponential = in_order;
  exponential.filter.weight = RelevanceWeight::exponential;
  EXPECT_EQ(cdpruner(exponential, tokens, relevance, 4).kept, (Rows{1, 4, 0, 2}));
}

TEST(CDPruner, image_embedding_that_is_not_finite_counts_in_no_range) {
  const Matrix image = matrix({{nan, 0}, {0, 3}, {1, 0}, {0, 0}});
  const Outcome o = from_embeddings(in_order, basis(4), image, matrix({{1, 0}}), 3);
  EXPECT_EQ(o.kept, (Rows{2, 1, 3}));  // cosines nan, 0, 1, 0
  EXPECT_TRUE(std::isnan(o.scores[0]));
  EXPECT_NEAR(o.scores[1], 1e-12, 1e-20);
}

TEST(CDPruner, text_without_direction_leaves_diversity) {
  const Matrix image = matrix({{1, 0}, {0, 3}, {1, 0}, {0, 0}});
  EXPECT_EQ(from_embeddings(in_order, basis(4), image, matrix({{0, 0}}), 2).kept, (Rows{0, 1}));
  EXPECT_EQ(from_embeddings(in_order, basis(4), image, matrix({{nan, 0}}), 2).kept, (Rows{0, 1}));
}

TEST(CDPruner, keeping_all_or_none) {
  const Matrix tokens = matrix({{1, 0}, {1, 0}, {nan, 1}});
  EXPECT_EQ(cdpruner(in_order, tokens, {0.1, 0.2, 0.3}, 3).kept, (Rows{0, 1, 2}));
  EXPECT_EQ(cdpruner({}, tokens, {0.1, 0.2, 0.3}, 0).discarded, (Rows{0, 1, 2}));
  EXPECT_EQ(cdpruner({}, tokens, {0.1, 0.2, 0.3}, 0).scores, (Numbers{0, 0, 0}));
  EXPECT_EQ(cdpruner({}, matrix({}), {}, 0).kept, (Rows{}));
}

TEST(CDPruner, tolerance_ends_the_determinantal_part) {
  // v of token 1 after token 0 is 0.25, of token 2 it is 1.
  const Matrix tokens = matrix({{1, 0, 0}, {std::sqrt(3.0), 1, 0}, {0, 0, 1}, {3, 0, 1}});
  const Numbers relevance = {1, 0.9, 0.3, 0.2};
  EXPECT_EQ(cdpruner(in_order, tokens, relevance, 2).kept, (Rows{0, 1}));
  CDPruner strict = in_order;
  strict.filter.tolerance = 0.3;
  EXPECT_EQ(cdpruner(strict, tokens, relevance, 3).kept, (Rows{0, 2, 1}));
}

/// A given relevance wins; an empty one is as if it were not there.
TEST(CDPruner, relevance_comes_from_what_is_there) {
  const TokenLayout layout = TokenLayout::decoder(1, 3, 0);
  const support::Tensor<float> features = support::Tensor<float>::Identity(4, 4);
  const auto image = support::tensor<float>(matrix({{9, 9}, {1, 0}, {1, 1}, {0, 1}}));
  const auto text = support::tensor<float>(matrix({{1, 0}}));
  const auto best = [&](const std::vector<float>& relevance, const auto& text_rows) {
    const tokenfold::Sequence sequence(
        layout, tokenfold::Features(features), tokenfold::Relevance(relevance, 1),
        tokenfold::ImageEmbeddings(image), tokenfold::TextEmbeddings(text_rows));
    return support::indices(CDPruner{}.plan(sequence, Budget::keep(1)).kept());
  };
  EXPECT_EQ(best({}, text), (Rows{0, 1}));
  EXPECT_EQ(best({0.1f, 0.3f, 0.2f}, text), (Rows{0, 2}));
  const support::Tensor<float> no_text(0, 2);
  EXPECT_EQ(best({0.1f, 0.3f, 0.2f}, no_text), (Rows{0, 2}));
  EXPECT_EQ(support::refusal([&] { best({}, no_text); }),
            "cdpruner: give relevance, or image embeddings and text embeddings; all are empty");
  EXPECT_EQ(
      support::refusal([&] {
        best({0.1f, 0.2f}, text);
      }),
      "cdpruner: relevance: rows [1, 3) were given, but the visual tokens lie in rows [1, 4)");
  EXPECT_EQ(support::refusal([&] {
              best({0.1f, -0.5f, 0.2f}, text);
            }),
            "cdpruner: relevance must not be negative, got -0.5 for visual token 1");
  const support::Tensor<float> wide = support::Tensor<float>::Zero(1, 3);
  EXPECT_EQ(support::refusal([&] { best({}, wide); }),
            "cdpruner: image embeddings have 2 channels, text embeddings 3");
}

TEST(CDPruner, refuses_bad_options_and_budgets) {
  const auto refusal = [](const CDPruner& method) {
    return support::refusal([&] { cdpruner(method, basis(3), {1, 1, 1}, 2); });
  };
  EXPECT_EQ(refusal({.filter = {.theta = 1}}), "cdpruner: theta must lie in [0, 1), got 1");
  EXPECT_EQ(refusal({.filter = {.theta = nan}}), "cdpruner: theta must lie in [0, 1), got nan");
  EXPECT_EQ(refusal({.filter = {.tolerance = -1}}),
            "cdpruner: tolerance must lie in [0, 1], got -1");
  const TokenLayout layout = TokenLayout::decoder(0, 3, 0);
  const auto features = support::tensor<double>(basis(3));
  const Numbers relevance = {1, 1, 1};
  EXPECT_EQ(support::refusal([&] {
              CDPruner{}.plan(tokenfold::Sequence(layout, tokenfold::Features(features),
                                                  tokenfold::Relevance(relevance)),
                              Budget::adaptive());
            }),
            "budget: this method has no rule of its own; give keep, discard or keep_ratio");
}

TEST(CDPruner, says_what_it_needs_in_its_types) {
  using Diversity = tokenfold::filter::DeterminantalDiversity;
  using tokenfold::Filter;
  using tokenfold::Sequence;
  using X = tokenfold::Features<float>;
  using E = tokenfold::ImageEmbeddings<float>;
  using Y = tokenfold::TextEmbeddings<float>;
  using R = tokenfold::Relevance<float>;
  EXPECT_TRUE((Filter<Diversity, Sequence<X, R>>));
  EXPECT_TRUE((Filter<Diversity, Sequence<X, E, Y>>));
  EXPECT_TRUE((Filter<Diversity, Sequence<X, E, Y, R>>));
  EXPECT_FALSE((Filter<Diversity, Sequence<X>>));
  EXPECT_FALSE((Filter<Diversity, Sequence<X, E>>));
  EXPECT_FALSE((Filter<Diversity, Sequence<R>>));
}

TEST(CDPruner, never_holds_all_pairs) {
  support::Random random(8);
  const Index n = 1000;
  const TokenLayout layout = TokenLayout::decoder(0, n, 0);
  const auto features = support::tensor<float>(support::normal_matrix<float>(1000, 32, random));
  const std::vector<float> relevance(1000, 1.0f);
  tokenfold::Workspace workspace;
  tokenfold::ReductionPlan plan;
  CDPruner{}.plan(
      tokenfold::Sequence(layout, tokenfold::Features(features), tokenfold::Relevance(relevance)),
      Budget::keep(20), workspace, plan);
  EXPECT_EQ(plan.output_tokens(), 20);
  EXPECT_LT(workspace.peak(), std::size_t{1000 * 400});  // a tenth of N × N floats
}

TEST(CDPruner, picks_and_their_scores_do_not_depend_on_the_scores_of_others) {
  support::Random random(15);
  for (int trial = 0; trial < 20; ++trial) {
    Matrix tokens = support::normal_matrix<float>(150, 40, random);
    for (std::size_t i = 0; i < 150; ++i) {
      tokens(i, i % 5) += trial % 2 == 0 ? 6 : 0;  // five kinds
    }
    Numbers relevance;
    for (int i = 0; i < 150; ++i) relevance.push_back(trial % 3 == 0 ? 1 : random.uniform());
    CDPruner method = in_order;
    const Index keep = 1 + random.below(60);
    const Outcome all = cdpruner<float>(method, tokens, relevance, keep);
    method.filter.score_discarded = false;
    const Outcome some = cdpruner<float>(method, tokens, relevance, keep);
    EXPECT_EQ(some.preserved, all.preserved);
    for (const Index v : all.preserved) {
      EXPECT_EQ(some.scores[static_cast<std::size_t>(v)], all.scores[static_cast<std::size_t>(v)]);
    }
    for (const Index v : all.discarded) {
      EXPECT_GE(some.scores[static_cast<std::size_t>(v)], all.scores[static_cast<std::size_t>(v)]);
    }
  }
}

template <class T>
void given_kernel_equals_reference() {
  support::Random random(16);
  tokenfold::Workspace workspace;
  int compared = 0;
  for (int trial = 0; trial < 30; ++trial) {
    const auto n = static_cast<std::size_t>(20 + random.below(180));
    const auto d = static_cast<std::size_t>(trial % 3 == 0 ? 10 : 90);
    const Matrix tokens = support::normal_matrix<double>(n, d, random);
    Numbers weight;
    for (std::size_t i = 0; i < n; ++i) weight.push_back(0.1 + random.uniform());
    Matrix kernel(n, n);
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t j = 0; j < n; ++j) {
        const double cosine = reference::cosine(tokens.row(i), tokens.row(j));
        kernel(i, j) = static_cast<double>(static_cast<T>(weight[i] * weight[j] * cosine));
      }
    }
    const std::size_t keep = d == 10 ? 8 : n / 3;
    const auto expected = reference::greedy_determinant(kernel, keep);
    // In float, rounding decides between gains that differ by less.
    if (std::is_same_v<T, float> && expected.margin < 1e-5) continue;
    ++compared;
    const auto given = support::tensor<T>(kernel);
    EXPECT_EQ(
        support::indices(tokenfold::greedy_determinant(given, static_cast<Index>(keep), workspace)),
        support::indices(expected.picks));
  }
  EXPECT_GT(compared, 8);
}
TEST(GreedyDeterminant, float_equals_the_reference) { given_kernel_equals_reference<float>(); }
TEST(GreedyDeterminant, double_equals_the_reference) { given_kernel_equals_reference<double>(); }

TEST(GreedyDeterminant, ends_with_the_rank_and_breaks_ties_by_row) {
  tokenfold::Workspace workspace;
  const auto kernel = [&](const Matrix& m, Index count) {
    return support::indices(
        tokenfold::greedy_determinant(support::tensor<double>(m).eval(), count, workspace));
  };
  EXPECT_EQ(kernel(basis(5), 3), (Rows{0, 1, 2}));
  EXPECT_EQ(kernel(matrix({{4, 2, 0}, {2, 1, 0}, {0, 0, 9}}), 3), (Rows{2, 0}));
  EXPECT_EQ(kernel(matrix({{0, 0}, {0, 0}}), 2), (Rows{}));
  EXPECT_EQ(kernel(matrix({{nan, 0, nan}, {0, 2, 0}, {nan, 0, 3}}), 3), (Rows{2, 1}));
  EXPECT_EQ(kernel(basis(2), 0), (Rows{}));
  EXPECT_EQ(support::refusal([&] { kernel(basis(2), 3); }), "greedy determinant: 3 of 2 rows");
  EXPECT_EQ(support::refusal([&] {
              kernel(matrix({{1, 0}}), 1);
            }),
            "greedy determinant: a kernel is square, got [1 x 2]");
}

TEST(CDPruner, options_by_name) {
  CDPruner method;
  std::vector<std::string> names;
  method.options([&](const char* name, auto&, const char*) { names.emplace_back(name); });
  EXPECT_EQ(names,
            (std::vector<std::string>{"sign", "weight", "theta", "tolerance", "order", "center",
                                      "distinctness", "standardize", "score_discarded"}));
}

template <class T>
void equals_reference() {
  constexpr bool is_float = std::is_same_v<T, float>;
  support::Random random(78);
  int compared = 0;
  int beyond_rank = 0;
  for (int trial = 0; trial < 80; ++trial) {
    const auto n = static_cast<std::size_t>(2 + random.below(30));
    const auto d = static_cast<std::size_t>(2 + random.below(20));
    Matrix tokens = support::normal_matrix<T>(n, d, random);
    for (double& value : tokens.values) {
      value = static_cast<double>(static_cast<T>(value + (trial % 3 == 0 ? 2 : 0)));
    }
    if (random.chance(0.2)) tokens(0, 0) = nan;
    const Matrix image = support::normal_matrix<T>(n, 6, random);
    const Matrix text =
        support::normal_matrix<T>(static_cast<std::size_t>(1 + random.below(3)), 6, random);
    const bool negative = random.chance(0.5);
    const bool exponential = random.chance(0.3);
    const double theta = 0.9 * random.uniform();
    const Index keep = 1 + random.below(static_cast<Index>(n) - 1);
    const auto relevance = reference::cdpruner_relevance(image, text, negative ? -1 : 1);
    const auto expected =
        reference::cdpruner(tokens, relevance, static_cast<std::size_t>(keep),
                            {.exponential = exponential, .theta = theta, .centering = {}});
    // In float, rounding decides between gains that differ by less.
    if (is_float && expected.margin < 1e-4) continue;
    ++compared;
    beyond_rank += expected.gains.size() < expected.picks.size() ? 1 : 0;
    const CDPruner method{
        .filter = {.sign = negative ? RelevanceSign::negative : RelevanceSign::positive,
                   .weight = exponential ? RelevanceWeight::exponential : RelevanceWeight::linear,
                   .theta = theta,
                   .order = TokenOrder::score}};
    for (const bool given : {false, true}) {
      const Outcome o = given ? cdpruner<T>(method, tokens, relevance, keep)
                              : from_embeddings<T>(method, tokens, image, text, keep);
      EXPECT_EQ(o.preserved, support::indices(expected.picks)) << trial;
      EXPECT_TRUE(support::close(o.scores, expected.scores, is_float ? 1e-3 : 1e-9,
                                 is_float ? 1e-5 : 1e-12))
          << trial;
    }
  }
  EXPECT_GT(compared, is_float ? 35 : 79);
  EXPECT_GT(beyond_rank, 10);
}
TEST(CDPruner, float_equals_the_reference) { equals_reference<float>(); }
TEST(CDPruner, double_equals_the_reference) { equals_reference<double>(); }

}  // namespace
