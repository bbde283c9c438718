// SPDX-License-Identifier: Apache-2.0

#include "weights.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "llava/weights_files.hpp"

namespace {

using llava::Element;
using llava::Index;
using llava::Matrix;
using llava::Vector;
using llava::WeightMatrix;
using llava::Weights;
using llava::files::Folder;
using llava::files::message_of;
using llava::files::tensor_of;
using llava::files::text_of;
using safetensors::Dtype;
using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

Matrix floats(const WeightMatrix& w) {
  Matrix values(w.rows, w.cols);
  to_float(w, 0, w.rows, values.data());
  return values;
}

std::vector<float> list(const Vector& v) { return {v.begin(), v.end()}; }
std::vector<float> list(const WeightMatrix& w) {
  const Matrix values = floats(w);
  return {values.data(), values.data() + values.size()};
}

/// The same six numbers in every type that has them: 1, -2.5, 0, the least and greatest half, 0.5.
const std::vector<float> kSix{1.0F, -2.5F, 0.0F, 0x1p-24F, 65504.0F, 0.5F};
const std::vector<std::uint16_t> kSixHalves{0x3C00, 0xC100, 0x0000, 0x0001, 0x7BFF, 0x3800};

safetensors::File sample() {
  safetensors::File file;
  file.tensors["a.single"] = safetensors::make({2, 3}, kSix);
  file.tensors["a.half"] = tensor_of(Dtype::f16, {2, 3}, kSixHalves);
  file.tensors["a.brain"] = tensor_of<std::uint16_t>(
      Dtype::bf16, {2, 3}, {0x3F80, 0xC020, 0x0000, 0x0001, 0x7F80, 0x3F00});
  file.tensors["b.bias"] = tensor_of<std::uint16_t>(Dtype::f16, {3}, {0x3C00, 0xC100, 0x3800});
  file.tensors["convolution"] = safetensors::make({2, 1, 3}, kSix);
  file.tensors["ids"] = safetensors::make({2, 3}, std::vector<std::int64_t>(6));
  file.tensors["scalar"] = safetensors::make({}, std::vector<float>{1});
  file.tensors["empty"] = safetensors::make({0, 3}, std::vector<float>{});
  return file;
}

/// ---- conversion ----

TEST(LlavaWeightMatrix, RowsBecomeFloats) {
  const std::vector<std::uint16_t> halves(kSixHalves);
  const WeightMatrix w{reinterpret_cast<const std::byte*>(halves.data()), Element::f16, 3, 2};
  EXPECT_EQ(list(w), kSix);
  std::vector<float> row(2, -1.0F);
  to_float(w, 1, 2, row.data());
  EXPECT_EQ(row, (std::vector<float>{0.0F, 0x1p-24F}));
  to_float(w, 3, 3, nullptr);  // nothing, not even a pointer
}

TEST(LlavaWeightMatrix, EveryAddressWillDo) {
  for (const Element element : {Element::f32, Element::f16, Element::bf16}) {
    for (std::size_t offset = 0; offset < 8; ++offset) {
      // At the very end of a block, where a vector load too wide would be seen.
      const std::size_t bytes = 6 * static_cast<std::size_t>(llava::element_bytes(element));
      const std::unique_ptr<std::byte[]> block(new std::byte[offset + bytes]);
      std::vector<std::uint16_t> brains;
      for (const float value : kSix) {
        brains.push_back(static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16));
      }
      const void* from = element == Element::f32   ? static_cast<const void*>(kSix.data())
                         : element == Element::f16 ? static_cast<const void*>(kSixHalves.data())
                                                   : static_cast<const void*>(brains.data());
      std::memcpy(block.get() + offset, from, bytes);
      const WeightMatrix w{block.get() + offset, element, 2, 3};
      std::vector<float> expected = kSix;
      if (element == Element::bf16) expected[4] = 65280.0F;  // cut to 8 bits
      EXPECT_EQ(list(w), expected) << offset;
      EXPECT_EQ(w.floats() != nullptr, element == Element::f32 && offset % 4 == 0) << offset;
    }
  }
}

