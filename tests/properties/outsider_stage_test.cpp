// SPDX-License-Identifier: Apache-2.0

// How to bring your own: a filter that reads a resource the library knows nothing of, a target
// policy, a compress stage and an attention source, all written outside the library and put into
// its pipeline.
//
// Nothing is registered, nothing is inherited. A stage is any struct with the right operator(), a
// policy or a source any struct that meets its concept.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdlib>
#include <tokenfold/tokenfold.hpp>
#include <utility>
#include <vector>

#include "support/outcome.hpp"

namespace outsider {

using tokenfold::Budget;
using tokenfold::Correlation;
using tokenfold::Index;
using tokenfold::MatrixView;
using tokenfold::Partition;
using tokenfold::PlanWriter;
using tokenfold::Range;
using tokenfold::Span;
using tokenfold::Token;
using tokenfold::Workspace;

// 1. A resource: a struct with one member, whose name is how stages find it.
struct Features {
  MatrixView<const float> features;  // one row per row of the sequence
};

// 2. The requirement "has features", so that a sequence without them is refused by name at compile
// time.
template <class S>
concept HasFeatures = tokenfold::HasLayout<S> && requires(const S& sequence) {
  { sequence.features.cols() } -> std::same_as<Index>;
};

// 3. A filter: discards the visual tokens of smallest norm. It scores, high = discarded first, and
// leaves counting, ties and order to the library.
struct SmallestNorm {
  template <HasFeatures S>
  void operator()(const S& sequence, const Budget& budget, Partition& partition,
                  Workspace& workspace) const {
    for (const Token row : sequence.layout.visual()) {
      partition.scores.push_back(
          -static_cast<double>(sequence.features.map().row(row).squaredNorm()));
    }
    tokenfold::discard_highest(sequence.layout,
                               budget.discard_count(sequence.layout.visual_count()), partition,
                               workspace);
  }
};

// 4. A target policy: every candidate at least as strong as the average one.
struct AboveAverageTargets {
  void check() const {}

  template <class Choose>
  void operator()(Span<const double> strengths, Choose&& choose, Workspace&) const {
    double sum = 0;
    for (const double strength : strengths) {
      sum += strength;
    }
    for (Index j = 0; j < strengths.size(); ++j) {
      if (strengths[j] * static_cast<double>(strengths.size()) >= sum) {
        choose(j);
      }
    }
  }
};

// 5. A compress stage: keeps half of every target and gives the other half to the plain mean of its
// sources; what was discarded is also averaged into one synthetic token.
struct HalfAndHalf {
  template <tokenfold::HasLayout S>
  void operator()(const S&, const Partition& partition, const Correlation& correlation,
                  PlanWriter& writer, Workspace&) const {
    for (const Token token : partition.preserved) {
      std::vector<Token> sources;
      for (Index i = 0; i < correlation.source_count(); ++i) {
        const Span<const Token> targets = correlation.targets(i);
        if (std::find(targets.begin(), targets.end(), token) != targets.end()) {
          sources.push_back(correlation.source(i));
        }
      }
      writer.begin_row(token);
      writer.add(token, sources.empty() ? 1.0 : 0.5);
      for (const Token source : sources) {
        writer.add(source, 0.5 / static_cast<double>(sources.size()));
      }
    }
    if (!partition.discarded.empty()) {
      writer.begin_extra_row();
      for (const Token token : partition.discarded) {
        writer.add(token, 1.0 / static_cast<double>(partition.discarded.size()));
      }
    }
  }
};

// 6. An attention source: a formula instead of a matrix, A[q, k] ∝ 2^−|q − k|, here without any
// storage.
struct DistanceAttention {
  using Answer = float;
  Index tokens;

  tokenfold::AttentionKind kind() const { return tokenfold::AttentionKind::probabilities; }
  Range queries() const { return {0, tokens}; }
  Range keys() const { return {0, tokens}; }

