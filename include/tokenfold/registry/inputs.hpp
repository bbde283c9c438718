// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/core/sequence.hpp"
#include "tokenfold/registry/any_attention.hpp"

namespace tokenfold {

/// A sequence whose resources are given at run time: fill in what there is, leave the rest empty. A
/// method that needs what is empty throws and says so.
///
///   tf::Inputs<float> inputs(layout);
///   inputs.attention = tf::QueryKeyAttention(q, k);
///   inputs.features = {tf::MatrixView<const float>(hidden, 577, 1024)};
template <Scalar T = float>
struct Inputs {
  explicit Inputs(const TokenLayout& tokens) : layout(tokens) {}
  explicit Inputs(TokenLayout&&) = delete;  // would dangle

  const TokenLayout& layout;
  AnyAttention<T> attention = {};
  Span<const AnyAttention<T>> attention_layers = {};
  HeadsView<const T> keys = {};
  HeadsView<const T> values = {};
  TokenRows<T> features = {};
  TokenRows<T> image_embeddings = {};
  MatrixView<const T> text_embeddings = {};
  /// One number a row: [rows × 1].
  TokenRows<T> relevance = {};
  /// One a row of the sequence, [P].
  Span<const float> sizes = {};
  /// Rows of the sequence; see filter/raters.hpp.
  Span<const Token> raters = {};
  /// One a row of the sequence, [P].
  Span<const std::int32_t> positions = {};
};

}  // namespace tokenfold
