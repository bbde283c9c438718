// SPDX-License-Identifier: Apache-2.0
// PyramidDrop against the golden files.

#include "reference/pyramiddrop.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <sstream>
#include <string>
#include <tokenfold/methods/pyramiddrop.hpp>
#include <tokenfold/tokenfold.hpp>
#include <vector>

#include "golden/golden_file.hpp"
#include "support/outcome.hpp"

namespace {

using golden::File;
using tokenfold::Budget;
using tokenfold::Index;
using tokenfold::TokenLayout;

class PyramidDropGolden : public testing::TestWithParam<std::string> {
 protected:
  Index query_row() const { return file_.count("query_row"); }
  Index stage() const { return file_.count("stage"); }

  /// "[1.0, 0.5, …]" without the first, which is the share before anything is dropped.
  std::vector<double> ratios() const {
    std::string list = file_.text("image_token_ratio_list");
    std::replace_if(
        list.begin(), list.end(), [](char c) { return c == '[' || c == ']' || c == ','; }, ' ');
    std::istringstream stream(list);
    double ratio = 0;
    stream >> ratio;
    EXPECT_EQ(ratio, 1);
    std::vector<double> result;
    while (stream >> ratio) result.push_back(ratio);
    return result;
  }

  /// The instruction ends with the query row, wherever the sequence does.
  TokenLayout layout() const {
    tokenfold::LayoutDescription d;
    const Index begin = file_.count("image_token_start_index");
    d.tokens = file_.count("n_tokens");
    d.text_before = {0, begin};
    d.visual = {begin, begin + file_.count("image_token_length")};
    d.text_after = {d.visual.end, query_row() + 1};
    return TokenLayout(d);
  }

  template <class T, class S>
  void check(const S& sequence) const {
    const std::vector<Index> counts =
        tokenfold::pyramiddrop_counts(file_.count("original_image_tokens"), ratios());
    const Index keep = counts.at(static_cast<std::size_t>(stage()));
    EXPECT_EQ(keep, file_.count("n_image_kept"));

    tokenfold::Workspace workspace;
    tokenfold::ReductionPlan plan;
    tokenfold::PyramidDrop{}.plan(sequence, Budget::keep(keep), workspace, plan);
    EXPECT_EQ(support::indices(plan.kept()), file_.indices("kept_indices"));
    EXPECT_TRUE(plan.selects_only());
    EXPECT_TRUE(support::close(workspace.partition.scores, file_.doubles("image_attention")));
    EXPECT_EQ(by_falling_score(workspace.partition), file_.indices("top_indices"));
    EXPECT_TRUE(support::close(support::apply<T>(plan, file_.matrix("tokens")).values,
                               file_.doubles("output"), 0, 0));

    std::vector<std::int32_t> before(static_cast<std::size_t>(plan.input_tokens()));
    std::iota(before.begin(), before.end(), 0);
    std::vector<std::int32_t> after(static_cast<std::size_t>(plan.output_tokens()));
    plan.positions(tokenfold::PositionRule::packed,
                   tokenfold::MatrixView<const std::int32_t>(before.data(), 1, plan.input_tokens()),
                   tokenfold::MatrixView<std::int32_t>(after.data(), 1, plan.output_tokens()));
    EXPECT_EQ(support::indices(after), file_.indices("position_ids"));
  }

  std::vector<Index> by_falling_score(const tokenfold::Partition& partition) const {
    std::vector<Index> rows = support::indices(partition.preserved);
    const Index begin = file_.count("image_token_start_index");
    std::sort(rows.begin(), rows.end(), [&](Index a, Index b) {
      return partition.scores.at(static_cast<std::size_t>(a - begin)) >
             partition.scores.at(static_cast<std::size_t>(b - begin));
    });
    return rows;
  }

  template <class T>
  void check_all_forms() const {
    const TokenLayout tokens = layout();
    const Index p = tokens.tokens();
    const std::vector<T> attention = file_.values<T>("attention_last");
    const Index heads = file_.extent("attention_last", 0);
    check<T>(tokenfold::Sequence(
        tokens, tokenfold::DenseAttention<T>(
                    tokenfold::HeadsView<const T>(attention.data(), {heads, 1, p}, {p, p}),
                    {.first_query = query_row()})));
    const std::vector<T> query = file_.values<T>("queries_last");
    const std::vector<T> keys = file_.values<T>("keys");
    const Index d = file_.extent("queries_last", 1);
    check<T>(tokenfold::Sequence(
        tokens, tokenfold::QueryKeyAttention<T>(
                    tokenfold::HeadsView<const T>(query.data(), {heads, 1, d}, {d, d}),
                    file_.heads(keys, "keys"), {.causal = true, .first_query = query_row()})));
  }

  File file_{GetParam()};
};

TEST_P(PyramidDropGolden, float_gives_the_file) { check_all_forms<float>(); }
TEST_P(PyramidDropGolden, double_gives_the_file) { check_all_forms<double>(); }

TEST_P(PyramidDropGolden, reference_gives_the_file) {
  const auto size = [&](const std::string& name, std::size_t axis) {
    return static_cast<std::size_t>(file_.extent(name, axis));
  };
  reference::PyramidDropInput input;
  input.query = reference::Heads(size("queries_last", 0), 1, size("queries_last", 1),
                                 file_.doubles("queries_last"));
  input.keys =
      reference::Heads(size("keys", 0), size("keys", 1), size("keys", 2), file_.doubles("keys"));
  input.query_row = static_cast<std::size_t>(query_row());
  input.visual_begin = static_cast<std::size_t>(file_.count("image_token_start_index"));
  input.visual_count = static_cast<std::size_t>(file_.count("image_token_length"));
  const std::size_t keep =
      reference::pyramiddrop_count(static_cast<std::size_t>(file_.count("original_image_tokens")),
                                   ratios().at(static_cast<std::size_t>(stage())));
  EXPECT_EQ(keep, file_.indices("top_indices").size());
  const reference::PyramidDropResult result = reference::pyramiddrop(input, keep);
  std::vector<double> attention;
  for (const auto& head : result.attention) {
    attention.insert(attention.end(), head.begin(), head.end());
  }
  EXPECT_TRUE(support::close(attention, file_.doubles("attention_last")));
  EXPECT_TRUE(support::close(result.scores, file_.doubles("image_attention")));
  EXPECT_EQ(support::indices(result.top), file_.indices("top_indices"));
  EXPECT_EQ(support::indices(result.kept), file_.indices("kept_indices"));
  EXPECT_EQ(support::indices(result.positions), file_.indices("position_ids"));
}

INSTANTIATE_TEST_SUITE_P(Files, PyramidDropGolden,
                         testing::Values("pyramiddrop_s5_n36_t9_stage0",
                                         "pyramiddrop_s3_n50_t7_stage1",
                                         "pyramiddrop_s20_n144_t15_stage0"),
                         [](const auto& param) { return param.param; });

}  // namespace
