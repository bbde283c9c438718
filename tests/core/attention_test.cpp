// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "core/support.hpp"
#include "reference/attention.hpp"
#include "tokenfold/core/dense_attention.hpp"
#include "tokenfold/core/query_key_attention.hpp"

namespace {

using core_test::expect_error;
using core_test::Random;
using core_test::RowMajor;
using tokenfold::AttentionKind;
using tokenfold::DenseAttention;
using tokenfold::DenseAttentionOptions;
using tokenfold::head_mean_attention;
using tokenfold::HeadsView;
using tokenfold::Index;
using tokenfold::MatrixView;
using tokenfold::QueryKeyAttention;
using tokenfold::QueryKeyOptions;
using tokenfold::Range;
using tokenfold::Span;
using tokenfold::Token;
using tokenfold::Workspace;

static_assert(tokenfold::AttentionSource<DenseAttention<float>>);
static_assert(tokenfold::AttentionSource<DenseAttention<double>>);
static_assert(tokenfold::AttentionSource<DenseAttention<Eigen::half>>);
static_assert(tokenfold::AttentionSource<QueryKeyAttention<float>>);
static_assert(tokenfold::AttentionSource<QueryKeyAttention<double>>);
static_assert(tokenfold::AttentionSource<QueryKeyAttention<Eigen::bfloat16>>);
static_assert(!tokenfold::AttentionSource<int>);
static_assert(std::is_same_v<DenseAttention<Eigen::half>::Answer, float>);
static_assert(std::is_same_v<QueryKeyAttention<double>::Answer, double>);

template <class T>
constexpr double tolerance = std::is_same_v<T, double> ? 1e-12 : 1e-5;

/// Random values that T holds exactly.
template <class T>
reference::Heads random_heads(Index heads, Index tokens, Index dim, std::uint32_t seed,
                              double largest = 1) {
  reference::Heads result(static_cast<std::size_t>(heads), static_cast<std::size_t>(tokens),
                          static_cast<std::size_t>(dim));
  Random random(seed);
  for (double& value : result.values) {
    value = static_cast<double>(static_cast<T>(largest * random()));
  }
  return result;
}

enum class Memory { head_token_dim, token_head_dim, fused, padded };

/// The values in one of the layouts that engines have; what lies between them is NaN.
template <class T>
class Stored {
 public:
  Stored(const reference::Heads& values, Memory memory)
      : heads_(static_cast<Index>(values.heads)),
        tokens_(static_cast<Index>(values.tokens)),
        dim_(static_cast<Index>(values.dim)) {
    switch (memory) {
      case Memory::head_token_dim:
        strides_ = {tokens_ * dim_, dim_};
        break;
      case Memory::token_head_dim:
        strides_ = {dim_, heads_ * dim_};
        break;
      case Memory::fused:
        first_ = heads_ * dim_;
        strides_ = {dim_, 3 * heads_ * dim_};
        break;
      case Memory::padded:  // head by head, rows and heads wider than needed
        strides_ = {tokens_ * (dim_ + 3) + 5, dim_ + 3};
        break;
    }
    const Index size =
        first_ + (heads_ - 1) * strides_.head + tokens_ * std::max(strides_.token, dim_) + 8;
    memory_.assign(static_cast<std::size_t>(size),
                   static_cast<T>(std::numeric_limits<float>::quiet_NaN()));
    for (Index h = 0; h < heads_; ++h) {
      for (Index n = 0; n < tokens_; ++n) {
        for (Index c = 0; c < dim_; ++c) {
          at(h, n, c) =
              static_cast<T>(values(static_cast<std::size_t>(h), static_cast<std::size_t>(n),
                                    static_cast<std::size_t>(c)));
        }
      }
    }
  }

  T& at(Index h, Index n, Index c) {
    return memory_[static_cast<std::size_t>(first_ + h * strides_.head + n * strides_.token + c)];
  }
  HeadsView<const T> view() const {
    return {memory_.data() + first_, {heads_, tokens_, dim_}, strides_};
  }

