// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <benchmark/benchmark.h>

#include <Eigen/Core>
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <random>
#include <vector>

/// Times against physical bounds. Machines that run benchmarks are noisy and differ, so a time
/// alone says little; `vs_bound` compares it with what the same process can do at best in the same
/// seconds.
namespace bench {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Index = Eigen::Index;

inline Matrix gaussian(Index rows, Index cols, unsigned seed, float deviation = 1) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0, deviation);
  return Matrix::NullaryExpr(rows, cols, [&] { return normal(engine); });
}

/// Milliseconds of one call.
template <class Work>
double time_ms(Work&& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

inline double median(std::vector<double>& values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// A product of [rows × depth] · [depth × cols] that the method cannot do without.
struct Gemm {
  Index rows = 0;
  Index cols = 0;
  Index depth = 0;
};

/// What a method must do at least: go through `bytes` of memory once, or multiply; the slower of the
/// two is the bound.
class Bound {
 public:
  Bound(std::size_t bytes, std::vector<Gemm> products)
      : buffer_(Eigen::ArrayXf::Random(static_cast<Index>(bytes / sizeof(float)))) {
    for (const Gemm& g : products) {
      products_.push_back({Matrix::Random(g.rows, g.depth), Matrix::Random(g.cols, g.depth),
                           Matrix::Zero(g.rows, g.cols)});
    }
  }

  /// Bytes that must be gone through as well, written ones as if they were read.
  void add_bytes(std::size_t bytes) {
    buffer_ = Eigen::ArrayXf::Random(buffer_.size() + static_cast<Index>(bytes / sizeof(float)));
  }

  /// One measurement of both, in milliseconds.
  double sample() {
    const double read = time_ms([&] { benchmark::DoNotOptimize(buffer_.sum()); });
    const double multiply = time_ms([&] {
      for (Product& p : products_) {
        p.out.noalias() = p.left * p.right.transpose();
        benchmark::DoNotOptimize(p.out.data());
      }
    });
    return std::max(read, multiply);
  }

 private:
  struct Product {
    Matrix left;
    Matrix right;
    Matrix out;
  };

  Eigen::ArrayXf buffer_;
  std::vector<Product> products_;
};

/// Runs `work` as a benchmark. The bound is sampled between the iterations, so that whatever slows
/// the machine down slows both; reported are the medians: `ms`, `bound_ms` and `vs_bound` = ms /
/// bound_ms.
template <class Work>
void run(benchmark::State& state, Bound bound, Work&& work) {
  work();
  bound.sample();
  std::vector<double> times;
  std::vector<double> bounds;
  for (auto _ : state) {
    const double ms = time_ms(work);
    state.SetIterationTime(ms / 1e3);
    times.push_back(ms);
    bounds.push_back(bound.sample());
  }
  const double ms = median(times);
  const double least = median(bounds);
  state.counters["ms"] = ms;
  state.counters["bound_ms"] = least;
  state.counters["vs_bound"] = ms / least;
}

}  // namespace bench
