// SPDX-License-Identifier: Apache-2.0
//
// One attention source for whatever forms of attention a file holds.

#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <tokenfold/registry/any_attention.hpp>
#include <utility>
#include <vector>

#include "options.hpp"

namespace reduce_tool {

using tokenfold::AttentionKind;
using tokenfold::HeadsView;
using tokenfold::Range;
using tokenfold::Token;

// A tensor of the file as attention.
template <class T>
struct AttentionForm {
  std::string name;
  tokenfold::AnyAttention<T> source;
};

// Answers each question with the first form that holds the rows asked about. With one form it
// refuses as that form does, with several or none by saying what the file lacks.
template <class T>
class FileAttention {
 public:
  using Answer = T;

  // `lacking`: what to say if no form serves. `used` collects the names of those that did.
  FileAttention(AttentionKind kind, Range rows, std::vector<AttentionForm<T>> forms,
                std::string lacking, std::shared_ptr<std::vector<std::string>> used)
      : kind_(kind),
        rows_(rows),
        forms_(std::move(forms)),
        lacking_(std::move(lacking)),
        used_(std::move(used)) {}

  AttentionKind kind() const { return kind_; }
  Range queries() const { return rows_; }
  Range keys() const { return rows_; }

  void received(Range queries, tokenfold::Span<const T> weights, Range keys, tokenfold::Span<T> out,
                tokenfold::Workspace& workspace) const {
    const auto& source = form([&](const auto& held) {
      return held.queries().contains(queries) && held.keys().contains(keys);
    });
    source.received(queries, weights, keys, out, workspace);
  }
  void given(Range queries, Range keys, tokenfold::Span<const T> weights, tokenfold::Span<T> out,
             tokenfold::Workspace& workspace) const {
    const auto& source = form([&](const auto& held) {
      return held.queries().contains(queries) && held.keys().contains(keys);
    });
    source.given(queries, keys, weights, out, workspace);
  }
  void rows(tokenfold::Span<const Token> rows, Range keys, tokenfold::MatrixView<T> out,
            tokenfold::Workspace& workspace) const {
    const auto& source = form([&](const auto& held) {
      return held.keys().contains(keys) && std::all_of(rows.begin(), rows.end(), [&](Token row) {
               return held.queries().contains(row);
             });
    });
    source.rows(rows, keys, out, workspace);
  }

  // The first form that has several heads, or else any.
  Index heads() const { return most_heads().heads(); }
  tokenfold::AnyAttention<T> head(Index h) const { return most_heads().head(h); }
  tokenfold::AnyAttention<T> as_single_head() const {
    return form([](const auto& held) { return held.heads() == 1 || held.key_heads().heads() > 0; })
        .as_single_head();
  }
  HeadsView<const T> key_heads() const { return {}; }

 private:
  template <class Serves>
  const tokenfold::AnyAttention<T>& form(Serves&& serves) const {
    for (const AttentionForm<T>& form : forms_) {
      if (forms_.size() == 1 || serves(form.source)) {
        if (std::find(used_->begin(), used_->end(), form.name) == used_->end()) {
          used_->push_back(form.name);
        }
        return form.source;
      }
    }
    throw Error(lacking_);
  }
  const tokenfold::AnyAttention<T>& most_heads() const {
    const bool many = std::any_of(forms_.begin(), forms_.end(),
                                  [](const auto& form) { return form.source.heads() > 1; });
    return form([&](const auto& held) { return !many || held.heads() > 1; });
  }

  AttentionKind kind_;
  Range rows_;
  std::vector<AttentionForm<T>> forms_;
  std::string lacking_;
  std::shared_ptr<std::vector<std::string>> used_;
};

}  // namespace reduce_tool
