// SPDX-License-Identifier: Apache-2.0

// PruMerge and PruMerge+ against the naive reference on random inputs, all options.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <sstream>
#include <string>
#include <tokenfold/tokenfold.hpp>
#include <type_traits>
#include <vector>

#include "reference/prumerge.hpp"
#include "support/outcome.hpp"
#include "support/random.hpp"

namespace {

using support::Random;
using support::Tensor;
using tokenfold::Aggregate;
using tokenfold::Budget;
using tokenfold::Index;
using tokenfold::Token;
using tokenfold::TokenLayout;
using tokenfold::TokenOrder;
using tokenfold::correlate::Sources;
using tokenfold::filter::HeadReduction;
using tokenfold::filter::OutlierCount;
using tokenfold::filter::RasterSamples;

constexpr std::size_t head_count = 2;

reference::PruMergeOptions options(const tokenfold::PruMerge& m) {
  reference::PruMergeOptions o;
  o.order = m.filter.order == TokenOrder::raster ? reference::PruMergeOrder::raster
                                                 : reference::PruMergeOrder::attention;
  o.normalization = m.compress.rule == Aggregate::sum
                        ? reference::PruMergeNormalization::none
                        : reference::PruMergeNormalization::attention_sum;
  o.sources = m.correlate.sources == Sources::all ? reference::PruMergeSources::all
                                                  : reference::PruMergeSources::discarded;
  o.attention = m.filter.heads == HeadReduction::single
                    ? reference::PruMergeAttention::full_width
                    : reference::PruMergeAttention::mean_of_heads;
  o.plus = m.filter.samples == RasterSamples::none   ? reference::PruMergePlus::off
           : m.filter.samples == RasterSamples::once ? reference::PruMergePlus::once
                                                     : reference::PruMergePlus::three_times;
  o.count = m.filter.count == OutlierCount::exact ? reference::PruMergeCount::exact
                                                  : reference::PruMergeCount::truncated;
  o.extra_token = m.compress.extra_token;
  o.neighbours = static_cast<std::size_t>(m.correlate.neighbours);
  o.fence = m.filter.fence;
  o.min_tokens = static_cast<std::size_t>(m.filter.min_tokens);
  if (m.filter.released_share > 0) {
    o.budget = reference::PruMergeBudget::fixed_ratio;
    o.plus = reference::PruMergePlus::three_times;
    o.ratio = m.filter.released_share;
  }
  return o;
}

bool same_decisions(const reference::PruMergeResult& a, const reference::PruMergeResult& b) {
  const auto sets = [](std::vector<reference::Rows> clusters) {
    for (reference::Rows& cluster : clusters) std::sort(cluster.begin(), cluster.end());
    return clusters;
  };
  return a.kept == b.kept && a.discarded == b.discarded && sets(a.neighbours) == sets(b.neighbours);
}

template <class T>
class PruMergeCase {
 public:
  // [CLS] first or last, now and then rows that are no patches in between.
  PruMergeCase(Index n, Random& random) {
    tokenfold::LayoutDescription d;
    const bool gap = random.chance(0.3);
    const Index first = random.below(3);
    for (Index i = 0; i < n; ++i) {
      if (gap && i == n / 2) d.cells.push_back(tokenfold::no_token);
      d.cells.push_back(static_cast<Token>(i));
    }
    d.grid = {1, n};
    d.visual = {first, first + static_cast<Index>(d.cells.size())};
    d.tokens = d.visual.end + (first == 0 ? 1 : 0);
    d.cls = first == 0 ? d.tokens - 1 : 0;
    layout_ = TokenLayout(d);

    const auto tokens = static_cast<std::size_t>(layout_.tokens());
    input_.tokens = support::normal_matrix<T>(tokens, 4, random);
    input_.keys = support::normal_matrix<T>(tokens, head_count * 3, random);
    const reference::Matrix query = support::normal_matrix<T>(1, head_count * 3, random, 3);
    input_.cls_query = query.values;
    input_.heads = head_count;
    for (const Token row : layout_.visual()) {
      input_.patch_rows.push_back(static_cast<std::size_t>(row));
    }
  }

