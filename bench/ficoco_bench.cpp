// SPDX-License-Identifier: Apache-2.0
// What does a FiCoCo step cost at LLaVA-1.5's shapes, plan and apply together?

#include "step.hpp"

namespace {

using bench::Bound;
using bench::bytes;
using bench::Index;
using bench::Matrix;
using namespace tokenfold;

constexpr Index discarded = 42;

template <class T>
using MatrixOf = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// CLIP-L/336: 577 tokens, 1024 wide, 16 heads; the engine has materialised [16, 577, 577]
/// probabilities. Necessary: reading all of it, for the mean over all pairs, and the tokens.
template <class T>
void ficoco_v_dense_probabilities(benchmark::State& state) {
  Matrix wide = Matrix::Random(16 * 577, 577).array().abs();
  wide.array().colwise() /= wide.rowwise().sum().array().eval();
  const MatrixOf<T> probabilities = wide.cast<T>();
  const MatrixOf<T> tokens = bench::gaussian(577, 1024, 1).cast<T>();
  const HeadsView<const T> heads(probabilities.data(), {16, 577, 577}, {577 * 577, 577, 1});
  const TokenLayout layout = TokenLayout::encoder({24, 24});
  bench::step(state, FiCoCoV{}, Sequence(layout, DenseAttention(heads)), Budget::discard(discarded),
              tokens, Bound(bytes(probabilities, tokens), {}));
}
BENCHMARK(ficoco_v_dense_probabilities<float>)->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK(ficoco_v_dense_probabilities<Eigen::half>)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(ficoco_v_dense_probabilities<Eigen::bfloat16>)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

/// The same layer with fused attention: queries and keys.
template <class T, class Method>
void encoder_layer(benchmark::State& state, const Method& method, AttentionKind kind,
                   std::vector<bench::Gemm> products) {
  const MatrixOf<T> q = bench::gaussian(577, 1024, 1).cast<T>();
  const MatrixOf<T> k = bench::gaussian(577, 1024, 2).cast<T>();
  const MatrixOf<T> tokens = bench::gaussian(577, 1024, 3).cast<T>();
  const QueryKeyAttention attention(split_heads(q, 16), split_heads(k, 16), {.kind = kind});
  const TokenLayout layout = TokenLayout::encoder({24, 24});
  bench::step(state, method, Sequence(layout, attention), Budget::discard(discarded), tokens,
              Bound(bytes(q, k, tokens), std::move(products)));
}

/// Logits, as in the authors' code. Necessary: Q, K and the tokens, the product of the discarded
/// rows with all keys.
template <class T>
void ficoco_v_query_key_logits(benchmark::State& state) {
  encoder_layer<T>(state, ficoco_v_released(), AttentionKind::logits, {{discarded, 576, 1024}});
}
BENCHMARK(ficoco_v_query_key_logits<float>)->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK(ficoco_v_query_key_logits<Eigen::half>)->UseManualTime()->Unit(benchmark::kMillisecond);

/// Probabilities, the default. Necessary: the products Q · Kᵀ of the 16 heads, because every row
/// has its own denominator; the 5.3 million exponentials are not counted.
template <class T>
void ficoco_v_query_key_probabilities(benchmark::State& state) {
  encoder_layer<T>(state, FiCoCoV{}, AttentionKind::probabilities,
                   std::vector<bench::Gemm>(16, {577, 577, 64}));
}
BENCHMARK(ficoco_v_query_key_probabilities<float>)->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK(ficoco_v_query_key_probabilities<Eigen::half>)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(ficoco_v_query_key_probabilities<Eigen::bfloat16>)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

/// A 7B decoder layer: 35 + 576 + 25 tokens, 4096 wide, 32 heads, queries and keys.
void decoder_layer(benchmark::State& state, QueryKeyOptions options,
                   std::vector<bench::Gemm> products) {
  const Matrix q = bench::gaussian(636, 4096, 1);
  const Matrix k = bench::gaussian(636, 4096, 2);
  const Matrix tokens = bench::gaussian(636, 4096, 3);
  const QueryKeyAttention attention(split_heads(q, 32), split_heads(k, 32), options);
  const TokenLayout layout = TokenLayout::decoder(35, 576, 25);
  bench::step(state, FiCoCoL{}, Sequence(layout, attention), Budget::discard(discarded), tokens,
              Bound(bytes(q, k, tokens), std::move(products)));
}

/// Logits. Necessary: Q, K and the tokens, the products of the discarded and of the text rows.
void ficoco_l_query_key_logits(benchmark::State& state) {
  decoder_layer(state, {.kind = AttentionKind::logits}, {{discarded, 576, 4096}, {25, 576, 4096}});
}
BENCHMARK(ficoco_l_query_key_logits)->UseManualTime()->Unit(benchmark::kMillisecond);

/// Probabilities under the causal mask. Necessary: the products of the 576 visual and 25 text rows
/// with the keys that they see, half of all on average.
void ficoco_l_query_key_probabilities(benchmark::State& state) {
  decoder_layer(state, {.causal = true}, std::vector<bench::Gemm>(32, {601, 336, 128}));
}
BENCHMARK(ficoco_l_query_key_probabilities)->UseManualTime()->Unit(benchmark::kMillisecond);

}  // namespace
