// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>

#include "tokenfold/core/attention.hpp"
#include "tokenfold/core/layout.hpp"
#include "tokenfold/core/token_rows.hpp"

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

/// Resource `values`: one value per row of the sequence, [H_kv][P][d].
template <class T>
struct Values {
  HeadsView<const T> values;

  explicit Values(HeadsView<const T> view) : values(view) {}
};
template <class T>
Values(HeadsView<T>) -> Values<std::remove_const_t<T>>;

/// Resource `features`: what tokens are compared by, [rows × D]: hidden states, projected
/// embeddings. `first_row`: the row of the sequence that the matrix begins with.
template <class T>
struct Features {
  TokenRows<T> features;

  explicit Features(MatrixView<const T> matrix, Index first_row = 0)
      : features{matrix, first_row} {}
};
template <class M>
Features(M&& matrix, Index = 0) -> Features<typename decltype(MatrixView(matrix))::Element>;

/// Resource `image_embeddings`: a second description of the visual tokens, [rows × C], where a
/// method compares them with text in a space of their own (CDPruner: CLIP's image embeddings) or by
/// what the encoder saw (MMTok: features before the projector).
template <class T>
struct ImageEmbeddings {
  TokenRows<T> image_embeddings;

  explicit ImageEmbeddings(MatrixView<const T> matrix, Index first_row = 0)
      : image_embeddings{matrix, first_row} {}
};
template <class M>
ImageEmbeddings(M&& matrix, Index = 0)
    -> ImageEmbeddings<typename decltype(MatrixView(matrix))::Element>;

/// Resource `text_embeddings`: one row per text token or segment, [M × C]; not rows of the
/// sequence.
template <class T>
struct TextEmbeddings {
  MatrixView<const T> text_embeddings;

  explicit TextEmbeddings(MatrixView<const T> matrix) : text_embeddings(matrix) {}
};
template <class M>
TextEmbeddings(M&& matrix) -> TextEmbeddings<typename decltype(MatrixView(matrix))::Element>;

/// Resource `relevance`: how much each token matters, one number per row from `first_row` on.
template <class T>
struct Relevance {
  TokenRows<T> relevance;

  explicit Relevance(Span<const T> values, Index first_row = 0)
      : relevance{{values.data(), values.size(), 1}, first_row} {}
};
template <class Container>
Relevance(Container&& values, Index = 0)
    -> Relevance<std::remove_cvref_t<decltype(*values.data())>>;

/// Resource `sizes`: how many tokens of the first layer each row stands for, [P]; see
/// `ReductionPlan::sizes`. Without it every row counts as one.
struct Sizes {
  Span<const float> sizes;

  explicit Sizes(Span<const float> values) : sizes(values) {}
};

/// Resource `attention_layers`: the attention of several consecutive layers, first to last.
template <AttentionSource A>
struct AttentionLayers {
  Span<const A> attention_layers;

  explicit AttentionLayers(Span<const A> layers) : attention_layers(layers) {}
};
template <class Container>
AttentionLayers(Container&& layers)
    -> AttentionLayers<std::remove_cvref_t<decltype(*layers.data())>>;

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

/// The sequence has the resource of that name: add Values(v), Features(x), ...
template <class S>
concept HasValues = HasLayout<S> && requires(const S& sequence) {
  sequence.values.heads();
};
template <class S>
concept HasFeatures = HasLayout<S> && requires(const S& sequence) {
  sequence.features.matrix;
};
template <class S>
concept HasImageEmbeddings = HasLayout<S> && requires(const S& sequence) {
  sequence.image_embeddings.matrix;
};
template <class S>
concept HasTextEmbeddings = HasLayout<S> && requires(const S& sequence) {
  sequence.text_embeddings.rows();
};
template <class S>
concept HasRelevance = HasLayout<S> && requires(const S& sequence) {
  sequence.relevance.matrix;
};
template <class S>
concept HasSizes = HasLayout<S> && requires(const S& sequence) {
  { sequence.sizes } -> std::convertible_to<Span<const float>>;
};
template <class S>
concept HasAttentionLayers = HasLayout<S> && requires(const S& sequence) {
  requires AttentionSource<std::remove_cvref_t<decltype(sequence.attention_layers[0])>>;
};

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

/// How many tokens the token in `row` stands for: 1 without the resource `sizes`.
template <HasLayout S>
float size_of(const S& sequence, Index row) {
  if constexpr (HasSizes<S>) {
    return sequence.sizes.empty() ? 1.0f : sequence.sizes[row];
  }
  return 1.0f;
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