  // False if the decisions hang on rounding errors.
  bool check(const tokenfold::PruMerge& method, Random& random) const {
    const reference::PruMergeResult expected = reference::prumerge(input_, options(method));
    for (int trial = 0; trial < 3; ++trial) {
      reference::PruMergeInput other = input_;
      const double rounding = std::is_same_v<T, float> ? 1e-6 : 1e-13;
      other.keys.values = support::perturbed(other.keys.values, rounding, random);
      if (!same_decisions(reference::prumerge(other, options(method)), expected)) return false;
    }
    const Tensor<T> keys = support::tensor<T>(input_.keys);
    const Tensor<T> query =
        support::tensor<T>(reference::Matrix(1, keys_width(), input_.cls_query));
    const tokenfold::QueryKeyAttention<T> attention(
        tokenfold::split_heads(query, Index{head_count}),
        tokenfold::split_heads(keys, Index{head_count}), {.first_query = *layout_.cls()});
    const support::Outcome outcome = support::run<T>(
        method, tokenfold::Sequence(layout_, attention), Budget::adaptive(), input_.tokens);

    const double relative = std::is_same_v<T, float> ? 1e-5 : 1e-11;
    EXPECT_TRUE(support::close(outcome.scores, expected.attention, relative));
    EXPECT_EQ(outcome.preserved, support::indices(expected.kept));
    EXPECT_EQ(outcome.discarded, support::indices(expected.discarded));

    // The reference's rows are the patches' and the synthetic token's.
    std::vector<Index> kept = support::indices(expected.kept);
    if (expected.has_extra) kept.push_back(tokenfold::no_token);
    std::vector<Index> kept_here;
    std::vector<double> weights;
    std::vector<double> output;
    for (std::size_t row = 0; row < outcome.kept.size(); ++row) {
      const Index token = outcome.kept[row];
      if (token != tokenfold::no_token && layout_.ordinal(token) < 0) continue;
      kept_here.push_back(token);
      const std::vector<double> w = outcome.weights.row(row);
      const std::vector<double> x = outcome.output.row(row);
      weights.insert(weights.end(), w.begin(), w.end());
      output.insert(output.end(), x.begin(), x.end());
    }
    EXPECT_EQ(kept_here, kept);
    EXPECT_TRUE(support::close(weights, expected.weights.values, 1e-5));
    EXPECT_TRUE(support::close(output, expected.output.values, 1e-5, 1e-6));
    return true;
  }

  const TokenLayout& layout() const { return layout_; }
  const reference::PruMergeInput& input() const { return input_; }

 private:
  std::size_t keys_width() const { return input_.keys.cols; }

