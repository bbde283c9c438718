// SPDX-License-Identifier: Apache-2.0
// Read, crop, resize and write RGB pictures: what happens before the encoder.
#pragma once

#if __has_include(<stb/stb_image.h>)
#include <stb/stb_image.h>
#include <stb/stb_image_write.h>
#else
#include <stb_image.h>
#include <stb_image_write.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace photo {

/// Side of the square picture that the encoder takes (24 patches of 14 pixels, as CLIP ViT-L/336).
inline constexpr int kInputSize = 336;

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

/// Reads a JPEG or PNG file; transparency is dropped and grey becomes RGB.
/// Throws std::runtime_error with the path and the reason.
inline Image load_image(const std::string& path) {
  // Sizes are checked before decoding, so that a hostile header cannot ask for gigabytes.
  constexpr int kMaxSide = 16384;
  constexpr long long kMaxPixels = 64'000'000;
  const auto reject = [&path](const std::string& reason) -> std::runtime_error {
    return std::runtime_error("cannot read picture '" + path + "': " + reason);
  };
  const auto stb_reason = [] {
    const char* reason = stbi_failure_reason();
    return std::string(reason != nullptr ? reason : "unknown error");
  };

  int width = 0;
  int height = 0;
  int channels = 0;
  if (stbi_info(path.c_str(), &width, &height, &channels) == 0) {
    const std::string reason = stb_reason();
    throw reject(reason == "can't fopen" ? "cannot open the file" : "no JPEG or PNG: " + reason);
  }
  if (width < 1 || height < 1 || width > kMaxSide || height > kMaxSide ||
      static_cast<long long>(width) * height > kMaxPixels) {
    throw reject("expected at most 16384 pixels a side and 64 megapixels, got " +
                 std::to_string(width) + " x " + std::to_string(height));
  }
  const std::unique_ptr<std::uint8_t, void (*)(void*)> data(
      stbi_load(path.c_str(), &width, &height, &channels, 3), stbi_image_free);
  if (data == nullptr) throw reject(stb_reason());

  Image image(width, height);
  std::copy_n(data.get(), image.pixels.size(), image.pixels.begin());
  return image;
}

/// Writes PNG, or JPEG (quality 92) if the path ends in .jpg or .jpeg; throws std::runtime_error.
inline void save_image(const Image& image, const std::string& path) {
  const bool jpeg = path.ends_with(".jpg") || path.ends_with(".jpeg");
  const int done =
      jpeg ? stbi_write_jpg(path.c_str(), image.width, image.height, 3, image.pixels.data(), 92)
           : stbi_write_png(path.c_str(), image.width, image.height, 3, image.pixels.data(),
                            3 * image.width);
  if (done == 0) throw std::runtime_error("cannot write picture '" + path + "'");
}

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
struct Tap {
  int first = 0;
  std::vector<float> weights;
};

/// A triangle filter as wide as one output pixel, never narrower than one input pixel: bilinear
/// when enlarging, an average over all covered pixels (no aliasing) when shrinking.
inline std::vector<Tap> triangle_taps(int from, int to) {
  const double scale = static_cast<double>(from) / to;
  const double radius = std::max(1.0, scale);
  std::vector<Tap> taps(static_cast<std::size_t>(to));
  for (int i = 0; i < to; ++i) {
    const double centre = (i + 0.5) * scale - 0.5;
    const int first = std::max(0, static_cast<int>(std::ceil(centre - radius)));
    const int last = std::min(from - 1, static_cast<int>(std::floor(centre + radius)));
    Tap& tap = taps[static_cast<std::size_t>(i)];
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

/// Resizes to any size, in sRGB values as the preprocessors of vision encoders do.
inline Image resize(const Image& image, int width, int height) {
  if (image.width < 1 || image.height < 1 || width < 1 || height < 1) {
    throw std::invalid_argument("resize: expected sizes of at least one pixel");
  }
  if (width == image.width && height == image.height) return image;
  const std::vector<detail::Tap> columns = detail::triangle_taps(image.width, width);
  const std::vector<detail::Tap> rows = detail::triangle_taps(image.height, height);

  // Across first, kept in float so that rounding happens only once.
  const std::size_t stride = std::size_t{3} * static_cast<std::size_t>(width);
  std::vector<float> across(stride * static_cast<std::size_t>(image.height));
  for (int y = 0; y < image.height; ++y) {
    float* out = across.data() + stride * static_cast<std::size_t>(y);
    for (const detail::Tap& tap : columns) {
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
    const detail::Tap& tap = rows[static_cast<std::size_t>(y)];
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

/// What the encoder takes: the middle square at 336 x 336.
inline Image prepare(const Image& image) {
  return resize(centre_crop(image), kInputSize, kInputSize);
}

}  // namespace photo
