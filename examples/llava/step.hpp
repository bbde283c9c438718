// SPDX-License-Identifier: Apache-2.0
// Where a reduction gets at a layer.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "attention.hpp"
#include "tokenfold/core/plan.hpp"

namespace llava {

/// One layer at work: what a reduction may read; with `shorten` and `weigh_by_size` it changes what
/// the layers behind see.
class LayerStep {
 public:
  Index layer = 0;
  /// Of this layer, one row per token, as its attention takes them (decoder: after RoPE).
  HeadsView queries;
  HeadsView keys;
  HeadsView values;

  /// The residual stream, [P × D].
  const Matrix& hidden() const { return *hidden_; }
  /// RoPE position of each row; empty in the encoder.
  std::span<const std::int32_t> positions() const { return rows_.positions; }
  /// How many tokens of the first layer each row stands for.
  std::span<const float> sizes() const { return rows_.sizes; }
  /// What attention adds to the scores of each key: log(size) once `weigh_by_size` was called, so
  /// that a merged token counts as often as its members would ("proportional attention", ToMe).
  std::span<const float> key_bias() const { return rows_.key_bias; }
  /// Encoder only: the decoder's cache does not hold what it adds.
  void weigh_by_size() {
    tokenfold::require(rows_.positions.empty(), "weigh_by_size works in the encoder only");
    rows_.weigh_by_size();
  }

  /// From here on the model sees the tokens that the plan leaves.
  void shorten(const tokenfold::ReductionPlan& plan,
               tokenfold::PositionRule rule = tokenfold::PositionRule::original) {
    tokenfold::require(projections_.empty() || plan.selects_only(),
                       "before attention tokens can only be dropped, not merged: their queries and "
                       "keys exist already");
    shorten_rows(plan, *hidden_);
    for (Matrix* projection : projections_) shorten_rows(plan, *projection);
    rows_.shorten(plan, rule);
  }

  /// What the engine carries along with the hidden states.
  struct Rows {
    std::vector<std::int32_t> positions;
    std::vector<float> sizes;
    std::vector<float> key_bias;
    /// Of what will follow these rows.
    std::int32_t next_position = 0;

    void weigh_by_size() {
      key_bias.resize(sizes.size());
      for (std::size_t i = 0; i < sizes.size(); ++i) key_bias[i] = std::log(sizes[i]);
    }
    void shorten(const tokenfold::ReductionPlan& plan, tokenfold::PositionRule rule) {
      const auto count = static_cast<std::size_t>(plan.output_tokens());
      std::vector<float> merged(count);
      plan.sizes(sizes, merged);
      sizes = merged;
      if (!key_bias.empty()) weigh_by_size();
      if (!positions.empty()) {
        std::vector<std::int32_t> kept(count);
        const std::int32_t next = plan.positions(rule, {positions.data(), 1, plan.input_tokens()},
                                                 {kept.data(), 1, plan.output_tokens()});
        // The last row may be gone; its position stays taken.
        const bool gaps = rule == tokenfold::PositionRule::original;
        next_position = gaps ? std::max(next, next_position) : next;
        positions = kept;
      }
    }
  };

  /// `projections`: made from `hidden` already, to be shortened with it.
  LayerStep(Index index, const HeadsView& q, const HeadsView& k, const HeadsView& v, Matrix& hidden,
            Rows& rows, std::vector<Matrix*> projections = {})
      : layer(index),
        queries(q),
        keys(k),
        values(v),
        hidden_(&hidden),
        rows_(rows),
        projections_(std::move(projections)) {}

 private:
  static void shorten_rows(const tokenfold::ReductionPlan& plan, Matrix& rows) {
    Matrix shorter(plan.output_tokens(), rows.cols());
    plan.apply(rows, shorter);
    rows = std::move(shorter);
  }

  Matrix* hidden_;
  Rows& rows_;
  std::vector<Matrix*> projections_;
};

using Hook = std::function<void(LayerStep&)>;

}  // namespace llava
