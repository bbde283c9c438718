// SPDX-License-Identifier: Apache-2.0
// One reduction inside a vision encoder, in the engine's own buffers. The part between the markers
// is the sample of the README.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "tokenfold/tokenfold.hpp"

int main() {
  // What an engine holds after the attention of a CLIP ViT-L/14-336 layer: [CLS] and 24 x 24
  // patches, 16 heads of 64, Q, K and V side by side in each row.
  std::vector<float> hidden(577 * 1024);
  std::vector<float> qkv(577 * 3072);
  std::vector<float> output(577 * 1024);
  std::mt19937 random(1);
  const auto noise = [&random] { return static_cast<float>(random()) * 0x1p-31F - 1.0F; };
  std::generate(hidden.begin(), hidden.end(), noise);
  std::generate(qkv.begin(), qkv.end(), noise);

  // [quickstart]
  namespace tf = tokenfold;
  const auto layout = tf::TokenLayout::encoder({.height = 24, .width = 24});  // [CLS] + patches

  // Q and K stay where they are: strides say where in the fused QKV rows.
  const tf::HeadsView q(qkv.data(), {.heads = 16, .tokens = 577, .dim = 64}, {64, 3072});
  const tf::HeadsView k(qkv.data() + 1024, {.heads = 16, .tokens = 577, .dim = 64}, {64, 3072});

  // Decide: which 42 patches go, and who takes over what they knew.
  const tf::Sequence sequence(layout, tf::QueryKeyAttention(q, k));
  const tf::ReductionPlan plan = tf::FiCoCoV{}.plan(sequence, tf::Budget::discard(42));

  // Apply: any buffer with one row per token. Row i of the output continues row kept()[i].
  plan.apply(tf::MatrixView(hidden.data(), 577, 1024), tf::MatrixView(output.data(), 535, 1024));
  const std::vector<int> positions(plan.kept().begin(), plan.kept().end());
  // [/quickstart]

  const bool ascending = std::is_sorted(positions.begin(), positions.end());
  const bool finite = std::all_of(output.begin(), output.begin() + 535 * 1024,
                                  [](float value) { return std::isfinite(value); });
  if (plan.output_tokens() != 535 || positions.front() != 0 || !ascending || !finite) {
    std::fprintf(stderr, "quickstart: the plan is not what it should be\n");
    return 1;
  }
  std::printf("%d -> %d tokens, positions 0 to %d with gaps\n",
              static_cast<int>(plan.input_tokens()), static_cast<int>(plan.output_tokens()),
              positions.back());
  return 0;
}
