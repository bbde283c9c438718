// SPDX-License-Identifier: Apache-2.0
// Sheets of panels: all methods side by side, a video frame by frame, panels with captions.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "draw.hpp"
#include "study.hpp"
#include "tokenfold/source_map.hpp"

namespace photo {

/// A picture and its caption; '\n' starts a second line in grey. Printable ASCII.
struct Panel {
  Image picture;
  std::string caption;
};

namespace detail {

inline constexpr Colour kKeptInk{38.0F, 84.0F, 148.0F};
inline constexpr Colour kMergedInk{150.0F, 190.0F, 232.0F};
inline constexpr Colour kLostInk{222.0F, 224.0F, 228.0F};

inline void paste(Image& sheet, int x, int y, const Image& picture) {
  for (int row = 0; row < picture.height; ++row) {
    std::copy_n(picture.at(0, row), 3 * picture.width, sheet.at(x, y + row));
  }
}

template <class... Parts>
std::string format(const char* pattern, Parts... parts) {
  std::array<char, 160> text{};
  std::snprintf(text.data(), text.size(), pattern, parts...);
  return text.data();
}

inline std::string tokens_text(const Outcome& o) {
  return format(o.extra() > 0 ? "%td + %td tokens" : "%td tokens", o.kept(), o.extra());
}

/// How the attention is shared out: kept, merged, lost. Numbers where they fit, in percent.
inline void draw_bar(Image& sheet, int x, int y, int width, int height, const Fate& fate) {
  struct Part {
    double share;
    Colour fill;
    Colour ink;
  };
  const std::array<Part, 3> parts{{{fate.kept, kKeptInk, {255.0F, 255.0F, 255.0F}},
                                   {fate.merged + fate.extra, kMergedInk, kInk},
                                   {fate.lost(), kLostInk, kFaintInk}}};
  constexpr float kSize = 1.7F;
  double sum = 0.0;
  for (const Part& part : parts) {
    const int left = x + static_cast<int>(sum * width + 0.5);
    sum += part.share;
    const int right = x + static_cast<int>(sum * width + 0.5);
    fill_rect(sheet, left, y, right - left, height, part.fill);
    const std::string number = format("%.0f", 100.0 * part.share);
    const float text = text_width(number, kSize);
    if (text + 6.0F < static_cast<float>(right - left)) {
      draw_text(sheet, (left + right - static_cast<int>(text)) / 2,
                y + (height - static_cast<int>(7.0F * kSize)) / 2, number, kSize, part.ink,
                Weight::bold);
    }
  }
}

/// What a method left of the picture. A merged patch shows the mean colour of the tokens that took
/// it over, as `SourceMap` has them.
inline Image draw_outcome(const Image& image, const Study& study, const Outcome& o, int size) {
  const tokenfold::SourceMap map(o.patches, study.layout(), study.layout().visual_range().begin);
  const std::vector<Colour> own = mean_colours(image);
  std::vector<Colour> tokens;
  std::vector<int> kept;
  for (Index row = 0; row < map.output_tokens(); ++row) {
    Colour sum;
    float weights = 1e-9F;
    for (const auto& source : map.sources(row)) {
      const Colour c = own[static_cast<std::size_t>(source.cell)];
      const float weight = std::abs(source.weight);
      sum = {sum.r + weight * c.r, sum.g + weight * c.g, sum.b + weight * c.b};
      weights += weight;
    }
    tokens.push_back({sum.r / weights, sum.g / weights, sum.b / weights});
    if (o.patches.kept()[row] != tokenfold::no_token) kept.push_back(o.patches.kept()[row]);
  }
  std::vector<float> merged(kCells, 0.0F);
  std::vector<Colour> colours(kCells);
  for (std::size_t cell = 0; cell < std::size_t{kCells}; ++cell) {
    Colour& c = colours[cell];
    for (const auto& taker : map.takers(static_cast<Index>(cell))) {
      const Colour token = tokens[static_cast<std::size_t>(taker.output)];
      const float share = taker.share;
      merged[cell] += share;
      c = {c.r + share * token.r, c.g + share * token.g, c.b + share * token.b};
    }
    const float all = std::max(merged[cell], 1e-9F);
    c = {c.r / all, c.g / all, c.b / all};
    merged[cell] = std::min(merged[cell], 1.0F);
  }
  return draw_merged(image, kept, merged, colours, size);
}

}  // namespace detail

/// All methods side by side, grouped by where they act. First the photograph, what [CLS] looks at,
/// and how to read the rest.
class MethodSheet {
 public:
  MethodSheet(const Image& image, const Study& study, std::span<const Outcome> outcomes)
      : image_(image), study_(study) {
    constexpr std::array kOrder{Group::encoder, Group::after_encoder, Group::baseline,
                                Group::decoder, Group::video};
    int row = 1;
    int column = 0;
    for (const Group group : kOrder) {
      std::vector<const Outcome*> members;
      for (const Outcome& o : outcomes) {
        if (o.group == group) members.push_back(&o);
      }
      const int count = static_cast<int>(members.size());
      if (count == 0) continue;
      if (column > 0 && column + count > kColumns) {  // a group begins a row unless it fits
        ++row;
        column = 0;
      }
      for (int i = 0; i < count; ++i, ++column) {
        if (column == kColumns) {
          ++row;
          column = 0;
        }
        places_.push_back({members[static_cast<std::size_t>(i)], row, column});
        if (i == 0 || column == 0) {
          bands_.push_back({group, row, column, std::min(count - i, kColumns - column)});
        }
      }
    }
    rows_ = row + 1;
  }

