// SPDX-License-Identifier: Apache-2.0
// From a picture to what CLIP's vision encoder takes, as Hugging Face's CLIPImageProcessor does it
// for LLaVA-1.5: shortest side to the encoder's size, the middle square of that, normalised.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

#include "bicubic.hpp"
#include "image.hpp"
#include "weights.hpp"

namespace llava {

/// Of the pictures that CLIP was trained on, per channel, in units of 255.
inline constexpr std::array<double, 3> kPixelMean{0.48145466, 0.4578275, 0.40821073};
inline constexpr std::array<double, 3> kPixelDeviation{0.26862954, 0.26130258, 0.27577711};

/// The middle square of `image` at side x side pixels.
inline picture::Image encoder_input(const picture::Image& image, Index side) {
  const int shortest = std::min(image.width, image.height);
  if (shortest < 1) throw std::runtime_error("preprocess: the picture has no pixels");
  // The other side is rounded down, and so are odd margins.
  const auto scaled = [&](int length) { return side * length / shortest; };
  if (side < 1 || scaled(std::max(image.width, image.height)) > std::numeric_limits<int>::max()) {
    throw std::runtime_error("preprocess: cannot bring a picture of " +
                             std::to_string(image.width) + " x " + std::to_string(image.height) +
                             " pixels to a shortest side of " + std::to_string(side));
  }
  const int width = static_cast<int>(scaled(image.width));
  const int height = static_cast<int>(scaled(image.height));
  const int square = static_cast<int>(side);
  return picture::resize_bicubic(
      image, width, height,
      {.x = (width - square) / 2, .y = (height - square) / 2, .width = square, .height = square});
}

/// Pixels normalised per channel: [3 x height * width], rows red, green, blue.
inline Matrix normalised(const picture::Image& image) {
  // A byte has 256 values, so the arithmetic is done once for each.
  std::array<std::array<float, 256>, 3> values{};
  for (std::size_t c = 0; c < 3; ++c) {
    for (std::size_t v = 0; v < 256; ++v) {
      const double unit = static_cast<double>(v) / 255.0;
      values[c][v] = static_cast<float>((unit - kPixelMean[c]) / kPixelDeviation[c]);
    }
  }
  Matrix pixels(3, Index{image.width} * image.height);
  const std::uint8_t* in = image.pixels.data();
  for (Index i = 0; i < pixels.cols(); ++i) {
    for (Index c = 0; c < 3; ++c) pixels(c, i) = values[static_cast<std::size_t>(c)][*in++];
  }
  return pixels;
}

/// What the encoder takes: [3 x side * side].
inline Matrix preprocess(const picture::Image& image, Index side) {
  return normalised(encoder_input(image, side));
}

}  // namespace llava
