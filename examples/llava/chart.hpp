// SPDX-License-Identifier: Apache-2.0
// Line charts side by side with one legend, as an SVG file.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "axis.hpp"
#include "svg.hpp"

namespace llava {

struct Point {
  double x = 0;
  double y = 0;
};

struct Series {
  std::string name;
  std::vector<Point> points = {};  ///< joined in this order; one that cannot be drawn is a gap
  std::string group = {};          ///< a heading of the legend
  bool guide = false;  ///< dashed, grey and without markers: what the others compare with
};

struct Chart {
  std::string title;
  Axis x = {};
  Axis y = {};
  std::vector<Series> series = {};
};

/// Charts that share a legend: a series that several of them have looks the same in each.
struct Figure {
  std::string title;
  std::string subtitle;
  std::vector<Chart> charts;
};

namespace detail {

// Colours that stay apart in the common forms of colour blindness (Okabe and Ito, 2008), without
// the yellow, which white swallows.
inline constexpr std::array<std::string_view, 6> kColours = {"#0072b2", "#d55e00", "#009e73",
                                                             "#c4609a", "#e69f00", "#56b4e9"};
inline constexpr std::string_view kInk = "#1f2328";
inline constexpr std::string_view kFaintInk = "#59636e";
inline constexpr std::string_view kGrid = "#e4e7eb";

struct Look {
  std::string_view colour;
  std::size_t shape = 0;
  bool hollow = false;
  std::string_view dashes = "none";

  /// The first six series differ in colour and shape, the next six are hollow and pair each colour
  /// with another shape, and so on through 36.
  static Look of(std::size_t i) {
    const std::size_t colours = kColours.size();
    return {.colour = kColours[i % colours],
            .shape = (i + i / colours) % colours,
            .hollow = i / colours % 2 == 1};
  }
  static Look of_guide(std::size_t i) {
    constexpr std::array<std::string_view, 3> dashes = {"5 4", "1.5 3", "9 3 2 3"};
    return {.colour = kFaintInk, .dashes = dashes[i % dashes.size()]};
  }
};

/// Corners on a unit circle, the first at `turn` quarters from the right, clockwise; every second
/// one at radius `inner` if that is not 1.
inline std::vector<Point> star(int corners, double turn, double inner = 1) {
  std::vector<Point> points;
  for (int i = 0; i < corners; ++i) {
    const double angle = std::numbers::pi * (turn / 2 + 2.0 * i / corners);
    const double radius = i % 2 == 0 ? 1 : inner;
    points.push_back({radius * std::cos(angle), radius * std::sin(angle)});
  }
  return points;
}

inline std::string path_of(std::span<const Point> points) {
  std::string data;
  for (const Point& p : points) {
    data += (data.empty() ? "M" : "L") + Svg::number(p.x) + " " + Svg::number(p.y);
  }
  return data;
}

inline void draw_marker(Svg& svg, Point at, const Look& look) {
  const std::string colour(look.colour);
  // A white rim keeps markers apart that lie over each other.
  const std::string style = look.hollow
                                ? "fill=\"#ffffff\" stroke=\"" + colour + "\" stroke-width=\"1.6\""
                                : "fill=\"" + colour + "\" stroke=\"#ffffff\" stroke-width=\"0.8\"";
  const double size = look.hollow ? 0.86 : 1;
  if (look.shape == 0) {
    svg.circle(at.x, at.y, 4.2 * size, style);
    return;
  }
  static const std::array<std::pair<std::vector<Point>, double>, 5> shapes = {{
      {star(4, 0.5), 5.2},        // square
      {star(3, -1), 5.6},         // triangle
      {star(4, 0), 5.4},          // diamond
      {star(3, 1), 5.6},          // triangle on its tip
      {star(10, -1, 0.45), 6.4},  // five-pointed star
  }};
  const auto& [corners, radius] = shapes[look.shape - 1];
  std::vector<Point> points;
  for (const Point& p : corners) {
    points.push_back({at.x + size * radius * p.x, at.y + size * radius * p.y});
  }
  svg.path(path_of(points) + "Z", style + " stroke-linejoin=\"round\"");
}

inline std::string line_style(const Look& look) {
  return "fill=\"none\" stroke=\"" + std::string(look.colour) +
         "\" stroke-width=\"1.7\" stroke-linejoin=\"round\" stroke-dasharray=\"" +
         std::string(look.dashes) + "\"";
}

/// Pixels; a guess that is rather too wide, as fonts differ between machines.
inline double text_width(std::string_view text, double font_size) {
  return 0.56 * font_size * static_cast<double>(characters(text));
}

inline std::string text_style(std::string_view colour, int size, std::string_view anchor = "start",
                              bool bold = false) {
  return "fill=\"" + std::string(colour) + "\" font-size=\"" + std::to_string(size) +
         "\" text-anchor=\"" + std::string(anchor) + "\"" + (bold ? " font-weight=\"600\"" : "");
}

struct Box {
  double left = 0;
  double top = 0;
  double width = 0;
  double height = 0;

