// SPDX-License-Identifier: Apache-2.0

// The code of tokenfold-reduce, all but its command line, on the golden files and on bad requests.

#include "../../examples/reduce/reduce.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <numeric>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace {

using reduce_tool::Request;
using safetensors::File;
using safetensors::Tensor;
using Integers = std::vector<std::int64_t>;

std::filesystem::path golden_path(const std::string& name) {
  return std::filesystem::path(TOKENFOLD_GOLDEN_DIR) / (name + ".safetensors");
}
File golden(const std::string& name) { return safetensors::load(golden_path(name)); }

Request discard(std::string method, tokenfold::Index count,
                std::vector<std::string> settings = {}) {
  Request request;
  request.method = std::move(method);
  request.settings = std::move(settings);
  request.discard = count;
  return request;
}
Request adaptive(std::string method, std::vector<std::string> settings = {}) {
  Request request;
  request.method = std::move(method);
  request.settings = std::move(settings);
  return request;
}
Request keep(std::string method, tokenfold::Index count, std::vector<std::string> settings = {}) {
  Request request = adaptive(std::move(method), std::move(settings));
  request.keep = count;
  return request;
}
Request ratio(std::string method, double share, std::vector<std::string> settings = {}) {
  Request request = adaptive(std::move(method), std::move(settings));
  request.keep_ratio = share;
  return request;
}

// Of the expected value; below `floor` of the tensor's largest, of that.
void expect_close(const std::vector<double>& actual, const std::vector<double>& expected,
                  double floor, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  double largest = 0;
  for (const double value : expected) largest = std::max(largest, std::abs(value));
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_LE(std::abs(actual[i] - expected[i]),
              std::max(1e-5 * std::abs(expected[i]), floor * largest))
        << what << "[" << i << "]: " << actual[i] << " instead of " << expected[i];
  }
}

// W · x for a column x, from the matrix as it was written.
std::vector<double> times(const File& out, const std::vector<double>& x) {
  const Integers offsets = out.tensors.at("plan_offsets").int64s();
  const Integers columns = out.tensors.at("plan_columns").int64s();
  const std::vector<double> weights = out.tensors.at("plan_weights").doubles();
  std::vector<double> y;
  for (std::size_t row = 0; row + 1 < offsets.size(); ++row) {
    double sum = 0;
    for (auto e = static_cast<std::size_t>(offsets[row]);
         e < static_cast<std::size_t>(offsets[row + 1]); ++e) {
      sum += weights[e] * x[static_cast<std::size_t>(columns[e])];
    }
    y.push_back(sum);
  }
  return y;
}

std::vector<double> column(const Tensor& matrix, std::size_t index) {
  const std::vector<double> values = matrix.doubles();
  const auto width = static_cast<std::size_t>(matrix.shape[1]);
  std::vector<double> out;
  for (std::size_t i = index; i < values.size(); i += width) out.push_back(values[i]);
  return out;
}

// --- The golden files ----------------------------------------------------------------------------

struct Case {
  std::string name;
  Request request;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"ficoco_v_g4x4_r4", discard("ficoco_v", 4)},
      {"ficoco_v_g5x7_ragged_r9", discard("ficoco_v", 9)},
      {"ficoco_v_g6x6_alive25_r6", discard("ficoco_v", 6)},
      {"ficoco_v_g6x6_nocls_r10", discard("ficoco_v", 10)},
      {"ficoco_v_g8x8_logits_given_l2_r12", discard("ficoco_v", 12, {"preset=released"})},
      {"ficoco_v_g12x12_r42", discard("ficoco_v", 42, {"epsilon=0.98"})},
      {"ficoco_l_paper_s5_v36_t9_r10", discard("ficoco_l", 10)},
      {"ficoco_l_paper_s0_v64_t6_r20_logits_given", discard("ficoco_l", 20, {"direction=given"})},
      {"ficoco_l_paper_s20_v144_t15_r42", discard("ficoco_l", 42, {"epsilon=0.98"})},
      {"ficoco_l_released_v20_t8_r4", discard("ficoco_l", 4, {"preset=released"})},
      {"ficoco_l_released_v45_t10_r12_noprotect",
       discard("ficoco_l", 12, {"protect_first=false", "preset=released"})},
      {"ficoco_l_released_v144_t20_r42", discard("ficoco_l", 42, {"preset=released"})},
      {"ficoco_l_released_v520_t10_r42_topk2", discard("ficoco_l", 42, {"preset=released"})},
      {"prumerge_n36_adaptive", adaptive("prumerge", {"preset=released"})},
      {"prumerge_n64_ratio8", ratio("prumerge", 0.125, {"preset=released"})},
      {"prumerge_n98_adaptive_trunc", adaptive("prumerge", {"preset=released"})},
      {"prumerge_n144_adaptive", adaptive("prumerge", {"preset=released"})},
      {"prumerge_plus_n576_adaptive", adaptive("prumerge_plus", {"preset=released"})},
      {"prumerge_plus_n576_ratio8",
       adaptive("prumerge_plus", {"preset=released", "released_share=0.125"})},
      {"evit_n16_keep50_fuse", ratio("evit", 0.5, {"preset=released"})},
      {"evit_n36_tokens10_fuse", keep("evit", 10, {"preset=released"})},
      {"evit_n49_keep70_nofuse", ratio("evit", 0.7, {"preset=released", "fuse=false"})},
      {"evit_n144_keep50_fuse", ratio("evit", 0.5, {"preset=released"})},
      {"fastv_s5_n24_t9_r50", ratio("fastv", 0.5)},
      {"fastv_s3_n25_t7_r50_halfeven", ratio("fastv", 0.5)},
      {"fastv_s0_n27_t6_r50_halfeven", ratio("fastv", 0.5)},
      {"fastv_s20_n144_t15_r75", ratio("fastv", 0.25, {"preset=released"})},
  };
  return all;
}

