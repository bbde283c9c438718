// expect: would outlive the temporary matrix
// SPDX-License-Identifier: Apache-2.0
#include <tokenfold/core/views.hpp>

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

Matrix keys();

void split_a_temporary() { tokenfold::split_heads(keys(), 2); }
