// SPDX-License-Identifier: Apache-2.0
//
// What the rows of `tokens` are: from --set, else from the file's metadata, else from the counts.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <tokenfold/core/layout.hpp>
#include <vector>

#include "tensors.hpp"

namespace reduce_tool {

using tokenfold::Token;
using tokenfold::TokenLayout;

// first, last, none, or a row.
struct ClsRow {
  enum class Place { first, last, none, row } place = Place::none;
  Index row = 0;

  std::optional<Index> in(Index rows) const {
    switch (place) {
      case Place::first:
        return 0;
      case Place::last:
        return rows - 1;
      case Place::row:
        return row;
      case Place::none:
        break;
    }
    return std::nullopt;
  }
};

}  // namespace reduce_tool

// True and False are what a dump script prints for a leading [CLS] or none.
template <>
struct tokenfold::OptionText<reduce_tool::ClsRow> {
  static std::string type() { return "first|last|none|ROW"; }
  static bool parse(std::string_view text, reduce_tool::ClsRow& out) {
    using Place = reduce_tool::ClsRow::Place;
    if (text == "first" || text == "True" || text == "true") {
      out = {Place::first, 0};
    } else if (text == "last") {
      out = {Place::last, 0};
    } else if (text == "none" || text == "False" || text == "false") {
      out = {Place::none, 0};
    } else {
      out.place = Place::row;
      return tokenfold::detail::parse_number(text, out.row);
    }
    return true;
  }
  static std::string write(reduce_tool::ClsRow cls) {
    switch (cls.place) {
      case reduce_tool::ClsRow::Place::first:
        return "first";
      case reduce_tool::ClsRow::Place::last:
        return "last";
      case reduce_tool::ClsRow::Place::row:
        return std::to_string(cls.row);
      case reduce_tool::ClsRow::Place::none:
        break;
    }
    return "none";
  }
};

namespace reduce_tool {

struct LayoutOptions {
  std::optional<Grid> grid;
  std::optional<ClsRow> cls;
  std::optional<Index> visual_begin;
  std::optional<Index> visual_count;
  std::optional<Index> text_after;
  std::optional<Index> frames;