TEST(LlavaWeightMatrix, EveryHalfInBulkAsEigenHasIt) {
  std::vector<std::uint16_t> halves(65536);
  for (std::size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<std::uint16_t>(i);
  for (const Element element : {Element::f16, Element::bf16}) {
    const WeightMatrix w{reinterpret_cast<const std::byte*>(halves.data()), element, 256, 256};
    const std::vector<float> got = list(w);
    for (std::size_t i = 0; i < halves.size(); ++i) {
      const auto expected =
          element == Element::f16
              ? static_cast<float>(Eigen::numext::bit_cast<Eigen::half>(halves[i]))
              : static_cast<float>(Eigen::numext::bit_cast<Eigen::bfloat16>(halves[i]));
      ASSERT_EQ(std::isnan(got[i]), std::isnan(expected)) << i;
      if (std::isnan(expected)) continue;
      ASSERT_EQ(std::bit_cast<std::uint32_t>(got[i]), std::bit_cast<std::uint32_t>(expected)) << i;
    }
  }
}

/// ---- one file ----

TEST(LlavaWeights, ReadsEveryElementType) {
  const Folder folder;
  Weights weights = Weights::open(folder.write("w.safetensors", text_of(sample())));
  EXPECT_EQ(list(weights.matrix("a.single", 2, 3)), kSix);
  EXPECT_EQ(list(weights.matrix("a.half", 2, 3)), kSix);
  EXPECT_EQ(list(weights.matrix("a.brain", 2, 3)),
            (std::vector<float>{1.0F, -2.5F, 0.0F, 0x1p-133F,
                                std::numeric_limits<float>::infinity(), 0.5F}));
  EXPECT_EQ(weights.matrix("a.half", 2, 3).element, Element::f16);
  EXPECT_EQ(weights.matrix("a.brain", 2, 3).element, Element::bf16);
  EXPECT_EQ(list(weights.vector("b.bias", 3)), (std::vector<float>{1.0F, -2.5F, 0.5F}));
  EXPECT_EQ(list(weights.matrix("convolution", 2, 3)), kSix);
  EXPECT_TRUE(weights.has("ids"));
  EXPECT_FALSE(weights.has("idss"));
}

TEST(LlavaWeights, DataNeedNotBeAligned) {
  const Folder folder;
  for (std::size_t shift = 0; shift < 4; ++shift) {
    const auto path =
        folder.write("w.safetensors", llava::files::shifted(text_of(sample()), shift));
    Weights weights = Weights::open(path);
    EXPECT_EQ(list(weights.matrix("a.single", 2, 3)), kSix) << shift;
    EXPECT_EQ(list(weights.matrix("a.half", 2, 3)), kSix) << shift;
    EXPECT_EQ(list(weights.vector("b.bias", 3)), (std::vector<float>{1.0F, -2.5F, 0.5F})) << shift;
    const float* in_place = weights.matrix("a.single", 2, 3).floats();
    ASSERT_EQ(in_place != nullptr, shift == 0);
    if (in_place != nullptr) {
      EXPECT_EQ(std::vector<float>(in_place, in_place + 6), kSix);
    }
  }
}

TEST(LlavaWeights, MatricesOutliveAMove) {
  const Folder folder;
  Weights weights = Weights::open(folder.write("w.safetensors", text_of(sample())));
  const WeightMatrix before = weights.matrix("a.single", 2, 3);
  Weights moved = std::move(weights);
  std::filesystem::remove(folder.path() / "w.safetensors");
  EXPECT_EQ(list(before), kSix);
  EXPECT_EQ(moved.matrix("a.single", 2, 3).data, before.data);

  Weights random = Weights::random(1);
  const WeightMatrix made = random.matrix("x", 3, 4);
  const std::vector<float> values = list(made);
  Weights other = std::move(random);
  other.matrix("y", 300, 400);
  EXPECT_EQ(other.matrix("x", 3, 4).data, made.data);
  EXPECT_EQ(list(made), values);
}

TEST(LlavaWeights, RefusesWhatDoesNotFit) {
  const Folder folder;
  const auto path = folder.write("w.safetensors", text_of(sample()));
  Weights weights = Weights::open(path);
  const auto matrix = [&](const char* name, Index rows, Index cols) {
    return message_of([&] { weights.matrix(name, rows, cols); });
  };
  EXPECT_EQ(matrix("a.single", 3, 2),
            path.string() + ": tensor \"a.single\": expected shape [3, 2], got [2, 3]");
  EXPECT_THAT(matrix("a.single", 2, 2), EndsWith("expected shape [2, 2], got [2, 3]"));
  EXPECT_THAT(matrix("a.single", 1, 6), EndsWith("expected shape [1, 6], got [2, 3]"));
  EXPECT_THAT(matrix("convolution", 1, 6), EndsWith("expected shape [1, 6], got [2, 1, 3]"));
  EXPECT_THAT(matrix("scalar", 1, 1), EndsWith("expected shape [1, 1], got []"));
  EXPECT_THAT(matrix("empty", 1, 3), EndsWith("expected shape [1, 3], got [0, 3]"));
  EXPECT_THAT(matrix("ids", 2, 3), EndsWith("tensor \"ids\": expected F32, F16 or BF16, got I64"));
  for (const auto& [rows, cols] : {std::pair<Index, Index>{0, 3}, {-1, -6}, {1, 0}}) {
    EXPECT_THAT(matrix("empty", rows, cols), HasSubstr("cannot be asked for as"));
  }
  EXPECT_THAT(matrix("a.single", std::numeric_limits<Index>::max(), 3),
              HasSubstr("cannot be asked for as"));
  EXPECT_THAT(message_of([&] { weights.vector("b.bias", 4); }),
              EndsWith("tensor \"b.bias\": expected shape [4], got [3]"));
  EXPECT_THAT(message_of([&] { weights.vector("a.single", 6); }),
              EndsWith("expected shape [6], got [2, 3]"));
  safetensors::File many;
  many.tensors["many"] =
      safetensors::make(std::vector<std::int64_t>(10000, 1), std::vector<float>{1});
  Weights deep = Weights::open(folder.write("many.safetensors", text_of(many)));
  EXPECT_LT(message_of([&] { deep.vector("many", 1); }).size(), 500U);
}

TEST(LlavaWeights, AMissingTensorIsNamedWithItsNeighbours) {
  const Folder folder;
  const auto path = folder.write("w.safetensors", text_of(sample()));
  Weights weights = Weights::open(path);
  EXPECT_EQ(message_of([&] { weights.matrix("a.triple", 2, 3); }),
            path.string() +
                ": no tensor \"a.triple\"; there are 8, such as \"a.half\", "
                "\"a.single\", \"b.bias\", \"convolution\"");
  EXPECT_THAT(message_of([&] { weights.vector("language_model.model.norm.weight", 3); }),
              HasSubstr("no tensor \"language_model.model.norm.weight\" or "
                        "\"model.language_model.norm.weight\"; there are 8"));
  EXPECT_THAT(message_of([&] {
                weights.vector("vision_tower.vision_model.embeddings.class_embedding", 3);
              }),
              HasSubstr("\"vision_tower.vision_model.embeddings.class_embedding\" or "
                        "\"model.vision_tower.vision_model.embeddings.class_embedding\" or "
                        "\"model.vision_tower.embeddings.class_embedding\" or "
                        "\"vision_tower.embeddings.class_embedding\"; there are 8"));
  Weights none = Weights::open(folder.write("none.safetensors", text_of({})));
  EXPECT_THAT(message_of([&] { none.vector("a", 1); }), EndsWith("no tensor \"a\"; there are 0"));
}

TEST(LlavaWeights, NamesOfEveryRelease) {
  // As first written, since 4.52, since 5.6: the numbers are the releases of transformers.
  const std::vector<std::vector<std::string>> spellings{
      {"vision_tower.vision_model.pre_layrnorm.weight",
       "model.vision_tower.vision_model.pre_layrnorm.weight",
       "model.vision_tower.pre_layrnorm.weight"},
      {"multi_modal_projector.linear_1.bias", "model.multi_modal_projector.linear_1.bias",
       "model.multi_modal_projector.linear_1.bias"},
      {"language_model.model.layers.0.input_layernorm.weight",
       "model.language_model.layers.0.input_layernorm.weight",
       "model.language_model.layers.0.input_layernorm.weight"},
      {"language_model.lm_head.weight", "lm_head.weight", "lm_head.weight"}};
  const Folder folder;
  for (std::size_t release = 0; release < 3; ++release) {
    safetensors::File file;
    for (std::size_t i = 0; i < spellings.size(); ++i) {
      file.tensors[spellings[i][release]] =
          safetensors::make({1}, std::vector<float>{static_cast<float>(i)});
    }
    Weights weights = Weights::open(folder.write("w.safetensors", text_of(file)));
    for (std::size_t i = 0; i < spellings.size(); ++i) {
      for (const std::string& asked : spellings[i]) {
        ASSERT_TRUE(weights.has(asked)) << release << " " << asked;
        EXPECT_EQ(weights.vector(asked, 1)[0], static_cast<float>(i)) << release << " " << asked;
      }
    }
  }
  safetensors::File twice;
  twice.tensors["lm_head.weight"] = twice.tensors["language_model.lm_head.weight"] =
      safetensors::make({1}, std::vector<float>{1});
  EXPECT_THAT(message_of([&] { Weights::open(folder.write("t.safetensors", text_of(twice))); }),
              EndsWith("t.safetensors: tensors \"language_model.lm_head.weight\" and "
                       "\"lm_head.weight\" are the same one"));
}

TEST(LlavaWeights, EveryTruncationIsFoundWhenOpened) {
  const Folder folder;
  const std::string good = text_of(sample());
  for (std::size_t size = 0; size < good.size(); size += size < 16 ? 1 : 13) {
    const auto path = folder.write("w.safetensors", good.substr(0, size));
    EXPECT_THAT(message_of([&] { Weights::open(path); }), StartsWith(path.string() + ": ")) << size;
  }
  const auto longer = folder.write("w.safetensors", good + "x");
  EXPECT_THAT(message_of([&] { Weights::open(longer); }), HasSubstr("no tensor covers the last 1"));
}

/// ---- files that are none ----

TEST(LlavaMappedFile, WhatCannotBeMapped) {
  const Folder folder;
  const auto error = [](const std::filesystem::path& path) {
    const std::string mapped = message_of([&] { llava::MappedFile{path}; });
    const std::string read = message_of([&] { llava::detail::read_bytes(path); });
    EXPECT_THAT(mapped, StartsWith(path.string() + ": "));
    EXPECT_THAT(read, StartsWith(path.string() + ": "));
    return mapped + " | " + read;
  };
  EXPECT_THAT(error(folder.path() / "absent"),
              AllOf(HasSubstr("cannot open the file: No such file"),
                    HasSubstr("| " + folder.path().string())));
  EXPECT_THAT(error(folder.path()), HasSubstr("not a regular file |"));
  EXPECT_THAT(error(folder.write("empty", "")), HasSubstr("the file is empty |"));
  const std::filesystem::path pipe = folder.path() / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THAT(error(pipe), HasSubstr("not a regular file |"));  // and nobody waited
  EXPECT_THAT(error("/dev/null"), HasSubstr("not a regular file |"));
}

TEST(LlavaMappedFile, BothWaysGiveTheSameBytes) {
  const Folder folder;
  const auto path = folder.write("file", std::string("a\0b\n", 4));
  const llava::MappedFile mapped(path);
  const llava::MappedFile copy = mapped;
  EXPECT_EQ(mapped.text(), std::string_view("a\0b\n", 4));
  EXPECT_EQ(copy.text().data(), mapped.text().data());
  const auto read = llava::detail::read_bytes(path);
  EXPECT_EQ(std::memcmp(read.data.get(), mapped.bytes().data(), 4), 0);
  EXPECT_EQ(read.size, 4U);
}

/// ---- folders ----

const char* const kIndex = "model.safetensors.index.json";

/// Two shards, each of one tensor, whose values are its number.
void write_shards(const Folder& folder, const std::string& index) {
  for (int i = 1; i <= 2; ++i) {
    safetensors::File file;
    file.tensors["t" + std::to_string(i)] =
        safetensors::make({1}, std::vector<float>{static_cast<float>(i)});
    folder.write("model-" + std::to_string(i) + ".safetensors", text_of(file));
  }
  folder.write(kIndex, index);
}

std::string index_of(const std::string& map) { return R"({"weight_map":{)" + map + "}}"; }

TEST(LlavaWeightsFolder, ShardsOfAnIndex) {
  const Folder folder;
  write_shards(folder, R"({"metadata":{"total_size":8},"weight_map":{
      "t1":"model-1.safetensors","t2":"model-2.safetensors"}})");
  Weights weights = Weights::open(folder.path());
  EXPECT_EQ(weights.vector("t1", 1)[0], 1.0F);
  EXPECT_EQ(weights.vector("t2", 1)[0], 2.0F);
  EXPECT_EQ(message_of([&] { weights.vector("t3", 1); }),
            (folder.path() / kIndex).string() +
                ": no tensor \"t3\"; there are 2, such as \"t1\", \"t2\"");
  EXPECT_THAT(message_of([&] { weights.vector("t2", 2); }),
              HasSubstr("model-2.safetensors: tensor \"t2\""));

  // A single file goes before an index.
  safetensors::File single;
  single.tensors["t1"] = safetensors::make({1}, std::vector<float>{7});
  folder.write("model.safetensors", text_of(single));
  Weights whole = Weights::open(folder.path());
  EXPECT_EQ(whole.vector("t1", 1)[0], 7.0F);
  EXPECT_FALSE(whole.has("t2"));
}

