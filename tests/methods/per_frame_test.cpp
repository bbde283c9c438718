// SPDX-License-Identifier: Apache-2.0
// Frame-wise budgets: every frame of a video against that frame alone, as a sequence of its own.

#include "tokenfold/filter/per_frame.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string_view>
#include <type_traits>
#include <vector>

#include "support/outcome.hpp"
#include "tokenfold/core/dense_attention.hpp"
#include "tokenfold/methods/baselines.hpp"
#include "tokenfold/methods/evit.hpp"
#include "tokenfold/methods/fastv.hpp"
#include "tokenfold/methods/ficoco_v.hpp"
#include "tokenfold/methods/frame_wise.hpp"
#include "tokenfold/methods/prumerge.hpp"
#include "tokenfold/methods/tome.hpp"
#include "tokenfold/methods/visionzip.hpp"

namespace {

using support::Random;
using support::Tensor;
using tokenfold::Budget;
using tokenfold::Grid;
using tokenfold::Index;
using tokenfold::LayoutDescription;
using tokenfold::Partition;
using tokenfold::Range;
using tokenfold::Sequence;
using tokenfold::Span;
using tokenfold::Token;
using tokenfold::TokenLayout;
using tokenfold::Workspace;
using tokenfold::filter::PerFrame;

using Rows = std::vector<Index>;

/// One special row ([CLS], or text) before a video and one of text after it; `cells` as in
/// LayoutDescription.
LayoutDescription video_between(Index frames, Grid grid, const std::vector<Token>& cells) {
  LayoutDescription d;
  d.visual = {1, 1 + static_cast<Index>(cells.size())};
  d.tokens = d.visual.end + 1;
  d.grid = grid;
  d.frames = frames;
  d.cells = cells;
  d.cls = 0;
  d.text_after = {d.visual.end, d.tokens};
  return d;
}

/// What `filter` decides for a layout under attention restricted to `rows` of the sequence.
template <class F>
Partition decide(const F& filter, const TokenLayout& layout, const reference::Matrix& attention,
                 const std::vector<Index>& rows, const Budget& budget) {
  Tensor<double> part(static_cast<Index>(rows.size()), static_cast<Index>(rows.size()));
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (std::size_t j = 0; j < rows.size(); ++j) {
      part(static_cast<Index>(i), static_cast<Index>(j)) =
          attention(static_cast<std::size_t>(rows[i]), static_cast<std::size_t>(rows[j]));
    }
  }
  Workspace workspace;
  Partition partition;
  filter(Sequence(layout, tokenfold::head_mean_attention(part)), budget, partition, workspace);
  return partition;
}

/// Shares of `total` in proportion to `sizes`: the largest remainders get one more.
Rows shares(Index total, const Rows& sizes) {
  const Index n = std::accumulate(sizes.begin(), sizes.end(), Index{0});
  Rows result;
  for (const Index size : sizes) result.push_back(total * size / n);
  std::vector<bool> raised(sizes.size(), false);
  Index rest = total - std::accumulate(result.begin(), result.end(), Index{0});
  for (; rest > 0; --rest) {
    std::size_t best = sizes.size();
    for (std::size_t t = 0; t < sizes.size(); ++t) {
      if (!raised[t] && (best == sizes.size() || total * sizes[t] % n > total * sizes[best] % n)) {
        best = t;
      }
    }
    raised[best] = true;
    ++result[best];
  }
  return result;
}

