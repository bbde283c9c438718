// SPDX-License-Identifier: Apache-2.0
// Checkpoints are untrusted: whatever is done to one, it is refused with a std::runtime_error, or
// every tensor that it names lies inside it. The mutations are the same on every machine.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "llava/weights_files.hpp"
#include "support/random.hpp"
#include "weights.hpp"

namespace {

using llava::Index;
using llava::Weights;
using llava::files::Folder;
using llava::files::tensor_of;
using llava::files::text_of;
using safetensors::Dtype;

constexpr std::size_t kLengthBytes = 8;

safetensors::File sample() {
  safetensors::File file;
  const std::vector<float> values(12, 1.5F);
  const std::vector<std::uint16_t> halves(8, 0x3C00);
  file.metadata["format"] = "pt";
  file.tensors["language_model.model.norm.weight"] = safetensors::make({12}, values);
  file.tensors["language_model.lm_head.weight"] = safetensors::make({3, 4}, values);
  file.tensors["model.vision_tower.pre_layrnorm.bias"] = tensor_of(Dtype::f16, {8}, halves);
  file.tensors["convolution"] = tensor_of(Dtype::bf16, {2, 1, 2, 2}, halves);
  file.tensors["scalar"] = safetensors::make({}, std::vector<float>{1});
  file.tensors["empty"] = safetensors::make({0, 4}, std::vector<float>{});
  return file;
}

class Mutator {
 public:
  explicit Mutator(std::uint64_t seed) : random_(seed) {}

  std::size_t below(std::size_t n) {
    return static_cast<std::size_t>(random_.below(static_cast<Index>(n)));
  }

  /// One change to JSON text.
  void edit_json(std::string& text) {
    const std::size_t at = below(text.size() + 1);
    switch (below(8)) {
      case 0:
        if (at < text.size()) flip_bit(text[at]);
        break;
      case 1:
        if (at < text.size()) text[at] = static_cast<char>(below(256));
        break;
      case 2:
        text.erase(std::min(at, text.size()), 1 + below(12));
        break;
      case 3:
        text.insert(at, kWords[below(kWords.size())]);
        break;
      case 4:
        edit_number(text, at);
        break;
      case 5:
        duplicate_member(text, at);
        break;
      case 6: {  // as deep as a stack overflow would need
        const std::size_t depth = below(20) == 0 ? 200'000 : below(20);
        text.insert(at, below(2) == 0 ? std::string(depth, '[')
                                      : std::string(depth, '[') + std::string(depth, ']'));
        break;
      }
      default:
        text.resize(at);
    }
  }

  /// One change to a whole file; often its length field follows, so that the JSON is reached.
  void edit_file(std::string& text) {
    std::uint64_t length = 0;
    std::memcpy(&length, text.data(), kLengthBytes);
    std::string header = text.substr(kLengthBytes, length);
    std::string data = text.substr(kLengthBytes + header.size());
    switch (below(8)) {
      case 0:
        length ^= std::uint64_t{1} << below(64);
        break;
      case 1: {
        const std::uint64_t edges[] = {0,
                                       1,
                                       7,
                                       8,
                                       data.size(),
                                       header.size() - 1,
                                       ~std::uint64_t{0},
                                       ~std::uint64_t{0} - 7,
                                       safetensors::max_header_bytes};
        length = edges[below(std::size(edges))];
        break;
      }
      case 2:
        data.resize(below(data.size() + 20), 'x');
        break;
      default:
        edit_json(header);
        if (below(8) != 0) length = header.size();
    }
    text.assign(reinterpret_cast<const char*>(&length), kLengthBytes);
    text += header + data;
    if (below(16) == 0) text.resize(below(text.size()));
  }

 private:
  static constexpr std::array<std::string_view, 24> kWords{"{",
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
                                                           "4611686018427387905",
                                                           "9223372036854775807",
                                                           "18446744073709551615",
                                                           "18446744073709551616",
                                                           "4294967296,4294967296",
                                                           "\"F32\"",
                                                           "\"I64\"",
                                                           "\"F8_E4M3\"",
                                                           "\"shape\":[]",
                                                           "\"data_offsets\":[0,0]",
                                                           "\"__metadata__\":{}",
                                                           "\\u0000"};

  void flip_bit(char& c) {
    c = static_cast<char>(static_cast<unsigned char>(c) ^ (1U << below(8)));
  }

