// SPDX-License-Identifier: Apache-2.0
#include "tokenfold/core/widen.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

namespace {

using tokenfold::Index;
using tokenfold::detail::narrow;
using tokenfold::detail::widen;

struct Half {
  using Type = Eigen::half;
  static constexpr int fraction_bits = 10;
  static constexpr int bias = 15;
};
struct Bfloat16 {
  using Type = Eigen::bfloat16;
  static constexpr int fraction_bits = 7;
  static constexpr int bias = 127;
};

/// What sixteen bits mean: IEEE 754 with the format's widths.
template <class Format>
double meaning(std::uint16_t bits) {
  const int fraction = bits & ((1 << Format::fraction_bits) - 1);
  const int exponent = (bits & 0x7fff) >> Format::fraction_bits;
  const double sign = (bits & 0x8000) != 0 ? -1 : 1;
  if (exponent == 2 * Format::bias + 1) {
    return fraction == 0 ? sign * std::numeric_limits<double>::infinity()
                         : std::numeric_limits<double>::quiet_NaN();
  }
  const int implicit = exponent == 0 ? 0 : 1 << Format::fraction_bits;
  return sign * std::ldexp(implicit + fraction,
                           std::max(exponent, 1) - Format::bias - Format::fraction_bits);
}

template <class Format>
bool is_nan(std::uint16_t bits) {
  return std::isnan(meaning<Format>(bits));
}

template <class Format>
class WidenTest : public testing::Test {
 protected:
  using T = typename Format::Type;

  static std::vector<T> all_values() {
    std::vector<std::uint16_t> bits(65536);
    std::iota(bits.begin(), bits.end(), std::uint16_t{0});
    std::vector<T> values(bits.size());
    std::memcpy(static_cast<void*>(values.data()), bits.data(), bits.size() * sizeof(T));
    return values;
  }
  /// All at once, by vectors, and one by one.
  static std::vector<float> widened(const std::vector<T>& values, Index step) {
    const auto count = static_cast<Index>(values.size());
    std::vector<float> wide(values.size());
    for (Index i = 0; i < count; i += step) {
      widen(values.data() + i, wide.data() + i, std::min(step, count - i));
    }
    return wide;
  }
  static std::vector<std::uint16_t> narrowed(const std::vector<float>& values, Index step) {
    const auto count = static_cast<Index>(values.size());
    std::vector<T> result(values.size());
    for (Index i = 0; i < count; i += step) {
      narrow(values.data() + i, result.data() + i, std::min(step, count - i));
    }
    std::vector<std::uint16_t> bits(values.size());
    std::memcpy(bits.data(), result.data(), bits.size() * sizeof(T));
    return bits;
  }
};
using Formats = testing::Types<Half, Bfloat16>;
TYPED_TEST_SUITE(WidenTest, Formats);

constexpr Index all = 65536;

TYPED_TEST(WidenTest, all_values_are_exact) {
  for (const Index step : {all, Index{1}}) {
    const std::vector<float> wide = this->widened(this->all_values(), step);
    for (std::uint32_t bits = 0; bits < all; ++bits) {
      const double expected = meaning<TypeParam>(static_cast<std::uint16_t>(bits));
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(wide[bits])) << bits;
      } else {
        ASSERT_EQ(static_cast<double>(wide[bits]), expected) << bits;
      }
      ASSERT_EQ(std::signbit(wide[bits]), (bits & 0x8000) != 0) << bits;
    }
  }
}

TYPED_TEST(WidenTest, the_same_bits_one_by_one_as_in_vectors) {
  const std::vector<float> at_once = this->widened(this->all_values(), all);
  for (const Index step : {1, 7, 16, 23, 100}) {
    const std::vector<float> in_steps = this->widened(this->all_values(), step);
    for (std::size_t i = 0; i < at_once.size(); ++i) {
      ASSERT_EQ(std::bit_cast<std::uint32_t>(in_steps[i]), std::bit_cast<std::uint32_t>(at_once[i]))
          << "value " << i << ", " << step << " at a time";
    }
  }
}

TYPED_TEST(WidenTest, narrowing_takes_every_value_back) {
  const std::vector<float> wide = this->widened(this->all_values(), all);
  for (const Index step : {all, Index{1}}) {
    const auto bits = this->narrowed(wide, step);
    for (std::uint32_t i = 0; i < all; ++i) {
      const auto value = static_cast<std::uint16_t>(i);
      if (is_nan<TypeParam>(value)) {
        ASSERT_TRUE(is_nan<TypeParam>(bits[i])) << i;
      } else {
        ASSERT_EQ(bits[i], value);
      }
    }
  }
}

TYPED_TEST(WidenTest, narrowing_rounds_to_the_nearest_and_ties_to_even) {
  std::vector<float> values;
  std::vector<std::uint16_t> expected;
  const auto expect = [&](double value, std::uint32_t bits) {
    for (const std::uint32_t sign : {0x0000U, 0x8000U}) {
      values.push_back(static_cast<float>(sign != 0 ? -value : value));
      expected.push_back(static_cast<std::uint16_t>(bits | sign));
    }
  };
  const std::uint32_t infinity = 0x7fffU >> TypeParam::fraction_bits << TypeParam::fraction_bits;
  for (std::uint32_t low = 0; low < infinity; ++low) {
    const double below = meaning<TypeParam>(static_cast<std::uint16_t>(low));
    // The value after the largest would have been twice the power of two.
    const double above = low + 1 == infinity
                             ? std::ldexp(1.0, TypeParam::bias + 1)
                             : meaning<TypeParam>(static_cast<std::uint16_t>(low + 1));
    const auto middle = static_cast<float>((below + above) / 2);
    ASSERT_EQ(static_cast<double>(middle), (below + above) / 2) << "a float holds the middle";
    const float largest = std::numeric_limits<float>::max();
    expect(static_cast<double>(middle), low + (low & 1));
    expect(static_cast<double>(std::nextafter(middle, 0.0f)), low);
    expect(static_cast<double>(std::nextafter(middle, largest)), low + 1);
  }
  expect(std::numeric_limits<double>::infinity(), infinity);
  for (const Index step : {static_cast<Index>(values.size()), Index{1}}) {
    const auto bits = this->narrowed(values, step);
    for (std::size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(bits[i], expected[i]) << values[i];
    }
  }
}

TYPED_TEST(WidenTest, narrowing_keeps_every_kind_of_nan) {
  std::vector<float> values;
  for (std::uint32_t fraction = 1; fraction < 0x800000; fraction += fraction < 64 ? 1 : 4093) {
    values.push_back(std::bit_cast<float>(0x7f800000 | fraction));
    values.push_back(std::bit_cast<float>(0xff800000 | fraction));
  }
  const auto at_once = this->narrowed(values, static_cast<Index>(values.size()));
  EXPECT_EQ(this->narrowed(values, 1), at_once);
  for (const std::uint16_t bits : at_once) {
    EXPECT_TRUE(is_nan<TypeParam>(bits));
  }
}

TEST(WidenWideTest, wide_types_are_copied) {
  const std::vector<double> from = {1.5, -0.0, std::numeric_limits<double>::denorm_min()};
  std::vector<double> to(3);
  widen(from.data(), to.data(), 3);
  EXPECT_EQ(to, from);
  narrow(from.data(), to.data(), 3);
  EXPECT_EQ(to, from);
}

}  // namespace