// The forms of attention that the golden files hold.
const std::vector<std::string>& forms() {
  static const std::vector<std::string> names = {
      "attention", "head_mean_logits",    "logits",
      "queries",   "cls_attention_heads", "attention_last"};
  return names;
}

bool is_input(const std::string& name) {
  return name == "tokens" || name == "keys" || name == "grid_positions" ||
         std::find(forms().begin(), forms().end(), name) != forms().end();
}

class ReduceGolden : public testing::TestWithParam<Case> {};

// Every tensor of the file that is no input. Computed in float, sums whose terms cancel are off by
// the rounding of their terms.
void expect_golden(const File& out, const File& expected, double floor) {
  for (const auto& [name, tensor] : expected.tensors) {
    SCOPED_TRACE(name);
    if (is_input(name)) continue;
    if (name == "sizes_unused") {  // the merge applied to ones, visual rows only
      const std::vector<double> ones(
          static_cast<std::size_t>(expected.tensors.at("tokens").shape[0]), 1.0);
      std::vector<double> sums = times(out, ones);
      sums.resize(static_cast<std::size_t>(tensor.shape[0]));
      expect_close(sums, tensor.doubles(), floor, name);
      continue;
    }
    ASSERT_TRUE(out.has(name));
    const Tensor& actual = out.tensors.at(name);
    EXPECT_EQ(actual.shape, tensor.shape);
    if (tensor.dtype == safetensors::Dtype::i64) {
      EXPECT_EQ(actual.int64s(), tensor.int64s());
    } else {
      expect_close(actual.doubles(), tensor.doubles(), floor, name);
    }
  }
}

TEST_P(ReduceGolden, EveryTensorOfTheFileFromEveryForm) {
  const auto& [name, request] = GetParam();
  const File file = golden(name);
  for (const bool in_double : {false, true}) {
    for (const std::string& form : forms()) {
      if (!file.has(form)) continue;
      SCOPED_TRACE(form + (in_double ? " in double" : " in float"));
      Request exact = request;
      exact.in_double = in_double;
      exact.settings.push_back("attention=" + form);
      expect_golden(reduce_tool::reduce(file, exact), file, in_double ? 1e-7 : 1e-6);
    }
  }
}

TEST_P(ReduceGolden, TheWrittenMatrixGivesTheOutput) {
  const auto& [name, request] = GetParam();
  const File file = golden(name);
  const File out = safetensors::parse(safetensors::serialize(reduce_tool::reduce(file, request)));
  const Tensor& output = out.tensors.at("output");
  for (std::size_t d = 0; d < static_cast<std::size_t>(output.shape[1]); ++d) {
    expect_close(times(out, column(file.tensors.at("tokens"), d)), column(output, d), 1e-6,
                 "output");
  }
  EXPECT_EQ(out.metadata.at("method"), request.method);
  EXPECT_EQ(out.metadata.at("output_rows"), std::to_string(output.shape[0]));
  EXPECT_EQ(out.tensors.at("sizes_out").shape[0], output.shape[0]);
  EXPECT_EQ(out.tensors.at("plan_kept").shape[0], output.shape[0]);
}

INSTANTIATE_TEST_SUITE_P(Files, ReduceGolden, testing::ValuesIn(cases()),
                         [](const auto& param) { return param.param.name; });

// --- Forms of the input --------------------------------------------------------------------------

std::vector<float> floats(const File& file, const std::string& name) {
  return file.tensors.at(name).floats();
}

Tensor tensor(std::vector<std::int64_t> shape, const std::vector<float>& values) {
  return safetensors::make(std::move(shape), std::span(values));
}

void expect_same(const File& a, const File& b) {
  EXPECT_EQ(a.tensors.at("kept_indices").int64s(), b.tensors.at("kept_indices").int64s());
  expect_close(a.tensors.at("output").doubles(), b.tensors.at("output").doubles(), 1e-6, "output");
}

