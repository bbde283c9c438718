// expect: an Eigen expression has no memory to view
// SPDX-License-Identifier: Apache-2.0
#include <tokenfold/core/plan.hpp>

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

void apply_to_a_sum(const tokenfold::ReductionPlan& plan, const Matrix& a, Matrix& out) {
  plan.apply(a + a, out);
}
