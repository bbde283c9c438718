// SPDX-License-Identifier: Apache-2.0

// FiCoCo-V and FiCoCo-L against the golden files.

#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <string>
#include <tokenfold/tokenfold.hpp>
#include <type_traits>
#include <vector>

#include "golden/golden_file.hpp"
#include "support/outcome.hpp"

namespace {

using golden::File;
using support::Outcome;
using support::Tensor;
using tokenfold::AttentionDirection;
using tokenfold::AttentionKind;
using tokenfold::Budget;
using tokenfold::FiCoCoL;
using tokenfold::FiCoCoV;
using tokenfold::HeadsView;
using tokenfold::Index;
using tokenfold::Token;
using tokenfold::TokenLayout;

AttentionDirection direction(const File& file) {
  return file.text("direction") == "given" ? AttentionDirection::given
                                           : AttentionDirection::received;
}

// The method on the attention as stored, and on attention computed from the stored queries and
// keys.
template <class T, class Method>
std::vector<Outcome> outcomes(const File& file, const TokenLayout& layout, const Method& method,
                              bool causal) {
  const bool logits = file.text("kind") == "logits";
  const AttentionKind kind = logits ? AttentionKind::logits : AttentionKind::probabilities;
  const Budget budget = Budget::discard(file.count("discard"));
  const std::vector<T> queries = file.values<T>("queries");
  const std::vector<T> keys = file.values<T>("keys");
  const HeadsView<const T> key_heads = file.heads(keys, "keys");
  const tokenfold::QueryKeyAttention<T> computed(file.heads(queries, "queries"), key_heads,
                                                 {.kind = kind, .causal = causal});
  const std::string name = logits ? "head_mean_logits" : "attention";
  const std::vector<T> values = file.values<T>(name);
  const tokenfold::DenseAttention<T> stored(file.heads(values, name), {.kind = kind});
  const reference::Matrix tokens = file.matrix("tokens");
  return {
      support::run<T>(method, tokenfold::Sequence(layout, computed), budget, tokens),
      support::run<T>(method, tokenfold::Sequence(layout, stored, tokenfold::Keys<T>(key_heads)),
                      budget, tokens)};
}

template <class T>
void expect_paper_result(const File& file, const Outcome& outcome) {
  // In float, terms of the largest size that cancel leave a few of their own rounding errors.
  const double floor = std::is_same_v<T, float> ? 5e-7 : 1e-7;
  EXPECT_EQ(outcome.discarded, file.indices("discarded_indices"));
  EXPECT_EQ(outcome.kept, file.indices("kept_indices"));
  EXPECT_TRUE(support::close(outcome.scores, file.doubles("scores"), 1e-5, floor));
  std::vector<Index> sources;
  std::vector<Index> targets;
  std::vector<double> alphas;
  for (const support::Link& link : outcome.links) {
    sources.push_back(link.source);
    targets.push_back(link.target);
    alphas.push_back(link.alpha);
  }
  EXPECT_EQ(sources, file.indices("link_src_indices"));
  EXPECT_EQ(targets, file.indices("link_dst_indices"));
  EXPECT_TRUE(support::close(alphas, file.doubles("link_weights")));
  EXPECT_TRUE(support::close(outcome.output.values, file.doubles("output"), 1e-5, floor));
}

std::string test_name(const testing::TestParamInfo<const char*>& info) { return info.param; }

// --- FiCoCo-V ------------------------------------------------------------------------------------

class FiCoCoVGolden : public testing::TestWithParam<const char*> {
 protected:
  File file_ = File(GetParam());