  TokenLayout layout_;
  reference::PruMergeInput input_;
};

// Every combination of the discrete options.
template <class T>
void check_all_options(std::uint64_t seed) {
  Random random(seed);
  int cases = 0;
  int undetermined = 0;
  for (const TokenOrder order : {TokenOrder::raster, TokenOrder::score})
    for (const Aggregate rule : {Aggregate::sum, Aggregate::mean})
      for (const Sources sources : {Sources::all, Sources::discarded})
        for (const bool extra : {true, false})
          for (const Index neighbours : {0, 1, 5, 32, 1000})
            for (const OutlierCount count : {OutlierCount::exact, OutlierCount::truncated})
              for (const RasterSamples samples :
                   {RasterSamples::none, RasterSamples::once, RasterSamples::triple})
                for (const HeadReduction heads : {HeadReduction::single, HeadReduction::mean}) {
                  tokenfold::PruMerge method;
                  method.filter.heads = heads;
                  method.filter.samples = samples;
                  method.filter.count = count;
                  method.filter.order = order;
                  method.filter.fence = random.chance(0.5) ? 1.5 : 0.5;
                  method.correlate = {neighbours, sources};
                  method.compress = {rule, extra};
                  std::ostringstream description;
                  description << "case " << cases << ", samples " << static_cast<int>(samples)
                              << ", neighbours " << neighbours << ", fence " << method.filter.fence;
                  SCOPED_TRACE(description.str());
                  const PruMergeCase<T> one(1 + random.below(50), random);
                  ++cases;
                  undetermined += one.check(method, random) ? 0 : 1;
                  if (testing::Test::HasFailure()) return;
                }
  EXPECT_EQ(cases, 2 * 2 * 2 * 2 * 5 * 2 * 3 * 2);
  EXPECT_LT(undetermined, cases / 20);
}

TEST(PruMergeReference, every_option_agrees_in_float) { check_all_options<float>(21); }
TEST(PruMergeReference, every_option_agrees_in_double) { check_all_options<double>(22); }

TEST(PruMergeReference, min_tokens_agrees) {
  Random random(23);
  int determined = 0;
  for (int i = 0; i < 200 && !testing::Test::HasFailure(); ++i) {
    SCOPED_TRACE(i);
    tokenfold::PruMerge method;
    const RasterSamples samples[] = {RasterSamples::none, RasterSamples::once,
                                     RasterSamples::triple};
    method.filter.samples = samples[i % 3];
    method.filter.min_tokens = 1 + random.below(40);
    determined += PruMergeCase<double>(1 + random.below(50), random).check(method, random) ? 1 : 0;
  }
  EXPECT_GT(determined, 190);
}

TEST(PruMergeReference, the_release_without_adaptive_ratio_agrees) {
  Random random(24);
  int determined = 0;
  for (int i = 0; i < 200 && !testing::Test::HasFailure(); ++i) {
    SCOPED_TRACE(i);
    tokenfold::PruMerge method = tokenfold::prumerge_plus_released();
    const double shares[] = {0.125, 0.25, 0.3, 0.5, 1};
    method.filter.released_share = shares[i % 5];
    if (i % 2 == 0) method.filter.order = TokenOrder::raster;
    determined += PruMergeCase<float>(8 + random.below(60), random).check(method, random) ? 1 : 0;
  }
  EXPECT_GT(determined, 190);
}

TEST(PruMergeReference, presets_agree) {
  Random random(25);
  const tokenfold::PruMerge presets[] = {{},
                                         tokenfold::prumerge_plus(),
                                         tokenfold::prumerge_released(),
                                         tokenfold::prumerge_plus_released(),
                                         tokenfold::prumerge_published(),
                                         tokenfold::prumerge_plus_published()};
  int determined = 0;
  for (int i = 0; i < 120 && !testing::Test::HasFailure(); ++i) {
    SCOPED_TRACE(i);
    determined +=
        PruMergeCase<double>(1 + random.below(150), random).check(presets[i % 6], random) ? 1 : 0;
  }
  EXPECT_EQ(determined, 120);
}

// A [CLS] row of attention that the engine has serves as well as queries.
TEST(PruMergeReference, a_dense_cls_row_gives_the_same_plan) {
  Random random(26);
  for (int i = 0; i < 50; ++i) {
    const PruMergeCase<double> one(2 + random.below(40), random);
    const TokenLayout& layout = one.layout();
    const Tensor<double> keys = support::tensor<double>(one.input().keys);
    const Tensor<double> query =
        support::tensor<double>(reference::Matrix(1, one.input().keys.cols, one.input().cls_query));
    const tokenfold::QueryKeyAttention<double> computed(
        tokenfold::split_heads(query, Index{head_count}),
        tokenfold::split_heads(keys, Index{head_count}), {.first_query = *layout.cls()});
    const std::vector<double> a =
        reference::prumerge_attention(one.input(), reference::PruMergeAttention::mean_of_heads);
    Tensor<double> row = Tensor<double>::Zero(1, layout.tokens());
    for (Index v = 0; v < layout.visual_count(); ++v) {
      row(0, layout.visual()[v]) = a[static_cast<std::size_t>(v)];
    }
    const auto dense = tokenfold::head_mean_attention(row, {.first_query = *layout.cls()});
    tokenfold::PruMerge method;
    method.filter.heads = HeadReduction::mean;
    const auto from_queries =
        method.plan(tokenfold::Sequence(layout, computed), Budget::adaptive());
    // One head already is the single head, so both options take it.
    for (const HeadReduction heads : {HeadReduction::mean, HeadReduction::single}) {
      method.filter.heads = heads;
      const auto from_row = method.plan(
          tokenfold::Sequence(layout, dense,
                              tokenfold::Keys(tokenfold::split_heads(keys, Index{head_count}))),
          Budget::adaptive());
      EXPECT_EQ(support::indices(from_row.kept()), support::indices(from_queries.kept()));
      EXPECT_TRUE(support::close(support::dense_weights(from_row).values,
                                 support::dense_weights(from_queries).values));
    }
  }
}

// --- what it refuses -----------------------------------------------------------------------------

class PruMergeRefusals : public testing::Test {
 protected:
  TokenLayout layout_ = TokenLayout::encoder({2, 2});
  Tensor<float> attention_ = Tensor<float>::Constant(2 * 5, 5, 0.2f);
  Tensor<float> keys_ = Tensor<float>::Ones(5, 4);
  tokenfold::AttentionKind kind_ = tokenfold::AttentionKind::probabilities;
  Index heads_ = 1;

