// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "tokenfold/core/types.hpp"

namespace tokenfold {

/// In `LayoutDescription::cells`: this row is padding, which every reduction drops.
inline constexpr Token padding_cell = -2;

/// Where the rows of [CLS] and of registers stand in an encoder's sequence.
enum class ClsToken { first, last, none };

/// Everything that a sequence layout can say; all but `tokens` and `visual` is optional.
struct LayoutDescription {
  /// P, all rows of the sequence.
  Index tokens = 0;
  /// The rows that are patches.
  Range visual = {};
  /// Patch grid. {0, 0}: none known; stages that need neighbours then refuse.
  Grid grid = {};
  /// Frames of a video, each a `grid` of its own: cell c lies in frame c / grid.cells().
  Index frames = 1;
  /// Row of [CLS], anywhere outside or inside `visual` (inside: give `cells`, with −1 for it).
  std::optional<Index> cls = {};
  /// One entry per row of `visual`: the grid cell of that row, −1 = this row is not a patch (a
  /// special token, an image separator) and passes through, `padding_cell` = it is nothing at all
  /// and is dropped. Empty: row `visual.begin + i` is cell i.
  std::vector<Token> cells = {};
  /// Rows of text before and after the image; rows that are neither are special tokens.
  Range text_before = {};
  Range text_after = {};
};

/// What each row of a sequence is: visual token with or without a grid cell, [CLS], text, or
/// special.
///
/// Only visual tokens are ever discarded or merged; every other row passes through every reduction
/// untouched and in order. "Visual ordinal" v = 0 … N − 1 counts the visual tokens by ascending
/// row.
class TokenLayout {
 public:
  TokenLayout() = default;

  /// Throws if a range leaves the sequence, ranges overlap, or cells do not fit the grid.
  explicit TokenLayout(const LayoutDescription& description);

  /// A vision encoder: `grid` patches row by row, [CLS] first, last or absent, then `registers`
  /// special rows between a leading [CLS] and the patches (DINOv2 order), or after the patches
  /// otherwise.
  static TokenLayout encoder(Grid grid, ClsToken cls = ClsToken::first, Index registers = 0);

  /// An LLM sequence: `text_before` rows of text (system prompt), `visual` rows of image in raster
  /// order of `grid` if one is given, `text_after` rows of text (the question).
  static TokenLayout decoder(Index text_before, Index visual, Index text_after, Grid grid = {});

  /// The same for an image that was shortened before: `cells[i]` is the grid cell of visual row i,
  /// or −1 for a synthetic token (which counts as visual here).
  static TokenLayout decoder(Index text_before, Span<const Token> cells, Index text_after,
                             Grid grid);

  /// A video: `frames` frames of `grid` patches, frame by frame, row by row.
  static TokenLayout video(Index frames, Grid grid);

  /// P, all rows.
  Index tokens() const { return tokens_; }
  /// N, the visual tokens.
  Index visual_count() const { return static_cast<Index>(visual_.size()); }
  /// Rows of the visual tokens, ascending.
  Span<const Token> visual() const { return visual_; }
  /// Grid cell of each visual token, by ordinal; −1 = none (synthetic).
  Span<const Token> cells() const { return cells_; }
  /// The smallest range of rows that holds all visual tokens.
  Range visual_range() const { return visual_range_; }
  /// The ordinal of the visual token in `row`, or −1 if that row is not a visual token.
  Index ordinal(Index row) const {
    if (visual_is_contiguous()) {
      return visual_range_.contains(row) ? row - visual_range_.begin : -1;
    }
    const auto found = std::lower_bound(visual_.begin(), visual_.end(), row);
    return found != visual_.end() && *found == row ? found - visual_.begin() : -1;
  }
  /// True if every row of `visual_range()` is a visual token.
  bool visual_is_contiguous() const { return visual_range_.size() == visual_count(); }

  Grid grid() const { return grid_; }
  bool has_grid() const { return grid_.cells() > 0; }
  /// Frames of a video, 1 for an image.
  Index frames() const { return frames_; }
  /// The frame of a grid cell; 0 for a token without a cell.
  Index frame_of(Token cell) const { return has_grid() && cell >= 0 ? cell / grid_.cells() : 0; }
  /// Rows of padding, ascending: not visual tokens, and dropped by every reduction.
  Span<const Token> padding() const { return padding_; }
  std::optional<Index> cls() const { return cls_; }
  Range text_before() const { return text_before_; }
  Range text_after() const { return text_after_; }