/// PerFrame<F> over random videos, some incomplete, is F over each frame's rows alone.
template <class F>
void each_frame_is_as_if_alone(const F& filter, bool adaptive, bool keeps_all_frames = true) {
  Random random(7);
  for (int trial = 0; trial < 40; ++trial) {
    const Index frames = 1 + random.below(4);
    const Grid grid = {1 + random.below(4), 1 + random.below(4)};
    std::vector<Token> cells;
    std::vector<Rows> rows_of_frame;
    std::vector<std::vector<Token>> cells_of_frame;
    for (Index t = 0; t < frames; ++t) {
      Rows rows;
      std::vector<Token> own;
      for (Index c = 0; c < grid.cells(); ++c) {
        if (trial % 2 == 0 || random.chance(keeps_all_frames ? 0.7 : 0.3)) {
          rows.push_back(1 + static_cast<Index>(cells.size()));
          own.push_back(static_cast<Token>(c));
          cells.push_back(static_cast<Token>(t * grid.cells() + c));
        }
      }
      if (rows.empty()) continue;
      rows_of_frame.push_back(rows);
      cells_of_frame.push_back(own);
    }
    if (cells.empty()) continue;
    const auto n = static_cast<Index>(cells.size());
    const TokenLayout layout(video_between(frames, grid, cells));
    const auto attention = support::random_probabilities<double>(
        static_cast<std::size_t>(layout.tokens()), random, false, 2);
    Rows all(static_cast<std::size_t>(layout.tokens()));
    std::iota(all.begin(), all.end(), Index{0});
    const Index keep = random.below(n + 1);
    const Partition whole = decide(PerFrame<F>{filter}, layout, attention, all,
                                   adaptive ? Budget::adaptive() : Budget::keep(keep));

    Rows sizes;
    for (const Rows& rows : rows_of_frame) sizes.push_back(static_cast<Index>(rows.size()));
    const Rows counts = shares(keep, sizes);
    Rows preserved;
    Rows discarded;
    std::vector<double> scores;
    for (std::size_t t = 0; t < sizes.size(); ++t) {
      Rows rows = {0};
      rows.insert(rows.end(), rows_of_frame[t].begin(), rows_of_frame[t].end());
      rows.push_back(layout.tokens() - 1);
      const TokenLayout alone(video_between(1, grid, cells_of_frame[t]));
      const Partition part = decide(filter, alone, attention, rows,
                                    adaptive ? Budget::adaptive() : Budget::keep(counts[t]));
      for (const Token r : part.preserved) preserved.push_back(rows[static_cast<std::size_t>(r)]);
      for (const Token r : part.discarded) discarded.push_back(rows[static_cast<std::size_t>(r)]);
      scores.insert(scores.end(), part.scores.begin(), part.scores.end());
    }
    EXPECT_EQ(support::indices(whole.preserved), preserved) << "trial " << trial;
    EXPECT_EQ(support::indices(whole.discarded), discarded) << "trial " << trial;
    EXPECT_TRUE(std::is_sorted(discarded.begin(), discarded.end()));
    EXPECT_TRUE(support::close(whole.scores, scores, 1e-12)) << "trial " << trial;
    EXPECT_TRUE(whole.targets.empty());
    if (!adaptive) {
      EXPECT_EQ(static_cast<Index>(whole.preserved.size()), keep);
    }
  }
}

TEST(PerFrame, cls_attention) {
  each_frame_is_as_if_alone(tokenfold::filter::ClsAttention{}, false);
  each_frame_is_as_if_alone(tokenfold::filter::ClsAttention{.order = tokenfold::TokenOrder::score},
                            false);
}

TEST(PerFrame, adaptive_attention_outliers_have_the_quartiles_of_their_frame) {
  const tokenfold::filter::AttentionOutliers outliers{
      .heads = tokenfold::filter::HeadReduction::mean,
      .samples = tokenfold::filter::RasterSamples::once};
  each_frame_is_as_if_alone(outliers, true);
  each_frame_is_as_if_alone(outliers, false);
}

TEST(PerFrame, question_attention) {
  each_frame_is_as_if_alone(tokenfold::filter::QuestionAttention{}, false);
}

TEST(PerFrame, vision_redundancy_has_the_peers_and_windows_of_its_frame) {
  each_frame_is_as_if_alone(tokenfold::filter::VisionRedundancy{}, false);
}

TEST(PerFrame, uniform_samples_also_where_frames_are_missing) {
  each_frame_is_as_if_alone(tokenfold::filter::UniformSamples{}, false, false);
}

TEST(PerFrame, grid_windows) { each_frame_is_as_if_alone(tokenfold::filter::GridWindows{}, true); }

TEST(PerFrame, the_budget_is_split_by_largest_remainder) {
  const auto split = [](Index total, const std::vector<Index>& sizes) {
    Workspace workspace;
    std::vector<Range> parts;
    for (const Index size : sizes) {
      const Index begin = parts.empty() ? 0 : parts.back().end;
      parts.push_back({begin, begin + size});
    }
    return support::indices(tokenfold::detail::proportional_shares(total, parts, workspace));
  };
  EXPECT_EQ(split(5, {4, 4, 4}), (Rows{2, 2, 1}));
  EXPECT_EQ(split(4, {4, 4, 4}), (Rows{2, 1, 1}));
  EXPECT_EQ(split(5, {2, 10}), (Rows{1, 4}));
  EXPECT_EQ(split(2, {1, 1, 10}), (Rows{0, 0, 2}));
  EXPECT_EQ(split(13, {3, 3, 7}), (Rows{3, 3, 7}));
  EXPECT_EQ(split(0, {3, 3, 7}), (Rows{0, 0, 0}));
  EXPECT_EQ(split(0, {}), Rows{});
  for (Index total = 0; total <= 23; ++total) {
    const Rows sizes = {1, 7, 2, 2, 11};
    EXPECT_EQ(split(total, sizes), shares(total, sizes));
  }
}

