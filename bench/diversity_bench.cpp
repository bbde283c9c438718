// SPDX-License-Identifier: Apache-2.0
// What do DivPrune and CDPruner cost, plan and apply together?

#include <tokenfold/tokenfold.hpp>

#include "step.hpp"

namespace {

using bench::Bound;
using bench::bytes;
using bench::Index;
using bench::Matrix;
using namespace tokenfold;

/// Tokens as an encoder gives them: a dozen regions of a 24 × 24 (or 24 × n) grid, the patches of
/// one more alike (cosine 0.8) than those of two (0.2).
Matrix image_like(Index rows, Index cols, unsigned seed) {
  constexpr Index regions = 12;
  const Matrix centres = bench::gaussian(regions, cols, seed);
  const Matrix common = bench::gaussian(1, cols, seed + 1);
  std::mt19937 engine(seed + 2);
  std::uniform_real_distribution<float> place(0, 1);
  std::vector<std::pair<float, float>> seeds;
  for (Index r = 0; r < regions; ++r) {
    seeds.emplace_back(place(engine) * 24, place(engine) * static_cast<float>(rows) / 24);
  }
  Matrix tokens = bench::gaussian(rows, cols, seed + 3, 0.5F);
  for (Index i = 0; i < rows; ++i) {
    const auto distance = [&](const std::pair<float, float>& s) {
      return std::hypot(s.first - static_cast<float>(i % 24),
                        s.second - static_cast<float>(i / 24));
    };
    const auto nearest =
        std::min_element(seeds.begin(), seeds.end(),
                         [&](const auto& a, const auto& b) { return distance(a) < distance(b); });
    tokens.row(i) += centres.row(nearest - seeds.begin()) + 0.5F * common.row(0);
  }
  return tokens;
}

void arguments(benchmark::internal::Benchmark* b) {
  b->UseManualTime()->Unit(benchmark::kMillisecond);
}

/// With exact scores of all tokens, as by default, or the picks alone.
enum class Scores { all, picks };

/// Bound: the cosines of all pairs, which the most isolated token depends on; the picks' distances
/// are among them. Where neighbours show early that tokens are not isolated, less than that is done.
void divprune(benchmark::State& state, const Matrix& tokens, Index keep, Scores scores) {
  const Index n = tokens.rows();
  DivPrune method;
  method.filter.score_discarded = scores == Scores::all;
  const TokenLayout layout = TokenLayout::decoder(0, n, 0);
  step(state, method, Sequence(layout, Features(tokens)), Budget::keep(keep), tokens,
       Bound(bytes(tokens), {{n / 2, n, tokens.cols()}}));
}
void divprune_1024_gaussian(benchmark::State& state) {
  divprune(state, bench::gaussian(576, 1024, 1), 64, Scores::all);
}
void divprune_1024_image(benchmark::State& state) {
  divprune(state, image_like(576, 1024, 1), 64, Scores::all);
}
void divprune_1024_image_picks(benchmark::State& state) {
  divprune(state, image_like(576, 1024, 1), 64, Scores::picks);
}
void divprune_4096_gaussian(benchmark::State& state) {
  divprune(state, bench::gaussian(576, 4096, 1), 64, Scores::all);
}
void divprune_4096_image(benchmark::State& state) {
  divprune(state, image_like(576, 4096, 1), 64, Scores::all);
}
void divprune_4096_gaussian_picks(benchmark::State& state) {
  divprune(state, bench::gaussian(576, 4096, 1), 64, Scores::picks);
}
void divprune_4096_image_picks(benchmark::State& state) {
  divprune(state, image_like(576, 4096, 1), 64, Scores::picks);
}
void divprune_1024_image_2880_to_320_picks(benchmark::State& state) {
  divprune(state, image_like(2880, 1024, 1), 320, Scores::picks);
}
BENCHMARK(divprune_1024_gaussian)->Apply(arguments);
BENCHMARK(divprune_1024_image)->Apply(arguments);
BENCHMARK(divprune_1024_image_picks)->Apply(arguments);
BENCHMARK(divprune_4096_gaussian)->Apply(arguments);
BENCHMARK(divprune_4096_image)->Apply(arguments);
BENCHMARK(divprune_4096_gaussian_picks)->Apply(arguments);
BENCHMARK(divprune_4096_image_picks)->Apply(arguments);
BENCHMARK(divprune_1024_image_2880_to_320_picks)->Apply(arguments);

/// Relevance from embeddings included. Bound: the cosines of all tokens with the picks, or reading
/// tokens and embeddings; with the picks alone less than that is done.
void cdpruner(benchmark::State& state, const Matrix& tokens, Index keep, Scores scores) {
  const Index n = tokens.rows();
  const Matrix image = image_like(n, 768, 5);
  const Matrix text = bench::gaussian(1, 768, 6);
  CDPruner method;
  method.filter.score_discarded = scores == Scores::all;
  const TokenLayout layout = TokenLayout::decoder(0, n, 0);
  step(state, method,
       Sequence(layout, Features(tokens), ImageEmbeddings(image), TextEmbeddings(text)),
       Budget::keep(keep), tokens, Bound(bytes(tokens, image), {{keep, n, tokens.cols()}}));
}
void cdpruner_4096_gaussian(benchmark::State& state) {
  cdpruner(state, bench::gaussian(576, 4096, 1), 64, Scores::all);
}
void cdpruner_4096_image(benchmark::State& state) {
  cdpruner(state, image_like(576, 4096, 1), 64, Scores::all);
}
void cdpruner_4096_gaussian_picks(benchmark::State& state) {
  cdpruner(state, bench::gaussian(576, 4096, 1), 64, Scores::picks);
}
void cdpruner_4096_image_picks(benchmark::State& state) {
  cdpruner(state, image_like(576, 4096, 1), 64, Scores::picks);
}
void cdpruner_1024_image_2880_to_320_picks(benchmark::State& state) {
  cdpruner(state, image_like(2880, 1024, 1), 320, Scores::picks);
}
BENCHMARK(cdpruner_4096_gaussian)->Apply(arguments);
BENCHMARK(cdpruner_4096_image)->Apply(arguments);
BENCHMARK(cdpruner_4096_gaussian_picks)->Apply(arguments);
BENCHMARK(cdpruner_4096_image_picks)->Apply(arguments);
BENCHMARK(cdpruner_1024_image_2880_to_320_picks)->Apply(arguments);

void cen_divprune_4096_image(benchmark::State& state) {
  const Matrix tokens = image_like(576, 4096, 1);
  const TokenLayout layout = TokenLayout::decoder(0, 576, 0);
  step(state, cen_divprune(), Sequence(layout, Features(tokens)), Budget::keep(64), tokens,
       Bound(bytes(tokens), {{576 / 2, 576, 4096}, {64, 576, 4096}}));
}
BENCHMARK(cen_divprune_4096_image)->Apply(arguments);

/// The kernel is given: cosines times relevance. Bound: the factorisation, N · K² / 2, of all tokens,
/// though those of small gain need none of it.
void dpp_given_kernel(benchmark::State& state, Index n, Index keep, bool relevance) {
  const Matrix tokens = image_like(n, 1024, 1).rowwise().normalized();
  std::mt19937 engine(2);
  std::uniform_real_distribution<float> uniform(relevance ? 0.001F : 1.0F, 1.0F);
  const Eigen::VectorXf r = Eigen::VectorXf::NullaryExpr(n, [&] { return uniform(engine); });
  const Matrix kernel = r.asDiagonal() * (tokens * tokens.transpose()) * r.asDiagonal();
  Workspace workspace;
  bench::run(state,
             Bound(bytes(kernel) / static_cast<std::size_t>(n / keep), {{n, keep / 2, keep}}),
             [&] { benchmark::DoNotOptimize(greedy_determinant(kernel, keep, workspace)); });
  state.counters["scratch_kB"] = static_cast<double>(workspace.peak()) / 1e3;
}
void dpp_given_kernel_576_to_64(benchmark::State& state) { dpp_given_kernel(state, 576, 64, true); }
void dpp_given_kernel_2880_to_320(benchmark::State& state) {
  dpp_given_kernel(state, 2880, 320, true);
}
void dpp_given_kernel_2880_to_320_equal_relevance(benchmark::State& state) {
  dpp_given_kernel(state, 2880, 320, false);
}
BENCHMARK(dpp_given_kernel_576_to_64)->Apply(arguments);
BENCHMARK(dpp_given_kernel_2880_to_320)->Apply(arguments);
BENCHMARK(dpp_given_kernel_2880_to_320_equal_relevance)->Apply(arguments);

}  // namespace
