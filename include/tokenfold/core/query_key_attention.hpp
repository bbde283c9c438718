// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "tokenfold/core/attention.hpp"
#include "tokenfold/core/products.hpp"

namespace tokenfold {

struct QueryKeyOptions {
  AttentionKind kind = AttentionKind::probabilities;
  /// Query row q sees keys 0 … q only. Matters for probabilities; logits are taken before the mask.
  bool causal = false;
  /// Row of the sequence that the first stored query belongs to (only the [CLS] query, only the
  /// last).
  Index first_query = 0;
  /// Factor of q·k; 0 means 1/√d.
  double scale = 0;
  /// Added to the scores of each key before the softmax, one per key; empty: nothing. ToMe's
  /// proportional attention is log(size of the token). Logits are taken without it.
  Span<const float> key_bias = {};
};

/// Attention from queries and keys, as fused-attention engines have them; grouped-query heads
/// (fewer key heads than query heads, the group of key head g being consecutive query heads)
/// included.
///
/// With logits averaged over the heads, everything is algebra on the concatenated heads and H
/// disappears:
///
///   wᵀA = (Σ_q w_q q_q) · Kᵀ      A·u = Q · (Σ_k u_k k_k)      rows: one GEMM
///
/// that is O(P·D) for the first two and O(rows·P·D) for the third. With probabilities a row costs
/// O(P·D), exactly; wᵀA and A·u cost what attention itself costs, O(P²·D), in row blocks. Nothing
/// of size P × P is ever held: scratch is `block_rows` · P floats.
template <class T>
class QueryKeyAttention {
 public:
  using Element = std::remove_const_t<T>;
  using Answer = Accumulator<Element>;

  /// `queries`: [H][rows][d]; `keys`: [H_kv][P][d] with H a multiple of H_kv. Throws on a mismatch.
  QueryKeyAttention(HeadsView<const Element> queries, HeadsView<const Element> keys,
                    QueryKeyOptions options = {})
      : queries_(queries), keys_(keys), options_(options) {
    require(queries.dim() == keys.dim(), "query-key attention: queries have ", queries.dim(),
            " channels a head, keys ", keys.dim());
    require(keys.heads() >= 1 && queries.heads() % keys.heads() == 0,
            "query-key attention: ", queries.heads(), " query heads cannot share ", keys.heads(),
            " key heads");
    require(options.first_query >= 0, "query-key attention: negative first_query ",
            options.first_query);
    require(!options.causal || options.first_query + queries.tokens() <= keys.tokens(),
            "query-key attention: causal queries reach row ",
            options.first_query + queries.tokens(), ", but there are ", keys.tokens(), " keys");
    require(std::isfinite(options.scale), "query-key attention: scale is not finite");
    require(options.key_bias.empty() || options.key_bias.size() == keys.tokens(),
            "query-key attention: ", options.key_bias.size(), " biases were given for ",
            keys.tokens(), " keys");
    if (options_.scale == 0) {
      options_.scale = 1.0 / std::sqrt(static_cast<double>(std::max<Index>(queries.dim(), 1)));
    }
  }

  AttentionKind kind() const { return options_.kind; }
  Range queries() const { return {options_.first_query, options_.first_query + queries_.tokens()}; }
  Range keys() const { return {0, keys_.tokens()}; }
  Index heads() const { return queries_.heads(); }
  /// Head h alone, with the key head of its group.
  QueryKeyAttention head(Index h) const {
    return QueryKeyAttention(HeadsView<const Element>(queries_.head(h)),
                             HeadsView<const Element>(keys_.head(h / group())), options_);
  }
  /// The keys, for stages that compare tokens by them.
  HeadsView<const Element> key_heads() const { return keys_; }

  /// The same queries and keys taken as one head of the full width, softmax(q·k / √(H·d)): what
  /// LLaVA-PruMerge computes. Its logits are √H times the mean of the per-head logits.
  QueryKeyAttention as_single_head() const {
    QueryKeyAttention single = *this;
    single.heads_as_one_ = true;
    single.options_.kind = AttentionKind::probabilities;
    return single;
  }

