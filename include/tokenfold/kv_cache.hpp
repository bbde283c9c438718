// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "tokenfold/core/plan.hpp"

/// Shortening the keys and values of layers that have already run, for engines that prune after
/// prefill: the plan of the hidden states, applied to caches. Positions are part of cached keys
/// (RoPE), so the tokens keep their original ones (`PositionRule::original`), and decoding goes on
/// from the position of the unshortened sequence.
///
///   for (layers 0 … K, which ran before the pruning) {   // later ones hold the short sequence
///     compact_cache(plan, keys_of_layer, workspace);     // HeadsView, [H_kv][at least P][d]
///     compact_cache(plan, values_of_layer, workspace);
///   }
///
/// After several prunings a layer needs those that came after it ran: `plan_1.then(plan_2)` for the
/// layers before both, `plan_2` for those between.
namespace tokenfold {

/// What becomes of the cached rows of a token into which others are merged.
enum class CacheRows {
  /// Plans that do more than select are refused.
  selected,
  /// Row i is cached row kept()[i] as it was, whatever the plan merges into the hidden state. Plans
  /// with synthetic tokens are refused.
  kept,
  /// Rows are merged by the plan's weights. For weights that sum to 1, a query's logit with a
  /// merged key is then the mean of its logits with the sources, each still rotated to its own
  /// position, and the merged token answers with the mean of their values; that several tokens have
  /// become one, softmax does not know (ToMe adds log size for that).
  merged,
};

namespace detail {

/// The matrix that `rule` makes of a plan. Memory from `workspace`.
inline SparseRows cache_matrix(const ReductionPlan& plan, CacheRows rule, bool has_arithmetic,
                               Workspace& workspace) {
  if (rule == CacheRows::kept) {
    require(plan.extra_tokens() == 0,
            "kv cache: the plan has synthetic tokens, which continue no cached row");
    return selecting(plan.kept(), workspace);
  }
  require(rule == CacheRows::merged || plan.selects_only(),
          "kv cache: the plan merges tokens; choose CacheRows::kept or CacheRows::merged");
  require(has_arithmetic || plan.selects_only(),
          "kv cache: merging needs elements that are real numbers");
  return {plan.offsets(), plan.columns(), plan.weights()};
}

inline void check_cache(const ReductionPlan& plan, Index tokens) {
  const Index rows = std::max(plan.input_tokens(), plan.output_tokens());
  require(tokens >= rows, "kv cache: the plan needs ", rows, " rows, the cache has ", tokens);
}

/// out = m · x for one channel, the tokens next to each other.
template <class T>
void multiply_channel(const SparseRows& m, const T* x, T* out) {
  for (Index r = 0; r < m.rows(); ++r) {
    const Range row = m.row(r);
    if (copies(m, r)) {
      out[r] = x[m.columns[row.begin]];
    } else if constexpr (Scalar<T>) {
      Accumulator<T> sum = 0;
      for (Index e = row.begin; e < row.end; ++e) {
        sum +=
            static_cast<Accumulator<T>>(m.values[e]) * static_cast<Accumulator<T>>(x[m.columns[e]]);
      }
      out[r] = static_cast<T>(sum);
    }
  }
}

}  // namespace detail

/// Shortens keys or values in place: cached row i of every head becomes what row i of the plan's
/// output continues. `cache`: [H_kv][at least P][d], any strides, any element type (what is not a
/// real number can only be selected). Rows from the plan's input_tokens on (what the cache has room
/// for, or holds of other tokens) are not touched; rows between the new length and the old hold
/// anything. For a plan of the visual rows alone pass `cache.middle_tokens(visual)`.
template <class T>
void compact_cache(const ReductionPlan& plan, HeadsView<T> cache, Workspace& workspace,
                   CacheRows rule = CacheRows::selected) {
  detail::check_cache(plan, cache.tokens());
  Workspace::Frame frame(workspace);
  const auto m = detail::cache_matrix(plan, rule, Scalar<T>, workspace);
  const auto late = detail::rows_read_late(m, plan.input_tokens(), workspace);
  detail::for_each_plane(
      cache, [&](MatrixView<T> rows) { detail::multiply_in_place(m, late, rows, workspace); });
}

/// The same into another cache, [H_kv][at least output_tokens][d] of the same d, which must not
/// overlap `cache`.
template <class In, class T>
void compact_cache(const ReductionPlan& plan, HeadsView<In> cache, HeadsView<T> out,
                   Workspace& workspace, CacheRows rule = CacheRows::selected) {
  require(cache.tokens() >= plan.input_tokens(), "kv cache: the plan takes ", plan.input_tokens(),
          " rows, the cache has ", cache.tokens());
  require(out.heads() == cache.heads() && out.dim() == cache.dim() &&
              out.tokens() >= plan.output_tokens(),
          "kv cache: the output must be [", cache.heads(), "][at least ", plan.output_tokens(),
          "][", cache.dim(), "], got [", out.heads(), "][", out.tokens(), "][", out.dim(), "]");
  require(!detail::overlap(cache, out), "kv cache: input and output overlap");
  Workspace::Frame frame(workspace);
  const auto m = detail::cache_matrix(plan, rule, Scalar<T>, workspace);
  for (Index h = 0; h < cache.heads(); ++h) {
    detail::multiply<T>(m, cache.head(h), out.head(h));
  }
}

/// `compact_cache` for values that lie transposed, [H_kv][d][at least P] with the tokens contiguous
/// (as llama.cpp stores V without FlashAttention): the view's rows are channels, its columns
/// tokens.
template <class T>
void compact_transposed_cache(const ReductionPlan& plan, HeadsView<T> cache, Workspace& workspace,
                              CacheRows rule = CacheRows::selected) {
  detail::check_cache(plan, cache.dim());
  Workspace::Frame frame(workspace);
  const auto m = detail::cache_matrix(plan, rule, Scalar<T>, workspace);
  const auto late = detail::rows_read_late(m, plan.input_tokens(), workspace);
  // A channel whose tokens are read before anything is put in their place needs no copy.
  const Span<T> copy = workspace.take<T>(late.rows.empty() ? 0 : plan.input_tokens());
  for (Index h = 0; h < cache.heads(); ++h) {
    for (Index c = 0; c < cache.tokens(); ++c) {
      T* channel = cache.head(h).row(c);
      std::copy_n(channel, copy.size(), copy.data());
      detail::multiply_channel(m, late.rows.empty() ? channel : copy.data(), channel);
    }
  }
}

}  // namespace tokenfold