 private:
  Index heads_;
  Index tokens_;
  Index dim_;
  Index first_ = 0;
  typename HeadsView<const T>::Strides strides_;
  std::vector<T> memory_;
};

double largest(const std::vector<double>& values) {
  double result = 0;
  for (const double value : values) {
    result = std::max(result, std::abs(value));
  }
  return result;
}

/// A range and parts of it: all, inner, first, last, none.
std::vector<Range> parts(Range all) {
  const Index n = all.size();
  return {all,
          {all.begin + n / 3, all.end - n / 4},
          {all.begin, all.begin + 1},
          {all.end - 1, all.end},
          {all.begin + n / 2, all.begin + n / 2}};
}

/// Weights over `range`: uniform, random of both signs, sparse, or nothing at all.
template <class T>
std::vector<T> weights_over(Range range, const std::string& kind, Random& random) {
  std::vector<T> weights;
  for (Index i = 0; i < range.size(); ++i) {
    const double value = random();
    const bool chosen = i % 7 == 3 || (range.size() < 7 && i == range.size() / 2);
    weights.push_back(static_cast<T>(kind == "uniform"  ? 1.0 / static_cast<double>(range.size())
                                     : kind == "random" ? value
                                     : kind == "sparse" && chosen ? 0.5 + value
                                                                  : 0.0));
  }
  return weights;
}

/// The weights of `range` among all rows that the source holds.
template <class T>
std::vector<double> spread(const std::vector<T>& weights, Range range, Range all) {
  std::vector<double> result(static_cast<std::size_t>(all.size()), 0.0);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    result[static_cast<std::size_t>(range.begin - all.begin) + i] = static_cast<double>(weights[i]);
  }
  return result;
}

template <class T>
void expect_near(const std::vector<T>& answer, const std::vector<double>& expected, Range part,
                 Range all, double relative, const std::string& what) {
  const double allowed = relative * std::max(largest(expected), 1e-30);
  for (Index i = 0; i < part.size(); ++i) {
    const double value = static_cast<double>(answer[static_cast<std::size_t>(i)]);
    const double wanted = expected[static_cast<std::size_t>(part.begin - all.begin + i)];
    ASSERT_NEAR(value, wanted, allowed) << what << ", entry " << i;
  }
}

/// All three questions, over all and partial ranges. `expected`: the queries and keys that the
/// source holds.
template <class A>
void expect_answers(const A& source, const reference::Matrix& expected, double relative) {
  using T = typename A::Answer;
  ASSERT_EQ(source.queries().size(), static_cast<Index>(expected.rows));
  ASSERT_EQ(source.keys().size(), static_cast<Index>(expected.cols));
  Workspace workspace;
  Random random(99);
  const Range all_queries = source.queries();
  const Range all_keys = source.keys();
  const T junk = std::numeric_limits<T>::quiet_NaN();  // answers must not depend on what was there
  for (const Range queries : parts(all_queries)) {
    for (const Range keys : parts(all_keys)) {
      for (const std::string kind : {"uniform", "random", "sparse", "none"}) {
        const std::vector<T> w = weights_over<T>(queries, kind, random);
        std::vector<T> out(static_cast<std::size_t>(keys.size()), junk);
        source.received(queries, w, keys, out, workspace);
        expect_near(out, reference::received(expected, spread(w, queries, all_queries)), keys,
                    all_keys, relative, "received, weights " + kind);

        const std::vector<T> u = weights_over<T>(keys, kind, random);
        out.assign(static_cast<std::size_t>(queries.size()), junk);
        source.given(queries, keys, u, out, workspace);
        expect_near(out, reference::given(expected, spread(u, keys, all_keys)), queries,
                    all_queries, relative, "given, weights " + kind);
      }
    }
  }
  const double allowed = relative * std::max(largest(expected.values), 1e-30);
  const auto last = static_cast<Token>(all_queries.end - 1);
  const auto middle = static_cast<Token>(all_queries.begin + all_queries.size() / 2);
  for (const std::vector<Token>& rows :
       {std::vector<Token>{last}, std::vector<Token>{middle, last, middle},
        std::vector<Token>(70, middle), std::vector<Token>{}}) {
    for (const Range keys : parts(all_keys)) {
      // Rows of the caller's block may be further apart than its columns.
      RowMajor<T> block(static_cast<Index>(rows.size()), keys.size() + 3);
      block.setConstant(junk);
      source.rows(rows, keys, MatrixView<T>(block.leftCols(keys.size())), workspace);
      for (Index i = 0; i < block.rows(); ++i) {
        const Index row = rows[static_cast<std::size_t>(i)] - all_queries.begin;
        for (Index k = 0; k < keys.size(); ++k) {
          ASSERT_NEAR(static_cast<double>(block(i, k)),
                      expected(static_cast<std::size_t>(row),
                               static_cast<std::size_t>(keys.begin - all_keys.begin + k)),
                      allowed)
              << "row " << row << ", key " << k;
        }
        ASSERT_TRUE(std::isnan(block(i, keys.size()))) << "wrote past the block";
      }
    }
  }
}

