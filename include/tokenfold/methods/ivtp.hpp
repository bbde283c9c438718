// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "tokenfold/compress/drop.hpp"
#include "tokenfold/core/pipeline.hpp"
#include "tokenfold/correlate/none.hpp"
#include "tokenfold/filter/rolled_out_attention.hpp"

namespace tokenfold {

/// IVTP: a pruning after every third layer, first in the vision encoder, then in the LLM, where a
/// row made of the relevant words of the instruction takes the place of [CLS].
///
/// Huang et al., "IVTP: Instruction-Guided Visual Token Pruning for Large Vision-Language Models",
/// ECCV 2024, doi 10.1007/978-3-031-72643-9_13.
///
///   filter      ρ = e_clsᵀ Ã_g ⋯ Ã_1 with Ã_l = ½ (A_l + I); the highest ρ_i · ‖v_i‖₂ are
///               preserved
///   correlate   nothing
///   compress    preserved tokens unchanged, the others are dropped
///
/// A reconstruction: no code was released, and the paper was read in its figures and tables. Stated
/// there are the groups of 3 layers, the roll-out, the multiplication with a magnitude of the
/// values, and the pseudo-[CLS] with its threshold of 0.2. Ours are the mixing weight ½, the L2
/// norm, the share kept by a group (`ivtp_counts`), and all words where none is relevant.
///
/// Where: in the last layer of each group of 3, after attention and its residual, before the MLP:
/// 24 encoder layers (8 prunings), then the first 12 decoder layers (4 prunings).
/// Needs: attention probabilities of the group's layers, values of its last one; in the decoder a
/// pseudo-[CLS] row at the end of the input, which is removed again before text is generated.
/// Returns: a selection in order.
/// Cost: one attention row and g − 1 products of a row with A; P² multiply-adds each and head.
/// Memory: H · P + (P + 128) · (d + 48) numbers.
using IVTP = Pipeline<filter::RolledOutAttention, correlate::None, compress::Drop>;

/// How many of `visual` tokens are left after each of `groups` prunings if all keep the same share
/// κ and the last one leaves `target`: N · κ^group rounded, κ = (target / N)^(1 / groups). A
/// reconstruction; the paper's shares are not known.
inline std::vector<Index> ivtp_counts(Index visual, Index target, Index groups) {
  require(0 <= target && target <= visual, "ivtp: cannot keep ", target, " of ", visual,
          " visual tokens");
  require(groups >= 1, "ivtp: at least one group is needed, got ", groups);
  std::vector<Index> counts;
  const auto n = static_cast<double>(visual);
  for (Index group = 1; group < groups; ++group) {
    const double share = static_cast<double>(group) / static_cast<double>(groups);
    const double left = visual > 0 ? n * std::pow(static_cast<double>(target) / n, share) : 0.0;
    counts.push_back(std::clamp(static_cast<Index>(std::floor(left + 0.5)), target, visual));
  }
  counts.push_back(target);
  return counts;
}

/// The words that the pseudo-[CLS] is made of: those of relevance above `threshold`, all of them if
/// there are none (a reconstruction). `relevance`: for each text token of the LLM, the cosine of
/// its CLIP text feature with CLIP's visual [CLS], carried over between the two vocabularies.
/// Ascending; memory from `workspace`.
template <class T>
Span<const Index> ivtp_relevant_text(Span<const T> relevance, Workspace& workspace,
                                     double threshold = 0.2) {
  const Span<Index> words = workspace.take<Index>(relevance.size());
  Index size = 0;
  for (Index i = 0; i < relevance.size(); ++i) {
    const auto value = static_cast<double>(relevance[i]);
    if (std::isfinite(value) && value > threshold) {
      words[size++] = i;
    }
  }
  if (size == 0) {
    std::iota(words.begin(), words.end(), Index{0});
    size = words.size();
  }
  return {words.data(), size};
}

/// Writes the pseudo-[CLS], the mean of the text embeddings [M × D] of `words`, to `out`, [D]: the
/// row that the caller appends to the LLM's input.
template <class T>
void ivtp_pseudo_cls(MatrixView<T> text_embeddings, Span<const Index> words,
                     Span<std::remove_const_t<T>> out, Workspace& workspace) {
  using Element = std::remove_const_t<T>;
  using Acc = Accumulator<Element>;
  require(!words.empty(), "ivtp: a pseudo-[CLS] needs at least one word");
  require(out.size() == text_embeddings.cols(), "ivtp: the pseudo-[CLS] must have ",
          text_embeddings.cols(), " channels, got ", out.size());
  Workspace::Frame frame(workspace);
  auto mean = detail::as_vector(workspace.take_filled<Acc>(out.size(), Acc(0)));
  for (const Index word : words) {
    require(0 <= word && word < text_embeddings.rows(), "ivtp: word ", word, " is not one of the ",
            text_embeddings.rows(), " text tokens");
    mean +=
        detail::ConstVectorMap<Element>(text_embeddings.row(word), out.size()).template cast<Acc>();
  }
  detail::as_vector(out) = (mean / static_cast<Acc>(words.size())).template cast<Element>();
}

}  // namespace tokenfold
