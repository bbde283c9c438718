// SPDX-License-Identifier: Apache-2.0
// What does carrying out a plan cost? Every benchmark applies one plan of a method over and over
// and compares it with memcpy.
//
// Necessary: every input row that the plan takes from is read once and every output row written
// once, (R + W) · D elements. `GB_s` is that traffic over the time. `of_memcpy` compares it with
// memcpy in the same process in the same moments, between the same buffers, of half as many bytes:
// memcpy reads and writes each, so that the traffic is the same. Where rows of the plan share their
// sources (PruMerge: 36 entries a row), one pass per output row reads more than R; `entries_GB_s`
// counts every entry, and the caches serve most of them.

#include <algorithm>
#include <cstring>
#include <string>
#include <tokenfold/core/query_key_attention.hpp>
#include <tokenfold/methods/divprune.hpp>
#include <tokenfold/methods/evit.hpp>
#include <tokenfold/methods/fastv.hpp>
#include <tokenfold/methods/ficoco_l.hpp>
#include <tokenfold/methods/ficoco_v.hpp>
#include <tokenfold/methods/prumerge.hpp>
#include <tokenfold/methods/tome.hpp>
#include <tokenfold/methods/visionzip.hpp>
#include <tokenfold/std_threads.hpp>
#include <utility>
#include <vector>

#include "measure.hpp"