TEST(ReduceForms, OneRowOfAttentionServesPruMerge) {
  const File whole = golden("ficoco_v_g6x6_alive25_r6");
  File file = whole;
  const std::int64_t h = whole.tensors.at("attention").shape[0];
  const std::int64_t p = whole.tensors.at("attention").shape[1];
  std::vector<float> patches;
  std::vector<float> all;
  const std::vector<float> attention = floats(whole, "attention");
  for (std::int64_t i = 0; i < h; ++i) {
    const auto row = attention.begin() + i * p * p;
    patches.insert(patches.end(), row + 1, row + p);
    all.insert(all.end(), row, row + p);
  }
  const Request mean = adaptive("prumerge", {"heads=mean"});
  const File expected = reduce_tool::reduce(whole, mean);
  EXPECT_EQ(expected.metadata.at("option.attention"), "attention");
  file.tensors.erase("attention");
  file.tensors["cls_attention_heads"] = tensor({h, p - 1}, patches);
  const File out = reduce_tool::reduce(file, mean);
  EXPECT_EQ(out.metadata.at("option.attention"), "cls_attention_heads");
  expect_same(out, expected);
}

// The rows of a [blocks, p, width] tensor, the first one moved to the end.
Tensor first_row_last(const Tensor& from) {
  const auto width = static_cast<std::size_t>(from.shape.back());
  const auto rows = static_cast<std::size_t>(from.shape[from.shape.size() - 2]);
  std::vector<float> values = from.floats();
  for (auto row = values.begin(); row != values.end();) {
    const auto next = row + static_cast<std::ptrdiff_t>(rows * width);
    std::rotate(row, row + static_cast<std::ptrdiff_t>(width), next);
    row = next;
  }
  return tensor(from.shape, values);
}

TEST(ReduceForms, LastRowOfAttentionServesPruMergeIfClsIsLast) {
  const File whole = golden("ficoco_v_g6x6_alive25_r6");
  File file;
  file.metadata = whole.metadata;
  file.tensors["grid_positions"] = whole.tensors.at("grid_positions");
  for (const char* name : {"tokens", "queries", "keys"}) {
    file.tensors[name] = first_row_last(whole.tensors.at(name));
  }
  const std::vector<std::string> settings = {"heads=mean", "cls=last"};
  const File expected = reduce_tool::reduce(file, adaptive("prumerge", settings));
  EXPECT_EQ(expected.metadata.at("option.attention"), "queries");
  EXPECT_EQ(expected.metadata.at("option.visual_begin"), "0");

  const std::int64_t h = whole.tensors.at("attention").shape[0];
  const std::int64_t p = whole.tensors.at("attention").shape[1];
  const std::vector<float> attention = floats(whole, "attention");
  std::vector<float> last;
  for (std::int64_t i = 0; i < h; ++i) {
    const auto row = attention.begin() + i * p * p;
    last.insert(last.end(), row + 1, row + p);
    last.push_back(*row);
  }
  file.tensors.erase("queries");
  file.tensors["attention_last"] = tensor({h, p}, last);
  const File out = reduce_tool::reduce(file, adaptive("prumerge", settings));
  EXPECT_EQ(out.metadata.at("option.attention"), "attention_last");
  expect_same(out, expected);
}

TEST(ReduceForms, TheClsQueryAloneServesPruMerge) {
  const File whole = golden("prumerge_n64_ratio8");
  File file = whole;
  const std::int64_t width = whole.tensors.at("queries").shape[1];
  std::vector<float> query = floats(whole, "queries");
  query.resize(static_cast<std::size_t>(width));
  file.tensors.erase("queries");
  file.tensors["queries_cls"] = tensor({1, width}, query);
  const Request request = ratio("prumerge", 0.125, {"preset=released"});
  expect_golden(reduce_tool::reduce(file, request), whole, 1e-6);
}

TEST(ReduceForms, TheClsQueryAloneServesEViT) {
  const File whole = golden("evit_n16_keep50_fuse");
  File file = whole;
  const std::vector<float> queries = floats(whole, "queries");
  std::vector<float> query;  // [H, P, d]: the first row of each head
  for (const std::ptrdiff_t head : {0, 17 * 8}) {
    query.insert(query.end(), queries.begin() + head, queries.begin() + head + 8);
  }
  for (const char* name : {"queries", "attention", "cls_attention_heads"}) file.tensors.erase(name);
  file.tensors["queries_cls"] = tensor({1, 16}, query);
  const File out = reduce_tool::reduce(file, ratio("evit", 0.5, {"preset=released"}));
  EXPECT_EQ(out.metadata.at("option.attention"), "queries_cls");
  expect_golden(out, whole, 1e-6);
}

// The last row of each head of `attention`, as attention_last [H, P].
void leave_last_row(File& file) {
  const Tensor whole = file.tensors.at("attention");
  const std::int64_t p = whole.shape[2];
  const std::vector<float> attention = whole.floats();
  std::vector<float> last;
  for (std::int64_t head = 1; head <= whole.shape[0]; ++head) {
    const auto end = attention.begin() + head * p * p;
    last.insert(last.end(), end - p, end);
  }
  file.tensors.erase("attention");
  file.tensors["attention_last"] = tensor({whole.shape[0], p}, last);
}

TEST(ReduceForms, TheLastRowOfAttentionServesFastV) {
  for (const char* name : {"fastv_s5_n24_t9_r50", "fastv_s0_n27_t6_r50_halfeven"}) {
    const File whole = golden(name);
    File file = whole;
    leave_last_row(file);
    const File out = reduce_tool::reduce(file, ratio("fastv", 0.5));
    EXPECT_EQ(out.metadata.at("option.attention"), "attention_last");
    expect_golden(out, whole, 1e-7);
  }
}

