// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Eigen/SparseCore>

#include "tokenfold/core/plan.hpp"

namespace tokenfold {

/// A plan's W as an Eigen sparse matrix over the plan's own arrays, [output × input tokens]; no
/// copy. Valid as long as the plan.
inline auto as_eigen(const ReductionPlan& plan) {
  using Sparse = Eigen::SparseMatrix<float, Eigen::RowMajor, Token>;
  return Eigen::Map<const Sparse>(plan.output_tokens(), plan.input_tokens(), plan.columns().size(),
                                  plan.offsets().data(), plan.columns().data(),
                                  plan.weights().data());
}

}  // namespace tokenfold
