// SPDX-License-Identifier: Apache-2.0
// What do questions to attention cost without the attention matrix, and what does the attention
// itself cost that they avoid?

#include "step.hpp"

namespace {

using bench::Bound;
using bench::bytes;
using bench::Index;
using bench::Matrix;
using namespace tokenfold;

template <class T>
using MatrixOf = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

struct Shape {
  Index tokens;
  Index width;
  Index heads;
  bool causal;

  /// The products that probabilities need; a causal mask halves them.
  std::vector<bench::Gemm> products() const {
    const Index rows = causal ? (tokens + 1) / 2 : tokens;
    return std::vector<bench::Gemm>(static_cast<std::size_t>(heads), {rows, tokens, width / heads});
  }
};
constexpr Shape encoder = {577, 1024, 16, false};
constexpr Shape decoder = {636, 4096, 32, true};

template <class T>
struct Layer {
  explicit Layer(const Shape& s)
      : q(bench::gaussian(s.tokens, s.width, 1).cast<T>()),
        k(bench::gaussian(s.tokens, s.width, 2).cast<T>()),
        attention(split_heads(q, s.heads), split_heads(k, s.heads), {.causal = s.causal}) {}
  MatrixOf<T> q;
  MatrixOf<T> k;
  QueryKeyAttention<T> attention;
};

/// What every key receives from all rows. Necessary: Q · Kᵀ of all heads.
template <class T>
void received(benchmark::State& state, Shape shape) {
  const Layer<T> layer(shape);
  const Eigen::VectorXf weights =
      Eigen::VectorXf::Constant(shape.tokens, 1.0f / static_cast<float>(shape.tokens));
  Eigen::VectorXf out(shape.tokens);
  Workspace workspace;
  bench::run(state, Bound(bytes(layer.q, layer.k), shape.products()), [&] {
    layer.attention.received({0, shape.tokens}, weights, {0, shape.tokens}, out, workspace);
    benchmark::DoNotOptimize(out.data());
  });
  state.counters["scratch_kB"] = static_cast<double>(workspace.peak()) / 1e3;
}
template <class T>
void encoder_received(benchmark::State& state) {
  received<T>(state, encoder);
}
template <class T>
void decoder_received(benchmark::State& state) {
  received<T>(state, decoder);
}
BENCHMARK(encoder_received<float>)->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK(encoder_received<Eigen::half>)->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK(encoder_received<Eigen::bfloat16>)->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK(decoder_received<float>)->UseManualTime()->Unit(benchmark::kMillisecond);

/// One row. Necessary: reading K.
template <class T>
void one_row(benchmark::State& state, Shape shape) {
  const Layer<T> layer(shape);
  MatrixOf<float> out(1, shape.tokens);
  const auto row = static_cast<Token>(shape.causal ? shape.tokens - 1 : 0);
  Workspace workspace;
  bench::run(state, Bound(bytes(layer.k), {}), [&] {
    layer.attention.rows({&row, 1}, {0, shape.tokens}, MatrixView<float>(out), workspace);
    benchmark::DoNotOptimize(out.data());
  });
}
template <class T>
void encoder_one_row(benchmark::State& state) {
  one_row<T>(state, encoder);
}
template <class T>
void decoder_one_row(benchmark::State& state) {
  one_row<T>(state, decoder);
}
BENCHMARK(encoder_one_row<float>)->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK(encoder_one_row<Eigen::half>)->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK(decoder_one_row<float>)->UseManualTime()->Unit(benchmark::kMillisecond);

/// The attention layer itself, softmax(Q · Kᵀ / √d) · V with Eigen, 64 rows at a time. Necessary:
/// both products.
void whole_attention(benchmark::State& state, Shape shape) {
  const Layer<float> layer(shape);
  const Matrix v = bench::gaussian(shape.tokens, shape.width, 3);
  const Index d = shape.width / shape.heads;
  const float scale = 1 / std::sqrt(static_cast<float>(d));
  Matrix scores(64, shape.tokens);
  Matrix out(shape.tokens, shape.width);
  std::vector<bench::Gemm> products = shape.products();
  products.insert(products.end(), products.begin(), products.end());
  bench::run(state, Bound(bytes(layer.q, layer.k, v), products), [&] {
    for (Index h = 0; h < shape.heads; ++h) {
      const auto q = layer.q.middleCols(h * d, d);
      for (Index begin = 0; begin < shape.tokens; begin += 64) {
        const Index rows = std::min<Index>(64, shape.tokens - begin);
        const Index seen = shape.causal ? begin + rows : shape.tokens;
        const auto k = layer.k.middleCols(h * d, d).topRows(seen);
        auto s = scores.topLeftCorner(rows, seen);
        s.noalias() = q.middleRows(begin, rows) * k.transpose();
        for (Index i = 0; i < rows; ++i) {
          const Index visible = shape.causal ? begin + i + 1 : seen;
          auto row = s.row(i).head(visible).array();
          row = (scale * (row - row.maxCoeff())).exp();
          row *= 1 / row.sum();
          s.row(i).tail(seen - visible).setZero();
        }
        out.block(begin, h * d, rows, d).noalias() = s * v.block(0, h * d, seen, d);
      }
    }
    benchmark::DoNotOptimize(out.data());
  });
}
void encoder_whole_attention(benchmark::State& state) { whole_attention(state, encoder); }
void decoder_whole_attention(benchmark::State& state) { whole_attention(state, decoder); }
BENCHMARK(encoder_whole_attention)->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK(decoder_whole_attention)->UseManualTime()->Unit(benchmark::kMillisecond);

}  // namespace
