// SPDX-License-Identifier: Apache-2.0

// The filters of FiCoCo-V and FiCoCo-L on attention small enough to work out by hand.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <stdexcept>
#include <tokenfold/tokenfold.hpp>
#include <vector>

#include "support/outcome.hpp"

namespace {

using support::Tensor;
using tokenfold::Aggregate;
using tokenfold::AttentionDirection;
using tokenfold::Budget;
using tokenfold::Index;
using tokenfold::Partition;
using tokenfold::TextTokens;
using tokenfold::TokenLayout;
using tokenfold::filter::TaskRedundancy;
using tokenfold::filter::VisionRedundancy;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

template <class Filter>
Partition filtered(const Filter& filter, const TokenLayout& layout, const Tensor<double>& attention,
                   Budget budget) {
  Partition partition;
  tokenfold::Workspace workspace;
  filter(tokenfold::Sequence(layout, tokenfold::head_mean_attention(attention)), budget, partition,
         workspace);
  return partition;
}

using Rows = std::vector<tokenfold::Token>;

// [CLS] and four patches on a 1 x 4 grid.
class VisionRedundancyTest : public testing::Test {
 protected:
  VisionRedundancyTest() : attention_(5, 5) {
    attention_ << 0.2, 0.0, 0.4, 0.1, 0.3,  //
        0.0, 0.2, 0.6, 0.1, 0.1,            //
        0.0, 0.7, 0.1, 0.1, 0.1,            //
        0.2, 0.6, 0.0, 0.1, 0.1,            //
        0.0, 0.5, 0.1, 0.1, 0.3;
  }
  TokenLayout layout_ = TokenLayout::encoder({1, 4});
  Tensor<double> attention_;
  VisionRedundancy filter_ = {.lambda = 0.5, .penalty = {.coefficient = 1}};
};

TEST_F(VisionRedundancyTest, scores_what_peers_give_minus_what_cls_gives) {
  const Partition p = filtered(filter_, layout_, attention_, Budget::keep(2));
  EXPECT_TRUE(support::close(
      p.scores,
      {0.5 * (2.0 / 4 - 0), 0.5 * (0.8 / 4 - 0.4), 0.5 * (0.4 / 4 - 0.1), 0.5 * (0.6 / 4 - 0.3)},
      1e-14, 1e-14));
  EXPECT_EQ(p.discarded, (Rows{1, 3}));
  EXPECT_EQ(p.preserved, (Rows{2, 4}));
}

TEST_F(VisionRedundancyTest, given_reads_the_tokens_own_row) {
  filter_.direction = AttentionDirection::given;
  filter_.lambda = 1;
  EXPECT_TRUE(support::close(filtered(filter_, layout_, attention_, Budget::keep(2)).scores,
                             {0.25, 0.25, 0.2, 0.25}, 1e-14));
}

TEST_F(VisionRedundancyTest, l2_brings_both_terms_to_length_one) {
  filter_.normalization = tokenfold::filter::ScoreNormalization::l2;
  filter_.lambda = 0;
  const double length = std::sqrt(0.16 + 0.01 + 0.09);
  EXPECT_TRUE(support::close(filtered(filter_, layout_, attention_, Budget::keep(2)).scores,
                             {0, -0.4 / length, -0.1 / length, -0.3 / length}, 1e-14));
  attention_.row(0).setZero();  // a term of length 0 stays 0
  EXPECT_EQ(filtered(filter_, layout_, attention_, Budget::keep(2)).scores,
            (std::vector<double>{0, 0, 0, 0}));
}

TEST_F(VisionRedundancyTest, penalises_one_token_of_every_window) {
  filter_.penalty = {{1, 2}, 2};
  const Partition p = filtered(filter_, layout_, attention_, Budget::keep(2));
  EXPECT_TRUE(support::close(p.scores, {0.5, -0.1, 0, -0.075}, 1e-13, 1e-13));
}

TEST_F(VisionRedundancyTest, ties_discard_the_lower_row_first) {
  attention_.setConstant(0.2);
  EXPECT_EQ(filtered(filter_, layout_, attention_, Budget::keep(1)).preserved, (Rows{4}));
  EXPECT_EQ(filtered(filter_, layout_, attention_, Budget::keep(3)).discarded, (Rows{1}));
}

TEST_F(VisionRedundancyTest, scores_that_are_not_finite_go_first) {
  attention_(0, 2) = nan;
  EXPECT_EQ(filtered(filter_, layout_, attention_, Budget::discard(1)).discarded, (Rows{2}));
  attention_(0, 4) = -std::numeric_limits<double>::infinity();
  EXPECT_EQ(filtered(filter_, layout_, attention_, Budget::discard(2)).discarded, (Rows{2, 4}));
  EXPECT_EQ(filtered(filter_, layout_, attention_, Budget::discard(3)).discarded, (Rows{1, 2, 4}));
}

TEST_F(VisionRedundancyTest, without_cls_the_mean_key_stands_in) {
  // Keys (1, 0), (0, 1), (0, 0), (1, 1) in one head: μ ∝ (1, 1), a_i = −cos(μ, m_i).
  Tensor<double> keys(4, 2);
  keys << 1, 0, 0, 1, 0, 0, 1, 1;
  const TokenLayout layout = TokenLayout::encoder({1, 4}, tokenfold::ClsToken::none);
  const Tensor<double> attention = Tensor<double>::Constant(4, 4, 0.25);
  filter_.lambda = 0;
  Partition p;
  tokenfold::Workspace workspace;
  filter_(tokenfold::Sequence(layout, tokenfold::head_mean_attention(attention),
                              tokenfold::Keys(tokenfold::split_heads(keys, 1))),
          Budget::discard(1), p, workspace);
  EXPECT_TRUE(support::close(p.scores, {std::sqrt(0.5), std::sqrt(0.5), 0, 1}, 1e-14));
  EXPECT_EQ(p.discarded, (Rows{3}));
}

// One row of text, two patches, two rows of text.
class TaskRedundancyTest : public testing::Test {
 protected:
  TaskRedundancyTest() : attention_(5, 5) {
    attention_ << 1.0, 0.0, 0.0, 0.0, 0.0,  //
        0.5, 0.5, 0.0, 0.0, 0.0,            //
        0.2, 0.3, 0.5, 0.0, 0.0,            //
        0.1, 0.4, 0.3, 0.2, 0.0,            //
        0.3, 0.2, 0.1, 0.1, 0.3;
  }
  TokenLayout layout_ = TokenLayout::decoder(1, 2, 2);
  Tensor<double> attention_;
  TaskRedundancy filter_;