  /// The first number behind `at` becomes one that is near, at an edge, or huge.
  void edit_number(std::string& text, std::size_t at) {
    const char* const digits = "0123456789";
    const std::size_t begin = text.find_first_of(digits, at);
    if (begin == text.npos) return;
    const std::size_t end = std::min(text.find_first_not_of(digits, begin), text.size());
    const std::string old = text.substr(begin, std::min<std::size_t>(end - begin, 15));
    const auto value = std::stoll(old);
    const std::string edited[] = {std::to_string(value + 1),   std::to_string(value - 1),
                                  std::to_string(value * 2),   std::to_string(value + 4),
                                  std::to_string(value << 32), std::to_string(value) + ".0",
                                  "18446744073709551615",      "9223372036854775807",
                                  "4611686018427387904,4",     "0",
                                  "-9223372036854775808",      "1e308"};
    text.replace(begin, end - begin, edited[below(std::size(edited))]);
  }

  /// `"a":...,` once more, whatever it is.
  void duplicate_member(std::string& text, std::size_t at) {
    const std::size_t begin = text.find('"', at);
    if (begin == text.npos) return;
    const std::size_t comma = text.find(',', begin);
    if (comma == text.npos) return;
    text.insert(begin, text.substr(begin, comma - begin + 1));
  }

  support::Random random_;
};

/// What was accepted is inside the file: disjoint, complete, of the size that its shape says.
void expect_inside(const safetensors::Header& header, std::size_t file_bytes) {
  std::size_t data_bytes = 0;
  std::set<std::string> names;
  for (const safetensors::Entry& entry : header.entries) {
    ASSERT_EQ(static_cast<std::size_t>(entry.begin), data_bytes);
    ASSERT_GE(entry.end, entry.begin);
    std::int64_t elements = 1;
    for (const std::int64_t dim : entry.tensor.shape) {
      ASSERT_GE(dim, 0);
      elements *= dim;
    }
    ASSERT_EQ(entry.tensor.size(), elements);
    ASSERT_EQ(entry.end - entry.begin,
              elements * static_cast<std::int64_t>(dtype_bytes(entry.tensor.dtype)));
    data_bytes = static_cast<std::size_t>(entry.end);
    ASSERT_TRUE(names.insert(entry.name).second);
  }
  ASSERT_LE(data_bytes + kLengthBytes, file_bytes);
}

struct Tally {
  int accepted = 0;
  int refused = 0;
  std::set<std::string> messages;  // without what is quoted or counted in them

