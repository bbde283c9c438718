// SPDX-License-Identifier: Apache-2.0
// A weight matrix where it lies, in the element type that it has there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../common/safetensors.hpp"
#include "config.hpp"

namespace llava {

enum class Element { f32, f16, bf16 };

inline Index element_bytes(Element element) { return element == Element::f32 ? 4 : 2; }

/// [rows, cols], row-major and contiguous in somebody else's memory, at any address: a file need
/// not align its tensors.
struct WeightMatrix {
  const std::byte* data = nullptr;
  Element element = Element::f32;
  Index rows = 0;
  Index cols = 0;

  /// The values, if they can be used where they lie: null unless they are f32 and aligned.
  const float* floats() const {
    const bool aligned = reinterpret_cast<std::uintptr_t>(data) % alignof(float) == 0;
    return element == Element::f32 && aligned ? reinterpret_cast<const float*>(data) : nullptr;
  }
};

namespace detail {

/// memcpy, because the values need not be aligned; it becomes one (vector) load.
template <class Convert>
void convert_halves(const std::byte* from, Index count, float* to, Convert convert) {
  for (Index i = 0; i < count; ++i) {
    std::uint16_t bits;
    std::memcpy(&bits, from + i * 2, sizeof(bits));
    to[i] = convert(bits);
  }
}

}  // namespace detail

/// Rows [begin, end) of `w` as floats, exactly, into `out` [end - begin, cols].
inline void to_float(const WeightMatrix& w, Index begin, Index end, float* out) {
  const Index count = (end - begin) * w.cols;
  if (count == 0) return;
  const std::byte* from = w.data + begin * w.cols * element_bytes(w.element);
  switch (w.element) {
    case Element::f32:
      std::memcpy(out, from, static_cast<std::size_t>(count) * sizeof(float));
      break;
    case Element::f16:
      detail::convert_halves(from, count, out, safetensors::float_from_f16);
      break;
    case Element::bf16:
      detail::convert_halves(from, count, out, safetensors::float_from_bf16);
      break;
  }
}

}  // namespace llava
