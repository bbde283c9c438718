// SPDX-License-Identifier: Apache-2.0
// DivPrune against the golden files of both implementations.

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <tokenfold/methods/divprune.hpp>
#include <vector>

#include "golden/golden_file.hpp"
#include "reference/divprune.hpp"
#include "support/outcome.hpp"

namespace {

using golden::File;
using tokenfold::Budget;
using tokenfold::DivPrune;
using tokenfold::Index;
using tokenfold::TokenLayout;

class DivPruneGolden : public testing::TestWithParam<std::string> {
 protected:
  /// LightCompress names the share that goes, the authors the one that stays.
  Budget budget() const {
    return Budget::keep_ratio(file_.has_text("subset_ratio") ? file_.number("subset_ratio")
                                                             : 1 - file_.number("reduction_ratio"));
  }
  bool has_gains() const { return file_.has_text("subset_ratio"); }

  template <class T>
  void check(DivPrune method) const {
    const Index start = file_.count("vision_token_start_index");
    const TokenLayout layout =
        TokenLayout::decoder(start, file_.count("vision_token_length"), file_.count("text_tokens"));
    ASSERT_EQ(budget().keep_count(layout.visual_count()), file_.count("n_visual_kept"));
    const reference::Matrix tokens = file_.matrix("tokens");
    const support::Tensor<T> features = support::tensor<T>(tokens);
    const tokenfold::Sequence sequence(layout, tokenfold::Features(features));

    const auto outcome = support::run<T>(method, sequence, budget(), tokens);
    EXPECT_EQ(outcome.kept, file_.indices("kept_indices"));
    EXPECT_TRUE(support::close(outcome.output.values, file_.doubles("output"), 0, 0));

    // The same features without the rows of text, and the picks in their order.
    const support::Tensor<T> visual = features.middleRows(start, layout.visual_count());
    method.filter.order = tokenfold::TokenOrder::score;
    const auto picked = support::run<T>(
        method, tokenfold::Sequence(layout, tokenfold::Features(visual, start)), budget(), tokens);
    const std::vector<Index> picks = file_.indices("selection_indices");
    EXPECT_EQ(picked.preserved, picks);
    if (has_gains()) {
      std::vector<double> gains;
      for (const Index row : picks) {
        gains.push_back(outcome.scores[static_cast<std::size_t>(row - start)]);
      }
      EXPECT_TRUE(support::close(gains, file_.doubles("selection_gains"), 1e-5, 1e-6));
    }
  }

  File file_{GetParam()};
};

TEST_P(DivPruneGolden, float_gives_the_file) { check<float>({}); }
TEST_P(DivPruneGolden, double_gives_the_file) { check<double>({}); }
TEST_P(DivPruneGolden, released_gives_the_file) { check<double>(tokenfold::divprune_released()); }

TEST_P(DivPruneGolden, reference_gives_the_file) {
  const auto start = static_cast<std::size_t>(file_.count("vision_token_start_index"));
  const reference::Matrix tokens = file_.matrix("tokens");
  reference::Matrix visual(static_cast<std::size_t>(file_.count("vision_token_length")),
                           tokens.cols);
  std::copy_n(tokens.values.begin() + static_cast<std::ptrdiff_t>(start * tokens.cols),
              visual.values.size(), visual.values.begin());
  for (const bool mask : {true, false}) {
    const auto result =
        reference::divprune(visual, static_cast<std::size_t>(file_.count("n_visual_kept")),
                            {.mask = mask, .centering = {}});
    std::vector<Index> rows;
    for (const std::size_t v : result.picks) rows.push_back(static_cast<Index>(start + v));
    EXPECT_EQ(rows, file_.indices("selection_indices"));
    EXPECT_GT(result.margin, 1e-5);
    if (has_gains()) {
      EXPECT_TRUE(support::close(result.gains, file_.doubles("selection_gains"), 1e-5, 1e-6));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Files, DivPruneGolden,
                         testing::Values("divprune_n36_keep25", "divprune_n144_keep25",
                                         "divprune_s4_n50_t6_keep10",
                                         "divprune_official_s35_n36_t6_r25",
                                         "divprune_official_s35_n50_t0_r25_halfeven",
                                         "divprune_official_s35_n144_t15_r098"),
                         [](const auto& param) { return param.param; });

}  // namespace
