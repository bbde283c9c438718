// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>

#include "tokenfold/core/types.hpp"

namespace tokenfold {
namespace detail {

/// Any body of a loop, by reference.
class AnyBody {
 public:
  template <class Body>
  requires(!std::same_as<Body, AnyBody>) explicit AnyBody(const Body& body)
      : body_(&body), call_([](const void* b, Index i) { (*static_cast<const Body*>(b))(i); }) {}

  void operator()(Index i) const { call_(body_, i); }

 private:
  const void* body_;
  void (*call_)(const void*, Index);
};

}  // namespace detail

/// Runs a loop: `executor(count, body)` calls body(i) once for every i in [0, count), in any order,
/// on any threads, and returns when all calls have returned and what they wrote can be seen. Bodies
/// that come from the library never throw.
template <class E>
concept Executor = requires(const E& executor, Index count, const detail::AnyBody& body) {
  /// How many calls run at once, at most; 1 is the caller's thread alone.
  { executor.concurrency() } -> std::convertible_to<Index>;
  executor(count, body);
};

/// Any executor, by reference; none: the caller's thread.
class AnyExecutor {
 public:
  AnyExecutor() = default;
  template <Executor E>
  requires(!std::same_as<E, AnyExecutor>) explicit AnyExecutor(const E& executor)
      : executor_(&executor),
        concurrency_(executor.concurrency()),
        run_([](const void* e, Index count, const detail::AnyBody& body) {
          (*static_cast<const E*>(e))(count, body);
        }) {}

  Index concurrency() const { return concurrency_; }

  template <class Body>
  void operator()(Index count, const Body& body) const {
    if (concurrency_ > 1 && count > 1) {
      return run_(executor_, count, detail::AnyBody(body));
    }
    for (Index i = 0; i < count; ++i) {
      body(i);
    }
  }

 private:
  const void* executor_ = nullptr;
  Index concurrency_ = 1;
  void (*run_)(const void*, Index, const detail::AnyBody&) = nullptr;
};

}  // namespace tokenfold
