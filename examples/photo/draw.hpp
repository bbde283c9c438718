// SPDX-License-Identifier: Apache-2.0
// Pictures of a reduction over a 24 x 24 grid of patches: what was kept, where the rest went.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "image.hpp"

namespace photo {

inline constexpr int kGridSide = 24;
inline constexpr int kCells = kGridSide * kGridSide;
/// Panels are drawn larger than the encoder's input, so that frames and arrows stay fine.
inline constexpr int kPanelSize = 3 * kInputSize / 2;

/// What a discarded cell gave to a kept one; cells count row by row from the top left.
struct Link {
  int source = 0;
  int target = 0;
  float weight = 0.0F;
};

/// A picture and its caption; '\n' starts a second line in grey. Printable ASCII.
struct Panel {
  Image picture;
  std::string caption;
};

namespace detail {

struct Colour {
  float r = 0.0F;
  float g = 0.0F;
  float b = 0.0F;
};

struct Point {
  float x = 0.0F;
  float y = 0.0F;
};

inline constexpr int kCellSize = kPanelSize / kGridSide;
inline constexpr Colour kGap{255.0F, 255.0F, 255.0F};
inline constexpr Colour kInk{24.0F, 26.0F, 30.0F};
inline constexpr Colour kFaintInk{104.0F, 110.0F, 120.0F};

inline Point operator+(Point a, Point b) { return {a.x + b.x, a.y + b.y}; }
inline Point operator-(Point a, Point b) { return {a.x - b.x, a.y - b.y}; }
inline Point operator*(float s, Point p) { return {s * p.x, s * p.y}; }
inline float dot(Point a, Point b) { return a.x * b.x + a.y * b.y; }

inline void blend(Image& image, int x, int y, Colour colour, float alpha) {
  if (x < 0 || y < 0 || x >= image.width || y >= image.height) return;
  std::uint8_t* p = image.at(x, y);
  const auto mix = [alpha](std::uint8_t old, float value) {
    const float v = static_cast<float>(old) * (1.0F - alpha) + value * alpha;
    return static_cast<std::uint8_t>(std::clamp(v + 0.5F, 0.0F, 255.0F));
  };
  p[0] = mix(p[0], colour.r);
  p[1] = mix(p[1], colour.g);
  p[2] = mix(p[2], colour.b);
}

inline void fill_rect(Image& image, int x, int y, int w, int h, Colour colour, float alpha = 1.0F) {
  for (int v = y; v < y + h; ++v) {
    for (int u = x; u < x + w; ++u) blend(image, u, v, colour, alpha);
  }
}

/// The outline of a cell, `inset` pixels inside its border.
inline void frame_cell(Image& image, int cell, int inset, int width, Colour colour,
                       float alpha = 1.0F) {
  const int x = (cell % kGridSide) * kCellSize + inset;
  const int y = (cell / kGridSide) * kCellSize + inset;
  const int side = kCellSize - 2 * inset;
  fill_rect(image, x, y, side, width, colour, alpha);
  fill_rect(image, x, y + side - width, side, width, colour, alpha);
  fill_rect(image, x, y + width, width, side - 2 * width, colour, alpha);
  fill_rect(image, x + side - width, y + width, width, side - 2 * width, colour, alpha);
}

/// A frame between two dark lines: visible on any picture.
inline void mark_cell(Image& image, int cell, Colour colour) {
  frame_cell(image, cell, -1, 6, kInk);
  frame_cell(image, cell, 0, 4, colour);
}

inline Point centre_of(int cell) {
  const auto middle = [](int i) {
    return (static_cast<float>(i) + 0.5F) * static_cast<float>(kCellSize) - 0.5F;
  };
  return {middle(cell % kGridSide), middle(cell / kGridSide)};
}

inline float distance_to_segment(Point p, Point a, Point b) {
  const Point along = b - a;
  const float t = std::clamp(dot(p - a, along) / std::max(dot(along, along), 1e-6F), 0.0F, 1.0F);
  const Point gap = p - (a + t * along);
  return std::sqrt(dot(gap, gap));
}

/// An arrow: a curve of short segments and a triangular head. Painted by distance, so every edge
/// is smooth and the outline is the same shape, only thicker.
struct Arrow {
  std::vector<Point> line;
  std::array<Point, 3> head;
  float half_width = 2.5F;

