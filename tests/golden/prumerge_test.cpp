// SPDX-License-Identifier: Apache-2.0

// PruMerge and PruMerge+ against the golden files of the authors' code.

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <tokenfold/tokenfold.hpp>
#include <vector>

#include "golden/golden_file.hpp"
#include "support/outcome.hpp"

namespace {

using golden::File;
using support::Outcome;
using support::Tensor;
using tokenfold::Budget;
using tokenfold::Index;
using tokenfold::TokenLayout;

class PruMergeGolden : public testing::TestWithParam<const char*> {
 protected:
  File file_ = File(GetParam());

  bool adaptive() const { return file_.text("if_adaptive") == "True"; }
  bool plus() const { return file_.text("method") == "prumerge_plus"; }

  tokenfold::PruMerge method() const {
    tokenfold::PruMerge method =
        plus() ? tokenfold::prumerge_plus_released() : tokenfold::prumerge_released();
    if (plus() && !adaptive()) {
      method.filter.released_share = file_.number("reduction_ratio_in");
    }
    EXPECT_EQ(method.correlate.neighbours, file_.count("neighbours"));
    return method;
  }
  Budget budget() const {
    return adaptive() || plus()
               ? Budget::adaptive()
               : Budget::keep_ratio(file_.number("reduction_ratio_in"), tokenfold::Rounding::floor);
  }

  template <class T>
  void check(bool all_queries) const {
    const Index n = file_.count("n_patches");
    const TokenLayout layout = TokenLayout::encoder({1, n});
    const Tensor<T> queries = support::tensor<T>(file_.matrix("queries"));
    const Tensor<T> keys = support::tensor<T>(file_.matrix("keys"));
    const auto query_rows = queries.topRows(all_queries ? n + 1 : 1);
    // Four heads side by side where the width divides: the filter takes them as one.
    const Index heads = keys.cols() % 4 == 0 ? 4 : 1;
    const tokenfold::QueryKeyAttention<T> attention(tokenfold::split_heads(query_rows, heads),
                                                    tokenfold::split_heads(keys, heads));
    const tokenfold::Sequence sequence(layout, attention);

    tokenfold::Workspace workspace;
    tokenfold::ReductionPlan plan;
    method().plan(sequence, budget(), workspace, plan);
    EXPECT_TRUE(
        support::close(workspace.partition.scores, file_.doubles("cls_attention"), 1e-5, 1e-7));
    const std::vector<Index> kept = file_.indices("kept_indices");
    EXPECT_EQ(support::indices(workspace.partition.preserved), kept);
    EXPECT_EQ(support::indices(workspace.partition.discarded), file_.indices("discarded_indices"));
    EXPECT_EQ(static_cast<Index>(kept.size()), file_.count("n_kept"));

    // Neighbours: for every kept token a set (with repetitions), here as token -> neighbours.
    std::map<Index, std::vector<Index>> neighbours;
    for (Index i = 0; i < workspace.correlation.source_count(); ++i) {
      for (const Index target : workspace.correlation.targets(i)) {
        neighbours[target].push_back(workspace.correlation.source(i));
      }
    }
    const std::vector<Index> stored = file_.indices("neighbour_indices");
    const std::size_t k = static_cast<std::size_t>(file_.extent("neighbour_indices", 1));
    for (std::size_t i = 0; i < kept.size(); ++i) {
      const auto row = stored.begin() + static_cast<std::ptrdiff_t>(i * k);
      std::vector<Index> expected(row, row + static_cast<std::ptrdiff_t>(k));
      std::sort(expected.begin(), expected.end());
      std::sort(neighbours[kept[i]].begin(), neighbours[kept[i]].end());
      EXPECT_EQ(neighbours[kept[i]], expected) << "kept token " << kept[i];
    }

    // [CLS] is not in the files' output.
    const tokenfold::ReductionPlan patches = plan.within(layout.visual_range());
    EXPECT_EQ(patches.input_tokens(), n);
    EXPECT_EQ(patches.output_tokens(), file_.count("n_output"));
    std::vector<Index> kept_patches = file_.indices("kept_patches");
    kept_patches.push_back(tokenfold::no_token);
    EXPECT_EQ(support::indices(patches.kept()), kept_patches);
    reference::Matrix tokens = file_.matrix("tokens");
    tokens.values.erase(tokens.values.begin(),
                        tokens.values.begin() + static_cast<std::ptrdiff_t>(tokens.cols));
    --tokens.rows;
    EXPECT_TRUE(support::close(support::apply<T>(patches, tokens).values, file_.doubles("output")));
  }
};

TEST_P(PruMergeGolden, float_gives_the_file) { check<float>(true); }
TEST_P(PruMergeGolden, double_gives_the_file) { check<double>(true); }
TEST_P(PruMergeGolden, cls_query_alone_gives_the_file) { check<float>(false); }

// The library's own presets keep the same tokens in raster order (and one more where int(N · ρ)
// loses one).
class PruMergeAdaptiveGolden : public PruMergeGolden {};
TEST_P(PruMergeAdaptiveGolden, raster_presets_keep_the_same_tokens_ascending) {
  const TokenLayout layout = TokenLayout::encoder({1, file_.count("n_patches")});
  const Tensor<float> queries = support::tensor<float>(file_.matrix("queries"));
  const Tensor<float> keys = support::tensor<float>(file_.matrix("keys"));
  const tokenfold::QueryKeyAttention<float> attention(tokenfold::split_heads(queries, 1),
                                                      tokenfold::split_heads(keys, 1));
  const tokenfold::PruMerge method = plus() ? tokenfold::prumerge_plus() : tokenfold::PruMerge{};
  tokenfold::Workspace workspace;
  tokenfold::ReductionPlan plan;
  method.plan(tokenfold::Sequence(layout, attention), Budget::adaptive(), workspace, plan);
  const std::vector<Index> preserved = support::indices(workspace.partition.preserved);
  EXPECT_TRUE(std::is_sorted(preserved.begin(), preserved.end()));
  std::vector<Index> released = file_.indices("kept_indices");
  std::sort(released.begin(), released.end());
  EXPECT_TRUE(std::includes(preserved.begin(), preserved.end(), released.begin(), released.end()));
  const bool loses_one = file_.count("n_top") < file_.count("outlier_count");
  EXPECT_EQ(preserved.size(), released.size() + (loses_one ? 1 : 0));
}

std::string test_name(const testing::TestParamInfo<const char*>& info) { return info.param; }

INSTANTIATE_TEST_SUITE_P(Files, PruMergeGolden,
                         testing::Values("prumerge_n144_adaptive", "prumerge_n36_adaptive",
                                         "prumerge_n64_ratio8", "prumerge_n98_adaptive_trunc",
                                         "prumerge_plus_n576_adaptive",
                                         "prumerge_plus_n576_ratio8"),
                         test_name);

INSTANTIATE_TEST_SUITE_P(Files, PruMergeAdaptiveGolden,
                         testing::Values("prumerge_n144_adaptive", "prumerge_n36_adaptive",
                                         "prumerge_n98_adaptive_trunc",
                                         "prumerge_plus_n576_adaptive"),
                         test_name);

}  // namespace
