// SPDX-License-Identifier: Apache-2.0
//
// PruMerge and PruMerge+ for the tool.

#pragma once

#include <array>
#include <tokenfold/methods/prumerge.hpp>

#include "reducer.hpp"

namespace reduce_tool {

template <>
struct Names<tokenfold::filter::HeadReduction> {
  using E = tokenfold::filter::HeadReduction;
  static constexpr auto values = std::to_array<Name<E>>({{"single", E::single}, {"mean", E::mean}});
};
template <>
struct Names<tokenfold::filter::RasterSamples> {
  using E = tokenfold::filter::RasterSamples;
  static constexpr auto values =
      std::to_array<Name<E>>({{"none", E::none}, {"once", E::once}, {"triple", E::triple}});
};
template <>
struct Names<tokenfold::filter::OutlierCount> {
  using E = tokenfold::filter::OutlierCount;
  static constexpr auto values =
      std::to_array<Name<E>>({{"exact", E::exact}, {"truncated", E::truncated}});
};
template <>
struct Names<tokenfold::correlate::Sources> {
  using E = tokenfold::correlate::Sources;
  static constexpr auto values =
      std::to_array<Name<E>>({{"all", E::all}, {"discarded", E::discarded}});
};

template <bool plus>
class PruMergeReducer {
 public:
  PruMergeReducer() { use_preset(Preset::standard); }

  void use_preset(Preset preset) {
    using namespace tokenfold;
    switch (preset) {
      case Preset::standard:
        method_ = plus ? prumerge_plus() : PruMerge{};
        return;
      case Preset::released:
        method_ = plus ? prumerge_plus_released() : prumerge_released();
        return;
      case Preset::published:
        method_ = plus ? prumerge_plus_published() : prumerge_published();
        return;
    }
  }
  void declare(Options& options) {
    auto& filter = method_.filter;
    options.add("heads", filter.heads, "attention as one head of the full width, or mean of heads");
    options.add("samples", filter.samples, "samples of the raster, for each outlier");
    options.add("count", filter.count, "number of outliers; truncated: int(N * (number / N))");
    options.add("order", filter.order, "order of the preserved tokens");
    options.add("fence", filter.fence, "outliers lie above Q3 + fence * (Q3 - Q1)");
    options.add("min_tokens", filter.min_tokens, "adaptive: at least so many by attention");
    options.add("max_tokens", filter.max_tokens, "adaptive: at most so many, 0: no cap");
    options.add("released_share", filter.released_share,
                "adaptive: the release's fixed share with raster samples, 0: off");
    options.add("neighbours", method_.correlate.neighbours,
                "tokens of most similar keys that a preserved one absorbs");
    options.add("sources", method_.correlate.sources, "who may be absorbed");
    options.add("rule", method_.compress.rule, "sum, or weighted mean");
    options.add("extra_token", method_.compress.extra_token,
                "append the sum of what was discarded");
  }
  Needs needs() const {
    Needs needs;
    needs.cls = true;
    needs.rows = AttentionRows::cls;
    needs.single_head = method_.filter.heads == tokenfold::filter::HeadReduction::single;
    needs.keys = Needs::KeysNeed::yes;
    needs.kind = AttentionKind::probabilities;
    needs.adaptive = true;
    return needs;
  }
  Reports reports() const { return {.neighbours = true, .patches = true, .keep_special = false}; }

  template <class S>
  void plan(const S& sequence, const tokenfold::Budget& budget, Decision& decision) const {
    method_.plan(sequence, budget, decision.workspace, decision.plan);
  }

 private:
  tokenfold::PruMerge method_ = {};
};

}  // namespace reduce_tool