TEST(LlavaWeightsFolder, ShardsMayBeLinks) {  // as in Hugging Face's cache
  const Folder folder;
  write_shards(folder, index_of(R"("t1":"linked.safetensors")"));
  std::filesystem::create_symlink(folder.path() / "model-1.safetensors",
                                  folder.path() / "linked.safetensors");
  Weights weights = Weights::open(folder.path());
  EXPECT_EQ(weights.vector("t1", 1)[0], 1.0F);
}

TEST(LlavaWeightsFolder, BadIndices) {
  const Folder folder;
  const std::string at = (folder.path() / kIndex).string() + ": ";
  const auto error = [&](const std::string& index) {
    write_shards(folder, index);
    return message_of([&] { Weights::open(folder.path()); });
  };
  EXPECT_EQ(error(""), at + "the file is empty");
  EXPECT_THAT(error("{"), StartsWith(at + "the index is not valid JSON"));
  EXPECT_EQ(error("[]"), at + "the index is not a JSON object");
  EXPECT_EQ(error("{}"), at + "weight_map is missing");
  EXPECT_EQ(error(R"({"weight_map":[]})"), at + "weight_map is not an object");
  EXPECT_EQ(error(index_of("")), at + "weight_map is empty");
  EXPECT_EQ(error(index_of(R"("t1":1)")),
            at + "weight_map: tensor \"t1\": its file is not a string");
  EXPECT_EQ(error(index_of(R"("t1":"a","t1":"b")")), at + "the index has a duplicated key \"t1\"");
  for (const char* name : {"", ".", "..", "../w", "/etc/passwd", "a/b", "a\\\\b", "a\\u0000b",
                           "C:w", ".hidden", "a b", "\\u00e9"}) {
    EXPECT_THAT(error(index_of(R"("t1":")" + std::string(name) + "\"")),
                AllOf(StartsWith(at + "weight_map: tensor \"t1\": \""),
                      EndsWith("is not a plain file name")))
        << name;
  }
  EXPECT_THAT(error(index_of(R"("t1":"absent.safetensors")")),
              StartsWith((folder.path() / "absent.safetensors").string() + ": cannot open"));
  EXPECT_EQ(error(index_of(R"("t1":"model-2.safetensors")")),
            (folder.path() / "model-2.safetensors").string() +
                ": the index has tensor \"t1\" in this file, which does not");
  EXPECT_EQ(error(index_of(R"("lm_head.weight":"model-1.safetensors")")),
            (folder.path() / "model-1.safetensors").string() +
                ": the index has tensor \"lm_head.weight\" in this file, which does not");
  folder.write("cut.safetensors", "123");
  EXPECT_THAT(error(index_of(R"("t1":"cut.safetensors")")),
              HasSubstr("cut.safetensors: truncated"));
  std::filesystem::create_directory(folder.path() / "folder");
  EXPECT_THAT(error(index_of(R"("t1":"folder")")), EndsWith("folder: not a regular file"));
}

