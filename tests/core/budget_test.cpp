// SPDX-License-Identifier: Apache-2.0
#include "tokenfold/core/budget.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "core/support.hpp"

namespace {

using core_test::expect_error;
using tokenfold::Budget;
using tokenfold::Index;
using tokenfold::Rounding;

TEST(BudgetTest, keep_and_discard_are_exact_counts) {
  for (const Index n : {0, 1, 2, 5, 49, 576, 2880}) {
    for (Index count = 0; count <= n; ++count) {
      EXPECT_EQ(Budget::keep(count).keep_count(n), count);
      EXPECT_EQ(Budget::keep(count).discard_count(n), n - count);
      EXPECT_EQ(Budget::discard(count).discard_count(n), count);
      EXPECT_EQ(Budget::discard(count).keep_count(n), n - count);
    }
  }
}

TEST(BudgetTest, more_than_there_is_is_refused) {
  expect_error([] { Budget::keep(6).keep_count(5); }, "cannot keep 6 of 5");
  expect_error([] { Budget::keep(-1).keep_count(5); }, "cannot keep -1 of 5");
  expect_error([] { Budget::discard(6).keep_count(5); }, "cannot discard 6 of 5");
  expect_error([] { Budget::discard(-1).discard_count(5); }, "cannot discard -1 of 5");
}

TEST(BudgetTest, ratio_rounds_as_python_does_by_default) {
  // round(0.5), round(1.5), round(2.5), round(3.5) are 0, 2, 2, 4.
  EXPECT_EQ(Budget::keep_ratio(0.5).keep_count(1), 0);
  EXPECT_EQ(Budget::keep_ratio(0.5).keep_count(3), 2);
  EXPECT_EQ(Budget::keep_ratio(0.5).keep_count(5), 2);
  EXPECT_EQ(Budget::keep_ratio(0.5).keep_count(7), 4);
  EXPECT_EQ(Budget::keep_ratio(0.25).keep_count(2), 0);
  EXPECT_EQ(Budget::keep_ratio(0.75).keep_count(2), 2);
  EXPECT_EQ(Budget::keep_ratio(0.111).keep_count(576), 64);
  EXPECT_EQ(Budget::keep_ratio(1.0 / 3).keep_count(10), 3);
}

TEST(BudgetTest, ratio_agrees_with_the_standard_rounding_for_every_count) {
  for (Index n = 0; n <= 3000; ++n) {
    for (const double ratio : {0.0, 0.05, 0.1, 0.111, 0.125, 0.25, 0.3, 0.5, 0.7, 0.75, 1.0}) {
      const double exact = ratio * static_cast<double>(n);
      const auto kept = [&](Rounding rounding) {
        return static_cast<double>(Budget::keep_ratio(ratio, rounding).keep_count(n));
      };
      ASSERT_EQ(kept(Rounding::nearest_even), std::nearbyint(exact)) << ratio << " of " << n;
      ASSERT_EQ(kept(Rounding::floor), std::floor(exact)) << ratio << " of " << n;
      ASSERT_EQ(kept(Rounding::ceil), std::ceil(exact)) << ratio << " of " << n;
    }
  }
}

TEST(BudgetTest, roundings_differ_where_they_should) {
  const auto kept = [](double ratio, Rounding rounding, Index n) {
    return Budget::keep_ratio(ratio, rounding).keep_count(n);
  };
  EXPECT_EQ(kept(0.5, Rounding::floor, 7), 3);
  EXPECT_EQ(kept(0.5, Rounding::nearest_even, 7), 4);
  EXPECT_EQ(kept(0.5, Rounding::ceil, 5), 3);
  EXPECT_EQ(kept(0.5, Rounding::nearest_even, 5), 2);
}

TEST(BudgetTest, ratio_never_leaves_the_tokens_there_are) {
  for (const Rounding rounding : {Rounding::nearest_even, Rounding::floor, Rounding::ceil}) {
    EXPECT_EQ(Budget::keep_ratio(1, rounding).keep_count(577), 577);
    EXPECT_EQ(Budget::keep_ratio(0, rounding).keep_count(577), 0);
    EXPECT_EQ(Budget::keep_ratio(0.999999, rounding).keep_count(0), 0);
  }
}

TEST(BudgetTest, nothing_can_be_kept_of_nothing) {
  EXPECT_EQ(Budget::keep(0).keep_count(0), 0);
  EXPECT_EQ(Budget::discard(0).discard_count(0), 0);
  EXPECT_EQ(Budget::keep_ratio(0.5).discard_count(0), 0);
}

TEST(BudgetTest, ratio_outside_0_to_1_is_refused) {
  expect_error([] { Budget::keep_ratio(1.01); }, "keep_ratio must lie in [0, 1], got 1.01");
  expect_error([] { Budget::keep_ratio(-0.5); }, "keep_ratio must lie in [0, 1], got -0.5");
  expect_error([] { Budget::keep_ratio(std::nan("")); }, "keep_ratio must lie in [0, 1], got nan");
}

TEST(BudgetTest, adaptive_has_no_number_of_its_own) {
  EXPECT_TRUE(Budget::adaptive().is_adaptive());
  EXPECT_FALSE(Budget::keep(3).is_adaptive());
  expect_error([] { Budget::adaptive().keep_count(5); }, "no rule of its own");
}

}  // namespace