/// Rows `first` … of the full sequence's attention.
reference::Matrix from_row(const reference::Matrix& all, Index first) {
  const auto begin = static_cast<std::size_t>(first);
  reference::Matrix result(all.rows - begin, all.cols);
  for (std::size_t i = 0; i < result.rows; ++i) {
    for (std::size_t k = 0; k < result.cols; ++k) {
      result(i, k) = all(i + begin, k);
    }
  }
  return result;
}

/// [1][tokens][heads · dim]; key heads are repeated until there are `heads`.
reference::Heads joined(const reference::Heads& x, std::size_t heads) {
  reference::Heads result(1, x.tokens, heads * x.dim);
  for (std::size_t h = 0; h < heads; ++h) {
    for (std::size_t n = 0; n < x.tokens; ++n) {
      for (std::size_t c = 0; c < x.dim; ++c) {
        result(0, n, h * x.dim + c) = x(h / (heads / x.heads), n, c);
      }
    }
  }
  return result;
}

struct Case {
  Index tokens = 37;
  Index heads = 4;
  Index key_heads = 4;
  Index dim = 6;
  QueryKeyOptions options = {};
  Memory memory = Memory::head_token_dim;
  bool single_head = false;
};

template <class T>
void check_query_key(const Case& c) {
  const auto q = random_heads<T>(c.heads, c.tokens, c.dim, 11);
  const auto k = random_heads<T>(c.key_heads, c.tokens, c.dim, 12);
  const Stored<T> queries(q, c.memory);
  const Stored<T> keys(k, c.memory);
  const QueryKeyAttention source(queries.view().middle_tokens({c.options.first_query, c.tokens}),
                                 keys.view(), c.options);
  EXPECT_EQ(source.queries(), (Range{c.options.first_query, c.tokens}));
  EXPECT_EQ(source.keys(), (Range{0, c.tokens}));
  EXPECT_EQ(source.heads(), c.heads);
  EXPECT_EQ(source.kind(), c.options.kind);

  std::optional<double> scale;
  if (c.options.scale != 0) {
    scale = c.options.scale;
  }
  reference::Matrix expected;
  if (c.single_head) {
    const double root = std::sqrt(static_cast<double>(c.heads));
    const double own = scale ? *scale / root : 1 / std::sqrt(static_cast<double>(c.heads * c.dim));
    expected = reference::mean_probabilities(joined(q, q.heads), joined(k, q.heads),
                                             {.scale = own, .causal = c.options.causal});
    EXPECT_EQ(source.as_single_head().kind(), AttentionKind::probabilities);
    expect_answers(source.as_single_head(), from_row(expected, c.options.first_query),
                   tolerance<T>);
    return;
  }
  expected =
      c.options.kind == AttentionKind::logits
          ? reference::mean_logits(q, k, scale)
          : reference::mean_probabilities(q, k, {.scale = scale, .causal = c.options.causal});
  expect_answers(source, from_row(expected, c.options.first_query), tolerance<T>);
}

constexpr Memory all_memories[] = {Memory::head_token_dim, Memory::token_head_dim, Memory::fused,
                                   Memory::padded};

template <class T>
class QueryKeyTest : public testing::Test {};
using Scalars = testing::Types<float, double, Eigen::half, Eigen::bfloat16>;
TYPED_TEST_SUITE(QueryKeyTest, Scalars);

TYPED_TEST(QueryKeyTest, probabilities_in_every_memory_layout) {
  for (const Memory memory : all_memories) {
    check_query_key<TypeParam>({.memory = memory});
  }
}

TYPED_TEST(QueryKeyTest, causal_probabilities_in_every_memory_layout) {
  for (const Memory memory : all_memories) {
    check_query_key<TypeParam>({.options = {.causal = true}, .memory = memory});
  }
}

TYPED_TEST(QueryKeyTest, logits_in_every_memory_layout) {
  for (const Memory memory : all_memories) {
    check_query_key<TypeParam>({.options = {.kind = AttentionKind::logits}, .memory = memory});
  }
}

