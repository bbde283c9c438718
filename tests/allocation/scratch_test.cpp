// SPDX-License-Identifier: Apache-2.0
// The scratch memory of every method is what its header states under `Memory:`.

#include "allocation/counted.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "support/all_inputs.hpp"

namespace {

using namespace tokenfold;

/// Patches a side, the inputs that go with them, the share of them that stays.
struct Shape {
  Index side;
  support::Widths widths;
  double keep;
};

/// The quantities of the formulas, under their names.
struct Sizes {
  double P = 0;                // rows of the sequence
  double N = 0, K = 0, S = 0;  // visual tokens, preserved ones, discarded ones
  double D = 0;                // channels
  double H = 0, d = 0;         // heads, channels of a head
  double m = 0, R = 0;         // text tokens, raters
  double F = 0;                // frames
  double number = 0;           // bytes of a number

  /// One row of attention, from queries and keys.
  double row() const { return (H + 1) * (P + d + 32) * number; }
  /// A block of rows.
  double block() const { return (P + 128) * (d + 48) * number; }
};

using Formula = double (*)(const Sizes&);

/// Bytes by method, or "method/preset" where a preset takes more.
const std::map<std::string, Formula>& formulas() {
  static const std::map<std::string, Formula> all = {
      {"ficoco_v", [](const Sizes& s) { return (s.S + s.H) * s.P * s.number + s.block(); }},
      {"tome", [](const Sizes& s) { return ((1.5 * s.N + 64) * s.d + 18 * s.N) * s.number; }},
      {"tome_every_kth",
       [](const Sizes& s) { return ((s.N + s.K + 64) * s.d + 16 * s.N) * s.number; }},
      {"tome_random",
       [](const Sizes& s) { return ((s.N + s.K + 64) * s.d + 16 * s.N) * s.number; }},
      {"evit", [](const Sizes& s) { return s.row(); }},
      {"ivtp", [](const Sizes& s) { return s.H * s.P * s.number + s.block(); }},
      {"prumerge",
       [](const Sizes& s) {
         const double width = s.H * s.d;
         const double links = 32 * s.K;
         return (s.K * (s.N + width) + std::min(s.K, 96.0) * width) * s.number + 32 * links +
                24 * s.N;
       }},
      {"visionzip",
       [](const Sizes& s) {
         const double contextual = s.K * 10 / 64;
         return ((s.N + contextual + 64) * s.d + 16 * s.N) * s.number;
       }},
      {"divprune", [](const Sizes& s) { return std::max(s.K, 16.0) * s.D * s.number + 72 * s.N; }},
      {"cdpruner", [](const Sizes& s) { return s.K * (s.D + s.N + s.K) * s.number + 90 * s.N; }},
      {"mmtok",
       [](const Sizes& s) {
         return (s.N * s.N + 2 * std::max(s.m, 32.0) * (s.N + s.D)) * s.number + 40 * s.N;
       }},
      {"scope", [](const Sizes& s) { return (s.N * s.N + 64 * s.D) * s.number + 40 * s.N; }},
      {"tops", [](const Sizes& s) { return (s.N * s.N + 64 * s.D) * s.number + 40 * s.N; }},
      {"ficoco_l",
       [](const Sizes& s) { return ((s.S + s.m + s.H) * s.P + s.S * s.m) * s.number + s.block(); }},
      {"fastv", [](const Sizes& s) { return s.row(); }},
      {"fastv/published", [](const Sizes& s) { return s.H * s.P * s.number + s.block(); }},
      {"pyramiddrop", [](const Sizes& s) { return s.row(); }},
      {"sparsevlm",
       [](const Sizes& s) {
         const double recycled = 0.3 * s.S + 1;
         return std::max(((s.H + s.R) * (s.P + s.d) + 64 * s.d) * s.number,
                         recycled * recycled * s.number + 28 * s.S);
       }},
      {"sparsevlm_v2",
       [](const Sizes& s) {
         return 8 * (s.H + s.R) * s.N + 2 * s.R * (s.P + s.d) * s.number + 40 * s.N;
       }},
      {"dart", [](const Sizes& s) { return 8 * (s.N + 2 * s.D) * s.number + 40 * s.P; }},
      {"evs", [](const Sizes& s) { return 36 * s.N; }},
      {"vidcom2",
       [](const Sizes& s) { return (s.F + 1) * s.D * 8 + (s.F + 3) * s.D * s.number + 36 * s.N; }},
      {"uniform", [](const Sizes& s) { return 14 * s.P; }},
      {"random", [](const Sizes& s) { return 14 * s.P; }},
      {"pooling", [](const Sizes& s) { return 28 * s.P; }},
  };
  return all;
}

double stated_scratch(const std::string& method, const std::string& preset, const Sizes& sizes) {
  std::string name = method == "prumerge_plus" ? "prumerge" : method;
  if (formulas().count(name + "/" + preset) > 0) {
    name += "/" + preset;
  }
  double bytes = formulas().at(name)(sizes);
  if (preset.rfind("cen", 0) == 0) {  // the centred copy
    bytes += (sizes.N + 4) * sizes.D * sizes.number + 24 * sizes.N;
  }
  return bytes;
}

Sizes sizes_of(const TokenLayout& layout, const support::Widths& widths, Index kept) {
  Sizes sizes;
  sizes.P = static_cast<double>(layout.tokens());
  sizes.N = static_cast<double>(layout.visual_count());
  sizes.K = static_cast<double>(kept);
  sizes.S = sizes.N - sizes.K;
  sizes.D = static_cast<double>(widths.channels);
  sizes.H = static_cast<double>(widths.heads);
  sizes.d = static_cast<double>(widths.head_channels);
  sizes.m = static_cast<double>(widths.text_tokens);
  sizes.R = static_cast<double>(widths.raters);
  sizes.F = static_cast<double>(layout.frames());
  return sizes;
}

template <class T>
void expect_stated_scratch(const MethodInfo& info, const std::vector<std::string>& presets,
                           const Shape& shape) {
  const support::Widths& widths = shape.widths;
  support::AllInputs<T> picture(support::layout_for(info, shape.side, widths.text_tokens), widths);
  const TokenLayout& layout = picture.layout;
  // These cannot keep as few tokens as one likes.
  const bool bounded = info.video || info.name == "tome" || info.name == "pooling";
  const Budget budget = bounded ? support::budget_for(info) : Budget::keep_ratio(shape.keep);
  Sizes sizes = sizes_of(layout, widths, budget.keep_count(layout.visual_count()));
  sizes.number = sizeof(Accumulator<T>);
  for (const std::string& preset : presets) {
    SCOPED_TRACE("preset " + preset + ", " + std::to_string(layout.visual_count()) + " tokens of " +
                 std::to_string(widths.channels) + " channels");
    const auto method = make_reducer<T>(info.name, {{"preset", preset}});
    Workspace workspace;
    ReductionPlan plan;
    method->plan(picture.inputs, budget, workspace, plan);
    const std::size_t peak = workspace.peak();
    const std::size_t held = workspace.capacity();
    const double stated = stated_scratch(std::string(info.name), preset, sizes);
    constexpr double alignment = 24 * 64;  // of so many arrays
    const double widened =
        sizeof(T) == 2 ? 64 * std::max(sizes.D, sizes.H * sizes.d) * sizes.number : 0;
    EXPECT_LE(static_cast<double>(peak), stated + widened + alignment);
    EXPECT_GE(static_cast<double>(peak), 0.4 * stated);
    EXPECT_LE(held, std::max(peak, std::size_t{1} << 16));

    method->plan(picture.inputs, budget, workspace, plan);
    EXPECT_EQ(workspace.peak(), peak);
    EXPECT_EQ(workspace.capacity(), held);
  }
}

class Scratch : public testing::TestWithParam<std::string> {};

TEST_P(Scratch, is_what_the_header_states) {
  const MethodInfo info = make_reducer<float>(GetParam())->info();
  const Shape small = {12, {64, 2, 32, 8, 4}, 0.6};
  const Shape medium = {24, {256, 4, 64, 32, 8}, 0.6};
  const Shape llava = {24, {1024, 16, 64, 60, 12}, 0.11};
  const Shape few = {16, {512, 8, 64, 20, 3}, 0.03};
  for (const Shape& shape : {small, medium, llava, few}) {
    expect_stated_scratch<float>(info, support::preset_names(GetParam()), shape);
  }
  for (const Shape& shape : {medium, few}) {
    expect_stated_scratch<double>(info, {"default"}, shape);
    expect_stated_scratch<Eigen::half>(info, {"default"}, shape);
  }
}

INSTANTIATE_TEST_SUITE_P(, Scratch, testing::ValuesIn(support::method_names()),
                         [](const auto& test) { return test.param; });

}  // namespace
