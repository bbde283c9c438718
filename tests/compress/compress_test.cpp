// SPDX-License-Identifier: Apache-2.0

// The compress stages alone, from partitions and links written by hand.

#include <gtest/gtest.h>

#include <limits>
#include <tokenfold/tokenfold.hpp>
#include <vector>

#include "support/outcome.hpp"

namespace {

using support::Tensor;
using tokenfold::Aggregate;
using tokenfold::Correlation;
using tokenfold::Index;
using tokenfold::no_token;
using tokenfold::Partition;
using tokenfold::ReductionPlan;
using tokenfold::TokenLayout;
using tokenfold::compress::AttentionWeightedSum;
using tokenfold::compress::SelfPreserving;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

// Row 0 is [CLS]; rows 1 … 5 are patches, of which 1, 3 and 4 stay.
class CompressTest : public testing::Test {
 protected:
  TokenLayout layout_ = TokenLayout::encoder({1, 5});
  Partition partition_;
  Correlation correlation_;

  CompressTest() {
    partition_.preserved = {1, 3, 4};
    partition_.discarded = {2, 5};
    partition_.scores = {0.1, 0.2, 0.3, 0.05, 0.4};
  }
  template <class Stage>
  ReductionPlan plan(const Stage& stage) {
    ReductionPlan plan;
    tokenfold::Workspace workspace;
    tokenfold::PlanWriter writer(layout_, plan);
    const struct { const TokenLayout& layout; } sequence{layout_};
    stage(sequence, partition_, correlation_, writer, workspace);
    writer.finish(workspace);
    return plan;
  }
  template <class Stage>
  std::vector<double> weights(const Stage& stage) {
    return support::dense_weights(plan(stage)).values;
  }
};

using SelfPreservingTest = CompressTest;

TEST_F(SelfPreservingTest, averages_a_token_with_what_it_is_given) {
  correlation_.begin_source(2);
  correlation_.link(1, 3);
  correlation_.link(3, 1);
  correlation_.begin_source(5);
  correlation_.link(3, 0.25);
  // α: 2 → 1 with 3/4, 2 → 3 with 1/4, 5 → 3 with 1.
  EXPECT_TRUE(support::close(weights(SelfPreserving{}),
                             {1, 0,        0,           0,        0, 0,         //
                              0, 1 / 1.75, 0.75 / 1.75, 0,        0, 0,         //
                              0, 0,        0.25 / 2.25, 1 / 2.25, 0, 1 / 2.25,  //
                              0, 0,        0,           0,        1, 0},
                             1e-7));
  // sum: not divided.
  EXPECT_TRUE(support::close(weights(SelfPreserving{.rule = Aggregate::sum}),
                             {1, 0, 0,    0, 0, 0,  //
                              0, 1, 0.75, 0, 0, 0,  //
                              0, 0, 0.25, 1, 0, 1,  //
                              0, 0, 0,    0, 1, 0},
                             1e-7));
}

TEST_F(SelfPreservingTest, the_recycled_share_has_a_limit) {
  for (const tokenfold::Token source : {2, 5}) {
    correlation_.begin_source(source);
    correlation_.link(3, 1);
  }
  // Σα = 2 for row 3: without a limit 2/3 of it are recycled, at 1/2 the α are halved.
  EXPECT_TRUE(support::close(support::dense_weights(plan(SelfPreserving{})).row(2),
                             {0, 0, 1 / 3.0, 1 / 3.0, 0, 1 / 3.0}, 1e-7));
  EXPECT_TRUE(
      support::close(support::dense_weights(plan(SelfPreserving{.max_recycled_share = 0.5})).row(2),
                     {0, 0, 0.25, 0.5, 0, 0.25}, 1e-7));
  EXPECT_TRUE(
      support::close(support::dense_weights(plan(SelfPreserving{.max_recycled_share = 0.9})).row(2),
                     {0, 0, 1 / 3.0, 1 / 3.0, 0, 1 / 3.0}, 1e-7));
  EXPECT_TRUE(plan(SelfPreserving{.max_recycled_share = 0}).selects_only());
}

TEST_F(SelfPreservingTest, negative_strengths_count_as_none) {
  correlation_.begin_source(2);
  correlation_.link(1, 1);
  correlation_.link(3, -5);
  correlation_.begin_source(5);
  correlation_.link(0, -1);
  const ReductionPlan p = plan(SelfPreserving{});
  EXPECT_TRUE(support::close(support::dense_weights(p).row(1), {0, 0.5, 0.5, 0, 0, 0}, 1e-7));
  EXPECT_TRUE(support::close(support::dense_weights(p).row(2), {0, 0, 0, 1, 0, 0}, 1e-7));
  EXPECT_TRUE(support::close(support::dense_weights(p).row(0), {1, 0, 0, 0, 0, 0}, 1e-7));
}

TEST_F(SelfPreservingTest, strengths_that_are_not_finite_give_nothing) {
  for (const double bad : {nan, infinity, -infinity}) {
    correlation_.clear();
    correlation_.begin_source(2);
    correlation_.link(1, 1);
    correlation_.link(3, bad);
    correlation_.begin_source(5);
    const ReductionPlan p = plan(SelfPreserving{});
    EXPECT_TRUE(p.selects_only()) << bad;
    EXPECT_EQ(support::indices(p.kept()), (std::vector<Index>{0, 1, 3, 4})) << bad;
  }
}

TEST_F(SelfPreservingTest, what_goes_to_a_discarded_token_is_lost) {
  correlation_.begin_source(2);
  correlation_.link(5, 1);
  correlation_.link(4, 1);
  const ReductionPlan p = plan(SelfPreserving{.rule = Aggregate::sum});
  EXPECT_TRUE(support::close(support::dense_weights(p).row(3), {0, 0, 0.5, 0, 1, 0}, 1e-7));
}

TEST_F(SelfPreservingTest, a_target_that_does_not_exist_is_refused) {
  correlation_.begin_source(2);
  correlation_.link(6, 1);
  EXPECT_EQ(support::refusal([&] { plan(SelfPreserving{}); }),
            "correlate: row 6 does not exist and cannot be a target");
  correlation_.clear();
  correlation_.begin_source(2);
  correlation_.link(-1, 1);
  EXPECT_EQ(support::refusal([&] { plan(SelfPreserving{}); }),
            "correlate: row -1 does not exist and cannot be a target");
}

TEST_F(SelfPreservingTest, the_limit_must_be_a_share) {
  EXPECT_EQ(support::refusal([&] { plan(SelfPreserving{.max_recycled_share = 1.5}); }),
            "self-preserving: max_recycled_share must lie in [0, 1], got 1.5");
}

using AttentionWeightedSumTest = CompressTest;

TEST_F(AttentionWeightedSumTest, adds_the_cluster_and_collects_the_discarded) {
  correlation_.begin_source(2);
  correlation_.link(1, -0.5);  // that there is a link matters, not its strength
  correlation_.link(4, 0.5);
  correlation_.begin_source(3);
  correlation_.link(1, 0.5);
  const ReductionPlan p = plan(AttentionWeightedSum{});
  EXPECT_EQ(support::indices(p.kept()), (std::vector<Index>{0, 1, 3, 4, no_token}));
  EXPECT_TRUE(support::close(support::dense_weights(p).values, {1, 0, 0,   0,   0, 0,  //
                                                                0, 1, 0.2, 0.3, 0, 0,  //
                                                                0, 0, 0,   1,   0, 0,  //
                                                                0, 0, 0.2, 0,   1, 0,  //
                                                                0, 0, 0.2, 0,   0, 0.4},
                             1e-7));
}

TEST_F(AttentionWeightedSumTest, the_published_rule_is_a_weighted_average) {
  correlation_.begin_source(2);
  correlation_.link(1, 1);
  correlation_.begin_source(3);
  correlation_.link(1, 1);
  const ReductionPlan p = plan(AttentionWeightedSum{Aggregate::mean, false});
  EXPECT_EQ(p.extra_tokens(), 0);
  EXPECT_TRUE(support::close(support::dense_weights(p).values,
                             {1, 0,         0,         0,         0, 0,  //
                              0, 0.1 / 0.6, 0.2 / 0.6, 0.3 / 0.6, 0, 0,  //
                              0, 0,         0,         1,         0, 0,  //
                              0, 0,         0,         0,         1, 0},
                             1e-6));
}

TEST_F(AttentionWeightedSumTest, attention_that_sums_to_zero_leaves_the_token_as_it_is) {
  partition_.scores = {0, 0, 0.3, 0, nan};
  correlation_.begin_source(2);
  correlation_.link(1, 1);
  const ReductionPlan p = plan(AttentionWeightedSum{Aggregate::mean, false});
  EXPECT_TRUE(p.selects_only());
}

TEST_F(AttentionWeightedSumTest, nothing_discarded_needs_no_synthetic_token) {
  partition_.preserved = {1, 2, 3, 4, 5};
  partition_.discarded.clear();
  EXPECT_EQ(plan(AttentionWeightedSum{}).extra_tokens(), 0);
}

TEST_F(AttentionWeightedSumTest, a_weight_that_is_not_finite_keeps_its_token_out) {
  for (const double bad : {nan, infinity, -infinity}) {
    partition_.scores = {0.1, bad, 0.3, bad, 0.4};
    correlation_.clear();
    correlation_.begin_source(2);
    correlation_.link(1, 1);
    correlation_.begin_source(4);
    correlation_.link(3, 1);
    // The tokens in question are themselves not finite: 0 · NaN must not enter a sum.
    reference::Matrix tokens(6, 1, {7, 1, bad, 3, 5, 5});
    EXPECT_TRUE(support::close(support::apply<float>(plan(AttentionWeightedSum{}), tokens).values,
                               {7, 1, 3, 5, 2}, 1e-6));
    EXPECT_TRUE(support::close(
        support::apply<float>(plan(AttentionWeightedSum{.rule = Aggregate::mean}), tokens).values,
        {7, 1, 3, 5, 2}, 1e-6));
  }
}

TEST_F(AttentionWeightedSumTest, a_filter_without_scores_is_refused) {
  partition_.scores.clear();
  EXPECT_EQ(support::refusal([&] { plan(AttentionWeightedSum{}); }),
            "compress: the filter gave 0 scores for 5 visual tokens");
}

TEST_F(AttentionWeightedSumTest, released_order_is_kept) {
  partition_.preserved = {4, 1, 3};
  EXPECT_EQ(support::indices(plan(AttentionWeightedSum{}).kept()),
            (std::vector<Index>{0, 4, 1, 3, no_token}));
}

}  // namespace