TEST(PerFrame, one_frame_changes_nothing) {
  const auto layout = TokenLayout::video(1, {2, 3});
  const auto wise = tokenfold::FrameWise<tokenfold::UniformSampling>{};
  EXPECT_EQ(support::indices(wise.plan(Sequence(layout), Budget::keep(4)).kept()),
            support::indices(
                tokenfold::UniformSampling{}.plan(Sequence(layout), Budget::keep(4)).kept()));
}

TEST(PerFrame, no_visual_tokens_is_the_identity) {
  const auto layout = TokenLayout::decoder(2, 0, 1);
  EXPECT_TRUE(tokenfold::FrameWise<tokenfold::UniformSampling>{}
                  .plan(Sequence(layout), Budget::keep(0))
                  .is_identity());
}

TEST(PerFrame, separators_between_frames_pass_through) {
  // Two frames of two patches, a separator row after each.
  LayoutDescription d;
  d.tokens = 6;
  d.visual = {0, 6};
  d.grid = {1, 2};
  d.frames = 2;
  d.cells = {0, 1, -1, 2, 3, -1};
  const TokenLayout layout(d);
  const auto plan =
      tokenfold::FrameWise<tokenfold::UniformSampling>{}.plan(Sequence(layout), Budget::keep(2));
  EXPECT_EQ(support::indices(plan.kept()), (Rows{1, 2, 4, 5}));
}

TEST(PerFrame, memory_is_kept_from_call_to_call) {
  const TokenLayout layout = TokenLayout::video(3, {2, 4});
  const tokenfold::FrameWise<tokenfold::UniformSampling> method;
  Workspace workspace;
  tokenfold::ReductionPlan plan;
  method.plan(Sequence(layout), Budget::keep(6), workspace, plan);
  const Token* cells = workspace.frame_layout.cells().data();
  const Token* preserved = workspace.frame_partition.preserved.data();
  ASSERT_NE(cells, nullptr);
  ASSERT_NE(preserved, nullptr);
  method.plan(Sequence(layout), Budget::keep(6), workspace, plan);
  EXPECT_EQ(workspace.frame_layout.cells().data(), cells);
  EXPECT_EQ(workspace.frame_partition.preserved.data(), preserved);
}

TEST(PerFrame, frames_of_frames_are_the_frames) {
  const TokenLayout layout = TokenLayout::video(3, {2, 4});
  const PerFrame<tokenfold::filter::UniformSamples> once;
  const PerFrame<PerFrame<tokenfold::filter::UniformSamples>> twice;
  Workspace workspace;
  Partition expected;
  Partition actual;
  once(Sequence(layout), Budget::keep(7), expected, workspace);
  twice(Sequence(layout), Budget::keep(7), actual, workspace);
  EXPECT_EQ(actual.preserved, expected.preserved);
  EXPECT_EQ(actual.discarded, expected.discarded);
}

TEST(PerFrame, frames_may_come_in_any_order_but_not_in_pieces) {
  LayoutDescription d;
  d.tokens = 4;
  d.visual = {0, 4};
  d.grid = {1, 2};
  d.frames = 2;
  d.cells = {2, 3, 0, 1};
  const tokenfold::FrameWise<tokenfold::UniformSampling> method;
  const TokenLayout swapped(d);
  EXPECT_EQ(support::indices(method.plan(Sequence(swapped), Budget::keep(3)).kept()),
            (Rows{0, 1, 3}));
  d.cells = {0, 2, 1, 3};
  const TokenLayout mixed(d);
  EXPECT_EQ(support::refusal([&] { method.plan(Sequence(mixed), Budget::keep(2)); }),
            "per frame: the tokens of frame 0 do not stand together; row 2 is apart from the "
            "others");
}

TEST(PerFrame, budgets_are_checked_for_the_whole) {
  const auto layout = TokenLayout::video(2, {1, 2});
  const tokenfold::FrameWise<tokenfold::UniformSampling> method;
  EXPECT_EQ(support::refusal([&] { method.plan(Sequence(layout), Budget::keep(5)); }),
            "budget: cannot keep 5 of 4 visual tokens");
  EXPECT_NE(support::refusal([&] { method.plan(Sequence(layout), Budget::adaptive()); }), "")
      << "the filter has no rule of its own";
  EXPECT_EQ(method.plan(Sequence(layout), Budget::keep_ratio(0.75)).kept().size(), 3);
  EXPECT_TRUE(method.plan(Sequence(layout), Budget::keep(4)).is_identity());
}

