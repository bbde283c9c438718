// SPDX-License-Identifier: Apache-2.0

#include "../../examples/common/safetensors.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

using safetensors::Dtype;
using safetensors::File;
using safetensors::Tensor;

std::vector<std::byte> to_bytes(std::string_view text) {
  const auto raw = std::as_bytes(std::span(text));
  return {raw.begin(), raw.end()};
}

std::string to_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// A file of this header and this many bytes of data.
std::string raw_file(const std::string& header, std::size_t data_bytes = 0) {
  std::string text(8, '\0');
  const std::uint64_t length = header.size();
  std::memcpy(text.data(), &length, sizeof(length));
  return text + header + std::string(data_bytes, 'x');
}

// The message of the std::runtime_error that `action` throws, "" if it throws nothing.
template <class Action>
std::string message_of(Action action) {
  try {
    action();
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

std::string parse_error(const std::string& text) {
  // A block of exactly this size lets the address sanitizer see any read past its end.
  const std::vector<std::byte> bytes = to_bytes(text);
  return message_of([&bytes] { safetensors::parse(bytes); });
}

std::string header_error(const std::string& header, std::size_t data_bytes = 0) {
  return parse_error(raw_file(header, data_bytes));
}

std::string entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

#define EXPECT_HAS(message, part)                                            \
  do {                                                                       \
    const std::string has_message = (message);                               \
    EXPECT_NE(has_message.find(part), std::string::npos)                     \
        << "message: \"" << has_message << "\", expected in it: " << (part); \
  } while (false)

template <class T>
Tensor tensor_of(Dtype dtype, std::vector<std::int64_t> shape, const std::vector<T>& values) {
  Tensor tensor;
  tensor.dtype = dtype;
  tensor.shape = std::move(shape);
  const auto raw = std::as_bytes(std::span(values));
  tensor.bytes.assign(raw.begin(), raw.end());
  return tensor;
}

File sample() {
  File file;
  file.metadata = {{"method", "divprune"}, {"quote \" and \xC3\xA9", "line\nbreak"}};
  const std::vector<float> floats{1.0F, -2.5F, 3.25F, 0.0F, -0.0F, 1e-40F};
  const std::vector<std::int64_t> integers{-1, 0, std::numeric_limits<std::int64_t>::max()};
  file.tensors["tokens"] = safetensors::make({2, 3}, floats);
  file.tensors["kept"] = safetensors::make({3}, integers);
  file.tensors["scalar"] = safetensors::make({}, std::vector<float>{7.0F});
  file.tensors["empty"] = safetensors::make({0, 4}, std::vector<float>{});
  file.tensors["mask"] = tensor_of<std::uint8_t>(Dtype::boolean, {3}, {1, 0, 1});
  file.tensors["half"] = tensor_of<std::uint16_t>(Dtype::f16, {2}, {0x3C00, 0xC000});
  return file;
}

void expect_same(const File& a, const File& b) {
  EXPECT_EQ(a.metadata, b.metadata);
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (const auto& [name, tensor] : a.tensors) {
    ASSERT_TRUE(b.has(name)) << name;
    EXPECT_EQ(tensor.dtype, b.at(name).dtype) << name;
    EXPECT_EQ(tensor.shape, b.at(name).shape) << name;
    EXPECT_EQ(tensor.bytes, b.at(name).bytes) << name;
  }
}

// A directory of this test's own, removed at its end.
class SafetensorsFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    directory_ = std::filesystem::temp_directory_path() /
                 ("tokenfold_safetensors_" + std::to_string(::getpid()) + "_" + test->name());
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::filesystem::path write(const std::string& name, const std::string& text) const {
    const std::filesystem::path path = directory_ / name;
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }

  std::filesystem::path directory_;
};

TEST(Safetensors, RoundTripInMemory) {
  const std::vector<std::byte> bytes = safetensors::serialize(sample());
  const File back = safetensors::parse(bytes);
  expect_same(sample(), back);
  EXPECT_EQ(safetensors::serialize(back), bytes);
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof(length));
  EXPECT_EQ(length % 8, 0U);
}

