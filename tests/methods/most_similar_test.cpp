// SPDX-License-Identifier: Apache-2.0

// The correlate stages that give each discarded token to its most similar target.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tokenfold/compress/size_weighted_mean.hpp>
#include <tokenfold/correlate/most_similar.hpp>
#include <tokenfold/filter/random_samples.hpp>
#include <tokenfold/tokenfold.hpp>
#include <utility>
#include <vector>

#include "reference/attention.hpp"
#include "support/outcome.hpp"
#include "support/random.hpp"

namespace {

using support::Random;
using support::Tensor;
using tokenfold::Correlation;
using tokenfold::Features;
using tokenfold::Index;
using tokenfold::Keys;
using tokenfold::Partition;
using tokenfold::Sequence;
using tokenfold::Token;
using tokenfold::TokenLayout;
using tokenfold::Workspace;
using tokenfold::correlate::MostSimilarFeatures;
using tokenfold::correlate::MostSimilarKeys;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

// Each stage names the resource that it lacks.
using WithKeys = Sequence<Keys<float>>;
using WithFeatures = Sequence<Features<float>>;
static_assert(tokenfold::Correlate<MostSimilarKeys, WithKeys>);
static_assert(!tokenfold::Correlate<MostSimilarKeys, WithFeatures>);
static_assert(tokenfold::Correlate<MostSimilarFeatures, WithFeatures>);
static_assert(!tokenfold::Correlate<MostSimilarFeatures, WithKeys>);

using Links = std::vector<std::pair<Token, Token>>;

template <class Stage, class S>
Links links(const Stage& stage, const S& sequence, const Partition& partition) {
  Workspace workspace;
  Correlation correlation;
  stage(sequence, partition, correlation, workspace);
  Links result;
  for (Index i = 0; i < correlation.source_count(); ++i) {
    EXPECT_EQ(correlation.targets(i).size(), 1);
    EXPECT_EQ(correlation.strengths(i)[0], 1);
    result.emplace_back(correlation.source(i), correlation.targets(i)[0]);
  }
  return result;
}

Partition partition_of(std::vector<Token> preserved, std::vector<Token> discarded,
                       std::vector<Token> targets = {}) {
  Partition partition;
  partition.preserved = std::move(preserved);
  partition.discarded = std::move(discarded);
  partition.targets = std::move(targets);
  return partition;
}

/// One vector a row: patches only, the same vectors as keys of one head and as features.
template <class T = double>
class Vectors {
 public:
  explicit Vectors(const std::vector<std::vector<double>>& rows)
      : layout_(
            TokenLayout::encoder({1, static_cast<Index>(rows.size())}, tokenfold::ClsToken::none)),
        x_(static_cast<Index>(rows.size()), static_cast<Index>(rows.at(0).size())) {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      for (std::size_t c = 0; c < rows[i].size(); ++c) {
        x_(static_cast<Index>(i), static_cast<Index>(c)) = static_cast<T>(rows[i][c]);
      }
    }
  }
  /// By keys; by features it must be the same.
  Links nearest(const Partition& partition) const {
    const Links by_keys =
        links(MostSimilarKeys{}, Sequence(layout_, Keys(tokenfold::split_heads(x_, 1))), partition);
    EXPECT_EQ(links(MostSimilarFeatures{}, Sequence(layout_, Features(x_)), partition), by_keys);
    return by_keys;
  }

 private:
  TokenLayout layout_;
  Tensor<T> x_;
};

template <class T>
class MostSimilar : public testing::Test {};
using Scalars = testing::Types<float, double, Eigen::half, Eigen::bfloat16>;
TYPED_TEST_SUITE(MostSimilar, Scalars);

TYPED_TEST(MostSimilar, takes_the_highest_cosine_whatever_the_lengths) {
  const Vectors<TypeParam> x({{1, 0}, {0, 8}, {3, 1}, {1, 5}, {-1, 0.25}});
  EXPECT_EQ(x.nearest(partition_of({0, 1}, {2, 3, 4})), (Links{{2, 0}, {3, 1}, {4, 1}}));
}