  void received(Range queries, Span<const Answer> weights, Range keys, Span<Answer> out,
                Workspace& workspace) const {
    check(queries, keys);
    detail::check_attention_sizes(weights.size(), queries.size(), out.size(), keys.size());
    Workspace::Frame frame(workspace);
    if (kind() == AttentionKind::logits) {
      const Span<Answer> sum = workspace.take<Answer>(queries_.width());
      detail::weighted_row_sum(queries_.middle_tokens(local(queries)), weights, sum, workspace);
      detail::row_dot_products<Element>(keys_.middle_tokens(keys), fold_groups(sum), out,
                                        workspace);
      return;
    }
    const Span<Token> used = workspace.take<Token>(queries.size());
    Index count = 0;
    for (Index q = 0; q < queries.size(); ++q) {
      if (weights[q] != Answer(0)) {
        used[count++] = static_cast<Token>(queries.begin + q);
      }
    }
    auto sum = detail::as_vector(out);
    sum.setZero();
    for_each_softmax_row(Span<const Token>(used.data(), count), workspace,
                         [&](Index i, Span<const Answer> row, Answer share) {
                           add(out, keys, row, weights[used[i] - queries.begin] * share);
                         });
  }

  void given(Range queries, Range keys, Span<const Answer> weights, Span<Answer> out,
             Workspace& workspace) const {
    check(queries, keys);
    detail::check_attention_sizes(weights.size(), keys.size(), out.size(), queries.size());
    Workspace::Frame frame(workspace);
    if (kind() == AttentionKind::logits) {
      const Span<Answer> sum = workspace.take<Answer>(keys_.width());
      detail::weighted_row_sum(keys_.middle_tokens(keys), weights, sum, workspace);
      detail::row_dot_products<Element>(queries_.middle_tokens(local(queries)),
                                        unfold_groups(sum, workspace), out, workspace);
      return;
    }
    detail::as_vector(out).setZero();
    for_each_softmax_row(row_list(queries, workspace), workspace,
                         [&](Index i, Span<const Answer> row, Answer share) {
                           const Index seen = std::min(keys.end, row.size()) - keys.begin;
                           if (seen > 0) {
                             out[i] +=
                                 share * detail::as_vector(row.subspan(keys.begin, seen))
                                             .dot(detail::as_vector(weights.subspan(0, seen)));
                           }
                         });
  }

  void rows(Span<const Token> rows, Range keys, MatrixView<Answer> out,
            Workspace& workspace) const {
    detail::check_attention_rows(rows, queries());
    check({}, keys);
    detail::check_attention_sizes(out.cols(), keys.size(), out.rows(), rows.size());
    if (kind() == AttentionKind::logits) {
      logit_rows(rows, keys, mean_factor(), out, workspace);
      return;
    }
    out.map().setZero();
    for_each_softmax_row(rows, workspace, [&](Index i, Span<const Answer> row, Answer share) {
      add(Span<Answer>(out.row(i), keys.size()), keys, row, share);
    });
  }

 private:
  /// Query rows whose scores are held at a time; 32 × 577 scores stay in the L2 cache.
  static constexpr Index block_rows = 32;

  void check(Range queries, Range keys) const {
    detail::check_attention_range("query", queries, this->queries());
    detail::check_attention_range("key", keys, this->keys());
  }
  Range local(Range queries) const {
    return {queries.begin - options_.first_query, queries.end - options_.first_query};
  }
  Index group() const { return queries_.heads() / keys_.heads(); }
  Answer mean_factor() const {
    return static_cast<Answer>(options_.scale / static_cast<double>(queries_.heads()));
  }

  static Span<const Token> row_list(Range rows, Workspace& workspace) {
    const Span<Token> list = workspace.take<Token>(rows.size());
    for (Index i = 0; i < rows.size(); ++i) {
      list[i] = static_cast<Token>(rows.begin + i);
    }
    return {list.data(), list.size()};
  }

  /// Sums the query heads of each group in place, Σ_{h∈g} q_h, and scales: q·k summed over the
  /// heads of a group is (Σ_h q_h)·k_g, because they share the key.
  Span<const Answer> fold_groups(Span<Answer> sum) const {
    fold_groups(sum, mean_factor());
    return {sum.data(), keys_.width()};
  }
  void fold_groups(Span<Answer> row, Answer factor) const {
    const Index d = keys_.dim();
    for (Index g = 0; g < keys_.heads(); ++g) {
      auto folded = detail::as_vector(row.subspan(g * d, d));
      folded = factor * detail::as_vector(row.subspan(g * group() * d, d));
      for (Index h = 1; h < group(); ++h) {
        folded += factor * detail::as_vector(row.subspan((g * group() + h) * d, d));
      }
    }
  }
  /// The reverse: every query head meets the vector of its key head.
  Span<const Answer> unfold_groups(Span<const Answer> sum, Workspace& workspace) const {
    const Index d = keys_.dim();
    const Span<Answer> wide = workspace.take<Answer>(queries_.width());
    for (Index h = 0; h < queries_.heads(); ++h) {
      detail::as_vector(wide.subspan(h * d, d)) =
          mean_factor() * detail::as_vector(sum.subspan(h / group() * d, d));
    }
    return {wide.data(), wide.size()};
  }

