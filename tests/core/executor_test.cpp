// SPDX-License-Identifier: Apache-2.0
#include "tokenfold/core/executor.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tokenfold/eigen_thread_pool.hpp"
#include "tokenfold/std_threads.hpp"

namespace {

using tokenfold::Executor;
using tokenfold::Index;
using tokenfold::parallel_for;
using tokenfold::Serial;
using tokenfold::StdThreads;
using tokenfold::worker_count;

static_assert(Executor<Serial>);
static_assert(Executor<StdThreads>);
static_assert(Executor<tokenfold::EigenThreadPool>);
static_assert(!Executor<int>);

/// What an engine has: a loop that knows nothing of Eigen, of templates or of this library.
struct EnginePool {
  int threads = 3;

  void parallel_for(int count, const std::function<void(int)>& body) const {
    std::vector<std::thread> running;
    for (int t = 0; t < threads; ++t) {
      running.emplace_back([&, t] {
        for (int i = count - 1 - t; i >= 0; i -= threads) body(i);  // backwards: any order will do
      });
    }
    for (std::thread& thread : running) thread.join();
  }
};

/// Calls `use(name, executor)` for every kind and some widths.
template <class Use>
void with_executors(Use&& use) {
  use("serial", Serial{});
  for (const Index width : {-1, 0, 1, 2, 3, 8}) {
    use("threads " + std::to_string(width), StdThreads{width});
  }
  const EnginePool engine;
  use("engine", tokenfold::ParallelFor{engine.threads, [&](Index count, auto&& body) {
                                         engine.parallel_for(static_cast<int>(count), body);
                                       }});
  for (const int width : {1, 2, 5}) {
    Eigen::ThreadPool pool(width);
    use("Eigen " + std::to_string(width), tokenfold::EigenThreadPool(pool));
  }
#if defined(_OPENMP)
  for (const int width : {-1, 1, 2, 5}) {
    use("OpenMP " + std::to_string(width), tokenfold::OpenMP{width});
  }
#endif
}

TEST(Executor, calls_every_index_once) {
  with_executors([](const std::string& name, const auto& executor) {
    for (const Index count : {0, 1, 2, 7, 100}) {
      SCOPED_TRACE(name + ", " + std::to_string(count));
      std::vector<std::atomic<int>> calls(static_cast<std::size_t>(count));
      executor(count, [&](Index i) { ++calls.at(static_cast<std::size_t>(i)); });
      for (const auto& number : calls) EXPECT_EQ(number, 1);
    }
  });
}

TEST(Executor, what_bodies_wrote_is_seen_after_the_call) {
  with_executors([](const std::string& name, const auto& executor) {
    SCOPED_TRACE(name);
    for (int repeat = 0; repeat < 20; ++repeat) {
      std::vector<Index> written(50, -1);  // plain memory: the executor orders it
      executor(50, [&](Index i) { written[static_cast<std::size_t>(i)] = i; });
      for (Index i = 0; i < 50; ++i) ASSERT_EQ(written[static_cast<std::size_t>(i)], i);
    }
  });
}

TEST(Executor, runs_concurrently_as_it_says) {
  // Every body waits for the other one; a serial loop would wait forever, so it gives up at last.
  const auto meets = [](const auto& executor) {
    std::atomic<int> present{0};
    std::atomic<bool> met{true};
    executor(2, [&](Index) {
      ++present;
      const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
      while (present < 2 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
      if (present < 2) met = false;
    });
    return met.load();
  };
  EXPECT_TRUE(meets(StdThreads{2}));
  Eigen::ThreadPool pool(2);
  EXPECT_TRUE(meets(tokenfold::EigenThreadPool(pool)));
}

TEST(Executor, a_pool_may_wait_for_itself) {
  // Every thread of the pool is inside a task that runs a loop on the same pool.
  Eigen::ThreadPool pool(2);
  const tokenfold::EigenThreadPool executor(pool);
  std::atomic<int> calls{0};
  Eigen::Barrier tasks(8);
  for (int task = 0; task < 8; ++task) {
    pool.Schedule([&] {
      executor(5, [&](Index) { ++calls; });
      tasks.Notify();
    });
  }
  tasks.Wait();
  EXPECT_EQ(calls, 8 * 5);
}

TEST(ParallelFor, every_item_once_and_no_worker_twice_at_once) {
  with_executors([](const std::string& name, const auto& executor) {
    for (const Index count : {0, 1, 2, 7, 300}) {
      SCOPED_TRACE(name + ", " + std::to_string(count));
      const Index workers = worker_count(executor, count);
      ASSERT_GE(workers, 1);
      ASSERT_LE(workers, std::max<Index>(count, 1));
      std::vector<std::atomic<int>> calls(static_cast<std::size_t>(count));
      std::vector<std::atomic<int>> busy(static_cast<std::size_t>(workers));
      std::vector<int> own(static_cast<std::size_t>(workers), 0);  // a data race if shared
      std::atomic<bool> alone{true};
      parallel_for(executor, workers, count, [&](Index i, Index worker) {
        const auto w = static_cast<std::size_t>(worker);
        if (busy.at(w)++ != 0) alone = false;
        if (i < 10) std::this_thread::sleep_for(std::chrono::microseconds(50));  // all take part
        ++calls.at(static_cast<std::size_t>(i));
        ++own[w];
        --busy[w];
      });
      EXPECT_TRUE(alone);
      for (const auto& number : calls) EXPECT_EQ(number, 1);
      int total = 0;
      for (const int number : own) total += number;
      EXPECT_EQ(total, count);
    }
  });
}

TEST(ParallelFor, the_lowest_item_that_fails_is_the_one_that_reaches_the_caller) {
  with_executors([](const std::string& name, const auto& executor) {
    SCOPED_TRACE(name);
    for (int repeat = 0; repeat < 30; ++repeat) {
      std::vector<std::atomic<int>> calls(100);
      std::string message;
      try {
        parallel_for(executor, worker_count(executor, 100), 100, [&](Index i, Index) {
          ++calls[static_cast<std::size_t>(i)];
          // 13 fails later than the others, and alone.
          if (i == 13) std::this_thread::sleep_for(std::chrono::microseconds(200));
          if (i == 13 || i == 14 || i == 40) throw std::runtime_error(std::to_string(i));
        });
      } catch (const std::runtime_error& error) {
        message = error.what();
      }
      ASSERT_EQ(message, "13");
      for (std::size_t i = 0; i <= 13; ++i) ASSERT_EQ(calls[i], 1);
      for (const auto& number : calls) ASSERT_LE(number, 1);
    }
  });
}

TEST(ParallelFor, a_failure_ends_the_loop_early) {
  std::atomic<int> calls{0};
  EXPECT_THROW(parallel_for(StdThreads{2}, 2, 1000,
                            [&](Index i, Index) {
                              ++calls;
                              if (i == 0) throw 7;
                              std::this_thread::sleep_for(std::chrono::milliseconds(1));
                            }),
               int);
  EXPECT_LT(calls, 1000);
}

TEST(ParallelFor, any_exception_keeps_its_type_and_the_executor_stays_usable) {
  const StdThreads executor{3};
  EXPECT_THROW(parallel_for(executor, 3, 9, [](Index, Index) { throw 7; }), int);
  std::atomic<int> calls{0};
  parallel_for(executor, 3, 9, [&](Index, Index) { ++calls; });
  EXPECT_EQ(calls, 9);
}

}  // namespace
