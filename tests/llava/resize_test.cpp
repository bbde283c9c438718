// SPDX-License-Identifier: Apache-2.0

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

#include "../../examples/common/bicubic.hpp"

namespace {

using picture::Image;
using picture::resize_bicubic;
using ::testing::ElementsAre;

using Bytes = std::vector<std::uint8_t>;

/// The same values in all three channels.
Image grey(int width, int height, const Bytes& values) {
  Image image(width, height);
  for (std::size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = values[i / 3];
  return image;
}

Bytes channel(const Image& image, std::size_t c) {
  Bytes values;
  for (std::size_t i = c; i < image.pixels.size(); i += 3) values.push_back(image.pixels[i]);
  return values;
}

/// Something that has no symmetry to hide behind.
Image pattern(int width, int height) {
  Image image(width, height);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      for (int c = 0; c < 3; ++c) {
        image.at(x, y)[c] =
            static_cast<std::uint8_t>((37 * x + 91 * y + 53 * c + 29 * x * y * c) % 256);
      }
    }
  }
  return image;
}

// k(x) = 1.5 x³ - 2.5 x² + 1 up to 1, -0.5 x³ + 2.5 x² - 4 x + 2 up to 2.
// Output centres at 0.25, 0.75, 1.25, 1.75, pixel centres at 0.5 and 1.5:
// k(0.25) = 0.8671875 and k(1.25) = -0.0703125, scaled by their sum, and so on.
TEST(Bicubic, enlarges_as_worked_by_hand) {
  const Image wide = resize_bicubic(grey(2, 1, {100, 200}), 4, 1);
  for (const std::size_t c : {0U, 1U, 2U}) {
    EXPECT_THAT(channel(wide, c), ElementsAre(91, 121, 179, 209));
  }
  const Image high = resize_bicubic(grey(1, 2, {100, 200}), 1, 4);
  EXPECT_EQ(high.width, 1);
  EXPECT_EQ(high.height, 4);
  EXPECT_THAT(channel(high, 0), ElementsAre(91, 121, 179, 209));
}

// The kernel is twice as wide: (k(0.25) (10 + 20) + k(0.75) 30 + k(1.25) 200) / 1.890625 = 9.9 with
// k(0.75) = 0.2265625; the other one is 107.5.
TEST(Bicubic, shrinks_as_worked_by_hand) {
  EXPECT_THAT(channel(resize_bicubic(grey(4, 1, {10, 20, 30, 200}), 2, 1), 0),
              ElementsAre(10, 108));
  EXPECT_THAT(channel(resize_bicubic(grey(1, 4, {10, 20, 30, 200}), 1, 2), 2),
              ElementsAre(10, 108));
}

// What Pillow 10.4 makes of the same picture.
TEST(Bicubic, equals_pillow) {
  const Image image = pattern(5, 4);
  EXPECT_EQ(resize_bicubic(image, 3, 7).pixels,
            (Bytes{6,   57,  119, 67,  131, 184, 128, 193, 249, 37,  99,  122, 106, 110, 165, 169,
                   170, 208, 97,  170, 125, 164, 75,  133, 227, 126, 141, 170, 182, 109, 113, 86,
                   139, 139, 84,  148, 198, 168, 93,  52,  108, 143, 52,  62,  179, 86,  136, 96,
                   76,  120, 105, 115, 93,  210, 16,  118, 99,  94,  127, 82,  160, 113, 227}));
  EXPECT_EQ(resize_bicubic(image, 2, 2).pixels,
            (Bytes{88, 117, 128, 148, 126, 181, 106, 139, 98, 101, 91, 167}));
  EXPECT_EQ(
      resize_bicubic(image, 11, 3).pixels,
      (Bytes{17,  65,  141, 21,  78,  133, 37,  109, 114, 58,  127, 110, 82,  107, 138, 106, 92,
             171, 124, 113, 197, 140, 144, 217, 159, 168, 217, 176, 187, 206, 183, 195, 200, 142,
             204, 115, 151, 192, 114, 176, 166, 112, 178, 137, 110, 127, 116, 100, 83,  95,  107,
             90,  62,  170, 116, 38,  229, 136, 66,  189, 153, 115, 109, 160, 136, 76,  60,  112,
             89,  68,  121, 95,  89,  146, 110, 99,  155, 109, 77,  123, 61,  59,  97,  42,  71,
             115, 129, 93,  138, 232, 112, 114, 237, 129, 73,  196, 136, 57,  181}));
}