TEST(ReduceForms, DoubleAndHalfInputsAreRead) {
  File file = golden("ficoco_v_g4x4_r4");
  const File expected = reduce_tool::reduce(file, discard("ficoco_v", 4));
  const Tensor& tokens = file.tensors.at("tokens");
  const std::vector<double> values = tokens.doubles();
  Tensor wide{safetensors::Dtype::f64, tokens.shape, {}};
  const auto raw = std::as_bytes(std::span(values));
  wide.bytes.assign(raw.begin(), raw.end());
  Tensor half{safetensors::Dtype::bf16, tokens.shape, {}};
  half.bytes.resize(values.size() * 2);
  file.tensors["tokens"] = wide;
  expect_same(reduce_tool::reduce(file, discard("ficoco_v", 4)), expected);
  file.tensors["tokens"] = half;  // zeros: the decision does not depend on the tokens
  const File out = reduce_tool::reduce(file, discard("ficoco_v", 4));
  EXPECT_EQ(out.tensors.at("kept_indices").int64s(), expected.tensors.at("kept_indices").int64s());
  EXPECT_EQ(floats(out, "output"), std::vector<float>(floats(expected, "output").size(), 0.0f));
}

TEST(ReduceForms, TheLayoutNeedsNoMetadata) {
  for (const char* name : {"ficoco_v_g4x4_r4", "ficoco_v_g6x6_nocls_r10"}) {
    File file = golden(name);
    const File expected = reduce_tool::reduce(file, discard("ficoco_v", 3));
    file.metadata.clear();
    file.tensors.erase("grid_positions");
    expect_same(reduce_tool::reduce(file, discard("ficoco_v", 3)), expected);
  }
  File ragged = golden("ficoco_v_g5x7_ragged_r9");
  const File expected = reduce_tool::reduce(ragged, discard("ficoco_v", 9));
  ragged.metadata.clear();
  expect_same(reduce_tool::reduce(ragged, discard("ficoco_v", 9, {"grid=5x7"})), expected);
  ragged.tensors.erase("grid_positions");
  expect_same(reduce_tool::reduce(ragged, discard("ficoco_v", 9, {"grid=5x7"})), expected);
}

TEST(ReduceForms, SettingsGoBeforeMetadata) {
  const File file = golden("ficoco_l_paper_s5_v36_t9_r10");
  const File out = reduce_tool::reduce(file, discard("ficoco_l", 4, {"visual_count=30"}));
  EXPECT_EQ(out.metadata.at("visual_tokens"), "30");
  EXPECT_EQ(out.metadata.at("option.visual_begin"), "5");
  EXPECT_EQ(out.metadata.at("option.text_after"), "9");
  EXPECT_EQ(out.metadata.at("option.causal"), "true");
}

// --- Options -------------------------------------------------------------------------------------

TEST(ReduceOptions, AreListedWithTypeAndDefault) {
  const std::string list = reduce_tool::list_methods();
  for (const auto& entry : reduce_tool::methods) {
    EXPECT_NE(list.find(entry.name), std::string::npos);
    const std::string options = reduce_tool::list_options(entry.name);
    EXPECT_NE(options.find("preset=default  (default|released|published)"), std::string::npos);
    EXPECT_NE(options.find("grid=auto  (HxW|none)"), std::string::npos);
  }
  EXPECT_NE(reduce_tool::list_options("ficoco_v").find("lambda=0.35  (number)"), std::string::npos);
  EXPECT_NE(reduce_tool::list_options("prumerge").find("neighbours=32  (integer)"),
            std::string::npos);
}

// What an option prints, it reads; in every preset.
TEST(ReduceOptions, ReadWhatTheyWrite) {
  for (const auto& entry : reduce_tool::methods) {
    for (const char* preset : {"default", "released", "published"}) {
      reduce_tool::Job job(entry.name);
      job.set({std::string("preset=") + preset});
      std::set<std::string> names;
      for (const reduce_tool::Option& option : job.options().list()) {
        EXPECT_TRUE(names.insert(option.name).second) << option.name;
        EXPECT_FALSE(option.meaning.empty());
        const std::string before = option.write();
        if (before == "auto") continue;
        EXPECT_TRUE(option.parse(before)) << option.name << "=" << before;
        EXPECT_EQ(option.write(), before);
      }
    }
  }
}

TEST(ReduceOptions, ThePresetIsAppliedFirstWhereverItStands) {
  const File file = golden("ficoco_v_g8x8_logits_given_l2_r12");
  const File out =
      reduce_tool::reduce(file, discard("ficoco_v", 12, {"lambda=0.5", "preset=released"}));
  EXPECT_EQ(out.metadata.at("option.lambda"), "0.5");
  EXPECT_EQ(out.metadata.at("option.direction"), "given");
  EXPECT_EQ(out.metadata.at("option.normalization"), "l2");
}

