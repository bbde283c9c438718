// SPDX-License-Identifier: Apache-2.0

#include "../../examples/llava/preprocess.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../examples/common/safetensors.hpp"

namespace {

using llava::Index;
using llava::Matrix;
using picture::Image;

/// Columns differ in red, rows in green.
Image coordinates(int width, int height) {
  Image image(width, height);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      image.at(x, y)[0] = static_cast<std::uint8_t>(x);
      image.at(x, y)[1] = static_cast<std::uint8_t>(y);
    }
  }
  return image;
}

safetensors::File tiny() {
  return safetensors::load(TOKENFOLD_SOURCE_DIR "/tests/llava/tiny/picture.safetensors");
}

Image picture_in(const safetensors::File& file, const std::string& name) {
  const safetensors::Tensor& tensor = file.at(name);
  EXPECT_EQ(tensor.dtype, safetensors::Dtype::u8);
  EXPECT_EQ(tensor.shape.at(2), 3);
  Image image(static_cast<int>(tensor.shape.at(1)), static_cast<int>(tensor.shape.at(0)));
  EXPECT_EQ(tensor.bytes.size(), image.pixels.size());
  std::memcpy(image.pixels.data(), tensor.bytes.data(), image.pixels.size());
  return image;
}

class PreprocessGolden : public ::testing::TestWithParam<const char*> {};

// The bytes before normalisation must be the same, so what is left is the rounding of two floats.
TEST_P(PreprocessGolden, equals_transformers) {
  const std::string name = GetParam();
  const safetensors::File file = tiny();
  const safetensors::Tensor& tensor = file.at(name + "_pixel_values");
  ASSERT_EQ(tensor.dtype, safetensors::Dtype::f32);
  ASSERT_EQ(tensor.shape.size(), 3U);
  const Index side = tensor.shape[1];
  Matrix expected(tensor.shape[0], side * tensor.shape[2]);
  ASSERT_EQ(tensor.bytes.size(), static_cast<std::size_t>(expected.size()) * sizeof(float));
  std::memcpy(expected.data(), tensor.bytes.data(), tensor.bytes.size());

  const Matrix pixels = llava::preprocess(picture_in(file, name), side);
  ASSERT_EQ(pixels.rows(), expected.rows());
  ASSERT_EQ(pixels.cols(), expected.cols());
  // One level of 255 is 0.0142 or more.
  EXPECT_LE((pixels - expected).cwiseAbs().maxCoeff(), 2e-6F);
  EXPECT_GT(expected.maxCoeff() - expected.minCoeff(), 2.0F);
}

INSTANTIATE_TEST_SUITE_P(Pictures, PreprocessGolden, ::testing::Values("picture", "small_picture"));

TEST(Preprocess, normalises_each_channel_by_its_own_mean_and_deviation) {
  Image image(2, 1);
  image.at(1, 0)[0] = 255;
  image.at(1, 0)[1] = 51;
  image.at(1, 0)[2] = 102;
  const Matrix pixels = llava::normalised(image);
  ASSERT_EQ(pixels.rows(), 3);
  ASSERT_EQ(pixels.cols(), 2);
  EXPECT_NEAR(pixels(0, 0), -0.48145466 / 0.26862954, 1e-6);
  EXPECT_NEAR(pixels(1, 0), -0.4578275 / 0.26130258, 1e-6);
  EXPECT_NEAR(pixels(2, 0), -0.40821073 / 0.27577711, 1e-6);
  EXPECT_NEAR(pixels(0, 1), (1.0 - 0.48145466) / 0.26862954, 1e-6);
  EXPECT_NEAR(pixels(1, 1), (0.2 - 0.4578275) / 0.26130258, 1e-6);
  EXPECT_NEAR(pixels(2, 1), (0.4 - 0.40821073) / 0.27577711, 1e-6);
}

TEST(Preprocess, takes_the_middle_square) {
  // The shortest side fits already: nothing is resized. An odd margin is smaller on the left.
  const Image wide = llava::encoder_input(coordinates(13, 8), 8);
  ASSERT_EQ(wide.width, 8);
  ASSERT_EQ(wide.height, 8);
  EXPECT_EQ(wide.at(0, 0)[0], 2);
  EXPECT_EQ(wide.at(7, 0)[0], 9);
  EXPECT_EQ(wide.at(0, 7)[1], 7);
  const Image high = llava::encoder_input(coordinates(8, 14), 8);
  EXPECT_EQ(high.at(0, 0)[1], 3);
  EXPECT_EQ(high.at(7, 7)[1], 10);
  EXPECT_EQ(high.at(7, 7)[0], 7);
}

TEST(Preprocess, rounds_the_longest_side_down) {
  // 7 x 10 to a shortest side of 5 is 5 x 7.14.
  const Image image = coordinates(7, 10);
  EXPECT_EQ(llava::encoder_input(image, 5).pixels,
            picture::crop(picture::resize_bicubic(image, 5, 7), 0, 1, 5, 5).pixels);
  // ... and 6 x 11 is 5 x 9.17, 2 of 4 left over above.
  const Image longer = coordinates(6, 11);
  EXPECT_EQ(llava::encoder_input(longer, 5).pixels,
            picture::crop(picture::resize_bicubic(longer, 5, 9), 0, 2, 5, 5).pixels);
}

TEST(Preprocess, a_thread_of_a_picture_costs_no_more_than_its_middle) {
  const Image image = llava::encoder_input(Image(1, 16384, 9), 336);  // 336 x 5,505,024
  EXPECT_EQ(image.pixels, std::vector<std::uint8_t>(std::size_t{3} * 336 * 336, 9));
}

TEST(Preprocess, refuses_what_has_no_square) {
  EXPECT_THROW(llava::preprocess(Image(), 28), std::runtime_error);
  EXPECT_THROW(llava::preprocess(Image(4, 4), 0), std::runtime_error);
  EXPECT_THROW(llava::preprocess(Image(1, 16384), 1'000'000), std::runtime_error);
}

}  // namespace