  float distance(Point p) const {
    float best = 1e9F;
    for (std::size_t i = 1; i < line.size(); ++i) {
      best = std::min(best, distance_to_segment(p, line[i - 1], line[i]));
    }
    best -= half_width;
    float edge = 1e9F;
    int same_side = 0;
    for (std::size_t i = 0; i < 3; ++i) {
      const Point a = head[i];
      const Point b = head[(i + 1) % 3];
      edge = std::min(edge, distance_to_segment(p, a, b));
      same_side += (b.x - a.x) * (p.y - a.y) - (b.y - a.y) * (p.x - a.x) > 0.0F ? 1 : -1;
    }
    return std::min(best, same_side == 3 || same_side == -3 ? -edge : edge);
  }
};

inline Arrow make_arrow(int source, int target) {
  constexpr float kBend = 0.12F;
  constexpr float kHeadLength = 15.0F;
  constexpr float kHeadHalfWidth = 9.0F;
  constexpr int kSegments = 24;
  const Point from = centre_of(source);
  const Point to = centre_of(target);
  const Point across = to - from;
  const auto inside = [](float v) {
    return std::clamp(v, 8.0F, static_cast<float>(kPanelSize) - 8.0F);
  };
  const Point bent = from + 0.5F * across + kBend * Point{across.y, -across.x};
  const Point control{inside(bent.x), inside(bent.y)};

  // The curve arrives along (to - control); it stops where the head begins.
  const Point arrival = to - control;
  const float length = std::max(std::sqrt(dot(arrival, arrival)), 1e-3F);
  const Point direction = (1.0F / length) * arrival;
  const Point normal{-direction.y, direction.x};
  const Point tip = to - 4.0F * direction;
  const Point neck = tip - kHeadLength * direction;

  Arrow arrow;
  for (int i = 0; i <= kSegments; ++i) {
    const float t = static_cast<float>(i) / static_cast<float>(kSegments);
    const float s = 1.0F - t;
    arrow.line.push_back(s * s * from + 2.0F * s * t * control + t * t * neck);
  }
  arrow.head = {tip, neck + kHeadHalfWidth * normal, neck - kHeadHalfWidth * normal};
  return arrow;
}

inline void draw_arrow(Image& image, const Arrow& arrow, Colour colour, float alpha) {
  constexpr float kOutline = 2.0F;
  Point low = arrow.head[0];
  Point high = arrow.head[0];
  const auto include = [&low, &high](Point p) {
    low = {std::min(low.x, p.x), std::min(low.y, p.y)};
    high = {std::max(high.x, p.x), std::max(high.y, p.y)};
  };
  for (const Point& p : arrow.line) include(p);
  for (const Point& p : arrow.head) include(p);
  const float margin = arrow.half_width + kOutline + 2.0F;
  for (int y = static_cast<int>(low.y - margin); y <= static_cast<int>(high.y + margin); ++y) {
    for (int x = static_cast<int>(low.x - margin); x <= static_cast<int>(high.x + margin); ++x) {
      const float d = arrow.distance({static_cast<float>(x), static_cast<float>(y)});
      const float outer = std::clamp(0.5F + kOutline - d, 0.0F, 1.0F);
      if (outer <= 0.0F) continue;
      const float inner = std::clamp(0.5F - d, 0.0F, 1.0F);
      const Colour mixed{kInk.r + inner * (colour.r - kInk.r), kInk.g + inner * (colour.g - kInk.g),
                         kInk.b + inner * (colour.b - kInk.b)};
      blend(image, x, y, mixed, alpha * outer);
    }
  }
}

/// The n-th of a series in which neighbours look different: hues by the golden angle.
inline Colour series_colour(int n) {
  const float turn = 0.61803399F * static_cast<float>(n) + 0.05F;
  const float hue = 6.0F * (turn - std::floor(turn));
  const float value = n % 2 == 0 ? 235.0F : 200.0F;
  const auto channel = [hue, value](float shift) {
    const float k = std::fmod(shift + hue, 6.0F);
    constexpr float kSaturation = 0.78F;
    return value * (1.0F - kSaturation * std::clamp(std::min(k, 4.0F - k), 0.0F, 1.0F));
  };
  return {channel(5.0F), channel(3.0F), channel(1.0F)};
}

/// Few colours that stay apart for most kinds of colour vision (Okabe and Ito), brightest first.
inline Colour arrow_colour(int n) {
  static constexpr std::array<Colour, 7> kColours{{{240.0F, 228.0F, 66.0F},
                                                   {86.0F, 180.0F, 233.0F},
                                                   {240.0F, 130.0F, 40.0F},
                                                   {0.0F, 190.0F, 140.0F},
                                                   {224.0F, 130.0F, 190.0F},
                                                   {225.0F, 70.0F, 50.0F},
                                                   {60.0F, 120.0F, 220.0F}}};
  return kColours[static_cast<std::size_t>(n) % kColours.size()];
}

inline void check_cell(int cell, const char* argument) {
  if (cell < 0 || cell >= kCells) {
    throw std::invalid_argument(std::string(argument) + ": expected cells in [0, 576), got " +
                                std::to_string(cell));
  }
}

inline std::vector<bool> kept_mask(std::span<const int> kept_cells) {
  std::vector<bool> kept(kCells, false);
  for (const int cell : kept_cells) {
    check_cell(cell, "kept_cells");
    kept[static_cast<std::size_t>(cell)] = true;
  }
  return kept;
}

inline void check_links(std::span<const Link> links) {
  for (const Link& link : links) {
    check_cell(link.source, "links.source");
    check_cell(link.target, "links.target");
    if (!std::isfinite(link.weight)) {
      throw std::invalid_argument("links.weight: expected finite values");
    }
  }
}

inline Image panel_of(const Image& image) {
  return resize(centre_crop(image), kPanelSize, kPanelSize);
}

inline float luma(const std::uint8_t* p) {
  return 0.299F * static_cast<float>(p[0]) + 0.587F * static_cast<float>(p[1]) +
         0.114F * static_cast<float>(p[2]);
}

/// Pale grey with a hint of the picture left: kept cells stand out, whether dark or bright.
inline void fade_cell(Image& panel, int cell) {
  const int left = (cell % kGridSide) * kCellSize;
  const int top = (cell / kGridSide) * kCellSize;
  for (int y = top; y < top + kCellSize; ++y) {
    for (int x = left; x < left + kCellSize; ++x) {
      const float grey = 182.0F + 0.14F * luma(panel.at(x, y));
      blend(panel, x, y, {grey, grey, grey}, 1.0F);
    }
  }
}

/// White lines between cells, and a dark one where `shown` cells meet others: a white kept cell
/// next to pale ones would otherwise be lost.
inline void draw_grid(Image& panel, const std::vector<bool>& shown) {
  for (int i = 1; i < kGridSide; ++i) {
    fill_rect(panel, i * kCellSize - 1, 0, 1, kPanelSize, kGap, 0.8F);
    fill_rect(panel, 0, i * kCellSize - 1, kPanelSize, 1, kGap, 0.8F);
  }
  for (int cell = 0; cell < kCells && !shown.empty(); ++cell) {
    const auto at = static_cast<std::size_t>(cell);
    const int x = (cell % kGridSide) * kCellSize;
    const int y = (cell / kGridSide) * kCellSize;
    if (cell % kGridSide > 0 && shown[at] != shown[at - 1]) {
      fill_rect(panel, x - 1, y, 1, kCellSize - 1, kInk, 0.75F);
    }
    if (cell >= kGridSide && shown[at] != shown[at - kGridSide]) {
      fill_rect(panel, x, y - 1, kCellSize - 1, 1, kInk, 0.75F);
    }
  }
}

/// A font 5 pixels wide and 7 high with 2 below the line: rows from the top, high bit left.
inline constexpr int kGlyphWidth = 5;
inline constexpr int kGlyphHeight = 9;
// clang-format off
inline constexpr std::uint8_t kFont[95][kGlyphHeight] = {
    {0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00},  // space
    {0x04, 0x04, 0x04, 0x04, 0x04, 0x00, 0x04, 0x00, 0x00},  // !
    {0x0a, 0x0a, 0x0a, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00},  // "
    {0x0a, 0x0a, 0x1f, 0x0a, 0x1f, 0x0a, 0x0a, 0x00, 0x00},  // #
    {0x04, 0x0f, 0x14, 0x0e, 0x05, 0x1e, 0x04, 0x00, 0x00},  // $
    {0x18, 0x19, 0x02, 0x04, 0x08, 0x13, 0x03, 0x00, 0x00},  // %
    {0x0c, 0x12, 0x14, 0x08, 0x15, 0x12, 0x0d, 0x00, 0x00},  // &
    {0x04, 0x04, 0x04, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00},  // '
    {0x02, 0x04, 0x08, 0x08, 0x08, 0x04, 0x02, 0x00, 0x00},  // (
    {0x08, 0x04, 0x02, 0x02, 0x02, 0x04, 0x08, 0x00, 0x00},  // )
    {0x00, 0x04, 0x15, 0x0e, 0x15, 0x04, 0x00, 0x00, 0x00},  // *
    {0x00, 0x04, 0x04, 0x1f, 0x04, 0x04, 0x00, 0x00, 0x00},  // +
    {0x00, 0x00, 0x00, 0x00, 0x00, 0x04, 0x04, 0x08, 0x00},  // ,
    {0x00, 0x00, 0x00, 0x1f, 0x00, 0x00, 0x00, 0x00, 0x00},  // -
    {0x00, 0x00, 0x00, 0x00, 0x00, 0x0c, 0x0c, 0x00, 0x00},  // .
    {0x01, 0x01, 0x02, 0x04, 0x08, 0x10, 0x10, 0x00, 0x00},  // /
    {0x0e, 0x11, 0x13, 0x15, 0x19, 0x11, 0x0e, 0x00, 0x00},  // 0
    {0x04, 0x0c, 0x04, 0x04, 0x04, 0x04, 0x0e, 0x00, 0x00},  // 1
    {0x0e, 0x11, 0x01, 0x06, 0x08, 0x10, 0x1f, 0x00, 0x00},  // 2
    {0x1f, 0x02, 0x04, 0x02, 0x01, 0x11, 0x0e, 0x00, 0x00},  // 3
    {0x02, 0x06, 0x0a, 0x12, 0x1f, 0x02, 0x02, 0x00, 0x00},  // 4
    {0x1f, 0x10, 0x1e, 0x01, 0x01, 0x11, 0x0e, 0x00, 0x00},  // 5
    {0x06, 0x08, 0x10, 0x1e, 0x11, 0x11, 0x0e, 0x00, 0x00},  // 6
    {0x1f, 0x01, 0x02, 0x04, 0x08, 0x08, 0x08, 0x00, 0x00},  // 7
    {0x0e, 0x11, 0x11, 0x0e, 0x11, 0x11, 0x0e, 0x00, 0x00},  // 8
    {0x0e, 0x11, 0x11, 0x0f, 0x01, 0x02, 0x0c, 0x00, 0x00},  // 9
    {0x00, 0x0c, 0x0c, 0x00, 0x0c, 0x0c, 0x00, 0x00, 0x00},  // :
    {0x00, 0x0c, 0x0c, 0x00, 0x0c, 0x04, 0x08, 0x00, 0x00},  // ;
    {0x02, 0x04, 0x08, 0x10, 0x08, 0x04, 0x02, 0x00, 0x00},  // <
    {0x00, 0x00, 0x1f, 0x00, 0x1f, 0x00, 0x00, 0x00, 0x00},  // =
    {0x08, 0x04, 0x02, 0x01, 0x02, 0x04, 0x08, 0x00, 0x00},  // >
    {0x0e, 0x11, 0x01, 0x02, 0x04, 0x00, 0x04, 0x00, 0x00},  // ?
    {0x0e, 0x11, 0x17, 0x15, 0x17, 0x10, 0x0f, 0x00, 0x00},  // @
    {0x0e, 0x11, 0x11, 0x1f, 0x11, 0x11, 0x11, 0x00, 0x00},  // A
    {0x1e, 0x11, 0x11, 0x1e, 0x11, 0x11, 0x1e, 0x00, 0x00},  // B
    {0x0e, 0x11, 0x10, 0x10, 0x10, 0x11, 0x0e, 0x00, 0x00},  // C
    {0x1c, 0x12, 0x11, 0x11, 0x11, 0x12, 0x1c, 0x00, 0x00},  // D
    {0x1f, 0x10, 0x10, 0x1e, 0x10, 0x10, 0x1f, 0x00, 0x00},  // E
    {0x1f, 0x10, 0x10, 0x1e, 0x10, 0x10, 0x10, 0x00, 0x00},  // F
    {0x0e, 0x11, 0x10, 0x17, 0x11, 0x11, 0x0f, 0x00, 0x00},  // G
    {0x11, 0x11, 0x11, 0x1f, 0x11, 0x11, 0x11, 0x00, 0x00},  // H
    {0x0e, 0x04, 0x04, 0x04, 0x04, 0x04, 0x0e, 0x00, 0x00},  // I
    {0x07, 0x02, 0x02, 0x02, 0x02, 0x12, 0x0c, 0x00, 0x00},  // J
    {0x11, 0x12, 0x14, 0x18, 0x14, 0x12, 0x11, 0x00, 0x00},  // K
    {0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x1f, 0x00, 0x00},  // L
    {0x11, 0x1b, 0x15, 0x15, 0x11, 0x11, 0x11, 0x00, 0x00},  // M
    {0x11, 0x11, 0x19, 0x15, 0x13, 0x11, 0x11, 0x00, 0x00},  // N
    {0x0e, 0x11, 0x11, 0x11, 0x11, 0x11, 0x0e, 0x00, 0x00},  // O
    {0x1e, 0x11, 0x11, 0x1e, 0x10, 0x10, 0x10, 0x00, 0x00},  // P
    {0x0e, 0x11, 0x11, 0x11, 0x15, 0x12, 0x0d, 0x00, 0x00},  // Q
    {0x1e, 0x11, 0x11, 0x1e, 0x14, 0x12, 0x11, 0x00, 0x00},  // R
    {0x0f, 0x10, 0x10, 0x0e, 0x01, 0x01, 0x1e, 0x00, 0x00},  // S
    {0x1f, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x00, 0x00},  // T
    {0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x0e, 0x00, 0x00},  // U
    {0x11, 0x11, 0x11, 0x11, 0x11, 0x0a, 0x04, 0x00, 0x00},  // V
    {0x11, 0x11, 0x11, 0x15, 0x15, 0x1b, 0x11, 0x00, 0x00},  // W
    {0x11, 0x11, 0x0a, 0x04, 0x0a, 0x11, 0x11, 0x00, 0x00},  // X
    {0x11, 0x11, 0x0a, 0x04, 0x04, 0x04, 0x04, 0x00, 0x00},  // Y
    {0x1f, 0x01, 0x02, 0x04, 0x08, 0x10, 0x1f, 0x00, 0x00},  // Z
    {0x0e, 0x08, 0x08, 0x08, 0x08, 0x08, 0x0e, 0x00, 0x00},  // [
    {0x10, 0x10, 0x08, 0x04, 0x02, 0x01, 0x01, 0x00, 0x00},  // backslash
    {0x0e, 0x02, 0x02, 0x02, 0x02, 0x02, 0x0e, 0x00, 0x00},  // ]
    {0x04, 0x0a, 0x11, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00},  // ^
    {0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x1f, 0x00, 0x00},  // _
    {0x08, 0x04, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00},  // `
    {0x00, 0x00, 0x0e, 0x01, 0x0f, 0x11, 0x0f, 0x00, 0x00},  // a
    {0x10, 0x10, 0x16, 0x19, 0x11, 0x11, 0x1e, 0x00, 0x00},  // b
    {0x00, 0x00, 0x0e, 0x10, 0x10, 0x11, 0x0e, 0x00, 0x00},  // c
    {0x01, 0x01, 0x0d, 0x13, 0x11, 0x11, 0x0f, 0x00, 0x00},  // d
    {0x00, 0x00, 0x0e, 0x11, 0x1f, 0x10, 0x0e, 0x00, 0x00},  // e
    {0x06, 0x09, 0x08, 0x1c, 0x08, 0x08, 0x08, 0x00, 0x00},  // f
    {0x00, 0x00, 0x0f, 0x11, 0x11, 0x13, 0x0d, 0x01, 0x0e},  // g
    {0x10, 0x10, 0x16, 0x19, 0x11, 0x11, 0x11, 0x00, 0x00},  // h
    {0x04, 0x00, 0x0c, 0x04, 0x04, 0x04, 0x0e, 0x00, 0x00},  // i
    {0x02, 0x00, 0x06, 0x02, 0x02, 0x02, 0x02, 0x12, 0x0c},  // j
    {0x10, 0x10, 0x12, 0x14, 0x18, 0x14, 0x12, 0x00, 0x00},  // k
    {0x0c, 0x04, 0x04, 0x04, 0x04, 0x04, 0x0e, 0x00, 0x00},  // l
    {0x00, 0x00, 0x1a, 0x15, 0x15, 0x15, 0x11, 0x00, 0x00},  // m
    {0x00, 0x00, 0x16, 0x19, 0x11, 0x11, 0x11, 0x00, 0x00},  // n
    {0x00, 0x00, 0x0e, 0x11, 0x11, 0x11, 0x0e, 0x00, 0x00},  // o
    {0x00, 0x00, 0x1e, 0x11, 0x11, 0x19, 0x16, 0x10, 0x10},  // p
    {0x00, 0x00, 0x0f, 0x11, 0x11, 0x13, 0x0d, 0x01, 0x01},  // q
    {0x00, 0x00, 0x16, 0x19, 0x10, 0x10, 0x10, 0x00, 0x00},  // r
    {0x00, 0x00, 0x0f, 0x10, 0x0e, 0x01, 0x1e, 0x00, 0x00},  // s
    {0x08, 0x08, 0x1c, 0x08, 0x08, 0x09, 0x06, 0x00, 0x00},  // t
    {0x00, 0x00, 0x11, 0x11, 0x11, 0x13, 0x0d, 0x00, 0x00},  // u
    {0x00, 0x00, 0x11, 0x11, 0x11, 0x0a, 0x04, 0x00, 0x00},  // v
    {0x00, 0x00, 0x11, 0x11, 0x15, 0x15, 0x0a, 0x00, 0x00},  // w
    {0x00, 0x00, 0x11, 0x0a, 0x04, 0x0a, 0x11, 0x00, 0x00},  // x
    {0x00, 0x00, 0x11, 0x11, 0x11, 0x13, 0x0d, 0x01, 0x0e},  // y
    {0x00, 0x00, 0x1f, 0x02, 0x04, 0x08, 0x1f, 0x00, 0x00},  // z
    {0x02, 0x04, 0x04, 0x08, 0x04, 0x04, 0x02, 0x00, 0x00},  // {
    {0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04, 0x00, 0x00},  // |
    {0x08, 0x04, 0x04, 0x02, 0x04, 0x04, 0x08, 0x00, 0x00},  // }
    {0x00, 0x00, 0x08, 0x15, 0x02, 0x00, 0x00, 0x00, 0x00},  // ~
};
// clang-format on

inline int text_width(std::string_view text, int scale) {
  const int letters = static_cast<int>(text.size());
  return letters == 0 ? 0 : scale * (letters * (kGlyphWidth + 1) - 1);
}

inline void draw_text(Image& image, int x, int y, std::string_view text, int scale, Colour colour) {
  for (const char letter : text) {
    const int code = letter >= 32 && letter < 127 ? letter : '?';
    for (int row = 0; row < kGlyphHeight; ++row) {
      for (int column = 0; column < kGlyphWidth; ++column) {
        if ((kFont[code - 32][row] >> (kGlyphWidth - 1 - column) & 1) != 0) {
          fill_rect(image, x + column * scale, y + row * scale, scale, scale, colour);
        }
      }
    }
    x += (kGlyphWidth + 1) * scale;
  }
}

inline std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    lines.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

}  // namespace detail

/// The picture at panel size and nothing else, to stand beside the others.
inline Image draw_original(const Image& image) { return detail::panel_of(image); }

/// Kept cells in full colour, all others faded.
inline Image draw_kept(const Image& image, std::span<const int> kept_cells) {
  const std::vector<bool> kept = detail::kept_mask(kept_cells);
  Image panel = detail::panel_of(image);
  for (int cell = 0; cell < kCells; ++cell) {
    if (!kept[static_cast<std::size_t>(cell)]) detail::fade_cell(panel, cell);
  }
  detail::draw_grid(panel, kept);
  return panel;
}

/// A frame around a box of cells, on a panel that was drawn already.
inline void draw_box(Image& panel, int column, int row, int width, int height) {
  const auto outline = [&](int out, int thick, detail::Colour colour) {
    const int x = column * detail::kCellSize - 1 - out;
    const int y = row * detail::kCellSize - 1 - out;
    const int w = width * detail::kCellSize + 1 + 2 * out;
    const int h = height * detail::kCellSize + 1 + 2 * out;
    detail::fill_rect(panel, x, y, w, thick, colour);
    detail::fill_rect(panel, x, y + h - thick, w, thick, colour);
    detail::fill_rect(panel, x, y, thick, h, colour);
    detail::fill_rect(panel, x + w - thick, y, thick, h, colour);
  };
  outline(5, 5, detail::kInk);
  outline(4, 3, detail::arrow_colour(5));
}

/// As `draw_kept`, with one arrow per link from a discarded cell, in one colour per source; the
/// stronger a link among those of its source, the more opaque. Give a few sources at most.
inline Image draw_links(const Image& image, std::span<const int> kept_cells,
                        std::span<const Link> links) {
  detail::check_links(links);
  std::vector<bool> shown = detail::kept_mask(kept_cells);
  for (const Link& link : links) shown[static_cast<std::size_t>(link.source)] = true;
  Image panel = detail::panel_of(image);
  for (int cell = 0; cell < kCells; ++cell) {
    if (!shown[static_cast<std::size_t>(cell)]) detail::fade_cell(panel, cell);
  }
  detail::draw_grid(panel, shown);

  std::vector<int> sources;
  std::array<float, kCells> strongest{};
  for (const Link& link : links) {
    if (std::find(sources.begin(), sources.end(), link.source) == sources.end()) {
      sources.push_back(link.source);
    }
    float& most = strongest[static_cast<std::size_t>(link.source)];
    most = std::max(most, link.weight);
  }
  const auto colour_of = [&sources](int source) {
    const auto at = std::find(sources.begin(), sources.end(), source) - sources.begin();
    return detail::arrow_colour(static_cast<int>(at));
  };
  for (const Link& link : links) {
    detail::frame_cell(panel, link.target, 0, 3, detail::kInk);
    detail::frame_cell(panel, link.target, 1, 1, {255.0F, 255.0F, 255.0F});
  }
  for (const int source : sources) detail::mark_cell(panel, source, colour_of(source));

  // Weak arrows first, so that they never cover strong ones.
  std::vector<std::size_t> order(links.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto share_of = [&strongest](const Link& link) {
    const float most = strongest[static_cast<std::size_t>(link.source)];
    return most > 0.0F ? std::clamp(link.weight / most, 0.0F, 1.0F) : 1.0F;
  };
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return share_of(links[a]) < share_of(links[b]);
  });
  for (const std::size_t i : order) {
    const Link& link = links[i];
    if (link.source == link.target) continue;
    const float alpha = 0.35F + 0.65F * share_of(link);
    detail::draw_arrow(panel, detail::make_arrow(link.source, link.target), colour_of(link.source),
                       alpha);
  }
  return panel;
}