/// Preserves the first tokens; names the last of them as the only target if there are several.
struct LastIsTarget {
  template <tokenfold::HasLayout S>
  void operator()(const S& sequence, const Budget& budget, Partition& partition, Workspace&) const {
    const Span<const Token> rows = sequence.layout.visual();
    const Index keep = budget.keep_count(rows.size());
    for (Index v = 0; v < rows.size(); ++v) {
      (v < keep ? partition.preserved : partition.discarded).push_back(rows[v]);
    }
    if (keep > 1) {
      partition.targets = {partition.preserved.back()};
      partition.scores.assign(static_cast<std::size_t>(rows.size()), 1.0);
      partition.nearest.assign(partition.discarded.size(), partition.preserved.back());
    }
  }
};

TEST(PerFrame, targets_are_joined_and_frames_without_offer_all_they_preserve) {
  LayoutDescription d;
  d.tokens = 7;
  d.visual = {0, 7};
  d.grid = {2, 2};
  d.frames = 2;
  d.cells = {0, 1, 2, 3, 4, 5, 6};
  const TokenLayout layout(d);
  Workspace workspace;
  Partition partition;
  PerFrame<LastIsTarget>{}(Sequence(layout), Budget::keep(5), partition, workspace);
  EXPECT_EQ(support::indices(partition.preserved), (Rows{0, 1, 2, 4, 5}));
  EXPECT_EQ(support::indices(partition.targets), (Rows{2, 5}));
  EXPECT_EQ(partition.scores, std::vector<double>(7, 1.0));
  EXPECT_EQ(support::indices(partition.discarded), (Rows{3, 6}));
  EXPECT_EQ(support::indices(partition.nearest), (Rows{2, 5}));
  partition.clear();
  PerFrame<LastIsTarget>{}(Sequence(layout), Budget::keep(3), partition, workspace);
  EXPECT_EQ(support::indices(partition.preserved), (Rows{0, 1, 4}));
  EXPECT_EQ(support::indices(partition.targets), (Rows{1, 4}));
  EXPECT_TRUE(partition.scores.empty()) << "only one frame has scores";
  EXPECT_TRUE(partition.nearest.empty()) << "only one frame has found targets";
  partition.clear();
  PerFrame<LastIsTarget>{}(Sequence(layout), Budget::keep(2), partition, workspace);
  EXPECT_TRUE(partition.targets.empty());
}

/// Preserves what has the largest first feature.
struct Largest {
  template <tokenfold::HasFeatures S>
  void operator()(const S& sequence, const Budget& budget, Partition& partition,
                  Workspace& workspace) const {
    const auto rows =
        tokenfold::detail::visual_rows(sequence.layout, sequence.features, "largest", workspace);
    for (Index v = 0; v < rows.rows(); ++v) partition.scores.push_back(rows(v, 0));
    tokenfold::preserve_highest(sequence.layout, budget.keep_count(rows.rows()),
                                tokenfold::TokenOrder::raster, partition, workspace);
  }
};

TEST(PerFrame, the_resources_of_the_sequence_are_there) {
  // Frames that do not begin at row 0.
  const TokenLayout layout(video_between(2, {1, 2}, {0, 1, 2, 3}));
  const Tensor<double> x = (Tensor<double>(4, 1) << 1, 5, 7, 2).finished();
  Workspace workspace;
  Partition partition;
  PerFrame<Largest>{}(Sequence(layout, tokenfold::Features(x, 1)), Budget::keep(2), partition,
                      workspace);
  EXPECT_EQ(support::indices(partition.preserved), (Rows{2, 3}));
  EXPECT_EQ(partition.scores, (std::vector<double>{1, 5, 7, 2}));
}

TEST(PerFrame, later_stages_see_one_sequence) {
  const TokenLayout layout(video_between(2, {1, 2}, {0, 1, 2, 3}));
  Tensor<double> attention = Tensor<double>::Zero(6, 6);
  attention.row(0) << 0, 0.1, 0.2, 0.4, 0.3, 0;
  const Sequence sequence(layout, tokenfold::head_mean_attention(attention));
  EXPECT_EQ(support::indices(tokenfold::EViT{}.plan(sequence, Budget::keep(2)).kept()),
            (Rows{0, 3, 4, tokenfold::no_token, 5}));
  const auto wise = tokenfold::frame_wise(tokenfold::EViT{});
  const auto plan = wise.plan(sequence, Budget::keep(2));
  EXPECT_EQ(support::indices(plan.kept()), (Rows{0, 2, 3, tokenfold::no_token, 5}));
  const auto weights = support::dense_weights(plan);
  EXPECT_NEAR(weights(3, 1), 0.1, 1e-7);
  EXPECT_NEAR(weights(3, 4), 0.3, 1e-7);
}