TEST(Bicubic, overshoot_stops_at_black_and_white) {
  const Bytes step = channel(resize_bicubic(grey(4, 1, {0, 0, 255, 255}), 16, 1), 0);
  for (std::size_t i = 0; i + 1 < step.size(); ++i) EXPECT_LE(step[i], step[i + 1]) << i;
  EXPECT_EQ(step.front(), 0);
  EXPECT_EQ(step.back(), 255);
}

TEST(Bicubic, one_colour_stays_as_it_is) {
  for (const std::uint8_t value : Bytes{0, 1, 127, 254, 255}) {
    const Image image = resize_bicubic(Image(7, 5, value), 13, 3);
    EXPECT_EQ(image.pixels, Bytes(std::size_t{3} * 13 * 3, value));
  }
}

TEST(Bicubic, same_size_changes_nothing) {
  const Image image = pattern(9, 6);
  EXPECT_EQ(resize_bicubic(image, 9, 6).pixels, image.pixels);
}

TEST(Bicubic, rounds_to_bytes_between_the_directions) {
  const Image image = pattern(17, 23);
  EXPECT_EQ(resize_bicubic(image, 6, 31).pixels,
            resize_bicubic(resize_bicubic(image, 6, 23), 6, 31).pixels);
}

TEST(Bicubic, part_is_a_crop_of_the_whole) {
  const Image image = pattern(40, 30);
  for (const auto& [width, height] : {std::pair{23, 11}, std::pair{57, 64}}) {
    const Image whole = resize_bicubic(image, width, height);
    EXPECT_EQ(
        resize_bicubic(image, width, height, {.x = 5, .y = 4, .width = 7, .height = 6}).pixels,
        picture::crop(whole, 5, 4, 7, 6).pixels);
    // The last rows and columns, too.
    EXPECT_EQ(resize_bicubic(image, width, height,
                             {.x = width - 1, .y = height - 2, .width = 1, .height = 2})
                  .pixels,
              picture::crop(whole, width - 1, height - 2, 1, 2).pixels);
  }
}

TEST(Bicubic, to_and_from_one_pixel) {
  EXPECT_EQ(resize_bicubic(grey(1, 1, {77}), 5, 4).pixels, Bytes(std::size_t{3} * 20, 77));
  EXPECT_EQ(channel(resize_bicubic(grey(2, 1, {0, 100}), 1, 1), 0), Bytes{50});
}

TEST(Bicubic, refuses_sizes_and_parts_that_do_not_exist) {
  const Image image(4, 4);
  EXPECT_THROW(resize_bicubic(Image(), 4, 4), std::invalid_argument);
  EXPECT_THROW(resize_bicubic(image, 0, 4), std::invalid_argument);
  EXPECT_THROW(resize_bicubic(image, 4, -1), std::invalid_argument);
  const auto part = [&](const picture::Rectangle& r) { return resize_bicubic(image, 8, 8, r); };
  EXPECT_THROW(part({.x = -1, .y = 0, .width = 2, .height = 2}), std::invalid_argument);
  EXPECT_THROW(part({.x = 0, .y = 7, .width = 2, .height = 2}), std::invalid_argument);
  EXPECT_THROW(part({.x = 0, .y = 0, .width = 9, .height = 2}), std::invalid_argument);
  EXPECT_THROW(part({.x = 0, .y = 0, .width = 2, .height = 0}), std::invalid_argument);
}

}  // namespace
