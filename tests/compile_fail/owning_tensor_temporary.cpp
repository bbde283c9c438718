// expect: would outlive the temporary tensor
// SPDX-License-Identifier: Apache-2.0
#include <tokenfold/core/views.hpp>
#include <unsupported/Eigen/CXX11/Tensor>

using Tensor = Eigen::Tensor<float, 3, Eigen::RowMajor>;

void view_of_a_temporary() { (void)tokenfold::heads_view(Tensor(2, 3, 4)); }
