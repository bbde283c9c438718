// expect: would outlive the temporary matrix
// SPDX-License-Identifier: Apache-2.0
#include <tokenfold/core/dense_attention.hpp>

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

Matrix probabilities();

void attention_of_a_temporary() { tokenfold::head_mean_attention(probabilities()); }
