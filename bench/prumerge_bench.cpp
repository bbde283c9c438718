// SPDX-License-Identifier: Apache-2.0
// What does PruMerge cost between CLIP-L/336 and the projector, plan and apply together?

#include "step.hpp"

namespace {

using bench::Bound;
using bench::bytes;
using bench::Index;
using bench::Matrix;
using namespace tokenfold;

/// 577 × 1024 queries, keys and tokens; Gaussian attention logits of deviation 0.5, whose upper
/// fence leaves about as many outliers as the paper reports for real images. Necessary: K twice
/// over, because the [CLS] row decides what to multiply, and the tokens; the products of the
/// preserved keys with all keys.
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
  const auto kept = static_cast<Index>(workspace.partition.preserved.size());
  bench::step(state, method, sequence, Budget::adaptive(), tokens,
              Bound(bytes(k, k, tokens), {{kept, 576, 1024}}), std::move(workspace));
}

void prumerge_adaptive(benchmark::State& state) { adaptive(state, PruMerge{}); }
BENCHMARK(prumerge_adaptive)->UseManualTime()->Unit(benchmark::kMillisecond);

void prumerge_plus_adaptive(benchmark::State& state) { adaptive(state, prumerge_plus()); }
BENCHMARK(prumerge_plus_adaptive)->UseManualTime()->Unit(benchmark::kMillisecond);

}  // namespace
