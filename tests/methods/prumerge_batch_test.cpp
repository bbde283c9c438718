// SPDX-License-Identifier: Apache-2.0

// PruMerge's rule for batches: one fence and one share of outliers for all images.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <tokenfold/batch.hpp>
#include <tokenfold/std_threads.hpp>
#include <tokenfold/tokenfold.hpp>
#include <vector>

#include "reference/prumerge.hpp"
#include "support/outcome.hpp"
#include "support/random.hpp"

namespace {

using support::Random;
using support::Tensor;
using tokenfold::Batch;
using tokenfold::Budget;
using tokenfold::Index;
using tokenfold::ItemsFrom;
using tokenfold::PruMerge;
using tokenfold::TokenLayout;
using tokenfold::TokenOrder;
using tokenfold::Workspace;
using tokenfold::filter::batch_outlier_share;
using tokenfold::filter::OutlierCount;
using tokenfold::filter::OutlierShare;
using tokenfold::filter::RasterSamples;

using Rows = std::vector<Index>;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

// --- by hand: [CLS] rows of attention as given --------------------------------------------------

class GivenRows {
 public:
  explicit GivenRows(const std::vector<std::vector<double>>& images) {
    for (const std::vector<double>& a : images) {
      const auto n = static_cast<Index>(a.size());
      layouts_.push_back(TokenLayout::encoder({1, n}, tokenfold::ClsToken::last));
      rows_.emplace_back(Tensor<double>::Zero(1, n + 1));
      std::copy(a.begin(), a.end(), rows_.back().data());
      keys_.emplace_back(Tensor<double>::Ones(n + 1, 2));
    }
  }
  auto sequence(Index i) const {
    const auto u = static_cast<std::size_t>(i);
    return tokenfold::Sequence(
        layouts_[u],
        tokenfold::head_mean_attention(rows_[u], {.first_query = layouts_[u].tokens() - 1}),
        tokenfold::Keys(tokenfold::split_heads(keys_[u], 1)));
  }
  auto sequences() const {
    return ItemsFrom(static_cast<Index>(rows_.size()), [this](Index i) { return sequence(i); });
  }
  OutlierShare share(const tokenfold::filter::AttentionOutliers& filter = {}) const {
    Workspace workspace;
    return batch_outlier_share(filter, sequences(), workspace);
  }
  // Per image, which patches are preserved.
  std::vector<Rows> preserved(tokenfold::filter::AttentionOutliers filter) const {
    filter.batch_share = share(filter);
    std::vector<Rows> result;
    for (Index i = 0; i < static_cast<Index>(rows_.size()); ++i) {
      Workspace workspace;
      tokenfold::Partition partition;
      filter(sequence(i), Budget::adaptive(), partition, workspace);
      result.push_back(support::indices(partition.preserved));
    }
    return result;
  }

