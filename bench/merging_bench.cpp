// SPDX-License-Identifier: Apache-2.0
// What do the methods cost that match tokens to merge them, plan and apply together?

#include "step.hpp"

namespace {

using bench::Bound;
using bench::bytes;
using bench::Index;
using bench::Matrix;
using namespace tokenfold;

/// One layer of CLIP-L/336: 577 tokens, 1024 wide, 16 heads; 42 tokens are merged. Necessary: the
/// head mean of K, the tokens, and a product of one half with the other, 64 deep.
void tome(benchmark::State& state) {
  const Matrix k = bench::gaussian(577, 1024, 2);
  const Matrix tokens = bench::gaussian(577, 1024, 3);
  const TokenLayout layout = TokenLayout::encoder({24, 24});
  bench::step(state, ToMe{}, Sequence(layout, Keys(split_heads(k, 16))), Budget::discard(42),
              tokens, Bound(bytes(k, tokens), {{288, 288, 64}}));
}
BENCHMARK(tome)->UseManualTime()->Unit(benchmark::kMillisecond);

/// The last layer but one of CLIP-L/336 to 54 dominant and 10 contextual tokens, [CLS] counted.
/// Necessary: K, for the [CLS] row and for the head mean, and the tokens that are not dominant, all
/// of which are averaged into the contextual ones; a product of these two, 64 deep.
void visionzip(benchmark::State& state) {
  const Matrix k = bench::gaussian(577, 1024, 2);
  const Matrix tokens = bench::gaussian(577, 1024, 3);
  const Matrix q_cls = bench::gaussian(1, 1024, 1);
  const QueryKeyAttention attention(split_heads(q_cls, 16), split_heads(k, 16));
  const TokenLayout layout = TokenLayout::encoder({24, 24});
  bench::step(state, VisionZip{}, Sequence(layout, attention), Budget::keep(63), tokens,
              Bound(bytes(k, tokens), {{513, 10, 64}}));
}
BENCHMARK(visionzip)->UseManualTime()->Unit(benchmark::kMillisecond);

/// 35 + 576 + 25 tokens of a 7B decoder layer, 4096 wide, 32 heads.
struct Decoder {
  Matrix q = bench::gaussian(636, 4096, 1);
  Matrix k = bench::gaussian(636, 4096, 2);
  Matrix tokens = bench::gaussian(636, 4096, 3, 0.05f);
  TokenLayout layout = TokenLayout::decoder(35, 576, 25);
  std::vector<Token> raters = {613, 617, 618, 621, 624, 627, 630, 631, 633};

  QueryKeyAttention<float> attention() const {
    return {split_heads(q, 32), split_heads(k, 32), {.causal = true}};
  }
  auto rater_rows() const { return q.topRows(static_cast<Index>(raters.size())); }
};

/// The first pruning layer, 576 to 303 tokens: 9 raters, 82 tokens in 9 clusters. Necessary: K, the
/// rows that are kept or recycled, the raters' products and those of half the pairs of recycled
/// tokens.
void sparsevlm(benchmark::State& state) {
  const Decoder layer;
  const QueryKeyAttention attention = layer.attention();
  const Matrix moved = layer.tokens.topRows(60 + 303 + 82);
  bench::step(state, SparseVLM{},
              Sequence(layer.layout, attention, Features(layer.tokens), Raters(layer.raters)),
              Budget::keep(303), layer.tokens,
              Bound(bytes(layer.k, layer.rater_rows(), moved), {{9, 636, 4096}, {41, 82, 4096}}));
}
BENCHMARK(sparsevlm)->UseManualTime()->Unit(benchmark::kMillisecond);

/// The same layer in version 2, 576 to 238 tokens, nothing recycled. Necessary: K and the rows that
/// are kept; the raters' products.
void sparsevlm_v2(benchmark::State& state) {
  const Decoder layer;
  const QueryKeyAttention attention = layer.attention();
  const Matrix moved = layer.tokens.topRows(60 + 238);
  bench::step(state, SparseVLMv2{},
              Sequence(layer.layout, attention, Features(layer.tokens), Raters(layer.raters)),
              Budget::keep(238), layer.tokens,
              Bound(bytes(layer.k, layer.rater_rows(), moved), {{9, 636, 4096}}));
}
BENCHMARK(sparsevlm_v2)->UseManualTime()->Unit(benchmark::kMillisecond);

/// Choosing the raters, once before layer 0. Necessary: the embeddings from the image on, and the
/// products of text and image.
void sparsevlm_raters(benchmark::State& state) {
  const Decoder layer;
  Workspace workspace;
  std::vector<Token> raters;
  const auto read = layer.tokens.bottomRows(576 + 25);
  bench::run(state, Bound(bytes(read), {{25, 576, 4096}}), [&] {
    text_raters(layer.layout, MatrixView<const float>(layer.tokens), RaterThreshold::above_mean,
                workspace, raters);
    benchmark::DoNotOptimize(raters.data());
  });
}
BENCHMARK(sparsevlm_raters)->UseManualTime()->Unit(benchmark::kMillisecond);

}  // namespace
