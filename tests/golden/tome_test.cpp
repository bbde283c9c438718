// SPDX-License-Identifier: Apache-2.0
// ToMe and its reference against the golden files.

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <tokenfold/methods/tome.hpp>
#include <tokenfold/tokenfold.hpp>
#include <vector>

#include "golden/golden_file.hpp"
#include "reference/tome.hpp"
#include "support/outcome.hpp"

namespace {

using golden::File;
using support::Tensor;
using tokenfold::Index;
using tokenfold::Keys;
using tokenfold::ReductionPlan;
using tokenfold::Sequence;
using tokenfold::Sizes;
using tokenfold::TokenLayout;

class ToMeGolden : public testing::TestWithParam<std::string> {
 protected:
  bool is(const std::string& key) const { return file_.text(key) == "True"; }
  Index registers() const { return is("distill_token") ? 1 : 0; }

  std::vector<float> sizes_in() const {
    return is("sizes_given")
               ? file_.values<float>("sizes_in")
               : std::vector<float>(static_cast<std::size_t>(file_.count("n_tokens")), 1.0f);
  }

  template <class T, class S>
  void check(const S& sequence) const {
    const reference::Matrix tokens = file_.matrix("tokens");
    tokenfold::Workspace workspace;
    ReductionPlan plan;
    const tokenfold::ToMe method;
    method.plan(sequence, tokenfold::Budget::discard(file_.count("r")), workspace, plan);
    EXPECT_EQ(support::indices(plan.kept()), file_.indices("kept_indices"));

    // The file lists the merged tokens by falling similarity.
    const tokenfold::Partition& partition = workspace.partition;
    std::vector<Index> merged = support::indices(partition.discarded);
    const auto score = [&](Index row) {
      return partition.scores[static_cast<std::size_t>(sequence.layout.ordinal(row))];
    };
    std::sort(merged.begin(), merged.end(), [&](Index a, Index b) { return score(a) > score(b); });
    EXPECT_EQ(merged, file_.indices("src_indices"));
    std::vector<Index> destinations(merged.size());
    for (Index i = 0; i < workspace.correlation.source_count(); ++i) {
      const auto at = std::find(merged.begin(), merged.end(), workspace.correlation.source(i));
      destinations[static_cast<std::size_t>(at - merged.begin())] =
          workspace.correlation.targets(i)[0];
    }
    EXPECT_EQ(destinations, file_.indices("dst_indices"));

    const reference::Matrix w = support::dense_weights(plan);
    std::vector<Index> groups(tokens.rows, -1);
    for (std::size_t row = 0; row < w.rows; ++row) {
      for (std::size_t column = 0; column < w.cols; ++column) {
        if (w(row, column) > 0) groups[column] = static_cast<Index>(row);
      }
    }
    EXPECT_EQ(groups, file_.indices("group_rows"));

    const reference::Matrix output = support::apply<T>(plan, tokens);
    EXPECT_TRUE(support::close(output.values, file_.doubles("output")));
    std::vector<float> sizes(static_cast<std::size_t>(plan.output_tokens()));
    plan.sizes(sizes_in(), sizes);
    EXPECT_TRUE(support::close({sizes.begin(), sizes.end()}, file_.doubles("sizes_out")));
    if (!is("distill_token")) {  // the release cannot undo that one
      Tensor<T> back(plan.input_tokens(), static_cast<Index>(tokens.cols));
      plan.unmerge(support::tensor<T>(output), back);
      const std::vector<double> values(back.data(), back.data() + back.size());
      EXPECT_TRUE(support::close(values, file_.doubles("unmerged")));
    }
  }

  template <class T>
  void check_all_forms() const {
    const TokenLayout layout = TokenLayout::encoder(
        {1, file_.count("n_patches")},
        is("class_token") ? tokenfold::ClsToken::first : tokenfold::ClsToken::none, registers());
    const std::vector<float> sizes = sizes_in();
    // One head that is the mean already, all heads, and heads of an attention source.
    for (const char* name : {"keys", "keys_heads"}) {
      const std::vector<T> values = file_.values<T>(name);
      const auto keys = file_.heads(values, name);
      check<T>(Sequence(layout, Keys(keys), Sizes(sizes)));
      check<T>(Sequence(layout, tokenfold::QueryKeyAttention<T>(keys, keys), Sizes(sizes)));
      if (!is("sizes_given")) {
        check<T>(Sequence(layout, Keys(keys)));
        check<T>(Sequence(layout, Keys(keys), Sizes({})));
      }
    }
  }

  File file_{GetParam()};
};

TEST_P(ToMeGolden, float_gives_the_file) { check_all_forms<float>(); }
TEST_P(ToMeGolden, double_gives_the_file) { check_all_forms<double>(); }

TEST_P(ToMeGolden, reference_gives_the_file) {
  reference::TomeInput input;
  input.tokens = file_.matrix("tokens");
  const auto n = input.tokens.rows;
  input.keys = reference::Heads(static_cast<std::size_t>(file_.extent("keys_heads", 0)), n,
                                static_cast<std::size_t>(file_.extent("keys_heads", 2)),
                                file_.doubles("keys_heads"));
  const std::vector<float> sizes = sizes_in();
  input.sizes.assign(sizes.begin(), sizes.end());
  for (std::size_t row = 0; row < n; ++row) input.rows.push_back(row);
  input.class_token = is("class_token");
  if (is("class_token")) input.protected_rows.push_back(0);
  if (is("distill_token")) input.protected_rows.push_back(1);
  const reference::TomeResult result =
      reference::tome(input, static_cast<std::size_t>(file_.count("r")));
  EXPECT_EQ(support::indices(result.kept), file_.indices("kept_indices"));
  EXPECT_EQ(support::indices(result.merged), file_.indices("src_indices"));
  EXPECT_EQ(support::indices(result.destinations), file_.indices("dst_indices"));
  EXPECT_TRUE(support::close(result.output.values, file_.doubles("output")));
  EXPECT_TRUE(support::close(result.sizes, file_.doubles("sizes_out")));
  if (!is("distill_token")) {
    EXPECT_TRUE(
        support::close(reference::tome_unmerge(result, n).values, file_.doubles("unmerged")));
  }
}

INSTANTIATE_TEST_SUITE_P(Files, ToMeGolden,
                         testing::Values("tome_n16_cls_r4", "tome_n28_cls_distill_r7",
                                         "tome_n40_nocls_sizes_r10", "tome_n144_cls_sizes_r42"),
                         [](const auto& param) { return param.param; });

}  // namespace
