// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "tokenfold/core/select.hpp"
#include "tokenfold/core/stages.hpp"
#include "tokenfold/filter/local_penalty.hpp"

namespace tokenfold::filter {

/// Whether the two terms of a redundancy score are brought to length 1 over the tokens before they
/// are combined.
enum class ScoreNormalization { none, l2 };
constexpr auto enum_names(ScoreNormalization) {
  return enum_names_of<ScoreNormalization>(
      {{"none", ScoreNormalization::none}, {"l2", ScoreNormalization::l2}});
}

/// FiCoCo-V's filter (arXiv 2411.17686, eq. 1-2): discards the most redundant patches,
///
///   s_i = λ · v_i − (1 − λ) · a_i
///
/// v_i: attention between token i and the visual tokens, averaged (redundant: its peers predict
/// it); a_i: attention of [CLS] to i (what the global token looks at is not redundant). Without a
/// [CLS] row, a_i = −cos(μ, m_i), m_i being the key of i averaged over the heads and μ the mean of
/// all m_i (eq. 9-13).
///
/// Reads: attention; keys if there is no [CLS]; the grid for the penalty.
/// Score: high = discarded first.
/// Cost: one wᵀA (or A·u) over the visual tokens and one row.
struct VisionRedundancy {
  double lambda = 0.35;
  /// The paper prints A[i, j] but describes attention *received*, mean_j A[j, i]; with the printed
  /// form on probabilities v_i is nearly constant, because rows sum to 1. The authors' code uses
  /// `given` on logits.
  AttentionDirection direction = AttentionDirection::received;
  /// The authors' code: l2.
  ScoreNormalization normalization = ScoreNormalization::none;
  LocalPenalty penalty = {};

  template <class Visit>
  void options(Visit&& visit) {
    visit("lambda", lambda, "weight of the vision term against [CLS]");
    visit("direction", direction, "attention between visual tokens: received or given");
    visit("normalization", normalization, "of both terms before they meet");
    detail::visit_options(penalty, visit);
  }

  template <HasAttention S>
  void operator()(const S& sequence, const Budget& budget, Partition& partition,
                  Workspace& workspace) const {
    using T = AnswerOf<S>;
    const TokenLayout& layout = sequence.layout;
    require_in_range("ficoco-v: lambda", lambda, 0, 1);
    const Index discard = budget.discard_count(layout.visual_count());

    Workspace::Frame frame(workspace);
    const Range range = layout.visual_range();
    const Span<T> vision = workspace.take<T>(range.size());
    detail::mean_attention(sequence, direction, range, range,
                           detail::visual_mean_weights<T>(layout, workspace), vision, workspace);
    const Span<T> global = workspace.take<T>(range.size());
    if (layout.cls()) {
      detail::attention_row(sequence.attention, *layout.cls(), range, global, workspace);
    } else {
      if constexpr (HasKeys<S>) {
        key_centrality(layout, keys_of(sequence), global, workspace);
      } else {
        fail("ficoco-v: the layout has no [CLS] row, so the filter needs keys: add Keys(view)");
      }
    }

    const double vision_scale = lambda / length(layout, vision);
    const double global_scale = (1 - lambda) / length(layout, global);
    for (const Token row : layout.visual()) {
      const Index i = row - range.begin;
      partition.scores.push_back(vision_scale * static_cast<double>(vision[i]) -
                                 global_scale * static_cast<double>(global[i]));
    }
    apply_local_penalty(layout, penalty, partition.scores, workspace);
    discard_highest(layout, discard, partition, workspace);
  }

 private:
  /// What a term is divided by: its L2 norm over the visual tokens, or 1.
  template <class T>
  double length(const TokenLayout& layout, Span<T> term) const {
    if (normalization == ScoreNormalization::none) {
      return 1;
    }
    double sum = 0;
    for (const Token row : layout.visual()) {
      const auto value = static_cast<double>(term[row - layout.visual_range().begin]);
      sum += value * value;
    }
    return sum > 0 ? std::sqrt(sum) : 1;
  }

  /// out[row − range.begin] = −cos(μ, m_row); 0 where a vector is zero.
  template <class E, class T>
  static void key_centrality(const TokenLayout& layout, HeadsView<const E> keys, Span<T> out,
                             Workspace& workspace) {
    Workspace::Frame frame(workspace);
    const Range range = layout.visual_range();
    const Index d = keys.dim();
    const MatrixView<T> mean_keys(workspace.take<T>(range.size() * d).data(), range.size(), d);
    auto m = mean_keys.map();
    m.setZero();
    for (Index h = 0; h < keys.heads(); ++h) {
      m += keys.head(h).middle_rows(range).map().template cast<T>();
    }
    auto mu = detail::as_vector(workspace.take_filled<T>(d, T(0)));
    for (const Token row : layout.visual()) {
      mu += m.row(row - range.begin).transpose();
    }
    const T mu_length = mu.norm();
    std::fill(out.begin(), out.end(), T(0));
    for (const Token row : layout.visual()) {
      const auto key = m.row(row - range.begin);
      const T product = mu_length * key.norm();
      out[row - range.begin] = product > 0 ? -key.dot(mu) / product : T(0);
    }
  }
};

}  // namespace tokenfold::filter
