// SPDX-License-Identifier: Apache-2.0
// The refusals of core/ that no other test of this folder looks at.
#include "tokenfold/core/errors.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "core/support.hpp"
#include "tokenfold/core/pipeline.hpp"
#include "tokenfold/core/text.hpp"
#include "tokenfold/core/views.hpp"

namespace {

using core_test::expect_error;
using core_test::RowMajor;
using tokenfold::HeadsView;
using tokenfold::Index;
using tokenfold::MatrixView;
using tokenfold::TokenLayout;

TEST(ErrorsTest, fail_throws_its_message) {
  expect_error([] { tokenfold::fail("the message"); }, "the message");
}

TEST(ErrorsTest, require_joins_its_parts_only_on_failure) {
  tokenfold::require(true, "not ", 1);
  expect_error(
      [] {
        const char* text = "chars";
        tokenfold::require(false, "a ", std::string("b "), text, ' ' == 32 ? " c " : "", -5, " ",
                           std::size_t{7}, " ", 0.5, " ", 1e30);
      },
      "a b chars c -5 7 0.5 1e+30");
}

TEST(ErrorsTest, require_in_range_includes_the_ends) {
  tokenfold::require_in_range("x", 0, 0, 1);
  tokenfold::require_in_range("x", 1, 0, 1);
  expect_error([] { tokenfold::require_in_range("name", 2, 0, 1); },
               "name must lie in [0, 1], got 2");
}

TEST(ErrorsTest, bad_matrix_views) {
  std::vector<float> memory(20);
  float* data = memory.data();
  expect_error([&] { MatrixView<float>(data, -1, 3); }, "matrix view: negative shape [-1 x 3]");
  expect_error([&] { MatrixView<float>(data, 2, -3); }, "matrix view: negative shape [2 x -3]");
  expect_error([&] { MatrixView<float>(data, 2, 3, 2); },
               "matrix view: row stride 2 is smaller than the 3 columns of a row");
  expect_error([&] { MatrixView<float>(data, 2, 3, -3); }, "matrix view: row stride -3");
  expect_error([&] { MatrixView<float>(nullptr, 2, 3); },
               "matrix view: null data for shape [2 x 3]");
}

TEST(ErrorsTest, bad_heads_views) {
  std::vector<float> memory(60);
  float* data = memory.data();
  using View = HeadsView<float>;
  expect_error(
      [&] {
        View(data, {0, 5, 3}, {3, 6});
      },
      "heads view: bad shape [0 heads][5 tokens][3 channels]");
  expect_error([&] { View(data, {2, -5, 3}, {3, 6}); }, "heads view: bad shape [2 heads][-5");
  expect_error([&] { View(data, {2, 5, -3}, {3, 6}); }, "[-3 channels]");
  expect_error(
      [&] {
        View(data, {2, 5, 3}, {3, 6, 2});
      },
      "heads view: the channels of a head must be contiguous, got stride 2");
  expect_error([&] { View(data, {2, 5, 3}, {-3, 6}); }, "heads view: negative head stride -3");
  expect_error(
      [&] {
        View(data, {2, 5, 3}, {3, 2});
      },
      "heads view: token stride 2 is smaller than the 3 channels of a head");
  expect_error([&] { View(nullptr, {2, 5, 3}, {3, 6}); }, "heads view: null data");
}

TEST(ErrorsTest, columns_that_do_not_divide_into_heads) {
  const RowMajor<float> m(2, 6);
  expect_error([&] { tokenfold::split_heads(m, 4); },
               "split_heads: 6 columns do not divide into 4 heads");
  expect_error([&] { tokenfold::split_heads(m, 0); }, "do not divide into 0 heads");
  expect_error([&] { tokenfold::split_heads(m, -2); }, "do not divide into -2 heads");
}

TEST(ErrorsTest, methods_that_need_text_say_which) {
  using tokenfold::TextTokens;
  const auto none = TokenLayout::encoder({2, 2});
  const auto before_only = TokenLayout::decoder(3, 4, 0);
  const auto ranges = tokenfold::detail::text_ranges(before_only, TextTokens::all, "m");
  EXPECT_EQ(ranges[0].size() + ranges[1].size(), 3);
  expect_error([&] { tokenfold::detail::text_ranges(none, TextTokens::all, "my method"); },
               "my method: the layout has no text tokens");
  expect_error([&] { tokenfold::detail::text_ranges(before_only, TextTokens::after_image, "m"); },
               "m: the layout has no text tokens after the image");
}

}  // namespace