TEST(ReduceOptions, TargetPoliciesShareEverySourceOut) {
  const File file = golden("ficoco_v_g12x12_r42");
  std::set<std::size_t> widths;
  for (const char* targets : {"targets=fixed", "targets=relative", "targets=nucleus"}) {
    const File out = reduce_tool::reduce(
        file, discard("ficoco_v", 42, {targets, "count=3", "share=0.9", "mass=0.1"}));
    const Tensor& weights = out.tensors.at("target_weights");
    const auto width = static_cast<std::size_t>(weights.shape[1]);
    widths.insert(width);
    std::vector<double> sums(42, 0.0);
    const std::vector<double> values = weights.doubles();
    for (std::size_t i = 0; i < values.size(); ++i) sums[i / width] += values[i];
    expect_close(sums, std::vector<double>(42, 1.0), 1e-6, targets);
    if (std::string(targets) == "targets=fixed") {
      EXPECT_EQ(width, 3U);
    }
  }
  EXPECT_GT(widths.size(), 1U);
  const File none =
      reduce_tool::reduce(file, discard("ficoco_v", 42, {"targets=fixed", "count=0"}));
  EXPECT_EQ(none.tensors.at("link_weights").size(), 0);
  EXPECT_EQ(none.tensors.at("target_indices").shape, (Integers{42, 0}));
}

TEST(ReduceOptions, TheRecycledShareIsCapped) {
  const File file = golden("ficoco_v_g12x12_r42");
  const auto most = [&](const std::vector<std::string>& settings) {
    const File out = reduce_tool::reduce(file, discard("ficoco_v", 100, settings));
    const Integers targets = out.tensors.at("link_dst_indices").int64s();
    const std::vector<double> weights = out.tensors.at("link_weights").doubles();
    std::vector<double> sums(145, 0.0);
    for (std::size_t i = 0; i < targets.size(); ++i) {
      sums[static_cast<std::size_t>(targets[i])] += weights[i];
    }
    return *std::max_element(sums.begin(), sums.end());
  };
  EXPECT_GT(most({}), 1.5);
  EXPECT_NEAR(most({"max_recycled_share=0.5"}), 1.0, 1e-5);
}

TEST(ReduceOptions, SpecialRowsAreKeptOrNot) {
  const File file = golden("prumerge_n36_adaptive");
  const File patches = reduce_tool::reduce(file, adaptive("prumerge"));
  const File all = reduce_tool::reduce(file, adaptive("prumerge", {"keep_special=true"}));
  EXPECT_EQ(all.tensors.at("output").shape[0], patches.tensors.at("output").shape[0] + 1);
  EXPECT_EQ(all.tensors.at("kept_indices").int64s().front(), 0);
  Integers kept = all.tensors.at("kept_indices").int64s();
  kept.erase(kept.begin());
  EXPECT_EQ(kept, patches.tensors.at("kept_indices").int64s());
  const Integers rows = patches.tensors.at("plan_kept").int64s();
  EXPECT_EQ(rows.back(), -1);  // the extra token

  const File bare = reduce_tool::reduce(golden("ficoco_l_paper_s5_v36_t9_r10"),
                                        discard("ficoco_l", 10, {"keep_special=false"}));
  EXPECT_EQ(bare.tensors.at("output").shape[0], 26);
  for (const std::int64_t row : bare.tensors.at("target_rows").int64s()) EXPECT_LT(row, 26);
}

TEST(ReduceOptions, SizesAreConserved) {
  File file = golden("ficoco_v_g4x4_r4");
  std::vector<float> sizes(17, 2.0f);
  sizes[0] = 1.0f;
  file.tensors["sizes_in"] = tensor({17}, sizes);
  const std::vector<float> out =
      floats(reduce_tool::reduce(file, discard("ficoco_v", 4)), "sizes_out");
  double total = 0;
  for (const float size : out) total += static_cast<double>(size);
  EXPECT_NEAR(total, 33.0, 1e-4);
}

TEST(ReduceOptions, TheDefaultRoundingIsTheMethods) {
  const auto rounded = [](const char* name, const Request& request) {
    const File out = reduce_tool::reduce(golden(name), request);
    return std::pair(
        out.metadata.at("option.rounding"),
        out.tensors.at("scores").shape[0] - out.tensors.at("discarded_indices").shape[0]);
  };
  using Rounded = std::pair<std::string, std::int64_t>;
  const char* evit = "evit_n49_keep70_nofuse";  // 34.3
  EXPECT_EQ(rounded(evit, ratio("evit", 0.7)), Rounded("ceil", 35));
  EXPECT_EQ(rounded(evit, ratio("evit", 0.7, {"rounding=floor"})), Rounded("floor", 34));
  EXPECT_EQ(rounded(evit, ratio("evit", 0.7, {"rounding=nearest_even"})),
            Rounded("nearest_even", 34));
  const char* fastv = "fastv_s3_n25_t7_r50_halfeven";  // 12.5
  EXPECT_EQ(rounded(fastv, ratio("fastv", 0.5)), Rounded("nearest_even", 12));
  EXPECT_EQ(rounded(fastv, ratio("fastv", 0.5, {"rounding=ceil"})), Rounded("ceil", 13));
}

