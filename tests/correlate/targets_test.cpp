// SPDX-License-Identifier: Apache-2.0

// Target policies and what becomes of one row of strengths.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <tokenfold/tokenfold.hpp>
#include <utility>
#include <vector>

#include "support/outcome.hpp"

namespace {

using support::Tensor;
using tokenfold::AttentionKind;
using tokenfold::Correlation;
using tokenfold::Index;
using tokenfold::MatrixView;
using tokenfold::Partition;
using tokenfold::Token;
using tokenfold::correlate::FixedTargets;
using tokenfold::correlate::NucleusTargets;
using tokenfold::correlate::QuantileTargets;
using tokenfold::correlate::RelativeTargets;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

using Chosen = std::vector<Index>;

template <class Policy>
Chosen chosen(const Policy& policy, const std::vector<double>& row) {
  tokenfold::Workspace workspace;
  Chosen result;
  policy(
      tokenfold::Span<const double>(row), [&](Index j) { result.push_back(j); }, workspace);
  std::sort(result.begin(), result.end());
  return result;
}

const std::vector<double> row = {0.1, 0.4, 0.1, 0.3, 0.1};

TEST(QuantileTargetsTest, takes_what_reaches_the_quantile) {
  EXPECT_EQ(chosen(QuantileTargets{0.998}, row), (Chosen{1}));
  EXPECT_EQ(chosen(QuantileTargets{1}, row), (Chosen{1}));
  EXPECT_EQ(chosen(QuantileTargets{0.75}, row), (Chosen{1, 3}));  // threshold 0.3: reached counts
  EXPECT_EQ(chosen(QuantileTargets{0.74}, row), (Chosen{1, 3}));
  EXPECT_EQ(chosen(QuantileTargets{0.76}, row), (Chosen{1}));
  EXPECT_EQ(chosen(QuantileTargets{0.5}, row), (Chosen{0, 1, 2, 3, 4}));  // 0.1, three times
  EXPECT_EQ(chosen(QuantileTargets{0}, row), (Chosen{0, 1, 2, 3, 4}));
}

TEST(QuantileTargetsTest, ties_at_the_top_are_all_targets) {
  EXPECT_EQ(chosen(QuantileTargets{}, {0.4, 0.1, 0.4}), (Chosen{0, 2}));
  EXPECT_EQ(chosen(QuantileTargets{}, {0.2, 0.2, 0.2}), (Chosen{0, 1, 2}));
}

TEST(QuantileTargetsTest, strict_takes_only_what_exceeds_the_quantile_but_never_nothing) {
  EXPECT_EQ(chosen(QuantileTargets{0.75, true}, row), (Chosen{1}));
  EXPECT_EQ(chosen(QuantileTargets{0.74, true}, row), (Chosen{1, 3}));
  EXPECT_EQ(chosen(QuantileTargets{1, true}, row), (Chosen{1}));
  EXPECT_EQ(chosen(QuantileTargets{0.998, true}, {0.2, 0.2, 0.2}), (Chosen{0}));
  EXPECT_EQ(chosen(QuantileTargets{0.998, true}, {0.5}), (Chosen{0}));
}

TEST(QuantileTargetsTest, the_row_length_fixes_the_count) {
  for (const auto& [length, expected] : {std::pair{10, 1},
                                         {500, 1},
                                         {501, 1},
                                         {502, 2},
                                         {600, 2},
                                         {1000, 2},
                                         {1001, 2},
                                         {1002, 3}}) {
    std::vector<double> rising(static_cast<std::size_t>(length));
    std::iota(rising.begin(), rising.end(), 1.0);
    const std::size_t strict = chosen(QuantileTargets{0.998, true}, rising).size();
    EXPECT_EQ(strict, static_cast<std::size_t>(expected)) << length;
  }
}

TEST(QuantileTargetsTest, a_row_may_be_tiny_or_empty) {
  EXPECT_EQ(chosen(QuantileTargets{}, {}), Chosen{});
  EXPECT_EQ(chosen(QuantileTargets{}, {0.5}), (Chosen{0}));
  EXPECT_EQ(chosen(QuantileTargets{0.25}, {0.5, 0.7}), (Chosen{1}));  // threshold 0.55
  // −∞ is a token's tie to itself.
  EXPECT_EQ(chosen(QuantileTargets{0}, {-infinity, 0.7}), (Chosen{1}));
  EXPECT_EQ(chosen(QuantileTargets{0}, {0.1, -infinity, 0.7}), (Chosen{0, 2}));
  EXPECT_EQ(chosen(QuantileTargets{0.25}, {-infinity, 0.7}), (Chosen{1}));
}

TEST(FixedTargetsTest, takes_the_strongest_and_the_lower_of_equals) {
  EXPECT_EQ(chosen(FixedTargets{0}, row), Chosen{});
  EXPECT_EQ(chosen(FixedTargets{1}, row), (Chosen{1}));
  EXPECT_EQ(chosen(FixedTargets{3}, row), (Chosen{0, 1, 3}));
  EXPECT_EQ(chosen(FixedTargets{99}, row), (Chosen{0, 1, 2, 3, 4}));
  EXPECT_EQ(chosen(FixedTargets{2}, {}), Chosen{});
}

TEST(RelativeTargetsTest, takes_what_is_nearly_as_strong_as_the_strongest) {
  EXPECT_EQ(chosen(RelativeTargets{1}, row), (Chosen{1}));
  EXPECT_EQ(chosen(RelativeTargets{0.75}, {0.3, 0.4, 0.29}), (Chosen{1}));
  EXPECT_EQ(chosen(RelativeTargets{0.5}, {0.25, 0.5, 0.125}), (Chosen{0, 1}));  // reached counts
  EXPECT_EQ(chosen(RelativeTargets{0}, row), (Chosen{0, 1, 2, 3, 4}));
  EXPECT_EQ(chosen(RelativeTargets{1}, {0.2, 0.2}), (Chosen{0, 1}));
  EXPECT_EQ(chosen(RelativeTargets{0.5}, {}), Chosen{});
}

TEST(NucleusTargetsTest, takes_the_fewest_that_hold_the_mass) {
  EXPECT_EQ(chosen(NucleusTargets{0}, row), (Chosen{1}));
  EXPECT_EQ(chosen(NucleusTargets{0.35}, row), (Chosen{1}));
  EXPECT_EQ(chosen(NucleusTargets{0.65}, row), (Chosen{1, 3}));
  EXPECT_EQ(chosen(NucleusTargets{0.75}, row), (Chosen{0, 1, 3}));
  EXPECT_EQ(chosen(NucleusTargets{0.5}, {0.25, 0.5, 0.25}), (Chosen{1}));  // reached counts
  EXPECT_EQ(chosen(NucleusTargets{0.5}, {0.25, 0.25, 0.25, 0.25}), (Chosen{0, 1}));
  EXPECT_EQ(chosen(NucleusTargets{0.5}, {}), Chosen{});
}

// --- link_rows -----------------------------------------------------------------------------------

// Rows 10 … 14 are visual; 11 and 13 are discarded.
class LinkRows : public testing::Test {
 protected:
  tokenfold::TokenLayout layout_ = tokenfold::TokenLayout::decoder(10, 5, 2);
  Partition partition_;
  Tensor<double> strengths_ = Tensor<double>(2, 5);
  std::vector<Token> candidates_ = {10, 12, 14};

