// SPDX-License-Identifier: Apache-2.0
// What does a video cost? 16 frames of 16 × 16 tokens, 3584 wide (a 7B model), a quarter kept: plan
// and apply together. And the reductions that look at no token, which should cost their copies.

#include "step.hpp"

namespace {

using bench::Bound;
using bench::Index;
using bench::Matrix;
using namespace tokenfold;

constexpr Index frames = 16;
constexpr Grid grid{16, 16};
constexpr Index width = 3584;
constexpr Index tokens = frames * grid.cells();
constexpr Index kept = tokens / 4;

/// A video whose frames resemble each other: a still picture, and noise half as strong.
template <class T>
auto video() {
  using Tokens = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix still = bench::gaussian(grid.cells(), width, 1);
  const Matrix noise = bench::gaussian(tokens, width, 2, 0.5f);
  return Tokens((noise + still.replicate(frames, 1)).template cast<T>());
}

/// Bytes of `rows` rows of T.
template <class T>
constexpr std::size_t bytes_of(Index rows) {
  return static_cast<std::size_t>(rows * width) * sizeof(T);
}

/// Bound: every token is read once, and the kept ones once more, since which they are is known
/// last.
template <class T>
void evs(benchmark::State& state) {
  const auto x = video<T>();
  const TokenLayout layout = TokenLayout::video(frames, grid);
  bench::step(state, EVS{}, Sequence(layout, Features(x)), Budget::keep(kept), x,
              Bound(bytes_of<T>(tokens) + bytes_of<T>(kept), {}));
}
BENCHMARK(evs<float>)->Name("evs")->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK(evs<Eigen::half>)->Name("evs_half")->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK(evs<Eigen::bfloat16>)
    ->Name("evs_bfloat16")
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

/// Bound: every channel is read for its variance; then the chosen half of them for the lengths, on
/// which the centres depend, and again for the distances from these. Every cache line holds chosen
/// channels, so all three read everything (copying the chosen half out would save half a pass and
/// cost one). Then the kept tokens are read.
template <class T>
void vidcom2(benchmark::State& state) {
  const auto x = video<T>();
  const TokenLayout layout = TokenLayout::video(frames, grid);
  bench::step(state, VidCom2{}, Sequence(layout, Features(x)), Budget::keep(kept), x,
              Bound(3 * bytes_of<T>(tokens) + bytes_of<T>(kept), {}));
}
BENCHMARK(vidcom2<float>)->Name("vidcom2")->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK(vidcom2<Eigen::half>)
    ->Name("vidcom2_half")
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(vidcom2<Eigen::bfloat16>)
    ->Name("vidcom2_bfloat16")
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

/// Frame-wise budgets of a method that needs next to no time itself: what the frames add.
/// Bound: the kept tokens are read.
void frame_wise_uniform(benchmark::State& state) {
  const Matrix x = bench::gaussian(tokens, 1024, 1);
  const TokenLayout layout = TokenLayout::video(frames, grid);
  bench::step(state, FrameWise<UniformSampling>{}, Sequence(layout), Budget::keep(kept), x,
              Bound(sizeof(float) * std::size_t{kept} * 1024, {}));
}
BENCHMARK(frame_wise_uniform)->UseManualTime()->Unit(benchmark::kMillisecond);

/// 24 × 24 tokens, 4096 wide, to 144. Bound: reading what is read.
template <class Method>
void baseline(benchmark::State& state, Index rows_read) {
  const Matrix x = bench::gaussian(576, 4096, 1);
  const TokenLayout layout = TokenLayout::encoder({24, 24}, ClsToken::none);
  bench::step(state, Method{}, Sequence(layout), Budget::keep(144), x,
              Bound(sizeof(float) * 4096 * static_cast<std::size_t>(rows_read), {}));
}
void uniform_sampling(benchmark::State& state) { baseline<UniformSampling>(state, 144); }
void random_sampling(benchmark::State& state) { baseline<RandomSampling>(state, 144); }
void spatial_pooling(benchmark::State& state) { baseline<SpatialPooling>(state, 576); }
BENCHMARK(uniform_sampling)->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK(random_sampling)->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK(spatial_pooling)->UseManualTime()->Unit(benchmark::kMillisecond);

}  // namespace
