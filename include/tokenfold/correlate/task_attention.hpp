// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/core/add_rows.hpp"
#include "tokenfold/core/text.hpp"
#include "tokenfold/correlate/link_rows.hpp"

namespace tokenfold::correlate {

/// Which visual tokens a discarded token may be linked to.
enum class Candidates { preserved, all_visual };
constexpr auto enum_names(Candidates) {
  return enum_names_of<Candidates>(
      {{"preserved", Candidates::preserved}, {"all", Candidates::all_visual}});
}

/// FiCoCo-L's correlate stage (arXiv 2411.17686, eq. 5-6): direct attention between two visual
/// tokens, plus indirect attention through the text that both are tied to,
///
///   C[i, j] = γ · A[i, j] + (1 − γ) · (1/M) Σ_k B[i, k] · B'[k, j]
///
/// received (default): B[i, k] = A[k, i], B'[k, j] = A[k, j], tokens that the same question words
/// look at. given: B[i, k] = A[i, k], B'[k, j] = A[k, j], as printed; under a causal mask A[i, k]
/// is 0 for text k after the image, so nothing indirect remains.
///
/// Reads: attention, the text rows of the layout.
/// Cost: the rows of the discarded and of the text tokens, and a [discarded × M] · [M × N] product.
template <TargetPolicy Targets = QuantileTargets>
struct TaskAttention {
  double gamma = 0.6;
  AttentionDirection direction = AttentionDirection::received;
  TextTokens text = TextTokens::after_image;
  /// Algorithm 2 and the authors' code sum over the text (no 1/M).
  Aggregate indirect = Aggregate::mean;
  /// The authors' code links to every visual token; what goes to a discarded one is lost.
  Candidates candidates = Candidates::preserved;
  Targets targets = {};

  template <class Visit>
  void options(Visit&& visit) {
    visit("gamma", gamma, "weight of direct attention against indirect");
    visit("direction", direction, "attention between two tokens: received or given");
    visit("text", text, "the text that ties tokens: after the image, or all");
    visit("indirect", indirect, "mean or sum over the text");
    visit("candidates", candidates, "who may be a target; what goes to a discarded token is lost");
    detail::visit_options(targets, visit);
  }

  template <HasAttention S>
  void operator()(const S& sequence, const Partition& partition, Correlation& correlation,
                  Workspace& workspace) const {
    using T = AnswerOf<S>;
    const TokenLayout& layout = sequence.layout;
    require_in_range("ficoco-l: gamma", gamma, 0, 1);
    const auto text_rows = detail::text_ranges(layout, text, "ficoco-l");
    const Index text_count = text_rows[0].size() + text_rows[1].size();

    Workspace::Frame frame(workspace);
    const auto matrix = [&](Index rows, Index cols) {
      return MatrixView<T>(workspace.take<T>(rows * cols).data(), rows, cols);
    };
    const Range range = layout.visual_range();
    const Span<const Token> discarded(partition.discarded);
    const MatrixView<T> strengths = matrix(discarded.size(), range.size());
    sequence.attention.rows(discarded, range, strengths, workspace);
    strengths.map() *= static_cast<T>(gamma);

    const double mean = indirect == Aggregate::mean ? static_cast<double>(text_count) : 1.0;
    const auto weight = static_cast<T>((1 - gamma) / mean);
    for (const Range rows : text_rows) {
      if (rows.empty()) {
        continue;
      }
      const Span<Token> words = workspace.take<Token>(rows.size());
      std::iota(words.begin(), words.end(), static_cast<Token>(rows.begin));
      const MatrixView<T> from_text = matrix(rows.size(), range.size());
      sequence.attention.rows(Span<const Token>(words.data(), words.size()), range, from_text,
                              workspace);
      // [discarded × M]: what ties the discarded tokens to the text.
      const MatrixView<T> bridge = matrix(discarded.size(), rows.size());
      if (direction == AttentionDirection::given) {
        sequence.attention.rows(discarded, rows, bridge, workspace);
      } else {
        for (Index i = 0; i < discarded.size(); ++i) {
          bridge.map().row(i) = from_text.map().col(discarded[i] - range.begin).transpose();
        }
      }
      // Not Eigen's product, which asks for memory.
      for (Index i = 0; i < discarded.size(); ++i) {
        for (Index k = 0; k < rows.size(); ++k) {
          detail::add_scaled(weight * bridge(i, k), from_text.row(k),
                             Span<T>(strengths.row(i), range.size()));
        }
      }
    }
    detail::link_rows(strengths, layout,
                      candidates == Candidates::preserved ? Span<const Token>(partition.preserved)
                                                          : layout.visual(),
                      sequence.attention.kind(), targets, partition, correlation, workspace);
  }
};

}  // namespace tokenfold::correlate