  Image draw() const {
    Image sheet(2 * kMargin + kColumns * kPanel + (kColumns - 1) * kBetween,
                2 * kMargin + kHeader + (rows_ - 1) * kRow, 255);
    header(sheet);
    for (const Band& band : bands_) {
      const int x = left(band.column);
      const int width = band.count * (kPanel + kBetween) - kBetween;
      const detail::Colour tint{233.0F, 236.0F, 241.0F};
      detail::fill_rect(sheet, x, top(band.row), width, 30, tint);
      const std::string_view title = title_of(band.group);
      detail::draw_text(sheet, x + 10, top(band.row) + 7, title,
                        detail::fitting(title, 2.2F, width - 20), detail::kInk,
                        detail::Weight::bold);
    }
    for (const Place& place : places_) panel(sheet, place);
    return sheet;
  }

 private:
  static constexpr int kColumns = 6;
  static constexpr int kPanel = 240;
  static constexpr int kBetween = 22;
  static constexpr int kMargin = 25;
  static constexpr int kHeader = 320;
  static constexpr int kRow = 392;

  struct Place {
    const Outcome* outcome;
    int row;
    int column;
  };
  struct Band {
    Group group;
    int row;
    int column;
    int count;
  };

  static std::string_view title_of(Group group) {
    switch (group) {
      case Group::encoder:
        return "inside the vision encoder";
      case Group::after_encoder:
        return "between encoder and LLM";
      case Group::decoder:
        return "inside the LLM, which knows the question";
      case Group::baseline:
        return "baselines, which look at nothing";
      case Group::video:
        break;
    }
    return "for videos";
  }

  static int left(int column) { return kMargin + column * (kPanel + kBetween); }
  static int top(int row) { return kMargin + (row == 0 ? 0 : kHeader + (row - 1) * kRow); }

