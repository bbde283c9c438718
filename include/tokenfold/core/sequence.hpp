// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>

#include "tokenfold/core/attention.hpp"
#include "tokenfold/core/layout.hpp"

/// What a stage may read: a `Sequence` is a layout plus named resources. A stage asks for
/// resources, not for models, and refuses at compile time, by name, a sequence that lacks one.
namespace tokenfold {

/// Resource `attention`: the attention of the layer in question.
template <AttentionSource A>
struct Attention {
  A attention;

  Attention(A source) : attention(source) {}
};

/// Resource `keys`: one key per row of the sequence, [H_kv][P][d].
template <class T>
struct Keys {
  HeadsView<const T> keys;

  explicit Keys(HeadsView<const T> view) : keys(view) {}
};
template <class T>
Keys(HeadsView<T>) -> Keys<std::remove_const_t<T>>;

namespace detail {

template <class R>
struct AsResource {
  using type = R;
};
template <AttentionSource A>
struct AsResource<A> {
  using type = Attention<A>;
};

}  // namespace detail

/// A sequence for a pipeline to work on: `Sequence(layout, attention)`, `Sequence(layout,
/// attention, Keys(k))`. Views only; the layout must outlive it. A caller's own resources are
/// structs with a member of the name that his stage reads; any struct with `layout` and the needed
/// members serves as well.
template <class... Resources>
struct Sequence : Resources... {
  explicit Sequence(const TokenLayout& tokens, Resources... resources)
      : Resources(resources)..., layout(tokens) {}
  Sequence(TokenLayout&&, Resources...) = delete;  // would dangle

  const TokenLayout& layout;
};

/// An attention source needs no wrapping: it becomes the resource `attention`.
template <class... R>
Sequence(const TokenLayout&, R...) -> Sequence<typename detail::AsResource<R>::type...>;

/// The sequence knows what its rows are.
template <class S>
concept HasLayout = requires(const S& sequence) {
  { sequence.layout } -> std::convertible_to<const TokenLayout&>;
};

/// The sequence has `attention`: add an attention source.
template <class S>
concept HasAttention = HasLayout<S> && requires(const S& sequence) {
  requires AttentionSource<std::remove_cvref_t<decltype(sequence.attention)>>;
};

/// The sequence has `keys`: add Keys(view), or an attention source that has keys itself.
template <class S>
concept HasKeys = HasLayout<S> &&(
    requires(const S& sequence) { sequence.keys.heads(); } ||
    requires(const S& sequence) { sequence.attention.key_heads().heads(); });

/// The keys of a sequence: the resource `keys` if there is one, else those of its attention source.
template <HasKeys S>
auto keys_of(const S& sequence) {
  const auto keys = [&] {
    if constexpr (requires { sequence.keys.heads(); }) {
      return sequence.keys;
    } else {
      return sequence.attention.key_heads();
    }
  }();
  require(keys.tokens() == sequence.layout.tokens(), "sequence: ", keys.tokens(),
          " keys were given for ", sequence.layout.tokens(), " tokens");
  return keys;
}

/// Float or double: what the sequence's attention answers in.
template <HasAttention S>
using AnswerOf = typename std::remove_cvref_t<decltype(std::declval<const S&>().attention)>::Answer;

namespace detail {

/// The attention that queries give uniformly weighted keys, or that keys receive from uniformly
/// weighted queries: the mean over `peers` for each token of `tokens`.
template <HasAttention S>
void mean_attention(const S& sequence, AttentionDirection direction, Range tokens, Range peers,
                    Span<const AnswerOf<S>> weights, Span<AnswerOf<S>> out, Workspace& workspace) {
  if (direction == AttentionDirection::received) {
    sequence.attention.received(peers, weights, tokens, out, workspace);
  } else {
    sequence.attention.given(tokens, peers, weights, out, workspace);
  }
}

/// 1/N for every visual token of the layout's visual range, 0 for the rows between them.
template <class T>
Span<T> visual_mean_weights(const TokenLayout& layout, Workspace& workspace) {
  const Range range = layout.visual_range();
  const Span<T> weights = workspace.take_filled<T>(range.size(), T(0));
  for (const Token row : layout.visual()) {
    weights[row - range.begin] = T(1) / static_cast<T>(layout.visual_count());
  }
  return weights;
}

}  // namespace detail
}  // namespace tokenfold
