// SPDX-License-Identifier: Apache-2.0
#pragma once

// Must come before any header of Eigen.
#include <cstddef>

/// Counts what asks for memory while it lives: operator new of any kind, and Eigen, which calls
/// malloc itself.
namespace allocation {

// Volatile, because compilers take it for granted that asking for memory changes nothing else, and
// clang then keeps the number from before.
inline thread_local volatile bool counting = false;
inline thread_local volatile std::size_t requests = 0;

inline void note(bool allowed) {
  if (counting && !allowed) {
    requests = requests + 1;
  }
}

}  // namespace allocation

// Eigen tells of a malloc that is not allowed by way of its assertion.
#define EIGEN_RUNTIME_NO_MALLOC
#define eigen_assert(condition) allocation::note(static_cast<bool>(condition))

#include <Eigen/Core>

namespace allocation {

class Counter {
 public:
  Counter() {
    requests = 0;
    counting = true;
    Eigen::internal::set_is_malloc_allowed(false);
  }
  ~Counter() {
    Eigen::internal::set_is_malloc_allowed(true);
    counting = false;
  }
  Counter(const Counter&) = delete;
  Counter& operator=(const Counter&) = delete;

  std::size_t count() const { return requests; }
};

}  // namespace allocation
