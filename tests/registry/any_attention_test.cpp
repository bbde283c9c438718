// SPDX-License-Identifier: Apache-2.0
#include "tokenfold/registry/any_attention.hpp"

#include <gtest/gtest.h>

#include "support/outcome.hpp"
#include "support/random.hpp"
#include "tokenfold/core/query_key_attention.hpp"

namespace {

using namespace tokenfold;
using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Three query heads that share a key head, 5 tokens.
struct AnyAttentionTest : testing::Test {
  Matrix q = Matrix::Random(5, 3 * 4);
  Matrix k = Matrix::Random(5, 4);
  QueryKeyAttention<double> own{split_heads(q, 3), split_heads(k, 1)};
  AnyAttention<double> any{own};

  template <class Attention>
  static Matrix rows(const Attention& attention) {
    const std::vector<Token> all = {0, 1, 2, 3, 4};
    Matrix out(5, 5);
    Workspace workspace;
    attention.rows(all, {0, 5}, MatrixView<double>(out), workspace);
    return out;
  }
};

TEST_F(AnyAttentionTest, answers_as_its_source_does) {
  EXPECT_EQ(any.heads(), 3);
  EXPECT_EQ(rows(any), rows(own));
}

TEST_F(AnyAttentionTest, a_head_answers_alone) {
  const AnyAttention<double> second = any.head(1);
  EXPECT_EQ(rows(second), rows(own.head(1)));
  EXPECT_NE(rows(second), rows(own.head(0)));
}

TEST_F(AnyAttentionTest, a_part_is_its_own_only_head) {
  for (const AnyAttention<double>& part : {any.head(1), any.as_single_head()}) {
    EXPECT_EQ(part.heads(), 1);
    EXPECT_EQ(rows(part.head(0)), rows(part));
    EXPECT_EQ(rows(part.as_single_head()), rows(part));
    EXPECT_NE(support::refusal([&] { part.head(1); }), "");
  }
  EXPECT_EQ(rows(any.as_single_head()), rows(own.as_single_head()));
}

}  // namespace
