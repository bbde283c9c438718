// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/core/options.hpp"
#include "tokenfold/core/views.hpp"
#include "tokenfold/core/workspace.hpp"

/// Attention is a linear operator, asked, not stored.
///
/// A[q, k], averaged over the heads, is how much query row q attends to key row k. Whatever a
/// reduction wants to know of A is one of three questions, so an attention source answers just
/// these, and an engine with fused attention never has to materialise [H, P, P]:
///
///   received   wᵀA   what each key receives from the queries, weighted by w
///   given      A·u   what each query gives to the keys, weighted by u
///   rows       A[q]  a few rows
///
/// All rows and ranges are rows of the sequence. A source may hold fewer queries than the sequence
/// has tokens (only the [CLS] query, only the last one); asking for others throws.
namespace tokenfold {

/// What a source holds: softmax probabilities (rows sum to 1 over all keys), or the scaled scores
/// q·k/√d before mask and softmax.
enum class AttentionKind { probabilities, logits };
constexpr auto enum_names(AttentionKind) {
  return enum_names_of<AttentionKind>(
      {{"probabilities", AttentionKind::probabilities}, {"logits", AttentionKind::logits}});
}

/// Which way attention between two tokens is read: how much a token *receives* from the others,
/// A[j, i], or how much it *gives* to them, A[i, j].
enum class AttentionDirection { received, given };
constexpr auto enum_names(AttentionDirection) {
  return enum_names_of<AttentionDirection>(
      {{"received", AttentionDirection::received}, {"given", AttentionDirection::given}});
}

/// Whether a term is averaged or summed over the tokens it runs over.
enum class Aggregate { mean, sum };
constexpr auto enum_names(Aggregate) {
  return enum_names_of<Aggregate>({{"mean", Aggregate::mean}, {"sum", Aggregate::sum}});
}

// clang-format off
template <class A>
concept AttentionSource =
    requires(const A& attention, Range range, Span<const typename A::Answer> weights,
             Span<const Token> rows, Span<typename A::Answer> out,
             MatrixView<typename A::Answer> block, Workspace& workspace) {
      /// float or double: the type of the answers.
      typename A::Answer;
      { attention.kind() } -> std::same_as<AttentionKind>;
      /// The rows of the sequence that the source has queries and keys for.
      { attention.queries() } -> std::same_as<Range>;
      { attention.keys() } -> std::same_as<Range>;
      /// out[k] = Σ_q weights[q] · A[q, k] over `queries`, for k in `keys`; queries of weight 0 are
      /// not read.
      attention.received(range, weights, range, out, workspace);
      /// out[q] = Σ_k A[q, k] · weights[k] over `keys`, for q in `queries`.
      attention.given(range, range, weights, out, workspace);
      /// block[i, k] = A[rows[i], k] for k in `keys`.
      attention.rows(rows, range, block, workspace);
    };
// clang-format on

namespace detail {

/// The checks that every source makes before it answers.
inline void check_attention_range(const char* what, Range asked, Range held) {
  require(held.contains(asked), "attention: ", what, " rows [", asked.begin, ", ", asked.end,
          ") were asked for, but the source holds [", held.begin, ", ", held.end, ")");
}
inline void check_attention_rows(Span<const Token> rows, Range held) {
  for (const Token row : rows) {
    require(held.contains(row), "attention: query row ", row,
            " was asked for, but the source holds [", held.begin, ", ", held.end, ")");
  }
}

inline void check_attention_sizes(Index first, Index first_expected, Index second,
                                  Index second_expected) {
  require(first == first_expected && second == second_expected,
          "attention: weights and answers must have ", first_expected, " and ", second_expected,
          " elements, got ", first, " and ", second);
}

/// out[k] = A[query, k] for k in `keys`.
template <AttentionSource A>
void attention_row(const A& attention, Index query, Range keys, Span<typename A::Answer> out,
                   Workspace& workspace) {
  const Token row = static_cast<Token>(query);
  attention.rows(Span<const Token>(&row, 1), keys,
                 MatrixView<typename A::Answer>(out.data(), 1, out.size()), workspace);
}

}  // namespace detail
}  // namespace tokenfold
