// SPDX-License-Identifier: Apache-2.0
// DART on cases worked out by hand, and against the reference.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <tokenfold/methods/dart.hpp>
#include <tokenfold/tokenfold.hpp>
#include <vector>

#include "reference/dart.hpp"
#include "support/outcome.hpp"

namespace {

using support::Random;
using support::Tensor;
using tokenfold::Budget;
using tokenfold::DART;
using tokenfold::HeadsView;
using tokenfold::Index;
using tokenfold::Token;
using tokenfold::TokenLayout;
using tokenfold::TokenOrder;
using tokenfold::filter::PickCount;
using tokenfold::filter::PivotOrder;
using tokenfold::filter::PivotSource;
using tokenfold::filter::RowNorm;

using Rows = std::vector<Index>;
constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

/// Two channels at an angle: cosines are what one reads off the clock.
std::vector<double> at(double degrees, double length = 1) {
  const double angle = degrees * std::acos(-1.0) / 180;
  return {length * std::cos(angle), length * std::sin(angle)};
}

/// One word, six patches, two words. Angles of the patches 0, 10, 90, 170, 180, 45 degrees, of the
/// words 0 and 90. Key norms: patch 1 has the largest, then patches 4 and 0; word 8 beats word 7.
struct Case {
  TokenLayout layout = TokenLayout::decoder(1, 6, 2);
  Tensor<double> features{9, 2};
  Tensor<double> keys{9, 2};

  Case() {
    const std::vector<double> degrees = {0, 0, 10, 90, 170, 180, 45, 0, 90};
    for (Index row = 0; row < 9; ++row) {
      const std::vector<double> x = at(degrees[static_cast<std::size_t>(row)]);
      features.row(row) << x[0], x[1];
    }
    keys << 50, 50,  // the system prompt never votes
        3, 0, /**/ -4, 4, /**/ 1, 0, /**/ 1, 1, /**/ 0, 5, /**/ 0, 0.5,  //
        2, 0, /**/ 6, 0;
  }