/// Every kept cell that received anything gets a colour, and each discarded cell wears the colour
/// of the one that received most of it; a dark line runs between different groups. Cells without
/// links (pruned, not merged) stay faded.
inline Image draw_groups(const Image& image, std::span<const int> kept_cells,
                         std::span<const Link> links) {
  detail::check_links(links);
  const std::vector<bool> kept = detail::kept_mask(kept_cells);
  std::array<const Link*, kCells> best{};
  for (const Link& link : links) {
    const Link*& most = best[static_cast<std::size_t>(link.source)];
    if (most == nullptr || link.weight > most->weight) most = &link;
  }
  // The kept cell that each cell belongs to, -1 for none, and how many follow it.
  std::array<int, kCells> owner{};
  std::array<int, kCells> followers{};
  for (std::size_t cell = 0; cell < std::size_t{kCells}; ++cell) {
    owner[cell] = kept[cell]              ? static_cast<int>(cell)
                  : best[cell] != nullptr ? best[cell]->target
                                          : -1;
    if (!kept[cell] && owner[cell] >= 0) ++followers[static_cast<std::size_t>(owner[cell])];
  }
  // The largest groups take the first colours, which lie furthest apart.
  std::array<int, kCells> ranked{};
  std::iota(ranked.begin(), ranked.end(), 0);
  std::stable_sort(ranked.begin(), ranked.end(), [&followers](int a, int b) {
    return followers[static_cast<std::size_t>(a)] > followers[static_cast<std::size_t>(b)];
  });
  std::array<detail::Colour, kCells> colours{};
  for (int rank = 0; rank < kCells; ++rank) {
    const auto cell = static_cast<std::size_t>(ranked[static_cast<std::size_t>(rank)]);
    colours[cell] = detail::series_colour(rank);
  }

  Image panel = draw_kept(image, kept_cells);
  constexpr int kSize = detail::kCellSize;
  for (int cell = 0; cell < kCells; ++cell) {
    const auto at = static_cast<std::size_t>(cell);
    if (kept[at] || owner[at] < 0) continue;
    detail::fill_rect(panel, (cell % kGridSide) * kSize, (cell / kGridSide) * kSize, kSize - 1,
                      kSize - 1, colours[static_cast<std::size_t>(owner[at])], 0.6F);
  }
  for (int cell = 0; cell < kCells; ++cell) {
    const auto at = static_cast<std::size_t>(cell);
    const int x = (cell % kGridSide) * kSize;
    const int y = (cell / kGridSide) * kSize;
    if (cell % kGridSide > 0 && owner[at] != owner[at - 1]) {
      detail::fill_rect(panel, x - 1, y - 1, 2, kSize + 1, detail::kInk);
    }
    if (cell >= kGridSide && owner[at] != owner[at - kGridSide]) {
      detail::fill_rect(panel, x - 1, y - 1, kSize + 1, 2, detail::kInk);
    }
  }
  for (int cell = 0; cell < kCells; ++cell) {
    const auto at = static_cast<std::size_t>(cell);
    if (!kept[at] || followers[at] == 0) continue;
    detail::frame_cell(panel, cell, 1, 4, colours[at]);
    detail::frame_cell(panel, cell, 5, 1, detail::kInk);
  }
  return panel;
}

