// SPDX-License-Identifier: Apache-2.0
// VidCom2, library and reference, against the golden files: as in vLLM, and as released.

#include "tokenfold/methods/vidcom2.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "golden/golden_file.hpp"
#include "reference/vidcom2.hpp"
#include "support/outcome.hpp"

namespace {

using golden::File;
using support::Outcome;
using tokenfold::Budget;
using tokenfold::Grid;
using tokenfold::Index;
using tokenfold::Sequence;
using tokenfold::Span;
using tokenfold::TokenLayout;

class VidCom2Golden : public testing::TestWithParam<std::string> {
 protected:
  Grid grid() const { return {file_.count("rows"), file_.count("cols")}; }
  Index frames() const { return file_.count("frames"); }
  double retention() const { return 1 - file_.number("pruning_rate_q"); }
  Index keep() const {
    return tokenfold::vidcom2_keep_count(frames(), grid().cells(), retention());
  }
  std::vector<Index> per_frame(const std::vector<Index>& kept) const {
    std::vector<Index> counts(static_cast<std::size_t>(frames()), 0);
    for (const Index row : kept) ++counts.at(static_cast<std::size_t>(row / grid().cells()));
    return counts;
  }

  template <class T>
  void library_gives_the_file() const {
    const TokenLayout layout = TokenLayout::video(frames(), grid());
    const reference::Matrix tokens = file_.matrix("tokens");
    const support::Tensor<T> x = support::tensor<T>(tokens);
    const Sequence sequence(layout, tokenfold::Features(x));

    const Outcome vllm = support::run<T>(tokenfold::vidcom2_vllm(retention()), sequence,
                                         Budget::keep(keep()), tokens);
    EXPECT_EQ(vllm.kept, file_.indices("kept_indices"));
    EXPECT_EQ(per_frame(vllm.kept), file_.indices("frame_counts"));
    EXPECT_TRUE(support::close(vllm.scores, file_.doubles("scores")));
    EXPECT_TRUE(support::close(vllm.output.values, file_.doubles("output"), 0, 0));

    const Outcome released = support::run<T>(tokenfold::vidcom2_released(retention()), sequence,
                                             Budget::adaptive(), tokens);
    EXPECT_EQ(released.kept, file_.indices("uncorrected_indices"));
    EXPECT_EQ(per_frame(released.kept), file_.indices("frame_budgets"));
    EXPECT_TRUE(support::close(released.scores, file_.doubles("scores")));

    // No frame of these files is in danger of losing its last token.
    tokenfold::VidCom2 guarded;
    guarded.filter.retention = retention();
    EXPECT_EQ(support::run<T>(guarded, sequence, Budget::keep(keep()), tokens).kept, vllm.kept);
  }

  template <class T>
  void channels_are_the_files() const {
    const support::Tensor<T> x = support::tensor<T>(file_.matrix("tokens"));
    tokenfold::Workspace workspace;
    const Span<bool> usable = workspace.take<bool>(x.rows());
    const Span<bool> low = workspace.take<bool>(x.cols());
    tokenfold::detail::low_variance_channels(tokenfold::MatrixView<const T>(x), 0.5, usable, low,
                                             workspace);
    std::vector<Index> channels;
    for (Index c = 0; c < low.size(); ++c) {
      if (low[c]) channels.push_back(c);
    }
    EXPECT_EQ(channels, file_.indices("low_variance_channels"));
  }

  File file_{GetParam()};
};

TEST_P(VidCom2Golden, keep_count_is_the_files) { EXPECT_EQ(keep(), file_.count("n_output")); }
TEST_P(VidCom2Golden, float_gives_the_file) { library_gives_the_file<float>(); }
TEST_P(VidCom2Golden, double_gives_the_file) { library_gives_the_file<double>(); }
TEST_P(VidCom2Golden, float_channels_are_the_files) { channels_are_the_files<float>(); }
TEST_P(VidCom2Golden, double_channels_are_the_files) { channels_are_the_files<double>(); }

TEST_P(VidCom2Golden, reference_gives_the_file) {
  const reference::Matrix tokens = file_.matrix("tokens");
  reference::Rows frame_of;
  for (std::size_t i = 0; i < tokens.rows; ++i) {
    frame_of.push_back(i / static_cast<std::size_t>(grid().cells()));
  }
  const auto count = static_cast<std::size_t>(frames());
  reference::VidCom2Options options;
  options.retention = retention();
  options.keep =
      reference::vidcom2_count(count, static_cast<std::size_t>(grid().cells()), options.retention);
  options.may_empty_frames = true;
  const auto vllm = reference::vidcom2(tokens, frame_of, count, options);
  EXPECT_EQ(support::indices(vllm.channels), file_.indices("low_variance_channels"));
  EXPECT_TRUE(support::close(vllm.scores, file_.doubles("scores"), 1e-6));
  EXPECT_EQ(support::indices(vllm.budgets), file_.indices("frame_budgets"));
  EXPECT_EQ(support::indices(vllm.counts), file_.indices("frame_counts"));
  EXPECT_EQ(support::indices(vllm.kept), file_.indices("kept_indices"));
  options.exact_total = false;
  EXPECT_EQ(support::indices(reference::vidcom2(tokens, frame_of, count, options).kept),
            file_.indices("uncorrected_indices"));
}

INSTANTIATE_TEST_SUITE_P(Files, VidCom2Golden,
                         testing::Values("vidcom2_t4_g6x6_q45", "vidcom2_t5_g5x7_q75",
                                         "vidcom2_t8_g12x12_q80"),
                         [](const auto& param) { return param.param; });

}  // namespace