  /// out[i, k] = factor · Σ_h q_h[rows[i]] · k_h[k] for k in `keys`.
  void logit_rows(Span<const Token> rows, Range keys, Answer factor, MatrixView<Answer> out,
                  Workspace& workspace) const {
    Workspace::Frame frame(workspace);
    const Index width = queries_.width();
    const MatrixView<Answer> gathered(workspace.take<Answer>(rows.size() * width).data(),
                                      rows.size(), width);
    detail::gather_rows(queries_, rows, options_.first_query, Answer(1), gathered);
    for (Index i = 0; i < rows.size(); ++i) {
      fold_groups(Span<Answer>(gathered.row(i), width), factor);
    }
    const MatrixView<const Answer> folded(gathered.data(), rows.size(), keys_.width(), width);
    detail::inner_products(folded, keys_.middle_tokens(keys), out, workspace);
  }

  /// out[k − keys.begin] += factor · row[k] over the keys that the row sees.
  static void add(Span<Answer> out, Range keys, Span<const Answer> row, Answer factor) {
    const Index seen = std::min(keys.end, row.size()) - keys.begin;
    if (seen > 0) {
      detail::as_vector(out.subspan(0, seen)) +=
          factor * detail::as_vector(row.subspan(keys.begin, seen));
    }
  }

  /// Calls `use(i, row, share)` once per head for every query row: share · row[k] is that head's
  /// part of A[rows[i], k], for the keys k < row.size() that the query sees.
  template <class Use>
  void for_each_softmax_row(Span<const Token> rows, Workspace& workspace, Use&& use) const {
    Workspace::Frame frame(workspace);
    const Index passes = heads_as_one_ ? 1 : queries_.heads();
    const Span<Answer> scores = workspace.take<Answer>(block_rows * keys_.tokens());
    const Span<Answer> query = workspace.take<Answer>(block_rows * queries_.dim());
    for (Index h = 0; h < passes; ++h) {
      for (Index begin = 0; begin < rows.size(); begin += block_rows) {
        const auto block = rows.subspan(begin, std::min(block_rows, rows.size() - begin));
        Index seen = keys_.tokens();
        if (options_.causal) {
          seen = Index{*std::max_element(block.begin(), block.end())} + 1;
        }
        const MatrixView<Answer> s(scores.data(), block.size(), seen);
        if (heads_as_one_) {
          const double root = std::sqrt(static_cast<double>(queries_.heads()));
          logit_rows(block, {0, seen}, static_cast<Answer>(options_.scale / root), s, workspace);
        } else {
          const HeadsView<const Element> q(queries_.head(h));
          const HeadsView<const Element> k(keys_.head(h / group()));
          const MatrixView<Answer> qs(query.data(), block.size(), queries_.dim());
          detail::gather_rows(q, block, options_.first_query, static_cast<Answer>(options_.scale),
                              qs);
          detail::inner_products(MatrixView<const Answer>(qs), k.middle_tokens({0, seen}), s,
                                 workspace);
        }
        for (Index i = 0; i < block.size(); ++i) {
          const Index visible = options_.causal ? Index{block[i]} + 1 : seen;
          const Span<Answer> row(s.row(i), visible);
          if (visible == 0) {
            continue;
          }
          auto values = detail::as_vector(row).array();
          if (!options_.key_bias.empty()) {
            values += detail::as_vector(options_.key_bias.subspan(0, visible))
                          .array()
                          .template cast<Answer>();
          }
          values = (values - values.maxCoeff()).exp();
          const Answer share = Answer(1) / (values.sum() * static_cast<Answer>(passes));
          use(begin + i, Span<const Answer>(row.data(), visible), share);
        }
      }
    }
  }

  HeadsView<const Element> queries_;
  HeadsView<const Element> keys_;
  QueryKeyOptions options_;
  bool heads_as_one_ = false;
};

template <class Q, class K>
QueryKeyAttention(HeadsView<Q>, HeadsView<K>, QueryKeyOptions = {})
    -> QueryKeyAttention<std::remove_const_t<Q>>;

}  // namespace tokenfold