TYPED_TEST(QueryKeyTest, grouped_query_heads) {
  for (const Index key_heads : {1, 2, 4}) {
    for (const Memory memory : {Memory::head_token_dim, Memory::token_head_dim}) {
      for (const AttentionKind kind : {AttentionKind::probabilities, AttentionKind::logits}) {
        check_query_key<TypeParam>(
            {.key_heads = key_heads, .options = {.kind = kind}, .memory = memory});
      }
      check_query_key<TypeParam>({.key_heads = key_heads, .memory = memory, .single_head = true});
    }
  }
}

TYPED_TEST(QueryKeyTest, custom_scale) {
  for (const double scale : {0.03, 2.5}) {
    for (const AttentionKind kind : {AttentionKind::probabilities, AttentionKind::logits}) {
      check_query_key<TypeParam>({.options = {.kind = kind, .scale = scale}});
    }
    check_query_key<TypeParam>({.options = {.scale = scale}, .single_head = true});
  }
}

TYPED_TEST(QueryKeyTest, only_the_later_queries) {
  for (const Index first : {1, 20, 36}) {
    for (const Memory memory : {Memory::head_token_dim, Memory::token_head_dim}) {
      check_query_key<TypeParam>({.options = {.first_query = first}, .memory = memory});
      check_query_key<TypeParam>(
          {.options = {.causal = true, .first_query = first}, .memory = memory});
      check_query_key<TypeParam>(
          {.options = {.kind = AttentionKind::logits, .first_query = first}, .memory = memory});
      check_query_key<TypeParam>(
          {.options = {.first_query = first}, .memory = memory, .single_head = true});
    }
  }
}

TYPED_TEST(QueryKeyTest, one_head_of_the_full_width) {
  for (const Memory memory : all_memories) {
    check_query_key<TypeParam>({.memory = memory, .single_head = true});
    check_query_key<TypeParam>(
        {.options = {.causal = true}, .memory = memory, .single_head = true});
    check_query_key<TypeParam>(
        {.options = {.kind = AttentionKind::logits}, .memory = memory, .single_head = true});
  }
}

TYPED_TEST(QueryKeyTest, odd_sizes) {
  const Case sizes[] = {{.tokens = 1, .heads = 1, .key_heads = 1, .dim = 1},
                        {.tokens = 1},
                        {.tokens = 2, .heads = 1, .key_heads = 1, .dim = 3},
                        {.tokens = 65, .dim = 1},
                        {.tokens = 33, .heads = 3, .key_heads = 1, .dim = 7},
                        {.tokens = 32, .heads = 1, .key_heads = 1},
                        {.tokens = 129, .heads = 2, .key_heads = 2, .dim = 5}};
  for (Case c : sizes) {
    for (const Memory memory : {Memory::head_token_dim, Memory::fused}) {
      c.memory = memory;
      c.options = {};
      check_query_key<TypeParam>(c);
      c.options = {.causal = true};
      check_query_key<TypeParam>(c);
      c.options = {.kind = AttentionKind::logits};
      check_query_key<TypeParam>(c);
    }
  }
}

template <class T>
class DenseTest : public testing::Test {};
TYPED_TEST_SUITE(DenseTest, Scalars);

/// Attention of `heads` heads that T holds exactly, and its mean.
template <class T>
reference::Heads dense_values(Index heads, Index queries, Index keys, AttentionKind kind) {
  auto values = random_heads<T>(heads, queries, keys, 21);
  if (kind == AttentionKind::probabilities) {
    for (double& value : values.values) {
      value = static_cast<double>(static_cast<T>((value + 1) / static_cast<double>(keys)));
    }
  }
  return values;
}
reference::Matrix mean_of(const reference::Heads& values) {
  reference::Matrix mean(values.tokens, values.dim);
  for (std::size_t h = 0; h < values.heads; ++h) {
    for (std::size_t q = 0; q < values.tokens; ++q) {
      for (std::size_t k = 0; k < values.dim; ++k) {
        mean(q, k) += values(h, q, k) / static_cast<double>(values.heads);
      }
    }
  }
  return mean;
}

TYPED_TEST(DenseTest, answers_from_every_head) {
  for (const Index heads : {1, 3}) {
    for (const Index tokens : {1, 2, 37, 66}) {
      for (const Memory memory : {Memory::head_token_dim, Memory::padded}) {
        for (const AttentionKind kind : {AttentionKind::probabilities, AttentionKind::logits}) {
          const auto values = dense_values<TypeParam>(heads, tokens, tokens, kind);
          const Stored<TypeParam> stored(values, memory);
          const DenseAttention source(stored.view(), {.kind = kind});
          EXPECT_EQ(source.heads(), heads);
          EXPECT_EQ(source.kind(), kind);
          expect_answers(source, mean_of(values), tolerance<TypeParam>);
        }
      }
    }
  }
}

