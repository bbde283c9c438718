// SPDX-License-Identifier: Apache-2.0
// What the encoder takes: the middle square of a picture.
#pragma once

#include "image.hpp"

namespace photo {

using picture::Image;

/// Side of the square picture that the encoder takes (24 patches of 14 pixels, as CLIP ViT-L/336).
inline constexpr int kInputSize = 336;

/// The middle square at 336 x 336.
inline Image prepare(const Image& image) {
  return picture::resize(picture::centre_crop(image), kInputSize, kInputSize);
}

}  // namespace photo
