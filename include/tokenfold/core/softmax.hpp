// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "tokenfold/core/score_tiles.hpp"

/// Softmax of a row of scores, and sums of such rows.
namespace tokenfold::detail {

template <class Acc>
auto exponential(Packet<Acc> x) {
  using namespace Eigen::internal;
  if constexpr (packet_traits<Acc>::HasExp != 0) {
    return pexp(x);
  } else {
    Acc values[packet_size<Acc>];
    pstoreu(values, x);
    for (Acc& value : values) {
      value = std::exp(value);
    }
    return ploadu<Packet<Acc>>(values);
  }
}

/// scores[k] ← exp(scores[k] − max) for k < visible, 0 from there to `padded`, which is a whole
/// number of panels; returns the sum. One packet reads, subtracts, raises and adds. A score that is
/// NaN or +∞ makes the sum NaN.
template <class Acc>
Acc exponentials(Acc* scores, Index visible, Index padded) {
  using namespace Eigen::internal;
  using Tile = ScoreTile<Acc>;
  constexpr Index size = packet_size<Acc>;
  constexpr Acc lowest = -std::numeric_limits<Acc>::infinity();
  const Index end = Tile::padded(visible);
  std::fill(scores + visible, scores + end, lowest);
  Packet<Acc> high[2] = {pset1<Packet<Acc>>(lowest), pset1<Packet<Acc>>(lowest)};
  for (Index k = 0; k < end; k += Tile::panel) {
    high[0] = pmax(high[0], ploadu<Packet<Acc>>(scores + k));
    high[1] = pmax(high[1], ploadu<Packet<Acc>>(scores + k + size));
  }
  const Packet<Acc> highest = pset1<Packet<Acc>>(predux_max(pmax(high[0], high[1])));
  // Below this, exp is subnormal or 0; Eigen's is the smallest normal number instead.
  const Packet<Acc> least = pset1<Packet<Acc>>(std::log(std::numeric_limits<Acc>::min()));
  Packet<Acc> sum[2] = {pset1<Packet<Acc>>(Acc(0)), pset1<Packet<Acc>>(Acc(0))};
  for (Index k = 0; k < end; k += Tile::panel) {
    for (Index i = 0; i < 2; ++i) {
      Acc* at = scores + k + i * size;
      const Packet<Acc> x = psub(ploadu<Packet<Acc>>(at), highest);
      const Packet<Acc> e = pandnot(exponential<Acc>(x), pcmp_lt(x, least));
      pstoreu(at, e);
      sum[i] = padd(sum[i], e);
    }
  }
  std::fill(scores + end, scores + padded, Acc(0));
  return predux(padd(sum[0], sum[1]));
}

/// sums[k] += Σ_r factors[r] · rows[r · stride + k] for k < `count`, a whole number of packets. The
/// rows are added in their order; a packet of sums is read and written once for all of them.
template <class Acc>
void add_weighted_rows(Span<const Acc> factors, const Acc* rows, Index stride, Acc* sums,
                       Index count) {
  using namespace Eigen::internal;
  constexpr Index size = packet_size<Acc>;
  constexpr Index together = 8;
  Index k = 0;
  for (; k + together * size <= count; k += together * size) {
    Packet<Acc> sum[together];
    for (Index i = 0; i < together; ++i) {
      sum[i] = ploadu<Packet<Acc>>(sums + k + i * size);
    }
    for (Index r = 0; r < factors.size(); ++r) {
      const Packet<Acc> factor = pset1<Packet<Acc>>(factors[r]);
      const Acc* row = rows + r * stride + k;
      for (Index i = 0; i < together; ++i) {
        sum[i] = pmadd(factor, ploadu<Packet<Acc>>(row + i * size), sum[i]);
      }
    }
    for (Index i = 0; i < together; ++i) {
      pstoreu(sums + k + i * size, sum[i]);
    }
  }
  for (; k < count; k += size) {
    Packet<Acc> sum = ploadu<Packet<Acc>>(sums + k);
    for (Index r = 0; r < factors.size(); ++r) {
      sum = pmadd(pset1<Packet<Acc>>(factors[r]), ploadu<Packet<Acc>>(rows + r * stride + k), sum);
    }
    pstoreu(sums + k, sum);
  }
}

}  // namespace tokenfold::detail
