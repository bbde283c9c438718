// SPDX-License-Identifier: Apache-2.0
// VisionZip on cases worked out by hand, and against naive loops.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tokenfold/methods/visionzip.hpp>
#include <tokenfold/tokenfold.hpp>
#include <vector>

#include "reference/visionzip.hpp"
#include "support/outcome.hpp"
#include "support/random.hpp"

namespace {

using support::Outcome;
using support::Random;
using support::Tensor;
using tokenfold::Budget;
using tokenfold::ClsToken;
using tokenfold::Index;
using tokenfold::Keys;
using tokenfold::Sequence;
using tokenfold::TokenLayout;
using tokenfold::VisionZip;
using tokenfold::filter::DominantOrder;

using Rows = std::vector<Index>;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

VisionZip with_contextual(Index contextual, VisionZip method = {}) {
  method.filter.contextual = contextual;
  return method;
}

/// [CLS] and patches; `a` is its attention to them, `keys` the keys of all rows on a line through
/// the plane: (1, key).
Outcome run(const VisionZip& method, const std::vector<double>& a, const std::vector<double>& keys,
            const Budget& budget, ClsToken cls = ClsToken::first) {
  const Index n = static_cast<Index>(a.size());
  const TokenLayout layout = TokenLayout::encoder({1, n}, cls);
  Tensor<double> row = Tensor<double>::Zero(1, n + 1);
  std::copy(a.begin(), a.end(), row.data() + (cls == ClsToken::first ? 1 : 0));
  Tensor<double> k = Tensor<double>::Ones(n + 1, 2);
  reference::Matrix tokens(static_cast<std::size_t>(n + 1), 1);
  for (Index i = 0; i <= n; ++i) {
    k(i, 1) = keys.empty() ? 0 : keys[static_cast<std::size_t>(i)];
    tokens(static_cast<std::size_t>(i), 0) = std::pow(10.0, static_cast<double>(i));
  }
  const Sequence sequence(layout,
                          tokenfold::head_mean_attention(row, {.first_query = *layout.cls()}),
                          Keys(tokenfold::split_heads(k, 1)));
  return support::run<double>(method, sequence, budget, tokens);
}

// Rows 1 … 8; 2 and 7 are dominant. Without them 1 3 4 5 6 8 are left: with two contextual tokens
// every third, 1 and 5.
const std::vector<double> attention = {0.1, 0.4, 0.05, 0.02, 0.1, 0.03, 0.3, 0.06};
const std::vector<double> keys = {9, 0, 9, 1, 5, 4, 0.5, 9, 3};

TEST(VisionZip, keeps_dominant_tokens_and_adds_the_others_to_a_regular_sample) {
  const Outcome o = run(with_contextual(2), attention, keys, Budget::keep(4));
  EXPECT_EQ(o.kept, (Rows{0, 1, 2, 5, 7}));
  EXPECT_EQ(o.discarded, (Rows{3, 4, 6, 8}));
  EXPECT_TRUE(support::close(o.scores, attention, 0, 0));
  // 3 (45°) and 6 (27°) to 1 (0°), or 5 (76°)? 3: 45 against 31, so 5; 6: 27 against 49, so 1.
  EXPECT_TRUE(
      support::close(o.output.values, {1, 10 + 1e6, 100, 1e5 + (1e3 + 1e4 + 1e8) / 3, 1e7}, 1e-6));
}

TEST(VisionZip, released_order_has_the_dominant_tokens_first) {
  const Outcome o =
      run(with_contextual(2, tokenfold::visionzip_released()), attention, keys, Budget::keep(4));
  EXPECT_EQ(o.kept, (Rows{0, 2, 7, 1, 5}));
  EXPECT_TRUE(
      support::close(o.output.values, {1, 100, 1e7, 10 + 1e6, 1e5 + (1e3 + 1e4 + 1e8) / 3}, 1e-6));
}

TEST(VisionZip, can_average_target_and_members) {
  const Outcome o =
      run(with_contextual(2, tokenfold::visionzip_averaged()), attention, keys, Budget::keep(4));
  EXPECT_TRUE(support::close(o.output.values,
                             {1, (10 + 1e6) / 2, 100, (1e5 + 1e3 + 1e4 + 1e8) / 4, 1e7}, 1e-6));
}

TEST(VisionZip, cls_may_stand_last) {
  std::vector<double> shifted(keys.begin() + 1, keys.end());
  shifted.push_back(9);
  const Outcome o = run(with_contextual(2, tokenfold::visionzip_released()), attention, shifted,
                        Budget::keep(4), ClsToken::last);
  EXPECT_EQ(o.kept, (Rows{1, 6, 0, 4, 8}));
  EXPECT_EQ(o.discarded, (Rows{2, 3, 5, 7}));
}

TEST(VisionZip, contextual_tokens_are_the_first_of_each_step) {
  // Of 7 left over, 3 contextual: step 2, rows 2, 4, 6; the last two are merged like others.
  const std::vector<double> a = {0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1};
  const Outcome o =
      run(with_contextual(3, tokenfold::visionzip_released()), a, {}, Budget::keep(4));
  EXPECT_EQ(o.kept, (Rows{0, 1, 2, 4, 6}));
  // Equal keys: everything goes to the lowest target, and the others stay as they are.
  EXPECT_TRUE(
      support::close(o.output.values, {1, 10, 100 + (1e3 + 1e5 + 1e7 + 1e8) / 4, 1e4, 1e6}, 1e-6));
}

TEST(VisionZip, ties_are_dominant_by_the_lower_row) {
  EXPECT_EQ(run(with_contextual(1, tokenfold::visionzip_released()), {0.1, 0.2, 0.2, 0.2}, {},
                Budget::keep(3))
                .kept,
            (Rows{0, 2, 3, 1}));
}

TEST(VisionZip, the_paper_s_shares) {
  const auto contextual = [](Index keep, ClsToken cls) {
    const Index n = 600;
    const TokenLayout layout = TokenLayout::encoder({1, n}, cls);
    const Tensor<float> a = Tensor<float>::Constant(n + 1, n + 1, 0.001f);
    tokenfold::Partition partition;
    tokenfold::Workspace workspace;
    tokenfold::filter::DominantContextual{}(Sequence(layout, tokenfold::head_mean_attention(a)),
                                            Budget::keep(keep), partition, workspace);
    return static_cast<Index>(partition.targets.size());
  };
  EXPECT_EQ(contextual(63, ClsToken::first), 10);
  EXPECT_EQ(contextual(127, ClsToken::first), 20);
  EXPECT_EQ(contextual(191, ClsToken::last), 30);
  EXPECT_EQ(contextual(64, ClsToken::none), 10);
  EXPECT_EQ(contextual(31, ClsToken::first), 5);
  EXPECT_EQ(contextual(1, ClsToken::first), 0);
  EXPECT_EQ(contextual(0, ClsToken::first), 0);
  EXPECT_EQ(contextual(600, ClsToken::none), 94);
}

TEST(VisionZip, no_contextual_tokens_is_pure_pruning) {
  const Outcome o = run(with_contextual(0), attention, keys, Budget::keep(2));
  EXPECT_EQ(o.kept, (Rows{0, 2, 7}));
  EXPECT_TRUE(o.links.empty());
  EXPECT_TRUE(support::close(o.output.values, {1, 100, 1e7}, 0, 0));
}

TEST(VisionZip, only_contextual_tokens_is_pure_merging) {
  // Step 4 of 8.
  const Outcome o = run(with_contextual(2), attention, keys, Budget::keep(2));
  EXPECT_EQ(o.kept, (Rows{0, 1, 5}));
  EXPECT_EQ(o.links.size(), 6u);
}

TEST(VisionZip, keeping_all_is_the_identity_and_none_leaves_cls) {
  for (const Index contextual : {-1, 0, 3, 8}) {
    const VisionZip method = with_contextual(contextual);
    const Outcome o = run(method, attention, keys, Budget::keep(8));
    EXPECT_EQ(o.kept, (Rows{0, 1, 2, 3, 4, 5, 6, 7, 8}));
    EXPECT_TRUE(o.discarded.empty());
    EXPECT_TRUE(support::close(o.weights.values,
                               run(method, attention, {}, Budget::keep(8)).weights.values, 0, 0));
  }
  const Outcome none = run({}, attention, keys, Budget::keep(0));
  EXPECT_EQ(none.kept, (Rows{0}));
  EXPECT_EQ(none.discarded, (Rows{1, 2, 3, 4, 5, 6, 7, 8}));
}

TEST(VisionZip, released_order_holds_for_all_tokens_too) {
  // Dominant by [CLS] attention are five, every other row is contextual, as if not all were kept.
  const VisionZip method = with_contextual(3, tokenfold::visionzip_released());
  const Outcome all = run(method, attention, keys, Budget::keep(8));
  const Outcome raster = run(with_contextual(3), attention, keys, Budget::keep(8));
  EXPECT_FALSE(std::is_sorted(all.kept.begin(), all.kept.end()));
  EXPECT_TRUE(std::is_sorted(all.kept.begin(), all.kept.begin() + 6));
  EXPECT_TRUE(std::is_sorted(all.kept.begin() + 6, all.kept.end()));
  EXPECT_TRUE(std::is_permutation(all.kept.begin(), all.kept.end(), raster.kept.begin()));
}

TEST(VisionZip, no_visual_tokens_is_the_identity) {
  const TokenLayout layout = TokenLayout::decoder(2, 0, 1);
  const Tensor<double> a = Tensor<double>::Constant(3, 3, 0.3);
  const Sequence sequence(layout, tokenfold::head_mean_attention(a),
                          Keys(tokenfold::split_heads(a, 1)));
  EXPECT_TRUE(VisionZip{}.plan(sequence, Budget::keep(0)).is_identity());
}

TEST(VisionZip, counts_are_exact) {
  const std::vector<double> line = {9, 0, 9, 1, 5, 4, 0.5, 9, 3};
  for (Index keep = 0; keep <= 8; ++keep) {
    for (Index contextual = -1; contextual <= keep; ++contextual) {
      const Outcome o = run(with_contextual(contextual), attention, line, Budget::keep(keep));
      EXPECT_EQ(static_cast<Index>(o.kept.size()), keep + 1);
      EXPECT_TRUE(std::is_sorted(o.kept.begin(), o.kept.end()));
      EXPECT_EQ(o.links.size(), contextual == 0 || (contextual == -1 && keep < 3)
                                    ? 0u
                                    : static_cast<std::size_t>(8 - keep));
    }
  }
}

TEST(VisionZip, refuses_counts_that_cannot_be) {
  EXPECT_EQ(support::refusal([] { run(with_contextual(3), attention, keys, Budget::keep(2)); }),
            "visionzip: 3 contextual tokens were asked for among 2 preserved ones");
  EXPECT_EQ(support::refusal([] { run(with_contextual(-2), attention, keys, Budget::keep(2)); }),
            "visionzip: -2 contextual tokens were asked for among 2 preserved ones");
  EXPECT_EQ(support::refusal([] { run({}, attention, keys, Budget::adaptive()); }),
            "budget: this method has no rule of its own; give keep, discard or keep_ratio");
}

TEST(VisionZip, attention_that_is_not_finite_is_chosen_last) {
  const std::vector<double> a = {nan, 0.4, 0.05, infinity, 0.1, 0.03};
  // Dominant 2, 5; of the finite rest 3 and 6 the first is contextual.
  const Outcome o = run(with_contextual(1), a, {}, Budget::keep(3));
  EXPECT_EQ(o.kept, (Rows{0, 2, 3, 5}));
  // More are wanted than are finite.
  EXPECT_EQ(run(with_contextual(3), a, {}, Budget::keep(5)).kept, (Rows{0, 1, 2, 3, 5, 6}));
  EXPECT_EQ(run(with_contextual(1), a, {}, Budget::keep(6)).kept, (Rows{0, 1, 2, 3, 4, 5, 6}));
  const std::vector<double> none(4, nan);
  EXPECT_EQ(run(with_contextual(1), none, {}, Budget::keep(3)).kept, (Rows{0, 1, 2, 3}));
}

TEST(VisionZip, keys_that_are_not_finite_are_dropped_and_zero_keys_are_not) {
  std::vector<double> spoiled = keys;
  spoiled[6] = nan;       // a member
  spoiled[5] = infinity;  // a contextual target
  const Outcome o = run(with_contextual(2), attention, spoiled, Budget::keep(4));
  EXPECT_EQ(o.kept, (Rows{0, 1, 2, 5, 7}));
  EXPECT_TRUE(
      support::close(o.output.values, {1, 10 + (1e3 + 1e4 + 1e8) / 3, 100, 1e5, 1e7}, 1e-6));
}

TEST(VisionZip, without_cls_what_a_token_receives_decides) {
  // A separator that attends to nobody but token 0 must not count.
  tokenfold::LayoutDescription d;
  d.tokens = 5;
  d.visual = {0, 5};
  d.cells = {0, 1, -1, 2, 3};
  const TokenLayout layout(d);
  Tensor<double> a(5, 5);
  a << 0.1, 0.5, 0, 0.2, 0.2,  //
      0.2, 0.2, 0, 0.3, 0.3,   //
      99, 0, 0, 0, 0,          //
      0.0, 0.1, 0, 0.8, 0.1,   //
      0.1, 0.2, 0, 0.3, 0.4;
  const Sequence sequence(layout, tokenfold::head_mean_attention(a),
                          Keys(tokenfold::split_heads(a, 1)));
  reference::Matrix tokens(5, 1);
  const Outcome o = support::run<double>(with_contextual(1, tokenfold::visionzip_released()),
                                         sequence, Budget::keep(3), tokens);
  EXPECT_TRUE(support::close(o.scores, {0.1, 0.25, 0.4, 0.25}, 1e-12));
  EXPECT_EQ(o.preserved, (Rows{1, 3, 0}));
  EXPECT_EQ(o.kept, (Rows{1, 2, 3, 0}));  // what is no patch passes through in its place
}

template <class T>
class VisionZipScalars : public testing::Test {};
using Scalars = testing::Types<float, double, Eigen::half, Eigen::bfloat16>;
TYPED_TEST_SUITE(VisionZipScalars, Scalars);

TYPED_TEST(VisionZipScalars, decide_alike) {
  const TokenLayout layout = TokenLayout::encoder({1, 4});
  Tensor<double> q(5, 2);
  q << 4, 0, 0, 0, 0, 0, 0, 0, 0, 0;
  Tensor<double> k(5, 2);
  k << 0, 1, 1, 1, 3, 0, 0, 1, 1, 4;
  const Tensor<TypeParam> queries = q.cast<TypeParam>();
  const Tensor<TypeParam> narrow = k.cast<TypeParam>();
  const auto plan = with_contextual(1).plan(
      Sequence(layout, tokenfold::QueryKeyAttention<TypeParam>(tokenfold::split_heads(queries, 1),
                                                               tokenfold::split_heads(narrow, 1))),
      Budget::keep(2));
  EXPECT_EQ(support::indices(plan.kept()), (Rows{0, 1, 2}));
  EXPECT_EQ(support::dense_weights(plan)(1, 3), 0.5);
  EXPECT_EQ(support::dense_weights(plan)(1, 4), 0.5);
}

// --- the compress stage alone

std::vector<double> merged(const tokenfold::compress::AddMean& stage,
                           const tokenfold::Correlation& correlation) {
  const TokenLayout layout = TokenLayout::encoder({1, 5}, ClsToken::none);
  tokenfold::Partition partition;
  partition.preserved = {3, 4};
  partition.discarded = {0, 1, 2};
  tokenfold::Workspace workspace;
  tokenfold::ReductionPlan plan;
  tokenfold::PlanWriter writer(layout, plan);
  const struct { const TokenLayout& layout; } sequence{layout};
  stage(sequence, partition, correlation, writer, workspace);
  writer.finish(workspace);
  return support::dense_weights(plan).values;
}

TEST(AddMean, weighs_members_by_their_shares) {
  tokenfold::Correlation correlation;
  correlation.begin_source(0);  // three quarters to 3, one to 4
  correlation.link(3, 6);
  correlation.link(4, 2);
  correlation.begin_source(1);
  correlation.link(3, 5);
  correlation.begin_source(2);  // nothing
  correlation.link(3, nan);
  EXPECT_TRUE(support::close(merged({}, correlation),
                             {0.75 / 1.75, 1 / 1.75, 0, 1, 0,  //
                              1, 0, 0, 0, 1},
                             1e-7));
  EXPECT_TRUE(support::close(merged({.rule = tokenfold::Aggregate::mean}, correlation),
                             {0.75 / 2.75, 1 / 2.75, 0, 1 / 2.75, 0,  //
                              0.25 / 1.25, 0, 0, 0, 1 / 1.25},
                             1e-7));
}

TEST(AddMean, without_members_nothing_changes) {
  for (const auto rule : {tokenfold::Aggregate::sum, tokenfold::Aggregate::mean}) {
    EXPECT_EQ(merged({.rule = rule}, {}), (std::vector<double>{0, 0, 0, 1, 0, 0, 0, 0, 0, 1}));
  }
}

// --- against the reference

/// Would rounding errors change the decisions?
bool is_determined(const reference::VisionZipInput& input, std::size_t dominant,
                   std::size_t contextual, Random& random) {
  const auto exact = reference::visionzip(input, dominant, contextual);
  for (int trial = 0; trial < 3; ++trial) {
    reference::VisionZipInput other = input;
    other.keys.values = support::perturbed(other.keys.values, 1e-6, random);
    other.attention.values = support::perturbed(other.attention.values, 1e-6, random);
    const auto result = reference::visionzip(other, dominant, contextual);
    if (result.kept != exact.kept || result.destinations != exact.destinations) return false;
  }
  return true;
}

template <class T>
void compare_with_reference() {
  Random random(81);
  int compared = 0;
  constexpr int cases = 120;
  for (int i = 0; i < cases; ++i) {
    const Index n = i < 100 ? 1 + random.below(40) : 150 + random.below(200);
    const bool cls = i % 2 == 0;
    const TokenLayout layout = TokenLayout::encoder({1, n}, cls ? ClsToken::first : ClsToken::none);
    const auto p = static_cast<std::size_t>(layout.tokens());
    const auto queries = support::normal_heads<T>(3, p, 5, random);
    reference::VisionZipInput input;
    input.cls = cls;
    input.tokens = support::normal_matrix<T>(p, 4, random);
    input.keys = support::normal_heads<T>(3, p, 5, random);
    input.attention = reference::mean_probabilities(queries, input.keys);
    const Index keep = random.below(n + 1);
    const Index contextual = random.below(keep + 1);
    const auto dominant = static_cast<std::size_t>(keep - contextual);
    const auto targets = static_cast<std::size_t>(contextual);
    if (std::is_same_v<T, float> && !is_determined(input, dominant, targets, random)) continue;
    ++compared;
    const bool average = random.chance(0.5);
    const auto expected = reference::visionzip(input, dominant, targets, average);

    const std::vector<T> q = support::cast<T>(queries.values);
    const std::vector<T> k = support::cast<T>(input.keys.values);
    const auto heads = [&](const std::vector<T>& values) {
      const auto rows = static_cast<Index>(p);
      return tokenfold::HeadsView<const T>(values.data(), {3, rows, 5}, {rows * 5, 5});
    };
    VisionZip method = with_contextual(contextual, tokenfold::visionzip_released());
    if (average) method.compress.rule = tokenfold::Aggregate::mean;
    const Sequence sequence(layout, tokenfold::QueryKeyAttention<T>(heads(q), heads(k)));
    const Outcome o = support::run<T>(method, sequence, Budget::keep(keep), input.tokens);
    const double tolerance = std::is_same_v<T, float> ? 2e-5 : 1e-6;
    ASSERT_EQ(o.kept, support::indices(expected.kept)) << "case " << i;
    EXPECT_TRUE(support::close(o.weights.values, expected.weights.values, 1e-6));
    EXPECT_TRUE(support::close(o.output.values, expected.output.values, tolerance, 1e-6));
    EXPECT_TRUE(support::close(o.scores, expected.scores, tolerance));
    std::vector<Index> destinations;
    for (const support::Link& link : o.links) destinations.push_back(link.target);
    EXPECT_EQ(destinations, support::indices(expected.destinations));
  }
  EXPECT_GE(compared, cases * 9 / 10);
}

TEST(VisionZipReference, float_gives_the_same) { compare_with_reference<float>(); }
TEST(VisionZipReference, double_gives_the_same) { compare_with_reference<double>(); }

}  // namespace
