// SPDX-License-Identifier: Apache-2.0
//
// The attention that a file offers, in all of its forms, as one attention source.

#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tokenfold/core/dense_attention.hpp>
#include <tokenfold/core/query_key_attention.hpp>
#include <vector>

#include "file_attention.hpp"
#include "layout.hpp"
#include "tensors.hpp"

namespace reduce_tool {

struct AttentionOptions {
  std::optional<std::string> attention;
  std::optional<AttentionKind> kind;
  std::optional<bool> causal;
  double scale = 0;

  void declare(Options& options) {
    options.add("attention", attention,
                "tensor to take attention from: attention, head_mean_logits, logits, "
                "cls_attention_heads, attention_last, queries or queries_heads (with keys or "
                "keys_heads), queries_last, queries_cls (with keys); auto: for every question the "
                "first of these that the file has and that can answer it");
    options.add("kind", kind,
                "what the attention shall hold; auto: as the method and its preset want it, else "
                "metadata, else as the tensor's name says. With attention=NAME: what NAME holds");
    options.add("causal", causal,
                "queries see only keys up to their own row (for queries and keys); auto: metadata, "
                "else true inside an LLM, false inside an encoder");
    options.add("scale", scale, "factor of q*k (for queries and keys); 0: 1/sqrt(d)");
  }
};

namespace detail {

// Which rows of attention a tensor holds.
enum class HeldRows { all, cls, last_text, last, raters };

struct SourceForm {
  std::string_view name;
  std::string_view shape;
  std::string_view keys;  // the tensor of keys that it comes with
  HeldRows rows;
};

// In order of preference.
inline constexpr auto source_forms = std::to_array<SourceForm>({
    {"attention", "[H, P, P]", "", HeldRows::all},
    {"head_mean_logits", "[P, P]", "", HeldRows::all},
    {"logits", "[P, P]", "", HeldRows::all},
    {"cls_attention_heads", "[H, N]", "", HeldRows::cls},
    {"attention_last", "[H, P]", "", HeldRows::last},
    {"rater_attention", "[H, raters, N]", "", HeldRows::raters},
    {"queries", "[H, P, d]", "keys", HeldRows::all},
    {"queries_heads", "[H, P, d]", "keys_heads", HeldRows::all},
    {"queries_last", "[H, d]", "keys", HeldRows::last_text},
    {"queries_cls", "[1, D]", "keys", HeldRows::cls},
});

inline bool is_logits(std::string_view name) {
  return name == "logits" || name == "head_mean_logits";
}

inline Index held_row(HeldRows rows, const std::string& name, const TokenLayout& layout) {
  switch (rows) {
    case HeldRows::cls:
      if (!layout.cls()) throw Error(name + " needs a [CLS] row: give --set cls=ROW");
      return *layout.cls();
    case HeldRows::last_text:
      return (layout.text_after().empty() ? layout.tokens() : layout.text_after().end) - 1;
    case HeldRows::last:
      return layout.tokens() - 1;
    case HeldRows::all:
    case HeldRows::raters:
      break;
  }
  return 0;
}

// [H, rows, columns], or [rows, columns] as one head.
template <class T>
HeadsView<const T> as_heads(const std::string& name, const Numbers<T>& tensor, Index rows,
                            std::string_view expected) {
  const std::size_t rank = tensor.shape.size();
  if ((rank != 2 && rank != 3) || tensor.extent(rank - 2) != rows || tensor.extent(rank - 1) == 0 ||
      (rank == 3 && tensor.extent(0) == 0)) {
    wrong_shape(name, std::string(expected) + " with " + std::to_string(rows) + " rows",
                tensor.shape);
  }
  const Index columns = tensor.extent(rank - 1);
  return {tensor.values.data(),
          {rank == 3 ? tensor.extent(0) : 1, rows, columns},
          {rows * columns, columns, 1}};
}

}  // namespace detail

// All attention of a file, in memory that this owns.
template <class T>
class AttentionData {
 public:
  // `wanted`: the kind that the method reads, if it reads only one. Completes `options`.
  AttentionData(const safetensors::File& file, const std::string& method,
                std::optional<AttentionKind> wanted, bool decoder, AttentionOptions& options,
                const TokenLayout& layout)
      : layout_(layout) {
    std::optional<AttentionKind> metadata;
    default_from_metadata(file, {"kind"}, metadata);
    default_from_metadata(file, {"causal"}, options.causal);
    if (!options.causal) options.causal = decoder;

    std::vector<AttentionForm<T>> forms;
    std::optional<AttentionKind> kind = options.kind ? options.kind : wanted;
    for (const detail::SourceForm& form : detail::source_forms) {
      const std::string name(form.name);
      const bool named = options.attention == name;
      const bool there = file.has(name) && (form.keys.empty() || file.has(std::string(form.keys)));
      if (options.attention ? !named : !there) continue;
      if (form.rows == detail::HeldRows::cls && !layout.cls() && !named) continue;
      const AttentionKind held = held_kind(form, kind, metadata, options);
      if (!options.attention && kind && held != *kind) continue;
      kind = held;
      forms.push_back({name, source(file, form, held, options)});
    }
    if (options.attention && forms.empty()) {
      throw Error("option attention: " + quote(*options.attention) + " is none of " + all_forms());
    }
    options.kind = kind ? *kind : AttentionKind::probabilities;
    read_layers(file, *options.kind);
    source_ = FileAttention<T>(
        *options.kind, {0, layout.tokens()}, std::move(forms),
        method + " needs attention (" + OptionText<AttentionKind>::write(*options.kind) +
            ") that the file has not, one of: " + all_forms() + "; the file has " + contents(file),
        used_);
    if (layers_.empty()) layers_.push_back(source_);
  }
  AttentionData(const AttentionData&) = delete;
  AttentionData& operator=(const AttentionData&) = delete;

