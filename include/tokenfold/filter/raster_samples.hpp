// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/core/select.hpp"

/// Samples spread over the raster, for filters that add some to what they chose by score. All work
/// on visual ordinals 0 … n − 1: `chosen[0 … size)` is taken already, what is added goes behind it;
/// the new size is returned.
namespace tokenfold::detail {

/// Adds 0, step, 2 · step, … < end where they are not taken. If that makes more than `cap`, the
/// step grows until everything fits.
inline Index add_strided_samples(Index n, Index end, Index step, Index cap, Span<Index> chosen,
                                 Index size, Workspace& workspace) {
  Workspace::Frame frame(workspace);
  const Span<bool> taken = mark(n, chosen.subspan(0, size), workspace);
  const auto fresh = [&](Index stride) {
    Index total = 0;
    for (Index v = 0; v < end; v += stride) {
      total += taken[v] ? 0 : 1;
    }
    return total;
  };
  while (step < n && size + fresh(step) > cap) {
    ++step;
  }
  for (Index v = 0; v < end && size < cap; v += step) {
    if (!taken[v]) {
      chosen[size++] = v;
    }
  }
  return size;
}

/// Adds as many as are missing to `keep`, at even distances among those that are not taken.
inline Index add_even_samples(Index n, Index keep, Span<Index> chosen, Index size,
                              Workspace& workspace) {
  Workspace::Frame frame(workspace);
  const Span<bool> taken = mark(n, chosen.subspan(0, size), workspace);
  const Index wanted = keep - size;
  const Index free = n - size;
  Index seen = 0;
  Index drawn = 0;
  for (Index v = 0; v < n && drawn < wanted; ++v) {
    if (taken[v]) {
      continue;
    }
    // Sample d of `wanted` is the free one of number (2d + 1) · free / (2 · wanted).
    if (seen == (2 * drawn + 1) * free / (2 * wanted)) {
      chosen[size++] = v;
      ++drawn;
    }
    ++seen;
  }
  return size;
}

}  // namespace tokenfold::detail
