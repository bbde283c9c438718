// SPDX-License-Identifier: Apache-2.0
// Stages of different methods in one pipeline, each against its parts computed alone.

#include "tokenfold/methods/combinations.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "support/outcome.hpp"
#include "tokenfold/tokenfold.hpp"

namespace {

using support::Random;
using support::Tensor;
using tokenfold::Budget;
using tokenfold::Index;
using tokenfold::ReductionPlan;
using tokenfold::Token;
using tokenfold::TokenLayout;

constexpr Index patches = 30;
constexpr Index keep = 8;

struct Image {
  explicit Image(std::uint64_t seed) : random(seed) {
    features = draw(patches + 1, 12);
    queries = draw(patches + 1, 16);
    keys = draw(patches + 1, 16);
    relevance.resize(patches + 1);
    for (double& value : relevance) value = random.uniform();
  }
  Tensor<double> draw(Index rows, Index cols) {
    return support::tensor<double>(support::normal_matrix<double>(
        static_cast<std::size_t>(rows), static_cast<std::size_t>(cols), random));
  }
  auto attention() const {
    return tokenfold::QueryKeyAttention(tokenfold::split_heads(queries, 2),
                                        tokenfold::split_heads(keys, 2));
  }

  Random random;
  TokenLayout layout = TokenLayout::encoder({5, 6});
  Tensor<double> features, queries, keys;
  std::vector<double> relevance;
};

bool contains(tokenfold::Span<const Token> rows, Index row) {
  return std::find(rows.begin(), rows.end(), static_cast<Token>(row)) != rows.end();
}

double cosine(const Tensor<double>& x, Index i, Index j) {
  return x.row(i).dot(x.row(j)) / (x.row(i).norm() * x.row(j).norm());
}

/// What a plan should be: rows of W by output row, from links source → target with weights and the
/// target's own part 1.
struct Expected {
  explicit Expected(const ReductionPlan& plan)
      : kept(plan.kept().begin(), plan.kept().end()), w(plan.output_tokens(), patches + 1) {
    w.setZero();
    for (std::size_t r = 0; r < kept.size(); ++r) w(static_cast<Index>(r), kept[r]) = 1;
  }
  void link(Index source, Index target, double weight) {
    const auto found = std::find(kept.begin(), kept.end(), static_cast<Token>(target));
    w(found - kept.begin(), source) += weight;
  }
  void normalise() {
    for (Index r = 0; r < w.rows(); ++r) w.row(r) /= w.row(r).sum();
  }
  void expect(const ReductionPlan& plan) const {
    EXPECT_EQ(std::vector<Token>(plan.kept().begin(), plan.kept().end()), kept);
    const reference::Matrix actual = support::dense_weights(plan);
    for (Index r = 0; r < w.rows(); ++r) {
      for (Index c = 0; c < w.cols(); ++c) {
        EXPECT_NEAR(actual(static_cast<std::size_t>(r), static_cast<std::size_t>(c)), w(r, c), 1e-6)
            << r << ", " << c;
      }
    }
  }