TYPED_TEST(DenseTest, answers_from_a_part_of_the_sequence) {
  const auto values = dense_values<TypeParam>(2, 5, 30, AttentionKind::probabilities);
  const Stored<TypeParam> stored(values, Memory::token_head_dim);
  const DenseAttention source(stored.view(), {.first_query = 26, .first_key = 1});
  EXPECT_EQ(source.queries(), (Range{26, 31}));
  EXPECT_EQ(source.keys(), (Range{1, 31}));
  expect_answers(source, mean_of(values), tolerance<TypeParam>);
}

TYPED_TEST(DenseTest, head_mean_is_one_matrix) {
  const auto values = dense_values<TypeParam>(1, 20, 20, AttentionKind::probabilities);
  RowMajor<TypeParam> matrix(20, 24);
  for (Index i = 0; i < 20; ++i) {
    for (Index j = 0; j < 20; ++j) {
      matrix(i, j) = static_cast<TypeParam>(
          values(0, static_cast<std::size_t>(i), static_cast<std::size_t>(j)));
    }
  }
  const auto source = head_mean_attention(matrix.leftCols(20));
  static_assert(std::is_same_v<decltype(source), const DenseAttention<TypeParam>>);
  EXPECT_EQ(source.heads(), 1);
  expect_answers(source, mean_of(values), tolerance<TypeParam>);
}

TEST(AttentionTest, a_single_cls_row_over_the_patches_is_enough) {
  const RowMajor<float> row = RowMajor<float>::Constant(1, 4, 0.25f);
  const auto source = head_mean_attention(row, {.first_query = 0, .first_key = 1});
  EXPECT_EQ(source.queries(), (Range{0, 1}));
  EXPECT_EQ(source.keys(), (Range{1, 5}));
}

TEST(AttentionTest, rows_of_probabilities_sum_to_one) {
  const Stored<float> q(random_heads<float>(3, 41, 4, 1, 5), Memory::token_head_dim);
  const Stored<float> k(random_heads<float>(3, 41, 4, 2, 5), Memory::token_head_dim);
  Workspace workspace;
  for (const bool causal : {false, true}) {
    const QueryKeyAttention source(q.view(), k.view(), {.causal = causal});
    const std::vector<float> ones(41, 1.0f);
    std::vector<float> sums(41);
    source.given({0, 41}, {0, 41}, ones, sums, workspace);
    for (const float sum : sums) {
      EXPECT_NEAR(sum, 1.0f, 1e-6f);
    }
    RowMajor<float> first(1, 41);
    source.rows(std::vector<Token>{0}, {0, 41}, MatrixView<float>(first), workspace);
    EXPECT_EQ(first(0, 40) == 0, causal);
  }
}

TEST(AttentionTest, extreme_logits_stay_finite) {
  for (const double scale : {1e4, -1e4}) {
    const Stored<float> q(random_heads<float>(2, 35, 3, 3), Memory::head_token_dim);
    const Stored<float> k(random_heads<float>(2, 35, 3, 4), Memory::head_token_dim);
    Workspace workspace;
    for (const QueryKeyOptions options :
         {QueryKeyOptions{.scale = scale}, QueryKeyOptions{.causal = true, .scale = scale}}) {
      const QueryKeyAttention source(q.view(), k.view(), options);
      for (const auto& one : {source, source.as_single_head()}) {
        const std::vector<float> uniform(35, 1.0f / 35);
        std::vector<float> received(35), given(35);
        one.received({0, 35}, uniform, {0, 35}, received, workspace);
        one.given({0, 35}, {0, 35}, std::vector<float>(35, 1.0f), given, workspace);
        double mass = 0;
        for (std::size_t i = 0; i < 35; ++i) {
          ASSERT_TRUE(std::isfinite(received[i]));
          ASSERT_NEAR(given[i], 1.0f, 1e-5f);
          mass += static_cast<double>(received[i]);
        }
        EXPECT_NEAR(mass, 1.0, 1e-5);
      }
    }
  }
}