  const tokenfold::AnyAttention<T>& source() const { return source_; }

  // One source per layer of `attention_layers`, first to last; else the attention alone.
  tokenfold::Span<const tokenfold::AnyAttention<T>> layers() const { return layers_; }

  // The tensors that were asked, comma-separated.
  std::string used() const {
    std::string names;
    for (const std::string& name : *used_) names += (names.empty() ? "" : ", ") + name;
    return names.empty() ? "none" : names;
  }

 private:
  static std::string all_forms() {
    std::string all;
    for (const detail::SourceForm& form : detail::source_forms) {
      all += (all.empty() ? "" : ", ") + std::string(form.name) + " " + std::string(form.shape) +
             (form.keys.empty() ? "" : " with " + std::string(form.keys));
    }
    return all;
  }

  static AttentionKind held_kind(const detail::SourceForm& form, std::optional<AttentionKind> kind,
                                 std::optional<AttentionKind> metadata,
                                 const AttentionOptions& options) {
    if (detail::is_logits(form.name)) {
      if (options.attention && options.kind && *options.kind != AttentionKind::logits) {
        throw Error("tensor " + std::string(form.name) + " holds logits, but kind=" +
                    OptionText<AttentionKind>::write(*options.kind) + " is asked for");
      }
      return AttentionKind::logits;
    }
    if (!form.keys.empty() || options.attention) {  // queries and keys give either
      if (kind) return *kind;
    }
    return metadata.value_or(AttentionKind::probabilities);
  }

  tokenfold::AnyAttention<T> source(const safetensors::File& file, const detail::SourceForm& form,
                                    AttentionKind kind, const AttentionOptions& options) {
    const std::string name(form.name);
    const Numbers<T>& values = hold(read_numbers<T>(file, name));
    if (!form.keys.empty()) {
      const std::string keys_name(form.keys);
      const Numbers<T>& keys = hold(read_numbers<T>(file, keys_name));
      return query_key(form, values,
                       detail::as_heads(keys_name, keys, layout_.tokens(), "[H, P, d] or [P, D]"),
                       {.kind = kind, .causal = *options.causal, .scale = options.scale});
    }
    if (form.rows == detail::HeldRows::raters) return rater_rows(file, values, kind);
    return dense(form, values, kind);
  }

  // Rows that are scattered over the text, spread over the span of them; nobody asks for the
  // others.
  tokenfold::DenseAttention<T> rater_rows(const safetensors::File& file, const Numbers<T>& values,
                                          AttentionKind kind) {
    if (!file.has("rater_indices")) throw Error("rater_attention needs rater_indices");
    const std::vector<std::int64_t> rows = file.tensors.at("rater_indices").int64s();
    const Range columns = layout_.visual_range();
    const auto raters = static_cast<Index>(rows.size());
    if (values.shape.size() != 3 || values.extent(0) == 0 || raters == 0 ||
        values.extent(1) != raters || values.extent(2) != columns.size()) {
      wrong_shape("rater_attention",
                  "[H, " + std::to_string(raters) + ", " + std::to_string(columns.size()) + "]",
                  values.shape);
    }
    const auto [first, last] = std::minmax_element(rows.begin(), rows.end());
    if (*first < 0 || *last >= layout_.tokens()) throw Error("rater_indices: no such row");
    const Index span = static_cast<Index>(*last - *first) + 1;
    Numbers<T> spread;
    spread.values.resize(static_cast<std::size_t>(values.extent(0) * span * columns.size()));
    for (Index h = 0; h < values.extent(0); ++h) {
      for (Index i = 0; i < raters; ++i) {
        const Index row = static_cast<Index>(rows[static_cast<std::size_t>(i)] - *first);
        std::copy_n(values.values.begin() + (h * raters + i) * columns.size(), columns.size(),
                    spread.values.begin() + (h * span + row) * columns.size());
      }
    }
    const Numbers<T>& held = hold(std::move(spread));
    return tokenfold::DenseAttention<T>(
        HeadsView<const T>(held.values.data(), {values.extent(0), span, columns.size()},
                           {span * columns.size(), columns.size(), 1}),
        {.kind = kind, .first_query = static_cast<Index>(*first), .first_key = columns.begin});
  }

