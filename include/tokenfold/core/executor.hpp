// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <concepts>
#include <exception>
#include <utility>

#include "tokenfold/core/any_executor.hpp"
#include "tokenfold/core/types.hpp"

#if defined(_OPENMP)
#include <omp.h>
#endif

/// Where independent items are worked on: on the caller's thread unless it hands over something
/// better. What comes out does not depend on it, bit for bit.
///
///   tf::Serial{}                                   the default
///   tf::StdThreads{4}                              tokenfold/std_threads.hpp
///   tf::OpenMP{4}                                  where compiled with OpenMP
///   tf::EigenThreadPool(pool)                      tokenfold/eigen_thread_pool.hpp
///   tf::ParallelFor{4, [&](tf::Index count, auto&& body) {
///     engine.parallel_for(count, body);            // any loop of the engine's own
///   }}
///
/// Eigen splits large products over OpenMP threads of its own where it finds itself outside of a
/// parallel region, and then sums in another order. Where that is so (-fopenmp without
/// EIGEN_DONT_PARALLELIZE), call `Eigen::setNbThreads(1)` for the same bits at every width.
namespace tokenfold {

/// One after the other on the caller's thread.
struct Serial {
  Index concurrency() const { return 1; }

  template <class Body>
  void operator()(Index count, const Body& body) const {
    for (Index i = 0; i < count; ++i) {
      body(i);
    }
  }
};

#if defined(_OPENMP)
/// A parallel region of OpenMP.
struct OpenMP {
  int threads = omp_get_max_threads();

  Index concurrency() const { return threads; }

  template <class Body>
  void operator()(Index count, const Body& body) const {
#pragma omp parallel for num_threads(std::max(threads, 1)) schedule(static, 1)
    for (Index i = 0; i < count; ++i) {
      body(i);
    }
  }
};
#endif

/// Any loop of the engine's own: `loop(count, body)` as in `Executor`, at most `width` calls at
/// once. `body` takes any integer, copies cheaply and fits a `std::function<void(int)>`.
template <class Loop>
struct ParallelFor {
  Index width;
  Loop loop;

  Index concurrency() const { return width; }

  template <class Body>
  void operator()(Index count, const Body& body) const {
    loop(count, [&body](auto i) { body(static_cast<Index>(i)); });
  }
};
template <class Loop>
ParallelFor(Index, Loop) -> ParallelFor<Loop>;

/// How many workers `parallel_for` should be given for `count` items: one workspace each.
template <Executor E>
Index worker_count(const E& executor, Index count) {
  return std::clamp<Index>(executor.concurrency(), 1, std::max<Index>(count, 1));
}

namespace detail {

/// Items that workers take one at a time, in ascending order, until all are taken or one has
/// failed. All items below a failed one were taken before it, so the lowest item that fails is
/// among them whatever the timing, and its exception is the one that comes out.
class SharedItems {
 public:
  explicit SharedItems(Index count) : count_(count) {}

  /// Calls body(i) for every item that this worker gets hold of.
  template <class Body>
  void work(const Body& body) {
    for (Index i = take(); i < count_; i = take()) {
#if defined(__cpp_exceptions)
      try {
        body(i);
      } catch (...) {
        fail(i, std::current_exception());
      }
#else
      body(i);
#endif
    }
  }
  void rethrow() {
#if defined(__cpp_exceptions)
    if (failure_) {
      std::rethrow_exception(std::exchange(failure_, nullptr));
    }
#endif
  }

 private:
  Index take() { return next_.fetch_add(1, std::memory_order_relaxed); }
#if defined(__cpp_exceptions)
  void fail(Index item, std::exception_ptr failure) {
    next_.store(count_, std::memory_order_relaxed);
    while (busy_.test_and_set(std::memory_order_acquire)) {
    }
    if (!failure_ || item < failed_item_) {
      failed_item_ = item;
      failure_ = std::move(failure);
    }
    busy_.clear(std::memory_order_release);
  }

  /// Held for two assignments; <mutex> would cost everybody who includes this 3 % more to compile.
  std::atomic_flag busy_;
  Index failed_item_ = 0;
  std::exception_ptr failure_;
#endif
  Index count_;
  std::atomic<Index> next_{0};
};

}  // namespace detail

/// Calls body(i, worker) once for every i in [0, count), where worker < `workers` and no two calls
/// with the same worker overlap: what a worker needs for itself (a `Workspace`) it has without
/// locks. Items are taken as workers become free, so that unequal ones balance.
///
/// A call that throws ends the loop early. The exception that reaches the caller is that of the
/// lowest item that fails, as in a loop. Compiled without exceptions, the failure handler ends the
/// process from whichever thread.
template <Executor E, class Body>
void parallel_for(const E& executor, Index workers, Index count, const Body& body) {
  if (workers <= 1 || count <= 1) {
    for (Index i = 0; i < count; ++i) {
      body(i, Index{0});
    }
    return;
  }
  detail::SharedItems items(count);
  executor(workers, [&](Index worker) { items.work([&](Index i) { body(i, worker); }); });
  items.rethrow();
}

}  // namespace tokenfold
