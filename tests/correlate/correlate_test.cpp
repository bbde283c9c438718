// SPDX-License-Identifier: Apache-2.0

// The correlate stages alone: direct attention, attention through the text, nearest keys.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <tokenfold/tokenfold.hpp>
#include <utility>
#include <vector>

#include "support/outcome.hpp"
#include "support/random.hpp"

namespace {

using support::Random;
using support::Tensor;
using tokenfold::Aggregate;
using tokenfold::AttentionDirection;
using tokenfold::AttentionKind;
using tokenfold::Correlation;
using tokenfold::Index;
using tokenfold::Partition;
using tokenfold::TextTokens;
using tokenfold::Token;
using tokenfold::TokenLayout;
using tokenfold::correlate::Candidates;
using tokenfold::correlate::DirectAttention;
using tokenfold::correlate::FixedTargets;
using tokenfold::correlate::NearestKeys;
using tokenfold::correlate::Sources;
using tokenfold::correlate::TaskAttention;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

template <class Stage, class S>
Correlation correlated(const Stage& stage, const S& sequence, const Partition& partition) {
  Correlation correlation;
  tokenfold::Workspace workspace;
  stage(sequence, partition, correlation, workspace);
  return correlation;
}

Partition partition(std::vector<Token> preserved, std::vector<Token> discarded) {
  Partition p;
  p.preserved = std::move(preserved);
  p.discarded = std::move(discarded);
  return p;
}

TEST(DirectAttentionTest, strengths_are_what_the_discarded_token_pays) {
  Random random(31);
  const TokenLayout layout = TokenLayout::encoder({2, 3}, tokenfold::ClsToken::last);
  const Tensor<float> a = support::tensor<float>(support::random_probabilities<float>(7, random));
  const Partition p = partition({0, 2, 3, 5}, {1, 4});
  const Correlation c =
      correlated(DirectAttention<FixedTargets>{{99}},
                 tokenfold::Sequence(layout, tokenfold::head_mean_attention(a)), p);
  ASSERT_EQ(c.source_count(), 2);
  for (Index i = 0; i < 2; ++i) {
    EXPECT_EQ(c.source(i), p.discarded[static_cast<std::size_t>(i)]);
    ASSERT_EQ(c.targets(i).size(), 4);
    for (Index l = 0; l < 4; ++l) {
      EXPECT_EQ(c.strengths(i)[l], static_cast<double>(a(c.source(i), c.targets(i)[l])));
    }
  }
}

// C written out, for every option, on both sides of the image.
TEST(TaskAttentionTest, strengths_follow_the_equation_for_every_option) {
  Random random(32);
  const TokenLayout layout = TokenLayout::decoder(2, 5, 3);
  const Tensor<double> a =
      support::tensor<double>(support::random_probabilities<double>(10, random));
  const tokenfold::Sequence sequence(layout, tokenfold::head_mean_attention(a));
  const Partition p = partition({2, 4, 6}, {3, 5});
  for (const double gamma : {0.0, 0.6, 1.0})
    for (const auto direction : {AttentionDirection::received, AttentionDirection::given})
      for (const auto text : {TextTokens::after_image, TextTokens::all})
        for (const auto indirect : {Aggregate::mean, Aggregate::sum})
          for (const auto candidates : {Candidates::preserved, Candidates::all_visual}) {
            const Correlation c = correlated(
                TaskAttention<FixedTargets>{gamma, direction, text, indirect, candidates, {99}},
                sequence, p);
            std::vector<Index> words = {7, 8, 9};
            if (text == TextTokens::all) words.insert(words.end(), {0, 1});
            ASSERT_EQ(c.source_count(), 2);
            for (Index s = 0; s < 2; ++s) {
              const Index i = c.source(s);
              EXPECT_EQ(c.targets(s).size(), candidates == Candidates::preserved ? 3 : 4);
              for (Index l = 0; l < c.targets(s).size(); ++l) {
                const Index j = c.targets(s)[l];
                EXPECT_NE(i, j);
                double bridge = 0;
                for (const Index k : words) {
                  bridge +=
                      (direction == AttentionDirection::received ? a(k, i) : a(i, k)) * a(k, j);
                }
                if (indirect == Aggregate::mean) bridge /= static_cast<double>(words.size());
                EXPECT_NEAR(c.strengths(s)[l], gamma * a(i, j) + (1 - gamma) * bridge, 1e-15);
              }
            }
          }
}

TEST(TaskAttentionTest, nothing_discarded_means_no_links) {
  const TokenLayout layout = TokenLayout::decoder(0, 3, 1);
  const Tensor<float> a = Tensor<float>::Constant(4, 4, 0.25f);
  const tokenfold::Sequence sequence(layout, tokenfold::head_mean_attention(a));
  EXPECT_EQ(correlated(TaskAttention<>{}, sequence, partition({0, 1, 2}, {})).source_count(), 0);
  EXPECT_EQ(correlated(DirectAttention<>{}, sequence, partition({0, 1, 2}, {})).source_count(), 0);
  EXPECT_EQ(correlated(TaskAttention<>{}, sequence, partition({}, {0, 1, 2})).link_count(), 0);
}

// --- nearest keys --------------------------------------------------------------------------------

class NearestKeysTest : public testing::Test {
 protected:
  TokenLayout layout_ = TokenLayout::encoder({1, 6});
  Tensor<double> keys_ = Tensor<double>(7, 2);

