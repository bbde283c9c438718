// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>

#include "tokenfold/core/views.hpp"

namespace tokenfold::detail {

/// The numerical rank of the rows of `a`, which are overwritten: how many of them, each time the
/// one that stands out most, are further than `tolerance` times the longest row from the span of
/// those before (Gram-Schmidt with pivoting: a rank-revealing QR without its factors). Allocates
/// nothing, unlike Eigen's decompositions. Rows² · columns multiply-adds.
template <class T>
Index numerical_rank(MatrixView<T> a, double tolerance) {
  auto rows = a.map();
  const Index most = std::min(a.rows(), a.cols());
  double least = 0;
  for (Index rank = 0; rank < most; ++rank) {
    Index pivot = rank;
    double square = 0;
    for (Index i = rank; i < a.rows(); ++i) {
      const auto candidate = static_cast<double>(rows.row(i).squaredNorm());
      if (candidate > square) {
        square = candidate;
        pivot = i;
      }
    }
    const double length = std::sqrt(square);
    if (rank == 0) {
      least = tolerance * length;
    }
    if (!(length > least)) {
      return rank;
    }
    rows.row(rank).swap(rows.row(pivot));
    rows.row(rank) /= static_cast<T>(length);
    for (Index i = rank + 1; i < a.rows(); ++i) {
      const T overlap = rows.row(i).dot(rows.row(rank));
      rows.row(i) -= overlap * rows.row(rank);
    }
  }
  return most;
}

}  // namespace tokenfold::detail