TEST(LlavaWeightsFolder, WithoutWeights) {
  const Folder folder;
  EXPECT_EQ(message_of([&] { Weights::open(folder.path()); }),
            folder.path().string() +
                ": there is neither model.safetensors nor model.safetensors.index.json");
  const std::filesystem::path absent = folder.path() / "no" / "folder";
  EXPECT_THAT(message_of([&] { Weights::open(absent); }),
              StartsWith(absent.string() + ": cannot open the file"));
}

/// ---- random ----

const char* const kQuery = "language_model.model.layers.5.self_attn.q_proj.weight";

TEST(LlavaRandomWeights, TheSameOnEveryMachine) {
  Weights weights = Weights::random(42);
  const Matrix values = floats(weights.matrix(kQuery, 3, 5));
  // Of deviation 1.5 / sqrt(5), as computed with Python's integers and IEEE doubles.
  EXPECT_EQ(list(weights.matrix(kQuery, 3, 5)),
            (std::vector<float>{0x1.2eb36ep-1F, -0x1.635bbcp-3F, 0x1.a21c18p-1F, -0x1.af6d18p-4F,
                                -0x1.3d5a06p-1F, 0x1.7b62cep-1F, -0x1.858b2p-2F, -0x1.1a104ap+0F,
                                0x1.bbe84ep-1F, 0x1.b8ddd6p-4F, 0x1.c09762p-1F, 0x1.90ae6ap-1F,
                                0x1.d0ddfp-3F, 0x1.3a09d8p-3F, -0x1.fc43fap-1F}));
  // Another release's name of the same tensor, another instance, another size before it.
  Weights again = Weights::random(42);
  again.matrix("something.else", 7, 7);
  EXPECT_EQ(floats(again.matrix("model.language_model.layers.5.self_attn.q_proj.weight", 3, 5)),
            values);
  EXPECT_NE(floats(Weights::random(43).matrix(kQuery, 3, 5)), values);
  EXPECT_NE(floats(weights.matrix("language_model.model.layers.6.self_attn.q_proj.weight", 3, 5)),
            values);
}