  void declare(Options& options) {
    options.add("grid", grid,
                "patch grid; auto: metadata grid, else square if the number of visual tokens is");
    options.add("cls", cls,
                "row of [CLS]; auto: metadata cls, else first if one row more than patches");
    options.add("visual_begin", visual_begin,
                "first visual row; auto: metadata visual_begin, image_token_start_index or "
                "vision_token_start_index, else derived");
    options.add("visual_count", visual_count,
                "number of visual rows; auto: metadata visual_count, v_tokens, image_token_length, "
                "vision_token_length or n_patches, else derived");
    options.add("text_after", text_after,
                "number of text rows right after the visual ones; auto: metadata text_after or "
                "text_tokens, else derived");
    options.add("frames", frames,
                "frames of a video, each a grid; auto: metadata frames (with rows and cols as the "
                "grid), else 1");
  }
};

// Takes an option that was not set from the metadata. What does not read as such a value belongs to
// somebody else's key of the same name and is passed over.
template <class T>
void default_from_metadata(const safetensors::File& file, std::initializer_list<const char*> keys,
                           std::optional<T>& option) {
  for (const char* key : keys) {
    const auto found = file.metadata.find(key);
    if (!option && found != file.metadata.end()) {
      OptionText<std::optional<T>>::parse(found->second, option);
    }
  }
}

namespace detail {

inline Grid square(Index cells) {
  if (cells < 1) return {};
  const auto side = static_cast<Index>(std::llround(std::sqrt(static_cast<double>(cells))));
  return side * side == cells ? Grid{side, side} : Grid{};
}

[[noreturn]] inline void unclear(Index rows, const std::string& why) {
  throw Error("cannot tell which of the " + std::to_string(rows) + " rows are visual: " + why);
}

// `grid_positions`: the grid cell of each visual row, -1 for a row that is no patch.
inline std::vector<Token> read_cells(const safetensors::File& file) {
  std::vector<Token> cells;
  const auto found = file.tensors.find("grid_positions");
  if (found == file.tensors.end()) return cells;
  if (found->second.shape.size() != 1) {
    wrong_shape("grid_positions", "[visual tokens]", found->second.shape);
  }
  try {
    for (const std::int64_t cell : found->second.int64s()) {
      if (cell < -1 || cell > std::numeric_limits<Token>::max()) {
        throw Error("no grid has a cell " + std::to_string(cell));
      }
      cells.push_back(static_cast<Token>(cell));
    }
  } catch (const std::runtime_error& error) {
    throw Error(std::string("tensor grid_positions: ") + error.what());
  }
  return cells;
}

// `excluded_indices`: rows that are padding; the others keep their cells.
inline void mark_padding(const safetensors::File& file, Range visual, std::vector<Token>& cells) {
  const auto found = file.tensors.find("excluded_indices");
  if (found == file.tensors.end()) return;
  if (cells.empty()) {
    cells.resize(static_cast<std::size_t>(visual.size()));
    std::iota(cells.begin(), cells.end(), Token{0});
  }
  std::vector<std::int64_t> rows;
  try {
    rows = found->second.int64s();
  } catch (const std::runtime_error& error) {
    throw Error(std::string("tensor excluded_indices: ") + error.what());
  }
  for (const std::int64_t row : rows) {
    if (!visual.contains(static_cast<Index>(row)) ||
        static_cast<std::size_t>(static_cast<Index>(row) - visual.begin) >= cells.size()) {
      throw Error("tensor excluded_indices: row " + std::to_string(row) + " is not visual");
    }
    cells[static_cast<std::size_t>(static_cast<Index>(row) - visual.begin)] =
        tokenfold::padding_cell;
  }
}

// [ text | visual | text ]: two of the three counts give the third.
inline void complete_decoder(LayoutOptions& o, Index rows) {
  if (!o.visual_count) {
    if (!o.visual_begin || !o.text_after) {
      unclear(rows, "give --set visual_count=N (and visual_begin=ROW or text_after=M)");
    }
    o.visual_count = rows - *o.visual_begin - *o.text_after;
  }
  if (*o.visual_count < 0 || o.visual_begin.value_or(0) + *o.visual_count > rows) {
    unclear(rows, "visual_begin, visual_count and text_after do not fit into them");
  }
  if (!o.visual_begin) {
    o.visual_begin = o.text_after ? rows - *o.visual_count - *o.text_after : 0;
  }
  if (!o.text_after) o.text_after = rows - *o.visual_begin - *o.visual_count;
  if (!o.cls) o.cls = ClsRow{};
}

// [ [CLS] | patches ], or the patches alone, or [CLS] last.
inline void complete_encoder(LayoutOptions& o, Index rows, bool needs_cls) {
  if (!o.text_after) o.text_after = 0;
  const Index others = rows - *o.text_after;
  const ClsRow first{ClsRow::Place::first, 0};
  if (!o.visual_count && o.grid && o.grid->cells() > 0) {
    o.visual_count = o.frames.value_or(1) * o.grid->cells();
  }
  if (!o.cls) {
    if (o.visual_count) {
      o.cls = others == *o.visual_count + 1 && o.visual_begin.value_or(1) == 1 ? first : ClsRow{};
    } else if (needs_cls || square(others - 1).cells() > 0) {
      o.cls = first;
    } else if (square(others).cells() > 0) {
      o.cls = ClsRow{};
    } else {
      unclear(rows, "give --set grid=HxW (and cls=first|last|none|ROW)");
    }
  }
  const std::optional<Index> cls = o.cls->in(rows);
  if (!o.visual_count) {
    const Index after = cls && *cls >= o.visual_begin.value_or(0) ? 1 : 0;
    o.visual_count = o.visual_begin ? others - *o.visual_begin - after : others - (cls ? 1 : 0);
  }
  if (!o.visual_begin) {
    if (others != *o.visual_count + (cls ? 1 : 0)) {
      unclear(rows, "there are " + std::to_string(*o.visual_count) + " visual rows" +
                        (cls ? " and [CLS]" : "") + "; give --set visual_begin=ROW");
    }
    o.visual_begin = cls && *cls == 0 ? 1 : 0;
  }
}

}  // namespace detail

// An LLM's rows, with text around the visual ones, say where those begin.
inline bool has_text_around(const safetensors::File& file) {
  return file.metadata.contains("image_token_start_index") ||
         file.metadata.contains("vision_token_start_index");
}

// Fills in whatever `options` leaves open and builds the layout of `rows` rows.
inline TokenLayout resolve_layout(const safetensors::File& file, Index rows, bool decoder,
                                  bool needs_cls, LayoutOptions& options) {
  default_from_metadata(file, {"grid"}, options.grid);
  default_from_metadata(file, {"frames"}, options.frames);
  if (options.frames && !options.grid) {
    std::optional<Index> height;
    std::optional<Index> width;
    default_from_metadata(file, {"rows"}, height);
    default_from_metadata(file, {"cols"}, width);
    if (height && width) options.grid = Grid{*height, *width};
  }
  default_from_metadata(file, {"cls"}, options.cls);
  default_from_metadata(file,
                        {"visual_begin", "image_token_start_index", "vision_token_start_index"},
                        options.visual_begin);
  default_from_metadata(
      file, {"visual_count", "v_tokens", "image_token_length", "vision_token_length", "n_patches"},
      options.visual_count);
  default_from_metadata(file, {"text_after", "text_tokens"}, options.text_after);

  tokenfold::LayoutDescription d;
  d.tokens = rows;
  d.cells = detail::read_cells(file);
  if (!d.cells.empty() && !options.visual_count) {
    options.visual_count = static_cast<Index>(d.cells.size());
  }
  // Before anything is added up, so that nothing can overflow.
  const auto counts = {options.visual_begin, options.visual_count, options.text_after,
                       options.frames};
  for (const auto& count : counts) {
    if (count && (*count < 0 || *count > rows)) {
      throw Error("visual_begin, visual_count, text_after and frames must lie in [0, " +
                  std::to_string(rows) + "], got " + std::to_string(*count));
    }
  }
  if (decoder) {
    detail::complete_decoder(options, rows);
  } else {
    detail::complete_encoder(options, rows, needs_cls);
  }
  const Index begin = *options.visual_begin;
  const Index end = begin + *options.visual_count;
  d.visual = {begin, end};
  d.text_after = {end, end + *options.text_after};
  if (decoder) d.text_before = {0, begin};
  d.cls = options.cls->in(rows);

  if (!options.grid) {
    const bool whole = std::all_of(d.cells.begin(), d.cells.end(), [&](Token cell) {
      return cell >= 0 && cell < *options.visual_count;
    });
    options.grid = whole ? detail::square(*options.visual_count) : Grid{};
    if (!d.cells.empty() && options.grid->cells() == 0) {
      throw Error("grid_positions are cells of an unknown grid: give --set grid=HxW");
    }
  }
  detail::mark_padding(file, d.visual, d.cells);
  d.grid = *options.grid;
  d.frames = options.frames.value_or(1);
  return TokenLayout(d);
}

}  // namespace reduce_tool
