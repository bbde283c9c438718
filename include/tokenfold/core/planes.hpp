// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "tokenfold/core/views.hpp"

/// What one plan is applied to: a matrix with one row per token, an array with one element per
/// token, or several such matrices as [planes × tokens × D].
namespace tokenfold::detail {

/// A matrix as it is; an array as a matrix of one column.
template <class X>
auto as_rows(X&& x) {
  if constexpr (requires { MatrixView(x); }) {
    return MatrixView(x);
  } else {
    const auto span = Span(x);
    return MatrixView<std::remove_pointer_t<decltype(span.data())>>(span.data(), span.size(), 1);
  }
}

/// Planes as they are; a matrix or an array as one plane.
template <class X>
auto as_planes(X&& x) {
  if constexpr (requires {
                  x.head(Index{0});
                  x.joined();
                }) {
    return x;
  } else {
    const auto rows = as_rows(x);
    return HeadsView<std::remove_pointer_t<decltype(rows.data())>>(rows);
  }
}

/// Calls `use` with every plane as a matrix; with all of them as one if a token's rows lie next to
/// each other.
template <class T, class Use>
void for_each_plane(HeadsView<T> planes, const Use& use) {
  if (planes.heads_are_adjacent()) {
    use(planes.joined());
    return;
  }
  for (Index p = 0; p < planes.heads(); ++p) {
    use(planes.head(p));
  }
}

/// Bytes of memory: `rows` runs of `width`, each `stride` behind the one before.
struct Footprint {
  std::uintptr_t begin;
  std::uintptr_t rows;
  std::uintptr_t width;
  std::uintptr_t stride;  ///< at least `width`

  std::uintptr_t end() const { return begin + (rows - 1) * stride + width; }
};

/// Have they a byte in common? Exact if the strides are equal, so that columns of one buffer are
/// told apart; else true as soon as one begins before the other has ended.
inline bool overlap(const Footprint& a, const Footprint& b) {
  if (b.begin < a.begin) {
    return overlap(b, a);
  }
  if (a.stride != b.stride) {
    return b.begin < a.end();
  }
  // The first row of b begins behind the beginning of that row of a (or, past a's last row, of
  // what would be one), and may reach into the next.
  const std::uintptr_t row = (b.begin - a.begin) / a.stride;
  const std::uintptr_t column = (b.begin - a.begin) % a.stride;
  return (row < a.rows && column < a.width) || (row + 1 < a.rows && column + b.width > a.stride);
}

/// Memory that holds all of `view`, which is not empty, with the stride of its tokens and with that
/// of its heads; one run from the first to the last element where the view has no such shape.
template <class T>
Footprint footprint(HeadsView<T> view, bool by_token) {
  const auto heads = static_cast<std::uintptr_t>(view.heads() - 1);
  const auto tokens = static_cast<std::uintptr_t>(view.tokens() - 1);
  const auto head_stride = static_cast<std::uintptr_t>(view.head_stride()) * sizeof(T);
  const auto token_stride = static_cast<std::uintptr_t>(view.token_stride()) * sizeof(T);
  const std::uintptr_t dim = static_cast<std::uintptr_t>(view.dim()) * sizeof(T);
  const auto begin = reinterpret_cast<std::uintptr_t>(view.data());
  const std::uintptr_t all_heads = heads * head_stride + dim;
  const std::uintptr_t all_tokens = tokens * token_stride + dim;
  if (by_token && tokens > 0 && all_heads <= token_stride) {
    return {begin, tokens + 1, all_heads, token_stride};
  }
  if (by_token && tokens > 0 && head_stride % token_stride == 0) {
    return {begin, heads * (head_stride / token_stride) + tokens + 1, dim, token_stride};
  }
  if (!by_token && heads > 0 && all_tokens <= head_stride) {
    return {begin, heads + 1, all_tokens, head_stride};
  }
  const std::uintptr_t all = heads * head_stride + all_tokens;
  return {begin, 1, all, all};
}

/// Do two views share memory? Never false if they do; true also for some that only lie close
/// together, but not for planes of one buffer with the same strides (K beside V).
template <class A, class B>
bool overlap(HeadsView<A> a, HeadsView<B> b) {
  if (a.tokens() == 0 || a.dim() == 0 || b.tokens() == 0 || b.dim() == 0) {
    return false;
  }
  return overlap(footprint(a, true), footprint(b, true)) &&
         overlap(footprint(a, false), footprint(b, false));
}
template <class A, class B>
bool overlap(MatrixView<A> a, MatrixView<B> b) {
  return overlap(HeadsView<A>(a), HeadsView<B>(b));
}

}  // namespace tokenfold::detail