  float operator()(Index query, Index key) const {
    float total = 0;
    for (Index k = 0; k < tokens; ++k) {
      total += std::exp2(-static_cast<float>(std::abs(query - k)));
    }
    return std::exp2(-static_cast<float>(std::abs(query - key))) / total;
  }
  void received(Range queries, Span<const float> weights, Range keys, Span<float> out,
                Workspace&) const {
    for (Index k = 0; k < keys.size(); ++k) {
      out[k] = 0;
      for (Index q = 0; q < queries.size(); ++q) {
        out[k] += weights[q] * (*this)(queries.begin + q, keys.begin + k);
      }
    }
  }
  void given(Range queries, Range keys, Span<const float> weights, Span<float> out,
             Workspace&) const {
    for (Index q = 0; q < queries.size(); ++q) {
      out[q] = 0;
      for (Index k = 0; k < keys.size(); ++k) {
        out[q] += (*this)(queries.begin + q, keys.begin + k) * weights[k];
      }
    }
  }
  void rows(Span<const Token> rows, Range keys, MatrixView<float> out, Workspace&) const {
    for (Index i = 0; i < rows.size(); ++i) {
      for (Index k = 0; k < keys.size(); ++k) {
        out(i, k) = (*this)(rows[i], keys.begin + k);
      }
    }
  }
};

// 7. The method: one's own stages among the library's.
using Method =
    tokenfold::Pipeline<SmallestNorm, tokenfold::correlate::DirectAttention<AboveAverageTargets>,
                        HalfAndHalf>;

// What the library asks of them, checked where they are written.
static_assert(tokenfold::AttentionSource<DistanceAttention>);
static_assert(tokenfold::correlate::TargetPolicy<AboveAverageTargets>);
using FullSequence = tokenfold::Sequence<tokenfold::Attention<DistanceAttention>, Features>;
static_assert(tokenfold::Filter<SmallestNorm, FullSequence>);
static_assert(!tokenfold::Filter<SmallestNorm, tokenfold::Sequence<>>);
static_assert(tokenfold::Compress<HalfAndHalf, FullSequence>);

}  // namespace outsider

namespace {

using outsider::DistanceAttention;
using support::Tensor;
using tokenfold::Budget;
using tokenfold::Index;
using tokenfold::no_token;
using tokenfold::TokenLayout;

TEST(OutsiderStage, own_stages_and_resources_work_in_a_pipeline) {
  const TokenLayout layout = TokenLayout::encoder({1, 4});
  Tensor<float> features(5, 1);
  features << 9, 4, 1, 2, 3;  // [CLS], then the patches
  const DistanceAttention attention{5};
  const tokenfold::Sequence sequence(layout, attention, outsider::Features{features});

  const tokenfold::ReductionPlan plan = outsider::Method{}.plan(sequence, Budget::keep(2));

  // Patches in rows 2 and 3 have the smallest norm. Row 2 is as far from 1 as half of what it is
  // from 4; only the nearer target of each is above the average.
  EXPECT_EQ(support::indices(plan.kept()), (std::vector<Index>{0, 1, 4, no_token}));
  EXPECT_TRUE(support::close(support::dense_weights(plan).values, {1, 0,   0,   0,   0,    //
                                                                   0, 0.5, 0.5, 0,   0,    //
                                                                   0, 0,   0,   0.5, 0.5,  //
                                                                   0, 0,   0.5, 0.5, 0},
                             1e-6));
  const reference::Matrix shorter =
      support::apply<float>(plan, reference::Matrix(5, 1, {9, 4, 1, 2, 3}));
  EXPECT_TRUE(support::close(shorter.values, {9, 2.5, 2.5, 1.5}));
}

TEST(OutsiderStage, own_attention_serves_the_library_methods) {
  const TokenLayout layout = TokenLayout::encoder({3, 3});
  const DistanceAttention attention{10};
  Tensor<float> stored(10, 10);
  for (Index q = 0; q < 10; ++q) {
    for (Index k = 0; k < 10; ++k) stored(q, k) = attention(q, k);
  }
  const auto from_formula =
      tokenfold::FiCoCoV{}.plan(tokenfold::Sequence(layout, attention), Budget::discard(4));
  const auto from_matrix = tokenfold::FiCoCoV{}.plan(
      tokenfold::Sequence(layout, tokenfold::head_mean_attention(stored)), Budget::discard(4));
  EXPECT_EQ(support::indices(from_formula.kept()), support::indices(from_matrix.kept()));
  EXPECT_TRUE(support::close(support::dense_weights(from_formula).values,
                             support::dense_weights(from_matrix).values));
}

// A struct of one's own is a sequence too, if it has the members that the stages read.
TEST(OutsiderStage, any_struct_with_the_right_members_is_a_sequence) {
  struct EngineLayer {
    const TokenLayout& layout;
    DistanceAttention attention;
    tokenfold::MatrixView<const float> features;
  };
  const TokenLayout layout = TokenLayout::encoder({1, 4});
  Tensor<float> features(5, 1);
  features << 9, 4, 1, 2, 3;
  const EngineLayer layer{layout, {5}, features};
  const auto plan = outsider::Method{}.plan(layer, Budget::keep(2));
  EXPECT_EQ(support::indices(plan.kept()), (std::vector<Index>{0, 1, 4, no_token}));
}

// A faulty stage is refused instead of believed.
struct Faulty {
  tokenfold::Partition decision;

