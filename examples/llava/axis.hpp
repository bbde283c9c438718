// SPDX-License-Identifier: Apache-2.0
// What an axis shows: its range, where its ticks are and what they say.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "text.hpp"

namespace llava {

enum class Scale { linear, log2, log10 };

struct Axis {
  std::string title = {};  ///< with its unit
  Scale scale = Scale::linear;
  std::string suffix = {};           ///< behind every tick's number: "×"
  std::vector<double> include = {};  ///< values that the range must reach
  std::vector<double> ticks = {};    ///< instead of those chosen; outside the range left out
  /// Lower values, zero too, are drawn here and the tick says so. On a scale of powers, a power.
  std::optional<double> floor = {};
  bool descending = false;  ///< the largest value first
};

namespace detail {

struct Tick {
  double value = 0;
  std::string text = {};
};

/// An axis that has seen its data.
struct Range {
  double low = 0;
  double high = 1;
  std::vector<Tick> ticks = {};
  std::vector<double> minor = {};  ///< ticks without a text
};

/// Whether a value has a place on some drawing of finite size.
inline bool drawable(const Axis& axis, double value) {
  if (!std::isfinite(value) || std::abs(value) > 1e15) return false;
  return axis.scale == Scale::linear || axis.floor || value > 1e-15;
}

inline double raised_to_floor(const Axis& axis, double value) {
  return axis.floor ? std::max(*axis.floor, value) : value;
}

/// Where a value lies, 0 at the low end of the range and 1 at the high one.
inline double share_of(const Axis& axis, const Range& range, double value) {
  value = raised_to_floor(axis, value);
  const double share = axis.scale == Scale::linear
                           ? (value - range.low) / (range.high - range.low)
                           : std::log(value / range.low) / std::log(range.high / range.low);
  return axis.descending ? 1 - share : share;
}

/// 1, 2 or 5 times a power of ten: the least of them that is not below `value`.
inline double nice_above(double value) {
  const double power = std::pow(10.0, std::floor(std::log10(value)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (value <= factor * power * (1 + 1e-9)) return factor * power;
  }
  return 10 * power;
}
inline double nice_below(double value) { return 1 / nice_above(1 / value); }

/// As many decimals as multiples of `step` need.
inline int decimals_of(double step) {
  return std::clamp(static_cast<int>(-std::floor(std::log10(step) + 1e-9)), 0, 15);
}

inline void linear_ticks(Range& range) {
  constexpr double wanted = 6;
  const double step = nice_above((range.high - range.low) / wanted);
  range.low = std::floor(range.low / step + 1e-9) * step;
  const double count = std::ceil((range.high - range.low) / step - 1e-9);
  range.high = range.low + count * step;
  for (int i = 0; i <= static_cast<int>(count); ++i) {
    const double value = range.low + i * step;
    range.ticks.push_back({value, fixed(value, decimals_of(step))});
  }
}

/// Powers of two; the range is a little wider than the data, and has two of them.
inline void log2_ticks(Range& range, bool ticks_given) {
  const double margin = std::pow(range.high / range.low, 0.04);
  range.low /= margin;
  range.high *= margin;
  if (!ticks_given && std::floor(std::log2(range.high)) <= std::ceil(std::log2(range.low))) {
    range.low = std::exp2(std::floor(std::log2(range.low)));
    range.high = std::exp2(std::ceil(std::log2(range.high)));
  }
  const auto first = static_cast<int>(std::ceil(std::log2(range.low)));
  const auto last = static_cast<int>(std::floor(std::log2(range.high)));
  const int step = 1 + (last - first) / 10;
  for (int e = first; e <= last; e += step) {
    const double value = std::ldexp(1.0, e);
    range.ticks.push_back({value, significant(value, 6)});
  }
}

/// 10⁻⁶
inline std::string power_of_ten(int exponent) {
  constexpr std::array<const char*, 10> digits = {"⁰", "¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹"};
  std::string text = exponent < 0 ? "10⁻" : "10";
  for (const char digit : std::to_string(std::abs(exponent))) {
    text += digits[static_cast<std::size_t>(digit - '0')];
  }
  return text;
}

/// Powers of ten, or if these are too few 1, 2, 5, 10, 20, ...
inline void log10_ticks(Range& range) {
  range.low = nice_below(range.low);
  range.high = nice_above(range.high);
  const auto first = static_cast<int>(std::floor(std::log10(range.low) + 1e-9));
  const auto last = static_cast<int>(std::ceil(std::log10(range.high) - 1e-9));
  const bool few = last - first <= 2;
  const int step = 1 + (last - first) / 8;
  const bool plain = first >= -3 && last <= 4;
  for (int e = first; e <= last; ++e) {
    const double power = std::pow(10.0, e);
    for (int factor = 1; factor < 10; ++factor) {
      const double value = factor * power;
      if (value < range.low * (1 - 1e-9) || value > range.high * (1 + 1e-9)) continue;
      const bool labelled =
          few ? factor == 1 || factor == 2 || factor == 5 : factor == 1 && (e - first) % step == 0;
      if (labelled) {
        const std::string times = factor == 1 ? "" : std::to_string(factor) + "·";
        range.ticks.push_back({value, plain ? significant(value, 6) : times + power_of_ten(e)});
      } else if (last - first <= 5) {
        range.minor.push_back(value);
      }
    }
  }
}

/// The range that shows all `values` that can be drawn, from one nice value to another.
inline Range range_of(const Axis& axis, std::span<const double> values) {
  double low = std::numeric_limits<double>::infinity();
  double high = -low;
  bool floored = false;
  const auto take = [&](double value) {
    if (!drawable(axis, value)) return;
    floored = floored || (axis.floor && value <= *axis.floor);
    value = raised_to_floor(axis, value);
    low = std::min(low, value);
    high = std::max(high, value);
  };
  for (const double value : values) take(value);
  for (const double value : axis.include) take(value);

  const bool linear = axis.scale == Scale::linear;
  if (low > high) {
    low = linear ? 0 : 1;
    high = linear ? 1 : 10;
  }
  // A single value gets room on both sides.
  if (linear && high - low < std::max(1e-9 * std::abs(high), 1e-14)) {
    const double room = std::abs(high) < 1e-12 ? 1 : 0.1 * std::abs(high);
    low -= room;
    high += room;
  } else if (!linear && high < low * 1.001) {
    low /= floored ? 1 : 2;
    high *= 2;
  }

  Range range{.low = low, .high = high};
  if (linear) linear_ticks(range);
  if (axis.scale == Scale::log2) log2_ticks(range, !axis.ticks.empty());
  if (axis.scale == Scale::log10) log10_ticks(range);
  if (!axis.ticks.empty()) {
    range.ticks.clear();
    for (const double value : axis.ticks) {
      const bool inside = value >= range.low && value <= range.high;
      if (inside) range.ticks.push_back({value, significant(value, 6)});
    }
  }
  if (floored) {
    // "≤": whatever is drawn there may be less.
    for (Tick& tick : range.ticks) {
      if (std::abs(tick.value / *axis.floor - 1) < 1e-6) tick.text = "≤ " + tick.text;
    }
  }
  for (Tick& tick : range.ticks) tick.text += axis.suffix;
  return range;
}

}  // namespace detail
}  // namespace llava
