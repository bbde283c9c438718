// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

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

/// Do the memory ranges of two views touch?
template <class A, class B>
bool overlap(HeadsView<A> a, HeadsView<B> b) {
  if (a.tokens() == 0 || a.dim() == 0 || b.tokens() == 0 || b.dim() == 0) {
    return false;
  }
  const auto end = [](const auto& view) -> const void* {
    return view.head(view.heads() - 1).row(view.tokens() - 1) + view.dim();
  };
  const std::less_equal<const void*> before;
  return !before(end(a), b.data()) && !before(end(b), a.data());
}
template <class A, class B>
bool overlap(MatrixView<A> a, MatrixView<B> b) {
  return overlap(HeadsView<A>(a), HeadsView<B>(b));
}

}  // namespace tokenfold::detail
