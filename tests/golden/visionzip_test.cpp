// SPDX-License-Identifier: Apache-2.0
// VisionZip and its reference against the golden files.

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <tokenfold/methods/visionzip.hpp>
#include <tokenfold/tokenfold.hpp>
#include <vector>

#include "golden/golden_file.hpp"
#include "reference/visionzip.hpp"
#include "support/outcome.hpp"

namespace {

using golden::File;
using support::Outcome;
using tokenfold::Index;
using tokenfold::Keys;
using tokenfold::Sequence;
using tokenfold::TokenLayout;
using tokenfold::VisionZip;

class VisionZipGolden : public testing::TestWithParam<std::string> {
 protected:
  Index dominant() const { return file_.count("dominant"); }
  Index contextual() const { return file_.count("contextual"); }
  double heads() const { return static_cast<double>(file_.extent("attention", 0)); }

  /// Rows [CLS], then by falling score.
  std::vector<Index> top_rows(const TokenLayout& layout, const std::vector<double>& scores) const {
    std::vector<Index> rows = support::indices(layout.visual());
    std::stable_sort(rows.begin(), rows.end(), [&](Index a, Index b) {
      return scores[static_cast<std::size_t>(layout.ordinal(a))] >
             scores[static_cast<std::size_t>(layout.ordinal(b))];
    });
    rows.resize(static_cast<std::size_t>(dominant()));
    rows.insert(rows.begin(), 0);
    return rows;
  }

  template <class T, class S>
  void check(const S& sequence) const {
    VisionZip method = tokenfold::visionzip_released();
    method.filter.contextual = contextual();
    const tokenfold::Budget budget = tokenfold::Budget::keep(dominant() + contextual());
    const reference::Matrix tokens = file_.matrix("tokens");
    const Outcome outcome = support::run<T>(method, sequence, budget, tokens);
    EXPECT_EQ(outcome.kept, file_.indices("kept_indices"));
    EXPECT_TRUE(support::close(outcome.output.values, file_.doubles("output")));
    EXPECT_EQ(outcome.discarded, file_.indices("merged_indices"));

    std::vector<double> sums = outcome.scores;
    for (double& score : sums) score *= heads();
    EXPECT_TRUE(support::close(sums, file_.doubles("cls_attention_sum")));
    EXPECT_EQ(top_rows(sequence.layout, outcome.scores), file_.indices("dominant_topk_indices"));
    EXPECT_EQ(std::vector<Index>(outcome.kept.end() - contextual(), outcome.kept.end()),
              file_.indices("contextual_target_indices"));

    std::vector<Index> destinations;
    std::vector<Index> destination_rows;
    std::vector<Index> counts(static_cast<std::size_t>(contextual()), 0);
    for (const support::Link& link : outcome.links) {
      destinations.push_back(link.target);
      const auto at = std::find(outcome.kept.begin(), outcome.kept.end(), link.target);
      destination_rows.push_back(at - outcome.kept.begin());
      ++counts[static_cast<std::size_t>(destination_rows.back() - 1 - dominant())];
    }
    EXPECT_EQ(destinations, file_.indices("merged_dst_indices"));
    EXPECT_EQ(destination_rows, file_.indices("merged_dst_rows"));
    EXPECT_EQ(counts, file_.indices("contextual_counts"));

    // In raster order the same rows.
    method.filter.order = tokenfold::filter::DominantOrder::raster;
    const Outcome raster = support::run<T>(method, sequence, budget, tokens);
    std::vector<Index> ascending = outcome.kept;
    std::sort(ascending.begin(), ascending.end());
    EXPECT_EQ(raster.kept, ascending);
  }

  template <class T>
  void check_all_forms() const {
    const TokenLayout layout = TokenLayout::encoder({1, file_.count("n_patches")});
    const std::vector<T> attention = file_.values<T>("attention");
    const std::vector<T> queries = file_.values<T>("queries_heads");
    const std::vector<T> keys = file_.values<T>("keys_heads");
    const std::vector<T> mean_keys = file_.values<T>("keys");
    const auto dense = tokenfold::DenseAttention<T>(file_.heads(attention, "attention"));
    check<T>(Sequence(layout, dense, Keys(file_.heads(keys, "keys_heads"))));
    check<T>(Sequence(layout, dense, Keys(file_.heads(mean_keys, "keys"))));
    check<T>(Sequence(layout, tokenfold::QueryKeyAttention<T>(file_.heads(queries, "queries_heads"),
                                                              file_.heads(keys, "keys_heads"))));
  }

  File file_{GetParam()};
};

TEST_P(VisionZipGolden, float_gives_the_file) { check_all_forms<float>(); }
TEST_P(VisionZipGolden, double_gives_the_file) { check_all_forms<double>(); }

TEST_P(VisionZipGolden, reference_gives_the_file) {
  reference::VisionZipInput input;
  input.tokens = file_.matrix("tokens");
  const std::size_t p = input.tokens.rows;
  const auto h = static_cast<std::size_t>(heads());
  input.keys = reference::Heads(h, p, static_cast<std::size_t>(file_.extent("keys_heads", 2)),
                                file_.doubles("keys_heads"));
  const std::vector<double> attention = file_.doubles("attention");
  input.attention = reference::Matrix(p, p);
  for (std::size_t i = 0; i < attention.size(); ++i) {
    input.attention.values[i % (p * p)] += attention[i] / static_cast<double>(h);
  }
  const reference::VisionZipResult result = reference::visionzip(
      input, static_cast<std::size_t>(dominant()), static_cast<std::size_t>(contextual()));
  EXPECT_EQ(support::indices(result.kept), file_.indices("kept_indices"));
  EXPECT_EQ(support::indices(result.contextual), file_.indices("contextual_target_indices"));
  EXPECT_EQ(support::indices(result.merged), file_.indices("merged_indices"));
  EXPECT_EQ(support::indices(result.destinations), file_.indices("merged_dst_indices"));
  EXPECT_TRUE(support::close(result.output.values, file_.doubles("output")));
}

INSTANTIATE_TEST_SUITE_P(Files, VisionZipGolden,
                         testing::Values("visionzip_n24_d5_c3", "visionzip_n49_d10_c4",
                                         "visionzip_n144_d26_c6"),
                         [](const auto& param) { return param.param; });

}  // namespace
