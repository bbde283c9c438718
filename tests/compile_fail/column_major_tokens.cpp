// expect: matrices must be row-major
// SPDX-License-Identifier: Apache-2.0
#include <tokenfold/core/plan.hpp>

void apply_to_columns(const tokenfold::ReductionPlan& plan) {
  Eigen::MatrixXf in(8, 5), out(8, 3);
  plan.apply(in, out);
}
