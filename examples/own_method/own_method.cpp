// SPDX-License-Identifier: Apache-2.0
// A method of one's own: a filter, composed with stages of the library. The part between the
// markers is shown in the README.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "tokenfold/compress/size_weighted_mean.hpp"
#include "tokenfold/correlate/most_similar.hpp"
#include "tokenfold/registry.hpp"
#include "tokenfold/tokenfold.hpp"

// [own-method]
namespace tf = tokenfold;

/// Preserves the tokens with the shortest keys, because those are the ones that attention goes to
/// (Devoto et al., arXiv 2406.11430, who keep entries of the KV cache so).
struct ShortKeys {
  tf::TokenOrder order = tf::TokenOrder::raster;

  template <class Visit>
  void options(Visit&& visit) {
    visit("order", order, "order of the preserved tokens");
  }

  template <tf::HasKeys S>
  void operator()(const S& sequence, const tf::Budget& budget, tf::Partition& partition,
                  tf::Workspace& workspace) const {
    const auto keys = tf::keys_of(sequence);
    for (const tf::Token row : sequence.layout.visual()) {
      double squared_length = 0;
      for (tf::Index h = 0; h < keys.heads(); ++h) {
        squared_length += keys.head(h).map().row(row).template cast<double>().squaredNorm();
      }
      partition.scores.push_back(-std::sqrt(squared_length));
    }
    const tf::Index keep = budget.keep_count(sequence.layout.visual_count());
    tf::preserve_highest(sequence.layout, keep, order, partition, workspace);
  }
};

/// ... and merges every other token into the one of most similar key.
using ShortKeyMerging = tf::Pipeline<ShortKeys, tf::correlate::MostSimilarKeys,  //
                                     tf::compress::SizeWeightedMean>;
// [/own-method]

int main() {
  const auto layout = tf::TokenLayout::encoder({.height = 12, .width = 12});
  std::vector<float> values(145 * 64);
  std::mt19937 random(1);
  for (float& value : values) value = static_cast<float>(random()) * 0x1p-31F - 1.0F;
  const tf::HeadsView keys = tf::split_heads(tf::MatrixView(values.data(), 145, 64), 4);

  // As a type, like every method of the library ...
  const tf::ReductionPlan plan =
      ShortKeyMerging{}.plan(tf::Sequence(layout, tf::Keys(keys)), tf::Budget::keep(36));

  // ... and by name, which is how an engine offers it beside the others at run time.
  const tf::MethodLine<ShortKeyMerging> line{
      {.name = "short_keys", .summary = "shortest keys stay", .place = tf::Place::encoder}};
  const auto reducer = tf::make_reducer<float>(line, {{"order", "raster"}});
  tf::Inputs<float> inputs(layout);
  inputs.keys = keys;
  const tf::ReductionPlan same = reducer->plan(inputs, tf::Budget::keep(36));

  if (plan.output_tokens() != 37 || plan.kept_hash() != same.kept_hash()) {
    std::fprintf(stderr, "own_method: the plans are not what they should be\n");
    return 1;
  }
  std::printf("%d -> %d tokens\n", static_cast<int>(plan.input_tokens()),
              static_cast<int>(plan.output_tokens()));
  return 0;
}