  LinkRows() {
    partition_.discarded = {11, 13};
    strengths_ << 0.2, 9, 0.6, 9, 0.2,  //
        0.1, 9, 0.3, 9, 0.4;
  }
  template <class Policy>
  Correlation linked(const Policy& policy, AttentionKind kind = AttentionKind::probabilities) {
    Correlation correlation;
    tokenfold::Workspace workspace;
    tokenfold::detail::link_rows(MatrixView<double>(strengths_), layout_,
                                 tokenfold::Span<const Token>(candidates_), kind, policy,
                                 partition_, correlation, workspace);
    return correlation;
  }
};

TEST_F(LinkRows, ties_every_discarded_token_to_its_targets) {
  const Correlation c = linked(FixedTargets{2});
  ASSERT_EQ(c.source_count(), 2);
  EXPECT_EQ(c.link_count(), 4);
  EXPECT_EQ(c.source(0), 11);
  EXPECT_EQ(support::indices(c.targets(0)), (Chosen{12, 10}));  // of equals the lower
  EXPECT_EQ(support::indices(c.targets(1)), (Chosen{14, 12}));
  EXPECT_EQ(c.strengths(0)[0], 0.6);
  EXPECT_EQ(c.strengths(1)[1], 0.3);
}

TEST_F(LinkRows, logits_pass_through_softmax_over_the_candidates) {
  strengths_ << 1, 99, 1 + std::log(2.0), 99, 1,  //
      1e30, 99, -1e30, 99, 0;
  const Correlation c = linked(FixedTargets{3}, AttentionKind::logits);
  EXPECT_NEAR(c.strengths(0)[0], 0.5, 1e-15);
  EXPECT_NEAR(c.strengths(0)[1], 0.25, 1e-15);
  EXPECT_EQ(c.targets(1)[0], 10);  // exp does not overflow, and the others underflow
  EXPECT_EQ(c.strengths(1)[0], 1);
  for (Index l = 1; l < c.targets(1).size(); ++l) EXPECT_LT(c.strengths(1)[l], 1e-300);
}

TEST_F(LinkRows, a_row_with_a_strength_that_is_not_finite_links_nothing) {
  for (const double bad : {nan, infinity, -infinity}) {
    for (const AttentionKind kind : {AttentionKind::probabilities, AttentionKind::logits}) {
      strengths_(0, 2) = bad;
      strengths_(1, 1) = bad;  // not a candidate
      const Correlation c = linked(FixedTargets{2}, kind);
      EXPECT_EQ(c.targets(0).size(), 0);
      EXPECT_EQ(c.targets(1).size(), 2);
    }
  }
}

TEST_F(LinkRows, a_row_of_zeros_links_nothing) {
  strengths_.row(1).setZero();
  EXPECT_EQ(linked(QuantileTargets{}).targets(1).size(), 0);
}

TEST_F(LinkRows, a_token_is_never_its_own_target) {
  candidates_ = {10, 11, 12, 13, 14};
  for (const AttentionKind kind : {AttentionKind::probabilities, AttentionKind::logits}) {
    for (Index i = 0; i < 2; ++i) {
      const Correlation c = linked(FixedTargets{9}, kind);
      const Chosen targets = support::indices(c.targets(i));
      EXPECT_EQ(targets.size(), 4u);
      EXPECT_EQ(std::count(targets.begin(), targets.end(), c.source(i)), 0);
    }
  }
  strengths_(0, 1) = nan;  // what it pays itself is not even looked at
  EXPECT_EQ(linked(FixedTargets{9}).targets(0).size(), 4);
  candidates_ = {11};
  EXPECT_EQ(linked(QuantileTargets{}).targets(0).size(), 0);
  EXPECT_EQ(linked(QuantileTargets{}).targets(1).size(), 1);
}

TEST_F(LinkRows, a_token_whose_score_is_not_finite_links_nothing) {
  partition_.scores = {1, nan, 2, 3, infinity};
  EXPECT_EQ(linked(FixedTargets{2}).targets(0).size(), 0);
  EXPECT_EQ(linked(FixedTargets{2}).targets(1).size(), 2);  // row 13
}

TEST_F(LinkRows, without_candidates_there_are_no_links) {
  candidates_.clear();
  EXPECT_EQ(linked(QuantileTargets{}).link_count(), 0);
  EXPECT_EQ(linked(NucleusTargets{}).link_count(), 0);
}

}  // namespace