TYPED_TEST(MostSimilar, ties_go_to_the_lower_row) {
  const Vectors<TypeParam> x({{0, 1}, {2, 0}, {1, 0}, {4, 0}, {1, 1}});
  EXPECT_EQ(x.nearest(partition_of({1, 3}, {2, 4})), (Links{{2, 1}, {4, 1}}));
  // Also if the preserved tokens do not stand in raster order.
  EXPECT_EQ(x.nearest(partition_of({3, 1, 0}, {2, 4})), (Links{{2, 1}, {4, 0}}));
}

TYPED_TEST(MostSimilar, only_targets_absorb_if_the_filter_names_some) {
  const Vectors<TypeParam> x({{1, 0}, {0, 1}, {1, 0.125}});
  EXPECT_EQ(x.nearest(partition_of({0, 1}, {2})), (Links{{2, 0}}));
  EXPECT_EQ(x.nearest(partition_of({0, 1}, {2}, {1})), (Links{{2, 1}}));
}

TYPED_TEST(MostSimilar, zero_rows_are_orthogonal_to_everything) {
  const Vectors<TypeParam> x({{-1, 0}, {0, 0}, {1, 0}, {0, 0}, {0, 1}});
  EXPECT_EQ(x.nearest(partition_of({0, 1}, {2, 3, 4})), (Links{{2, 1}, {3, 0}, {4, 0}}));
}

TYPED_TEST(MostSimilar, rows_that_are_not_finite_are_neither_source_nor_target) {
  const Vectors<TypeParam> x({{nan, 1}, {1, 0}, {infinity, 0}, {0, 1}, {1, nan}, {1, 1}});
  EXPECT_EQ(x.nearest(partition_of({0, 1, 2}, {3, 4, 5})), (Links{{3, 1}, {5, 1}}));
  EXPECT_EQ(x.nearest(partition_of({0, 2}, {1, 3, 4, 5})), Links{});
}

TYPED_TEST(MostSimilar, nothing_to_absorb_or_nobody_to_absorb_it) {
  const Vectors<TypeParam> x({{1, 0}, {0, 1}});
  EXPECT_EQ(x.nearest(partition_of({0, 1}, {})), Links{});
  EXPECT_EQ(x.nearest(partition_of({}, {0, 1})), Links{});
}

TEST(MostSimilarLengths, very_small_and_very_large_rows_have_a_direction_or_none) {
  // 1 / ‖x‖ of the first row overflows float; the squares of the second do.
  const Vectors<float> x({{1e-45, 0}, {0, 1e30}, {1e-20, 1e-20}, {1e-44, 3e-44}, {1e25, 2e25}});
  EXPECT_EQ(x.nearest(partition_of({0, 1}, {2, 3, 4})), (Links{{2, 1}, {3, 0}, {4, 1}}));
}

TEST(MostSimilarKeys, compares_the_mean_over_the_heads) {
  const TokenLayout layout = TokenLayout::encoder({1, 3}, tokenfold::ClsToken::none);
  // Heads side by side: means (1, 0), (0, 1), (1, 0), but all heads together are like row 1.
  Tensor<double> keys(3, 4);
  keys << 9, 0, -7, 0,  //
      -4, 1, 4, 1,      //
      -4, 0, 6, 0;
  const Partition partition = partition_of({0, 1}, {2});
  EXPECT_EQ(
      links(MostSimilarKeys{}, Sequence(layout, Keys(tokenfold::split_heads(keys, 2))), partition),
      (Links{{2, 0}}));
  EXPECT_EQ(
      links(MostSimilarKeys{}, Sequence(layout, Keys(tokenfold::split_heads(keys, 1))), partition),
      (Links{{2, 1}}));
  // Grouped-query heads: the key heads of an attention source.
  const Tensor<double> queries = Tensor<double>::Ones(3, 8);
  const tokenfold::QueryKeyAttention<double> attention(tokenfold::split_heads(queries, 4),
                                                       tokenfold::split_heads(keys, 2));
  EXPECT_EQ(links(MostSimilarKeys{}, Sequence(layout, attention), partition), (Links{{2, 0}}));
}

