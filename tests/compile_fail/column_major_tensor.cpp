// expect: tensors must be Eigen::RowMajor
// SPDX-License-Identifier: Apache-2.0
#include <tokenfold/core/views.hpp>
#include <unsupported/Eigen/CXX11/Tensor>

void view_a_tensor() {
  Eigen::Tensor<float, 2> tensor(5, 8);
  tokenfold::MatrixView<const float> view(tensor);
}
