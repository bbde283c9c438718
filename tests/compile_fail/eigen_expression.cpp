// expect: an Eigen expression has no memory to view
// SPDX-License-Identifier: Apache-2.0
#include <tokenfold/core/views.hpp>

void view_a_sum() {
  Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> a(5, 8), b(5, 8);
  tokenfold::MatrixView<const float> view(a + b);
}