  NearestKeysTest() {
    keys_ << 0, 1,  // [CLS]
        1, 0,       //
        2, 0,       // the same direction as row 1
        1, 1,       //
        0, 0,       // similarity 0 to everything
        -1, 0,      //
        5, 0;       // the same direction again
  }
  // Target -> its sources, ascending.
  std::map<Index, std::vector<Index>> clusters(const NearestKeys& stage, const Partition& p) const {
    const Correlation c = correlated(
        stage, tokenfold::Sequence(layout_, tokenfold::Keys(tokenfold::split_heads(keys_, 1))), p);
    std::map<Index, std::vector<Index>> result;
    for (Index i = 0; i < c.source_count(); ++i) {
      for (const Token target : c.targets(i)) result[target].push_back(c.source(i));
    }
    return result;
  }
  using Clusters = std::map<Index, std::vector<Index>>;
};

TEST_F(NearestKeysTest, each_preserved_token_picks_its_nearest_and_the_lower_of_equals) {
  const Partition p = partition({3}, {1, 2, 4, 5, 6});
  EXPECT_EQ(clusters({1, Sources::all}, p), (Clusters{{3, {1}}}));
  EXPECT_EQ(clusters({2, Sources::all}, p), (Clusters{{3, {1, 2}}}));
  EXPECT_EQ(clusters({4, Sources::all}, p), (Clusters{{3, {1, 2, 4, 6}}}));
  EXPECT_EQ(clusters({5, Sources::all}, p), (Clusters{{3, {1, 2, 4, 5, 6}}}));
  EXPECT_EQ(clusters({99, Sources::all}, p), (Clusters{{3, {1, 2, 4, 5, 6}}}));
  EXPECT_EQ(clusters({0, Sources::all}, p), Clusters{});
}

TEST_F(NearestKeysTest, preserved_tokens_may_be_absorbed_by_each_other) {
  const Partition p = partition({1, 6}, {2, 3, 4, 5});
  EXPECT_EQ(clusters({2, Sources::all}, p), (Clusters{{1, {2, 6}}, {6, {1, 2}}}));
  EXPECT_EQ(clusters({2, Sources::discarded}, p), (Clusters{{1, {2, 3}}, {6, {2, 3}}}));
}

TEST_F(NearestKeysTest, zero_keys_are_orthogonal_to_everything) {
  // All similarities of row 4 are 0: the lowest rows are its nearest.
  EXPECT_EQ(clusters({2, Sources::all}, partition({4}, {1, 2, 3, 5, 6})), (Clusters{{4, {1, 2}}}));
}

TEST_F(NearestKeysTest, a_token_in_neither_list_is_no_candidate) {
  EXPECT_EQ(clusters({2, Sources::all}, partition({1}, {3, 5})), (Clusters{{1, {3, 5}}}));
}

TEST_F(NearestKeysTest, a_token_preserved_twice_is_its_own_nearest_through_its_copy) {
  const Partition p = partition({3, 1, 3}, {5});
  EXPECT_EQ(clusters({1, Sources::all}, p), (Clusters{{1, {3}}, {3, {3}}}));
  EXPECT_EQ(clusters({2, Sources::all}, p), (Clusters{{1, {3, 3}}, {3, {1, 3}}}));
  EXPECT_EQ(clusters({9, Sources::discarded}, p), (Clusters{{1, {5}}, {3, {5}}}));
}

TEST_F(NearestKeysTest, keys_that_are_not_finite_are_never_absorbed) {
  keys_(2, 0) = nan;
  keys_(6, 1) = std::numeric_limits<double>::infinity();
  EXPECT_EQ(clusters({99, Sources::all}, partition({3}, {1, 2, 4, 5, 6})),
            (Clusters{{3, {1, 4, 5}}}));
  EXPECT_EQ(clusters({99, Sources::all}, partition({2}, {1, 3, 4, 5, 6})), Clusters{});
}

TEST_F(NearestKeysTest, strengths_are_cosines_over_all_heads) {
  const Correlation c =
      correlated(NearestKeys{},
                 tokenfold::Sequence(layout_, tokenfold::Keys(tokenfold::split_heads(keys_, 2))),
                 partition({3}, {1, 5}));
  ASSERT_EQ(c.source_count(), 2);
  EXPECT_NEAR(c.strengths(0)[0], std::sqrt(0.5), 1e-15);
  EXPECT_NEAR(c.strengths(1)[0], -std::sqrt(0.5), 1e-15);
}

TEST(NearestKeysReference, agrees_with_a_sort_of_all_cosines_for_every_storage) {
  Random random(33);
  for (int i = 0; i < 60; ++i) {
    const Index n = 1 + random.below(40);
    const TokenLayout layout = TokenLayout::encoder({1, n}, tokenfold::ClsToken::last);
    const Tensor<double> keys = support::tensor<double>(
        support::normal_matrix<double>(static_cast<std::size_t>(n) + 1, 6, random));
    const Index kept = 1 + random.below(n);
    Partition p = partition(random.sample(kept, n), {});
    for (Token row = 0; row < n; ++row) {
      if (!std::binary_search(p.preserved.begin(), p.preserved.end(), row)) {
        p.discarded.push_back(row);
      }
    }
    const Index k = random.below(12);
    // The same keys as [token][head][dim] and as [head][token][dim].
    std::vector<double> by_head;
    for (Index h = 0; h < 3; ++h) {
      for (Index row = 0; row <= n; ++row) {
        by_head.insert(by_head.end(), {keys(row, 2 * h), keys(row, 2 * h + 1)});
      }
    }
    const tokenfold::HeadsView<const double> heads(by_head.data(), {3, n + 1, 2},
                                                   {2 * (n + 1), 2, 1});
    const NearestKeys stage{k, Sources::all};
    const Correlation joined = correlated(
        stage, tokenfold::Sequence(layout, tokenfold::Keys(tokenfold::split_heads(keys, 3))), p);
    const Correlation apart =
        correlated(stage, tokenfold::Sequence(layout, tokenfold::Keys(heads)), p);
    std::map<Index, std::vector<Index>> expected;
    for (const Token target : p.preserved) {
      std::vector<Index> order;
      for (Index row = 0; row < n; ++row) {
        if (row != target) order.push_back(row);
      }
      std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) {
        return keys.row(a).normalized().dot(keys.row(target)) >
               keys.row(b).normalized().dot(keys.row(target));
      });
      order.resize(static_cast<std::size_t>(std::min(k, n - 1)));
      for (const Index source : order) expected[source].push_back(target);
    }
    for (const Correlation* c : {&joined, &apart}) {
      std::map<Index, std::vector<Index>> actual;
      for (Index s = 0; s < c->source_count(); ++s) {
        actual[c->source(s)] = support::indices(c->targets(s));
      }
      EXPECT_EQ(actual, expected) << "case " << i;
    }
  }
}