  std::vector<Token> kept;
  Tensor<double> w;
};

TEST(Combinations, cdpruner_merging_averages_into_the_most_similar) {
  const Image image(1);
  const tokenfold::Sequence sequence(image.layout, tokenfold::Features(image.features),
                                     tokenfold::Relevance(image.relevance));
  const ReductionPlan chosen = tokenfold::CDPruner{}.plan(sequence, Budget::keep(keep));
  Expected expected(chosen);
  for (Index i = 1; i <= patches; ++i) {
    if (contains(chosen.kept(), i)) continue;
    Index best = -1;
    for (const Token k : chosen.kept()) {
      if (k != 0 && (best < 0 || cosine(image.features, i, k) > cosine(image.features, i, best))) {
        best = k;
      }
    }
    expected.link(i, best, 1);
  }
  expected.normalise();
  expected.expect(tokenfold::CDPrunerMerging{}.plan(sequence, Budget::keep(keep)));
}

TEST(Combinations, divprune_ficoco_recycles_along_attention) {
  const Image image(2);
  const tokenfold::Sequence sequence(image.layout, image.attention(),
                                     tokenfold::Features(image.features));
  const ReductionPlan chosen = tokenfold::DivPrune{}.plan(sequence, Budget::keep(keep));
  Tensor<double> attention(patches + 1, patches + 1);
  std::vector<Token> all;
  for (Token row = 0; row <= patches; ++row) all.push_back(row);
  tokenfold::Workspace workspace;
  image.attention().rows(all, {0, patches + 1}, attention, workspace);
  Expected expected(chosen);
  for (Index i = 1; i <= patches; ++i) {
    if (contains(chosen.kept(), i)) continue;
    Index best = -1;  // the 0.998-quantile of eight strengths leaves the strongest
    for (const Token k : chosen.kept()) {
      if (k != 0 && (best < 0 || attention(i, k) > attention(i, best))) best = k;
    }
    expected.link(i, best, 1);
  }
  expected.normalise();
  expected.expect(tokenfold::DivPruneFiCoCo{}.plan(sequence, Budget::keep(keep)));
}

TEST(Combinations, prumerge_ficoco_shares_each_discarded_token_out) {
  const Image image(3);
  const tokenfold::Sequence sequence(image.layout, image.attention());
  tokenfold::PruMergeFiCoCo method = tokenfold::prumerge_ficoco();
  method.correlate.neighbours = 6;
  tokenfold::PruMerge plain;
  plain.compress.extra_token = false;
  const ReductionPlan chosen = plain.plan(sequence, Budget::keep(keep));

  // Each preserved token picks its six most similar discarded ones; each of those is shared out
  // among who picked it, in proportion to the (positive) cosines.
  std::vector<std::vector<std::pair<Index, double>>> takers(patches + 1);
  for (const Token k : chosen.kept()) {
    if (k == 0) continue;
    std::vector<Index> others;
    for (Index i = 1; i <= patches; ++i) {
      if (!contains(chosen.kept(), i)) others.push_back(i);
    }
    std::sort(others.begin(), others.end(), [&](Index a, Index b) {
      return cosine(image.keys, a, k) > cosine(image.keys, b, k);
    });
    for (std::size_t n = 0; n < 6; ++n) {
      const double similarity = cosine(image.keys, others[n], k);
      if (similarity > 0) {
        takers[static_cast<std::size_t>(others[n])].emplace_back(k, similarity);
      }
    }
  }
  Expected expected(chosen);
  bool shared = false;
  for (Index i = 1; i <= patches; ++i) {
    const auto& mine = takers[static_cast<std::size_t>(i)];
    double total = 0;
    for (const auto& [target, similarity] : mine) total += similarity;
    for (const auto& [target, similarity] : mine) expected.link(i, target, similarity / total);
    shared = shared || mine.size() > 1;
  }
  ASSERT_TRUE(shared);
  for (Index r = 0; r < expected.w.rows(); ++r) {  // at most half of a token is recycled
    const double recycled = expected.w.row(r).sum() - 1;
    const double scale = recycled > 1 ? 1 / recycled : 1;
    const Token own = expected.kept[static_cast<std::size_t>(r)];
    expected.w.row(r) *= scale;
    expected.w(r, own) = 1;
  }
  expected.normalise();
  const ReductionPlan plan = method.plan(sequence, Budget::keep(keep));
  expected.expect(plan);
  EXPECT_EQ(plan.extra_tokens(), 0);
}

TEST(Combinations, any_filter_goes_with_any_compression) {
  const Image image(4);
  const tokenfold::Sequence sequence(image.layout, image.attention(),
                                     tokenfold::Features(image.features));
  const auto rows = [&](const auto& method) {
    const ReductionPlan plan = method.plan(sequence, Budget::keep(keep));
    for (const float weight : plan.weights()) EXPECT_TRUE(std::isfinite(weight));
    return plan.visual().size();
  };
  namespace tf = tokenfold;
  EXPECT_EQ(rows(tf::Pipeline<tf::filter::UniformSamples, tf::correlate::MostSimilarKeys,
                              tf::compress::AddMean>{}),
            keep);
  EXPECT_EQ(rows(tf::Pipeline<tf::filter::VisionRedundancy, tf::correlate::MostSimilarFeatures,
                              tf::compress::SizeWeightedMean>{}),
            keep);
  EXPECT_EQ(rows(tf::Pipeline<tf::filter::VisionRedundancy, tf::correlate::None,
                              tf::compress::FuseDiscarded>{}),
            keep + 1);
  EXPECT_EQ(rows(tf::Pipeline<tf::filter::ClsAttention, tf::correlate::DensityPeaks,
                              tf::compress::ClusterTokens>{}),
            keep + 1);
  EXPECT_EQ(rows(tf::Pipeline<tf::filter::BipartiteSimilarity, tf::correlate::DirectAttention<>,
                              tf::compress::SelfPreserving>{{.clamp = true}}),
            patches / 2);
}

}  // namespace
