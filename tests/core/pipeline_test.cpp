// SPDX-License-Identifier: Apache-2.0
#include "tokenfold/core/pipeline.hpp"

#include <gtest/gtest.h>

#include "core/support.hpp"
#include "tokenfold/core/dense_attention.hpp"
#include "tokenfold/core/query_key_attention.hpp"

namespace {

using core_test::expect_error;
using core_test::Numbers;
using core_test::numbers;
using core_test::RowMajor;
using tokenfold::Budget;
using tokenfold::Correlation;
using tokenfold::head_mean_attention;
using tokenfold::Index;
using tokenfold::Keys;
using tokenfold::Partition;
using tokenfold::Pipeline;
using tokenfold::PlanWriter;
using tokenfold::QueryKeyAttention;
using tokenfold::ReductionPlan;
using tokenfold::Sequence;
using tokenfold::split_heads;
using tokenfold::Token;
using tokenfold::TokenLayout;
using tokenfold::Workspace;

/// A filter that says what it was told.
struct Says {
  std::vector<Token> preserved;
  std::vector<Token> discarded;

  template <class S>
  void operator()(const S&, const Budget&, Partition& partition, Workspace&) const {
    partition.preserved = preserved;
    partition.discarded = discarded;
  }
};
/// Ties every discarded token to the first preserved one.
struct ToFirst {
  template <class S>
  void operator()(const S&, const Partition& partition, Correlation& correlation,
                  Workspace&) const {
    for (const Token row : partition.discarded) {
      correlation.begin_source(row);
      correlation.link(partition.preserved.front(), 0.5);
    }
  }
};
struct Adds {
  template <class S>
  void operator()(const S&, const Partition& partition, const Correlation& correlation,
                  PlanWriter& writer, Workspace&) const {
    for (const Token row : partition.preserved) {
      writer.begin_row(row);
      writer.add(row, 1);
      for (Index i = 0; i < correlation.source_count(); ++i) {
        for (Index link = 0; link < correlation.targets(i).size(); ++link) {
          if (correlation.targets(i)[link] == row) {
            writer.add(correlation.source(i), correlation.strengths(i)[link]);
          }
        }
      }
    }
  }
};
using Method = Pipeline<Says, ToFirst, Adds>;
static_assert(tokenfold::Filter<Says, Sequence<>>);
static_assert(tokenfold::Correlate<ToFirst, Sequence<>>);
static_assert(tokenfold::Compress<Adds, Sequence<>>);
static_assert(!tokenfold::Filter<Adds, Sequence<>>);

TEST(PipelineTest, stages_run_one_after_another) {
  const auto layout = TokenLayout::decoder(1, 4, 1);
  const Method method{.filter = {{1, 3}, {2, 4}}, .correlate = {}, .compress = {}};
  Workspace workspace;
  ReductionPlan plan;
  for (int repeat = 0; repeat < 2; ++repeat) {
    method.plan(Sequence(layout), Budget::keep(2), workspace, plan);
    EXPECT_EQ(numbers(plan.kept()), (Numbers{0, 1, 3, 5}));
    EXPECT_EQ(numbers(plan.columns()), (Numbers{0, 1, 2, 4, 3, 5}));
    EXPECT_EQ(workspace.partition.discarded, (std::vector<Token>{2, 4}));
    EXPECT_EQ(workspace.correlation.source_count(), 2);
    EXPECT_EQ(workspace.correlation.link_count(), 2);
  }
  const ReductionPlan same = method.plan(Sequence(layout), Budget::keep(2));
  EXPECT_EQ(numbers(same.columns()), numbers(plan.columns()));
}

TEST(PipelineTest, faulty_filters_are_refused) {
  const auto layout = TokenLayout::decoder(1, 4, 1);
  const auto run = [&](std::vector<Token> preserved, std::vector<Token> discarded) {
    const Method method{.filter = {preserved, discarded}, .correlate = {}, .compress = {}};
    method.plan(Sequence(layout), Budget::keep(2));
  };
  run({1, 2}, {3});     // row 4 vanishes
  run({1, 1, 2}, {3});  // row 1 twice, as PruMerge's released code does
  for (const Token row : {0, 5, -1, 6}) {
    const std::string number = std::to_string(row);
    expect_error([&] { run({row}, {1}); },
                 "filter: preserved row " + number + " is not a visual token");
    expect_error([&] { run({1}, {row}); },
                 "filter: discarded row " + number + " is not a visual token");
  }
  expect_error([&] { run({1, 2}, {2}); }, "filter: row 2 is discarded twice or also preserved");
  expect_error([&] { run({1}, {2, 2}); }, "filter: row 2 is discarded twice or also preserved");
}

TEST(CorrelationTest, links_are_kept_by_source) {
  Correlation c;
  EXPECT_EQ(c.source_count(), 0);
  c.begin_source(4);
  c.link(1, 0.5);
  c.link(2, 0.25);
  c.begin_source(7);
  c.begin_source(5);
  c.link(1, 1);
  EXPECT_EQ(c.source_count(), 3);
  EXPECT_EQ(c.link_count(), 3);
  EXPECT_EQ(c.source(1), 7);
  EXPECT_EQ(numbers(c.targets(0)), (Numbers{1, 2}));
  EXPECT_TRUE(c.targets(1).empty());
  EXPECT_EQ(c.strengths(2)[0], 1.0);
  c.clear();
  EXPECT_EQ(c.link_count(), 0);
}

TEST(SequenceTest, resources_are_found_by_name) {
  const auto layout = TokenLayout::encoder({1, 2});
  const RowMajor<float> keys = RowMajor<float>::Ones(3, 4);
  const RowMajor<float> mean = RowMajor<float>::Ones(3, 3);
  const auto dense = head_mean_attention(mean);
  const QueryKeyAttention qk(split_heads(keys, 2), split_heads(keys, 2));
  const Sequence bare(layout);
  const Sequence with_dense(layout, dense);
  const Sequence with_both(layout, dense, Keys(split_heads(keys, 2)));
  const Sequence with_qk(layout, qk);
  EXPECT_EQ(&with_both.layout, &layout);
  static_assert(!tokenfold::HasAttention<decltype(bare)> && !tokenfold::HasKeys<decltype(bare)>);
  static_assert(tokenfold::HasAttention<decltype(with_dense)>);
  static_assert(!tokenfold::HasKeys<decltype(with_dense)>);
  static_assert(tokenfold::HasAttention<decltype(with_both)>);
  static_assert(tokenfold::HasKeys<decltype(with_both)>);
  static_assert(tokenfold::HasAttention<decltype(with_qk)>);
  static_assert(tokenfold::HasKeys<decltype(with_qk)>);
  EXPECT_EQ(keys_of(with_both).data(), keys.data());
  EXPECT_EQ(keys_of(with_qk).data(), keys.data());
}

TEST(SequenceTest, a_callers_own_struct_serves_as_well) {
  struct Mine {
    TokenLayout layout;
    tokenfold::HeadsView<const float> keys;
  };
  static_assert(tokenfold::HasLayout<Mine>);
  static_assert(tokenfold::HasKeys<Mine>);
  static_assert(!tokenfold::HasAttention<Mine>);
  static_assert(!tokenfold::HasLayout<int>);
}

TEST(SequenceTest, keys_must_be_one_per_token) {
  const auto layout = TokenLayout::encoder({1, 3});
  const RowMajor<float> keys = RowMajor<float>::Ones(3, 4);
  const Sequence sequence(layout, Keys(split_heads(keys, 2)));
  expect_error([&] { keys_of(sequence); }, "sequence: 3 keys were given for 4 tokens");
}

}  // namespace
