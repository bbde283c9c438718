// SPDX-License-Identifier: Apache-2.0
// MMTok on cases worked out by hand, and against the naive reference.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tokenfold/methods/mmtok.hpp>
#include <vector>

#include "reference/mmtok.hpp"
#include "support/outcome.hpp"
#include "support/random.hpp"

namespace {

using reference::Matrix;
using support::Outcome;
using support::Random;
using support::Tensor;
using tokenfold::Budget;
using tokenfold::Index;
using tokenfold::MMTok;
using tokenfold::Token;
using tokenfold::TokenLayout;
using tokenfold::TokenOrder;

using Rows = std::vector<Index>;
constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

MMTok in_order(MMTok method = {}) {
  method.filter.order = TokenOrder::score;
  return method;
}

/// N image rows and nothing else; matrices may have no rows.
template <class T = double>
Outcome mmtok(const MMTok& method, const Matrix& features, const Matrix& embeddings,
              const Matrix& text, const Budget& budget) {
  const auto x = support::tensor<T>(features);
  const auto y = support::tensor<T>(embeddings);
  const auto z = support::tensor<T>(text);
  const TokenLayout layout =
      TokenLayout::decoder(0, static_cast<Index>(std::max(features.rows, embeddings.rows)), 0);
  return support::run<T>(
      method,
      tokenfold::Sequence(layout, tokenfold::Features(x), tokenfold::ImageEmbeddings(y),
                          tokenfold::TextEmbeddings(z)),
      budget, Matrix(static_cast<std::size_t>(layout.tokens()), 1));
}

const Matrix axes(3, 2, {1, 0, 1, 0, 0, 1});  // two tokens alike, one orthogonal to them

TEST(MMTok, gains_are_those_of_the_two_softmaxes) {
  const MMTok method =
      in_order({.filter = {.alpha = 0.5, .text_temperature = 1, .vision_temperature = 0.5}});
  const Outcome o = mmtok(method, axes, axes, Matrix(1, 2, {0, 3}), Budget::keep(2));
  EXPECT_EQ(o.preserved, (Rows{2, 0}));
  const double e = std::exp(1);
  const double q = std::exp(2);
  const double first = e / (2 + e) + 0.5 / 3 * (q / (2 + q) + 2 / (2 * q + 1));
  const double second = 0.5 / 3 * 2 * (q - 1) / (2 * q + 1);
  EXPECT_TRUE(support::close(o.scores, {second, 0, first}, 1e-14));
}

TEST(MMTok, question_decides_where_there_is_one) {
  EXPECT_EQ(mmtok({}, axes, axes, Matrix(1, 2, {0, 1}), Budget::keep(1)).kept, (Rows{2}));
  EXPECT_EQ(mmtok({}, axes, axes, Matrix(1, 2, {1, 0}), Budget::keep(1)).kept, (Rows{0}));
}

TEST(MMTok, without_a_question_the_image_decides) {
  // Token 1 is covered by token 0 then, token 2 by itself alone.
  const Outcome o = mmtok(in_order(), axes, axes, Matrix(0, 2), Budget::keep(2));
  EXPECT_EQ(o.preserved, (Rows{0, 2}));
  const double q = std::exp(5);
  EXPECT_NEAR(o.scores[0], 0.5 / 3 * (2 * q / (2 * q + 1) + 1 / (2 + q)), 1e-14);
  // No features are read then.
  EXPECT_EQ(mmtok(in_order(), Matrix(0, 0), axes, Matrix(0, 0), Budget::keep(2)).scores, o.scores);
  const auto y = support::tensor<double>(axes);
  const TokenLayout layout = TokenLayout::decoder(0, 3, 0);
  const auto plan = MMTok{}.plan(
      tokenfold::Sequence(layout, tokenfold::Features(y), tokenfold::ImageEmbeddings(y)),
      Budget::keep(2));
  EXPECT_EQ(support::indices(plan.kept()), (Rows{0, 2}));
}

TEST(MMTok, without_image_embeddings_the_features_are_covered) {
  const Matrix question(1, 2, {1, 1});
  const Outcome with = mmtok(in_order(), axes, axes, question, Budget::keep(2));
  const Outcome without = mmtok(in_order(), axes, Matrix(0, 0), question, Budget::keep(2));
  EXPECT_EQ(with.preserved, without.preserved);
  EXPECT_EQ(with.scores, without.scores);
}

TEST(MMTok, ties_pick_the_lower_row) {
  const Matrix equal(5, 2, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1});
  EXPECT_EQ(mmtok(in_order(), equal, equal, equal, Budget::keep(3)).preserved, (Rows{0, 1, 2}));
}