  // [layers, H, P, P]
  void read_layers(const safetensors::File& file, AttentionKind kind) {
    if (!file.has("attention_layers")) return;
    const Numbers<T>& values = hold(read_numbers<T>(file, "attention_layers"));
    const Index rows = layout_.tokens();
    if (values.shape.size() != 4 || values.extent(1) == 0 || values.extent(2) != rows ||
        values.extent(3) != rows) {
      wrong_shape("attention_layers", "[layers, H, P, P] with P = " + std::to_string(rows),
                  values.shape);
    }
    const Index heads = values.extent(1);
    for (Index layer = 0; layer < values.extent(0); ++layer) {
      layers_.push_back(tokenfold::DenseAttention<T>(
          HeadsView<const T>(values.values.data() + layer * heads * rows * rows,
                             {heads, rows, rows}, {rows * rows, rows, 1}),
          {.kind = kind}));
    }
  }

  tokenfold::DenseAttention<T> dense(const detail::SourceForm& form, const Numbers<T>& values,
                                     AttentionKind kind) const {
    const std::string name(form.name);
    const Index rows = layout_.tokens();
    tokenfold::DenseAttentionOptions where{kind};
    if (form.rows != detail::HeldRows::all) {
      const bool patches_only = form.rows == detail::HeldRows::cls;
      const Range columns = patches_only ? layout_.visual_range() : Range{0, rows};
      if (values.shape.size() != 2 || values.extent(0) == 0 || values.extent(1) != columns.size()) {
        wrong_shape(name, "[H, " + std::to_string(columns.size()) + "]", values.shape);
      }
      where.first_query = detail::held_row(form.rows, name, layout_);
      where.first_key = columns.begin;
      return tokenfold::DenseAttention<T>(
          HeadsView<const T>(values.values.data(), {values.extent(0), 1, columns.size()},
                             {columns.size(), columns.size(), 1}),
          where);
    }
    const auto heads = detail::as_heads(name, values, rows, "[H, P, P] or [P, P]");
    if (heads.dim() != rows) {
      wrong_shape(name, "[.., P, P] with P = " + std::to_string(rows), values.shape);
    }
    return tokenfold::DenseAttention<T>(heads, where);
  }

  tokenfold::QueryKeyAttention<T> query_key(const detail::SourceForm& form,
                                            const Numbers<T>& values, HeadsView<const T> keys,
                                            tokenfold::QueryKeyOptions how) const {
    const std::string name(form.name);
    if (form.rows == detail::HeldRows::all) {
      const auto queries = detail::as_heads(name, values, layout_.tokens(), "[H, P, d] or [P, D]");
      return {queries, keys, how};
    }
    // One row: [1, H·d], or [H, d].
    how.first_query = detail::held_row(form.rows, name, layout_);
    const Index d = keys.dim();
    if (form.rows == detail::HeldRows::cls) {
      if (values.shape.size() != 2 || values.extent(0) != 1 || values.extent(1) != keys.width()) {
        wrong_shape(name, "[1, " + std::to_string(keys.width()) + "]", values.shape);
      }
      return {HeadsView<const T>(values.values.data(), {keys.heads(), 1, d}, {d, keys.width(), 1}),
              keys, how};
    }
    if (values.shape.size() != 2 || values.extent(0) == 0 || values.extent(1) != d) {
      wrong_shape(name, "[H, " + std::to_string(d) + "]", values.shape);
    }
    return {HeadsView<const T>(values.values.data(), {values.extent(0), 1, d}, {d, d, 1}), keys,
            how};
  }

  const Numbers<T>& hold(Numbers<T> numbers) {
    held_.push_back(std::make_unique<Numbers<T>>(std::move(numbers)));
    return *held_.back();
  }

  const TokenLayout& layout_;
  std::vector<std::unique_ptr<Numbers<T>>> held_;
  std::shared_ptr<std::vector<std::string>> used_ = std::make_shared<std::vector<std::string>>();
  std::vector<tokenfold::AnyAttention<T>> layers_;
  tokenfold::AnyAttention<T> source_;
};

}  // namespace reduce_tool