// Against a stable sort, with many ties and what is not finite; few columns and many.
template <class T>
void check_highest_of_row() {
  constexpr T infinity = std::numeric_limits<T>::infinity();
  const std::vector<T> special = {T(0),     -T(0),     std::numeric_limits<T>::quiet_NaN(),
                                  infinity, -infinity, std::numeric_limits<T>::denorm_min()};
  Random random(44);
  for (int i = 0; i < 200; ++i) {
    const Index n = 1 + random.below(i % 2 == 0 ? 12 : 300);
    const Index k = random.below(n + 1);
    std::vector<T> values;
    std::vector<Index> expected;
    for (Index c = 0; c < n; ++c) {
      const Index number = random.below(20);
      values.push_back(number < 6 ? special[static_cast<std::size_t>(number)]
                                  : static_cast<T>(number - 13) / 4);
      if (std::isfinite(values.back())) expected.push_back(c);
    }
    std::stable_sort(expected.begin(), expected.end(), [&](Index a, Index b) {
      return values[static_cast<std::size_t>(a)] > values[static_cast<std::size_t>(b)];
    });
    expected.resize(std::min(expected.size(), static_cast<std::size_t>(k)));
    std::sort(expected.begin(), expected.end());
    tokenfold::Workspace workspace;
    tokenfold::detail::HighestOfRow<T> row(k, n, workspace);
    for (int again = 0; again < 2; ++again) {
      for (Index c = 0; c < n; ++c) row.set(c, values[static_cast<std::size_t>(c)]);
      EXPECT_EQ(support::indices(row.find()), expected) << k << " of " << n << ", case " << i;
    }
  }
}
TEST(HighestOfRow, equals_a_stable_sort_in_float) { check_highest_of_row<float>(); }
TEST(HighestOfRow, equals_a_stable_sort_in_double) { check_highest_of_row<double>(); }

}  // namespace