TEST(ReduceOptions, EViTInRasterOrderAndWithoutTheFusedToken) {
  const File file = golden("evit_n16_keep50_fuse");
  const File raster = reduce_tool::reduce(file, ratio("evit", 0.5));
  Integers kept = file.tensors.at("kept_indices").int64s();
  std::sort(kept.begin(), kept.end());
  EXPECT_EQ(raster.tensors.at("kept_indices").int64s(), kept);
  EXPECT_EQ(raster.metadata.at("extra_tokens"), "1");

  const File score = reduce_tool::reduce(file, ratio("evit", 0.5, {"order=score", "rule=mean"}));
  EXPECT_EQ(score.tensors.at("kept_indices").int64s(), file.tensors.at("kept_indices").int64s());
  EXPECT_NEAR(times(score, std::vector<double>(17, 1.0)).back(), 1.0, 1e-6);

  const File bare = reduce_tool::reduce(file, ratio("evit", 0.5, {"fuse=false"}));
  EXPECT_EQ(bare.metadata.at("extra_tokens"), "0");
  EXPECT_EQ(bare.tensors.at("output").shape[0], 9);
}

TEST(ReduceOptions, FastVAsPublishedAveragesOverAllTokens) {
  const File file = golden("fastv_s5_n24_t9_r50");
  const std::vector<double> attention = file.tensors.at("attention").doubles();  // [2, 38, 38]
  std::vector<double> scores(24, 0.0);
  for (std::size_t row = 0; row < 2 * 38; ++row) {
    for (std::size_t v = 0; v < 24; ++v) scores[v] += attention[row * 38 + 5 + v] / (2 * 38);
  }
  std::vector<std::int64_t> best(24);
  std::iota(best.begin(), best.end(), 5);
  std::sort(best.begin(), best.end(), [&](std::int64_t a, std::int64_t b) {
    return scores[static_cast<std::size_t>(a - 5)] > scores[static_cast<std::size_t>(b - 5)];
  });
  best.resize(12);
  const File out = reduce_tool::reduce(file, ratio("fastv", 0.5, {"preset=published"}));
  EXPECT_EQ(out.metadata.at("option.score"), "all_tokens");
  expect_close(out.tensors.at("scores").doubles(), scores, 1e-6, "scores");
  EXPECT_EQ(out.tensors.at("top_indices").int64s(), best);
}

// --- Refusals ------------------------------------------------------------------------------------

std::string refusal(const File& file, const Request& request) {
  try {
    reduce_tool::reduce(file, request);
  } catch (const std::exception& error) {
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.what();
  }
  return "";
}

struct Refusal {
  std::string name;
  std::string golden;
  Request request;
  std::vector<std::string> parts;  // of the message
  std::function<void(File&)> change = [](File&) {};
};

Request two_budgets() {
  Request request = discard("ficoco_v", 4);
  request.keep = 12;
  return request;
}
Request forced_adaptive() {
  Request request = adaptive("ficoco_v");
  request.adaptive = true;
  return request;
}