/// 576 non-negative values (attention, scores) as a heat map over a grey picture, scaled to the
/// largest.
inline Image draw_heat(const Image& image, std::span<const float> values) {
  if (values.size() != std::size_t{kCells}) {
    throw std::invalid_argument("draw_heat: expected 576 values, got " +
                                std::to_string(values.size()));
  }
  float most = 0.0F;
  for (const float value : values) most = std::max(most, std::isfinite(value) ? value : 0.0F);
  // Black, purple, orange, pale yellow: brightness grows all the way.
  static constexpr std::array<detail::Colour, 4> kRamp{{{12.0F, 8.0F, 38.0F},
                                                        {135.0F, 33.0F, 107.0F},
                                                        {243.0F, 120.0F, 25.0F},
                                                        {252.0F, 250.0F, 165.0F}}};
  Image panel = detail::panel_of(image);
  for (int y = 0; y < kPanelSize; ++y) {
    for (int x = 0; x < kPanelSize; ++x) {
      const int cell = (y / detail::kCellSize) * kGridSide + x / detail::kCellSize;
      const float value = values[static_cast<std::size_t>(cell)];
      const float share = most > 0.0F && std::isfinite(value) ? value / most : 0.0F;
      const float at = 3.0F * std::sqrt(std::clamp(share, 0.0F, 1.0F));
      const auto step = std::min<std::size_t>(2, static_cast<std::size_t>(at));
      const float t = at - static_cast<float>(step);
      const detail::Colour a = kRamp[step];
      const detail::Colour b = kRamp[step + 1];
      const float grey = detail::luma(panel.at(x, y));
      detail::blend(panel, x, y, {grey, grey, grey}, 1.0F);
      detail::blend(panel, x, y,
                    {a.r + t * (b.r - a.r), a.g + t * (b.g - a.g), a.b + t * (b.b - a.b)}, 0.72F);
    }
  }
  detail::draw_grid(panel, {});
  return panel;
}

