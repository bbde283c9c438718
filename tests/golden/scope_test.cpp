// SPDX-License-Identifier: Apache-2.0
// SCOPE against the golden files.

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <tokenfold/core/dense_attention.hpp>
#include <tokenfold/methods/scope.hpp>
#include <vector>

#include "golden/golden_file.hpp"
#include "reference/scope.hpp"
#include "support/outcome.hpp"

namespace {

using support::Outcome;
using tokenfold::Budget;
using tokenfold::HeadsView;
using tokenfold::Index;
using tokenfold::TokenLayout;

/// One crop at a time: N patches behind their own [CLS] row, with a budget of `keep_per_crop`.
class ScopeGolden : public testing::TestWithParam<std::string> {
 protected:
  Index patches() const { return file_.count("n_patches"); }
  Index crops() const { return file_.count("crops"); }
  Index keep() const { return file_.count("keep_per_crop"); }

  /// The part of a tensor that belongs to crop c.
  template <class T>
  std::vector<T> part(const std::string& name, Index c) const {
    const std::vector<T> all = file_.values<T>(name);
    const auto size = static_cast<Index>(all.size()) / crops();
    return {all.begin() + c * size, all.begin() + (c + 1) * size};
  }
  std::vector<Index> picks(Index c) const {  // patches
    const std::vector<Index> all = file_.indices("selection_indices");
    std::vector<Index> result(all.begin() + c * keep(), all.begin() + (c + 1) * keep());
    for (Index& row : result) row -= c * (patches() + 1) + 1;
    return result;
  }
  reference::Matrix tokens(Index c) const {
    return {static_cast<std::size_t>(patches() + 1), static_cast<std::size_t>(file_.count("dim")),
            part<double>("tokens", c)};
  }

  tokenfold::SCOPE method(tokenfold::TokenOrder order) const {
    return {.filter = {.alpha = file_.number("alpha"), .order = order},
            .correlate = {},
            .compress = {}};
  }

  template <class T, class Resource>
  void check(Index c, const Resource& saliency) const {
    const reference::Matrix rows = tokens(c);
    const auto features = support::tensor<T>(rows);
    const TokenLayout layout = TokenLayout::encoder({1, patches()});
    const tokenfold::Sequence sequence(layout, tokenfold::Features(features), saliency);
    const Budget budget = Budget::keep(keep());

    const Outcome raster =
        support::run<T>(method(tokenfold::TokenOrder::raster), sequence, budget, rows);
    std::vector<Index> kept = file_.indices("kept_indices");
    kept = {kept.begin() + c * keep(), kept.begin() + (c + 1) * keep()};
    for (Index& row : kept) row -= c * (patches() + 1);
    EXPECT_EQ(raster.preserved, kept);
    EXPECT_EQ(raster.kept.front(), 0) << "[CLS] passes through";
    const std::vector<double> output(raster.output.values.begin() + file_.count("dim"),
                                     raster.output.values.end());
    EXPECT_TRUE(support::close(output, part<double>("output", c), 0, 0));

    const Outcome in_order =
        support::run<T>(method(tokenfold::TokenOrder::score), sequence, budget, rows);
    std::vector<Index> picked = in_order.preserved;
    std::vector<double> gains;
    for (Index& row : picked) gains.push_back(in_order.scores.at(static_cast<std::size_t>(--row)));
    EXPECT_EQ(picked, picks(c));
    EXPECT_TRUE(support::close(gains, part<double>("selection_gains", c), 1e-5, 1e-6));
  }

  template <class T>
  void check_all_forms() const {
    EXPECT_EQ(keep(), file_.count("num_token") / crops());
    EXPECT_EQ(file_.text("combined"), "multi");
    const Index heads = file_.count("heads");
    const Index n = patches();
    for (Index c = 0; c < crops(); ++c) {
      const std::vector<T> sum = part<T>("cls_attention_sum", c);
      check<T>(c, tokenfold::Relevance(sum, 1));
      if (GetParam() == "scope_n144_k32") {  // stores the [CLS] row only
        const std::vector<T> row = part<T>("cls_attention_heads", c);
        check<T>(c, tokenfold::DenseAttention<T>(
                        HeadsView<const T>(row.data(), {heads, 1, n}, {n, n}), {.first_key = 1}));
      } else {
        const std::vector<T> attention = part<T>("attention", c);
        check<T>(c, tokenfold::DenseAttention<T>(HeadsView<const T>(
                        attention.data(), {heads, n + 1, n + 1}, {(n + 1) * (n + 1), n + 1})));
      }
    }
  }

  golden::File file_{GetParam()};
};

TEST_P(ScopeGolden, float_gives_the_file) { check_all_forms<float>(); }
TEST_P(ScopeGolden, double_gives_the_file) { check_all_forms<double>(); }

TEST_P(ScopeGolden, reference_gives_the_file) {
  for (Index c = 0; c < crops(); ++c) {
    reference::Matrix patch_rows = tokens(c);
    patch_rows.values.erase(patch_rows.values.begin(),
                            patch_rows.values.begin() + file_.count("dim"));
    --patch_rows.rows;
    const reference::ScopeResult result =
        reference::scope(patch_rows, part<double>("cls_attention_sum", c),
                         static_cast<std::size_t>(keep()), {.alpha = file_.number("alpha")});
    EXPECT_EQ(support::indices(result.picks), picks(c));
    EXPECT_TRUE(support::close(result.gains, part<double>("selection_gains", c), 1e-6, 0));
  }
}

INSTANTIATE_TEST_SUITE_P(Files, ScopeGolden,
                         testing::Values("scope_n36_k9", "scope_n49_k12_alpha05",
                                         "scope_crops2_n25_k11", "scope_n144_k32"),
                         [](const auto& param) { return param.param; });

}  // namespace