TEST(AttentionTest, nan_in_one_key_spoils_only_what_depends_on_it) {
  constexpr Index tokens = 40, bad = 23;
  const Stored<float> q(random_heads<float>(2, tokens, 3, 5), Memory::token_head_dim);
  for (const float value :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
        -std::numeric_limits<float>::infinity()}) {
    Stored<float> k(random_heads<float>(2, tokens, 3, 6), Memory::token_head_dim);
    k.at(1, bad, 2) = value;
    Workspace workspace;
    const std::vector<float> uniform(tokens, 1.0f / tokens);
    std::vector<float> out(tokens);

    const QueryKeyAttention logits(q.view(), k.view(), {.kind = AttentionKind::logits});
    logits.received({0, tokens}, uniform, {0, tokens}, out, workspace);
    for (Index i = 0; i < tokens; ++i) {
      EXPECT_EQ(std::isfinite(out[static_cast<std::size_t>(i)]), i != bad) << i;
    }
    const QueryKeyAttention causal(q.view(), k.view(), {.causal = true});
    causal.given({0, tokens}, {0, tokens}, uniform, out, workspace);
    for (Index i = 0; i < bad; ++i) {
      EXPECT_TRUE(std::isfinite(out[static_cast<std::size_t>(i)])) << i;
    }
    // No claim on the values, but nothing may crash.
    const QueryKeyAttention full(q.view(), k.view());
    full.received({0, tokens}, uniform, {0, tokens}, out, workspace);
    full.as_single_head().received({0, tokens}, uniform, {0, tokens}, out, workspace);
  }
}

TEST(AttentionTest, queries_of_weight_zero_are_not_read) {
  constexpr Index tokens = 40;
  const Index unread[] = {0, 17, 18, 25, 39};
  std::vector<float> weights(tokens, 0.5f);
  auto values = random_heads<float>(2, tokens, 3, 7);
  const Stored<float> k(random_heads<float>(2, tokens, 3, 8), Memory::token_head_dim);
  Stored<float> q(values, Memory::token_head_dim);
  Stored<float> q_with_zeros(values, Memory::token_head_dim);
  auto attention = random_heads<float>(2, tokens, tokens, 9);
  Stored<float> dense(attention, Memory::head_token_dim);
  for (const Index row : unread) {
    weights[static_cast<std::size_t>(row)] = 0;
    for (Index h = 0; h < 2; ++h) {
      for (Index c = 0; c < 3; ++c) {
        q.at(h, row, c) = std::numeric_limits<float>::quiet_NaN();
        q_with_zeros.at(h, row, c) = 0;
      }
      for (Index c = 0; c < tokens; ++c) {
        dense.at(h, row, c) = std::numeric_limits<float>::quiet_NaN();
      }
    }
  }
  Workspace workspace;
  std::vector<float> out(tokens), expected(tokens);
  for (const QueryKeyOptions options : {QueryKeyOptions{}, QueryKeyOptions{.causal = true},
                                        QueryKeyOptions{.kind = AttentionKind::logits}}) {
    const QueryKeyAttention source(q.view(), k.view(), options);
    source.received({0, tokens}, weights, {0, tokens}, out, workspace);
    const QueryKeyAttention finite(q_with_zeros.view(), k.view(), options);
    finite.received({0, tokens}, weights, {0, tokens}, expected, workspace);
    for (std::size_t i = 0; i < out.size(); ++i) {
      EXPECT_NEAR(out[i], expected[i], 1e-5f) << "key " << i;
    }
  }
  DenseAttention(dense.view()).received({0, tokens}, weights, {0, tokens}, out, workspace);
  for (const float value : out) {
    EXPECT_TRUE(std::isfinite(value));
  }
}

TEST(AttentionTest, memory_layout_does_not_change_the_answers) {
  const auto q_values = random_heads<float>(4, 50, 8, 31);
  const auto k_values = random_heads<float>(2, 50, 8, 32);
  std::vector<std::vector<float>> answers;
  for (const Memory memory : all_memories) {
    const Stored<float> q(q_values, memory);
    const Stored<float> k(k_values, memory);
    Workspace workspace;
    answers.emplace_back(50);
    QueryKeyAttention(q.view(), k.view())
        .received({0, 50}, std::vector<float>(50, 0.02f), {0, 50}, answers.back(), workspace);
  }
  for (const auto& answer : answers) {
    EXPECT_EQ(answer, answers.front());
  }
}

