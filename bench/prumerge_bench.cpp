// SPDX-License-Identifier: Apache-2.0
// What does PruMerge cost between CLIP-L/336 and the projector, plan and apply together?

#include <tokenfold/tokenfold.hpp>

#include "measure.hpp"

namespace {

using bench::Bound;
using bench::Index;
using bench::Matrix;
using namespace tokenfold;

/// 577 × 1024 queries, keys and tokens; Gaussian attention logits of deviation 0.5, whose upper
/// fence leaves about as many outliers as the paper reports for real images. Bound: reading K twice
/// over (the [CLS] row decides what to multiply) and the tokens, or the product of the preserved
/// keys with all keys.
void adaptive(benchmark::State& state, const PruMerge& method) {
  const Matrix k = bench::gaussian(577, 1024, 2);
  const Matrix tokens = bench::gaussian(577, 1024, 3);
  const Matrix q_cls = bench::gaussian(1, 1024, 1, 0.5f);
  const QueryKeyAttention attention(split_heads(q_cls, 16), split_heads(k, 16));
  const TokenLayout layout = TokenLayout::encoder({24, 24});
  const Sequence sequence(layout, attention);

  Workspace workspace;
  ReductionPlan plan;
  method.plan(sequence, Budget::adaptive(), workspace, plan);
  Matrix out(plan.output_tokens(), tokens.cols());
  const auto kept = static_cast<Index>(workspace.partition.preserved.size());
  const auto read = static_cast<std::size_t>(2 * k.size() + tokens.size()) * sizeof(float);
  bench::run(state, Bound(read, {{kept, 576, 1024}}), [&] {
    method.plan(sequence, Budget::adaptive(), workspace, plan);
    plan.apply(tokens, out);
    benchmark::DoNotOptimize(out.data());
  });
  state.counters["kept"] = static_cast<double>(kept);
  state.counters["scratch_kB"] = static_cast<double>(workspace.peak()) / 1e3;
}

void prumerge_adaptive(benchmark::State& state) { adaptive(state, PruMerge{}); }
BENCHMARK(prumerge_adaptive)->UseManualTime()->Unit(benchmark::kMillisecond);

void prumerge_plus_adaptive(benchmark::State& state) { adaptive(state, prumerge_plus()); }
BENCHMARK(prumerge_plus_adaptive)->UseManualTime()->Unit(benchmark::kMillisecond);

}  // namespace