 private:
  std::vector<TokenLayout> layouts_;
  std::vector<Tensor<double>> rows_;
  std::vector<Tensor<double>> keys_;
};

TEST(PruMergeBatch, one_fence_and_one_share) {
  // Together: Q1 = 2, Q3 = 3, fence 4.5, so 2 outliers of 16 tokens, both in the first image. Each
  // image of 8 keeps 8 · 2 / 16 = 1.
  const GivenRows images({{1, 2, 3, 100, 90, 1, 2, 3}, {2, 2, 2, 2, 2, 2, 3, 1}});
  EXPECT_EQ(images.share().outliers, 2);
  EXPECT_EQ(images.share().tokens, 16);
  EXPECT_EQ(images.preserved({}), (std::vector<Rows>{{3}, {6}}));
}

TEST(PruMergeBatch, images_of_different_sizes_keep_the_same_share) {
  // Q1 = 1, Q3 = 1 + (9 - 1) / 4, fence 6: the six 9s are outliers, a quarter of the 24 tokens.
  const GivenRows images({{9, 9, 9, 9}, std::vector<double>(12, 1), {1, 1, 9, 9, 1, 1, 1}, {1}});
  EXPECT_EQ(images.share().outliers, 6);
  EXPECT_EQ(images.share().tokens, 24);
  EXPECT_EQ(images.preserved({.min_tokens = 0}), (std::vector<Rows>{{0}, {0, 1, 2}, {2}, {}}));
  EXPECT_EQ(images.preserved({}), (std::vector<Rows>{{0}, {0, 1, 2}, {2}, {0}}));
  EXPECT_EQ(images.preserved({.max_tokens = 2}), (std::vector<Rows>{{0}, {0, 1}, {2}, {0}}));
}

TEST(PruMergeBatch, truncated_counts_round_in_double) {
  // Two images of 98 tokens, 8 outliers in all: exactly 4 each, but int(98 · (8 / 196.0)) = 3.
  std::vector<double> a(98, 1.0);
  std::fill_n(a.begin(), 4, 9.0);
  const GivenRows images({a, a});
  EXPECT_EQ(images.preserved({})[0].size(), 4u);
  EXPECT_EQ(images.preserved({.count = OutlierCount::truncated})[0].size(), 3u);
}

TEST(PruMergeBatch, scores_that_are_not_finite_count_as_tokens_alone) {
  const GivenRows images({{1, nan, 9, 1, 1, 1}, {nan, nan, nan, nan}, {1, 1, 1, 1, 1, 1}});
  EXPECT_EQ(images.share().outliers, 1);
  EXPECT_EQ(images.share().tokens, 16);
  EXPECT_EQ(images.preserved({}), (std::vector<Rows>{{2}, {0}, {0}}));
}

TEST(PruMergeBatch, no_outlier_and_no_image) {
  EXPECT_EQ(GivenRows({{1, 1, 1}, {1, 1}}).share().outliers, 0);
  EXPECT_EQ(GivenRows({{1, 1, 1}, {1, 1}}).preserved({.samples = RasterSamples::triple}),
            (std::vector<Rows>{{0, 1}, {0}}));
  EXPECT_EQ(GivenRows({}).share().tokens, 0);
}

TEST(PruMergeBatch, refusals) {
  const GivenRows images({{1, 2, 3}});
  const auto message = [&](const PruMerge& method, const Budget& budget) {
    return support::refusal([&] { (void)method.plan(images.sequence(0), budget); });
  };
  EXPECT_EQ(message({.filter = {.batch_share = {1, 3}}, .correlate = {}, .compress = {}},
                    Budget::keep(1)),
            "prumerge: batch_share needs an adaptive budget");
  EXPECT_EQ(message({.filter = {.batch_share = {4, 3}}, .correlate = {}, .compress = {}},
                    Budget::adaptive()),
            "prumerge: batch_share cannot be 4 outliers of 3 tokens");
  EXPECT_EQ(message({.filter = {.batch_share = {-1, 3}}, .correlate = {}, .compress = {}},
                    Budget::adaptive()),
            "prumerge: batch_share cannot be -1 outliers of 3 tokens");
  const TokenLayout no_cls = TokenLayout::decoder(1, 2, 0);
  const Tensor<double> row = Tensor<double>::Ones(3, 3);
  const std::vector sequences(2, tokenfold::Sequence(no_cls, tokenfold::head_mean_attention(row)));
  Workspace workspace;
  EXPECT_EQ(support::refusal([&] { (void)batch_outlier_share({}, sequences, workspace); }),
            "prumerge: the layout has no [CLS] row");
  EXPECT_EQ(support::refusal(
                [&] { (void)batch_outlier_share({.fence = -1}, images.sequences(), workspace); }),
            "prumerge: fence must not be negative, got -1");
}

// --- random images against a naive count ---------------------------------------------------------

struct Image {
  TokenLayout layout;
  reference::PruMergeInput input;
  Tensor<double> keys;
  Tensor<double> query;

