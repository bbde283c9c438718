// SPDX-License-Identifier: Apache-2.0
#include "chart.hpp"

#include <gtest/gtest.h>

#include <cctype>
#include <cmath>
#include <cstddef>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "llava/runs.hpp"
#include "sweep.hpp"

namespace {

using llava::Axis;
using llava::Chart;
using llava::Figure;
using llava::Point;
using llava::Scale;
using llava::Series;
using llava::to_svg;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

struct Element {
  std::string name;
  std::map<std::string, std::string> attributes;
  std::string text = {};

  double number(const std::string& attribute) const { return std::stod(attributes.at(attribute)); }
};

/// The elements of well-formed XML without comments and the like; a failure where it is not.
std::vector<Element> elements_of(const std::string& xml) {
  std::vector<Element> elements;
  std::vector<std::size_t> open;
  std::size_t at = 0;
  const auto fail = [&](const std::string& what) {
    ADD_FAILURE() << what << " at " << xml.substr(at, 80);
    return elements;
  };
  const auto valid_text = [](const std::string& text) {
    for (std::size_t i = text.find('&'); i != std::string::npos; i = text.find('&', i + 1)) {
      const std::string entity = text.substr(i, text.find(';', i) - i + 1);
      if (!std::set<std::string>{"&amp;", "&lt;", "&gt;", "&quot;", "&#39;"}.count(entity)) {
        return false;
      }
    }
    return text.find('<') == std::string::npos;
  };
  while (at < xml.size()) {
    if (xml[at] != '<') {
      const std::string text = xml.substr(at, xml.find('<', at) - at);
      if (!valid_text(text)) return fail("bad text");
      if (!open.empty()) elements[open.back()].text += text;
      at += text.size();
      continue;
    }
    // A tag ends at the first '>' outside of quotes.
    std::size_t end = at + 1;
    for (bool quoted = false; end < xml.size() && (quoted || xml[end] != '>'); ++end) {
      if (xml[end] == '"') quoted = !quoted;
    }
    if (end >= xml.size()) return fail("open tag");
    std::string tag = xml.substr(at + 1, end - at - 1);
    if (tag[0] == '/') {
      if (open.empty() || elements[open.back()].name != tag.substr(1)) return fail("bad end");
      open.pop_back();
      at = end + 1;
      continue;
    }
    if (open.empty() && !elements.empty()) return fail("second root");
    const bool empty = tag.back() == '/';
    if (empty) tag.pop_back();
    Element element;
    std::size_t i = tag.find(' ');
    element.name = tag.substr(0, i);
    while (i != std::string::npos && i + 1 < tag.size()) {
      const std::size_t equals = tag.find("=\"", i);
      const std::size_t close = equals == std::string::npos ? equals : tag.find('"', equals + 2);
      if (close == std::string::npos) return fail("bad attribute");
      const std::string name = tag.substr(i + 1, equals - i - 1);
      const std::string value = tag.substr(equals + 2, close - equals - 2);
      if (!valid_text(value) || !element.attributes.emplace(name, value).second) {
        return fail("bad attribute " + name);
      }
      i = close + 1;
      if (i < tag.size() && tag[i] != ' ') return fail("attributes not apart");
    }
    elements.push_back(element);
    if (!empty) open.push_back(elements.size() - 1);
    at = end + 1;
  }
  if (!open.empty() || elements.empty()) return fail("not closed");
  return elements;
}

/// Well-formed, every coordinate a number inside the picture.
std::vector<Element> checked(const std::string& svg) {
  const auto elements = elements_of(svg);
  if (elements.empty()) return elements;
  EXPECT_EQ(elements[0].name, "svg");
  const double width = elements[0].number("width");
  const double height = elements[0].number("height");
  const auto inside = [](const std::string& text, double most) {
    std::size_t used = 0;
    const double value = std::stod(text, &used);
    EXPECT_EQ(used, text.size()) << text;
    EXPECT_GE(value, 0);
    EXPECT_LE(value, most);
  };
  for (const Element& e : elements) {
    for (const auto& [name, value] : e.attributes) {
      if (name == "x" || name == "x1" || name == "x2" || name == "cx") inside(value, width);
      if (name == "y" || name == "y1" || name == "y2" || name == "cy") inside(value, height);
      if (name == "d") {
        // "M1 2L3 4Z": x and y in turns.
        std::string number;
        bool is_x = true;
        for (const char c : value + " ") {
          if (std::isdigit(static_cast<unsigned char>(c)) || c == '.' || c == '-') {
            number += c;
          } else {
            EXPECT_TRUE(c == 'M' || c == 'L' || c == 'Z' || c == ' ') << value;
            if (!number.empty()) {
              inside(number, is_x ? width : height);
              is_x = !is_x;
            }
            number.clear();
          }
        }
        EXPECT_TRUE(is_x);
      }
    }
  }
  return elements;
}

/// All that text elements say, in order.
std::vector<std::string> texts_of(const std::vector<Element>& elements) {
  std::vector<std::string> texts;
  for (const Element& e : elements) {
    if (e.name == "text") texts.push_back(e.text);
  }
  return texts;
}
bool says(const std::vector<Element>& elements, const std::string& text) {
  for (const std::string& t : texts_of(elements)) {
    if (t == text) return true;
  }
  return false;
}
/// Drawn lines of data: paths without a filling.
std::vector<Element> lines_of(const std::vector<Element>& elements) {
  std::vector<Element> lines;
  for (const Element& e : elements) {
    if (e.name == "path" && e.attributes.at("fill") == "none") lines.push_back(e);
  }
  return lines;
}
std::size_t markers_of(const std::vector<Element>& elements) {
  std::size_t count = 0;
  for (const Element& e : elements) {
    count += e.name == "circle" || (e.name == "path" && e.attributes.at("fill") != "none") ? 1 : 0;
  }
  return count;
}

Figure figure_of(std::vector<Series> series, Scale x = Scale::linear, Scale y = Scale::linear) {
  return {"title",
          "",
          {{.title = "chart",
            .x = {.title = "N", .scale = x},
            .y = {.title = "ms", .scale = y},
            .series = std::move(series)}}};
}

std::vector<std::string> ticks_of(const Axis& axis, std::vector<double> values) {
  std::vector<std::string> texts;
  for (const auto& tick : llava::detail::range_of(axis, values).ticks) texts.push_back(tick.text);
  return texts;
}
using Texts = std::vector<std::string>;

// --- axes

TEST(LlavaAxis, linear_ticks_are_nice) {
  EXPECT_EQ(ticks_of({}, {0, 6}), (Texts{"0", "1", "2", "3", "4", "5", "6"}));
  EXPECT_EQ(ticks_of({}, {0.13, 0.98}), (Texts{"0.0", "0.2", "0.4", "0.6", "0.8", "1.0"}));
  EXPECT_EQ(ticks_of({}, {-120, 340}), (Texts{"-200", "-100", "0", "100", "200", "300", "400"}));
  EXPECT_EQ(ticks_of({.include = {1}}, {1.9, 3.6}),
            (Texts{"1.0", "1.5", "2.0", "2.5", "3.0", "3.5", "4.0"}));
  EXPECT_EQ(ticks_of({.suffix = "×", .include = {1}}, {6.4}),
            (Texts{"1×", "2×", "3×", "4×", "5×", "6×", "7×"}));
}

TEST(LlavaAxis, single_values_get_room) {
  EXPECT_EQ(ticks_of({}, {5}), (Texts{"4.4", "4.6", "4.8", "5.0", "5.2", "5.4", "5.6"}));
  EXPECT_EQ(ticks_of({}, {0}), (Texts{"-1.0", "-0.5", "0.0", "0.5", "1.0"}));
  EXPECT_EQ(ticks_of({.scale = Scale::log10}, {5}), (Texts{"2", "5", "10"}));
  EXPECT_EQ(ticks_of({.scale = Scale::log2}, {64}), (Texts{"32", "64", "128"}));
}

TEST(LlavaAxis, logarithmic_ticks_are_powers) {
  const Axis log2{.scale = Scale::log2};
  EXPECT_EQ(ticks_of(log2, {32, 576}), (Texts{"32", "64", "128", "256", "512"}));
  EXPECT_EQ(ticks_of({.scale = Scale::log2, .ticks = {8, 64, 576, 1024, nan}}, {32, 576}),
            (Texts{"64", "576"}));
  const Axis log10{.scale = Scale::log10};
  EXPECT_EQ(ticks_of(log10, {0.01, 90}), (Texts{"0.01", "0.1", "1", "10", "100"}));
  EXPECT_EQ(ticks_of(log10, {3, 70}), (Texts{"2", "5", "10", "20", "50", "100"}));
  EXPECT_EQ(ticks_of(log10, {1e-6, 1e-2}), (Texts{"10⁻⁶", "10⁻⁵", "10⁻⁴", "10⁻³", "10⁻²"}));
  EXPECT_EQ(ticks_of(log10, {1.5e-6, 4e-6}), (Texts{"10⁻⁶", "2·10⁻⁶", "5·10⁻⁶"}));
  EXPECT_EQ(ticks_of(log2, {0.7, 1}), (Texts{"0.5", "1", "2"}));
  EXPECT_LE(ticks_of(log10, {1e-14, 1e14}).size(), 9u);
  EXPECT_LE(ticks_of(log2, {1e-14, 1e14}).size(), 11u);
}

TEST(LlavaAxis, values_below_the_floor_are_on_it) {
  const Axis axis{.scale = Scale::log10, .floor = 1e-3};
  EXPECT_EQ(ticks_of(axis, {0, 1}), (Texts{"≤ 0.001", "0.01", "0.1", "1"}));
  EXPECT_EQ(ticks_of(axis, {0.01, 1}), (Texts{"0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"}));
  EXPECT_EQ(ticks_of(axis, {0}), (Texts{"≤ 0.001", "0.002"}));
  const auto range = llava::detail::range_of(axis, std::vector<double>{0, 1});
  EXPECT_NEAR(llava::detail::share_of(axis, range, 0), 0, 1e-12);
  EXPECT_NEAR(llava::detail::share_of(axis, range, -7), 0, 1e-12);
  EXPECT_NEAR(llava::detail::share_of(axis, range, 0.1), 2.0 / 3, 1e-12);
}

TEST(LlavaAxis, values_without_a_place_are_left_out) {
  EXPECT_EQ(ticks_of({}, {nan, infinity, -infinity, 1e200, 0, 1}), ticks_of({}, {0, 1}));
  EXPECT_EQ(ticks_of({.scale = Scale::log10}, {0, -3, nan, 1, 10}),
            ticks_of({.scale = Scale::log10}, {1, 10}));
  EXPECT_EQ(ticks_of({}, {}), ticks_of({}, {0, 1}));
  EXPECT_EQ(ticks_of({.scale = Scale::log10, .floor = 0.1}, {nan, infinity}),
            (Texts{"1", "2", "5", "10"}));
}

TEST(LlavaAxis, descending_axes_begin_with_the_largest) {
  const Axis axis{.descending = true};
  const auto range = llava::detail::range_of(axis, std::vector<double>{0, 10});
  EXPECT_EQ(llava::detail::share_of(axis, range, 10), 0);
  EXPECT_EQ(llava::detail::share_of(axis, range, 2.5), 0.75);
}

TEST(LlavaAxis, whatever_the_data_there_are_ticks_inside_the_range) {
  const std::vector<double> values = {0,   1e-300, 1e-15, 3e-9, 0.7, 1,       1 + 1e-12,
                                      576, 1e15,   -1e15, -2,   nan, infinity};
  for (const Scale scale : {Scale::linear, Scale::log2, Scale::log10}) {
    const Axis axis{.scale = scale};
    for (const double a : values) {
      for (const double b : values) {
        const auto range = llava::detail::range_of(axis, std::vector<double>{a, b});
        EXPECT_LT(range.low, range.high) << a << ' ' << b;
        EXPECT_GE(range.ticks.size(), 2u) << a << ' ' << b;
        EXPECT_LE(range.ticks.size(), 12u) << a << ' ' << b;
        std::set<std::string> texts;
        for (const auto& tick : range.ticks) {
          const double share = llava::detail::share_of(axis, range, tick.value);
          EXPECT_TRUE(share >= -1e-6 && share <= 1 + 1e-6) << a << ' ' << b << ' ' << tick.text;
          EXPECT_TRUE(texts.insert(tick.text).second) << a << ' ' << b << ' ' << tick.text;
        }
      }
    }
  }
}

// --- figures

TEST(LlavaChart, points_are_where_their_values_are) {
  Figure figure = figure_of({{.name = "a", .points = {{0, 0}, {5, 2.5}, {10, 10}}}});
  const auto elements = checked(to_svg(figure));
  const auto lines = lines_of(elements);
  ASSERT_EQ(lines.size(), 2u) << "the data's, and the legend's";
  // The chart is as wide as its horizontal axis.
  std::vector<double> xs;
  std::vector<double> ys;
  for (const Element& e : elements) {
    if (e.name == "circle") {
      xs.push_back(e.number("cx"));
      ys.push_back(e.number("cy"));
    }
  }
  ASSERT_EQ(xs.size(), 4u);
  EXPECT_NEAR(xs[1] - xs[0], xs[2] - xs[1], 0.011);
  EXPECT_NEAR((ys[0] - ys[1]) / (ys[0] - ys[2]), 0.25, 0.001);
  EXPECT_GT(xs[2], xs[0]);
  EXPECT_LT(ys[2], ys[0]) << "upwards";
  // Logarithmic axes: equal factors, equal distances.
  figure = figure_of({{.name = "a", .points = {{8, 1}, {32, 10}, {128, 100}}}}, Scale::log2,
                     Scale::log10);
  xs.clear();
  ys.clear();
  for (const Element& e : checked(to_svg(figure))) {
    if (e.name == "circle") {
      xs.push_back(e.number("cx"));
      ys.push_back(e.number("cy"));
    }
  }
  ASSERT_EQ(xs.size(), 4u);
  EXPECT_NEAR(xs[1] - xs[0], xs[2] - xs[1], 0.011);
  EXPECT_NEAR(ys[1] - ys[0], ys[2] - ys[1], 0.011);
}

TEST(LlavaChart, values_that_cannot_be_drawn_are_gaps) {
  const std::vector<Point> points = {{1, 1},        {2, 2}, {3, nan}, {4, 4}, {nan, 4},
                                     {5, infinity}, {6, 6}, {7, 7},   {8, 0}};
  auto elements = checked(to_svg(figure_of({{.name = "a", .points = points}})));
  EXPECT_EQ(lines_of(elements).size(), 3u) << "1-2, 6-8, legend; 4 is alone";
  EXPECT_EQ(markers_of(elements), 7u);
  elements =
      checked(to_svg(figure_of({{.name = "a", .points = points}}, Scale::linear, Scale::log10)));
  EXPECT_EQ(markers_of(elements), 6u) << "0 has no logarithm";
}

TEST(LlavaChart, little_or_no_data) {
  for (const Scale scale : {Scale::linear, Scale::log2, Scale::log10}) {
    for (const std::vector<Point>& points : {std::vector<Point>{},
                                             {{0, 0}},
                                             {{3, 3}},
                                             {{nan, nan}},
                                             {{3, 3}, {3, 3}},
                                             {{-1, -1}},
                                             {{1e300, 1e300}},
                                             {{1e-300, 1e-300}},
                                             {{infinity, 1}}}) {
      const auto one = checked(to_svg(figure_of({{.name = "a", .points = points}}, scale, scale)));
      EXPECT_TRUE(says(one, "a"));
      checked(to_svg(figure_of({{.name = "a", .points = points, .guide = true},
                                {.name = "b", .points = {{1, 2}, {3, 4}}}},
                               scale, scale)));
    }
  }
  EXPECT_TRUE(says(checked(to_svg(figure_of({}))), "no data"));
  EXPECT_FALSE(says(checked(to_svg(figure_of({{.name = "a", .points = {{1, 1}}}}))), "no data"));
  checked(to_svg({}));
}

TEST(LlavaChart, text_is_escaped) {
  const std::string evil = "<a href=\"x\">&'\x01\xff\xc0\xaf\xed\xa0\x80</a>";
  Figure figure = figure_of({{.name = evil, .points = {{1, 1}}, .group = evil}});
  figure.title = figure.subtitle = figure.charts[0].title = evil;
  figure.charts[0].x.title = figure.charts[0].y.title = figure.charts[0].y.suffix = evil;
  const std::string svg = to_svg(figure);
  checked(svg);
  EXPECT_EQ(svg.find("<a"), std::string::npos);
  EXPECT_EQ(llava::xml_escaped("a<b>&\"'"), "a&lt;b&gt;&amp;&quot;&#39;");
  EXPECT_EQ(llava::xml_escaped("\n\t\x02"), "  ?");
  EXPECT_EQ(llava::xml_escaped("é→𝄞"), "é→𝄞");
  EXPECT_EQ(llava::xml_escaped("\xc3"), "?") << "cut off";
  EXPECT_EQ(llava::xml_escaped("\xed\xa0\x80"), "???") << "half of a surrogate pair";
  EXPECT_EQ(llava::xml_escaped("\xc0\xaf"), "??") << "longer than needed";
  EXPECT_EQ(llava::xml_escaped("\xef\xbf\xbf"), "???") << "U+FFFF";
}

TEST(LlavaChart, ground_is_white_and_bytes_are_always_the_same) {
  const Figure figure = figure_of({{.name = "a", .points = {{1, 0.1}, {2, 1.0 / 3}}}});
  const std::string svg = to_svg(figure);
  const auto elements = checked(svg);
  ASSERT_GT(elements.size(), 2u);
  EXPECT_EQ(elements[1].name, "title");
  EXPECT_EQ(elements[2].name, "rect");
  EXPECT_EQ(elements[2].attributes.at("fill"), "#ffffff");
  EXPECT_EQ(elements[2].attributes.at("width"), elements[0].attributes.at("width"));
  EXPECT_EQ(to_svg(figure), svg);
}

TEST(LlavaChart, legend_is_beside_the_charts_and_lists_each_series_once) {
  const std::vector<Series> series = {{.name = "one", .points = {{1, 1}}, .group = "G"},
                                      {.name = "guide", .points = {{1, 1}}, .guide = true},
                                      {.name = "two", .points = {{1, 2}}, .group = "H"},
                                      {.name = "three", .points = {{1, 3}}, .group = "G"}};
  Figure figure = figure_of(series);
  figure.charts.push_back(figure.charts[0]);
  const auto elements = checked(to_svg(figure));
  double right = 0;
  double legend = 1e9;
  Texts listed;
  const std::set<std::string> names = {"one", "two", "three", "guide", "G", "H"};
  for (const Element& e : elements) {
    if (e.name == "line") right = std::max(right, e.number("x2"));
    if (e.name == "text" && names.count(e.text)) {
      legend = std::min(legend, e.number("x"));
      listed.push_back(e.text);
    }
  }
  EXPECT_EQ(listed, (Texts{"G", "one", "three", "H", "two", "guide"}));
  EXPECT_GT(legend, right);
}

TEST(LlavaChart, as_many_series_as_there_are_methods_stay_apart) {
  std::set<std::string> looks;
  for (std::size_t i = 0; i < 36; ++i) {
    const auto look = llava::detail::Look::of(i);
    looks.insert(std::string(look.colour) + std::to_string(look.shape) + (look.hollow ? "h" : ""));
  }
  EXPECT_EQ(looks.size(), 36u);
  std::vector<Series> series;
  for (int i = 0; i < 40; ++i) {
    series.push_back({.name = "method " + std::to_string(i), .points = {{1, 1.0 * i}}});
  }
  checked(to_svg(figure_of(series)));  // the legend makes it higher
}

// --- the sweep

TEST(LlavaSweep, figure_has_speed_up_and_distance_of_every_method) {
  llava::Measurement less = llava_test::reduced();
  less.tokens.decoder = {{1, 1}, {1, 1}};
  less.logits = llava_test::reference().logits;  // no distance at all
  llava::Measurement other = llava_test::reduced();
  other.title = "ToMe & <others>";
  other.logits.clear();
  const std::vector<llava::Measurement> runs = {llava_test::reduced(), less, other};
  const std::vector<Series> guides = {llava::predicted_speed_ups(llava_test::small(), 3, 1)};
  const Figure figure =
      llava::sweep_figure(llava_test::reference(), runs, guides, "title", "subtitle");
  ASSERT_EQ(figure.charts.size(), 2u);
  const Chart& speed = figure.charts[0];
  const Chart& distance = figure.charts[1];
  ASSERT_EQ(speed.series.size(), 3u);
  ASSERT_EQ(distance.series.size(), 2u);
  EXPECT_EQ(speed.series[0].name, "FiCoCo-V");
  EXPECT_EQ(speed.series[0].group, "inside the encoder");
  ASSERT_EQ(speed.series[0].points.size(), 2u);
  EXPECT_EQ(speed.series[0].points[0].x, 1) << "in the order of tokens";
  EXPECT_EQ(speed.series[0].points[1].x, 1.5);
  EXPECT_EQ(speed.series[0].points[1].y, 2.25);
  EXPECT_EQ(distance.series[0].points[0].y, 0);
  EXPECT_GT(distance.series[0].points[1].y, 1);
  EXPECT_TRUE(std::isnan(distance.series[1].points[0].y));
  EXPECT_EQ(speed.x.ticks, (std::vector<double>{1, 2, 4}));

  for (const Chart& chart : figure.charts) {
    const auto range = llava::detail::range_of(chart.x, {});
    EXPECT_LT(range.low, 1) << "as far as the fewest tokens, in both";
    EXPECT_GT(range.high, 4);
  }

  const auto elements = checked(to_svg(figure));
  EXPECT_TRUE(says(elements, "ToMe &amp; &lt;others&gt;"));
  EXPECT_TRUE(says(elements, "pruned before the LLM"));
  EXPECT_TRUE(says(elements, "≤ 10⁻⁶"));
  std::size_t dashed = 0;
  for (const Element& e : lines_of(elements)) {
    dashed += e.attributes.at("stroke-dasharray") != "none" ? 1 : 0;
  }
  EXPECT_EQ(dashed, 2u) << "in the chart and in the legend";
}

TEST(LlavaSweep, figure_of_nothing) {
  checked(to_svg(llava::sweep_figure({}, {}, {}, "", "")));
  checked(to_svg(llava::sweep_figure(llava_test::reference(), {}, {}, "title", "")));
}

}  // namespace
