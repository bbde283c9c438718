// SPDX-License-Identifier: Apache-2.0
// RGB pictures in memory: cut and resized as vision encoders want them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace picture {

/// 8-bit sRGB, three bytes per pixel, rows from top to bottom.
struct Image {
  int width = 0;
  int height = 0;
  std::vector<std::uint8_t> pixels;

  Image() = default;
  Image(int w, int h, std::uint8_t fill = 0)
      : width(w),
        height(h),
        pixels(std::size_t{3} * static_cast<std::size_t>(w) * static_cast<std::size_t>(h), fill) {}

  std::uint8_t* at(int x, int y) { return pixels.data() + offset(x, y); }
  const std::uint8_t* at(int x, int y) const { return pixels.data() + offset(x, y); }

 private:
  std::size_t offset(int x, int y) const {
    return 3 * (static_cast<std::size_t>(y) * static_cast<std::size_t>(width) +
                static_cast<std::size_t>(x));
  }
};

/// The part of `image` with corner (x, y) and the given size, which must lie inside.
inline Image crop(const Image& image, int x, int y, int width, int height) {
  if (x < 0 || y < 0 || width < 1 || height < 1 || width > image.width - x ||
      height > image.height - y) {
    throw std::invalid_argument("crop: expected a rectangle inside " + std::to_string(image.width) +
                                " x " + std::to_string(image.height));
  }
  Image part(width, height);
  for (int row = 0; row < height; ++row) {
    std::copy_n(image.at(x, y + row), 3 * width, part.at(0, row));
  }
  return part;
}

/// The largest square around the middle.
inline Image centre_crop(const Image& image) {
  const int side = std::min(image.width, image.height);
  return crop(image, (image.width - side) / 2, (image.height - side) / 2, side, side);
}

namespace detail {

/// What one output pixel reads along one axis: `weights` for the inputs from `first` on.
template <class Weight>
struct Tap {
  int first = 0;
  std::vector<Weight> weights;
};

/// A triangle filter as wide as one output pixel, never narrower than one input pixel: bilinear
/// when enlarging, an average over all covered pixels (no aliasing) when shrinking.
inline std::vector<Tap<float>> triangle_taps(int from, int to) {
  const double scale = static_cast<double>(from) / to;
  const double radius = std::max(1.0, scale);
  std::vector<Tap<float>> taps(static_cast<std::size_t>(to));
  for (int i = 0; i < to; ++i) {
    const double centre = (i + 0.5) * scale - 0.5;
    const int first = std::max(0, static_cast<int>(std::ceil(centre - radius)));
    const int last = std::min(from - 1, static_cast<int>(std::floor(centre + radius)));
    Tap<float>& tap = taps[static_cast<std::size_t>(i)];
    tap.first = first;
    double sum = 0.0;
    for (int j = first; j <= last; ++j) {
      const double weight = std::max(0.0, 1.0 - std::abs(j - centre) / radius);
      tap.weights.push_back(static_cast<float>(weight));
      sum += weight;
    }
    for (float& weight : tap.weights) weight = static_cast<float>(weight / sum);
  }
  return taps;
}

}  // namespace detail

/// Resizes to any size with a triangle filter, in sRGB values.
inline Image resize(const Image& image, int width, int height) {
  if (image.width < 1 || image.height < 1 || width < 1 || height < 1) {
    throw std::invalid_argument("resize: expected sizes of at least one pixel");
  }
  if (width == image.width && height == image.height) return image;
  const std::vector<detail::Tap<float>> columns = detail::triangle_taps(image.width, width);
  const std::vector<detail::Tap<float>> rows = detail::triangle_taps(image.height, height);

  // Across first, kept in float so that rounding happens only once.
  const std::size_t stride = std::size_t{3} * static_cast<std::size_t>(width);
  std::vector<float> across(stride * static_cast<std::size_t>(image.height));
  for (int y = 0; y < image.height; ++y) {
    float* out = across.data() + stride * static_cast<std::size_t>(y);
    for (const detail::Tap<float>& tap : columns) {
      const std::uint8_t* in = image.at(tap.first, y);
      for (int c = 0; c < 3; ++c) {
        float sum = 0.0F;
        for (std::size_t k = 0; k < tap.weights.size(); ++k) {
          sum += tap.weights[k] * static_cast<float>(in[3 * k + static_cast<std::size_t>(c)]);
        }
        *out++ = sum;
      }
    }
  }

  Image result(width, height);
  std::vector<float> line(stride);
  for (int y = 0; y < height; ++y) {
    const detail::Tap<float>& tap = rows[static_cast<std::size_t>(y)];
    std::fill(line.begin(), line.end(), 0.0F);
    for (std::size_t k = 0; k < tap.weights.size(); ++k) {
      const float* in = across.data() + stride * (static_cast<std::size_t>(tap.first) + k);
      for (std::size_t x = 0; x < stride; ++x) line[x] += tap.weights[k] * in[x];
    }
    std::transform(line.begin(), line.end(), result.at(0, y), [](float value) {
      return static_cast<std::uint8_t>(std::clamp(value + 0.5F, 0.0F, 255.0F));
    });
  }
  return result;
}

}  // namespace picture