  void panel(Image& sheet, const Place& place) const {
    const Outcome& o = *place.outcome;
    const int x = left(place.column);
    int y = top(place.row) + 42;
    detail::draw_text(sheet, x, y, o.method, detail::fitting(o.method, 2.6F, kPanel), detail::kInk,
                      detail::Weight::bold);
    std::string text = detail::tokens_text(o);
    if (o.steps > 1) text += detail::format(", %d steps", o.steps);
    const double ms = 1e-3 * o.cost.plan;
    text += detail::format(ms < 0.995 ? ", %.2f ms" : ms < 9.95 ? ", %.1f ms" : ", %.0f ms", ms);
    y += 28;
    detail::draw_text(sheet, x, y, text, detail::fitting(text, 1.8F, kPanel), detail::kFaintInk);
    y += 22;
    detail::paste(sheet, x, y, detail::draw_outcome(image_, study_, o, kPanel));
    detail::draw_bar(sheet, x, y + kPanel + 5, kPanel, 20, o.fate);
  }

  void header(Image& sheet) const {
    using detail::draw_text;
    Image photo = draw_original(image_, kPanel);
    const Question& question = study_.question();
    draw_box(photo, static_cast<int>(question.column), static_cast<int>(question.row),
             Question::kWidth, Question::kHeight);
    detail::paste(sheet, left(0), top(0) + 30, photo);
    draw_text(sheet, left(0), top(0) + 4, "the photo", 2.1F, detail::kInk, detail::Weight::bold);
    detail::paste(sheet, left(1), top(0) + 30, draw_heat(image_, study_.cls_attention(), kPanel));
    draw_text(sheet, left(1), top(0) + 4, "what [CLS] looks at", 2.1F, detail::kInk,
              detail::Weight::bold);

    const int x = left(2) + 10;
    int y = top(0);
    draw_text(sheet, x, y, "From 576 patches to 64 tokens", 4.2F, detail::kInk,
              detail::Weight::bold);
    y += 44;
    draw_text(
        sheet, x, y,
        "A stand-in for a vision encoder: this shows how methods choose, not how good they are.",
        1.85F, detail::kFaintInk);
    y += 32;
    // The three looks, on a piece of the photograph itself.
    const std::vector<float> whole(kCells, 1.0F);
    std::vector<int> all(kCells);
    for (int cell = 0; cell < kCells; ++cell) all[static_cast<std::size_t>(cell)] = cell;
    const std::vector<detail::Colour> colours = mean_colours(image_);
    const std::array<Image, 3> looks{draw_kept(image_, all, kPanel),
                                     draw_merged(image_, {}, whole, colours, kPanel),
                                     draw_kept(image_, {}, kPanel)};
    constexpr std::array<const char*, 3> kLooks{
        "kept: the patch has a token of its own",
        "merged: pale, in the colour of the token it went into",
        "lost: nothing is left of the patch"};
    const int cells = kPanel / kGridSide;
    for (std::size_t i = 0; i < looks.size(); ++i) {
      const auto corner = [&](Index at, int most) {
        return std::clamp(static_cast<int>(at) - 1, 0, kGridSide - most) * cells;
      };
      const Image swatch =
          crop(looks[i], corner(question.column, 6), corner(question.row, 4), 6 * cells, 4 * cells);
      detail::paste(sheet, x, y, swatch);
      draw_text(sheet, x + 78, y + 11, kLooks[i], 2.2F, detail::kInk);
      y += 46;
    }
    y += 6;
    detail::draw_bar(sheet, x, y - 2, 62, 20, {.kept = 0.45, .merged = 0.3});
    draw_text(sheet, x + 78, y, "where the attention of [CLS] ends up, in %: kept, merged, lost",
              2.2F, detail::kInk);
    y += 28;
    draw_text(sheet, x, y, "ms", 2.2F, detail::kInk);
    draw_text(sheet, x + 78, y, "time to decide, on one thread", 2.2F, detail::kInk);
    draw_text(sheet, x + 520, y, "+ n", 2.2F, detail::kInk);
    draw_text(sheet, x + 578, y, "tokens added for merged ones", 2.2F, detail::kInk);
    y += 28;
    detail::fill_rect(sheet, x + 2, y - 2, 26, 20, detail::arrow_colour(5));
    detail::fill_rect(sheet, x + 5, y + 1, 20, 14, detail::kGap);
    draw_text(sheet, x + 78, y, "what the question is about", 2.2F, detail::kInk);
  }

