// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "tokenfold/core/executor.hpp"

namespace tokenfold {

/// An `Executor` on an `Eigen::ThreadPool`, which must outlive it. The caller's thread takes part
/// and waits only for calls that have begun, so that it may be one of the pool's own.
///
///   Eigen::ThreadPool pool(8);
///   batch.plan(method, crops, budget, tokenfold::EigenThreadPool(pool));
class EigenThreadPool {
 public:
  explicit EigenThreadPool(Eigen::ThreadPoolInterface& pool) : pool_(&pool) {}

  Index concurrency() const { return pool_->NumThreads(); }

  template <class Body>
  void operator()(Index count, const Body& body) const {
    if (count <= 0) {
      return;
    }
    const auto loop = std::make_shared<Loop>(count);
    // A task that comes when everything is taken must not touch `body`, which may be gone by then.
    const auto work = [loop, count, &body] {
      for (Index i = loop->next++; i < count; i = loop->next++) {
        body(i);
        loop->done.Notify();
      }
    };
    for (Index task = 1; task < std::min(count, concurrency()); ++task) {
      pool_->Schedule(work);
    }
    work();
    loop->done.Wait();
  }

 private:
  struct Loop {
    explicit Loop(Index count) : done(static_cast<unsigned int>(count)) {}

    std::atomic<Index> next{0};
    Eigen::Barrier done;
  };

  Eigen::ThreadPoolInterface* pool_;
};

}  // namespace tokenfold
