// SPDX-License-Identifier: Apache-2.0
//
// The attention that a file offers, in whichever form, as one attention source.

#pragma once

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "file_attention.hpp"
#include "layout.hpp"
#include "tensors.hpp"

namespace reduce_tool {

template <>
struct Names<AttentionKind> {
  static constexpr auto values = std::to_array<Name<AttentionKind>>(
      {{"probabilities", AttentionKind::probabilities}, {"logits", AttentionKind::logits}});
};

struct AttentionOptions {
  std::optional<std::string> attention;
  std::optional<AttentionKind> kind;
  std::optional<bool> causal;
  double scale = 0;

  void declare(Options& options) {
    options.add("attention", attention,
                "tensor to take attention from: attention, head_mean_logits, logits, "
                "cls_attention_heads, attention_last, queries (with keys), queries_cls (with "
                "keys); auto: the first of these that the file has and the method can use");
    options.add("kind", kind,
                "what the attention shall hold; auto: as the preset wants it, else metadata, else "
                "as the tensor's name says. With attention=NAME: what NAME holds");
    options.add("causal", causal,
                "queries see only keys up to their own row (for queries and keys); auto: metadata, "
                "else true inside an LLM, false inside an encoder");
    options.add("scale", scale, "factor of q*k (for queries and keys); 0: 1/sqrt(d)");
  }
};

// The rows of attention that a method reads, or that a tensor holds.
enum class AttentionRows {
  all,
  cls,
  last_text,  // of text after the image, or the last row if there is none
  last,
};

// What a method asks of the attention, and of the rest of the file.
struct Needs {
  enum class KeysNeed { no, without_cls, yes };