  TokenLayout layout() const {
    const std::string grid = file_.text("grid");
    tokenfold::LayoutDescription d;
    d.tokens = file_.extent("tokens", 0);
    d.grid = {std::stol(grid), std::stol(grid.substr(grid.find('x') + 1))};
    if (file_.text("cls") == "True") d.cls = 0;
    d.visual = {d.cls ? 1 : 0, d.tokens};
    for (const Index cell : file_.indices("grid_positions")) {
      d.cells.push_back(static_cast<Token>(cell));
    }
    return TokenLayout(d);
  }
  FiCoCoV method() const {
    FiCoCoV method;
    method.filter.lambda = file_.number("lam");
    method.filter.direction = direction(file_);
    if (file_.text("score_normalization") == "l2") {
      method.filter.normalization = tokenfold::filter::ScoreNormalization::l2;
    }
    EXPECT_EQ(file_.text("window"), "(2, 2)");
    method.filter.penalty.coefficient = file_.number("c");
    method.correlate.targets.epsilon = file_.number("eps");
    return method;
  }

  template <class T>
  void check(const FiCoCoV& method) const {
    const TokenLayout layout = this->layout();
    for (const Outcome& outcome : outcomes<T>(file_, layout, method, false)) {
      expect_paper_result<T>(file_, outcome);
    }
    FiCoCoV without_penalty = method;
    without_penalty.filter.penalty.coefficient = 1;
    for (const Outcome& outcome : outcomes<T>(file_, layout, without_penalty, false)) {
      EXPECT_TRUE(support::close(outcome.scores, file_.doubles("scores_before_penalty")));
    }
  }
};

TEST_P(FiCoCoVGolden, float_gives_the_file) { check<float>(method()); }
TEST_P(FiCoCoVGolden, double_gives_the_file) { check<double>(method()); }

INSTANTIATE_TEST_SUITE_P(Files, FiCoCoVGolden,
                         testing::Values("ficoco_v_g12x12_r42", "ficoco_v_g4x4_r4",
                                         "ficoco_v_g5x7_ragged_r9", "ficoco_v_g6x6_alive25_r6",
                                         "ficoco_v_g6x6_nocls_r10",
                                         "ficoco_v_g8x8_logits_given_l2_r12"),
                         test_name);

// The presets are what the files of their kind were made with.
class FiCoCoVDefaultsGolden : public FiCoCoVGolden {};
TEST_P(FiCoCoVDefaultsGolden, default_options_give_the_file) { check<float>(FiCoCoV{}); }
INSTANTIATE_TEST_SUITE_P(Files, FiCoCoVDefaultsGolden,
                         testing::Values("ficoco_v_g4x4_r4", "ficoco_v_g5x7_ragged_r9",
                                         "ficoco_v_g6x6_alive25_r6", "ficoco_v_g6x6_nocls_r10"),
                         test_name);

class FiCoCoVReleasedGolden : public FiCoCoVGolden {};
TEST_P(FiCoCoVReleasedGolden, preset_gives_the_file) {
  check<float>(tokenfold::ficoco_v_released());
}
INSTANTIATE_TEST_SUITE_P(Files, FiCoCoVReleasedGolden,
                         testing::Values("ficoco_v_g8x8_logits_given_l2_r12"), test_name);

// --- FiCoCo-L, the paper's equations -------------------------------------------------------------

class FiCoCoLPaperGolden : public testing::TestWithParam<const char*> {
 protected:
  File file_ = File(GetParam());

  template <class T>
  void check() const {
    const Index begin = file_.count("visual_begin");
    const TokenLayout layout =
        TokenLayout::decoder(begin, file_.count("visual_count"), file_.count("text_after"));
    ASSERT_EQ(layout.tokens(), file_.extent("tokens", 0));
    FiCoCoL method;
    method.filter.beta = file_.number("beta");
    method.filter.direction = direction(file_);
    method.correlate.gamma = file_.number("gamma");
    method.correlate.direction = direction(file_);
    method.correlate.targets.epsilon = file_.number("eps");
    for (const Outcome& outcome :
         outcomes<T>(file_, layout, method, file_.text("causal") == "True")) {
      expect_paper_result<T>(file_, outcome);
    }
  }
};

TEST_P(FiCoCoLPaperGolden, float_gives_the_file) { check<float>(); }
TEST_P(FiCoCoLPaperGolden, double_gives_the_file) { check<double>(); }

INSTANTIATE_TEST_SUITE_P(Files, FiCoCoLPaperGolden,
                         testing::Values("ficoco_l_paper_s0_v64_t6_r20_logits_given",
                                         "ficoco_l_paper_s5_v36_t9_r10",
                                         "ficoco_l_paper_s20_v144_t15_r42"),
                         test_name);

// --- FiCoCo-L as released ------------------------------------------------------------------------

class FiCoCoLReleasedGolden : public testing::TestWithParam<const char*> {
 protected:
  File file_ = File(GetParam());