  double right() const { return left + width; }
  double bottom() const { return top + height; }
};

/// The places of the series' points, in runs without a gap.
inline std::vector<std::vector<Point>> runs_of(const Chart& chart, const Series& series,
                                               const Range& x, const Range& y, const Box& box) {
  std::vector<std::vector<Point>> runs(1);
  for (const Point& p : series.points) {
    if (drawable(chart.x, p.x) && drawable(chart.y, p.y)) {
      runs.back().push_back({box.left + box.width * share_of(chart.x, x, p.x),
                             box.bottom() - box.height * share_of(chart.y, y, p.y)});
    } else if (!runs.back().empty()) {
      runs.emplace_back();
    }
  }
  if (runs.back().empty()) runs.pop_back();
  return runs;
}

/// For the numbers left of a chart.
inline constexpr double kAxisWidth = 50;

/// Axes, grid and lines; the title and what y is go above `box`, what x is below.
template <class LookOf>
void draw_chart(Svg& svg, const Chart& chart, const Box& box, const LookOf& look_of) {
  std::vector<double> xs;
  std::vector<double> ys;
  for (const Series& series : chart.series) {
    for (const Point& p : series.points) {
      if (!drawable(chart.x, p.x) || !drawable(chart.y, p.y)) continue;
      xs.push_back(p.x);
      ys.push_back(p.y);
    }
  }
  const Range x = range_of(chart.x, xs);
  const Range y = range_of(chart.y, ys);
  const auto stroke = [](std::string_view colour) {
    return "stroke=\"" + std::string(colour) + "\" stroke-width=\"1\"";
  };
  svg.text(box.left - kAxisWidth, box.top - 38, chart.title, text_style(kInk, 14, "start", true));
  svg.text(box.left - kAxisWidth, box.top - 19, chart.y.title, text_style(kFaintInk, 12));
  for (const Tick& tick : y.ticks) {
    const double at = box.bottom() - box.height * share_of(chart.y, y, tick.value);
    svg.line(box.left, at, box.right(), at, stroke(kGrid));
    svg.text(box.left - 8, at + 4, tick.text, text_style(kInk, 12, "end"));
  }
  for (const double value : y.minor) {
    const double at = box.bottom() - box.height * share_of(chart.y, y, value);
    svg.line(box.left - 3, at, box.left, at, stroke("#b7bec6"));
  }
  svg.line(box.left, box.bottom(), box.right(), box.bottom(), stroke(kFaintInk));
  for (const Tick& tick : x.ticks) {
    const double at = box.left + box.width * share_of(chart.x, x, tick.value);
    svg.line(at, box.bottom(), at, box.bottom() + 5, stroke(kFaintInk));
    svg.text(at, box.bottom() + 20, tick.text, text_style(kInk, 12, "middle"));
  }
  for (const double value : x.minor) {
    const double at = box.left + box.width * share_of(chart.x, x, value);
    svg.line(at, box.bottom(), at, box.bottom() + 3, stroke("#b7bec6"));
  }
  svg.text(box.left + box.width / 2, box.bottom() + 40, chart.x.title,
           text_style(kFaintInk, 12, "middle"));
  if (xs.empty()) {
    svg.text(box.left + box.width / 2, box.top + box.height / 2, "no data",
             text_style(kFaintInk, 12, "middle"));
  }

  // Guides below, then all lines, then all markers, so that no line crosses a marker.
  for (const bool guide : {true, false}) {
    for (const Series& series : chart.series) {
      if (series.guide != guide) continue;
      for (const auto& run : runs_of(chart, series, x, y, box)) {
        if (run.size() > 1) svg.path(path_of(run), line_style(look_of(series)));
      }
    }
  }
  for (const Series& series : chart.series) {
    for (const auto& run : runs_of(chart, series, x, y, box)) {
      for (const Point& p : run) {
        if (!series.guide) draw_marker(svg, p, look_of(series));
      }
    }
  }
}

/// The series of all charts, each name once: groups in order of appearance, guides last.
inline std::vector<Series> legend_of(const Figure& figure) {
  std::vector<Series> entries;
  for (const Chart& chart : figure.charts) {
    for (const Series& series : chart.series) {
      const bool known = std::any_of(entries.begin(), entries.end(),
                                     [&](const Series& e) { return e.name == series.name; });
      if (!known) entries.push_back({series.name, {}, series.group, series.guide});
    }
  }
  std::vector<Series> ordered;
  for (const bool guide : {false, true}) {
    for (const Series& first : entries) {
      const bool taken = std::any_of(ordered.begin(), ordered.end(),
                                     [&](const Series& e) { return e.name == first.name; });
      if (taken || first.guide != guide) continue;
      for (const Series& e : entries) {
        if (e.guide == guide && e.group == first.group) ordered.push_back(e);
      }
    }
  }
  return ordered;
}

}  // namespace detail

/// The figure as the text of an SVG file; the same figure gives the same bytes. Values that are not
/// finite, or not positive on a logarithmic axis without floor, are left out.
inline std::string to_svg(const Figure& figure) {
  using namespace detail;
  constexpr double margin = 20;
  constexpr double chart_width = 330;
  constexpr double chart_height = 300;
  constexpr double line_height = 19;
  constexpr double sample = 30;  // of a line, in the legend

  const std::vector<Series> legend = legend_of(figure);
  const auto look_of = [&legend](const Series& series) {
    std::size_t i = 0;  // among those of its kind
    for (const Series& entry : legend) {
      if (entry.name == series.name) break;
      i += entry.guide == series.guide ? 1 : 0;
    }
    return series.guide ? Look::of_guide(i) : Look::of(i);
  };

  const double title_height = (figure.title.empty() ? 0 : 24) + (figure.subtitle.empty() ? 0 : 20);
  const double top = margin + title_height + 56;
  double left = margin;
  Svg svg;
  double text_top = margin + 14;
  if (!figure.title.empty()) {
    svg.text(margin, text_top, figure.title, text_style(kInk, 17, "start", true));
    text_top += 21;
  }
  if (!figure.subtitle.empty()) {
    svg.text(margin, text_top, figure.subtitle, text_style(kFaintInk, 12));
  }
  for (const Chart& chart : figure.charts) {
    draw_chart(svg, chart, {left + kAxisWidth, top, chart_width, chart_height}, look_of);
    left += kAxisWidth + chart_width + 1.2 * margin;
  }

  // The legend has a column of its own, so that no data can run under it.
  double y = top - 38;
  double legend_width = 0;
  std::string group;
  for (const Series& entry : legend) {
    if (entry.group != group && !entry.group.empty()) {
      y += y > top - 38 ? 6 : 0;
      svg.text(left, y, entry.group, text_style(kFaintInk, 12));
      legend_width = std::max(legend_width, text_width(entry.group, 12));
      y += line_height;
    }
    group = entry.group;
    const Look look = look_of(entry);
    svg.path(path_of(std::array{Point{left, y - 4}, Point{left + sample, y - 4}}),
             line_style(look));
    if (!entry.guide) draw_marker(svg, {left + sample / 2, y - 4}, look);
    svg.text(left + sample + 8, y, entry.name, text_style(kInk, 12));
    legend_width = std::max(legend_width, sample + 8 + text_width(entry.name, 12));
    y += line_height;
  }

  const double title_width =
      std::max(text_width(figure.title, 17), text_width(figure.subtitle, 12));
  const double width = std::max(left + legend_width, margin + title_width) + margin;
  const double height = std::max(top + chart_height + 40, y) + margin;
  return svg.str(std::ceil(width), std::ceil(height), figure.title);
}

}  // namespace llava
