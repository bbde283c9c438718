// SPDX-License-Identifier: Apache-2.0

// QueryKeyOptions::key_bias against a naive softmax with a bias for each key.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <tokenfold/core/query_key_attention.hpp>
#include <vector>

#include "reference/attention.hpp"
#include "support/outcome.hpp"
#include "support/random.hpp"

namespace {

using support::Random;
using support::Tensor;
using tokenfold::AttentionKind;
using tokenfold::HeadsView;
using tokenfold::Index;
using tokenfold::MatrixView;
using tokenfold::QueryKeyAttention;
using tokenfold::QueryKeyOptions;
using tokenfold::Range;
using tokenfold::Span;
using tokenfold::Token;
using tokenfold::Workspace;

template <class T>
constexpr double tolerance = std::is_same_v<T, double> ? 1e-12 : 2e-5;

/// softmax(q·k · scale + bias) per head, the mean over the heads.
reference::Matrix naive(const reference::Heads& queries, const reference::Heads& keys,
                        const std::vector<float>& bias, bool causal, Index first_query,
                        std::optional<double> scale = {}) {
  std::vector<reference::Matrix> heads = reference::head_logits(queries, keys, scale);
  for (reference::Matrix& head : heads) {
    for (std::size_t q = 0; q < head.rows; ++q) {
      const std::size_t end = causal ? q + static_cast<std::size_t>(first_query) + 1 : keys.tokens;
      for (std::size_t k = 0; k < end; ++k) head(q, k) += static_cast<double>(bias.at(k));
      const std::vector<double> row = reference::softmax_range(head, q, 0, end);
      for (std::size_t k = 0; k < keys.tokens; ++k) head(q, k) = k < end ? row[k] : 0;
    }
  }
  return reference::mean_over_heads(heads);
}

template <class T>
struct Case {
  reference::Heads queries;
  reference::Heads keys;
  std::vector<T> q;
  std::vector<T> k;
  std::vector<float> bias;

  Case(std::size_t query_heads, std::size_t key_heads, std::size_t rows, std::size_t tokens,
       Random& random)
      : queries(support::normal_heads<T>(query_heads, rows, 5, random)),
        keys(support::normal_heads<T>(key_heads, tokens, 5, random)),
        q(support::cast<T>(queries.values)),
        k(support::cast<T>(keys.values)) {
    for (std::size_t i = 0; i < tokens; ++i) {
      bias.push_back(std::log(static_cast<float>(1 + random.below(30))));
    }
  }
  static HeadsView<const T> view(const reference::Heads& shape, const std::vector<T>& values) {
    const auto n = static_cast<Index>(shape.tokens);
    const auto d = static_cast<Index>(shape.dim);
    return {values.data(), {static_cast<Index>(shape.heads), n, d}, {n * d, d}};
  }
  QueryKeyAttention<T> attention(QueryKeyOptions options) const {
    return {view(queries, q), view(keys, k), options};
  }
};

/// All three questions, over a part of the keys and of the queries.
template <class T>
void expect_answers(const QueryKeyAttention<T>& attention, const reference::Matrix& expected,
                    Random& random) {
  using Answer = typename QueryKeyAttention<T>::Answer;
  Workspace workspace;
  const Range all_queries = attention.queries();
  for (const Range keys : {attention.keys(), Range{1, attention.keys().end - 2}}) {
    const auto width = static_cast<std::size_t>(keys.size());
    const auto first_key = static_cast<std::size_t>(keys.begin);
    std::vector<Token> rows;
    for (Index q = all_queries.begin; q < all_queries.end; ++q) {
      rows.push_back(static_cast<Token>(q));
    }
    random.shuffle(rows);
    Tensor<Answer> block(static_cast<Index>(rows.size()), keys.size());
    attention.rows(rows, keys, block, workspace);
    std::vector<double> row_weights(expected.rows, 0.0);
    std::vector<Answer> w(expected.rows);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const auto q = static_cast<std::size_t>(rows[i] - all_queries.begin);
      for (std::size_t k = 0; k < width; ++k) {
        EXPECT_NEAR(static_cast<double>(block(static_cast<Index>(i), static_cast<Index>(k))),
                    expected(q, first_key + k), tolerance<T>);
      }
      w[q] = static_cast<Answer>(random.uniform());
      row_weights[q] = static_cast<double>(w[q]);
    }

    std::vector<Answer> received(width);
    attention.received(all_queries, w, keys, received, workspace);
    const std::vector<double> naive_received = reference::received(expected, row_weights);
    std::vector<double> key_weights(expected.cols, 0.0);
    std::vector<Answer> u(width);
    for (std::size_t k = 0; k < width; ++k) {
      EXPECT_NEAR(static_cast<double>(received[k]), naive_received[first_key + k],
                  10 * tolerance<T>);
      u[k] = static_cast<Answer>(random.uniform());
      key_weights[first_key + k] = static_cast<double>(u[k]);
    }

    std::vector<Answer> given(expected.rows);
    attention.given(all_queries, keys, u, given, workspace);
    const std::vector<double> naive_given = reference::given(expected, key_weights);
    for (std::size_t q = 0; q < expected.rows; ++q) {
      EXPECT_NEAR(static_cast<double>(given[q]), naive_given[q], 10 * tolerance<T>);
    }
  }
}

template <class T>
class ProportionalAttention : public testing::Test {};
using Scalars = testing::Types<float, double, Eigen::half>;
TYPED_TEST_SUITE(ProportionalAttention, Scalars);

