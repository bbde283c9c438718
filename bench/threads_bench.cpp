// SPDX-License-Identifier: Apache-2.0
// What do two threads gain, on one image and on a batch? `speed_up` is against one thread, measured
// in turn.

#include <tokenfold/eigen_thread_pool.hpp>
#include <tokenfold/tokenfold.hpp>

#include "measure.hpp"

namespace {

using bench::Index;
using bench::Matrix;
using namespace tokenfold;

/// Times `one` and `two`, which do the same on one and on two threads.
template <class One, class Two>
void compare(benchmark::State& state, One&& one, Two&& two) {
  one();
  two();
  std::vector<double> alone;
  std::vector<double> together;
  for (auto _ : state) {
    alone.push_back(bench::time_ms(one));
    const double ms = bench::time_ms(two);
    state.SetIterationTime(ms / 1e3);
    together.push_back(ms);
  }
  const double ms = bench::median(together);
  state.counters["ms"] = ms;
  state.counters["speed_up"] = bench::median(alone) / ms;
}

/// Plan and apply of one image, its products spread over the threads.
template <class Method, class S>
void one_image(benchmark::State& state, const Method& method, const S& sequence,
               const Budget& budget, const Matrix& tokens) {
  Eigen::ThreadPool pool(2);
  const EigenThreadPool executor(pool);
  Workspace alone;
  Workspace together;
  together.run_on(executor);
  ReductionPlan plan;
  method.plan(sequence, budget, alone, plan);
  Matrix out(plan.output_tokens(), tokens.cols());
  compare(
      state,
      [&] {
        method.plan(sequence, budget, alone, plan);
        plan.apply(tokens, out);
      },
      [&] {
        method.plan(sequence, budget, together, plan);
        plan.apply(tokens, out, executor);
      });
}

void threads_ficoco_v_probabilities(benchmark::State& state) {
  const Matrix q = bench::gaussian(577, 1024, 1);
  const Matrix k = bench::gaussian(577, 1024, 2);
  const Matrix tokens = bench::gaussian(577, 1024, 3);
  const QueryKeyAttention attention(split_heads(q, 16), split_heads(k, 16));
  const TokenLayout layout = TokenLayout::encoder({24, 24});
  one_image(state, FiCoCoV{}, Sequence(layout, attention), Budget::discard(42), tokens);
}
BENCHMARK(threads_ficoco_v_probabilities)->UseManualTime()->Unit(benchmark::kMillisecond);

void threads_ficoco_l_probabilities(benchmark::State& state) {
  const Matrix q = bench::gaussian(636, 4096, 1, 0.3F);
  const Matrix k = bench::gaussian(636, 4096, 2, 0.3F);
  const Matrix tokens = bench::gaussian(636, 4096, 3);
  const QueryKeyAttention attention(split_heads(q, 32), split_heads(k, 32), {.causal = true});
  const TokenLayout layout = TokenLayout::decoder(35, 576, 25);
  one_image(state, FiCoCoL{}, Sequence(layout, attention), Budget::discard(42), tokens);
}
BENCHMARK(threads_ficoco_l_probabilities)->UseManualTime()->Unit(benchmark::kMillisecond);

/// 576 tokens of 4096 channels, 64 stay.
template <class Method>
void of_features(benchmark::State& state) {
  const Matrix tokens = bench::gaussian(576, 4096, 1);
  const Matrix text = bench::gaussian(16, 4096, 2);
  const TokenLayout layout = TokenLayout::decoder(0, 576, 0);
  const Sequence sequence(layout, Features(tokens), ImageEmbeddings(tokens), TextEmbeddings(text));
  one_image(state, Method{}, sequence, Budget::keep(64), tokens);
}

/// Eight images at once, each on one thread.
template <class Method>
void batch_of_8(benchmark::State& state) {
  const Matrix q = bench::gaussian(577, 1024, 1);
  const Matrix k = bench::gaussian(577, 1024, 2);
  const Matrix tokens = bench::gaussian(8 * 577, 1024, 3);
  const QueryKeyAttention attention(split_heads(q, 16), split_heads(k, 16));
  const TokenLayout layout = TokenLayout::encoder({24, 24});
  const auto images = ItemsFrom(8, [&](Index i) {
    return Sequence(layout, attention,
                    Features(MatrixView(tokens).middle_rows({i * 577, (i + 1) * 577})));
  });
  Eigen::ThreadPool pool(2);
  const EigenThreadPool executor(pool);
  Batch batch;
  batch.plan(Method{}, images, Budget::keep(64), executor);
  Matrix out(batch.output_tokens(), 1024);
  const auto run = [&](const auto& on) {
    batch.plan(Method{}, images, Budget::keep(64), on);
    batch.apply(tokens, out, on);
  };
  compare(
      state, [&] { run(Serial{}); }, [&] { run(executor); });
}

}  // namespace

BENCHMARK(of_features<DivPrune>)
    ->Name("threads_divprune")
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(of_features<MMTok>)
    ->Name("threads_mmtok")
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(batch_of_8<PruMerge>)
    ->Name("threads_batch_prumerge")
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(batch_of_8<DivPrune>)
    ->Name("threads_batch_divprune")
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