TEST(PerFrame, options_are_the_filters) {
  auto method = tokenfold::frame_wise(tokenfold::prumerge_published());
  EXPECT_EQ(method.compress.rule, tokenfold::prumerge_published().compress.rule);
  int names = 0;
  bool set = false;
  method.options([&](std::string_view name, auto& value, const char*) {
    ++names;
    if constexpr (std::is_same_v<std::remove_reference_t<decltype(value)>, double>) {
      if (name == "fence") {
        value = 2.5;
        set = true;
      }
    }
  });
  EXPECT_TRUE(set);
  EXPECT_GT(names, 3);
  EXPECT_EQ(method.filter.filter.fence, 2.5);
}

TEST(FrameWise, tome_merges_within_the_frame_that_it_matched) {
  // In each frame the first and third token are A. The B most like tokens 0 and 4 of all lie in the
  // other frame: 5 and 3.
  Tensor<double> keys(8, 2);
  const std::vector<double> degrees = {0, 20, 90, 180, 200, 5, 300, 230};
  for (std::size_t i = 0; i < degrees.size(); ++i) {
    const double angle = degrees[i] * std::acos(-1.0) / 180;
    keys.row(static_cast<Index>(i)) << std::cos(angle), std::sin(angle);
  }
  const TokenLayout layout = TokenLayout::video(2, {2, 2});
  const Sequence sequence(layout, tokenfold::Keys(tokenfold::split_heads(keys, 1)));
  const auto plan = tokenfold::frame_wise(tokenfold::tome_raster()).plan(sequence, Budget::keep(6));
  EXPECT_EQ(support::indices(plan.kept()), (Rows{1, 2, 3, 5, 6, 7}));
  const auto weights = support::dense_weights(plan);
  EXPECT_EQ(weights(0, 0), 0.5);
  EXPECT_EQ(weights(0, 1), 0.5);
  EXPECT_EQ(weights(5, 4), 0.5);
  EXPECT_EQ(weights(5, 7), 0.5);
}

TEST(FrameWise, pooling_keeps_the_windows_of_frames_apart) {
  const TokenLayout layout = TokenLayout::video(2, {2, 2});
  const auto method = tokenfold::frame_wise(tokenfold::SpatialPooling{});
  const auto weights =
      support::dense_weights(method.plan(Sequence(layout), Budget::keep(2))).values;
  EXPECT_EQ(weights, (std::vector<double>{0.25, 0.25, 0.25, 0.25, 0, 0, 0, 0,  //
                                          0, 0, 0, 0, 0.25, 0.25, 0.25, 0.25}));
}

TEST(FrameWise, visionzip_without_contextual_tokens_in_a_frame_merges_nothing_into_it) {
  Random random(5);
  const TokenLayout layout = TokenLayout::video(2, {2, 4});
  const auto attention =
      support::tensor<double>(support::random_probabilities<double>(8 * 2, random));
  const auto keys = support::tensor<double>(support::normal_matrix<double>(16, 6, random));
  const Sequence sequence(layout, tokenfold::head_mean_attention(attention),
                          tokenfold::Keys(tokenfold::split_heads(keys, 1)));
  auto method = tokenfold::frame_wise(tokenfold::VisionZip{});
  // 7 tokens are 4 + 3: at 10 in 64, 4 leave one contextual token, 3 leave none.
  const tokenfold::ReductionPlan plan = method.plan(sequence, Budget::keep(7));
  const auto weights = support::dense_weights(plan);
  bool merged = false;
  for (std::size_t row = 0; row < weights.rows; ++row) {
    for (std::size_t column = 0; column < 16; ++column) {
      const bool own_frame = (plan.kept()[static_cast<Index>(row)] < 8) == (column < 8);
      EXPECT_TRUE(own_frame || weights(row, column) == 0) << row << ", " << column;
      merged = merged || (weights(row, column) != 0 && weights(row, column) != 1);
    }
  }
  EXPECT_TRUE(merged) << "the first frame has a contextual token";
}

}  // namespace