  tokenfold::Partition plan(const DART& method, const Budget& budget) const {
    tokenfold::Workspace workspace;
    tokenfold::ReductionPlan plan;
    method.plan(tokenfold::Sequence(layout, tokenfold::Features(features),
                                    tokenfold::Keys(tokenfold::split_heads(keys, 2))),
                budget, workspace, plan);
    EXPECT_TRUE(plan.selects_only());
    return workspace.partition;
  }
  /// Rows of the image tokens in the order of choosing.
  Rows chosen(DART method, Index keep) const {
    method.filter.order = TokenOrder::score;
    return support::indices(plan(method, Budget::keep(keep)).preserved);
  }
};

DART with_pivots(Index image, Index text) {
  return {.filter = {.image_pivots = image, .text_pivots = text}, .correlate = {}, .compress = {}};
}

TEST(DART, an_image_pivot_stays_and_takes_what_is_least_like_it) {
  // Pivot row 2 at 10 degrees. Farthest: row 5 (180), then 4 (170), 3 (90), 6 (45), 1 (0).
  EXPECT_EQ(Case().chosen(with_pivots(1, 0), 1), (Rows{2}));
  EXPECT_EQ(Case().chosen(with_pivots(1, 0), 3), (Rows{2, 5, 4}));
  EXPECT_EQ(Case().chosen(with_pivots(1, 0), 5), (Rows{2, 5, 4, 3, 6}));
}

TEST(DART, a_text_pivot_votes_and_is_not_chosen) {
  // Word row 8 at 90 degrees: rows 5 (cos 0 at 180) and 1 (cos 0 at 0) tie but for rounding, which
  // is why the case takes the next ones: word row 7 at 0 degrees sees 180, 170.
  Case c;
  c.keys.row(7) << 9, 9;
  EXPECT_EQ(c.chosen(with_pivots(0, 1), 2), (Rows{5, 4}));
}

TEST(DART, pivots_take_turns_by_falling_norm) {
  // Norms: row 2 has 8, word 8 has 6. Row 2 takes 5; word 8 (90 degrees) then takes 1 of cosine 0.
  EXPECT_EQ(Case().chosen(with_pivots(1, 1), 3), (Rows{2, 5, 1}));
  Case word_first;
  word_first.keys.row(7) << 9, 9;  // word 7 at 0 degrees: takes 5, and leaves 4 to row 2
  EXPECT_EQ(word_first.chosen(with_pivots(1, 1), 3), (Rows{2, 5, 4}));
}

TEST(DART, images_first_is_another_order_of_turns) {
  Case c;
  c.features.row(7) << -1, 0.1;  // a word just before 180 degrees: farthest is row 1, then row 2
  c.keys.row(7) << 9, 9;
  // Rows 1 and 2 aside, row 2 would take 5 and the word row 1 in either order; so two picks each.
  DART method = with_pivots(1, 1);
  EXPECT_EQ(c.chosen(method, 5), (Rows{2, 1, 6, 5, 4}));
  method.filter.pivot_order = PivotOrder::images_first;
  EXPECT_EQ(c.chosen(method, 5), (Rows{2, 5, 4, 1, 6}));
}

TEST(DART, first_pivots_take_the_picks_that_do_not_divide) {
  // Three picks, two pivots: row 2 (norm 8) takes 5 and 4, word 8 takes one.
  EXPECT_EQ(Case().chosen(with_pivots(1, 1), 4), (Rows{2, 5, 4, 1}));
}

TEST(DART, released_turns_are_those_of_a_python_set) {
  const auto order = [](std::vector<Token> rows) {
    tokenfold::Workspace workspace;
    tokenfold::detail::python_set_order(rows, workspace);
    return rows;
  };
  using Tokens = std::vector<Token>;
  // As Python 3.11 prints list(set([...])).
  EXPECT_EQ(order({}), (Tokens{}));
  EXPECT_EQ(order({8, 0, 16}), (Tokens{8, 0, 16}));
  EXPECT_EQ(order({5, 13, 21, 29}), (Tokens{29, 13, 21, 5}));
  EXPECT_EQ(order({64, 32, 96, 0, 128, 33}), (Tokens{64, 0, 32, 96, 128, 33}));
  EXPECT_EQ(order({640, 33, 1, 65, 97, 129, 161, 193}),
            (Tokens{640, 33, 97, 1, 65, 129, 161, 193}));
  Tokens multiples(20);
  for (std::size_t i = 0; i < multiples.size(); ++i) multiples[i] = static_cast<Token>(32 * i);
  EXPECT_EQ(order(multiples), (Tokens{0,  128, 256, 384, 512, 32, 160, 288, 416, 544,
                                      64, 192, 320, 448, 576, 96, 224, 352, 480, 608}));

  // Image pivots rows 2 and 5, word 8: as a set of small numbers 8 (mod 8 = 0) comes first, and
  // takes of the tied rows 1 and 5 the one that is not a pivot.
  DART method = with_pivots(2, 1);
  method.filter.pivot_order = PivotOrder::python_set;
  Case c;
  c.features.row(8) << -1, 0;  // farthest from row 1
  c.keys.row(8) << 1, 0;
  c.keys.row(7) << 0, 0;
  // Turns 8, 2, 5: 8 takes 1, 2 takes 4, 5 takes 6 (45 degrees); by norm: 2: 4, 5: 1, 8: 6.
  EXPECT_EQ(c.chosen(method, 5), (Rows{2, 5, 1, 4, 6}));
  method.filter.pivot_order = PivotOrder::norm;
  EXPECT_EQ(c.chosen(method, 5), (Rows{2, 5, 4, 1, 6}));
}

TEST(DART, released_count_misses_the_budget) {
  Random random(3);
  for (const auto& [n, keep, released] : std::vector<std::array<Index, 3>>{{576, 64, 68},
                                                                           {576, 63, 60},
                                                                           {576, 192, 196},
                                                                           {576, 128, 132},
                                                                           {576, 7, 4},
                                                                           {576, 2, 4},
                                                                           {576, 575, 572},
                                                                           {36, 35, 36},
                                                                           {3, 2, 3}}) {
    const TokenLayout layout = TokenLayout::decoder(2, n, 9);
    const auto rows = static_cast<std::size_t>(layout.tokens());
    const Tensor<double> x =
        support::tensor<double>(support::normal_matrix<double>(rows, 8, random));
    const tokenfold::Sequence sequence(layout, tokenfold::Features(x),
                                       tokenfold::Keys(tokenfold::split_heads(x, 2)));
    const auto count = [&](const DART& method, Index budget) {
      return method.plan(sequence, Budget::keep(budget)).output_tokens() - 11;
    };
    EXPECT_EQ(count({}, keep), keep);
    EXPECT_EQ(count(tokenfold::dart_released(), keep), released);
    EXPECT_EQ(count(tokenfold::dart_released(), 0), 0);
    EXPECT_TRUE(tokenfold::dart_released().plan(sequence, Budget::keep(n)).is_identity());
    EXPECT_TRUE(DART{}.plan(sequence, Budget::keep(n)).is_identity());
  }
}

/// R = 0.889 and 8/9 are one token apart, but q is rounded: 60 and 68 tokens.
TEST(DART, released_count_of_a_ratio) {
  const TokenLayout layout = TokenLayout::decoder(0, 576, 4);
  Random random(4);
  const Tensor<double> x = support::tensor<double>(support::normal_matrix<double>(580, 8, random));
  const tokenfold::Sequence sequence(layout, tokenfold::Features(x),
                                     tokenfold::Keys(tokenfold::split_heads(x, 2)));
  const auto count = [&](double reduction) {
    const Budget budget = Budget::keep_ratio(1 - reduction, tokenfold::Rounding::floor);
    return tokenfold::dart_released().plan(sequence, budget).output_tokens() - 4;
  };
  EXPECT_EQ(count(0.889), 60);
  EXPECT_EQ(count(8.0 / 9), 68);
  EXPECT_EQ(count(0.778), 124);
  EXPECT_EQ(count(7.0 / 9), 132);
  EXPECT_EQ(count(0.667), 188);
  EXPECT_EQ(count(2.0 / 3), 196);
}

TEST(DART, norm_and_its_source_choose_the_pivots) {
  Case c;
  c.keys.row(1) << 5.5, 0;
  c.keys.row(2) << -3, 3;  // L1 6, L2 4.2
  EXPECT_EQ(c.chosen(with_pivots(1, 0), 1), (Rows{2}));
  DART method = with_pivots(1, 0);
  method.filter.norm = RowNorm::l2;
  EXPECT_EQ(c.chosen(method, 1), (Rows{1}));
  method.filter.pivots_by = PivotSource::features;
  c.features.row(3) *= 4;
  EXPECT_EQ(c.chosen(method, 1), (Rows{3}));
}

TEST(DART, embeddings_alone_will_do) {
  const Case c;
  const tokenfold::Sequence sequence(c.layout, tokenfold::Features(c.features));
  EXPECT_EQ(tokenfold::dart_embeddings().plan(sequence, Budget::keep(5)).output_tokens(), 8);
  EXPECT_EQ(support::refusal([&] { DART{}.plan(sequence, Budget::keep(2)); }),
            "dart: pivots by the norm of their keys need keys; or set pivots_by = features");
}

TEST(DART, fewer_words_than_text_pivots) {
  EXPECT_EQ(Case().chosen(with_pivots(1, 9), 6).size(), 6u);
  Case c;
  c.layout = TokenLayout::decoder(1, 8, 0);
  EXPECT_EQ(c.chosen(with_pivots(1, 4), 2).size(), 2u);
  // Nobody to vote: the image token of the largest norm does.
  c.layout = TokenLayout::decoder(1, 8, 0);
  EXPECT_EQ(c.chosen(with_pivots(0, 4), 2).front(), 2);
}

TEST(DART, budget_below_the_image_pivots_keeps_the_largest_norms) {
  EXPECT_EQ(Case().chosen({}, 2), (Rows{2, 5}));
  EXPECT_EQ(Case().chosen({}, 0), Rows{});
  EXPECT_EQ(Case().chosen(with_pivots(20, 1), 4), (Rows{2, 5, 1, 4}));
}

TEST(DART, scores_are_the_lowest_cosine_to_a_pivot) {
  const auto partition = Case().plan(with_pivots(1, 1), Budget::keep(3));
  std::vector<double> expected;
  for (const double degrees : {0.0, 10.0, 90.0, 170.0, 180.0, 45.0}) {
    expected.push_back(std::min(at(degrees - 10)[0], at(degrees - 90)[0]));
  }
  EXPECT_TRUE(support::close(partition.scores, expected, 1e-12, 1e-12));
}

TEST(DART, equal_tokens_are_taken_by_row) {
  Case c;
  c.features.setOnes();
  c.keys.setOnes();
  EXPECT_EQ(c.chosen(with_pivots(2, 1), 5), (Rows{1, 2, 3, 4, 5}));
}

TEST(DART, zero_rows_are_like_nothing) {
  Case c;
  c.features.row(6).setZero();
  // To row 2 at 10 degrees: 180 and 170 are negative, then 0, then 90 degrees at cos 80 > 0.
  EXPECT_EQ(c.chosen(with_pivots(1, 0), 4), (Rows{2, 5, 4, 6}));
  c.features.row(2).setZero();  // a pivot without a direction: all others tie
  EXPECT_EQ(c.chosen(with_pivots(1, 0), 4), (Rows{2, 1, 3, 4}));
}

TEST(DART, what_is_not_finite_neither_votes_nor_stays_before_the_finite) {
  for (const double bad : {nan, infinity, -infinity}) {
    Case c;
    c.features(2, 1) = bad;  // the first pivot so far
    c.keys(5, 0) = bad;      // the second
    c.keys(8, 0) = bad;      // the first word
    // Pivot row 1 (0 degrees): 5, 4, 3, 6, and the bad row last.
    EXPECT_EQ(c.chosen(with_pivots(1, 0), 5), (Rows{1, 5, 4, 3, 6}));
    EXPECT_EQ(c.chosen(with_pivots(1, 0), 6), (Rows{1, 2, 3, 4, 5, 6}));  // all: as they are
    EXPECT_EQ(c.chosen(with_pivots(0, 1), 2), (Rows{5, 4}));              // word 7, 0 degrees
    EXPECT_EQ(c.chosen(with_pivots(9, 2), 5), (Rows{1, 4, 3, 6, 5}));
    EXPECT_TRUE(std::isnan(c.plan({}, Budget::keep(1)).scores[1]));
    c.features.setConstant(bad);
    EXPECT_EQ(c.chosen({}, 2), (Rows{1, 2}));
  }
}

TEST(DART, tokens_between_patches_pass_through) {
  Case c;
  tokenfold::LayoutDescription d;
  d.tokens = 9;
  d.visual = {1, 7};
  d.cells = {0, -1, 1, 2, -1, 3};  // rows 2 and 5 are separators
  d.grid = {2, 2};
  d.text_after = {7, 9};
  c.layout = TokenLayout(d);
  // Key norms of rows 1, 3, 4, 6: 3, 1, 2, 0.5. Pivot 1 (0 degrees) takes 4 and 3.
  EXPECT_EQ(c.chosen(with_pivots(1, 0), 3), (Rows{1, 4, 3}));
}

TEST(DART, no_visual_tokens_is_the_identity) {
  const TokenLayout layout = TokenLayout::decoder(2, 0, 1);
  const Tensor<double> x = Tensor<double>::Ones(3, 2);
  const auto plan = DART{}.plan(tokenfold::Sequence(layout, tokenfold::Features(x),
                                                    tokenfold::Keys(tokenfold::split_heads(x, 1))),
                                Budget::keep(0));
  EXPECT_TRUE(plan.is_identity());
}

TEST(DART, bad_calls_are_refused) {
  const Case c;
  const auto refusal = [&](const DART& method) {
    return support::refusal([&] { c.plan(method, Budget::keep(2)); });
  };
  EXPECT_EQ(refusal(with_pivots(-1, 4)), "dart: image_pivots must not be negative, got -1");
  EXPECT_EQ(refusal(with_pivots(4, -1)), "dart: text_pivots must not be negative, got -1");
  EXPECT_EQ(refusal(with_pivots(0, 0)), "dart: at least one pivot is needed");
  EXPECT_EQ(support::refusal([&] { c.plan({}, Budget::keep(7)); }),
            "budget: cannot keep 7 of 6 visual tokens");

  const tokenfold::Features<double> image_only(c.features.middleRows(1, 6), 1);
  const tokenfold::Keys keys(tokenfold::split_heads(c.keys, 2));
  const tokenfold::Sequence without_text(c.layout, image_only, keys);
  EXPECT_EQ(
      support::refusal([&] { DART{}.plan(without_text, Budget::keep(2)); }),
      "dart: features of rows [1, 7) were given, but image and text pivots lie in rows [1, 9)");
  EXPECT_EQ(with_pivots(2, 0).plan(without_text, Budget::keep(4)).output_tokens(), 7);
  const tokenfold::Sequence few_keys(
      c.layout, tokenfold::Features(c.features),
      tokenfold::Keys(HeadsView<const double>(c.keys.data(), {1, 8, 2}, {16, 2})));
  EXPECT_EQ(support::refusal([&] { DART{}.plan(few_keys, Budget::keep(2)); }),
            "sequence: 8 keys were given for 9 tokens");
}

TEST(DART, keys_of_the_attention_source_serve_as_well) {
  const Case c;
  const auto heads = tokenfold::split_heads(c.keys, 2);
  const tokenfold::Sequence sequence(c.layout, tokenfold::QueryKeyAttention<double>(heads, heads),
                                     tokenfold::Features(c.features));
  EXPECT_EQ(support::indices(with_pivots(1, 0).plan(sequence, Budget::keep(3)).kept()),
            (Rows{0, 2, 4, 5, 7, 8}));
}

TEST(DART, options_by_name) {
  DART method;
  std::vector<std::string> names;
  const auto visit = [&](const char* name, auto& value, const char*) {
    names.push_back(name);
    if constexpr (std::is_same_v<decltype(value), Index&>) value += 3;
  };
  method.options(visit);
  EXPECT_EQ(names, (std::vector<std::string>{"image_pivots", "text_pivots", "pivots_by", "norm",
                                             "pivot_order", "count", "order"}));
  EXPECT_EQ(method.filter.image_pivots, 7);
  EXPECT_EQ(method.filter.text_pivots, 7);
}

struct RandomCase {
  TokenLayout layout;
  reference::DartInput input;
  reference::DartOptions options;
  DART method;
  Index keep = 0;
  std::vector<std::size_t> quotas;
};

template <class T>
RandomCase random_case(Random& random) {
  RandomCase c;
  const Index before = random.below(4);
  const Index visual = 1 + random.below(60);
  const Index after = random.below(8);
  c.layout = TokenLayout::decoder(before, visual, after);
  const auto p = static_cast<std::size_t>(c.layout.tokens());
  c.input.features = support::normal_matrix<T>(p, 6, random);
  c.input.keys = support::normal_heads<T>(3, p, 4, random);
  c.input.visual_begin = static_cast<std::size_t>(before);
  c.input.visual_end = static_cast<std::size_t>(before + visual);
  c.input.text_end = p;

  auto& f = c.method.filter;
  f.image_pivots = 1 + random.below(6);
  f.text_pivots = random.below(6);
  f.pivots_by = random.chance(0.3) ? PivotSource::features : PivotSource::keys;
  f.norm = random.chance(0.3) ? RowNorm::l2 : RowNorm::l1;
  f.pivot_order = random.chance(0.5) ? PivotOrder::norm : PivotOrder::images_first;
  f.count = random.chance(0.3) ? PickCount::released : PickCount::exact;
  c.options.image_pivots = static_cast<std::size_t>(f.image_pivots);
  c.options.text_pivots = static_cast<std::size_t>(f.text_pivots);
  c.options.norm_of_features = f.pivots_by == PivotSource::features;
  c.options.squared_norm = f.norm == RowNorm::l2;
  c.options.turns = f.pivot_order == PivotOrder::norm ? reference::DartTurns::falling_norm
                                                      : reference::DartTurns::images_first;

  c.keep = std::min(f.image_pivots + random.below(visual), visual);
  const Index images = std::min(f.image_pivots, visual);
  const auto pivots = static_cast<std::size_t>(images + std::min(f.text_pivots, after));
  c.quotas = f.count == PickCount::released && c.keep < visual
                 ? std::vector<std::size_t>(pivots, static_cast<std::size_t>(c.keep) / pivots)
                 : reference::dart_even_quotas(static_cast<std::size_t>(c.keep - images), pivots);
  return c;
}

/// In float, a case whose decisions hang on the last bits proves nothing: decisions have to survive
/// changes of the input in the sixth digit.
bool is_determined(const RandomCase& c, Random& random) {
  const auto exact = reference::dart(c.input, c.options, c.quotas);
  for (int trial = 0; trial < 3; ++trial) {
    reference::DartInput other = c.input;
    other.features.values = support::perturbed(other.features.values, 2e-6, random);
    other.keys.values = support::perturbed(other.keys.values, 2e-6, random);
    const auto result = reference::dart(other, c.options, c.quotas);
    if (result.turns != exact.turns || result.picks != exact.picks) return false;
  }
  return true;
}

template <class T>
void follows_the_reference() {
  Random random(21);
  int checked = 0;
  for (int i = 0; i < 300; ++i) {
    const RandomCase c = random_case<T>(random);
    if (std::is_same_v<T, float> && !is_determined(c, random)) continue;
    ++checked;
    const Tensor<T> features = support::tensor<T>(c.input.features);
    const std::vector<T> keys = support::cast<T>(c.input.keys.values);
    const Index p = c.layout.tokens();
    const tokenfold::Sequence sequence(
        c.layout, tokenfold::Features(features),
        tokenfold::Keys(HeadsView<const T>(keys.data(), {3, p, 4}, {p * 4, 4})));
    const auto expected = reference::dart(c.input, c.options, c.quotas);
    tokenfold::Workspace workspace;
    tokenfold::ReductionPlan plan;
    c.method.plan(sequence, Budget::keep(c.keep), workspace, plan);
    EXPECT_EQ(support::indices(workspace.partition.preserved), support::indices(expected.preserved))
        << "case " << i;

    DART in_turn = c.method;
    in_turn.filter.order = TokenOrder::score;
    in_turn.plan(sequence, Budget::keep(c.keep), workspace, plan);
    reference::Rows chosen = expected.image_pivots;
    for (const reference::Rows& picks : expected.picks) {
      chosen.insert(chosen.end(), picks.begin(), picks.end());
    }
    if (static_cast<Index>(chosen.size()) == c.layout.visual_count()) {
      std::sort(chosen.begin(), chosen.end());  // all stay where they are
    }
    EXPECT_EQ(support::indices(workspace.partition.preserved), support::indices(chosen))
        << "case " << i;
  }
  EXPECT_GT(checked, 250);
}

TEST(DART, random_cases_follow_the_reference_in_float) { follows_the_reference<float>(); }
TEST(DART, random_cases_follow_the_reference_in_double) { follows_the_reference<double>(); }

TEST(DART, narrow_types_compile_and_agree) {
  const Case c;
  const tokenfold::DART method = with_pivots(1, 1);
  const auto kept = [&](auto zero) {
    using T = decltype(zero);
    const Tensor<T> features = c.features.cast<T>();
    const Tensor<T> keys = c.keys.cast<T>();
    return support::indices(
        method
            .plan(tokenfold::Sequence(c.layout, tokenfold::Features(features),
                                      tokenfold::Keys(tokenfold::split_heads(keys, 2))),
                  Budget::keep(3))
            .kept());
  };
  EXPECT_EQ(kept(Eigen::half{}), kept(0.0));
  EXPECT_EQ(kept(Eigen::bfloat16{}), kept(0.0));
}

}  // namespace
