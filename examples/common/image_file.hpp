// SPDX-License-Identifier: Apache-2.0
// RGB pictures in files, with stb; stb.cpp must be compiled once into the program.
#pragma once

#if __has_include(<stb/stb_image.h>)
#include <stb/stb_image.h>
#include <stb/stb_image_write.h>
#else
#include <stb_image.h>
#include <stb_image_write.h>
#endif

#include <algorithm>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include "image.hpp"

namespace picture {

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

}  // namespace picture
