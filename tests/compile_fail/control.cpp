// expect: ok
// SPDX-License-Identifier: Apache-2.0
// What the other files here vary, done right: if this one fails, theirs fail for the wrong reason.
#include <tokenfold/tokenfold.hpp>
#include <unsupported/Eigen/CXX11/Tensor>

tokenfold::ReductionPlan plan_everything() {
  Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> keys(5, 8);
  Eigen::MatrixXf column_major(8, 5);
  Eigen::Tensor<float, 2, Eigen::RowMajor> attention(5, 5);
  const tokenfold::MatrixView<const float> transposed = column_major.transpose();
  const auto layout = tokenfold::TokenLayout::encoder({2, 2});
  const tokenfold::QueryKeyAttention source(tokenfold::split_heads(transposed, 2),
                                            tokenfold::split_heads(keys.leftCols(8), 2));
  const tokenfold::Sequence sequence(layout, source);
  const tokenfold::Sequence wrapped(layout, tokenfold::Attention(source));
  tokenfold::FiCoCoV{.filter = {.lambda = 0.5}}.plan(wrapped, tokenfold::Budget::keep(2));
  tokenfold::FiCoCoV{}.plan(tokenfold::Sequence(layout, tokenfold::head_mean_attention(attention)),
                            tokenfold::Budget::keep(2));
  return tokenfold::PruMerge{}.plan(sequence, tokenfold::Budget::adaptive());
}