  const Image& image_;
  const Study& study_;
  std::vector<Place> places_;
  std::vector<Band> bands_;
  int rows_ = 1;
};

/// One row of frames for the video itself and one for each method: which patches of it are kept.
inline Image draw_video_sheet(std::span<const Image> frames, std::span<const Outcome> outcomes) {
  constexpr int kSize = 192;
  constexpr int kGap = 8;
  constexpr int kMargin = 20;
  constexpr int kHead = 54;
  const int across = static_cast<int>(frames.size());
  const int rows = static_cast<int>(outcomes.size()) + 1;
  constexpr int kRowHeight = kHead + kSize + 26;
  Image sheet(2 * kMargin + across * (kSize + kGap) - kGap, 2 * kMargin + rows * kRowHeight - 26,
              255);
  for (int row = 0; row < rows; ++row) {
    int y = kMargin + row * kRowHeight;
    std::string title = "Eight frames: the camera stands, pans by a patch a frame, stands again";
    std::vector<std::vector<int>> kept(frames.size());
    if (row > 0) {
      const Outcome& o = outcomes[static_cast<std::size_t>(row - 1)];
      title = o.method + detail::format(": %td of %td tokens", o.kept(), o.patches.input_tokens());
      for (const tokenfold::Token cell : o.patches.kept()) {
        if (cell == tokenfold::no_token) continue;
        kept[static_cast<std::size_t>(cell / kCells)].push_back(cell % kCells);
      }
    }
    detail::draw_text(sheet, kMargin, y, title, 2.6F, detail::kInk, detail::Weight::bold);
    for (int t = 0; t < across; ++t) {
      const auto at = static_cast<std::size_t>(t);
      const int x = kMargin + t * (kSize + kGap);
      const std::string count = row == 0 ? detail::format("frame %d", t + 1)
                                         : detail::format("%zu kept", kept[at].size());
      detail::draw_text(sheet, x, y + 31, count, 2.0F, detail::kFaintInk);
      detail::paste(
          sheet, x, y + kHead,
          row == 0 ? draw_original(frames[at], kSize) : draw_kept(frames[at], kept[at], kSize));
    }
  }
  return sheet;
}

/// Panels of one size in rows of `columns` on white, captions above. A caption line that is too
/// long for its panel is set smaller.
inline Image contact_sheet(std::span<const Panel> panels, int columns) {
  constexpr int kMargin = 20;
  constexpr float kText = 2.45F;
  constexpr int kLine = 29;
  if (panels.empty()) throw std::invalid_argument("contact_sheet: expected at least one panel");
  const int width = panels.front().picture.width;
  const int height = panels.front().picture.height;
  const int count = static_cast<int>(panels.size());
  int lines = 0;
  for (const Panel& panel : panels) {
    if (panel.picture.width != width || panel.picture.height != height) {
      throw std::invalid_argument("contact_sheet: expected panels of one size");
    }
    lines = std::max(lines, static_cast<int>(detail::lines_of(panel.caption).size()));
  }
  const int head = lines * kLine + 6;
  const int rows = (count + columns - 1) / columns;
  Image sheet(kMargin + columns * (width + kMargin), kMargin + rows * (head + height + kMargin),
              255);
  for (int i = 0; i < count; ++i) {
    const Panel& panel = panels[static_cast<std::size_t>(i)];
    const int x = kMargin + (i % columns) * (width + kMargin);
    int y = kMargin + (i / columns) * (head + height + kMargin);
    detail::paste(sheet, x, y + head, panel.picture);
    detail::Colour colour = detail::kInk;
    for (const std::string_view line : detail::lines_of(panel.caption)) {
      detail::draw_text(sheet, x, y, line, detail::fitting(line, kText, width), colour);
      colour = detail::kFaintInk;
      y += kLine;
    }
  }
  return sheet;
}

}  // namespace photo
