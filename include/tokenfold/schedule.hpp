// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "tokenfold/core/types.hpp"

namespace tokenfold {

/// A network of `count` layers that are reduced from layer `first` on, numbered from 0.
struct Layers {
  Index count = 0;
  Index first = 0;

  Index reducing() const { return count - first; }
};

/// How many visual tokens each layer discards: a list with one entry per layer, for
/// `Budget::discard` and for counting what a network costs.
///
/// A layer sees the tokens that enter it. What it discards, be it between its attention and its MLP
/// (FiCoCo, ToMe) or behind it (PyramidDrop, SparseVLM), is missing from the next layer on; "from
/// layer K on" in a paper (FastV) is an entry in layer K − 1.
class Schedule {
 public:
  /// From layer `first_layer` on, `keep` visual tokens.
  struct Stage {
    Index first_layer = 0;
    Index keep = 0;
  };

  Schedule() = default;

  /// The list itself, `discards[l]` for layer l. Throws if an entry is negative.
  explicit Schedule(std::vector<Index> discards) : discards_(std::move(discards)) {
    for (Index l = 0; l < size(); ++l) {
      require((*this)[l] >= 0, "schedule: layer ", l, " discards ", (*this)[l], " tokens");
    }
  }

  /// `count` in every layer from `layers.first` on, as FiCoCo and ToMe do.
  static Schedule constant(Index count, Layers layers) {
    return listed(layers, [count](Index) { return count; });
  }

  /// `total` over the layers from `layers.first` on, as evenly as whole tokens allow: where the
  /// division leaves a remainder, earlier layers take one more.
  static Schedule evenly(Index total, Layers layers) {
    require(total >= 0, "schedule: cannot discard ", total, " tokens");
    return listed(layers, [=](Index i) {
      return total / layers.reducing() + (i < total % layers.reducing() ? 1 : 0);
    });
  }

  /// ToMe's (r, f): from ⌊r(1 − f)⌋ in the first layer straight to 2r less that in the last,
  /// rounded down in between. f = 0 is constant, f = −1 falls from 2r to 0, f = 1 rises from 0 to
  /// 2r; a single layer takes r. (Bolya et al., ICLR 2023, app.)
  ///
  /// In whole numbers. The release takes the slope in floating point first, whose rounding costs
  /// the last layer one token in some falling schedules.
  static Schedule tome(Index r, double inflection, Index layers) {
    require(r >= 0, "schedule: cannot discard ", r, " tokens");
    require_in_range("schedule: inflection", inflection, -1, 1);
    const auto from = static_cast<Index>(static_cast<double>(r) * (1.0 - inflection));
    const Index to = 2 * r - from;
    return listed({layers, 0}, [=](Index l) {
      return layers == 1 ? r : (from * (layers - 1) + l * (to - from)) / (layers - 1);
    });
  }

  /// What makes `visual` tokens those of each stage: FastV is {{2, 64}}, SparseVLM's "128" is
  /// {{3, 303}, {7, 110}, {16, 36}}. Throws unless layers ascend from 1 and counts do not rise.
  static Schedule stages(Index visual, const std::vector<Stage>& stages, Index layers) {
    Schedule schedule = constant(0, {layers, 0});
    Stage before{0, visual};
    for (const Stage& stage : stages) {
      require(before.first_layer < stage.first_layer && stage.first_layer <= layers,
              "schedule: a stage cannot begin in layer ", stage.first_layer, " of ", layers,
              ", the one before it begins in layer ", before.first_layer);
      require(0 <= stage.keep && stage.keep <= before.keep, "schedule: a stage cannot keep ",
              stage.keep, " of ", before.keep, " visual tokens");
      schedule.discards_[static_cast<std::size_t>(stage.first_layer - 1)] =
          before.keep - stage.keep;
      before = stage;
    }
    return schedule;
  }

  /// PyramidDrop: stages of equal length (the last takes the remainder), all of `visual` in the
  /// first, then ⌊ratio · visual⌋ for each of `ratios`, shares of the original count; the product
  /// is rounded to double before it is rounded down, as in the release. Its 7B setting is
  /// pyramid(576, {0.5, 0.25, 0.125}, 32). (Xing et al., CVPR 2025.)
  static Schedule pyramid(Index visual, const std::vector<double>& ratios, Index layers) {
    const Index length = layers / (static_cast<Index>(ratios.size()) + 1);
    std::vector<Stage> list;
    for (const double ratio : ratios) {
      require_in_range("schedule: ratio", ratio, 0, 1);
      list.push_back({(static_cast<Index>(list.size()) + 1) * length,
                      static_cast<Index>(std::floor(ratio * static_cast<double>(visual)))});
    }
    return stages(visual, list, layers);
  }

