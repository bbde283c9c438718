// SPDX-License-Identifier: Apache-2.0
//
// One attention source for whatever form of attention a file holds.

#pragma once

#include <string>
#include <tokenfold/core/dense_attention.hpp>
#include <tokenfold/core/query_key_attention.hpp>
#include <variant>

#include "options.hpp"

namespace reduce_tool {

using tokenfold::AttentionKind;
using tokenfold::HeadsView;
using tokenfold::Range;
using tokenfold::Token;

// A dense source or one of queries and keys, chosen at run time: what makes it a source is only
// that it answers the three questions.
template <class T>
class FileAttention {
 public:
  using Answer = T;
  using Dense = tokenfold::DenseAttention<T>;
  using QueryKey = tokenfold::QueryKeyAttention<T>;

  explicit FileAttention(Dense source) : source_(source) {}
  explicit FileAttention(QueryKey source) : source_(source) {}

  AttentionKind kind() const {
    return ask([](const auto& source) { return source.kind(); });
  }
  Range queries() const {
    return ask([](const auto& source) { return source.queries(); });
  }
  Range keys() const {
    return ask([](const auto& source) { return source.keys(); });
  }
  void received(Range queries, tokenfold::Span<const T> weights, Range keys, tokenfold::Span<T> out,
                tokenfold::Workspace& workspace) const {
    ask([&](const auto& source) { source.received(queries, weights, keys, out, workspace); });
  }
  void given(Range queries, Range keys, tokenfold::Span<const T> weights, tokenfold::Span<T> out,
             tokenfold::Workspace& workspace) const {
    ask([&](const auto& source) { source.given(queries, keys, weights, out, workspace); });
  }
  void rows(tokenfold::Span<const Token> rows, Range keys, tokenfold::MatrixView<T> out,
            tokenfold::Workspace& workspace) const {
    ask([&](const auto& source) { source.rows(rows, keys, out, workspace); });
  }
  FileAttention as_single_head() const {
    if (const auto* source = std::get_if<QueryKey>(&source_)) {
      return FileAttention(source->as_single_head());
    }
    const Index heads = std::get<Dense>(source_).heads();
    if (heads != 1) {
      throw Error(
          "attention as one head of the full width needs queries and keys; with "
          "attention of " +
          std::to_string(heads) + " heads give --set heads=mean");
    }
    return *this;
  }

 private:
  template <class Question>
  auto ask(Question&& question) const {
    return std::visit(question, source_);
  }

  std::variant<Dense, QueryKey> source_;
};

}  // namespace reduce_tool