std::vector<Refusal> refusals() {
  const std::string v = "ficoco_v_g4x4_r4";
  const std::string l = "ficoco_l_paper_s5_v36_t9_r10";
  const std::string m = "prumerge_n36_adaptive";
  const std::string e = "evit_n16_keep50_fuse";
  const std::string f = "fastv_s5_n24_t9_r50";
  const auto erase = [](std::vector<std::string> names) {
    return [names](File& file) {
      for (const std::string& name : names) file.tensors.erase(name);
    };
  };
  const auto reshape = [](std::string name, Integers shape) {
    return [name, shape](File& file) { file.tensors.at(name).shape = shape; };
  };
  const auto replace = [](std::string name, Integers shape) {
    return [name, shape](File& file) {
      std::int64_t size = 1;
      for (const std::int64_t extent : shape) size *= extent;
      file.tensors[name] = tensor(shape, std::vector<float>(static_cast<std::size_t>(size)));
    };
  };
  const auto forget = [](File& file) {
    file.metadata.clear();
    file.tensors.erase("grid_positions");
  };
  return {
      {"UnknownMethod", v, discard("ficoco", 4), {"\"ficoco\"", "ficoco_v, ficoco_l, prumerge"}},
      {"UnknownOption", v, discard("ficoco_v", 4, {"lamda=1"}), {"\"lamda\"", "known: preset, la"}},
      {"NoEquals", v, discard("ficoco_v", 4, {"lambda"}), {"name=value", "\"lambda\""}},
      {"NoName", v, discard("ficoco_v", 4, {"=1"}), {"name=value"}},
      {"NotANumber", v, discard("ficoco_v", 4, {"lambda=1x"}), {"lambda takes number", "\"1x\""}},
      {"NotFinite", v, discard("ficoco_v", 4, {"lambda=nan"}), {"lambda takes number"}},
      {"NotAnInteger", m, adaptive("prumerge", {"neighbours=1.5"}), {"takes integer", "\"1.5\""}},
      {"NotABool", v, discard("ficoco_v", 4, {"strict=1"}), {"strict takes true|false"}},
      {"NotAName", v, discard("ficoco_v", 4, {"direction=in"}), {"takes received|given", "\"in\""}},
      {"NotAGrid", v, discard("ficoco_v", 4, {"grid=4"}), {"grid takes HxW|none"}},
      {"HugeGrid", v, discard("ficoco_v", 4, {"grid=2000000000x2000000000"}), {"grid takes HxW"}},
      {"NotAPreset", v, discard("ficoco_v", 4, {"preset=best"}), {"default|released|published"}},
      {"OutOfRange", v, discard("ficoco_v", 4, {"lambda=2"}), {"lambda must lie in [0, 1], got 2"}},
      {"TwoBudgets", v, two_budgets(), {"more than one budget: keep 12 and discard 4"}},
      {"NoBudget", v, adaptive("ficoco_v"), {"no budget", "--keep N"}},
      {"NotAdaptive", v, forced_adaptive(), {"ficoco_v has no rule of its own", "--keep N"}},
      {"TooMany", v, discard("ficoco_v", 17), {"cannot discard 17 of 16"}},
      {"Negative", v, discard("ficoco_v", -1), {"cannot discard -1"}},
      {"BadRatio", v, ratio("ficoco_v", 1.5), {"keep_ratio must lie in [0, 1]"}},
      {"NoTokens",
       v,
       discard("ficoco_v", 4),
       {"no tensor tokens", "\"keys\" [2, 17, 8]"},
       erase({"tokens"})},
      {"TokensOfRankThree",
       v,
       discard("ficoco_v", 4),
       {"tokens must be [P, D]", "[1, 17, 16]"},
       reshape("tokens", {1, 17, 16})},
      {"IntegerTokens",
       v,
       discard("ficoco_v", 4),
       {"tensor tokens", "I64"},
       [](File& file) { file.tensors["tokens"] = file.tensors.at("kept_indices"); }},
      {"NoAttention",
       v,
       discard("ficoco_v", 4),
       {"ficoco_v needs attention", "attention [H, P, P]", "queries [H, P, d] with keys",
        "\"keys\" [2, 17, 8]"},
       erase({"attention", "queries"})},
      {"NoSuchAttention",
       v,
       discard("ficoco_v", 4, {"attention=logits"}),
       {"no tensor logits", "\"attention\" [2, 17, 17]"}},
      {"UnknownAttention",
       v,
       discard("ficoco_v", 4, {"attention=attn"}),
       {"\"attn\" is none of attention", "cls_attention_heads", "queries_cls"}},
      {"NarrowAttention",
       v,
       discard("ficoco_v", 4),
       {"attention must be", "P = 17", "[2, 17, 16]"},
       replace("attention", {2, 17, 16})},
      {"ShortAttention",
       v,
       discard("ficoco_v", 4),
       {"attention must be", "17 rows", "[2, 16, 17]"},
       replace("attention", {2, 16, 17})},
      {"ShortKeys",
       v,
       discard("ficoco_v", 4, {"attention=queries"}),
       {"keys must be", "17 rows", "[2, 16, 8]"},
       replace("keys", {2, 16, 8})},
      {"OtherHeadSize",
       v,
       discard("ficoco_v", 4, {"attention=queries"}),
       {"queries have 8 channels a head, keys 4"},
       replace("keys", {2, 17, 4})},
      {"NoKeysWithoutCls",
       "ficoco_v_g6x6_nocls_r10",
       discard("ficoco_v", 10),
       {"ficoco_v needs keys", "if there is no [CLS] row"},
       erase({"keys"})},
      {"NoKeys", m, adaptive("prumerge"), {"prumerge needs attention", "keys"}, erase({"keys"})},
      {"LogitsAsProbabilities",
       "ficoco_v_g8x8_logits_given_l2_r12",
       discard("ficoco_v", 12, {"attention=head_mean_logits", "kind=probabilities"}),
       {"head_mean_logits holds logits", "kind=probabilities"}},
      {"ReleasedWantsLogits",
       v,
       discard("ficoco_v", 4, {"preset=released"}),
       {"needs attention (logits)"},
       erase({"queries"})},
      {"SingleHeadOfMany",
       v,
       adaptive("prumerge", {"attention=attention"}),
       {"one head of the full width", "queries and keys", "heads=mean"}},
      {"OneRowIsNotEnough",
       v,
       discard("ficoco_v", 4, {"attention=cls_attention_heads"}),
       {"were asked for, but the source holds [0, 1)"},
       replace("cls_attention_heads", {2, 16})},
      {"ClsRowOfOtherLength",
       v,
       adaptive("prumerge", {"heads=mean", "attention=cls_attention_heads"}),
       {"cls_attention_heads must be [H, 16]", "[2, 15]"},
       replace("cls_attention_heads", {2, 15})},
      {"ClsQueryOfOtherWidth",
       m,
       adaptive("prumerge"),
       {"queries_cls must be [1, 16]", "[1, 15]"},
       [=](File& file) {
         file.tensors.erase("queries");
         replace("queries_cls", {1, 15})(file);
       }},
      {"UnclearEncoder",
       "ficoco_v_g5x7_ragged_r9",
       discard("ficoco_v", 9),
       {"cannot tell which of the 36 rows", "there are 35 visual rows and [CLS]"},
       [=](File& file) {
         forget(file);
         file.metadata["visual_count"] = "35";
         file.metadata["cls"] = "last";
         file.metadata["text_after"] = "1";
       }},
      {"UnclearRows",
       "ficoco_v_g5x7_ragged_r9",
       discard("ficoco_v", 9),
       {"cannot tell which of the 35 rows", "grid=HxW"},
       [=](File& file) {
         forget(file);
         replace("tokens", {35, 4})(file);
       }},
      {"UnclearDecoder",
       l,
       discard("ficoco_l", 4),
       {"cannot tell which of the 50", "visual_count"},
       forget},
      {"NoText", l, discard("ficoco_l", 4, {"text_after=0"}), {"no text tokens after the image"}},
      {"RowsOutside", l, discard("ficoco_l", 4, {"visual_count=60"}), {"[0, 50], got 60"}},
      {"RowsTooMany", l, discard("ficoco_l", 4, {"visual_count=40"}), {"text rows [45, 54)"}},
      {"NoGrid",
       "ficoco_v_g5x7_ragged_r9",
       discard("ficoco_v", 9, {"cls=first"}),
       {"local penalty needs a patch grid", "grid=HxW"},
       forget},
      {"GridOfOtherSize", v, discard("ficoco_v", 4, {"grid=3x5"}), {"does not exist on a grid"}},
      {"CellsWithoutGrid",
       "ficoco_v_g6x6_alive25_r6",
       discard("ficoco_v", 6),
       {"grid_positions", "grid=HxW"},
       [](File& file) { file.metadata.clear(); }},
      {"CellsAreNumbers",
       v,
       discard("ficoco_v", 4),
       {"grid_positions", "F32"},
       replace("grid_positions", {16})},
      {"ClsOutside", v, discard("ficoco_v", 4, {"cls=17"}), {"[CLS]"}},
      {"PruMergeWithoutCls", m, adaptive("prumerge", {"cls=none"}), {"no [CLS] row"}},
      {"EViTWithoutCls", e, ratio("evit", 0.5, {"cls=none"}), {"no [CLS] row"}},
      {"EViTWithoutClsNorAttention",
       e,
       ratio("evit", 0.5, {"cls=none", "visual_begin=1"}),
       {"cls_attention_heads needs a [CLS] row", "cls=ROW"},
       erase({"attention", "queries"})},
      {"EViTWithoutAttention",
       e,
       ratio("evit", 0.5),
       {"evit needs attention (probabilities)", "attention [H, P, P], cls_attention_heads [H, N]"},
       erase({"attention", "queries", "cls_attention_heads"})},
      {"EViTIsNotAdaptive", e, adaptive("evit"), {"no budget"}},
      {"FastVWithoutAttention",
       f,
       ratio("fastv", 0.5),
       {"fastv needs attention (probabilities)", "attention [H, P, P], attention_last [H, P]"},
       erase({"attention"})},
      {"TheLastRowIsNotTheQuestions",
       f,
       ratio("fastv", 0.5, {"text_after=8"}),
       {"fastv needs attention (probabilities)", "\"attention_last\" [2, 38]"},
       leave_last_row},
      {"TheLastRowIsNotAllTokens",
       f,
       ratio("fastv", 0.5, {"score=all_tokens"}),
       {"fastv needs attention (probabilities)", "\"attention_last\" [2, 38]"},
       leave_last_row},
      {"LastRowOfOtherLength",
       f,
       ratio("fastv", 0.5, {"attention=attention_last"}),
       {"attention_last must be [H, 38]", "[2, 37]"},
       replace("attention_last", {2, 37})},
      {"SizesOfOtherLength",
       v,
       discard("ficoco_v", 4),
       {"sizes_in must be [P]", "[16]"},
       replace("sizes_in", {16})},
  };
}