TEST(LlavaRandomWeights, MadeOnce) {
  Weights weights = Weights::random(1);
  const WeightMatrix first = weights.matrix(kQuery, 30, 50);
  EXPECT_EQ(weights.matrix(kQuery, 30, 50).data, first.data);
  EXPECT_NE(first.floats(), nullptr);
  EXPECT_TRUE(weights.has("whatever"));
  EXPECT_EQ(message_of([&] { weights.matrix(kQuery, 50, 30); }),
            "random weights " + std::string(kQuery) +
                ": was [30 x 50] before, is now asked for as [50 x 30]");
  EXPECT_THAT(message_of([&] { weights.matrix("x", 0, 3); }), HasSubstr("cannot be asked for"));
}

TEST(LlavaRandomWeights, LayersShareMemory) {
  const auto name = [](int layer, const std::string& part) {
    return "vision_tower.vision_model.encoder.layers." + std::to_string(layer) + part;
  };
  Weights weights = Weights::random(1, 3);
  const std::string part = ".mlp.fc1.weight";
  const auto data = [&](int layer) { return weights.matrix(name(layer, part), 6, 4).data; };
  EXPECT_EQ(data(0), data(3));
  EXPECT_EQ(data(1), data(22));
  EXPECT_NE(data(0), data(1));
  EXPECT_NE(data(1), data(2));
  // Layers below the number are what they are without it.
  Weights all = Weights::random(1);
  EXPECT_EQ(floats(all.matrix(name(2, part), 6, 4)), floats(weights.matrix(name(2, part), 6, 4)));
  EXPECT_NE(floats(all.matrix(name(5, part), 6, 4)), floats(weights.matrix(name(5, part), 6, 4)));
  // The decoder's layers are others.
  EXPECT_NE(weights.matrix("language_model.model.layers.0.mlp.up_proj.weight", 6, 4).data, data(0));
}

