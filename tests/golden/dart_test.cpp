// SPDX-License-Identifier: Apache-2.0
// DART against the golden files.

#include "reference/dart.hpp"

#include <gtest/gtest.h>

#include <string>
#include <tokenfold/methods/dart.hpp>
#include <tokenfold/tokenfold.hpp>
#include <vector>

#include "golden/golden_file.hpp"
#include "support/outcome.hpp"

namespace {

using golden::File;
using tokenfold::Budget;
using tokenfold::Index;
using tokenfold::Token;
using tokenfold::TokenLayout;

class DARTGolden : public testing::TestWithParam<std::string> {
 protected:
  Index begin() const { return file_.count("vision_token_start_index"); }
  Index visual() const { return file_.count("vision_token_length"); }
  Index text() const { return file_.count("text_tokens"); }

  /// Image tokens in the order of being chosen: pivots, then picks.
  std::vector<Index> chosen() const {
    std::vector<Index> rows = file_.indices("pivot_image_indices");
    const std::vector<Index> picks = file_.indices("picks_indices");
    rows.insert(rows.end(), picks.begin(), picks.end());
    return rows;
  }

  /// `first_row`: features begin with this row of the sequence.
  template <class T>
  void check(Index first_row, tokenfold::TokenOrder order) const {
    const TokenLayout layout = TokenLayout::decoder(begin(), visual(), text());
    const std::vector<T> tokens = file_.values<T>("tokens");
    const std::vector<T> keys = file_.values<T>("keys");
    const Index d = file_.extent("tokens", 1);
    const tokenfold::MatrixView<const T> features(tokens.data() + first_row * d,
                                                  layout.tokens() - first_row, d);
    const tokenfold::Sequence sequence(layout, tokenfold::Features<T>(features, first_row),
                                       tokenfold::Keys(file_.heads(keys, "keys")));
    tokenfold::DART method = tokenfold::dart_released();
    method.filter.image_pivots = file_.count("pivot_image_token");
    method.filter.text_pivots = file_.count("pivot_text_token");
    method.filter.order = order;
    const Budget budget =
        Budget::keep_ratio(1 - file_.number("reduction_ratio"), tokenfold::Rounding::floor);
    tokenfold::Workspace workspace;
    tokenfold::ReductionPlan plan;
    method.plan(sequence, budget, workspace, plan);
    EXPECT_TRUE(plan.selects_only());
    if (order == tokenfold::TokenOrder::score) {
      EXPECT_EQ(support::indices(workspace.partition.preserved), chosen());
      return;
    }
    EXPECT_EQ(support::indices(workspace.partition.preserved), file_.indices("kept_image_indices"));
    EXPECT_EQ(plan.output_tokens(), file_.count("n_output"));
    EXPECT_EQ(support::indices(plan.kept()), file_.indices("kept_indices"));
    EXPECT_TRUE(support::close(support::apply<T>(plan, file_.matrix("tokens")).values,
                               file_.doubles("output"), 0, 0));
  }

  template <class T>
  void check_all_forms() const {
    for (const Index first_row : {Index{0}, begin()}) {
      check<T>(first_row, tokenfold::TokenOrder::raster);
      check<T>(first_row, tokenfold::TokenOrder::score);
    }
  }

  File file_{GetParam()};
};

TEST_P(DARTGolden, float_gives_the_file) { check_all_forms<float>(); }
TEST_P(DARTGolden, double_gives_the_file) { check_all_forms<double>(); }

TEST_P(DARTGolden, pivots_take_turns_as_in_the_file) {
  std::vector<Token> rows;
  for (const char* pivots : {"pivot_image_indices", "pivot_text_indices"}) {
    for (const Index row : file_.indices(pivots)) rows.push_back(static_cast<Token>(row));
  }
  tokenfold::Workspace workspace;
  tokenfold::detail::python_set_order(rows, workspace);
  EXPECT_EQ(support::indices(rows), file_.indices("pivot_order_indices"));
}

TEST_P(DARTGolden, reference_gives_the_file) {
  const auto size = [&](const std::string& name, std::size_t axis) {
    return static_cast<std::size_t>(file_.extent(name, axis));
  };
  reference::DartInput input;
  input.features = file_.matrix("tokens");
  input.keys =
      reference::Heads(size("keys", 0), size("keys", 1), size("keys", 2), file_.doubles("keys"));
  input.visual_begin = static_cast<std::size_t>(begin());
  input.visual_end = input.visual_begin + static_cast<std::size_t>(visual());
  input.text_end = input.visual_end + static_cast<std::size_t>(text());
  reference::DartOptions options;
  options.image_pivots = static_cast<std::size_t>(file_.count("pivot_image_token"));
  options.text_pivots = static_cast<std::size_t>(file_.count("pivot_text_token"));
  options.turns = reference::DartTurns::given;
  for (const Index row : file_.indices("pivot_order_indices")) {
    options.given_turns.push_back(static_cast<std::size_t>(row));
  }
  const auto quotas = reference::dart_released_quotas(static_cast<std::size_t>(visual()),
                                                      file_.number("reduction_ratio"),
                                                      options.image_pivots + options.text_pivots);
  EXPECT_EQ(static_cast<Index>(quotas.front()), file_.count("token_topk"));
  const reference::DartResult result = reference::dart(input, options, quotas);
  EXPECT_EQ(support::indices(result.image_pivots), file_.indices("pivot_image_indices"));
  EXPECT_EQ(support::indices(result.text_pivots), file_.indices("pivot_text_indices"));
  std::vector<Index> picks;
  for (const reference::Rows& rows : result.picks) {
    for (const std::size_t row : rows) picks.push_back(static_cast<Index>(row));
  }
  EXPECT_EQ(picks, file_.indices("picks_indices"));
  EXPECT_EQ(support::indices(result.preserved), file_.indices("kept_image_indices"));
}

INSTANTIATE_TEST_SUITE_P(Files, DARTGolden,
                         testing::Values("dart_s3_n64_t8_r75_p2", "dart_s5_n48_t10_r50",
                                         "dart_s20_n144_t15_r778"),
                         [](const auto& param) { return param.param; });

}  // namespace