TEST(MMTok, qwen_preset_sharpens_the_text_softmax) {
  EXPECT_EQ(tokenfold::mmtok_qwen().filter.text_temperature, 0.01);
  EXPECT_EQ(MMTok{}.filter.text_temperature, 0.02);
}

TEST(MMTok, keeping_all_or_none) {
  EXPECT_EQ(mmtok(in_order(), axes, axes, axes, Budget::keep(3)).kept, (Rows{0, 1, 2}));
  EXPECT_EQ(mmtok({}, axes, axes, axes, Budget::keep(0)).kept, (Rows{}));
  EXPECT_EQ(mmtok({}, Matrix(0, 2), Matrix(0, 2), axes, Budget::keep(0)).kept, (Rows{}));
}

TEST(MMTok, zero_rows_are_similar_to_nothing) {
  const Matrix rows(4, 2, {0, 0, 1, 0, 1, 0.1, 0, 0});
  const Matrix text(2, 2, {0, 0, 1, 0});  // a zero word likes all tokens the same
  const Outcome o = mmtok(in_order(), rows, rows, text, Budget::keep(3));
  EXPECT_EQ(o.preserved.front(), 1);
  const reference::MmtokResult expected =
      reference::mmtok({rows, rows, text, {false, false, false, false}}, 3, {});
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(o.scores[static_cast<std::size_t>(o.preserved[i])], expected.gains[i], 1e-14);
  }
}

TEST(MMTok, zero_rows_survive_any_temperature) {
  const Matrix rows(3, 2, {0, 0, 1, 0, 0, 1});
  const MMTok sharp = in_order({.filter = {.text_temperature = 1e-4, .vision_temperature = 1e-4}});
  for (const double score : mmtok(sharp, rows, rows, rows, Budget::keep(2)).scores) {
    EXPECT_TRUE(std::isfinite(score));
  }
  EXPECT_EQ(mmtok(sharp, rows, rows, Matrix(0, 2), Budget::keep(2)).kept, (Rows{1, 2}));
}

TEST(MMTok, tokens_that_are_not_finite_are_picked_last) {
  for (const double bad : {nan, infinity, -infinity}) {
    const Matrix broken(4, 2, {bad, 1, 1, 0, 1, 0.5, 0, 1});
    const Matrix whole(4, 2, {1, 1, 1, 0, 1, 0.5, 0, 1});
    const Matrix text(2, 2, {1, 1, nan, 0});
    for (const auto& [x, y] : {std::pair{broken, whole}, {whole, broken}, {broken, broken}}) {
      const Outcome o = mmtok(in_order(), x, y, text, Budget::keep(3));
      EXPECT_EQ(std::count(o.preserved.begin(), o.preserved.end(), 0), 0);
      for (const double score : o.scores) EXPECT_TRUE(std::isfinite(score));
    }
  }
  const Matrix two(3, 1, {nan, nan, 1});
  EXPECT_EQ(mmtok(in_order(), two, two, Matrix(0, 1), Budget::keep(2)).preserved, (Rows{2, 0}));
}

TEST(MMTok, rows_as_long_as_float_can_hold) {
  const float big = std::numeric_limits<float>::max();
  const Matrix rows(3, 2, {big, big, big, -big, 1, 0});
  const Outcome o = mmtok<float>({}, rows, rows, rows, Budget::keep(2));
  EXPECT_EQ(o.preserved.size(), 2u);
  for (const double score : o.scores) EXPECT_TRUE(std::isfinite(score));
}

