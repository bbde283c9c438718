// SPDX-License-Identifier: Apache-2.0
// EVS, library and reference, against the golden files.

#include "tokenfold/methods/evs.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "golden/golden_file.hpp"
#include "reference/evs.hpp"
#include "support/outcome.hpp"

namespace {

using golden::File;
using support::Outcome;
using tokenfold::Budget;
using tokenfold::EVS;
using tokenfold::Grid;
using tokenfold::Index;
using tokenfold::Sequence;
using tokenfold::TokenLayout;

class EVSGolden : public testing::TestWithParam<std::string> {
 protected:
  Grid grid() const { return {file_.count("rows"), file_.count("cols")}; }
  Index frames() const { return file_.count("frames"); }
  Index keep() const {
    return tokenfold::evs_keep_count(frames(), grid().cells(), file_.number("pruning_rate_q"));
  }

  template <class T>
  void library_gives_the_file() const {
    const TokenLayout layout = TokenLayout::video(frames(), grid());
    const reference::Matrix tokens = file_.matrix("tokens");
    const support::Tensor<T> x = support::tensor<T>(tokens);
    const Outcome outcome = support::run<T>(EVS{}, Sequence(layout, tokenfold::Features(x)),
                                            Budget::keep(keep()), tokens);
    EXPECT_EQ(outcome.kept, file_.indices("kept_indices"));
    EXPECT_EQ(outcome.preserved, outcome.kept);
    EXPECT_TRUE(support::close(outcome.scores, file_.doubles("scores"), 1e-5, 0, 1e-6));
    EXPECT_TRUE(support::close(outcome.output.values, file_.doubles("output"), 0, 0));
  }

  /// t, h, w and the width of the grid, from the cells of the kept tokens.
  void cells_give_the_positions() const {
    const TokenLayout layout = TokenLayout::video(frames(), grid());
    const double ticks = file_.number("tokens_per_second") * file_.number("video_second_per_grid");
    std::vector<Index> positions;
    for (const Index row : file_.indices("kept_indices")) {
      const tokenfold::Token cell = layout.cells()[layout.ordinal(row)];
      const Index in_frame = cell % grid().cells();
      positions.push_back(static_cast<Index>(static_cast<double>(layout.frame_of(cell)) * ticks));
      positions.push_back(in_frame / grid().width);
      positions.push_back(in_frame % grid().width);
      positions.push_back(grid().width);
    }
    EXPECT_EQ(positions, file_.indices("mrope_positions"));
  }

  File file_{GetParam()};
};

TEST_P(EVSGolden, keep_count_is_the_files) { EXPECT_EQ(keep(), file_.count("n_output")); }
TEST_P(EVSGolden, float_gives_the_file) { library_gives_the_file<float>(); }
TEST_P(EVSGolden, double_gives_the_file) { library_gives_the_file<double>(); }
TEST_P(EVSGolden, cells_give_the_mrope_positions) { cells_give_the_positions(); }

TEST_P(EVSGolden, reference_gives_the_file) {
  const auto cells = static_cast<std::size_t>(grid().cells());
  const auto count = static_cast<std::size_t>(frames());
  const auto result =
      reference::evs(file_.matrix("tokens"), reference::all_places(count, cells),
                     reference::evs_count(count, cells, file_.number("pruning_rate_q")));
  EXPECT_EQ(support::indices(result.kept), file_.indices("kept_indices"));
  EXPECT_TRUE(support::close(result.scores, file_.doubles("scores"), 1e-6, 0, 1e-7));
}

INSTANTIATE_TEST_SUITE_P(Files, EVSGolden,
                         testing::Values("evs_t3_g5x7_q90_firstframe", "evs_t4_g6x6_q50",
                                         "evs_t8_g12x12_q70"),
                         [](const auto& param) { return param.param; });

}  // namespace