namespace {

using bench::Index;
using bench::Matrix;
using namespace tokenfold;

template <class T>
using Tokens = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// A CLIP-L/336 layer of 577 tokens, 16 heads of 64.
template <class Method>
ReductionPlan in_encoder(const Method& method, const Budget& budget) {
  const Matrix q = bench::gaussian(577, 1024, 1);
  const Matrix k = bench::gaussian(577, 1024, 2);
  const TokenLayout layout = TokenLayout::encoder({24, 24});
  const QueryKeyAttention attention(split_heads(q, 16), split_heads(k, 16));
  return method.plan(Sequence(layout, attention), budget);
}

/// A 7B decoder layer: 35 + 576 + 25 tokens, 32 heads of 128.
template <class Method>
ReductionPlan in_decoder(const Method& method, const Budget& budget) {
  const Matrix q = bench::gaussian(636, 4096, 1);
  const Matrix k = bench::gaussian(636, 4096, 2);
  const TokenLayout layout = TokenLayout::decoder(35, 576, 25, {24, 24});
  const QueryKeyAttention attention(split_heads(q, 32), split_heads(k, 32));
  return method.plan(Sequence(layout, attention), budget);
}

ReductionPlan ficoco_v() { return in_encoder(FiCoCoV{}, Budget::discard(42)); }
ReductionPlan ficoco_l() { return in_decoder(FiCoCoL{}, Budget::discard(42)); }
ReductionPlan evit() { return in_encoder(EViT{}, Budget::keep_ratio(0.5)); }
ReductionPlan prumerge() { return in_encoder(PruMerge{}, Budget::keep(29)); }
ReductionPlan prumerge_plus() { return in_encoder(tokenfold::prumerge_plus(), Budget::keep(123)); }
ReductionPlan visionzip() { return in_encoder(VisionZip{}, Budget::keep(64)); }
ReductionPlan fastv() { return in_decoder(FastV{}, Budget::keep_ratio(0.5)); }
ReductionPlan tome() {
  const Matrix k = bench::gaussian(577, 1024, 2);
  const TokenLayout layout = TokenLayout::encoder({24, 24});
  const std::vector<float> sizes(577, 2);
  return ToMe{}.plan(Sequence(layout, Keys(split_heads(k, 16)), Sizes{sizes}), Budget::discard(42));
}
ReductionPlan divprune() {
  const Matrix x = bench::gaussian(576, 256, 2);
  const TokenLayout layout = TokenLayout::decoder(0, 576, 0, {24, 24});
  return DivPrune{}.plan(Sequence(layout, Features(x)), Budget::keep(64));
}

enum class Way { out, in_place, two_threads };

template <class T>
void apply(benchmark::State& state, ReductionPlan (*plan_of)(), Index channels, Way way) {
  const ReductionPlan plan = plan_of();
  std::vector<Token> read(plan.columns().begin(), plan.columns().end());
  std::sort(read.begin(), read.end());
  const Index rows_read = std::unique(read.begin(), read.end()) - read.begin();
  const auto row_bytes = static_cast<double>(channels) * static_cast<double>(sizeof(T));
  const double traffic = static_cast<double>(rows_read + plan.output_tokens()) * row_bytes;
  const double all_entries =
      static_cast<double>(plan.columns().size() + plan.output_tokens()) * row_bytes;

  // In place, the same rows are merged over and over: zeros stay what they are.
  Tokens<T> tokens = Tokens<T>::Zero(plan.input_tokens(), channels);
  if (way != Way::in_place) {
    tokens = bench::gaussian(plan.input_tokens(), channels, 3).cast<T>();
  }
  Tokens<T> out = Tokens<T>::Zero(plan.input_tokens(), channels);  // room for what memcpy copies
  const MatrixView<T> reduced = MatrixView<T>(out).middle_rows({0, plan.output_tokens()});
  Workspace workspace;
  const auto apply_once = [&] {
    switch (way) {
      case Way::out:
        return plan.apply(tokens, reduced);
      case Way::in_place:
        return plan.apply_in_place(workspace, tokens);
      case Way::two_threads:
        return plan.apply(tokens, reduced, StdThreads{2});
    }
  };
  std::vector<double> times;
  std::vector<double> copies;
  for (auto _ : state) {
    times.push_back(bench::time_ms([&] {
      apply_once();
      benchmark::ClobberMemory();
    }));
    state.SetIterationTime(times.back() / 1e3);
    copies.push_back(bench::time_ms([&] {
      std::memcpy(static_cast<void*>(out.data()), tokens.data(),
                  static_cast<std::size_t>(traffic / 2));
      benchmark::ClobberMemory();
    }));
  }
  const double ms = bench::median(times);
  state.counters["us"] = ms * 1e3;
  state.counters["GB_s"] = traffic / ms / 1e6;
  state.counters["entries_GB_s"] = all_entries / ms / 1e6;
  state.counters["of_memcpy"] = bench::median(copies) / ms;
}

struct Case {
  const char* name;
  ReductionPlan (*plan_of)();
  Index channels;
};

const Case cases[] = {
    {"ficoco_v_577x1024", ficoco_v, 1024},
    {"ficoco_l_636x4096", ficoco_l, 4096},
    {"tome_sizes_577x1024", tome, 1024},
    {"evit_577x1024", evit, 1024},
    {"fastv_636x4096", fastv, 4096},
    {"divprune_576x4096", divprune, 4096},
    {"prumerge_577x1024", prumerge, 1024},
    {"prumerge_577x4096", prumerge, 4096},
    {"prumerge_plus_577x1024", prumerge_plus, 1024},
    {"visionzip_577x1024", visionzip, 1024},
};

template <class T>
void add(const Case& c, const std::string& name, Way way) {
  benchmark::RegisterBenchmark(
      name.c_str(), [=](benchmark::State& state) { apply<T>(state, c.plan_of, c.channels, way); })
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond);
}

template <class T>
void add_all(const std::string& type) {
  for (const Case& c : cases) {
    const std::string name = "apply_" + std::string(c.name) + "_" + type;
    add<T>(c, name, Way::out);
    add<T>(c, name + "_in_place", Way::in_place);
    if (c.channels == 4096) {  // less than that is done before a thread has started
      add<T>(c, name + "_2_threads", Way::two_threads);
    }
  }
}

[[maybe_unused]] const bool added = [] {
  add_all<float>("float");
  add_all<Eigen::half>("half");
  add_all<Eigen::bfloat16>("bfloat16");
  return true;
}();

}  // namespace