TEST(AttentionTest, rows_have_the_same_bits_whatever_rows_are_asked_with_them) {
  constexpr Index tokens = 150;
  const Stored<float> q(random_heads<float>(3, tokens, 20, 33, 3), Memory::token_head_dim);
  const Stored<float> k(random_heads<float>(3, tokens, 20, 34, 3), Memory::token_head_dim);
  std::vector<Token> all(tokens);
  std::iota(all.begin(), all.end(), 0);
  Workspace workspace;
  for (const bool causal : {false, true}) {
    const QueryKeyAttention source(q.view(), k.view(), {.causal = causal});
    RowMajor<float> at_once(tokens, tokens);
    source.rows(all, {0, tokens}, MatrixView<float>(at_once), workspace);
    // Up to two rows are read straight from the keys: their last bit may differ from the others'.
    RowMajor<float> one_by_one(tokens, tokens), in_pairs(tokens, tokens), in_blocks(tokens, tokens);
    const auto ask = [&](RowMajor<float>& out, Index step) {
      for (Index i = 0; i < tokens; i += step) {
        const Index count = std::min(step, tokens - i);
        source.rows(Span<const Token>(all).subspan(i, count), {0, tokens},
                    MatrixView<float>(out.middleRows(i, count)), workspace);
      }
    };
    ask(one_by_one, 1);
    ask(in_pairs, 2);
    EXPECT_TRUE(one_by_one == in_pairs);
    EXPECT_LT((one_by_one - at_once).cwiseAbs().maxCoeff(), 1e-6f);
    for (const Index step : {3, 5, 15, 30, 75}) {
      ask(in_blocks, step);
      EXPECT_TRUE(in_blocks == at_once) << step << " at a time";
    }
  }
}

TEST(AttentionTest, nan_in_a_key_makes_the_rows_that_see_it_nan) {
  constexpr Index tokens = 40, bad = 23;
  const Stored<float> q(random_heads<float>(2, tokens, 5, 5), Memory::token_head_dim);
  for (const float value :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Stored<float> k(random_heads<float>(2, tokens, 5, 6), Memory::token_head_dim);
    k.at(1, bad, 2) = value;
    Workspace workspace;
    const std::vector<float> ones(tokens, 1.0f);
    std::vector<float> out(tokens);
    const QueryKeyAttention source(q.view(), k.view(), {.causal = true});
    source.given({0, tokens}, {0, tokens}, ones, out, workspace);
    for (Index i = 0; i < tokens; ++i) {
      const float sum = out[static_cast<std::size_t>(i)];
      const float score = q.view().head(1).row(i)[2] * value;
      if (i < bad) {
        EXPECT_NEAR(sum, 1.0f, 1e-5f) << i;
      } else if (!(score < 0)) {  // −∞ is a key that is not looked at
        EXPECT_TRUE(std::isnan(sum)) << i;
      }
    }
  }
}

TEST(AttentionTest, scratch_stays_far_below_a_whole_attention_matrix) {
  constexpr Index tokens = 2048;
  const Stored<float> q(random_heads<float>(2, tokens, 4, 41), Memory::token_head_dim);
  const Stored<float> k(random_heads<float>(2, tokens, 4, 42), Memory::token_head_dim);
  const QueryKeyAttention source(q.view(), k.view());
  constexpr std::size_t matrix = std::size_t{tokens} * tokens * sizeof(float);
  Workspace workspace;
  const std::vector<float> uniform(tokens, 1.0f / tokens);
  std::vector<float> out(tokens);
  source.received({0, tokens}, uniform, {0, tokens}, out, workspace);
  source.given({0, tokens}, {0, tokens}, uniform, out, workspace);
  source.as_single_head().received({0, tokens}, uniform, {0, tokens}, out, workspace);
  EXPECT_GT(workspace.peak(), 0u);
  EXPECT_LT(workspace.peak(), matrix / 20);
  const std::size_t warm = workspace.capacity();
  source.received({0, tokens}, uniform, {0, tokens}, out, workspace);
  EXPECT_EQ(workspace.capacity(), warm);
}