  /// The least discarding that meets a budget: Σ_l layer_cost(visual tokens that layer l sees) ≤
  /// `budget`, with equal counts in all layers from `layers.first` on, of which earlier ones may
  /// take one more, until nothing is left. Throws if no such schedule meets it.
  ///
  /// `layer_cost` must not fall as tokens are added. FLOPs of a decoder layer of width d and FFN
  /// width m with M text tokens, as FiCoCo and LLM-Viewer count them:
  ///
  ///   [=](Index visual) { const double n = visual + M; return 8*n*d*d + 4*n*n*d + 6*n*d*m; }
  ///
  /// Bytes of a KV cache serve as well. A method that reduces before its layer's MLP costs a little
  /// less than this counts. Cost: some 20 evaluations of `layer_cost` a layer.
  template <class LayerCost>
  static Schedule for_cost(Index visual, Layers layers, const LayerCost& layer_cost,
                           double budget) {
    require(visual >= 0, "schedule: negative visual token count ", visual);
    const auto candidate = [&](Index total) { return evenly(total, layers).clamped(visual); };
    Index least = 0;
    Index enough = visual * std::max<Index>(layers.reducing(), 0);
    const double lowest = candidate(enough).cost(visual, layer_cost);
    require(lowest <= budget, "schedule: the budget of ", budget, " cannot be met from layer ",
            layers.first, " on; what is left there costs ", lowest);
    while (least < enough) {
      const Index middle = least + (enough - least) / 2;
      if (candidate(middle).cost(visual, layer_cost) <= budget) {
        enough = middle;
      } else {
        least = middle + 1;
      }
    }
    return candidate(enough);
  }

  /// `for_cost` where a layer costs the visual tokens that it sees and the budget is `average` of
  /// them a layer, which the schedule's own average does not exceed.
  static Schedule for_average(Index visual, Layers layers, double average) {
    const auto tokens = [](Index n) { return static_cast<double>(n); };
    return for_cost(visual, layers, tokens, average * static_cast<double>(layers.count));
  }

  /// The same, but no layer takes more than there are of `visual` tokens, or than the share `most`
  /// of those that enter it (rounded down): 0.5 for ToMe, which can merge every other token only.
  Schedule clamped(Index visual, double most = 1) const {
    require_in_range("schedule: most", most, 0, 1);
    require(visual >= 0, "schedule: negative token count ", visual);
    Schedule result = *this;
    for (Index& discard : result.discards_) {
      discard = std::min(discard, static_cast<Index>(most * static_cast<double>(visual)));
      visual -= discard;
    }
    return result;
  }

  /// The number of layers, and what layer l discards.
  Index size() const { return static_cast<Index>(discards_.size()); }
  Index operator[](Index l) const { return Span<const Index>(discards_)[l]; }
  const Index* data() const { return discards_.data(); }
  auto begin() const { return discards_.begin(); }
  auto end() const { return discards_.end(); }

  /// What all layers discard together.
  Index total() const {
    Index sum = 0;
    for (const Index discard : discards_) {
      sum += discard;
    }
    return sum;
  }

  /// Of `visual` tokens, how many each layer sees, and last how many leave the last layer:
  /// [size() + 1]. Throws if a layer would discard more than it sees.
  std::vector<Index> counts(Index visual) const {
    std::vector<Index> seen = {visual};
    for (Index l = 0; l < size(); ++l) {
      require((*this)[l] <= seen.back(), "schedule: layer ", l, " discards ", (*this)[l], " of ",
              seen.back(), " visual tokens; clamped() takes what is there");
      seen.push_back(seen.back() - (*this)[l]);
    }
    return seen;
  }

  /// Σ_l layer_cost(visual tokens that layer l sees).
  template <class LayerCost>
  double cost(Index visual, const LayerCost& layer_cost) const {
    const std::vector<Index> seen = counts(visual);
    double sum = 0;
    for (Index l = 0; l < size(); ++l) {
      sum += static_cast<double>(layer_cost(seen[static_cast<std::size_t>(l)]));
    }
    return sum;
  }

  /// The visual tokens that a layer sees on average; 0 without layers.
  double average(Index visual) const {
    const auto tokens = [](Index n) { return static_cast<double>(n); };
    return size() == 0 ? 0 : cost(visual, tokens) / static_cast<double>(size());
  }

  friend bool operator==(const Schedule&, const Schedule&) = default;

 private:
  /// count_of(i) in the i-th reducing layer.
  template <class CountOf>
  static Schedule listed(Layers layers, const CountOf& count_of) {
    require(layers.first >= 0 && layers.first < layers.count,
            "schedule: reduction cannot begin in ", "layer ", layers.first, " of ", layers.count);
    std::vector<Index> discards(static_cast<std::size_t>(layers.first), 0);
    for (Index i = 0; i < layers.reducing(); ++i) {
      discards.push_back(count_of(i));
    }
    return Schedule(std::move(discards));
  }

  std::vector<Index> discards_;
};

}  // namespace tokenfold