  Image(Index n, Random& random) : layout(TokenLayout::encoder({1, n})) {
    input.tokens = reference::Matrix(static_cast<std::size_t>(n + 1), 1);
    input.keys = support::normal_matrix<double>(static_cast<std::size_t>(n + 1), 4, random);
    // Images of very different sharpness, or all shares would be alike.
    const auto q = support::normal_matrix<double>(1, 4, random, 0.5 + 3 * random.uniform());
    input.cls_query = q.values;
    for (std::size_t row = 1; row <= static_cast<std::size_t>(n); ++row) {
      input.patch_rows.push_back(row);
    }
    keys = support::tensor<double>(input.keys);
    query = support::tensor<double>(q);
  }
  auto sequence() const {
    return tokenfold::Sequence(
        layout, tokenfold::QueryKeyAttention<double>(tokenfold::split_heads(query, 2),
                                                     tokenfold::split_heads(keys, 2)));
  }
};

// The rows that every image keeps, from the release's description alone.
std::vector<Rows> naive(const std::vector<Image>& images, const PruMerge& method,
                        bool& determined) {
  std::vector<std::vector<double>> scores;
  std::vector<double> flat;
  for (const Image& image : images) {
    scores.push_back(
        reference::prumerge_attention(image.input, reference::PruMergeAttention::full_width));
    flat.insert(flat.end(), scores.back().begin(), scores.back().end());
  }
  const double fence = reference::upper_fence(flat, method.filter.fence);
  std::size_t outliers = 0;
  for (const double a : flat) {
    outliers += a > fence ? 1 : 0;
    if (std::abs(a - fence) < 1e-10 * fence) determined = false;
  }
  const bool truncated = method.filter.count == OutlierCount::truncated;
  const double ratio = static_cast<double>(outliers) / static_cast<double>(flat.size());

  std::vector<Rows> kept;
  for (const std::vector<double>& a : scores) {
    const std::size_t n = a.size();
    std::size_t top = truncated ? static_cast<std::size_t>(static_cast<double>(n) * ratio)
                                : n * outliers / flat.size();
    std::size_t step = outliers == 0 ? 0
                       : truncated   ? static_cast<std::size_t>(1 / ratio)
                                     : flat.size() / outliers;
    const auto least = static_cast<std::size_t>(method.filter.min_tokens);
    if (top < least) {  // the library's: as many samples as so many outliers would bring
      top = std::min(least, n);
      step = truncated
                 ? static_cast<std::size_t>(1 / (static_cast<double>(top) / static_cast<double>(n)))
                 : n / top;
    }
    reference::Rows patches = reference::best_first(a);
    patches.resize(top);
    const auto plus = method.filter.samples == RasterSamples::none ? reference::PruMergePlus::off
                      : method.filter.samples == RasterSamples::once
                          ? reference::PruMergePlus::once
                          : reference::PruMergePlus::three_times;
    if (top > 0) {
      for (const std::size_t p :
           reference::raster_samples(n, step, plus, reference::PruMergeBudget::adaptive)) {
        if (std::find(patches.begin(), patches.end(), p) == patches.end()) patches.push_back(p);
      }
    }
    if (method.filter.order == TokenOrder::raster) std::sort(patches.begin(), patches.end());
    kept.push_back({0});  // [CLS]
    for (const std::size_t p : patches) kept.back().push_back(static_cast<Index>(p) + 1);
    if (method.compress.extra_token && patches.size() < n)
      kept.back().push_back(tokenfold::no_token);
  }
  return kept;
}

std::vector<PruMerge> presets() {
  PruMerge none = tokenfold::prumerge_released();
  none.filter.min_tokens = 0;
  PruMerge five = tokenfold::prumerge_plus();
  five.filter.min_tokens = 5;
  return {{},
          tokenfold::prumerge_released(),
          tokenfold::prumerge_plus(),
          tokenfold::prumerge_plus_released(),
          tokenfold::prumerge_plus_published(),
          none,
          five};
}

TEST(PruMergeBatch, agrees_with_a_naive_count) {
  Random random(31);
  int determined = 0;
  int different = 0;
  Batch batch;
  Workspace workspace;
  for (int trial = 0; trial < 210 && !HasFailure(); ++trial) {
    SCOPED_TRACE(trial);
    std::vector<Image> images;
    const Index count = 1 + random.below(6);
    const Index common = 1 + random.below(60);
    for (Index i = 0; i < count; ++i) {
      images.emplace_back(trial % 2 == 0 ? common : 1 + random.below(60), random);
    }
    std::vector<decltype(images[0].sequence())> sequences;
    for (const Image& image : images) sequences.push_back(image.sequence());

    PruMerge method = presets()[static_cast<std::size_t>(trial) % presets().size()];
    bool is_determined = true;
    const std::vector<Rows> expected = naive(images, method, is_determined);
    if (!is_determined) continue;
    ++determined;
    batch.plan(method, sequences, Budget::adaptive());
    std::vector<Rows> one_by_one;
    for (const auto& plan : batch.plans()) one_by_one.push_back(support::indices(plan.kept()));
    method.filter.batch_share = batch_outlier_share(method.filter, sequences, workspace);
    batch.plan(method, sequences, Budget::adaptive(), tokenfold::StdThreads{2});
    for (Index i = 0; i < count; ++i) {
      EXPECT_EQ(support::indices(batch[i].kept()), expected[static_cast<std::size_t>(i)]);
    }
    different += one_by_one != expected ? 1 : 0;
  }
  EXPECT_GT(determined, 200);
  EXPECT_GT(different, 50) << "the batch's share hardly ever differs from the image's own";
}

TEST(PruMergeBatch, a_batch_of_one_is_the_image_alone) {
  Random random(32);
  Workspace workspace;
  for (int trial = 0; trial < 350; ++trial) {
    SCOPED_TRACE(trial);
    const Image image(1 + random.below(150), random);
    PruMerge method = presets()[static_cast<std::size_t>(trial) % presets().size()];
    if (trial % 3 == 0) method.filter.max_tokens = 1 + random.below(30);
    const auto alone = method.plan(image.sequence(), Budget::adaptive());
    const ItemsFrom one(1, [&](Index) { return image.sequence(); });
    method.filter.batch_share = batch_outlier_share(method.filter, one, workspace);
    const auto batched = method.plan(image.sequence(), Budget::adaptive());
    ASSERT_EQ(support::indices(batched.kept()), support::indices(alone.kept()));
    ASSERT_EQ(support::dense_weights(batched).values, support::dense_weights(alone).values);
  }
}

}  // namespace
