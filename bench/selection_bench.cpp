// SPDX-License-Identifier: Apache-2.0
// What do the methods cost that rank tokens by attention, plan and apply together?

#include "step.hpp"

namespace {

using bench::Bound;
using bench::bytes;
using bench::Index;
using bench::Matrix;
using namespace tokenfold;

/// One layer of CLIP-L/336, 577 tokens, 1024 wide, 16 heads: half of the patches are kept, the
/// others fused into one token. Necessary: K, for the [CLS] row, and the tokens, all of which are
/// kept or fused.
void evit_fused(benchmark::State& state) {
  const Matrix k = bench::gaussian(577, 1024, 2);
  const Matrix tokens = bench::gaussian(577, 1024, 3);
  const Matrix q_cls = bench::gaussian(1, 1024, 1);
  const QueryKeyAttention attention(split_heads(q_cls, 16), split_heads(k, 16));
  const TokenLayout layout = TokenLayout::encoder({24, 24});
  bench::step(state, EViT{}, Sequence(layout, attention), Budget::keep(288), tokens,
              Bound(bytes(k, tokens), {}));
}
BENCHMARK(evit_fused)->UseManualTime()->Unit(benchmark::kMillisecond);

/// One layer of a 7B decoder, 35 + 576 + 25 tokens, 4096 wide, 32 heads: half of the image is kept
/// by what the last token attends to. Necessary: K, for that row, and the rows that stay.
template <class Method>
void last_row(benchmark::State& state, const Method& method) {
  const Matrix k = bench::gaussian(636, 4096, 2);
  const Matrix tokens = bench::gaussian(636, 4096, 3);
  const Matrix q_last = bench::gaussian(1, 4096, 1);
  const QueryKeyAttention attention(split_heads(q_last, 32), split_heads(k, 32),
                                    {.causal = true, .first_query = 635});
  const TokenLayout layout = TokenLayout::decoder(35, 576, 25);
  const std::size_t kept = (60 + 288) * 4096 * sizeof(float);
  bench::step(state, method, Sequence(layout, attention), Budget::keep(288), tokens,
              Bound(bytes(k) + kept, {}));
}
void fastv(benchmark::State& state) { last_row(state, FastV{}); }
BENCHMARK(fastv)->UseManualTime()->Unit(benchmark::kMillisecond);
void pyramiddrop(benchmark::State& state) { last_row(state, PyramidDrop{}); }
BENCHMARK(pyramiddrop)->UseManualTime()->Unit(benchmark::kMillisecond);

/// Rollout from [CLS] through the last `layers` layers of CLIP-L/336, half of the patches kept.
/// Necessary: one row of the last layer, the products Q · Kᵀ of all heads of those before it.
void ivtp(benchmark::State& state) {
  const auto layers = static_cast<std::size_t>(state.range(0));
  const Matrix q = bench::gaussian(577, 1024, 1);
  const Matrix k = bench::gaussian(577, 1024, 2);
  const Matrix tokens = bench::gaussian(577, 1024, 3);
  const std::vector<QueryKeyAttention<float>> attention(
      layers, QueryKeyAttention(split_heads(q, 16), split_heads(k, 16)));
  const TokenLayout layout = TokenLayout::encoder({24, 24});
  IVTP method;
  method.filter.value_norm = filter::ValueNorm::none;
  bench::step(state, method, Sequence(layout, AttentionLayers(attention)), Budget::keep(288),
              tokens,
              Bound(bytes(k, tokens), std::vector<bench::Gemm>(16 * (layers - 1), {577, 577, 64})));
}
BENCHMARK(ivtp)->Arg(1)->Arg(3)->UseManualTime()->Unit(benchmark::kMillisecond);

}  // namespace
