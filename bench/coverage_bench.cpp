// SPDX-License-Identifier: Apache-2.0
// What do the filters that pick for coverage cost, plan and apply together: MMTok, SCOPE, TOPS; and
// DART, which compares with a few pivots only? 576 → 64 tokens of LLaVA-1.5, 2880 → 320 of
// LLaVA-NeXT.
//
// Coverage asks for every pair of tokens: max(0, ·) and softmax are not linear in the cosines, so
// no sum of rows stands for them. Necessary are N²/2 inner products of D terms, a cosine being
// symmetric, and reading what is compared. Gains, exponentials and picks are not counted.
//
// How many gains lazy evaluation looks at depends on the data; hence `gaussian`, where all tokens
// are strangers, and `image`, where neighbours resemble each other and all share a direction.

#include <algorithm>
#include <cmath>
#include <tokenfold/tokenfold.hpp>
#include <vector>

#include "step.hpp"

namespace {

using bench::Bound;
using bench::bytes;
using bench::Gemm;
using bench::Index;
using bench::Matrix;
using namespace tokenfold;

enum class Data { gaussian, image };

/// Tokens of a square image: strangers, or a common direction, one of 16 regions, and noise.
Matrix tokens_of(Data data, Index n, Index d, unsigned seed) {
  Matrix tokens = bench::gaussian(n, d, seed);
  if (data == Data::gaussian) {
    return tokens;
  }
  constexpr Index regions = 16;
  const Matrix common = bench::gaussian(1, d, seed + 1);
  const Matrix look = bench::gaussian(regions, d, seed + 2);
  const Matrix seat = Matrix::Random(regions, 2);
  const auto width = static_cast<Index>(std::ceil(std::sqrt(static_cast<double>(n))));
  for (Index i = 0; i < n; ++i) {
    const float x = 2 * static_cast<float>(i % width) / static_cast<float>(width) - 1;
    const float y = 2 * static_cast<float>(i / width) / static_cast<float>(width) - 1;
    Index nearest = 0;
    (seat.rowwise() - Eigen::RowVector2f(x, y)).rowwise().squaredNorm().minCoeff(&nearest);
    tokens.row(i) = common + look.row(nearest) + 0.7f * tokens.row(i);
  }
  return tokens;
}

/// What [CLS] pays: few tokens matter much.
std::vector<float> relevance_of(Index n) {
  const Matrix logits = bench::gaussian(1, n, 9, 1.5f);
  std::vector<float> relevance(static_cast<std::size_t>(n));
  Matrix::Map(relevance.data(), 1, n) = logits.array().exp().matrix() / logits.array().exp().sum();
  return relevance;
}

Index kept_of(Index n) { return n / 9; }

/// Every pair of tokens once.
Gemm half_of_pairs(Index n, Index d) { return {n, n / 2, d}; }

/// Between projector and LLM: `d` wide image embeddings, features and 16 words 4096 wide. Bound:
/// reading both, or the pairs of embeddings and all features with all words: this way round Eigen
/// takes 1.4 ms, the other 2.8 to 7, as it packs all features for 16 rows. PyTorch: 16 ms at
/// 576 × 1024.
void mmtok(benchmark::State& state, Data data) {
  const Index n = state.range(0);
  const Index d = state.range(1);
  const Matrix embeddings = tokens_of(data, n, d, 1);
  const Matrix features = tokens_of(data, n, 4096, 11);
  const Matrix words = bench::gaussian(16, 4096, 21);
  const TokenLayout layout = TokenLayout::decoder(0, n, 0);
  bench::step(
      state, MMTok{},
      Sequence(layout, Features(features), ImageEmbeddings(embeddings), TextEmbeddings(words)),
      Budget::keep(kept_of(n)), features,
      Bound(bytes(features, embeddings, words), {half_of_pairs(n, d), {n, 16, 4096}}));
}

/// On the encoder's hidden states. Bound: reading them, or their pairs. PyTorch: 35 ms at 576 ×
/// 1024.
template <class Method>
void salient(benchmark::State& state, Data data) {
  const Index n = state.range(0);
  const Index d = state.range(1);
  const Matrix features = tokens_of(data, n, d, 1);
  const std::vector<float> relevance = relevance_of(n);
  const TokenLayout layout = TokenLayout::decoder(0, n, 0);
  bench::step(state, Method{}, Sequence(layout, Features(features), Relevance(relevance)),
              Budget::keep(kept_of(n)), features, Bound(bytes(features), {half_of_pairs(n, d)}));
}
void scope(benchmark::State& state, Data data) { salient<SCOPE>(state, data); }
void tops(benchmark::State& state, Data data) { salient<TOPS>(state, data); }

void sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->Args({576, 1024})->Args({576, 4096})->Args({2880, 1024});
  benchmark->UseManualTime()->Unit(benchmark::kMillisecond);
}
BENCHMARK_CAPTURE(mmtok, gaussian, Data::gaussian)->Apply(sizes);
BENCHMARK_CAPTURE(mmtok, image, Data::image)->Apply(sizes);
BENCHMARK_CAPTURE(scope, gaussian, Data::gaussian)->Apply(sizes);
BENCHMARK_CAPTURE(scope, image, Data::image)->Apply(sizes);
BENCHMARK_CAPTURE(tops, gaussian, Data::gaussian)->Apply(sizes);
BENCHMARK_CAPTURE(tops, image, Data::image)->Apply(sizes);

/// A 7B decoder layer: 35 + 576 + 25 tokens, 4096 wide; keys decide who is a pivot, so all must be
/// read, and so must the features of image and pivots; the rows that stay are read once more.
/// Bound: reading all that, or 8 rows against the image. PyTorch: 32 ms.
void dart_decoder_layer(benchmark::State& state) {
  const Matrix features = tokens_of(Data::image, 636, 4096, 1);
  const Matrix keys = bench::gaussian(636, 4096, 5);
  const TokenLayout layout = TokenLayout::decoder(35, 576, 25);
  const std::size_t row = 4096 * sizeof(float);
  bench::step(state, DART{}, Sequence(layout, Features(features), Keys(split_heads(keys, 32))),
              Budget::keep(64), features, Bound((601 + 576 + 4 + 124) * row, {{8, 576, 4096}}));
}
BENCHMARK(dart_decoder_layer)->UseManualTime()->Unit(benchmark::kMillisecond);

/// The same before layer 0, without keys: norms of all features first, then cosines.
/// Bound: reading the features for both, as the norms choose the pivots.
void dart_embeddings(benchmark::State& state) {
  const Matrix features = tokens_of(Data::image, 636, 4096, 1);
  const TokenLayout layout = TokenLayout::decoder(35, 576, 25);
  const std::size_t row = 4096 * sizeof(float);
  bench::step(state, tokenfold::dart_embeddings(), Sequence(layout, Features(features)),
              Budget::keep(64), features, Bound((601 + 576 + 124) * row, {{8, 576, 4096}}));
}
BENCHMARK(dart_embeddings)->UseManualTime()->Unit(benchmark::kMillisecond);

}  // namespace