TEST(Safetensors, PaddingIsTheLeastTo8Bytes) {
  for (std::size_t i = 0; i < 8; ++i) {
    File file;
    file.tensors[std::string(i, 'n')] = safetensors::make({0}, std::vector<float>{});
    const std::string text = to_text(safetensors::serialize(file));
    EXPECT_EQ(text.size() % 8, 0U) << i;
    EXPECT_LT(text.size() - 1 - text.rfind('}'), 8U) << i;
    expect_same(file, safetensors::parse(to_bytes(text)));
  }
}

TEST(Safetensors, EmptyFileObject) {
  EXPECT_EQ(to_text(safetensors::serialize(File{})), raw_file("{}      "));
  expect_same(File{}, safetensors::parse(safetensors::serialize(File{})));
  expect_same(File{}, safetensors::parse(to_bytes(raw_file("{}"))));
}

TEST(Safetensors, KnownBytes) {
  using std::string_literals::operator""s;
  const std::string header = R"({"__metadata__":{"format":"pt"},)"
                             R"("a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
                             R"("b":{"dtype":"F32","shape":[1,2],"data_offsets":[8,16]}})"
                             "   ";
  ASSERT_EQ(header.size(), 144U);
  const std::string known = "\x90\0\0\0\0\0\0\0"s + header +
                            "\xFE\xFF\xFF\xFF\xFF\xFF\xFF\xFF"
                            "\0\0\x80\x3F\0\0\x20\xC0"s;
  const File file = safetensors::parse(to_bytes(known));
  EXPECT_EQ(file.metadata.at("format"), "pt");
  EXPECT_EQ(file.at("a").shape, (std::vector<std::int64_t>{1}));
  EXPECT_EQ(file.at("a").int64s(), (std::vector<std::int64_t>{-2}));
  EXPECT_EQ(file.at("b").shape, (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(file.at("b").floats(), (std::vector<float>{1.0F, -2.5F}));
  EXPECT_EQ(to_text(safetensors::serialize(file)), known);
}

TEST(Safetensors, DataInAnotherOrderThanTheNames) {
  const std::string header = R"({"a":)" + entry("\"U8\"", "[1]", "[2,3]") + R"(,"b":)" +
                             entry("\"U8\"", "[2]", "[0,2]") + "}";
  std::string text = raw_file(header, 3);
  text.replace(text.size() - 3, 3, "BBA");
  const File file = safetensors::parse(to_bytes(text));
  EXPECT_EQ(to_text(file.at("a").bytes), "A");
  EXPECT_EQ(to_text(file.at("b").bytes), "BB");
}

TEST(Safetensors, ScalarsAndEmptyTensors) {
  const File file = safetensors::parse(safetensors::serialize(sample()));
  EXPECT_EQ(file.at("scalar").size(), 1);
  EXPECT_TRUE(file.at("scalar").shape.empty());
  EXPECT_EQ(file.at("scalar").floats(), std::vector<float>{7.0F});
  EXPECT_EQ(file.at("empty").size(), 0);
  EXPECT_EQ(file.at("empty").shape, (std::vector<std::int64_t>{0, 4}));
  EXPECT_TRUE(file.at("empty").floats().empty());
  EXPECT_TRUE(file.at("empty").doubles().empty());
}

TEST(Safetensors, DtypeNames) {
  for (const auto& known : safetensors::detail::dtypes) {
    EXPECT_EQ(safetensors::dtype_from_name(known.name), known.dtype);
    EXPECT_EQ(safetensors::dtype_name(known.dtype), known.name);
    EXPECT_EQ(safetensors::dtype_bytes(known.dtype), known.bytes);
  }
  EXPECT_HAS(message_of([] { safetensors::dtype_from_name("f32"); }), "unknown dtype \"f32\"");
  EXPECT_HAS(message_of([] { safetensors::dtype_name(static_cast<Dtype>(99)); }),
             "not a Dtype: 99");
}

TEST(Safetensors, HalfValues) {
  const float inf = std::numeric_limits<float>::infinity();
  const Tensor half = tensor_of<std::uint16_t>(Dtype::f16, {12},
                                               {0x0000, 0x8000, 0x3C00, 0xC000, 0x3555, 0x7BFF,
                                                0x0400, 0x03FF, 0x0001, 0x8001, 0x7C00, 0xFC00});
  const std::vector<float> want{0.0F,     -0.0F,      1.0F,     -2.0F,     0x1.554p-2F, 65504.0F,
                                0x1p-14F, 0x3FFp-24F, 0x1p-24F, -0x1p-24F, inf,         -inf};
  const std::vector<float> got = half.floats();
  EXPECT_EQ(got, want);
  EXPECT_TRUE(std::signbit(got[1]));
  EXPECT_FALSE(std::signbit(got[0]));
  EXPECT_EQ(half.doubles(), std::vector<double>(want.begin(), want.end()));

  const Tensor nan = tensor_of<std::uint16_t>(Dtype::f16, {3}, {0x7E00, 0x7C01, 0xFFFF});
  for (const float value : nan.floats()) EXPECT_TRUE(std::isnan(value));
}

// Against the definition, for every finite half.
TEST(Safetensors, EveryFiniteHalf) {
  for (unsigned bits = 0; bits < 0x10000; ++bits) {
    const int exponent = static_cast<int>((bits >> 10) & 31);
    if (exponent == 31) continue;
    const int mantissa = static_cast<int>(bits & 1023);
    const double magnitude =
        exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    const float got = safetensors::detail::float_from_f16(static_cast<std::uint16_t>(bits));
    ASSERT_EQ(static_cast<double>(got), (bits & 0x8000) != 0 ? -magnitude : magnitude) << bits;
  }
}

TEST(Safetensors, BrainValues) {
  const float inf = std::numeric_limits<float>::infinity();
  const Tensor brain = tensor_of<std::uint16_t>(
      Dtype::bf16, {8}, {0x0000, 0x8000, 0x3F80, 0xC020, 0x7F7F, 0x0001, 0x7F80, 0xFF80});
  const std::vector<float> got = brain.floats();
  EXPECT_EQ(got, (std::vector<float>{0.0F, -0.0F, 1.0F, -2.5F, 0x1.FEp127F, 0x1p-133F, inf, -inf}));
  EXPECT_TRUE(std::signbit(got[1]));
  const Tensor nan = tensor_of<std::uint16_t>(Dtype::bf16, {2}, {0x7FC0, 0xFF81});
  for (const double value : nan.doubles()) EXPECT_TRUE(std::isnan(value));
}

TEST(Safetensors, WideValues) {
  const Tensor wide = tensor_of<double>(Dtype::f64, {3}, {0.1, -1e300, 2.0});
  EXPECT_EQ(wide.doubles(), (std::vector<double>{0.1, -1e300, 2.0}));
  EXPECT_EQ(wide.floats(),
            (std::vector<float>{0.1F, -std::numeric_limits<float>::infinity(), 2.0F}));
  EXPECT_EQ(safetensors::make({1}, std::vector<float>{0.1F}).doubles(),
            std::vector<double>{static_cast<double>(0.1F)});
  EXPECT_EQ(tensor_of<std::int32_t>(Dtype::i32, {2}, {-5, 6}).int64s(),
            (std::vector<std::int64_t>{-5, 6}));
}

TEST(Safetensors, WrongDtypeIsNamed) {
  const File file = sample();
  EXPECT_HAS(message_of([&] { file.at("kept").floats(); }), "I64 cannot be read as floats");
  EXPECT_HAS(message_of([&] { file.at("mask").doubles(); }), "BOOL cannot be read as doubles");
  EXPECT_HAS(message_of([&] { file.at("tokens").int64s(); }), "F32 cannot be read as int64s");
}

TEST(Safetensors, AbsentTensorListsThoseThere) {
  const File file = sample();
  EXPECT_TRUE(file.has("kept"));
  EXPECT_FALSE(file.has("keep"));
  EXPECT_EQ(message_of([&] { file.at("keep"); }),
            "no tensor \"keep\"; there are: \"empty\", \"half\", \"kept\", \"mask\", \"scalar\", "
            "\"tokens\"");
  EXPECT_HAS(message_of([] { File{}.at("x"); }), "no tensor \"x\"; there are: none");
  File many;
  for (int i = 0; i < 103; ++i) many.tensors["t" + std::to_string(i)].bytes.resize(4);
  EXPECT_HAS(message_of([&] { many.at("x"); }), " and 3 more");
}

TEST(Safetensors, MadeOrEditedTensorsAreChecked) {
  const std::vector<float> two{1.0F, 2.0F};
  EXPECT_HAS(message_of([&] { safetensors::make({3}, two); }), "take 12 bytes, there are 8");
  EXPECT_HAS(message_of([&] { safetensors::make({-2}, two); }), "negative dimension");
  EXPECT_HAS(message_of([&] { safetensors::make({1LL << 62, 4}, two); }), "shape overflows");
  EXPECT_HAS(message_of([&] { safetensors::make({1LL << 62, 4, 0}, two); }), "shape overflows");

  Tensor cut = safetensors::make({2}, two);
  cut.bytes.pop_back();
  EXPECT_HAS(message_of([&] { cut.floats(); }), "take 8 bytes, there are 7");
  File file;
  file.tensors["cut"] = cut;
  EXPECT_HAS(message_of([&] { safetensors::serialize(file); }), "tensor \"cut\": shape and dtype");

  File reserved;
  reserved.tensors["__metadata__"] = safetensors::make({2}, two);
  EXPECT_HAS(message_of([&] { safetensors::serialize(reserved); }), "cannot be named __metadata__");
  File binary;
  binary.metadata["key"] = "\xFF";
  EXPECT_HAS(message_of([&] { safetensors::serialize(binary); }), "is not UTF-8");
}

TEST(SafetensorsErrors, Lengths) {
  EXPECT_HAS(parse_error(""), "the file is empty");
  EXPECT_HAS(parse_error("abc"), "truncated: 3 bytes cannot hold the header's length");
  EXPECT_HAS(parse_error(std::string(8, '\xFF')),
             "length 18446744073709551615 is over the limit of 100000000 bytes");
  std::string text(8, '\0');
  const std::uint64_t over = safetensors::max_header_bytes + 1;
  std::memcpy(text.data(), &over, sizeof(over));
  EXPECT_HAS(parse_error(text), "100000001 is over the limit of 100000000 bytes");
  const std::uint64_t most = safetensors::max_header_bytes;
  std::memcpy(text.data(), &most, sizeof(most));
  EXPECT_HAS(parse_error(text), "100000000 reaches past the end of the file (8 bytes)");
  const std::string good = raw_file("{}");
  EXPECT_HAS(parse_error(good.substr(0, good.size() - 1)), "2 reaches past the end of the file (9");
}

TEST(SafetensorsErrors, EveryTruncation) {
  const std::string good = to_text(safetensors::serialize(sample()));
  for (std::size_t size = 0; size < good.size(); ++size) {
    EXPECT_NE(parse_error(good.substr(0, size)), "") << size;
  }
  EXPECT_EQ(parse_error(good), "");
  EXPECT_HAS(parse_error(good.substr(0, good.size() - 1)), "out of range");
}

TEST(SafetensorsErrors, Json) {
  EXPECT_HAS(header_error(""), "not valid JSON, near its byte 1");
  EXPECT_HAS(header_error("hello"), "not valid JSON");
  EXPECT_HAS(header_error("{"), "not valid JSON");
  EXPECT_HAS(header_error("{} {}"), "not valid JSON");
  EXPECT_HAS(header_error("{\"\xFF\":1}"), "not valid JSON");
  EXPECT_HAS(header_error("\xEF\xBB\xBF{}"), "byte order mark");
  EXPECT_HAS(header_error(std::string("{}\0x", 4)), "it has a NUL");
  EXPECT_HAS(header_error(R"({"a":1e999})"), "not valid JSON");
  EXPECT_HAS(header_error("[]"), "the header is not a JSON object");
  EXPECT_HAS(header_error("null"), "the header is not a JSON object");
  EXPECT_HAS(header_error("\"text\""), "the header is not a JSON object");
}

TEST(SafetensorsErrors, DeepNesting) {
  const std::size_t depth = 1'000'000;
  EXPECT_HAS(header_error(std::string(depth, '[')), "nested too deeply");
  EXPECT_HAS(header_error(R"({"a":)" + std::string(depth, '[') + std::string(depth, ']') + "}"),
             "nested too deeply");
  std::string objects;
  for (std::size_t i = 0; i < depth; ++i) objects += R"({"a":)";
  EXPECT_HAS(header_error(objects), "nested too deeply");
}

TEST(SafetensorsErrors, DuplicatedKeys) {
  const std::string a = entry("\"U8\"", "[0]", "[0,0]");
  EXPECT_HAS(header_error(R"({"a":)" + a + R"(,"a":)" + a + "}"), "duplicated key \"a\"");
  EXPECT_HAS(header_error(R"({"a":)" + a + R"(,"\u0061":)" + a + "}"), "duplicated key \"a\"");
  EXPECT_HAS(header_error(R"({"a":{"dtype":"U8","dtype":"I8"}})"), "duplicated key \"dtype\"");
  EXPECT_HAS(header_error(R"({"__metadata__":{"k":"1","k":"2"}})"), "duplicated key \"k\"");
  EXPECT_HAS(header_error(R"({"__metadata__":{},"__metadata__":{}})"), "duplicated key");
  // The same key in different objects is no duplicate.
  EXPECT_EQ(header_error(R"({"a":)" + a + R"(,"b":)" + a + "}"), "");
}

TEST(SafetensorsErrors, Metadata) {
  EXPECT_HAS(header_error(R"({"__metadata__":[]})"), "__metadata__ is not an object");
  EXPECT_HAS(header_error(R"({"__metadata__":{"k":1}})"), "\"k\" in __metadata__ is not a string");
  EXPECT_HAS(header_error(R"({"__metadata__":{"k":{}}})"), "is not a string");
}

TEST(SafetensorsErrors, Fields) {
  const auto error = [](const std::string& value, std::size_t data_bytes = 0) {
    return header_error(R"({"a":)" + value + "}", data_bytes);
  };
  EXPECT_HAS(error("3"), "tensor \"a\": its entry is not an object");
  EXPECT_HAS(error("{}"), "dtype is missing");
  EXPECT_HAS(error(R"({"shape":[],"data_offsets":[0,4]})"), "dtype is missing");
  EXPECT_HAS(error(R"({"dtype":"F32","data_offsets":[0,4]})"), "shape is missing");
  EXPECT_HAS(error(R"({"dtype":"F32","shape":[]})"), "data_offsets is missing");
  EXPECT_HAS(error(entry("7", "[]", "[0,4]")), "dtype is not a string");
  EXPECT_HAS(error(entry("\"F31\"", "[]", "[0,4]")), "unknown dtype \"F31\"");
  EXPECT_HAS(error(entry("\"F32\"", "4", "[0,4]")), "shape is not an array");
  EXPECT_HAS(error(entry("\"F32\"", "[1.0]", "[0,4]")), "shape has an item that is not a 64-bit");
  EXPECT_HAS(error(entry("\"F32\"", "[\"1\"]", "[0,4]")), "shape has an item that is not a 64-bit");
  EXPECT_HAS(error(entry("\"F32\"", "[true]", "[0,4]")), "shape has an item that is not a 64-bit");
  EXPECT_HAS(error(entry("\"F32\"", "[]", "{}")), "data_offsets is not an array");
  EXPECT_HAS(error(entry("\"F32\"", "[]", "[0]")), "data_offsets does not have 2 items");
  EXPECT_HAS(error(entry("\"F32\"", "[]", "[0,4,8]")), "data_offsets does not have 2 items");
  EXPECT_HAS(error(entry("\"F32\"", "[]", "[0,null]")), "data_offsets has an item that is not");
}

TEST(SafetensorsErrors, Shapes) {
  const auto error = [](const std::string& shape, std::size_t data_bytes = 4) {
    return header_error(R"({"a":)" + entry("\"F32\"", shape, "[0,4]") + "}", data_bytes);
  };
  EXPECT_EQ(error("[]"), "");
  EXPECT_EQ(error("[1,1]"), "");
  EXPECT_HAS(error("[-1]"), "shape has a negative item");
  EXPECT_HAS(error("[-9223372036854775808]"), "shape has a negative item");
  EXPECT_HAS(error("[9223372036854775808]"), "shape has an item that is too large");
  EXPECT_HAS(error("[18446744073709551616]"), "not a 64-bit integer");
  EXPECT_HAS(error("[9223372036854775807]"), "the shape overflows");
  EXPECT_HAS(error("[4294967296,4294967296]"), "the shape overflows");
  EXPECT_HAS(error("[4294967296,4294967296,0]"), "the shape overflows");
  EXPECT_HAS(error("[0,4294967296,4294967296]"), "the shape overflows");
  // Modulo 2^64, this shape's bytes are the 4 that data_offsets names.
  EXPECT_HAS(error("[4611686018427387905]"), "the shape overflows");
  EXPECT_HAS(error("[2]"), "do not match shape and dtype, which take 8 bytes");
  EXPECT_HAS(error("[0]"), "do not match shape and dtype, which take 0 bytes");
}

TEST(SafetensorsErrors, Offsets) {
  const auto error = [](const std::string& offsets, std::size_t data_bytes = 4) {
    return header_error(R"({"a":)" + entry("\"F32\"", "[1]", offsets) + "}", data_bytes);
  };
  EXPECT_EQ(error("[0,4]"), "");
  EXPECT_HAS(error("[-4,0]"), "data_offsets has a negative item");
  EXPECT_HAS(error("[4,0]"), "data_offsets [4, 0] are reversed");
  EXPECT_HAS(error("[1,5]"), "data_offsets [1, 5] are out of range: the file has 4 bytes of data");
  EXPECT_HAS(error("[9223372036854775803,9223372036854775807]"), "are out of range");
  EXPECT_HAS(error("[0,18446744073709551615]"), "data_offsets has an item that is too large");
  EXPECT_HAS(error("[0,3]"), "data_offsets [0, 3] do not match shape and dtype");
  EXPECT_HAS(error("[4,8]", 8), "there is a gap before the data of tensor \"a\"");
  EXPECT_HAS(error("[0,4]", 7), "no tensor covers the last 3 bytes");
  EXPECT_HAS(header_error("{}", 1), "no tensor covers the last 1 bytes");

  const auto pair = [](const std::string& a, const std::string& b, const std::string& shape) {
    return header_error(
        R"({"a":)" + entry("\"U8\"", "[4]", a) + R"(,"b":)" + entry("\"U8\"", shape, b) + "}", 8);
  };
  EXPECT_EQ(pair("[0,4]", "[4,8]", "[4]"), "");
  EXPECT_EQ(pair("[4,8]", "[0,4]", "[4]"), "");
  EXPECT_HAS(pair("[0,4]", "[0,4]", "[4]"), "tensors \"a\" and \"b\" overlap");
  EXPECT_HAS(pair("[0,4]", "[3,8]", "[5]"), "tensors \"a\" and \"b\" overlap");
  EXPECT_HAS(pair("[0,4]", "[2,2]", "[0]"), "tensors \"a\" and \"b\" overlap");
}

TEST(SafetensorsErrors, NamesAreEscapedAndCut) {
  EXPECT_HAS(header_error(R"({"\u001b[31m\n":3})"), R"(tensor "\u001b[31m\n": its entry)");
  const std::string message = header_error("{\"" + std::string(1'000'000, 'n') + "\":3}");
  EXPECT_HAS(message, "nnn\"...: its entry is not an object");
  EXPECT_LT(message.size(), 200U);
}

TEST_F(SafetensorsFiles, RoundTripOnDisk) {
  const std::filesystem::path path = directory_ / "sample.safetensors";
  safetensors::save(path, sample());
  expect_same(sample(), safetensors::load(path));
  safetensors::save(path, File{});
  EXPECT_EQ(std::filesystem::file_size(path), 16U);
}

TEST_F(SafetensorsFiles, ErrorsNameThePath) {
  const auto error = [](const std::filesystem::path& path) {
    return message_of([&path] { safetensors::load(path); });
  };
  const std::filesystem::path absent = directory_ / "absent.safetensors";
  EXPECT_EQ(error(absent), absent.string() + ": no such file");
  EXPECT_EQ(error(directory_), directory_.string() + ": not a regular file");
  const std::filesystem::path empty = write("empty", "");
  EXPECT_EQ(error(empty), empty.string() + ": the file is empty");
  const std::filesystem::path cut = write("cut", "123");
  EXPECT_HAS(error(cut), cut.string() + ": truncated: 3 bytes");
  const std::filesystem::path lying = write("lying", std::string(8, '\x01'));
  EXPECT_HAS(error(lying), lying.string() + ": the header's length");
  const std::filesystem::path array = write("array", raw_file("[]"));
  EXPECT_EQ(error(array), array.string() + ": the header is not a JSON object");
  const std::filesystem::path nowhere = directory_ / "no" / "such" / "folder";
  EXPECT_EQ(message_of([&] { safetensors::save(nowhere, File{}); }),
            nowhere.string() + ": cannot open the file for writing");
}

// Whatever happens to a valid file, parsing it succeeds or throws std::runtime_error.
TEST(SafetensorsFuzz, MutationsAndTruncations) {
  const std::string good = to_text(safetensors::serialize(sample()));
  const std::vector<std::string> words{"{",
                                       "}",
                                       "[",
                                       "]",
                                       "\"",
                                       ",",
                                       ":",
                                       "-1",
                                       "0",
                                       "1e999",
                                       "null",
                                       "true",
                                       "9223372036854775807",
                                       "18446744073709551616",
                                       "\"F32\"",
                                       "\"I64\"",
                                       "\"shape\":",
                                       "__metadata__"};
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, good.data(), sizeof(header_bytes));

  // Only the engine's raw output is the same with every standard library.
  std::mt19937 random(20240607);
  const auto below = [&random](std::size_t bound) { return random() % bound; };
  int accepted = 0;
  int refused = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string text = good;
    const std::size_t edits = 1 + below(3);
    for (std::size_t edit = 0; edit < edits && !text.empty(); ++edit) {
      // Most edits hit the header, where the decisions are made.
      const std::size_t reach = below(4) != 0 ? 8 + header_bytes : text.size();
      const std::size_t at = below(std::min<std::size_t>(reach, text.size()));
      switch (below(7)) {
        case 0:
          text[at] = static_cast<char>(static_cast<unsigned char>(text[at]) ^ (1U << below(8)));
          break;
        case 1:
          text[at] = static_cast<char>(below(256));
          break;
        case 2:
          text.erase(at, 1 + below(8));
          break;
        case 3:
          text.insert(at, words[below(words.size())]);
          break;
        case 4:
          text.replace(at, 1, words[below(words.size())]);
          break;
        case 5:
          text[at] = static_cast<char>('0' + below(10));
          break;
        default:
          text.resize(at);
          break;
      }
      // Half of the time the length is made right again, so that the edit reaches the JSON.
      if (text.size() > good.size() / 2 && below(2) == 0) {
        const std::uint64_t length = header_bytes + text.size() - good.size();
        if (length <= text.size() - 8) std::memcpy(text.data(), &length, sizeof(length));
      }
    }
    const std::vector<std::byte> bytes = to_bytes(text);
    try {
      const File file = safetensors::parse(bytes);
      for (const auto& [name, tensor] : file.tensors) tensor.validate();
      // What was accepted can be written and read again.
      expect_same(file, safetensors::parse(safetensors::serialize(file)));
      ++accepted;
    } catch (const std::runtime_error& error) {
      ASSERT_STRNE(error.what(), "");
      ++refused;
    }
  }
  // Both ends must have been exercised.
  EXPECT_GT(accepted, 100);
  EXPECT_GT(refused, 1000);
}

}  // namespace
