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
      {"tome_n16_cls_r4", discard("tome", 4)},
      {"tome_n28_cls_distill_r7", discard("tome", 7, {"cls=first", "visual_begin=2"})},
      {"tome_n40_nocls_sizes_r10", discard("tome", 10, {"cls=none"})},
      {"tome_n144_cls_sizes_r42", discard("tome", 42)},
      {"visionzip_n24_d5_c3", keep("visionzip", 8, {"preset=released", "contextual=3"})},
      {"visionzip_n49_d10_c4", keep("visionzip", 14, {"preset=released", "contextual=4"})},
      {"visionzip_n144_d26_c6", keep("visionzip", 32, {"preset=released", "contextual=6"})},
      {"divprune_n36_keep25", ratio("divprune", 0.25)},
      {"divprune_n144_keep25", ratio("divprune", 0.25)},
      {"divprune_s4_n50_t6_keep10", ratio("divprune", 0.1)},
      {"divprune_official_s35_n36_t6_r25", ratio("divprune", 0.25, {"preset=released"})},
      {"divprune_official_s35_n50_t0_r25_halfeven", ratio("divprune", 0.25, {"preset=released"})},
      {"divprune_official_s35_n144_t15_r098", ratio("divprune", 0.098, {"preset=released"})},
      {"cdpruner_n36_k9", keep("cdpruner", 9, {"preset=released"})},
      {"cdpruner_n49_k14_duplicates", keep("cdpruner", 14, {"preset=released"})},
      {"cdpruner_n64_k8_text3", keep("cdpruner", 8, {"preset=released"})},
      {"cdpruner_n144_k36", keep("cdpruner", 36, {"preset=released"})},
      {"mmtok_n36_m5_k9", keep("mmtok", 9)},
      {"mmtok_n49_m4_k8_padding", keep("mmtok", 8)},
      {"mmtok_n64_m3_k24_jit", keep("mmtok", 24)},
      {"mmtok_n144_m11_k36", keep("mmtok", 36)},
      {"scope_n36_k9", keep("scope", 9)},
      {"scope_n49_k12_alpha05", keep("scope", 12, {"alpha=0.5"})},
      {"scope_n144_k32", keep("scope", 32)},
      {"sparsevlm_s5_n36_t9_l15r64", keep("sparsevlm", 17)},
      {"sparsevlm_s3_n64_t12_l15r96", keep("sparsevlm", 26)},
      {"sparsevlm_s20_n144_t15_l15r128", keep("sparsevlm", 36)},
      {"sparsevlm_v2_s5_n40_t9_l15r64", keep("sparsevlm_v2", 20, {"preset=released"})},
      {"sparsevlm_v2_s20_n144_t15_l15r128", keep("sparsevlm_v2", 60)},
      {"pyramiddrop_s5_n36_t9_stage0", ratio("pyramiddrop", 0.5)},
      {"pyramiddrop_s3_n50_t7_stage1", keep("pyramiddrop", 12)},
      {"pyramiddrop_s20_n144_t15_stage0", ratio("pyramiddrop", 0.5)},
      {"dart_s5_n48_t10_r50", ratio("dart", 0.5, {"preset=released"})},
      {"dart_s3_n64_t8_r75_p2",
       ratio("dart", 0.25, {"preset=released", "image_pivots=3", "text_pivots=2"})},
      {"dart_s20_n144_t15_r778", ratio("dart", 1 - 0.778, {"preset=released"})},
      {"evs_t4_g6x6_q50", keep("evs", 72)},
      {"evs_t8_g12x12_q70", keep("evs", 345)},
      {"evs_t3_g5x7_q90_firstframe", keep("evs", 35)},
      {"vidcom2_t4_g6x6_q45", keep("vidcom2", 79, {"preset=vllm", "retention=0.55"})},
      {"vidcom2_t5_g5x7_q75", keep("vidcom2", 43, {"preset=vllm", "retention=0.25"})},
      {"vidcom2_t8_g12x12_q80", keep("vidcom2", 230, {"preset=vllm", "retention=0.2"})},
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
  static const std::set<std::string> others = {
      "tokens",       "keys",         "keys_heads",    "grid_positions",  "sizes_in",
      "image_embeds", "text_embeds",  "vision_embeds", "embeds",          "rater_indices",
      "queries_cls",  "queries_last", "queries_heads", "rater_attention", "excluded_indices"};
  return others.contains(name) || std::find(forms().begin(), forms().end(), name) != forms().end();
}