TEST(MMTok, bad_options_and_shapes_are_refused) {
  const auto refusal = [](const MMTok& method, const Matrix& x, const Matrix& y, const Matrix& z) {
    return support::refusal([&] { mmtok(method, x, y, z, Budget::keep(1)); });
  };
  EXPECT_EQ(refusal({.filter = {.alpha = -1}}, axes, axes, axes),
            "mmtok: alpha must not be negative, got -1");
  EXPECT_EQ(refusal({.filter = {.text_temperature = 0}}, axes, axes, axes),
            "mmtok: text_temperature must be positive, got 0");
  EXPECT_EQ(refusal({.filter = {.vision_temperature = nan}}, axes, axes, axes),
            "mmtok: vision_temperature must be positive, got nan");
  EXPECT_EQ(refusal({}, axes, axes, Matrix(1, 3)), "mmtok: text embeddings are 3 wide, features 2");
  EXPECT_EQ(refusal({}, axes, Matrix(2, 2), axes),
            "mmtok: image embeddings: rows [0, 2) were given, but the visual tokens lie in rows "
            "[0, 3)");
  EXPECT_EQ(refusal({}, Matrix(0, 2), axes, axes),
            "mmtok: features: rows [0, 0) were given, but the visual tokens lie in rows [0, 3)");
}

TEST(MMTok, padding_must_be_covered_by_the_features) {
  const TokenLayout layout({.tokens = 4, .visual = {0, 4}, .cells = {0, 0, 0, -2}});
  const auto three = support::tensor<double>(axes);
  EXPECT_EQ(support::refusal([&] {
              MMTok{}.plan(tokenfold::Sequence(layout, tokenfold::Features(three)),
                           Budget::keep(1));
            }),
            "mmtok: image embeddings: rows [0, 3) were given, but row 3 is padding");
}

/// Visual tokens, special rows and padding in any order behind two rows of text; embeddings that
/// begin in between.
struct RandomCase {
  /// With entries that T can hold.
  template <class T>
  RandomCase(Random& random, std::size_t most, T) {
    std::vector<Token> cells;
    const std::size_t rows = 1 + static_cast<std::size_t>(random.below(static_cast<Index>(most)));
    const bool plain = random.chance(0.4);
    for (std::size_t i = 0; i < rows; ++i) {
      cells.push_back(plain || random.chance(0.7) ? 0
                      : random.chance(0.5)        ? tokenfold::no_token
                                                  : tokenfold::padding_cell);
    }
    const Index p = static_cast<Index>(rows) + 3;
    layout = TokenLayout({.tokens = p, .visual = {2, p - 1}, .cells = cells});
    x = support::normal_matrix<T>(rows + 1, 3 + static_cast<std::size_t>(random.below(6)), random);
    y = support::normal_matrix<T>(rows, 3 + static_cast<std::size_t>(random.below(6)), random);
    z = support::normal_matrix<T>(static_cast<std::size_t>(random.below(5)), x.cols, random);
  }

  /// What the reference is given: visual tokens and padding by row.
  reference::MmtokInput input() const {
    reference::MmtokInput result;
    Rows rows;
    for (Index row = 0; row < layout.tokens(); ++row) {
      const auto& padding = layout.padding();
      const bool is_padding = std::count(padding.begin(), padding.end(), row) > 0;
      if (layout.ordinal(row) < 0 && !is_padding) continue;
      rows.push_back(row);
      result.excluded.push_back(is_padding);
    }
    const auto gathered = [&](const Matrix& from, Index first) {
      Matrix to(rows.size(), from.cols);
      for (std::size_t i = 0; i < rows.size(); ++i) {
        for (std::size_t c = 0; c < from.cols; ++c) {
          to(i, c) = from(static_cast<std::size_t>(rows[i] - first), c);
        }
      }
      return to;
    };
    result.features = gathered(x, 1);
    result.image_embeddings = gathered(y, 2);
    result.text_embeddings = z;
    return result;
  }
  /// Row of the sequence of the reference's token i.
  Rows rows() const {
    Rows result(layout.visual().begin(), layout.visual().end());
    result.insert(result.end(), layout.padding().begin(), layout.padding().end());
    std::sort(result.begin(), result.end());
    return result;
  }

