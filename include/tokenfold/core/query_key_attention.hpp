// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "tokenfold/core/add_rows.hpp"
#include "tokenfold/core/attention.hpp"
#include "tokenfold/core/products.hpp"
#include "tokenfold/core/softmax.hpp"

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
/// O(P·D), exactly; wᵀA and A·u cost what Q·Kᵀ costs, O(P²·D), in row blocks. Nothing of size P × P
/// is ever held: scratch is the keys of one head and the scores of a block of rows.
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
    require(keys.heads() >= 1 && queries.heads() >= 1 && queries.heads() % keys.heads() == 0,
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
  Index heads() const { return heads_as_one_ ? 1 : queries_.heads(); }
  /// Head h alone, with the key head of its group.
  QueryKeyAttention head(Index h) const {
    if (heads_as_one_) {
      return *this;
    }
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
    const Span<const Token> rows(used.data(), count);
    if (count <= few_rows) {
      const Span<Answer> row = workspace.take<Answer>(keys.size());
      detail::as_vector(out).setZero();
      for (const Token query : rows) {
        probability_row(query, keys, row, workspace);
        add(out, row.data(), weights[query - queries.begin]);
      }
      return;
    }
    // Head by head, because a sum of H · P float terms loses digits that a redundancy score, a
    // difference, needs. Whole packets: the columns may begin before `keys` and end after them.
    const Index begin = keys.begin / detail::packet_size<Answer> * detail::packet_size<Answer>;
    const Index columns = Tile::padded(keys.end - begin);
    const MatrixView<Answer> sums(workspace.take_filled(passes() * columns, Answer(0)).data(),
                                  passes(), columns);
    for_each_pass(rows, workspace, [&](Index pass, const Scratch& scratch) {
      for_each_softmax_block(pass, rows, scratch, [&](const SoftmaxBlock& block) {
        const Index seen = std::min(columns, block.values.cols() - begin);
        if (seen > 0) {
          for (Index i = 0; i < block.shares.size(); ++i) {
            block.shares[i] *= weights[rows[block.first + i] - queries.begin];
          }
          detail::add_weighted_rows(Span<const Answer>(block.shares.data(), block.shares.size()),
                                    block.values.row(0) + begin, block.values.row_stride(),
                                    sums.row(pass), seen);
        }
      });
    });
    detail::as_vector(out) =
        sums.middle_cols({keys.begin - begin, keys.end - begin}).map().colwise().sum().transpose();
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
    const Span<const Token> rows = row_list(queries, workspace);
    const MatrixView<Answer> sums(workspace.take<Answer>(passes() * rows.size()).data(), passes(),
                                  rows.size());
    for_each_pass(rows, workspace, [&](Index pass, const Scratch& scratch) {
      for_each_softmax_block(pass, rows, scratch, [&](const SoftmaxBlock& block) {
        const Index seen = std::max<Index>(std::min(keys.end, block.values.cols()) - keys.begin, 0);
        for (Index i = 0; i < block.shares.size(); ++i) {
          const Span<Answer> row(block.values.row(i) + keys.begin, seen);
          sums(pass, block.first + i) =
              block.shares[i] *
              detail::as_vector(row).dot(detail::as_vector(weights.subspan(0, seen)));
        }
      });
    });
    detail::as_vector(out) = sums.map().colwise().sum().transpose();
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
    if (rows.size() <= few_rows) {
      for (Index i = 0; i < rows.size(); ++i) {
        probability_row(rows[i], keys, Span<Answer>(out.row(i), keys.size()), workspace);
      }
      return;
    }
    // Rows do not depend on each other: every worker takes some, all heads.
    Workspace::Frame frame(workspace);
    const Index workers = std::clamp<Index>(rows.size() / Tile::rows, 1, workspace.concurrency());
    const Index share = (rows.size() + workers - 1) / workers;
    const Span<Scratch> scratch = take_scratch(workers, share, workspace);
    out.map().setZero();
    workspace.for_each(workers, [&](Index worker) {
      const Index begin = std::min(worker * share, rows.size());
      const auto mine = rows.subspan(begin, std::min(share, rows.size() - begin));
      for (Index pass = 0; pass < passes(); ++pass) {
        for_each_softmax_block(pass, mine, scratch[worker], [&](const SoftmaxBlock& block) {
          const Index seen = std::min(keys.end, block.values.cols()) - keys.begin;
          for (Index i = 0; i < block.shares.size() && seen > 0; ++i) {
            add(Span<Answer>(out.row(begin + block.first + i), seen),
                block.values.row(i) + keys.begin, block.shares[i]);
          }
        });
      }
    });
  }

 private:
  using Tile = detail::ScoreTile<Answer>;

  /// Up to so many rows are multiplied with the keys where they lie (a [CLS] row of 577 × 1024: 0.04
  /// ms instead of 0.12), more with packed keys. The two may differ in the last bit.
  static constexpr Index few_rows = 2;

  /// What one pass makes of a block of query rows: shares[i] · values(i, k) is its part of
  /// A[rows[first + i], k], 0 for the keys that the row does not see.
  struct SoftmaxBlock {
    Index first;
    MatrixView<Answer> values;
    Span<Answer> shares;
  };

  /// What one worker needs for the softmaxes of a pass.
  struct Scratch {
    Index block;  ///< query rows whose scores are held at a time
    Span<Answer> panels, queries, wide, scores, shares;
  };

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

  /// One softmax per head, or one over all of them.
  Index passes() const { return heads(); }
  HeadsView<const Element> keys_of(Index pass) const {
    return heads_as_one_ ? keys_ : HeadsView<const Element>(keys_.head(pass / group()));
  }

  /// Query rows whose scores are held at a time: a few tiles that fit the L2 cache.
  Index block_rows() const {
    constexpr Index scores = 32768;
    return std::clamp<Index>(scores / Tile::padded(keys_.tokens()) / Tile::rows, 1, 4) * Tile::rows;
  }

  /// For each of `workers`, who has up to `rows` query rows.
  Span<Scratch> take_scratch(Index workers, Index rows, Workspace& workspace) const {
    const Index d = keys_of(0).width();
    const Index block = std::min(block_rows(), rows);
    const Index panels = block == rows ? 1 : Tile::panels(keys_.tokens());
    const Span<Scratch> all = workspace.take<Scratch>(workers);
    for (Scratch& scratch : all) {
      scratch = {block,
                 workspace.take<Answer>(panels * Tile::panel * d),
                 workspace.take<Answer>(block * d),
                 workspace.take<Answer>(queries_.width()),
                 workspace.take<Answer>(block * Tile::padded(keys_.tokens())),
                 workspace.take<Answer>(block)};
    }
    return all;
  }
  /// Calls `use(pass, scratch)` for every pass, spread over the executor.
  template <class Use>
  void for_each_pass(Span<const Token> rows, Workspace& workspace, Use&& use) const {
    Workspace::Frame frame(workspace);
    const Index workers = std::min(workspace.concurrency(), passes());
    const Span<Scratch> scratch = take_scratch(workers, rows.size(), workspace);
    workspace.for_each(workers, [&](Index worker) {
      for (Index pass = worker; pass < passes(); pass += workers) {
        use(pass, scratch[worker]);
      }
    });
  }

  /// Calls `use(block)` for all of `rows`, block by block. The keys are packed once, a panel when it
  /// is first needed. What comes out for a row does not depend on the other rows.
  template <class Use>
  void for_each_softmax_block(Index pass, Span<const Token> rows, const Scratch& scratch,
                              Use&& use) const {
    const HeadsView<const Element> keys = keys_of(pass);
    const Index d = keys.width();
    const Index most = scratch.block;
    const bool one_block = most >= rows.size();
    Index packed = 0;
    for (Index begin = 0; begin < rows.size(); begin += most) {
      const auto block = rows.subspan(begin, std::min(most, rows.size() - begin));
      pack_queries(pass, block, scratch.queries, scratch.wide);
      const MatrixView<Answer> values(scratch.scores.data(), block.size(),
                                      Tile::padded(seen_by(block)));
      for (Index p = 0; p < Tile::panels(values.cols()); ++p) {
        Answer* panel = scratch.panels.data() + (one_block ? 0 : p * Tile::panel * d);
        if (p == packed) {
          pack_keys(keys, p, panel);
          ++packed;
        }
        detail::for_each_tile<Answer>(block.size(), [&](Index row, auto tile_rows) {
          if (p * Tile::panel < seen_by(block.subspan(row, tile_rows))) {
            detail::multiply_tile<tile_rows>(scratch.queries.data() + row * d, panel, d,
                                             values.row(row) + p * Tile::panel,
                                             values.row_stride());
          }
        });
      }
      for (Index i = 0; i < block.size(); ++i) {
        scratch.shares[i] = softmax(values.row(i), seen_by(block.subspan(i, 1)), values.cols());
      }
      use(SoftmaxBlock{begin, values, scratch.shares.subspan(0, block.size())});
    }
  }

  /// out[k] = A[row, k] straight from the keys, in one pass over them.
  void probability_row(Token row, Range keys, Span<Answer> out, Workspace& workspace) const {
    Workspace::Frame frame(workspace);
    constexpr Index together = detail::row_packet_size<Answer>;
    const Index d = keys_.dim();
    const Index padded = Tile::padded(keys_.tokens());
    const Index seen = seen_by({&row, 1});
    const Span<Answer> query = workspace.take<Answer>(queries_.width());
    scaled_query(row, query);
    const MatrixView<Answer> scores(workspace.take_filled(passes() * padded, Answer(0)).data(),
                                    passes(), padded);
    // All heads of a few keys before the next keys, as they lie in memory.
    const Index sharing = heads_as_one_ ? 1 : group();
    for (Index first = 0; first < seen; first += together) {
      for (Index g = 0; g < keys_.heads(); ++g) {
        for (Index h = g * sharing; h < (g + 1) * sharing; ++h) {
          detail::add_row_scores(query.data() + h * d, keys_.head(g), first,
                                 scores.row(heads_as_one_ ? 0 : h) + first);
        }
      }
    }
    detail::as_vector(out).setZero();
    for (Index pass = 0; pass < passes(); ++pass) {
      const Answer share = softmax(scores.row(pass), seen, padded);
      add(out, scores.row(pass) + keys.begin, share);
    }
  }
  static void add(Span<Answer> out, const Answer* row, Answer factor) {
    detail::add_scaled(factor, row, out);
  }
  template <class Bias>
  static void add(Span<const Bias> bias, Answer* scores) {
    detail::as_vector(Span<Answer>(scores, bias.size())) +=
        detail::as_vector(bias).template cast<Answer>();
  }

  /// Keys that at least one of `rows` sees.
  Index seen_by(Span<const Token> rows) const {
    return options_.causal ? Index{*std::max_element(rows.begin(), rows.end())} + 1
                           : keys_.tokens();
  }
  /// Scores to exponentials; returns by what they are to be multiplied, this pass being one of all.
  Answer softmax(Answer* scores, Index visible, Index padded) const {
    if (!options_.key_bias.empty()) {
      add(options_.key_bias.subspan(0, visible), scores);
    }
    return Answer(1) /
           (detail::exponentials(scores, visible, padded) * static_cast<Answer>(passes()));
  }

  /// Query row `row` of all heads, scaled; the heads of a group folded if all are one head.
  void scaled_query(Token row, Span<Answer> query) const {
    for (Index h = 0; h < queries_.heads(); ++h) {
      detail::widen<Element>(queries_.head(h).row(row - options_.first_query),
                             query.data() + h * queries_.dim(), queries_.dim());
    }
    if (heads_as_one_) {
      const double root = std::sqrt(static_cast<double>(queries_.heads()));
      fold_groups(query, static_cast<Answer>(options_.scale / root));
    } else {
      detail::as_vector(query) *= static_cast<Answer>(options_.scale);
    }
  }
  /// The scaled queries of a pass, tile by tile channel-major, as `multiply_tile` reads them.
  void pack_queries(Index pass, Span<const Token> rows, Span<Answer> packed,
                    Span<Answer> wide) const {
    const Index d = keys_of(pass).width();
    const QueryKeyAttention own = heads_as_one_ ? *this : head(pass);
    detail::for_each_tile<Answer>(rows.size(), [&](Index row, auto tile_rows) {
      for (Index r = 0; r < tile_rows; ++r) {
        own.scaled_query(rows[row + r], wide.subspan(0, own.queries_.width()));
        Answer* to = packed.data() + row * d + r;
        for (Index c = 0; c < d; ++c) {
          to[c * tile_rows] = wide[c];
        }
      }
    });
  }
  static void pack_keys(HeadsView<const Element> keys, Index panel, Answer* packed) {
    const Index first = panel * Tile::panel;
    const Range rows{first, std::min(first + Tile::panel, keys.tokens())};
    for (Index h = 0; h < keys.heads(); ++h) {
      detail::pack_panel(keys.head(h).middle_rows(rows), packed + h * keys.dim() * Tile::panel);
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