// What a method decides on the way, beyond what the tool writes of every method. The tests of the
// library in tests/golden check these.
bool is_inner(const std::string& name) {
  static const std::set<std::string> inner = {"src_indices",
                                              "dst_indices",
                                              "cls_attention_sum",
                                              "dominant_topk_indices",
                                              "contextual_target_indices",
                                              "merged_indices",
                                              "merged_dst_indices",
                                              "merged_dst_rows",
                                              "contextual_counts",
                                              "rope_weights",
                                              "head_mass",
                                              "heads_used",
                                              "recycled_indices",
                                              "recycled_dst_rows",
                                              "density_noise",
                                              "center_indices",
                                              "kept_rows",
                                              "synthetic_rows",
                                              "position_ids",
                                              "kept_image_indices",
                                              "pivot_order_indices",
                                              "pivot_image_indices",
                                              "pivot_text_indices",
                                              "picks_indices",
                                              "mrope_positions",
                                              "uncorrected_indices",
                                              "low_variance_channels",
                                              "frame_budgets",
                                              "frame_counts"};
  return inner.contains(name);
}

class ReduceGolden : public testing::TestWithParam<Case> {};

// Every tensor of the file that is no input. Computed in float, sums whose terms cancel are off by
// the rounding of their terms.
void expect_golden(const File& out, const File& expected, double floor) {
  for (const auto& [name, tensor] : expected.tensors) {
    SCOPED_TRACE(name);
    if (is_input(name) || is_inner(name)) continue;
    if (name == "relevance" && !out.has(name)) continue;  // CDPruner's, an input of the criterion
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
  bool without_attention = true;
  for (const std::string& form : forms()) without_attention &= !file.has(form);
  for (const bool in_double : {false, true}) {
    for (const std::string& form : forms()) {
      if (!file.has(form) && !(without_attention && form == forms().front())) continue;
      SCOPED_TRACE(form + (in_double ? " in double" : " in float"));
      Request exact = request;
      exact.in_double = in_double;
      if (!without_attention) exact.settings.push_back("attention=" + form);
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

TEST(ReduceForms, CropsAreReducedOneByOne) {
  const File file = golden("scope_crops2_n25_k11");  // two crops with a [CLS] row each
  for (const bool in_double : {false, true}) {
    Request request = keep("scope", 5);
    request.in_double = in_double;
    const File out = reduce_tool::reduce(file, request);
    expect_golden(out, file, 1e-6);
    EXPECT_EQ(out.metadata.at("crops"), "2");
  }
}

TEST(ReduceForms, CropsNeedNoScoresAndMayKeepDifferentNumbers) {
  const File file = golden("scope_crops2_n25_k11");
  const File uniform = reduce_tool::reduce(file, keep("uniform", 3));
  EXPECT_EQ(uniform.tensors.at("output").shape[0], 6);
  EXPECT_FALSE(uniform.has("selection_gains"));

  File keyed = file;  // PruMerge decides how many, crop by crop
  keyed.tensors["keys"] = tensor({2, 26, 16}, floats(file, "tokens"));
  const File adapted = reduce_tool::reduce(keyed, adaptive("prumerge", {"heads=mean"}));
  const Tensor& picks = adapted.tensors.at("selection_indices");
  const Integers kept = adapted.tensors.at("kept_indices").int64s();
  EXPECT_EQ(picks.size(), static_cast<std::int64_t>(kept.size()));
}

TEST(ReduceForms, ReleasedCDPrunerScalesRelevanceOverAllCrops) {
  const File one = golden("cdpruner_n36_k9");
  File two = one;
  for (const char* name : {"tokens", "image_embeds"}) {
    Tensor& tensor = two.tensors.at(name);
    std::vector<float> values = tensor.floats();
    const std::size_t size = values.size();
    for (std::size_t i = 0; i < size; ++i) values.push_back(values[i]);
    if (std::string(name) == "image_embeds") {
      for (std::size_t i = 0; i < 12; ++i) values[i] = -values[i];  // the first token of crop 0
    }
    tensor = ::tensor({72, tensor.shape[1]}, values);
  }
  two.metadata["crops"] = "2";
  const Request request = keep("cdpruner", 9, {"preset=released"});
  const File joined = reduce_tool::reduce(two, request);
  EXPECT_EQ(joined.tensors.at("output").shape[0], 18);
  EXPECT_EQ(joined.tensors.at("selection_indices").shape, (Integers{2, 9}));

  // The same for the second crop, whose relevance is scaled by what the first one holds.
  const reduce_tool::Numbers<double> image = reduce_tool::read_numbers<double>(two, "image_embeds");
  const reduce_tool::Numbers<double> text = reduce_tool::read_numbers<double>(two, "text_embeds");
  const auto relevance =
      tokenfold::relevance_to_text(tokenfold::MatrixView<const double>(image.values.data(), 72, 12),
                                   tokenfold::MatrixView<const double>(text.values.data(), 1, 12),
                                   tokenfold::filter::RelevanceSign::negative);
  File alone = one;
  alone.tensors["mine"] = ::tensor({36}, {relevance.begin() + 36, relevance.end()});
  const File second =
      reduce_tool::reduce(alone, keep("cdpruner", 9, {"preset=released", "relevance=mine"}));
  Integers expected = second.tensors.at("selection_indices").int64s();
  for (std::int64_t& row : expected) row += 36;
  const Integers all = joined.tensors.at("selection_indices").int64s();
  EXPECT_EQ(Integers(all.begin() + 9, all.end()), expected);
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
  for (const tokenfold::MethodInfo& info : tokenfold::list_methods()) {
    EXPECT_NE(list.find(info.name), std::string::npos);
    const std::string options = reduce_tool::list_options(info.name);
    EXPECT_NE(options.find("preset=default  (default"), std::string::npos);
    EXPECT_NE(options.find("grid=auto  (HxW|none)"), std::string::npos);
  }
  EXPECT_NE(reduce_tool::list_options("ficoco_v").find("lambda=0.35  (number)"), std::string::npos);
  EXPECT_NE(reduce_tool::list_options("prumerge").find("neighbours=32  (integer)"),
            std::string::npos);
}

// What an option prints, it reads; no name means two things.
TEST(ReduceOptions, ReadWhatTheyWrite) {
  for (const tokenfold::MethodInfo& info : tokenfold::list_methods()) {
    reduce_tool::Job<double> job(info.name);
    std::set<std::string> names;
    for (const tokenfold::OptionInfo& option : job.options()) {
      EXPECT_TRUE(names.insert(option.name).second) << info.name << ": " << option.name;
      EXPECT_FALSE(option.meaning.empty());
      if (option.value == "auto") continue;
      job.set({option.name + "=" + option.value});
      const auto& after = job.options();
      EXPECT_EQ(std::find_if(after.begin(), after.end(),
                             [&](const auto& other) { return other.name == option.name; })
                    ->value,
                option.value);
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

TEST(ReduceOptions, MMTokAskedForEverythingReturnsIt) {
  const File file = golden("mmtok_n49_m4_k8_padding");
  for (const tokenfold::Index count : {49, 60}) {
    EXPECT_EQ(reduce_tool::reduce(file, keep("mmtok", count)).tensors.at("output").shape[0], 49);
  }
  EXPECT_EQ(reduce_tool::reduce(file, keep("mmtok", 40)).tensors.at("output").shape[0], 40);
}

TEST(ReduceOptions, EVSAtARateKeepsTheFirstFrame) {
  const File file = golden("evs_t3_g5x7_q90_firstframe");
  const File out = reduce_tool::reduce(file, ratio("evs", 0.1));
  EXPECT_EQ(out.tensors.at("kept_indices").int64s(), file.tensors.at("kept_indices").int64s());
  const File half = golden("evs_t4_g6x6_q50");
  EXPECT_EQ(reduce_tool::reduce(half, ratio("evs", 0.5)).tensors.at("output").shape[0], 72);
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
      {"UnknownMethod", v, discard("ficoco", 4), {"\"ficoco\"", "known: ficoco_v, "}},
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
       {"0 keys were given for 36 tokens"},
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
       {"local penalty: the layout has no patch grid"},
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
      {"MoreCropsThanRows",
       v,
       discard("ficoco_v", 4, {"crops=1000000000000"}),
       {"there are not 1000000000000 crops in 17 rows"}},
      {"HugeVideo", v, discard("ficoco_v", 4, {"grid=46340x46340", "frames=17"}), {"too many"}},
      {"ClsOutside", v, discard("ficoco_v", 4, {"cls=17"}), {"[CLS]"}},
      {"PruMergeWithoutCls",
       m,
       adaptive("prumerge", {"cls=none", "visual_begin=1"}),
       {"no [CLS] row"}},
      {"EViTWithoutCls", e, ratio("evit", 0.5, {"cls=none", "visual_begin=1"}), {"no [CLS] row"}},
      {"EViTWithoutClsNorAttention",
       e,
       ratio("evit", 0.5, {"cls=none", "visual_begin=1"}),
       {"no [CLS] row"},
       erase({"attention", "queries"})},
      {"EViTWithoutAttention",
       e,
       ratio("evit", 0.5),
       {"evit needs attention (probabilities)", "cls_attention_heads [H, N]"},
       erase({"attention", "queries", "cls_attention_heads"})},
      {"EViTIsNotAdaptive", e, adaptive("evit"), {"no budget"}},
      {"FastVWithoutAttention",
       f,
       ratio("fastv", 0.5),
       {"fastv needs attention (probabilities)", "attention_last [H, P]"},
       erase({"attention"})},
      {"TheLastRowIsNotTheQuestions",
       f,
       ratio("fastv", 0.5, {"text_after=8"}),
       {"query row 36 was asked for, but the source holds [37, 38)"},
       leave_last_row},
      {"TheLastRowIsNotAllTokens",
       f,
       ratio("fastv", 0.5, {"score=all_tokens"}),
       {"were asked for, but the source holds [37, 38)"},
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
