// SPDX-License-Identifier: Apache-2.0
// CDPruner against the golden files.

#include <gtest/gtest.h>

#include <string>
#include <tokenfold/methods/cdpruner.hpp>
#include <vector>

#include "golden/golden_file.hpp"
#include "reference/cdpruner.hpp"
#include "support/outcome.hpp"

namespace {

using golden::File;
using tokenfold::Budget;
using tokenfold::CDPruner;
using tokenfold::Index;
using tokenfold::TokenLayout;

class CDPrunerGolden : public testing::TestWithParam<std::string> {
 protected:
  Budget budget() const { return Budget::keep(file_.count("keep")); }

  template <class T, class S>
  void check(CDPruner method, const S& sequence) const {
    const reference::Matrix tokens = file_.matrix("tokens");
    const auto outcome = support::run<T>(method, sequence, budget(), tokens);
    EXPECT_EQ(outcome.kept, file_.indices("kept_indices"));
    EXPECT_TRUE(support::close(outcome.output.values, file_.doubles("output"), 0, 0));

    method.filter.order = tokenfold::TokenOrder::score;
    const std::vector<Index> picks = support::run<T>(method, sequence, budget(), tokens).preserved;
    EXPECT_EQ(picks, file_.indices("selection_indices"));
    std::vector<double> gains;
    for (const Index v : picks) gains.push_back(outcome.scores[static_cast<std::size_t>(v)]);
    EXPECT_TRUE(support::close(gains, file_.doubles("selection_gains"), 1e-4, 1e-6));
  }

  template <class T>
  void check_all_forms() const {
    const TokenLayout layout = TokenLayout::decoder(0, file_.count("n_tokens"), 0);
    const auto features = support::tensor<T>(file_.matrix("tokens"));
    const auto image = support::tensor<T>(file_.matrix("image_embeds"));
    const auto text = support::tensor<T>(file_.matrix("text_embeds"));
    const std::vector<T> relevance = file_.values<T>("relevance");
    const tokenfold::Sequence from_embeddings(layout, tokenfold::Features(features),
                                              tokenfold::ImageEmbeddings(image),
                                              tokenfold::TextEmbeddings(text));
    check<T>(tokenfold::cdpruner_released(), from_embeddings);
    check<T>({}, tokenfold::Sequence(layout, tokenfold::Features(features),
                                     tokenfold::Relevance(relevance)));

    tokenfold::Workspace workspace;
    std::vector<double> computed(relevance.size());
    tokenfold::detail::text_relevance(from_embeddings, tokenfold::filter::RelevanceSign::negative,
                                      tokenfold::Span<double>(computed), workspace);
    EXPECT_TRUE(support::close(computed, file_.doubles("relevance"), 1e-5, 1e-6));
  }

  File file_{GetParam()};
};

TEST_P(CDPrunerGolden, float_gives_the_file) { check_all_forms<float>(); }
TEST_P(CDPrunerGolden, double_gives_the_file) { check_all_forms<double>(); }

TEST_P(CDPrunerGolden, reference_gives_the_file) {
  const std::vector<double> relevance =
      reference::cdpruner_relevance(file_.matrix("image_embeds"), file_.matrix("text_embeds"), -1);
  EXPECT_TRUE(support::close(relevance, file_.doubles("relevance"), 1e-5, 1e-6));
  const auto result = reference::cdpruner(file_.matrix("tokens"), relevance,
                                          static_cast<std::size_t>(file_.count("keep")));
  EXPECT_EQ(support::indices(result.picks), file_.indices("selection_indices"));
  EXPECT_TRUE(support::close(result.gains, file_.doubles("selection_gains"), 1e-5, 1e-6));
}

INSTANTIATE_TEST_SUITE_P(Files, CDPrunerGolden,
                         testing::Values("cdpruner_n36_k9", "cdpruner_n64_k8_text3",
                                         "cdpruner_n49_k14_duplicates", "cdpruner_n144_k36"),
                         [](const auto& param) { return param.param; });

}  // namespace