  void refuse(const std::string& message) {
    ++refused;
    ASSERT_NE(message, "");
    ASSERT_LT(message.size(), 2000U);
    for (const char c : message) ASSERT_TRUE(' ' <= c && c <= '~') << message;
    std::string kind;
    bool quoted = false;
    for (const char c : message) {
      if (c == '"') quoted = !quoted;
      if (!quoted && (c < '0' || c > '9') && c != '-' && c != '"') kind += c;
    }
    messages.insert(kind);
  }
};

TEST(LlavaSafetensorsFuzz, Headers) {
  const std::string good = text_of(sample());
  Mutator mutator(1);
  Tally tally;
  for (int round = 0; round < 20000; ++round) {
    std::string text = good;
    for (std::size_t edits = 1 + mutator.below(3); edits > 0 && text.size() > kLengthBytes;
         --edits) {
      mutator.edit_file(text);
    }
    // A block of exactly this size, so that the address sanitizer sees any read past its end.
    const std::unique_ptr<std::byte[]> block(new std::byte[text.size()]);
    std::memcpy(block.get(), text.data(), text.size());
    try {
      expect_inside(safetensors::read_header({block.get(), text.size()}), text.size());
      ++tally.accepted;
    } catch (const std::runtime_error& error) {
      tally.refuse(error.what());
    }
    if (HasFatalFailure()) FAIL() << "round " << round;
  }
  // The mutations reach most of what can be wrong, and leave something right.
  EXPECT_GT(tally.accepted, 300);
  EXPECT_GT(tally.refused, 10000);
  EXPECT_GT(tally.messages.size(), 25U) << testing::PrintToString(tally.messages);
}

/// From the disk, with every tensor that was accepted read as a model would read it.
TEST(LlavaSafetensorsFuzz, MappedFiles) {
  const Folder folder;
  const safetensors::File file = sample();
  const std::string good = text_of(file);
  Mutator mutator(2);
  Tally tally;
  int tensors_read = 0;
  for (int round = 0; round < 2500; ++round) {
    std::string text = good;
    mutator.edit_file(text);
    const auto path = folder.write("model.safetensors", text);
    try {
      Weights weights = Weights::open(path);
      ++tally.accepted;
      for (const auto& [name, tensor] : file.tensors) {
        const std::vector<std::int64_t>& shape = tensor.shape;
        try {
          if (shape.size() == 1) {
            weights.vector(name, shape[0]);
          } else {
            const Index rows = shape.empty() ? 1 : shape[0];
            const Index cols = tensor.size() / std::max<Index>(rows, 1);
            const llava::WeightMatrix w = weights.matrix(name, rows, cols);
            std::vector<float> values(static_cast<std::size_t>(rows * cols));
            to_float(w, 0, rows, values.data());
          }
          ++tensors_read;
        } catch (const std::runtime_error& error) {
          ASSERT_STRNE(error.what(), "");
        }
      }
    } catch (const std::runtime_error& error) {
      ASSERT_TRUE(std::string(error.what()).starts_with(path.string() + ": ")) << error.what();
      tally.refuse(error.what());
    }
    if (HasFatalFailure()) FAIL() << "round " << round;
  }
  EXPECT_GT(tally.accepted, 100);
  EXPECT_GT(tally.refused, 1000);
  EXPECT_GT(tensors_read, 4 * 100);
}

const char* const kIndex =
    R"({"metadata":{"total_size":123},"weight_map":{"a":"model-1.safetensors",)"
    R"("b.weight":"model-1.safetensors","c":"model-2.safetensors"}})";

TEST(LlavaSafetensorsFuzz, Indices) {
  Mutator mutator(3);
  Tally tally;
  for (int round = 0; round < 20000; ++round) {
    std::string text = kIndex;
    for (std::size_t edits = 1 + mutator.below(2); edits > 0; --edits) mutator.edit_json(text);
    const std::unique_ptr<char[]> block(new char[text.size()]);
    std::memcpy(block.get(), text.data(), text.size());
    try {
      for (const auto& [shard, names] :
           llava::detail::read_index(std::string_view(block.get(), text.size()))) {
        ASSERT_FALSE(names.empty());
        ASSERT_EQ(std::filesystem::path(shard).filename(), shard);
        ASSERT_NE(shard, "..");
        ASSERT_NE(shard, ".");
        ASSERT_EQ(shard.find_first_of(std::string_view("/\\:\0", 4)), shard.npos);
      }
      ++tally.accepted;
    } catch (const std::runtime_error& error) {
      tally.refuse(error.what());
    }
    if (HasFatalFailure()) FAIL() << "round " << round;
  }
  EXPECT_GT(tally.accepted, 300);
  EXPECT_GT(tally.refused, 10000);
  EXPECT_GT(tally.messages.size(), 8U) << testing::PrintToString(tally.messages);
}

/// An index and its shards, any of which may be damaged.
TEST(LlavaSafetensorsFuzz, Folders) {
  const Folder folder;
  std::map<std::string, std::string> good{{"model.safetensors.index.json", kIndex}};
  const std::vector<float> values{1, 2};
  safetensors::File first;
  first.tensors["a"] = first.tensors["b.weight"] = safetensors::make({2}, values);
  safetensors::File second;
  second.tensors["c"] = safetensors::make({2}, values);
  good["model-1.safetensors"] = text_of(first);
  good["model-2.safetensors"] = text_of(second);
  Mutator mutator(4);
  Tally tally;
  for (int round = 0; round < 2000; ++round) {
    for (const auto& [name, text] : good) {
      std::string edited = text;
      if (mutator.below(3) == 0) {
        if (name.ends_with("json")) {
          mutator.edit_json(edited);
        } else {
          mutator.edit_file(edited);
        }
      }
      folder.write(name, edited);
    }
    try {
      Weights weights = Weights::open(folder.path());
      for (const char* name : {"a", "b.weight", "c"}) {
        if (weights.has(name)) weights.vector(name, 2);
      }
      ++tally.accepted;
    } catch (const std::runtime_error& error) {
      ASSERT_TRUE(std::string(error.what()).starts_with(folder.path().string())) << error.what();
      tally.refuse(error.what());
    }
    if (HasFatalFailure()) FAIL() << "round " << round;
  }
  EXPECT_GT(tally.accepted, 300);
  EXPECT_GT(tally.refused, 1000);
}

}  // namespace