/// Panels of one size in rows of `columns` (0: all in one row) on white, captions above. A caption
/// line that is too long for its panel is set smaller.
inline Image contact_sheet(std::span<const Panel> panels, int columns = 0, int text_scale = 3) {
  constexpr int kMargin = 20;
  if (panels.empty()) throw std::invalid_argument("contact_sheet: expected at least one panel");
  const int width = panels.front().picture.width;
  const int height = panels.front().picture.height;
  const int count = static_cast<int>(panels.size());
  const int across = columns < 1 ? count : std::min(columns, count);
  const int scale = std::max(1, text_scale);
  const int line_height = scale * (detail::kGlyphHeight + 2);
  int lines = 0;
  for (const Panel& panel : panels) {
    if (panel.picture.width != width || panel.picture.height != height) {
      throw std::invalid_argument("contact_sheet: expected panels of one size");
    }
    lines = std::max(lines, static_cast<int>(detail::lines_of(panel.caption).size()));
  }
  const int head = lines == 0 ? 0 : lines * line_height + 2 * scale;
  const int rows = (count + across - 1) / across;
  Image sheet(kMargin + across * (width + kMargin), kMargin + rows * (head + height + kMargin),
              255);
  for (int i = 0; i < count; ++i) {
    const Panel& panel = panels[static_cast<std::size_t>(i)];
    const int x = kMargin + (i % across) * (width + kMargin);
    int y = kMargin + (i / across) * (head + height + kMargin);
    const int top = y + head;
    detail::Colour colour = detail::kInk;
    for (const std::string_view line : detail::lines_of(panel.caption)) {
      int fitting = scale;
      while (fitting > 1 && detail::text_width(line, fitting) > width) --fitting;
      detail::draw_text(sheet, x, y, line, fitting, colour);
      colour = detail::kFaintInk;
      y += line_height;
    }
    for (int row = 0; row < height; ++row) {
      std::copy_n(panel.picture.at(0, row), 3 * width, sheet.at(x, top + row));
    }
  }
  return sheet;
}

}  // namespace photo