  std::string message(const tokenfold::PruMerge& method, Budget budget = Budget::adaptive()) const {
    const tokenfold::DenseAttention<float> attention(
        tokenfold::HeadsView<const float>(attention_.data(), {heads_, 5, 5}, {25, 5, 1}),
        {.kind = kind_});
    return support::refusal([&] {
      (void)method.plan(tokenfold::Sequence(layout_, attention,
                                            tokenfold::Keys(tokenfold::split_heads(keys_, 2))),
                        budget);
    });
  }
  std::string filter_message(const tokenfold::filter::AttentionOutliers& filter,
                             Budget budget = Budget::adaptive()) const {
    return message({.filter = filter, .correlate = {}, .compress = {}}, budget);
  }
};

TEST_F(PruMergeRefusals, options_out_of_range_are_named) {
  EXPECT_EQ(filter_message({.fence = -1}), "prumerge: fence must not be negative, got -1");
  EXPECT_EQ(filter_message({.min_tokens = -2}),
            "prumerge: min_tokens must not be negative, got -2");
  EXPECT_EQ(filter_message({.max_tokens = -3}),
            "prumerge: max_tokens must not be negative, got -3");
  EXPECT_EQ(filter_message({.released_share = 1.5}),
            "prumerge: released_share must lie in [0, 1], got 1.5");
  EXPECT_EQ(filter_message({.released_share = 0.5}, Budget::keep(2)),
            "prumerge: released_share needs an adaptive budget");
  EXPECT_EQ(filter_message({}, Budget::keep(5)), "budget: cannot keep 5 of 4 visual tokens");
  EXPECT_EQ(message({.filter = {}, .correlate = {.neighbours = -1}, .compress = {}}),
            "nearest keys: neighbours must not be negative, got -1");
}

TEST_F(PruMergeRefusals, cls_is_needed) {
  layout_ = TokenLayout::decoder(1, 4, 0);
  EXPECT_EQ(filter_message({}), "prumerge: the layout has no [CLS] row");
}

TEST_F(PruMergeRefusals, several_heads_of_dense_attention_are_no_single_head) {
  heads_ = 2;
  EXPECT_EQ(filter_message({}),
            "prumerge: attention as one head of the full width needs queries and keys; with "
            "attention of 2 heads set heads = HeadReduction::mean");
}

TEST_F(PruMergeRefusals, logits_are_refused) {
  kind_ = tokenfold::AttentionKind::logits;
  EXPECT_EQ(filter_message({}), "prumerge: the attention must hold probabilities");
  EXPECT_EQ(filter_message({.heads = HeadReduction::mean}),
            "prumerge: the attention must hold probabilities");
}

TEST_F(PruMergeRefusals, keys_must_be_one_per_row) {
  keys_ = Tensor<float>::Ones(4, 4);
  EXPECT_EQ(message({}), "sequence: 4 keys were given for 5 tokens");
}

}  // namespace