  /// The same sequence with one frame as an image of its own: only the visual tokens of `ordinals`,
  /// all of the same frame, are visual, and cells are numbered within the frame. The other visual
  /// tokens pass for special rows.
  TokenLayout frame_alone(Range ordinals) const;
  /// The same written over `alone`, whose memory is reused.
  void frame_alone(Range ordinals, TokenLayout& alone) const;

 private:
  friend class Survivors;

  Index all_cells() const { return frames_ * grid_.cells(); }
  void check() const;
  void check_grid() const;

  Index tokens_ = 0;
  std::vector<Token> visual_;
  std::vector<Token> cells_;
  Range visual_range_;
  std::vector<Token> padding_;
  Grid grid_;
  Index frames_ = 1;
  std::optional<Index> cls_;
  Range text_before_;
  Range text_after_;
};

inline TokenLayout::TokenLayout(const LayoutDescription& d)
    : tokens_(d.tokens),
      grid_(d.grid),
      frames_(d.frames),
      cls_(d.cls),
      text_before_(d.text_before),
      text_after_(d.text_after) {
  require(d.tokens >= 0 && d.tokens < (Index{1} << 31), "layout: bad token count ", d.tokens);
  require(0 <= d.visual.begin && d.visual.begin <= d.visual.end && d.visual.end <= d.tokens,
          "layout: visual rows [", d.visual.begin, ", ", d.visual.end, ") lie outside the ",
          d.tokens, " rows");
  check_grid();
  const auto rows = static_cast<std::size_t>(d.visual.size());
  require(d.cells.empty() || d.cells.size() == rows, "layout: ", d.cells.size(),
          " cells were given for ", rows, " visual rows");
  require(!d.cells.empty() || !has_grid() || d.visual.size() == all_cells(), "layout: ", rows,
          " visual rows do not fill ", frames_ == 1 ? "a grid of " : "the frames of ",
          d.grid.height, " x ", d.grid.width, "; give cells for an incomplete grid");
  visual_.reserve(rows);
  cells_.reserve(rows);
  for (Index i = 0; i < d.visual.size(); ++i) {
    const Token own_cell = has_grid() ? static_cast<Token>(i) : no_token;
    const Token cell = d.cells.empty() ? own_cell : d.cells[static_cast<std::size_t>(i)];
    if (cell == no_token && !d.cells.empty()) {
      continue;  // named as "not a patch"
    }
    if (cell == padding_cell) {
      padding_.push_back(static_cast<Token>(d.visual.begin + i));
      continue;
    }
    visual_.push_back(static_cast<Token>(d.visual.begin + i));
    cells_.push_back(cell);
  }
  visual_range_ = visual_.empty() ? Range{d.visual.begin, d.visual.begin}
                                  : Range{visual_.front(), Index{visual_.back()} + 1};
  check();
}

inline void TokenLayout::check_grid() const {
  require(grid_.height >= 0 && grid_.width >= 0, "layout: negative grid ", grid_.height, " x ",
          grid_.width);
  // Cells are 32-bit numbers; products are formed only once they cannot overflow.
  constexpr Index most = (Index{1} << 31) - 1;
  const bool fits = grid_.height <= most && grid_.width <= most &&
                    (grid_.height == 0 || grid_.width <= most / grid_.height) &&
                    (grid_.cells() == 0 || frames_ <= most / grid_.cells());
  require(fits, "layout: ", frames_, " x ", grid_.height, " x ", grid_.width,
          " grid cells are too many");
  require(frames_ >= 1 && (frames_ == 1 || has_grid()), "layout: ", frames_,
          " frames need a patch grid");
}

inline void TokenLayout::check() const {
  const Range all{0, tokens_};
  std::vector<Token> taken(static_cast<std::size_t>(all_cells()), 0);
  for (const Token cell : cells_) {
    require(cell >= no_token && (!has_grid() || cell < all_cells()), "layout: grid cell ", cell,
            " does not exist ", frames_ == 1 ? "on a grid of " : "in the frames of ", grid_.height,
            " x ", grid_.width);
    if (has_grid() && cell != no_token) {
      require(taken[static_cast<std::size_t>(cell)] == 0, "layout: grid cell ", cell,
              " is given to two tokens");
      taken[static_cast<std::size_t>(cell)] = 1;
    }
  }
  const Range before = text_before_;
  const Range after = text_after_;
  for (const Range text : {before, after}) {
    require(text.begin <= text.end && all.contains(text), "layout: text rows [", text.begin, ", ",
            text.end, ") lie outside the ", tokens_, " rows");
  }
  require(before.empty() || visual_.empty() || before.end <= visual_range_.begin,
          "layout: text_before overlaps the visual rows");
  require(after.empty() || visual_.empty() || after.begin >= visual_range_.end,
          "layout: text_after overlaps the visual rows");
  for (const Token row : padding_) {
    require(!before.contains(row) && !after.contains(row), "layout: row ", row,
            " is both text and padding");
  }
  require(before.empty() || after.empty() || before.end <= after.begin,
          "layout: text_before and text_after overlap");
  if (cls_) {
    require(all.contains(*cls_), "layout: [CLS] row ", *cls_, " lies outside the ", tokens_,
            " rows");
    for (const Token row : visual_) {
      require(row != *cls_, "layout: row ", row, " is both [CLS] and a patch");
    }
    for (const Token row : padding_) {
      require(row != *cls_, "layout: row ", row, " is both [CLS] and padding");
    }
  }
}

inline TokenLayout TokenLayout::encoder(Grid grid, ClsToken cls, Index registers) {
  require(grid.height >= 1 && grid.width >= 1, "layout: bad patch grid ", grid.height, " x ",
          grid.width);
  require(grid.height < (Index{1} << 31) / grid.width, "layout: ", grid.height, " x ", grid.width,
          " grid cells are too many");
  require(registers >= 0, "layout: negative register count ", registers);
  LayoutDescription d;
  d.grid = grid;
  d.tokens = grid.cells() + registers + (cls == ClsToken::none ? 0 : 1);
  const Index first = cls == ClsToken::first ? 1 + registers : 0;
  d.visual = {first, first + grid.cells()};
  if (cls != ClsToken::none) {
    d.cls = cls == ClsToken::first ? 0 : d.tokens - 1;
  }
  return TokenLayout(d);
}

inline TokenLayout TokenLayout::video(Index frames, Grid grid) {
  require(frames >= 1 && grid.height >= 1 && grid.width >= 1, "layout: bad video of ", frames,
          " frames of ", grid.height, " x ", grid.width);
  require(grid.height < (Index{1} << 31) / grid.width &&
              frames < (Index{1} << 31) / (grid.height * grid.width),
          "layout: ", frames, " x ", grid.height, " x ", grid.width, " grid cells are too many");
  LayoutDescription d;
  d.tokens = frames * grid.cells();
  d.visual = {0, d.tokens};
  d.grid = grid;
  d.frames = frames;
  return TokenLayout(d);
}

inline TokenLayout TokenLayout::decoder(Index text_before, Index visual, Index text_after,
                                        Grid grid) {
  require(text_before >= 0 && visual >= 0 && text_after >= 0, "layout: negative count (",
          text_before, " text, ", visual, " visual, ", text_after, " text)");
  LayoutDescription d;
  d.tokens = text_before + visual + text_after;
  d.text_before = {0, text_before};
  d.visual = {text_before, text_before + visual};
  d.text_after = {text_before + visual, d.tokens};
  d.grid = grid;
  return TokenLayout(d);
}

inline TokenLayout TokenLayout::decoder(Index text_before, Span<const Token> cells,
                                        Index text_after, Grid grid) {
  TokenLayout layout = decoder(text_before, cells.size(), text_after);
  layout.grid_ = grid;
  layout.check_grid();
  layout.cells_.assign(cells.begin(), cells.end());
  layout.check();
  return layout;
}

inline TokenLayout TokenLayout::frame_alone(Range ordinals) const {
  TokenLayout alone;
  frame_alone(ordinals, alone);
  return alone;
}

inline void TokenLayout::frame_alone(Range ordinals, TokenLayout& alone) const {
  require(Range{0, visual_count()}.contains(ordinals), "layout: no visual tokens [", ordinals.begin,
          ", ", ordinals.end, ") among ", visual_count());
  alone.tokens_ = tokens_;
  alone.padding_ = padding_;
  alone.grid_ = grid_;
  alone.frames_ = 1;
  alone.cls_ = cls_;
  alone.text_before_ = text_before_;
  alone.text_after_ = text_after_;
  alone.visual_.assign(visual_.begin() + ordinals.begin, visual_.begin() + ordinals.end);
  alone.cells_.clear();
  for (const Token cell : cells().subspan(ordinals.begin, ordinals.size())) {
    const Index first = frame_of(cell) * grid_.cells();
    alone.cells_.push_back(cell == no_token ? no_token : static_cast<Token>(cell - first));
  }
  alone.visual_range_ = ordinals.empty()
                            ? Range{visual_range_.begin, visual_range_.begin}
                            : Range{alone.visual_.front(), Index{alone.visual_.back()} + 1};
}

}  // namespace tokenfold
