// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "tokenfold/core/select.hpp"
#include "tokenfold/core/stages.hpp"
#include "tokenfold/filter/row_norms.hpp"

namespace tokenfold::filter {

/// What the rolled-out attention of a token is multiplied with.
enum class ValueNorm {
  none,  ///< 1
  l2,    ///< the L2 norm of its value vector, heads concatenated
};
constexpr auto enum_names(ValueNorm) {
  return enum_names_of<ValueNorm>({{"none", ValueNorm::none}, {"l2", ValueNorm::l2}});
}

/// IVTP's filter, group-wise token pruning (ECCV 2024, doi 10.1007/978-3-031-72643-9_13): preserves
/// the visual tokens that [CLS] attends to most through the g layers of a group,
///
///   Ã_l = α A_l + (1 − α) I,   ρ = e_clsᵀ Ã_g ⋯ Ã_2 Ã_1,   s_i = ρ_i · ‖v_i‖
///
/// A_l averaged over the heads, v_i the value vectors of the group's last layer. There is no
/// released code and the paper was not available in full: that ρ is the standard roll-out with
/// α = ½ and that the values enter by their L2 norm are reconstructions, hence options.
///
/// The row of [CLS] is the layout's, or the last row of the sequence if it has none: there a
/// decoder has its pseudo-[CLS] (see methods/ivtp.hpp). A token whose ρ is not finite passes
/// nothing on and is discarded first.
///
/// Reads: attention_layers (probabilities, first layer to last, all over the same tokens; one layer
/// will do), values (unless ValueNorm::none; grouped-query heads give the same order).
/// Score: s_i, high = preserved.
/// Cost: ρ stays a row vector: one attention row for the last layer, for each layer before it one
/// product with A_l. That is P² reads per head of attention that is held; from queries and keys it
/// is the layer's attention once more.
struct RolledOutAttention {
  /// α; 1: attention only, no residual connection.
  double attention_share = 0.5;
  ValueNorm value_norm = ValueNorm::l2;
  TokenOrder order = TokenOrder::raster;

  template <class Visit>
  void options(Visit&& visit) {
    visit("attention_share", attention_share, "weight of attention against the residual");
    visit("value_norm", value_norm, "what rolled-out attention is multiplied with");
    visit("order", order, "order of the preserved tokens");
  }

  template <HasAttentionLayers S>
  void operator()(const S& sequence, const Budget& budget, Partition& partition,
                  Workspace& workspace) const {
    const TokenLayout& layout = sequence.layout;
    const Index keep = budget.keep_count(layout.visual_count());
    require_in_range("ivtp: attention_share", attention_share, 0, 1);
    if (layout.visual_count() == 0) {
      return;
    }
    Workspace::Frame frame(workspace);
    const Range image = layout.visual_range();
    const Span<const double> norms = value_norms(sequence, image, workspace);
    append_roll_out(sequence, partition.scores, workspace);
    for (Index v = 0; v < layout.visual_count(); ++v) {
      partition.scores[static_cast<std::size_t>(v)] *= norms[layout.visual()[v] - image.begin];
    }
    preserve_highest(layout, keep, order, partition, workspace);
  }

 private:
  template <class S>
  Span<const double> value_norms(const S& sequence, Range image, Workspace& workspace) const {
    const Span<double> norms = workspace.take_filled<double>(image.size(), 1.0);
    if (value_norm == ValueNorm::l2) {
      if constexpr (HasValues<S>) {
        require(sequence.values.tokens() == sequence.layout.tokens(),
                "ivtp: ", sequence.values.tokens(), " values were given for ",
                sequence.layout.tokens(), " tokens");
        detail::row_norms(sequence.values.middle_tokens(image), RowNorm::l2, norms, workspace);
      } else {
        fail("ivtp: value norms need values; or set value_norm = none");
      }
    }
    return {norms.data(), norms.size()};
  }

  /// Appends ρ_i of the visual tokens, NaN where it is not finite.
  template <class S>
  void append_roll_out(const S& sequence, std::vector<double>& scores, Workspace& workspace) const {
    const auto& layers = sequence.attention_layers;
    using T = typename std::remove_cvref_t<decltype(layers[0])>::Answer;
    require(!layers.empty(), "ivtp: the attention of at least one layer is needed");
    for (const auto& layer : layers) {
      require(layer.kind() == AttentionKind::probabilities,
              "ivtp: the attention must hold probabilities");
    }
    const TokenLayout& layout = sequence.layout;
    const Index start = layout.cls().value_or(layout.tokens() - 1);
    require(layout.ordinal(start) < 0, "ivtp: the layout has no [CLS] row and ends with a patch");
    const Span<T> rho = workspace.take_filled<T>(layout.tokens(), T(0));
    const Span<T> received = workspace.take<T>(layout.tokens());
    const Span<bool> lost = workspace.take_filled<bool>(layout.tokens(), false);
    rho[start] = 1;
    Range queries{start, start + 1};  // all others have ρ = 0 in the beginning
    const T share = static_cast<T>(attention_share);
    for (Index l = layers.size() - 1; l >= 0; --l) {
      // The first layer, which comes last, only has to reach the image.
      const Range keys = l == 0 ? layout.visual_range() : Range{0, layout.tokens()};
      const Span<T> part = received.subspan(keys.begin, keys.size());
      layers[l].received(queries, rho.subspan(queries.begin, queries.size()), keys, part,
                         workspace);
      for (Index i = keys.begin; i < keys.end; ++i) {
        rho[i] = share * received[i] + (1 - share) * rho[i];
        lost[i] = lost[i] || !std::isfinite(rho[i]);
        rho[i] = lost[i] ? T(0) : rho[i];
      }
      queries = {0, layout.tokens()};
    }
    for (const Token row : layout.visual()) {
      scores.push_back(lost[row] ? std::numeric_limits<double>::quiet_NaN()
                                 : static_cast<double>(rho[row]));
    }
  }
};

}  // namespace tokenfold::filter