TYPED_TEST(ProportionalAttention, equals_a_naive_softmax_with_a_bias) {
  Random random(17);
  // One head, several, grouped; more rows than one block of the source.
  for (const auto& [query_heads, key_heads] :
       std::vector<std::pair<std::size_t, std::size_t>>{{1, 1}, {3, 3}, {4, 2}}) {
    for (const std::size_t tokens : {7u, 45u}) {
      for (const bool causal : {false, true}) {
        for (const bool last_rows : {false, true}) {
          SCOPED_TRACE(testing::Message()
                       << query_heads << "/" << key_heads << " heads, " << tokens
                       << " tokens, causal " << causal << ", last rows only " << last_rows);
          const std::size_t rows = last_rows ? 3 : tokens;
          const Case<TypeParam> c(query_heads, key_heads, rows, tokens, random);
          const auto first = static_cast<Index>(tokens - rows);
          QueryKeyOptions options{.causal = causal, .first_query = first, .key_bias = c.bias};
          expect_answers(c.attention(options), naive(c.queries, c.keys, c.bias, causal, first),
                         random);
          options.scale = 0.7;
          expect_answers(c.attention(options), naive(c.queries, c.keys, c.bias, causal, first, 0.7),
                         random);
        }
      }
    }
  }
}

TYPED_TEST(ProportionalAttention, single_heads_and_heads_as_one_keep_the_bias) {
  Random random(18);
  const Case<TypeParam> c(2, 2, 9, 9, random);
  const auto attention = c.attention({.key_bias = c.bias});
  for (std::size_t h = 0; h < 2; ++h) {
    const auto half = [&](const reference::Heads& x) {
      reference::Heads head(1, x.tokens, x.dim);
      for (std::size_t n = 0; n < x.tokens; ++n) {
        for (std::size_t i = 0; i < x.dim; ++i) head(0, n, i) = x(h, n, i);
      }
      return head;
    };
    expect_answers(attention.head(static_cast<Index>(h)),
                   naive(half(c.queries), half(c.keys), c.bias, false, 0), random);
  }
  const auto joined = [](const reference::Heads& x) {
    reference::Heads one(1, x.tokens, x.heads * x.dim);
    for (std::size_t h = 0; h < x.heads; ++h) {
      for (std::size_t n = 0; n < x.tokens; ++n) {
        for (std::size_t i = 0; i < x.dim; ++i) one(0, n, h * x.dim + i) = x(h, n, i);
      }
    }
    return one;
  };
  expect_answers(attention.as_single_head(),
                 naive(joined(c.queries), joined(c.keys), c.bias, false, 0), random);
}

/// What the bias is for: a token of size n is attended to as n copies of it would be.
TYPED_TEST(ProportionalAttention, a_size_is_worth_that_many_copies) {
  Random random(19);
  const Case<TypeParam> c(2, 2, 4, 4, random);
  const std::vector<float> sizes = {1, 3, 1, 2};
  std::vector<float> bias;
  reference::Heads copies(2, 7, 5);
  for (std::size_t h = 0; h < 2; ++h) {
    std::size_t row = 0;
    for (std::size_t n = 0; n < 4; ++n) {
      for (int copy = 0; copy < static_cast<int>(sizes[n]); ++copy, ++row) {
        for (std::size_t i = 0; i < 5; ++i) copies(h, row, i) = c.keys(h, n, i);
      }
    }
  }
  for (const float size : sizes) bias.push_back(std::log(size));
  const reference::Matrix all = reference::mean_probabilities(c.queries, copies);
  reference::Matrix expected(4, 4);
  for (std::size_t q = 0; q < 4; ++q) {
    std::size_t row = 0;
    for (std::size_t n = 0; n < 4; ++n) {
      for (int copy = 0; copy < static_cast<int>(sizes[n]); ++copy) expected(q, n) += all(q, row++);
    }
  }
  Workspace workspace;
  using Answer = typename QueryKeyAttention<TypeParam>::Answer;
  Tensor<Answer> rows(4, 4);
  c.attention({.key_bias = bias}).rows(std::vector<Token>{0, 1, 2, 3}, {0, 4}, rows, workspace);
  for (Index q = 0; q < 4; ++q) {
    for (Index k = 0; k < 4; ++k) {
      EXPECT_NEAR(static_cast<double>(rows(q, k)),
                  expected(static_cast<std::size_t>(q), static_cast<std::size_t>(k)), 1e-6);
    }
  }
}

TYPED_TEST(ProportionalAttention, equal_sizes_change_nothing_and_size_0_hides_a_key) {
  Random random(20);
  const Case<TypeParam> c(2, 1, 6, 6, random);
  expect_answers(c.attention({.key_bias = std::vector<float>(6, 2.5f)}),
                 reference::mean_probabilities(c.queries, c.keys), random);
  std::vector<float> hiding(6, 0.0f);
  hiding[2] = -std::numeric_limits<float>::infinity();
  expect_answers(c.attention({.key_bias = hiding}), naive(c.queries, c.keys, hiding, false, 0),
                 random);
}

TYPED_TEST(ProportionalAttention, logits_are_taken_without_it) {
  Random random(21);
  const Case<TypeParam> c(2, 2, 6, 6, random);
  expect_answers(c.attention({.kind = AttentionKind::logits, .key_bias = c.bias}),
                 reference::mean_logits(c.queries, c.keys), random);
}

TEST(ProportionalAttentionRefusal, a_bias_for_each_key) {
  Random random(22);
  const Case<float> c(1, 1, 4, 4, random);
  EXPECT_EQ(support::refusal([&] { c.attention({.key_bias = std::vector<float>(3, 0.0f)}); }),
            "query-key attention: 3 biases were given for 4 keys");
}

}  // namespace