struct Moments {
  double mean = 0;
  double deviation = 0;
};

Moments moments(const Matrix& values) {
  const auto v = values.cast<double>().array();
  return {v.mean(), std::sqrt((v - v.mean()).square().mean())};
}

TEST(LlavaRandomWeights, Deviations) {
  Weights weights = Weights::random(7);
  const Index cols = 400;
  const std::string decoder = "language_model.model.layers.1.";
  const std::string encoder = "vision_tower.vision_model.encoder.layers.1.";
  for (const auto& [name, gain] : std::vector<std::pair<std::string, double>>{
           {decoder + "self_attn.q_proj.weight", 1.5},
           {encoder + "self_attn.k_proj.weight", 1.5},
           {decoder + "self_attn.v_proj.weight", 1},
           {decoder + "self_attn.o_proj.weight", 0.5},
           {encoder + "self_attn.out_proj.weight", 0.5},
           {encoder + "mlp.fc1.weight", 1},
           {encoder + "mlp.fc2.weight", 0.5},
           {decoder + "mlp.down_proj.weight", 0.5},
           {decoder + "mlp.gate_proj.weight", 1},
           {"multi_modal_projector.linear_1.weight", 1},
           {"language_model.lm_head.weight", 4},
           {"language_model.model.embed_tokens.weight", 20},
           {"vision_tower.vision_model.embeddings.position_embedding.weight", 10},
           {"vision_tower.vision_model.embeddings.patch_embedding.weight", 1}}) {
    const Matrix values = floats(weights.matrix(name, 501, cols));
    const Moments m = moments(values);
    const double deviation = gain / 20;
    EXPECT_NEAR(m.deviation, deviation, 0.01 * deviation) << name;
    EXPECT_NEAR(m.mean, 0, 4 * deviation / std::sqrt(501.0 * cols)) << name;
    EXPECT_LE(values.cwiseAbs().maxCoeff(), 1.7321 * deviation) << name;
    EXPECT_GT(values.cwiseAbs().maxCoeff(), 1.73 * deviation) << name;
  }
}