class ReduceRefuses : public testing::TestWithParam<Refusal> {};

TEST_P(ReduceRefuses, WithAMessage) {
  const Refusal& param = GetParam();
  File file = golden(param.golden);
  param.change(file);
  for (const bool in_double : {false, true}) {
    Request request = param.request;
    request.in_double = in_double;
    const std::string message = refusal(file, request);
    for (const std::string& part : param.parts) {
      EXPECT_NE(message.find(part), std::string::npos)
          << "message: \"" << message << "\", expected in it: " << part;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, ReduceRefuses, testing::ValuesIn(refusals()),
                         [](const auto& param) { return param.param.name; });

TEST(ReduceRefuses, FilesThatCannotBeReadOrWritten) {
  const auto message = [](const std::function<void()>& action) -> std::string {
    try {
      action();
    } catch (const std::exception& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(message([] { safetensors::load("/nowhere/in"); }), "/nowhere/in: no such file");
  EXPECT_EQ(message([] { safetensors::save("/nowhere/out", {}); }),
            "/nowhere/out: cannot open the file for writing");
}

// A metadata key of the same name that means something else is no refusal.
TEST(ReduceMetadata, ForeignValuesArePassedOver) {
  File file = golden("ficoco_v_g4x4_r4");
  const File expected = reduce_tool::reduce(file, discard("ficoco_v", 4));
  file.metadata = {{"grid", "arange(0, 575, 12)"}, {"kind", "?"}, {"causal", ""}, {"cls", "yes"}};
  expect_same(reduce_tool::reduce(file, discard("ficoco_v", 4)), expected);
}

}  // namespace
