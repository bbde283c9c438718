// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>

#include "tokenfold/core/options.hpp"
#include "tokenfold/core/products.hpp"

/// How large the keys, values or embeddings of tokens are: what filters that read no attention rank
/// by.
namespace tokenfold::filter {

/// ‖x‖ = Σ |x_c|  or  √(Σ x_c²).
enum class RowNorm { l1, l2 };
constexpr auto enum_names(RowNorm) {
  return enum_names_of<RowNorm>({{"l1", RowNorm::l1}, {"l2", RowNorm::l2}});
}

}  // namespace tokenfold::filter

namespace tokenfold::detail {

/// Σ |x_c| or Σ x_c² of one row; neither overflows float.
template <class Row>
double norm_sum(const Row& row, filter::RowNorm norm) {
  if (norm == filter::RowNorm::l2) {
    return squared_norm(row);
  }
  const auto own = static_cast<double>(row.cwiseAbs().sum());
  return std::isfinite(own) ? own : row.template cast<double>().cwiseAbs().sum();
}

/// out[i] = ‖x_i‖, heads concatenated. Not finite where the row is not.
template <class T>
void row_norms(HeadsView<const T> x, filter::RowNorm norm, Span<double> out, Workspace& workspace) {
  std::fill(out.begin(), out.end(), 0.0);
  for_each_joined_part(x, [&](Range, MatrixView<const T> part) {
    for_each_row_block(part, workspace, [&](Range block, MatrixView<const Accumulator<T>> rows) {
      for (Index i = 0; i < block.size(); ++i) {
        out[block.begin + i] += norm_sum(rows.map().row(i), norm);
      }
    });
  });
  if (norm == filter::RowNorm::l2) {
    for (double& value : out) {
      value = std::sqrt(value);
    }
  }
}

}  // namespace tokenfold::detail
