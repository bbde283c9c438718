// SPDX-License-Identifier: Apache-2.0
// EViT and FastV against the golden files.

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <tokenfold/tokenfold.hpp>
#include <vector>

#include "golden/golden_file.hpp"
#include "support/outcome.hpp"

namespace {

using golden::File;
using support::Outcome;
using tokenfold::Budget;
using tokenfold::Index;
using tokenfold::TokenLayout;

class EViTGolden : public testing::TestWithParam<std::string> {
 protected:
  Budget budget() const {
    return file_.text("keep_rate").empty()
               ? Budget::keep(file_.count("tokens_param"))
               : Budget::keep_ratio(file_.number("keep_rate"), tokenfold::Rounding::ceil);
  }
  bool fuse() const { return file_.text("fuse_token") == "True"; }

  template <class T, class S>
  void check(const S& sequence) const {
    tokenfold::EViT method = tokenfold::evit_released();
    method.compress.fuse = fuse();
    const reference::Matrix tokens = file_.matrix("tokens");
    const Outcome outcome = support::run<T>(method, sequence, budget(), tokens);
    std::vector<Index> kept = file_.indices("kept_indices");
    if (fuse()) {
      kept.push_back(tokenfold::no_token);
    }
    EXPECT_EQ(outcome.kept, kept);
    EXPECT_EQ(outcome.discarded, file_.indices("discarded_indices"));
    EXPECT_TRUE(support::close(outcome.scores, file_.doubles("cls_attention")));
    EXPECT_TRUE(support::close(outcome.output.values, file_.doubles("output")));
  }

  template <class T>
  void check_all_forms() const {
    const TokenLayout layout = TokenLayout::encoder({1, file_.count("n_patches")});
    const std::vector<T> attention = file_.values<T>("attention");
    const std::vector<T> queries = file_.values<T>("queries");
    const std::vector<T> keys = file_.values<T>("keys");
    const std::vector<T> cls_row = file_.values<T>("cls_attention_heads");
    check<T>(tokenfold::Sequence(
        layout, tokenfold::DenseAttention<T>(file_.heads(attention, "attention"))));
    check<T>(
        tokenfold::Sequence(layout, tokenfold::QueryKeyAttention<T>(file_.heads(queries, "queries"),
                                                                    file_.heads(keys, "keys"))));
    // Only the row that EViT reads, over the patches only.
    const Index heads = file_.extent("cls_attention_heads", 0);
    const Index n = file_.extent("cls_attention_heads", 1);
    check<T>(tokenfold::Sequence(
        layout, tokenfold::DenseAttention<T>(
                    tokenfold::HeadsView<const T>(cls_row.data(), {heads, 1, n}, {n, n}),
                    {.first_query = 0, .first_key = 1})));
  }

  File file_{GetParam()};
};

TEST_P(EViTGolden, float_gives_the_file) { check_all_forms<float>(); }
TEST_P(EViTGolden, double_gives_the_file) { check_all_forms<double>(); }

INSTANTIATE_TEST_SUITE_P(Files, EViTGolden,
                         testing::Values("evit_n16_keep50_fuse", "evit_n36_tokens10_fuse",
                                         "evit_n49_keep70_nofuse", "evit_n144_keep50_fuse"),
                         [](const auto& param) { return param.param; });

class FastVGolden : public testing::TestWithParam<std::string> {
 protected:
  template <class T, class S>
  void check(const S& sequence) const {
    tokenfold::Workspace workspace;
    tokenfold::ReductionPlan plan;
    tokenfold::FastV{}.plan(sequence, Budget::keep_ratio(1 - file_.number("fastv_r")), workspace,
                            plan);
    EXPECT_EQ(support::indices(plan.kept()), file_.indices("kept_indices"));
    EXPECT_TRUE(plan.selects_only());
    std::vector<Index> top = file_.indices("top_indices");
    std::sort(top.begin(), top.end());
    EXPECT_EQ(support::indices(workspace.partition.preserved), top);
    EXPECT_TRUE(support::close(support::apply<T>(plan, file_.matrix("tokens")).values,
                               file_.doubles("output"), 0, 0));
  }

  template <class T>
  void check_all_forms() const {
    const TokenLayout layout =
        TokenLayout::decoder(file_.count("image_token_start_index"),
                             file_.count("image_token_length"), file_.count("text_tokens"));
    const std::vector<T> attention = file_.values<T>("attention");
    const Index p = layout.tokens();
    const Index heads = file_.extent("attention", 0);
    check<T>(tokenfold::Sequence(
        layout, tokenfold::DenseAttention<T>(file_.heads(attention, "attention"))));
    // Only the row that FastV reads.
    check<T>(tokenfold::Sequence(
        layout,
        tokenfold::DenseAttention<T>(tokenfold::HeadsView<const T>(attention.data() + (p - 1) * p,
                                                                   {heads, 1, p}, {p * p, p}),
                                     {.first_query = p - 1})));
  }

  File file_{GetParam()};
};

TEST_P(FastVGolden, float_gives_the_file) { check_all_forms<float>(); }
TEST_P(FastVGolden, double_gives_the_file) { check_all_forms<double>(); }

INSTANTIATE_TEST_SUITE_P(Files, FastVGolden,
                         testing::Values("fastv_s0_n27_t6_r50_halfeven",
                                         "fastv_s3_n25_t7_r50_halfeven", "fastv_s5_n24_t9_r50",
                                         "fastv_s20_n144_t15_r75"),
                         [](const auto& param) { return param.param; });

}  // namespace
