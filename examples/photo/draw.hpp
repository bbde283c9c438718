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
#include <vector>

#include "canvas.hpp"

namespace photo {

inline constexpr int kGridSide = 24;
inline constexpr int kCells = kGridSide * kGridSide;
/// Panels with arrows are drawn larger than the encoder's input, so that these stay fine.
inline constexpr int kPanelSize = 3 * kInputSize / 2;

/// What a discarded cell gave to a kept one; cells count row by row from the top left.
struct Link {
  int source = 0;
  int target = 0;
  float weight = 0.0F;
};

namespace detail {

inline constexpr int kCellSize = kPanelSize / kGridSide;

/// The panels of a kind are all of one size, a multiple of the grid's.
inline int cell_size(const Image& panel) { return panel.width / kGridSide; }

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

inline Image panel_of(const Image& image, int size = kPanelSize) {
  return picture::resize(picture::centre_crop(image), size, size);
}

inline float luma(const std::uint8_t* p) {
  return 0.299F * static_cast<float>(p[0]) + 0.587F * static_cast<float>(p[1]) +
         0.114F * static_cast<float>(p[2]);
}

/// Almost white with a hint of the picture left: kept cells stand out, whether dark or bright.
inline void fade_cell(Image& panel, int cell) {
  const int size = cell_size(panel);
  const int left = (cell % kGridSide) * size;
  const int top = (cell / kGridSide) * size;
  for (int y = top; y < top + size; ++y) {
    for (int x = left; x < left + size; ++x) {
      const float grey = 226.0F + 0.08F * luma(panel.at(x, y));
      blend(panel, x, y, {grey, grey, grey}, 1.0F);
    }
  }
}

/// One pale colour: what merging leaves of a patch.
inline void tint_cell(Image& panel, int cell, Colour colour, float alpha) {
  constexpr float kPale = 0.38F;
  const auto paler = [](float value) { return value + kPale * (255.0F - value); };
  const int size = cell_size(panel);
  fill_rect(panel, (cell % kGridSide) * size, (cell / kGridSide) * size, size, size,
            {paler(colour.r), paler(colour.g), paler(colour.b)}, alpha);
}

/// White lines between the cells that are `shown`, and a dark one where they meet others: a white
/// kept cell next to pale ones would otherwise be lost.
inline void draw_grid(Image& panel, const std::vector<bool>& shown) {
  const int size = cell_size(panel);
  for (int cell = 0; cell < kCells; ++cell) {
    if (!shown[static_cast<std::size_t>(cell)]) continue;
    const int right = (cell % kGridSide + 1) * size - 1;
    const int bottom = (cell / kGridSide + 1) * size - 1;
    fill_rect(panel, right, bottom - size + 1, 1, size, kGap, 0.7F);
    fill_rect(panel, right - size + 1, bottom, size - 1, 1, kGap, 0.7F);
  }
  for (int cell = 0; cell < kCells; ++cell) {
    const auto at = static_cast<std::size_t>(cell);
    const int x = (cell % kGridSide) * size;
    const int y = (cell / kGridSide) * size;
    if (cell % kGridSide > 0 && shown[at] != shown[at - 1]) {
      fill_rect(panel, x - 1, y, 1, size - 1, kInk, 0.75F);
    }
    if (cell >= kGridSide && shown[at] != shown[at - kGridSide]) {
      fill_rect(panel, x, y - 1, size - 1, 1, kInk, 0.75F);
    }
  }
}

}  // namespace detail

/// The picture at panel size and nothing else, to stand beside the others.
inline Image draw_original(const Image& image, int size = kPanelSize) {
  return detail::panel_of(image, size);
}

/// Kept cells in full colour, all others faded.
inline Image draw_kept(const Image& image, std::span<const int> kept_cells, int size = kPanelSize) {
  const std::vector<bool> kept = detail::kept_mask(kept_cells);
  Image panel = detail::panel_of(image, size);
  for (int cell = 0; cell < kCells; ++cell) {
    if (!kept[static_cast<std::size_t>(cell)]) detail::fade_cell(panel, cell);
  }
  detail::draw_grid(panel, kept);
  return panel;
}

/// The same, and what was merged is tinted: cell c has given `merged[c]`, 0 to 1, of itself to
/// others, and wears `colours[c]`, which is what they look like.
inline Image draw_merged(const Image& image, std::span<const int> kept_cells,
                         std::span<const float> merged, std::span<const detail::Colour> colours,
                         int size = kPanelSize) {
  const std::vector<bool> kept = detail::kept_mask(kept_cells);
  Image panel = detail::panel_of(image, size);
  for (int cell = 0; cell < kCells; ++cell) {
    const auto at = static_cast<std::size_t>(cell);
    if (kept[at]) continue;
    detail::fade_cell(panel, cell);
    if (merged[at] > 0.0F) detail::tint_cell(panel, cell, colours[at], merged[at]);
  }
  detail::draw_grid(panel, kept);
  return panel;
}

/// The mean colour of every cell.
inline std::vector<detail::Colour> mean_colours(const Image& image) {
  const Image panel = picture::resize(picture::centre_crop(image), kGridSide, kGridSide);
  std::vector<detail::Colour> colours;
  for (int cell = 0; cell < kCells; ++cell) {
    const std::uint8_t* p = panel.at(cell % kGridSide, cell / kGridSide);
    colours.push_back(
        {static_cast<float>(p[0]), static_cast<float>(p[1]), static_cast<float>(p[2])});
  }
  return colours;
}

/// A frame around a box of cells, on a panel that was drawn already.
inline void draw_box(Image& panel, int column, int row, int width, int height) {
  const int size = detail::cell_size(panel);
  const auto outline = [&](int out, int thick, detail::Colour colour) {
    const int x = column * size - 1 - out;
    const int y = row * size - 1 - out;
    const int w = width * size + 1 + 2 * out;
    const int h = height * size + 1 + 2 * out;
    detail::fill_rect(panel, x, y, w, thick, colour);
    detail::fill_rect(panel, x, y + h - thick, w, thick, colour);
    detail::fill_rect(panel, x, y, thick, h, colour);
    detail::fill_rect(panel, x + w - thick, y, thick, h, colour);
  };
  const int thick = std::max(2, size / 7);
  outline(thick + 2, thick + 2, detail::kInk);
  outline(thick + 1, thick, detail::arrow_colour(5));
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
inline Image draw_heat(const Image& image, std::span<const float> values, int size = kPanelSize) {
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
  Image panel = detail::panel_of(image, size);
  const int cell_size = detail::cell_size(panel);
  for (int y = 0; y < size; ++y) {
    for (int x = 0; x < size; ++x) {
      const int cell = (y / cell_size) * kGridSide + x / cell_size;
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
  return panel;
}

}  // namespace photo