  TokenLayout layout;
  Matrix x;  // from row 1
  Matrix y;  // from row 2
  Matrix z;
};

template <class T>
void compare_with_reference(std::uint64_t seed, int cases, std::size_t most) {
  Random random(seed);
  int compared = 0;
  for (int i = 0; i < cases; ++i) {
    const RandomCase c(random, most, T());
    const Index keep = random.below(c.layout.visual_count());
    MMTok method = in_order();
    method.filter.alpha = random.chance(0.3) ? 0.5 : 2 * random.uniform();
    method.filter.text_temperature = random.chance(0.5) ? 0.02 : 0.01 + random.uniform();
    method.filter.vision_temperature = random.chance(0.5) ? 0.2 : 0.05 + random.uniform();
    const reference::MmtokResult expected =
        reference::mmtok(c.input(), static_cast<std::size_t>(keep),
                         {.alpha = method.filter.alpha,
                          .text_temperature = method.filter.text_temperature,
                          .vision_temperature = method.filter.vision_temperature});
    // Picks that rounding decides prove nothing.
    if (expected.margin < (std::is_same_v<T, float> ? 1e-4 : 1e-10)) continue;
    ++compared;
    const auto x = support::tensor<T>(c.x);
    const auto y = support::tensor<T>(c.y);
    const auto z = support::tensor<T>(c.z);
    const tokenfold::Sequence sequence(c.layout, tokenfold::Features(x, 1),
                                       tokenfold::ImageEmbeddings(y, 2),
                                       tokenfold::TextEmbeddings(z));
    const Outcome o = support::run<T>(method, sequence, Budget::keep(keep),
                                      Matrix(static_cast<std::size_t>(c.layout.tokens()), 1));
    Rows picks;
    std::vector<double> scores(o.scores.size(), 0.0);
    for (std::size_t pick = 0; pick < expected.picks.size(); ++pick) {
      picks.push_back(c.rows().at(expected.picks[pick]));
      scores.at(static_cast<std::size_t>(c.layout.ordinal(picks.back()))) = expected.gains[pick];
    }
    EXPECT_EQ(o.preserved, picks) << "case " << i;
    EXPECT_TRUE(support::close(o.scores, scores, std::is_same_v<T, float> ? 1e-4 : 1e-10, 1e-6));
    // Padding is dropped, special rows and text are not.
    Rows kept = picks;
    for (Index row = 0; row < c.layout.tokens(); ++row) {
      const Rows tokens = c.rows();
      if (std::count(tokens.begin(), tokens.end(), row) == 0) kept.push_back(row);
    }
    Rows out = o.kept;
    std::sort(kept.begin(), kept.end());
    std::sort(out.begin(), out.end());
    EXPECT_EQ(out, kept) << "case " << i;
  }
  EXPECT_GT(compared, cases / 2);
}

TEST(MMTok, double_equals_the_reference) {
  compare_with_reference<double>(1, 60, 40);
  compare_with_reference<double>(2, 3, 200);
}
TEST(MMTok, float_equals_the_reference) { compare_with_reference<float>(3, 60, 40); }

template <class T>
class MMTokNarrow : public testing::Test {};
using Narrow = testing::Types<Eigen::half, Eigen::bfloat16>;
TYPED_TEST_SUITE(MMTokNarrow, Narrow);

TYPED_TEST(MMTokNarrow, picks_what_float_picks_for_the_same_values) {
  Random random(4);
  const Matrix x = support::normal_matrix<TypeParam>(30, 8, random);
  const Matrix y = support::normal_matrix<TypeParam>(30, 6, random);
  const Matrix z = support::normal_matrix<TypeParam>(3, 8, random);
  const std::vector<bool> excluded(30, false);
  ASSERT_GT(reference::mmtok({x, y, z, excluded}, 10, {}).margin, 1e-4);
  EXPECT_EQ(mmtok<TypeParam>(in_order(), x, y, z, Budget::keep(10)).preserved,
            mmtok<float>(in_order(), x, y, z, Budget::keep(10)).preserved);
}

}  // namespace