  template <tokenfold::HasLayout S>
  void operator()(const S&, const Budget&, tokenfold::Partition& partition,
                  tokenfold::Workspace&) const {
    partition = decision;
  }
};

TEST(OutsiderStage, a_faulty_filter_is_refused) {
  const TokenLayout layout = TokenLayout::encoder({1, 4});
  const auto message = [&](std::vector<tokenfold::Token> preserved,
                           std::vector<tokenfold::Token> discarded) {
    using Method = tokenfold::Pipeline<Faulty, tokenfold::correlate::DirectAttention<>,
                                       tokenfold::compress::SelfPreserving>;
    Method method;
    method.filter.decision.preserved = std::move(preserved);
    method.filter.decision.discarded = std::move(discarded);
    return support::refusal([&] {
      (void)method.plan(tokenfold::Sequence(layout, DistanceAttention{5}), Budget::keep(2));
    });
  };
  EXPECT_EQ(message({0, 1}, {2}), "filter: preserved row 0 is not a visual token");
  EXPECT_EQ(message({1}, {5}), "filter: discarded row 5 is not a visual token");
  EXPECT_EQ(message({1}, {-1}), "filter: discarded row -1 is not a visual token");
  EXPECT_EQ(message({1, 2}, {2}), "filter: row 2 is discarded twice or also preserved");
  EXPECT_EQ(message({1}, {2, 2}), "filter: row 2 is discarded twice or also preserved");
}

struct BadWeight {
  tokenfold::Token row;
  tokenfold::Token column;
  double weight;

  template <tokenfold::HasLayout S>
  void operator()(const S&, const tokenfold::Partition&, const tokenfold::Correlation&,
                  tokenfold::PlanWriter& writer, tokenfold::Workspace&) const {
    writer.begin_row(row);
    writer.add(column, weight);
  }
};

TEST(OutsiderStage, a_faulty_compress_stage_is_refused) {
  const TokenLayout layout = TokenLayout::encoder({1, 4});
  const Tensor<float> features = Tensor<float>::Ones(5, 1);
  const auto message = [&](BadWeight compress) {
    using Method = tokenfold::Pipeline<outsider::SmallestNorm,
                                       tokenfold::correlate::DirectAttention<>, BadWeight>;
    return support::refusal([&] {
      (void)Method{.compress = compress}.plan(
          tokenfold::Sequence(layout, DistanceAttention{5}, outsider::Features{features}),
          Budget::keep(2));
    });
  };
  EXPECT_EQ(message({0, 1, 1}), "compress: row 0 is not a visual token");
  EXPECT_EQ(message({1, 9, 1}), "compress: row 9 is not a visual token");
  EXPECT_EQ(message({1, 2, std::nan("")}), "compress: the weight of row 2 is not finite");
  EXPECT_EQ(message({1, 2, 1e39}), "compress: the weight of row 2 is not finite");
}

}  // namespace