  template <class T>
  void check() const {
    const TokenLayout layout =
        TokenLayout::decoder(0, file_.count("v_tokens"), file_.count("text_tokens"));
    FiCoCoL method = tokenfold::ficoco_l_released();
    EXPECT_EQ(method.filter.beta, file_.number("beta_g"));
    EXPECT_EQ(method.correlate.gamma, file_.number("gamma_a"));
    EXPECT_EQ(method.correlate.targets.epsilon, file_.number("quantile"));
    method.filter.protect_first = file_.text("protect_first") == "True";
    const Tensor<T> logits = support::tensor<T>(file_.matrix("logits"));
    const auto attention = tokenfold::head_mean_attention(logits, {.kind = AttentionKind::logits});
    const Outcome outcome =
        support::run<T>(method, tokenfold::Sequence(layout, attention),
                        Budget::discard(file_.count("r")), file_.matrix("tokens"));

    // The file lists the discarded tokens by falling score, the targets of each by falling weight.
    const std::vector<Index> discard_order = file_.indices("discarded_indices");
    std::vector<Index> ascending = discard_order;
    std::sort(ascending.begin(), ascending.end());
    EXPECT_EQ(outcome.discarded, ascending);
    EXPECT_EQ(outcome.kept, file_.indices("kept_indices"));
    const auto score = [&](Index row) { return outcome.scores[static_cast<std::size_t>(row)]; };
    for (std::size_t i = 1; i < discard_order.size(); ++i) {
      EXPECT_GT(score(discard_order[i - 1]), score(discard_order[i])) << i;
    }

    std::vector<Index> targets;
    std::vector<Index> rows;
    std::vector<double> weights;
    for (const Index source : discard_order) {
      std::vector<support::Link> links;
      std::copy_if(outcome.links.begin(), outcome.links.end(), std::back_inserter(links),
                   [&](const support::Link& link) { return link.source == source; });
      std::sort(links.begin(), links.end(),
                [](const support::Link& a, const support::Link& b) { return a.alpha > b.alpha; });
      for (const support::Link& link : links) {
        const auto row = std::find(outcome.kept.begin(), outcome.kept.end(), link.target);
        targets.push_back(link.target);
        rows.push_back(row == outcome.kept.end() ? -1 : row - outcome.kept.begin());
        weights.push_back(link.alpha);
        if (row != outcome.kept.end()) {
          EXPECT_NEAR(outcome.weights(static_cast<std::size_t>(rows.back()),
                                      static_cast<std::size_t>(source)),
                      link.alpha, 1e-6);
        }
      }
    }
    EXPECT_EQ(targets, file_.indices("target_indices"));
    EXPECT_EQ(rows, file_.indices("target_rows"));
    EXPECT_TRUE(support::close(weights, file_.doubles("target_weights")));
    EXPECT_TRUE(support::close(outcome.output.values, file_.doubles("output")));
  }
};

TEST_P(FiCoCoLReleasedGolden, float_gives_the_file) { check<float>(); }
TEST_P(FiCoCoLReleasedGolden, double_gives_the_file) { check<double>(); }

INSTANTIATE_TEST_SUITE_P(Files, FiCoCoLReleasedGolden,
                         testing::Values("ficoco_l_released_v144_t20_r42",
                                         "ficoco_l_released_v20_t8_r4",
                                         "ficoco_l_released_v45_t10_r12_noprotect",
                                         "ficoco_l_released_v520_t10_r42_topk2"),
                         test_name);

}  // namespace