  bool decoder = false;      // rows are those of an LLM: text, image, text
  bool cls = false;          // a [CLS] row there must be
  bool single_head = false;  // one head of the full width, not a mean over heads
  AttentionRows rows = AttentionRows::all;
  KeysNeed keys = KeysNeed::no;
  std::optional<AttentionKind> kind;
  bool adaptive = false;  // has a rule of its own for how many tokens remain
};

namespace detail {

struct SourceForm {
  std::string_view name;
  std::string_view shape;
  bool has_keys;  // comes with `keys`
  AttentionRows rows;
};

// In order of preference.
inline constexpr auto source_forms = std::to_array<SourceForm>({
    {"attention", "[H, P, P]", false, AttentionRows::all},
    {"head_mean_logits", "[P, P]", false, AttentionRows::all},
    {"logits", "[P, P]", false, AttentionRows::all},
    {"cls_attention_heads", "[H, N]", false, AttentionRows::cls},
    {"attention_last", "[H, P]", false, AttentionRows::last},
    {"queries", "[H, P, d]", true, AttentionRows::all},
    {"queries_cls", "[1, D]", true, AttentionRows::cls},
});

inline bool is_logits(std::string_view name) {
  return name == "logits" || name == "head_mean_logits";
}

// What the tensors of this name hold, as far as it is not asked for.
inline AttentionKind stored_kind(std::string_view name, std::optional<AttentionKind> metadata) {
  return is_logits(name) ? AttentionKind::logits : metadata.value_or(AttentionKind::probabilities);
}

inline std::optional<Index> one_row(AttentionRows rows, const TokenLayout& layout) {
  switch (rows) {
    case AttentionRows::cls:
      return layout.cls();
    case AttentionRows::last_text:
      return (layout.text_after().empty() ? layout.tokens() : layout.text_after().end) - 1;
    case AttentionRows::last:
      return layout.tokens() - 1;
    case AttentionRows::all:
      break;
  }
  return std::nullopt;
}

// Whether `held` are enough for a method that reads `read`.
inline bool holds_rows(AttentionRows held, AttentionRows read, const TokenLayout& layout) {
  if (held == AttentionRows::all || held == read) return true;
  const std::optional<Index> row = one_row(read, layout);
  return row && row == one_row(held, layout);
}

inline bool usable(const safetensors::File& file, const SourceForm& form, const Needs& needs,
                   std::optional<AttentionKind> asked, std::optional<AttentionKind> metadata,
                   const TokenLayout& layout) {
  const auto found = file.tensors.find(std::string(form.name));
  if (found == file.tensors.end() || (form.has_keys && !file.has("keys"))) return false;
  if (!holds_rows(form.rows, needs.rows, layout)) return false;
  if (form.has_keys) return true;
  const Shape& shape = found->second.shape;
  const std::size_t rank_of_one_head = form.rows == AttentionRows::all ? 2 : 1;
  if (needs.single_head && shape.size() > rank_of_one_head && shape[0] != 1) return false;
  return !asked || stored_kind(form.name, metadata) == *asked;
}

inline const SourceForm& choose_source(const safetensors::File& file, const std::string& method,
                                       const Needs& needs, const AttentionOptions& options,
                                       std::optional<AttentionKind> asked,
                                       std::optional<AttentionKind> metadata,
                                       const TokenLayout& layout) {
  std::string fitting;
  for (const SourceForm& form : source_forms) {
    if (options.attention ? *options.attention == form.name
                          : usable(file, form, needs, asked, metadata, layout)) {
      return form;
    }
    const bool kind_fits =
        form.has_keys || !asked || !is_logits(form.name) || *asked == AttentionKind::logits;
    if (options.attention || (holds_rows(form.rows, needs.rows, layout) && kind_fits)) {
      fitting += (fitting.empty() ? "" : ", ") + std::string(form.name) + " " +
                 std::string(form.shape) + (form.has_keys ? " with keys" : "");
    }
  }
  if (options.attention) {
    throw Error("option attention: " + quote(*options.attention) + " is none of " + fitting);
  }
  throw Error(method + " needs attention" +
              (asked ? " (" + Text<AttentionKind>::write(*asked) + ")" : "") +
              (needs.single_head ? " as a single head" : "") + ", one of: " + fitting +
              "; the file has " + contents(file));
}

// [H, rows, columns], or [rows, columns] as one head.
template <class T>
HeadsView<const T> as_heads(const std::string& name, const Numbers<T>& tensor, Index rows,
                            std::string_view expected) {
  const std::size_t rank = tensor.shape.size();
  if ((rank != 2 && rank != 3) || tensor.extent(rank - 2) != rows ||
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

// The attention and keys of a file, in memory that this owns.
template <class T>
class AttentionData {
 public:
  // Throws if the file lacks what `needs` asks for.
  AttentionData(const safetensors::File& file, const std::string& method, const Needs& needs,
                AttentionOptions& options, const TokenLayout& layout) {
    const Index rows = layout.tokens();
    std::optional<AttentionKind> metadata;
    default_from_metadata(file, {"kind"}, metadata);
    default_from_metadata(file, {"causal"}, options.causal);
    if (!options.causal) options.causal = needs.decoder;
    const std::optional<AttentionKind> asked = options.kind ? options.kind : needs.kind;
    const detail::SourceForm& form =
        detail::choose_source(file, method, needs, options, asked, metadata, layout);
    const std::string name(form.name);

    const bool needs_keys =
        needs.keys == Needs::KeysNeed::yes ||
        (needs.keys == Needs::KeysNeed::without_cls && !layout.cls().has_value());
    if (needs_keys && !file.has("keys")) {
      throw Error(method + " needs keys [H, P, d]" +
                  (needs.keys == Needs::KeysNeed::yes ? "" : " if there is no [CLS] row") +
                  "; the file has " + contents(file));
    }
    if (needs_keys || form.has_keys) {
      keys_ = read_numbers<T>(file, "keys");
      key_heads_ = detail::as_heads("keys", keys_, rows, "[H, P, d] or [P, D]");
    }
    values_ = read_numbers<T>(file, name);
    if (form.has_keys) {
      const AttentionKind kind = asked ? *asked : metadata.value_or(AttentionKind::probabilities);
      source_.emplace(query_key(name, kind, options, layout));
      options.kind = kind;
    } else {
      const AttentionKind kind = options.kind ? *options.kind : detail::stored_kind(name, metadata);
      if (detail::is_logits(name) && kind != AttentionKind::logits) {
        throw Error("tensor " + name + " holds logits, but kind=" +
                    Text<AttentionKind>::write(kind) + " is asked for");
      }
      source_.emplace(dense(name, kind, layout));
      options.kind = kind;
    }
    options.attention = name;
  }
  AttentionData(const AttentionData&) = delete;
  AttentionData& operator=(const AttentionData&) = delete;

  const FileAttention<T>& source() const { return *source_; }
  // Empty unless the method or the source needs them.
  HeadsView<const T> keys() const { return key_heads_; }

 private:
  tokenfold::DenseAttention<T> dense(const std::string& name, AttentionKind kind,
                                     const TokenLayout& layout) const {
    const Index rows = layout.tokens();
    tokenfold::DenseAttentionOptions where{kind};
    if (name == "cls_attention_heads" || name == "attention_last") {
      const bool last = name == "attention_last";
      const Index columns = last ? rows : layout.visual_range().size();
      if (values_.shape.size() != 2 || values_.extent(0) == 0 || values_.extent(1) != columns) {
        wrong_shape(name, "[H, " + std::to_string(columns) + "]", values_.shape);
      }
      if (!last && !layout.cls()) throw Error(name + " needs a [CLS] row: give --set cls=ROW");
      where.first_query = last ? rows - 1 : *layout.cls();
      where.first_key = last ? 0 : layout.visual_range().begin;
      return tokenfold::DenseAttention<T>(
          HeadsView<const T>(values_.values.data(), {values_.extent(0), 1, columns},
                             {columns, columns, 1}),
          where);
    }
    const auto heads = detail::as_heads(name, values_, rows, "[H, P, P] or [P, P]");
    if (heads.dim() != rows) {
      wrong_shape(name, "[.., P, P] with P = " + std::to_string(rows), values_.shape);
    }
    return tokenfold::DenseAttention<T>(heads, where);
  }

  tokenfold::QueryKeyAttention<T> query_key(const std::string& name, AttentionKind kind,
                                            const AttentionOptions& options,
                                            const TokenLayout& layout) const {
    tokenfold::QueryKeyOptions how{kind, *options.causal, 0, options.scale};
    if (name != "queries_cls") {
      const auto queries =
          detail::as_heads("queries", values_, layout.tokens(), "[H, P, d] or [P, D]");
      return {queries, key_heads_, how};
    }
    if (!layout.cls()) throw Error(name + " needs a [CLS] row: give --set cls=ROW");
    if (values_.shape.size() != 2 || values_.extent(0) != 1 ||
        values_.extent(1) != key_heads_.width()) {
      wrong_shape(name, "[1, " + std::to_string(key_heads_.width()) + "]", values_.shape);
    }
    how.first_query = *layout.cls();
    const Index d = key_heads_.dim();
    return {HeadsView<const T>(values_.values.data(), {key_heads_.heads(), 1, d},
                               {d, key_heads_.width(), 1}),
            key_heads_, how};
  }

  Numbers<T> values_;
  Numbers<T> keys_;
  HeadsView<const T> key_heads_;
  std::optional<FileAttention<T>> source_;
};

}  // namespace reduce_tool
