// SPDX-License-Identifier: Apache-2.0
// Bicubic resizing, to the bit as Pillow does it (up to version 12; Pillow 13 goes down before
// across where that is less work, so bytes between may round otherwise). LLaVA was trained so.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "image.hpp"

namespace picture {

/// A rectangle of pixels with corner (x, y).
struct Rectangle {
  int x = 0;
  int y = 0;
  int width = 0;
  int height = 0;
};

namespace detail {

/// Weights are integers in units of 2^-22, so that every machine rounds alike. A sum of weights
/// times bytes stays below 2^31: the absolute weights of a pixel add up to less than 1.5.
inline constexpr int kWeightBits = 22;

/// Keys' cubic convolution kernel with a = -1/2.
inline double cubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
  return 0.0;
}

/// For outputs [begin, begin + count) of `to` that `from` inputs become. When shrinking, the kernel
/// is as much wider as the pixels are (no aliasing); at the borders its inner part is scaled to 1.
inline std::vector<Tap<std::int32_t>> cubic_taps(int from, int to, int begin, int count) {
  const double scale = static_cast<double>(from) / to;
  const double stretch = std::max(1.0, scale);
  const double radius = 2.0 * stretch;
  std::vector<Tap<std::int32_t>> taps(static_cast<std::size_t>(count));
  std::vector<double> weights;
  for (int i = 0; i < count; ++i) {
    const double centre = (begin + i + 0.5) * scale;
    const int first = std::max(0, static_cast<int>(centre - radius + 0.5));
    const int last = std::min(from, static_cast<int>(centre + radius + 0.5));
    weights.clear();
    double sum = 0.0;
    for (int j = first; j < last; ++j) {
      weights.push_back(cubic((j - centre + 0.5) / stretch));
      sum += weights.back();
    }
    Tap<std::int32_t>& tap = taps[static_cast<std::size_t>(i)];
    tap.first = first;
    for (const double weight : weights) {
      const double scaled = std::ldexp(weight / sum, kWeightBits);
      tap.weights.push_back(static_cast<std::int32_t>(std::lround(scaled)));
    }
  }
  return taps;
}

inline constexpr std::int32_t kHalf = std::int32_t{1} << (kWeightBits - 1);

inline std::uint8_t to_byte(std::int32_t sum) {
  return static_cast<std::uint8_t>(std::clamp(sum >> kWeightBits, 0, 255));
}

}  // namespace detail

/// The rectangle `part` of what `image` is when resized to width x height: a crop after resizing,
/// at the cost of what is left. Values are rounded to bytes after each of the two directions.
inline Image resize_bicubic(const Image& image, int width, int height, const Rectangle& part) {
  if (image.width < 1 || image.height < 1 || width < 1 || height < 1) {
    throw std::invalid_argument("resize: expected sizes of at least one pixel");
  }
  if (part.x < 0 || part.y < 0 || part.width < 1 || part.height < 1 ||
      part.width > width - part.x || part.height > height - part.y) {
    throw std::invalid_argument("resize: expected a part inside " + std::to_string(width) + " x " +
                                std::to_string(height));
  }
  const auto columns = detail::cubic_taps(image.width, width, part.x, part.width);
  const auto rows = detail::cubic_taps(image.height, height, part.y, part.height);

  // Across first, the rows that are read below.
  const int top = rows.front().first;
  const int bottom = rows.back().first + static_cast<int>(rows.back().weights.size());
  Image across(part.width, bottom - top);
  for (int y = 0; y < across.height; ++y) {
    std::uint8_t* out = across.at(0, y);
    for (const auto& tap : columns) {
      const std::uint8_t* in = image.at(tap.first, top + y);
      std::int32_t sum[3] = {detail::kHalf, detail::kHalf, detail::kHalf};
      for (const std::int32_t weight : tap.weights) {
        for (std::int32_t& channel : sum) channel += weight * *in++;
      }
      for (const std::int32_t channel : sum) *out++ = detail::to_byte(channel);
    }
  }

  Image result(part.width, part.height);
  std::vector<std::int32_t> line(std::size_t{3} * static_cast<std::size_t>(part.width));
  for (int y = 0; y < part.height; ++y) {
    const auto& tap = rows[static_cast<std::size_t>(y)];
    std::fill(line.begin(), line.end(), detail::kHalf);
    int row = tap.first - top;
    for (const std::int32_t weight : tap.weights) {
      const std::uint8_t* in = across.at(0, row++);
      for (std::int32_t& channel : line) channel += weight * *in++;
    }
    std::transform(line.begin(), line.end(), result.at(0, y), detail::to_byte);
  }
  return result;
}

inline Image resize_bicubic(const Image& image, int width, int height) {
  return resize_bicubic(image, width, height, {.width = width, .height = height});
}

}  // namespace picture
