// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <thread>
#include <vector>

#include "tokenfold/core/executor.hpp"

namespace tokenfold {

/// An `Executor` of the caller's thread and `threads` − 1 new ones, started and joined in every
/// call: some ten microseconds each. For trials and for engines without a pool; link with the
/// platform's threads.
///
///   batch.plan(method, crops, budget, tokenfold::StdThreads{4});
struct StdThreads {
  Index threads = static_cast<Index>(std::thread::hardware_concurrency());

  Index concurrency() const { return threads; }

  template <class Body>
  void operator()(Index count, const Body& body) const {
    const Index width = std::clamp<Index>(threads, 1, std::max<Index>(count, 1));
    const auto every = [&](Index first) {
      for (Index i = first; i < count; i += width) {
        body(i);
      }
    };
    Joined joined;
    joined.threads.reserve(static_cast<std::size_t>(width - 1));
    for (Index t = 1; t < width; ++t) {
      joined.threads.emplace_back(every, t);
    }
    every(0);
  }

 private:
  /// Also where the system has no further thread and throws.
  struct Joined {
    std::vector<std::thread> threads;

    ~Joined() {
      for (std::thread& thread : threads) {
        thread.join();
      }
    }
  };
};

}  // namespace tokenfold