TEST(MostSimilarFeatures, may_cover_the_patches_alone_and_leave_out_rows_between_them) {
  // [CLS], three patches, a separator (NaN), two patches.
  tokenfold::LayoutDescription d;
  d.tokens = 7;
  d.cls = 0;
  d.visual = {1, 7};
  d.cells = {0, 1, 2, -1, 3, 4};
  const TokenLayout layout(d);
  Tensor<float> x(6, 2);
  x << 1, 0, 0, 1, 1, 0.5, static_cast<float>(nan), 0, 0.5, 1, 1, -1;
  EXPECT_EQ(links(MostSimilarFeatures{}, Sequence(layout, Features(x, 1)),
                  partition_of({1, 2}, {3, 5, 6})),
            (Links{{3, 1}, {5, 2}, {6, 1}}));
  EXPECT_EQ(support::refusal([&] {
              links(MostSimilarFeatures{}, Sequence(layout, Features(x)), partition_of({1}, {3}));
            }),
            "features: rows [0, 6) were given, but the visual tokens lie in rows [1, 7)");
}

TEST(MostSimilarFeatures, are_not_read_if_nothing_is_discarded) {
  const TokenLayout layout = TokenLayout::encoder({1, 3});
  const Sequence sequence(layout, Features(tokenfold::MatrixView<const float>()));
  EXPECT_EQ(links(MostSimilarFeatures{}, sequence, partition_of({1, 2, 3}, {})), Links{});
}

// More sources than fit into one block.
template <class T>
void compare_with_all_pairs() {
  Random random(71);
  int close_calls = 0;
  for (const Index n : {3, 64, 65, 150, 260}) {
    const auto size = static_cast<std::size_t>(n);
    const reference::Matrix x = support::normal_matrix<T>(size, 12, random);
    const std::vector<Token> discarded = random.sample(n * 3 / 4, n);
    std::vector<Token> preserved;
    for (Token row = 0; row < n; ++row) {
      if (!std::binary_search(discarded.begin(), discarded.end(), row)) preserved.push_back(row);
    }
    const TokenLayout layout = TokenLayout::encoder({1, n}, tokenfold::ClsToken::none);
    const Tensor<T> features = support::tensor<T>(x);
    const Links actual = links(MostSimilarFeatures{}, Sequence(layout, Features(features)),
                               partition_of(preserved, discarded));
    ASSERT_EQ(actual.size(), discarded.size());
    for (const auto& [source, target] : actual) {
      const auto cosine = [&, s = source](Token row) {
        return reference::cosine(x.row(static_cast<std::size_t>(s)),
                                 x.row(static_cast<std::size_t>(row)));
      };
      const Token best = *std::max_element(preserved.begin(), preserved.end(),
                                           [&](Token a, Token b) { return cosine(a) < cosine(b); });
      if (target != best) {
        ++close_calls;
        EXPECT_NEAR(cosine(target), cosine(best), 1e-6);
      }
    }
  }
  EXPECT_LE(close_calls, 1);
}

TEST(MostSimilarFeatures, equal_all_pairs_in_float) { compare_with_all_pairs<float>(); }
TEST(MostSimilarFeatures, equal_all_pairs_in_double) { compare_with_all_pairs<double>(); }

TEST(MostSimilarFeatures, recycle_what_any_pruning_filter_discards) {
  using tokenfold::Pipeline;
  const Pipeline<tokenfold::filter::RandomSamples, MostSimilarFeatures,
                 tokenfold::compress::SizeWeightedMean>
      method{.filter = {.seed = 3}, .correlate = {}, .compress = {}};
  Random random(8);
  const TokenLayout layout = TokenLayout::encoder({4, 4});
  const Tensor<float> x = support::tensor<float>(support::normal_matrix<float>(16, 5, random));
  const auto plan = method.plan(Sequence(layout, Features(x, 1)), tokenfold::Budget::keep(6));
  EXPECT_EQ(plan.output_tokens(), 7);
  std::vector<float> sizes(7);
  plan.sizes(std::vector<float>(17, 1.0f), sizes);
  float total = 0;
  for (const float size : sizes) total += size;
  EXPECT_EQ(total, 17);
}

}  // namespace
