// SPDX-License-Identifier: Apache-2.0
#include "tokenfold/kv_cache.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/support.hpp"
#include "support/random.hpp"

namespace {

using core_test::dense;
using core_test::expect_error;
using core_test::plan_of;
using core_test::RowMajor;
using support::Random;
using tokenfold::CacheRows;
using tokenfold::compact_cache;
using tokenfold::compact_transposed_cache;
using tokenfold::HeadsView;
using tokenfold::Index;
using tokenfold::ReductionPlan;
using tokenfold::TokenLayout;
using tokenfold::Workspace;

constexpr Index kHeads = 3;
constexpr Index kDim = 4;
constexpr Index kCapacity = 11;

/// Text 0, 1; patches 2 … 6, of which 3 and 6 stay; text 7.
ReductionPlan selecting() {
  return plan_of(TokenLayout::decoder(2, 5, 1), {{3, {{3, 1}}}, {6, {{6, 1}}}});
}
/// The same, but 6 comes first, takes half of 2, and 3 a quarter of what became 6's row.
ReductionPlan merging() {
  return plan_of(TokenLayout::decoder(2, 5, 1),
                 {{6, {{6, 0.5}, {2, 0.5}}}, {3, {{3, 0.25}, {2, 0.5}, {5, 0.25}}}});
}
/// A synthetic token, and with it more rows than before.
ReductionPlan lengthening() {
  return plan_of(TokenLayout::decoder(2, 5, 1), {{2, {{2, 1}}},
                                                 {3, {{3, 1}}},
                                                 {4, {{4, 1}}},
                                                 {5, {{5, 1}}},
                                                 {6, {{6, 1}}},
                                                 {-1, {{2, 0.5}, {3, 0.5}}}});
}

/// A cache with room for `kCapacity` tokens in one of the layouts of engines.
template <class T>
struct Cache {
  enum Layout { head_token_dim, token_head_dim, with_gaps };

  explicit Cache(Layout layout, std::uint64_t seed = 1)
      : strides(layout == head_token_dim   ? Strides{kCapacity * kDim, kDim}
                : layout == token_head_dim ? Strides{kDim, kHeads * kDim}
                                           : Strides{kCapacity * (kDim + 3) + 5, kDim + 3}),
        memory(static_cast<std::size_t>(kHeads * (kCapacity * (kDim + 3) + 5))) {
    Random random(seed);
    for (T& value : memory) value = static_cast<T>(8 * random.normal());
  }

  using Strides = typename HeadsView<T>::Strides;
  HeadsView<T> view() { return {memory.data(), {kHeads, kCapacity, kDim}, strides}; }

