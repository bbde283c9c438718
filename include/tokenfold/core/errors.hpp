// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <concepts>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

/// How the library refuses bad input: one check, one message style, one exit.
///
/// Everything a caller can get wrong (shapes, ranges, budgets, options) ends in `fail`, which
/// throws `std::invalid_argument`. Compiled without exceptions it hands the same message to
/// `failure_handler()`, which a program may replace at start-up, and ends the process.
namespace tokenfold {

#if !defined(__cpp_exceptions)
using FailureHandler = void (*)(const char* message);

inline void print_and_abort(const char* message) {
  std::fprintf(stderr, "tokenfold: %s\n", message);
  std::abort();
}

/// The handler that `fail` calls when exceptions are disabled. It must not return.
inline FailureHandler& failure_handler() {
  static FailureHandler handler = &print_and_abort;
  return handler;
}
#endif

/// Rejects a call: throws `std::invalid_argument(message)`.
[[noreturn]] inline void fail(const std::string& message) {
#if defined(__cpp_exceptions)
  throw std::invalid_argument(message);
#else
  failure_handler()(message.c_str());
  std::abort();
#endif
}

namespace detail {

inline void append(std::string& text, std::string_view part) { text += part; }
inline void append(std::string& text, std::integral auto number) { text += std::to_string(number); }
inline void append(std::string& text, double number) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%g", number);
  text += buffer;
}

}  // namespace detail

/// Throws `std::invalid_argument` with the concatenated `parts` unless `condition` holds.
/// The message is only built on failure, so a check costs one branch. Parts come by value, so that
/// text of any length is one type: a function for every message would cost the compiler.
template <class... Parts>
void require(bool condition, Parts... parts) {
  if (condition) [[likely]] {
    return;
  }
  std::string message;
  (detail::append(message, parts), ...);
  fail(message);
}

/// `require` for options that are real numbers: `low ≤ value ≤ high` (a NaN fails).
inline void require_in_range(std::string_view name, double value, double low, double high) {
  require(value >= low && value <= high, name, " must lie in [", low, ", ", high, "], got ", value);
}

}  // namespace tokenfold