  std::vector<double> scores() const {
    return filtered(filter_, layout_, attention_, Budget::keep(1)).scores;
  }
};

TEST_F(TaskRedundancyTest, scores_what_peers_give_minus_what_the_question_gives) {
  EXPECT_TRUE(support::close(
      scores(), {0.6 * 0.8 / 2 - 0.4 * 0.6 / 2, 0.6 * 0.5 / 2 - 0.4 * 0.4 / 2}, 1e-13));
  EXPECT_EQ(filtered(filter_, layout_, attention_, Budget::keep(1)).discarded, (Rows{1}));
}

TEST_F(TaskRedundancyTest, all_text_includes_what_stands_before_the_image) {
  filter_.text = TextTokens::all;
  EXPECT_TRUE(support::close(scores(), {0.24 - 0.4 * 0.6 / 3, 0.15 - 0.4 * 0.4 / 3}, 1e-13));
}

TEST_F(TaskRedundancyTest, given_under_a_causal_mask_sees_no_question) {
  filter_.direction = AttentionDirection::given;
  EXPECT_TRUE(support::close(scores(), {0.6 * 0.25, 0.6 * 0.4}, 1e-13));
  filter_.text = TextTokens::all;
  EXPECT_TRUE(support::close(scores(), {0.15 - 0.4 * 0.5 / 3, 0.24 - 0.4 * 0.2 / 3}, 1e-13));
}

TEST_F(TaskRedundancyTest, the_vision_term_may_be_summed) {
  filter_.vision_term = Aggregate::sum;
  EXPECT_TRUE(support::close(scores(), {0.6 * 0.8 - 0.12, 0.6 * 0.5 - 0.08}, 1e-13));
}

TEST_F(TaskRedundancyTest, a_protected_first_token_never_goes) {
  filter_.protect_first = true;
  EXPECT_EQ(filtered(filter_, layout_, attention_, Budget::keep(1)).discarded, (Rows{2}));
  attention_(3, 1) = nan;  // not even with a score that is not finite
  EXPECT_EQ(filtered(filter_, layout_, attention_, Budget::keep(1)).discarded, (Rows{2}));
  EXPECT_THROW(filtered(filter_, layout_, attention_, Budget::keep(0)), std::invalid_argument);
}

TEST_F(TaskRedundancyTest, the_penalty_is_an_option) {
  layout_ = TokenLayout::decoder(1, 2, 2, {1, 2});
  filter_.penalty = {};
  EXPECT_TRUE(support::close(scores(), {2 * (0.24 - 0.12), 0.15 - 0.08}, 1e-13));
}

}  // namespace