TEST(AttentionTest, rows_and_ranges_outside_are_refused) {
  const Stored<float> q(random_heads<float>(2, 10, 3, 51), Memory::token_head_dim);
  const Stored<float> k(random_heads<float>(2, 10, 3, 52), Memory::token_head_dim);
  const Stored<float> a(random_heads<float>(2, 6, 9, 53), Memory::head_token_dim);
  Workspace workspace;
  std::vector<float> ten(10), out(10);
  const auto expect_refusals = [&](const auto& source) {
    const Range queries = source.queries();
    const Range keys = source.keys();
    const std::string held =
        "[" + std::to_string(queries.begin) + ", " + std::to_string(queries.end) + ")";
    for (const Range outside :
         {Range{queries.begin - 1, queries.end - 1}, Range{queries.begin + 1, queries.end + 1}}) {
      expect_error([&] { source.received(outside, ten, keys, out, workspace); },
                   "attention: query rows [" + std::to_string(outside.begin));
      expect_error([&] { source.given(outside, keys, ten, out, workspace); },
                   "but the source holds " + held);
    }
    for (const Range outside :
         {Range{keys.begin - 1, keys.end - 1}, Range{keys.begin + 1, keys.end + 1}}) {
      expect_error([&] { source.received(queries, ten, outside, out, workspace); },
                   "attention: key rows [" + std::to_string(outside.begin));
      expect_error([&] { source.given(queries, outside, ten, out, workspace); },
                   "attention: key rows [" + std::to_string(outside.begin));
      RowMajor<float> block(1, outside.size());
      const std::vector<Token> good = {static_cast<Token>(queries.begin)};
      expect_error([&] { source.rows(good, outside, MatrixView<float>(block), workspace); },
                   "attention: key rows [");
    }
    RowMajor<float> block(1, keys.size());
    for (const Index row : {queries.begin - 1, queries.end}) {
      const std::vector<Token> bad = {static_cast<Token>(row)};
      expect_error([&] { source.rows(bad, keys, MatrixView<float>(block), workspace); },
                   "attention: query row " + std::to_string(row) +
                       " was asked for, but the source holds " + held);
    }
  };
  expect_refusals(QueryKeyAttention(q.view(), k.view()));
  expect_refusals(QueryKeyAttention(q.view(), k.view(), {.kind = AttentionKind::logits}));
  expect_refusals(QueryKeyAttention(q.view().middle_tokens({4, 10}), k.view(), {.first_query = 4}));
  expect_refusals(DenseAttention(a.view(), {.first_query = 3, .first_key = 1}));
}

TEST(AttentionTest, faulty_sources_are_refused) {
  const Stored<float> q(random_heads<float>(4, 10, 3, 61), Memory::token_head_dim);
  const Stored<float> narrow(random_heads<float>(4, 10, 2, 62), Memory::token_head_dim);
  const Stored<float> three(random_heads<float>(3, 10, 3, 63), Memory::token_head_dim);
  const Stored<float> k(random_heads<float>(4, 10, 3, 64), Memory::token_head_dim);
  expect_error([&] { QueryKeyAttention(q.view(), narrow.view()); },
               "queries have 3 channels a head, keys 2");
  expect_error([&] { QueryKeyAttention(q.view(), three.view()); },
               "4 query heads cannot share 3 key heads");
  expect_error([&] { QueryKeyAttention<float>({}, {}); }, "query heads cannot share");
  expect_error([&] { QueryKeyAttention(q.view(), k.view(), {.first_query = -2}); },
               "negative first_query -2");
  expect_error([&] { QueryKeyAttention(q.view(), k.view(), {.causal = true, .first_query = 1}); },
               "causal queries reach row 11, but there are 10 keys");
  for (const double scale :
       {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    expect_error([&] { QueryKeyAttention(q.view(), k.view(), {.scale = scale}); },
                 "query-key attention: scale is not finite");
  }
  expect_error([&] { DenseAttention(q.view(), {.first_query = -1}); },
               "dense attention: negative first row (query -1, key 0)");
  expect_error([&] { DenseAttention(q.view(), {.first_key = -4}); }, "(query 0, key -4)");
}

TEST(AttentionTest, sources_give_the_keys_they_were_built_from) {
  const Stored<float> q(random_heads<float>(4, 10, 3, 71), Memory::token_head_dim);
  const Stored<float> k(random_heads<float>(2, 10, 3, 72), Memory::fused);
  const QueryKeyAttention source(q.view(), k.view());
  EXPECT_EQ(source.key_heads().data(), k.view().data());
  EXPECT_EQ(source.key_heads().heads(), 2);
  EXPECT_EQ(source.as_single_head().key_heads().data(), k.view().data());
}

}  // namespace