TEST(LlavaRandomWeights, NormsBiasesAndTheClass) {
  Weights weights = Weights::random(7);
  const std::string model = "vision_tower.vision_model.";
  for (const std::string& name :
       {model + "pre_layrnorm", model + "encoder.layers.3.layer_norm1",
        model + "encoder.layers.3.layer_norm2", model + "post_layernorm",
        std::string("language_model.model.norm"),
        std::string("language_model.model.layers.0.input_layernorm"),
        std::string("language_model.model.layers.0.post_attention_layernorm")}) {
    EXPECT_EQ(weights.vector(name + ".weight", 5), Vector::Ones(5)) << name;
    EXPECT_EQ(weights.vector(name + ".bias", 5), Vector::Zero(5)) << name;
  }
  EXPECT_EQ(weights.vector(model + "encoder.layers.0.mlp.fc1.bias", 5), Vector::Zero(5));
  const std::string name = model + "embeddings.class_embedding";
  const Vector token = weights.vector(name, 4001);
  EXPECT_NEAR(std::sqrt(token.squaredNorm() / 4001), 1, 0.03);
  EXPECT_EQ(weights.vector(name, 4001), token);
}

/// Values of a row, of a column, of the two halves, of two tensors have nothing to do with each
/// other.
TEST(LlavaRandomWeights, ValuesAreUncorrelated) {
  Weights weights = Weights::random(3);
  const Index n = 1 << 18;
  Eigen::VectorXd a = floats(weights.matrix("a", 1, n)).row(0).cast<double>();
  Eigen::VectorXd b = floats(weights.matrix("b", 1, n)).row(0).cast<double>();
  a.normalize();
  b.normalize();
  const double most = 5 / std::sqrt(static_cast<double>(n));
  EXPECT_LT(std::abs(a.dot(b)), most);
  for (const Index lag : {1, 2, 3, 64, 1024, 4096, 65536, 1 << 17, (1 << 17) + 1}) {
    EXPECT_LT(std::abs(a.head(n - lag).dot(a.tail(n - lag))), most) << lag;
    EXPECT_LT(std::abs(a.head(n - lag).dot(b.tail(n - lag))), most) << lag;
  }
}

TEST(LlavaRandomWeights, OddCountsAreFilled) {
  Weights weights = Weights::random(5);
  for (Index size = 1; size <= 9; ++size) {
    const Matrix values = floats(weights.matrix("w" + std::to_string(size), 1, size));
    // Of 65536 levels none is 0, so an untouched value would be the only one there could be.
    std::set<float> distinct(values.data(), values.data() + size);
    EXPECT_EQ(distinct.size(), static_cast<std::size_t>(size));
    EXPECT_TRUE((values.array() != 0.0F).all());
  }
}

TEST(LlavaRandomWeights, HalvesAreTheRoundedFloats) {
  Weights single = Weights::random(9);
  const std::vector<float> exact = list(single.matrix(kQuery, 33, 31));
  for (const Element element : {Element::f16, Element::bf16}) {
    Weights half = Weights::random(9, 0, element);
    const WeightMatrix stored = half.matrix(kQuery, 33, 31);
    EXPECT_EQ(stored.element, element);
    EXPECT_EQ(stored.floats(), nullptr);
    const std::vector<float> rounded = list(stored);
    for (std::size_t i = 0; i < exact.size(); ++i) {
      const float expected = element == Element::f16
                                 ? static_cast<float>(static_cast<Eigen::half>(exact[i]))
                                 : static_cast<float>(static_cast<Eigen::bfloat16>(exact[i]));
      ASSERT_EQ(rounded[i], expected) << i;
    }
    EXPECT_EQ(half.vector("language_model.model.norm.weight", 3), Vector::Ones(3));
  }
}

}  // namespace
