// SPDX-License-Identifier: Apache-2.0
// The fused attention against softmax(QKᵀ)V as it is written.
#include "attention.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "checkpoint.hpp"

namespace {

using llava::Index;
using llava::Matrix;
using llava_test::near;
using llava_test::random_rows;

struct Case {
  Index queries;
  Index keys;
  Index heads = 2;
  Index key_heads = 2;
  bool causal = false;
  bool bias = false;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.queries << " queries, " << c.keys << " keys, " << c.heads << " heads over "
       << c.key_heads << (c.causal ? ", causal" : "") << (c.bias ? ", key bias" : "");
}

struct Inputs {
  static constexpr Index dim = 5;
  Matrix q, k, v;
  std::vector<float> bias;

  explicit Inputs(const Case& c)
      : q(random_rows(c.queries, c.heads * dim, 1)),
        k(random_rows(c.keys, c.key_heads * dim, 2)),
        v(random_rows(c.keys, c.key_heads * dim, 3)) {
    support::Random random(4);
    for (Index i = 0; c.bias && i < c.keys; ++i) {
      bias.push_back(static_cast<float>(3 * random.uniform()));
    }
  }

  Matrix attention(const Case& c, Index threads = 1) const {
    Matrix out;
    llava::attention(tokenfold::split_heads(q, c.heads), tokenfold::split_heads(k, c.key_heads),
                     tokenfold::split_heads(v, c.key_heads), c.causal, bias, out,
                     llava::Threads{threads});
    return out;
  }
  reference::Matrix expected(const Case& c) const {
    const std::size_t before = llava_test::size(c.keys - c.queries);
    return reference::attend(
        heads(q, c.heads), heads(k, c.key_heads), heads(v, c.key_heads),
        [&](std::size_t query, std::size_t key) { return !c.causal || key <= before + query; },
        {bias.begin(), bias.end()});
  }

 private:
  static reference::Heads heads(const Matrix& rows, Index count) {
    return reference::split_heads(llava_test::doubles(rows), llava_test::size(count));
  }
};

class LlavaAttention : public testing::TestWithParam<Case> {};

TEST_P(LlavaAttention, equals_the_naive_one) {
  const Inputs inputs(GetParam());
  EXPECT_TRUE(near(inputs.attention(GetParam()), inputs.expected(GetParam()), 3e-6));
}

TEST_P(LlavaAttention, has_the_same_bits_with_any_number_of_threads) {
  const Inputs inputs(GetParam());
  const Matrix one = inputs.attention(GetParam(), 1);
  for (const Index threads : {2, 3, 7}) {
    EXPECT_TRUE(llava_test::same_bits(inputs.attention(GetParam(), threads), one)) << threads;
  }
}

// Around the 64 queries that one block has.
INSTANTIATE_TEST_SUITE_P(
    Shapes, LlavaAttention,
    testing::Values(Case{1, 1}, Case{1, 1, 2, 2, true}, Case{5, 5}, Case{63, 63}, Case{64, 64},
                    Case{65, 65}, Case{130, 130}, Case{2, 2, 2, 2, true}, Case{63, 63, 2, 2, true},
                    Case{64, 64, 2, 2, true}, Case{65, 65, 2, 2, true}, Case{130, 130, 2, 2, true},
                    Case{7, 7, 4, 2, true}, Case{66, 66, 6, 1}, Case{66, 66, 6, 3, true},
                    // decoding: the queries are the last of the sequence
                    Case{1, 9, 4, 2, true}, Case{3, 9, 4, 2, true}, Case{1, 140, 4, 4, true},
                    Case{70, 140, 4, 2, true}, Case{1, 140, 2, 1}, Case{3, 9},
                    Case{9, 9, 2, 2, false, true}, Case{70, 70, 4, 2, false, true},
                    Case{70, 70, 4, 2, true, true}, Case{1, 9, 2, 2, true, true}));

TEST(LlavaAttention, hides_what_comes_later) {
  const Case c{70, 70, 2, 1, true};
  Inputs inputs(c);
  const Matrix before = inputs.attention(c);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  inputs.k.row(69).setConstant(1e30F);
  inputs.v.row(69).setConstant(1e30F);
  const Matrix after = inputs.attention(c);
  EXPECT_TRUE(llava_test::same_bits(Matrix(after.topRows(69)), Matrix(before.topRows(69))));
  EXPECT_FALSE(llava_test::same_bits(Matrix(after.row(69)), Matrix(before.row(69))));
  // A key that is not a number is nobody's business before it is seen, either.
  inputs.k.row(69).setConstant(nan);
  EXPECT_TRUE(
      llava_test::same_bits(Matrix(inputs.attention(c).topRows(69)), Matrix(before.topRows(69))));
}

TEST(LlavaAttention, survives_huge_scores) {
  for (const bool causal : {false, true}) {
    const Case c{66, 66, 2, 2, causal};
    Inputs inputs(c);
    inputs.q *= 1e8F;
    inputs.k *= 1e8F;
    const Matrix out = inputs.attention(c);
    EXPECT_TRUE(out.allFinite());
    EXPECT_TRUE(near(out, inputs.expected(c), 3e-6));  // one key takes it all
  }
}

TEST(LlavaAttention, a_key_of_size_0_gets_nothing) {
  const Case c{4, 4, 2, 2, false, true};
  Inputs inputs(c);
  inputs.bias = {0, -std::numeric_limits<float>::infinity(), 0, 0};
  const Matrix out = inputs.attention(c);
  inputs.k.row(1).setConstant(100);
  inputs.v.row(1).setConstant(100);
  EXPECT_TRUE(near(out, llava_test::doubles(inputs.attention(c)), 1e-6));
  EXPECT_TRUE(out.allFinite());
}

}  // namespace
