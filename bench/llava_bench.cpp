// SPDX-License-Identifier: Apache-2.0
// What a reduction is worth in a whole model: LLaVA-1.5-7B's shapes in the engine of
// examples/llava, with random weights. The encoder is CLIP-L/336 with all of its 23 layers. Of the
// decoder's 32 layers two run, without the output head, and their time is scaled to 32: methods
// that act inside the decoder are not here, `llava --shape 7b` runs them in all 32.
//
//   encoder_x, prefill_x, first_token_x    unreduced / reduced
//   of_predicted                           first_token_x over what FLOPs predict
//   reduction_%_of_prefill                 the reduction itself
#include <benchmark/benchmark.h>

#include <cstdint>
#include <string>
#include <vector>

#include "../examples/llava/run.hpp"

namespace {

using llava::Index;

constexpr double layers = 32;
constexpr Index layers_run = 2;

/// Milliseconds of a run, with the decoder's layers scaled to 32.
struct Times {
  double encoder = 0;
  double prefill = 0;
  double reduction = 0;

  double total() const { return encoder + prefill + reduction; }
};

const llava::Model& model() {
  static const llava::Model instance = [] {
    llava::Config config;
    config.decoder.layers = layers_run;
    config.decoder.vocabulary = 64;  // the head runs once, not per layer
    return llava::Model(config, llava::Weights::random(1), llava::Threads{});
  }();
  return instance;
}

llava::Measurement run(const llava::Choice& choice) {
  static const llava::Matrix pixels = llava::Matrix::Random(3, 336 * 336);
  static const llava::Prompt prompt{std::vector<std::int64_t>(35, 7),
                                    std::vector<std::int64_t>(25, 9)};
  return llava::run(model(), pixels, prompt, choice, 1);
}

Times times(const llava::Measurement& m) {
  const double scale = layers / layers_run;
  return {1e3 * (m.seconds.encoder + m.seconds.projector), 1e3 * m.seconds.prefill * scale,
          1e3 * llava::reduction_seconds(m.seconds)};
}
Times flops(const llava::Measurement& m) {
  const double scale = layers / layers_run;
  return {m.flops.encoder + m.flops.projector, m.flops.prefill * scale, 0};
}

/// Unreduced and reduced in turn, so that whatever slows the machine slows both; the ratios are
/// those of the fastest runs.
void LLaVA(benchmark::State& state, const std::string& method, Index keep) {
  Times whole, reduced, whole_flops, reduced_flops;
  const auto keep_fastest = [](Times& best, const Times& now) {
    if (best.total() == 0 || now.total() < best.total()) best = now;
  };
  for (auto _ : state) {
    const llava::Measurement a = run({});
    const llava::Measurement b = run({.method = method, .options = {}, .keep = keep});
    state.SetIterationTime(times(b).total() * 1e-3);
    keep_fastest(whole, times(a));
    keep_fastest(reduced, times(b));
    whole_flops = flops(a);
    reduced_flops = flops(b);
  }
  const double first_token = whole.total() / reduced.total();
  state.counters["encoder_x"] = whole.encoder / reduced.encoder;
  state.counters["prefill_x"] = whole.prefill / reduced.prefill;
  state.counters["first_token_x"] = first_token;
  state.counters["of_predicted"] = first_token / (whole_flops.total() / reduced_flops.total());
  state.counters["reduction_ms"] = reduced.reduction;
  state.counters["reduction_%_of_prefill"] = 100 * reduced.reduction / reduced.prefill;
}

void each(const char* method) {
  for (const Index keep : {192, 128, 64, 32}) {
    benchmark::RegisterBenchmark(
        ("LLaVA/" + std::string(method) + "/keep:" + std::to_string(keep)).c_str(),
        [method, keep](benchmark::State& state) { LLaVA(state, method, keep); })
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond)
        ->Iterations(3);
  }
}

const bool registered = [] {
  for (const char* method : {"ficoco_v", "tome", "evit", "prumerge", "visionzip", "scope",
                             "divprune", "cdpruner", "mmtok", "tops"}) {
    each(method);
  }
  return true;
}();

}  // namespace
