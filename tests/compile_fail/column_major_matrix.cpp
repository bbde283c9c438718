// expect: matrices must be row-major
// SPDX-License-Identifier: Apache-2.0
#include <tokenfold/core/views.hpp>

void view_columns() {
  Eigen::MatrixXf one_token_per_column(8, 5);
  tokenfold::MatrixView<const float> view(one_token_per_column);
}