  Strides strides;
  std::vector<T> memory;
};

/// What rows 0 … output − 1 of head h must become, from the matrix of the plan.
template <class T>
RowMajor<double> expected(const RowMajor<double>& w, HeadsView<T> cache, Index h) {
  return w * cache.head(h).map().topRows(w.cols()).template cast<double>();
}

/// 1 in column kept()[r] of row r.
RowMajor<double> selection_of(const ReductionPlan& plan) {
  RowMajor<double> w = RowMajor<double>::Zero(plan.output_tokens(), plan.input_tokens());
  for (Index r = 0; r < plan.output_tokens(); ++r) w(r, plan.kept()[r]) = 1;
  return w;
}

template <class T>
double precision() {
  return std::is_same_v<T, double>            ? 1e-13
         : std::is_same_v<T, float>           ? 1e-5
         : std::is_same_v<T, Eigen::half>     ? 32.0 / 2048
         : std::is_same_v<T, Eigen::bfloat16> ? 32.0 / 256
                                              : 0;
}

template <class T>
void expect_rows(HeadsView<T> actual, Index h, const RowMajor<double>& rows) {
  const RowMajor<double> left = actual.head(h).map().topRows(rows.rows()).template cast<double>();
  EXPECT_LE((left - rows).cwiseAbs().maxCoeff(), precision<T>()) << "head " << h;
}

template <class T>
class KvCacheTest : public testing::Test {};
using Scalars = testing::Types<float, double, Eigen::half, Eigen::bfloat16>;
TYPED_TEST_SUITE(KvCacheTest, Scalars);

/// In place and into another cache, in every layout; what is not the plan's stays as it was.
template <class T>
void check(const ReductionPlan& plan, CacheRows rule, const RowMajor<double>& w) {
  using C = Cache<T>;
  for (const auto layout : {C::head_token_dim, C::token_head_dim, C::with_gaps}) {
    C cache(layout), before(layout);
    C other(layout, 2), other_before(layout, 2);
    Workspace workspace;
    compact_cache(plan, HeadsView<const T>(cache.view()), other.view(), workspace, rule);
    EXPECT_EQ(cache.memory, before.memory);
    compact_cache(plan, cache.view(), workspace, rule);
    for (Index h = 0; h < kHeads; ++h) {
      expect_rows(cache.view(), h, expected(w, before.view(), h));
      expect_rows(other.view(), h, expected(w, before.view(), h));
      const Index end = std::max(plan.input_tokens(), plan.output_tokens());
      for (Index t = 0; t < kCapacity; ++t) {
        for (Index c = 0; c < kDim; ++c) {
          if (t >= end) {
            EXPECT_EQ(cache.view().head(h)(t, c), before.view().head(h)(t, c)) << "row " << t;
          }
          if (t >= plan.output_tokens()) {
            EXPECT_EQ(other.view().head(h)(t, c), other_before.view().head(h)(t, c));
          }
        }
      }
    }
    if (layout == C::with_gaps) {
      for (std::size_t i = 0; i < cache.memory.size(); ++i) {
        const auto in_head = static_cast<Index>(i) % (kCapacity * (kDim + 3) + 5);
        if (in_head >= kCapacity * (kDim + 3) || in_head % (kDim + 3) >= kDim) {
          EXPECT_EQ(cache.memory[i], before.memory[i]) << "wrote between rows or heads";
          EXPECT_EQ(other.memory[i], other_before.memory[i]) << "wrote between rows or heads";
        }
      }
    }
  }
}

/// The same for [head][channel][token].
template <class T>
void check_transposed(const ReductionPlan& plan, CacheRows rule, const RowMajor<double>& w) {
  Random random(3);
  std::vector<T> memory(static_cast<std::size_t>(kHeads * kDim * (kCapacity + 2)));
  for (T& value : memory) value = static_cast<T>(8 * random.normal());
  const std::vector<T> before = memory;
  const HeadsView<T> cache(memory.data(), {kHeads, kDim, kCapacity},
                           {kDim * (kCapacity + 2), kCapacity + 2});
  const HeadsView<const T> old(before.data(), {kHeads, kDim, kCapacity},
                               {kDim * (kCapacity + 2), kCapacity + 2});
  Workspace workspace;
  compact_transposed_cache(plan, cache, workspace, rule);
  const Index end = std::max(plan.input_tokens(), plan.output_tokens());
  for (Index h = 0; h < kHeads; ++h) {
    const RowMajor<double> channels =
        old.head(h).map().leftCols(plan.input_tokens()).template cast<double>();
    const RowMajor<double> wanted = channels * w.transpose();
    const RowMajor<double> actual = cache.head(h).map().leftCols(w.rows()).template cast<double>();
    EXPECT_LE((wanted - actual).cwiseAbs().maxCoeff(), precision<T>());
    for (Index c = 0; c < kDim; ++c) {
      for (Index t = end; t < kCapacity + (c + 1 < kDim ? 2 : 0); ++t) {
        EXPECT_EQ(cache.head(h).row(c)[t], old.head(h).row(c)[t]);
      }
    }
  }
}

TYPED_TEST(KvCacheTest, selects) {
  check<TypeParam>(selecting(), CacheRows::selected, dense(selecting()));
  check_transposed<TypeParam>(selecting(), CacheRows::selected, dense(selecting()));
  // Also in another order, and with any rule.
  const auto plan = plan_of(TokenLayout::decoder(2, 5, 1), {{6, {{6, 1}}}, {3, {{3, 1}}}});
  for (const auto rule : {CacheRows::selected, CacheRows::kept, CacheRows::merged}) {
    check<TypeParam>(plan, rule, dense(plan));
    check_transposed<TypeParam>(plan, rule, dense(plan));
  }
}

TYPED_TEST(KvCacheTest, merges_if_asked) {
  check<TypeParam>(merging(), CacheRows::merged, dense(merging()));
  check_transposed<TypeParam>(merging(), CacheRows::merged, dense(merging()));
  check<TypeParam>(lengthening(), CacheRows::merged, dense(lengthening()));
  check_transposed<TypeParam>(lengthening(), CacheRows::merged, dense(lengthening()));
}

TYPED_TEST(KvCacheTest, keeps_rows_as_they_are_if_asked) {
  check<TypeParam>(merging(), CacheRows::kept, selection_of(merging()));
  check_transposed<TypeParam>(merging(), CacheRows::kept, selection_of(merging()));
}

TEST(KvCache, quantised_elements_can_be_selected) {
  check<std::int8_t>(selecting(), CacheRows::selected, dense(selecting()));
  check<std::int8_t>(merging(), CacheRows::kept, selection_of(merging()));
  check_transposed<std::int8_t>(merging(), CacheRows::kept, selection_of(merging()));
  Cache<std::int8_t> cache(Cache<std::int8_t>::head_token_dim);
  Workspace workspace;
  expect_error([&] { compact_cache(merging(), cache.view(), workspace, CacheRows::merged); },
               "kv cache: merging needs elements that are real numbers");
}

TEST(KvCache, the_visual_rows_alone) {
  Cache<float> whole(Cache<float>::head_token_dim), part(Cache<float>::head_token_dim),
      before(Cache<float>::head_token_dim);
  Workspace workspace;
  compact_cache(selecting(), whole.view(), workspace);
  compact_cache(selecting().within({2, 7}), part.view().middle_tokens({2, 7}), workspace);
  for (Index h = 0; h < kHeads; ++h) {
    EXPECT_TRUE(part.view().head(h).map().topRows(4) == whole.view().head(h).map().topRows(4));
    // The text behind moves up with the plan of the sequence only.
    EXPECT_TRUE(part.view().head(h).map().row(7) == before.view().head(h).map().row(7));
    EXPECT_TRUE(whole.view().head(h).map().row(4) == before.view().head(h).map().row(7));
  }
}

TEST(KvCache, a_merged_key_gives_the_mean_of_the_logits) {
  const auto plan = plan_of(TokenLayout::decoder(2, 5, 1), {{3, {{3, 0.5}, {5, 0.5}}}});
  Cache<double> cache(Cache<double>::token_head_dim), before(Cache<double>::token_head_dim);
  Workspace workspace;
  compact_cache(plan, cache.view(), workspace, CacheRows::merged);
  Random random(4);
  Eigen::VectorXd query(kDim);
  for (double& value : query) value = random.normal();
  for (Index h = 0; h < kHeads; ++h) {
    const auto old = before.view().head(h).map();
    EXPECT_NEAR(cache.view().head(h).map().row(2).dot(query),
                (old.row(3).dot(query) + old.row(5).dot(query)) / 2, 1e-12);
  }
}

TEST(KvCache, steps_in_turn_are_their_product) {
  const auto first = merging();
  const auto second = plan_of(TokenLayout::decoder(2, 2, 1), {{3, {{3, 1}, {2, 0.5}}}});
  Cache<double> stepwise(Cache<double>::head_token_dim), at_once(Cache<double>::head_token_dim);
  Workspace workspace;
  compact_cache(first, stepwise.view(), workspace, CacheRows::merged);
  compact_cache(second, stepwise.view(), workspace, CacheRows::merged);
  compact_cache(first.then(second), at_once.view(), workspace, CacheRows::merged);
  for (Index h = 0; h < kHeads; ++h) {
    const RowMajor<double> a = stepwise.view().head(h).map().topRows(4);
    const RowMajor<double> b = at_once.view().head(h).map().topRows(4);
    EXPECT_LT((a - b).cwiseAbs().maxCoeff(), 1e-6);
  }
}

TEST(KvCache, refuses_what_the_rule_does_not_allow_and_changes_nothing) {
  Cache<float> cache(Cache<float>::head_token_dim), before(Cache<float>::head_token_dim);
  Workspace workspace;
  expect_error([&] { compact_cache(merging(), cache.view(), workspace); },
               "kv cache: the plan merges tokens; choose CacheRows::kept or CacheRows::merged");
  expect_error([&] { compact_cache(lengthening(), cache.view(), workspace, CacheRows::kept); },
               "kv cache: the plan has synthetic tokens, which continue no cached row");
  expect_error([&] { compact_transposed_cache(selecting(), cache.view(), workspace); },
               "kv cache: the plan needs 8 rows, the cache has 4");
  const auto short_view = cache.view().middle_tokens({0, 7});
  expect_error([&] { compact_cache(selecting(), short_view, workspace); },
               "kv cache: the plan needs 8 rows, the cache has 7");
  EXPECT_EQ(cache.memory, before.memory);
}

TEST(KvCache, refuses_a_wrong_target) {
  Cache<float> cache(Cache<float>::head_token_dim), other(Cache<float>::head_token_dim);
  Workspace workspace;
  expect_error([&] { compact_cache(selecting(), cache.view(), cache.view(), workspace); },
               "kv cache: input and output overlap");
  const auto four = other.view().middle_tokens({0, 4});
  expect_error([&] { compact_cache(selecting(), cache.view(), four, workspace); },
               "kv cache: the output must be [3][at least 5][4], got [3][4][4]");
  expect_error([&] { compact_cache(selecting(), four, cache.view(), workspace); },
               "kv cache: the plan takes 8 rows, the cache has 4");
}

TEST(KvCache, asks_for_no_memory_once_warm) {
  Cache<Eigen::half> cache(Cache<Eigen::half>::head_token_dim);
  Workspace workspace;
  const auto plan = merging();
  compact_cache(plan, cache.view(), workspace, CacheRows::merged);
  const std::size_t warm = workspace.capacity();
  compact_cache(plan, cache.view(), workspace, CacheRows::merged);
  compact_cache(plan, cache.view(), workspace, CacheRows::kept);
  EXPECT_EQ(workspace.capacity(), warm);
}

}  // namespace
