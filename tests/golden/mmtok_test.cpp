// SPDX-License-Identifier: Apache-2.0
// MMTok against the golden files.

#include <gtest/gtest.h>

#include <string>
#include <tokenfold/methods/mmtok.hpp>
#include <vector>

#include "golden/golden_file.hpp"
#include "reference/mmtok.hpp"
#include "support/outcome.hpp"

namespace {

using support::Outcome;
using tokenfold::Budget;
using tokenfold::Index;

class MMTokGolden : public testing::TestWithParam<std::string> {
 protected:
  /// By patch: is it padding?
  std::vector<bool> excluded() const {
    std::vector<bool> result(static_cast<std::size_t>(file_.count("n_tokens")), false);
    if (GetParam().find("padding") != std::string::npos) {
      for (const Index row : file_.indices("excluded_indices")) {
        result.at(static_cast<std::size_t>(row)) = true;
      }
    }
    return result;
  }

  tokenfold::TokenLayout layout() const {
    const Index n = file_.count("n_tokens");
    tokenfold::LayoutDescription d;
    d.tokens = n;
    d.visual = {0, n};
    for (const bool padding : excluded()) {
      d.cells.push_back(padding ? tokenfold::padding_cell : 0);
    }
    return tokenfold::TokenLayout(d);
  }

  tokenfold::MMTok method() const {
    tokenfold::MMTok method;
    method.filter.alpha = file_.number("alpha");
    method.filter.text_temperature = file_.number("tv_temp");
    method.filter.vision_temperature = file_.number("vv_temp");
    return method;
  }

  template <class T>
  void check() const {
    const auto tokens = support::tensor<T>(file_.matrix("tokens"));
    const auto vision = support::tensor<T>(file_.matrix("vision_embeds"));
    const auto text = support::tensor<T>(file_.matrix("text_embeds"));
    const tokenfold::TokenLayout rows = layout();
    const tokenfold::Sequence sequence(rows, tokenfold::Features(tokens),
                                       tokenfold::ImageEmbeddings(vision),
                                       tokenfold::TextEmbeddings(text));
    const Budget budget = Budget::keep(file_.count("keep"));
    const Outcome outcome = support::run<T>(method(), sequence, budget, file_.matrix("tokens"));
    EXPECT_EQ(outcome.kept, file_.indices("kept_indices"));
    EXPECT_TRUE(support::close(outcome.output.values, file_.doubles("output"), 0, 0));

    tokenfold::MMTok in_order = method();
    in_order.filter.order = tokenfold::TokenOrder::score;
    const Outcome picked = support::run<T>(in_order, sequence, budget, file_.matrix("tokens"));
    const std::vector<Index> picks = file_.indices("selection_indices");
    EXPECT_EQ(picked.preserved, picks);
    std::vector<double> gains;
    for (const Index row : picks) {
      gains.push_back(picked.scores.at(static_cast<std::size_t>(rows.ordinal(row))));
    }
    EXPECT_TRUE(support::close(gains, file_.doubles("selection_gains"), 1e-5, 1e-6));
  }

  golden::File file_{GetParam()};
};

TEST_P(MMTokGolden, float_gives_the_file) { check<float>(); }
TEST_P(MMTokGolden, double_gives_the_file) { check<double>(); }

TEST_P(MMTokGolden, reference_gives_the_file) {
  const reference::MmtokResult result =
      reference::mmtok({.features = file_.matrix("tokens"),
                        .image_embeddings = file_.matrix("vision_embeds"),
                        .text_embeddings = file_.matrix("text_embeds"),
                        .excluded = excluded()},
                       static_cast<std::size_t>(file_.count("keep")),
                       {.alpha = file_.number("alpha"),
                        .text_temperature = file_.number("tv_temp"),
                        .vision_temperature = file_.number("vv_temp")});
  EXPECT_EQ(support::indices(result.picks), file_.indices("selection_indices"));
  EXPECT_TRUE(support::close(result.gains, file_.doubles("selection_gains"), 1e-6, 0));
}

INSTANTIATE_TEST_SUITE_P(Files, MMTokGolden,
                         testing::Values("mmtok_n36_m5_k9", "mmtok_n49_m4_k8_padding",
                                         "mmtok_n64_m3_k24_jit", "mmtok_n144_m11_k36"),
                         [](const auto& param) { return param.param; });

}  // namespace
