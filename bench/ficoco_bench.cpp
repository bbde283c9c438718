// SPDX-License-Identifier: Apache-2.0
// What does a FiCoCo step cost at LLaVA-1.5's shapes, plan and apply together?

#include <tokenfold/tokenfold.hpp>

#include "measure.hpp"

namespace {

using bench::Bound;
using bench::Index;
using bench::Matrix;
using namespace tokenfold;

constexpr Index discarded = 42;

/// Plans and applies one step over and over; the workspace, the plan and the output are reused.
template <class Method, class S>
void step(benchmark::State& state, const Method& method, const S& sequence, const Matrix& tokens,
          Bound bound) {
  Workspace workspace;
  ReductionPlan plan;
  Matrix out(tokens.rows() - discarded, tokens.cols());
  bench::run(state, std::move(bound), [&] {
    method.plan(sequence, Budget::discard(discarded), workspace, plan);
    plan.apply(tokens, out);
    benchmark::DoNotOptimize(out.data());
  });
  state.counters["scratch_kB"] = static_cast<double>(workspace.peak()) / 1e3;
}

std::size_t bytes(std::initializer_list<const Matrix*> matrices) {
  std::size_t sum = 0;
  for (const Matrix* m : matrices) {
    sum += static_cast<std::size_t>(m->size()) * sizeof(float);
  }
  return sum;
}

/// CLIP-L/336: 577 tokens, 1024 wide, 16 heads; the engine has materialised [16, 577, 577]
/// probabilities. Bound: reading all of it and the tokens once.
void ficoco_v_dense_probabilities(benchmark::State& state) {
  Matrix probabilities = Matrix::Random(16 * 577, 577).array().abs();
  probabilities.array().colwise() /= probabilities.rowwise().sum().array().eval();
  const Matrix tokens = bench::gaussian(577, 1024, 1);
  const HeadsView<const float> heads(probabilities.data(), {16, 577, 577}, {577 * 577, 577, 1});
  const TokenLayout layout = TokenLayout::encoder({24, 24});
  step(state, FiCoCoV{}, Sequence(layout, DenseAttention(heads)), tokens,
       Bound(bytes({&probabilities, &tokens}), {}));
}
BENCHMARK(ficoco_v_dense_probabilities)->UseManualTime()->Unit(benchmark::kMillisecond);

/// The same layer with fused attention: queries and keys, logits as in the authors' code.
/// Bound: reading Q, K and the tokens, or the product of the discarded rows.
void ficoco_v_query_key_logits(benchmark::State& state) {
  const Matrix q = bench::gaussian(577, 1024, 1);
  const Matrix k = bench::gaussian(577, 1024, 2);
  const Matrix tokens = bench::gaussian(577, 1024, 3);
  const QueryKeyAttention attention(split_heads(q, 16), split_heads(k, 16),
                                    {.kind = AttentionKind::logits});
  const TokenLayout layout = TokenLayout::encoder({24, 24});
  step(state, ficoco_v_released(), Sequence(layout, attention), tokens,
       Bound(bytes({&q, &k, &tokens}), {{discarded, 576, 1024}}));
}
BENCHMARK(ficoco_v_query_key_logits)->UseManualTime()->Unit(benchmark::kMillisecond);

/// The same with probabilities, the default: costs what scoring all heads costs, in row blocks.
/// Bound: the products Q · Kᵀ of the 16 heads, without the softmax.
void ficoco_v_query_key_probabilities(benchmark::State& state) {
  const Matrix q = bench::gaussian(577, 1024, 1);
  const Matrix k = bench::gaussian(577, 1024, 2);
  const Matrix tokens = bench::gaussian(577, 1024, 3);
  const QueryKeyAttention attention(split_heads(q, 16), split_heads(k, 16));
  const TokenLayout layout = TokenLayout::encoder({24, 24});
  step(state, FiCoCoV{}, Sequence(layout, attention), tokens,
       Bound(bytes({&q, &k, &tokens}), std::vector<bench::Gemm>(16, {577, 577, 64})));
}
BENCHMARK(ficoco_v_query_key_probabilities)->UseManualTime()->Unit(benchmark::kMillisecond);

/// A 7B decoder layer: 35 + 576 + 25 tokens, 4096 wide, 32 heads, queries and keys, logits.
/// Bound: reading Q, K and the tokens, or the products of the discarded and of the text rows.
void ficoco_l_query_key_logits(benchmark::State& state) {
  const Matrix q = bench::gaussian(636, 4096, 1);
  const Matrix k = bench::gaussian(636, 4096, 2);
  const Matrix tokens = bench::gaussian(636, 4096, 3);
  const QueryKeyAttention attention(split_heads(q, 32), split_heads(k, 32),
                                    {.kind = AttentionKind::logits});
  const TokenLayout layout = TokenLayout::decoder(35, 576, 25);
  step(state, FiCoCoL{}, Sequence(layout, attention), tokens,
       Bound(bytes({&q, &k, &tokens}), {{discarded, 576, 4096}, {25, 576, 4096}}));
}
BENCHMARK(ficoco_l_query_key_logits)->UseManualTime()->Unit(benchmark::kMillisecond);

}  // namespace
