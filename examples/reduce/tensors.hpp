// SPDX-License-Identifier: Apache-2.0
//
// Tensors of a file as numbers of one type, with their shapes checked and named in every refusal.

#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "../common/safetensors.hpp"
#include "options.hpp"

namespace reduce_tool {

using Shape = std::vector<std::int64_t>;

inline std::string shape_text(const Shape& shape) {
  std::string text = "[";
  for (const std::int64_t extent : shape) {
    text += (text.size() == 1 ? "" : ", ") + std::to_string(extent);
  }
  return text + "]";
}

// "tokens [17, 16], ..."
inline std::string contents(const safetensors::File& file) {
  constexpr std::size_t most = 30;
  std::string text;
  std::size_t listed = 0;
  for (const auto& [name, tensor] : file.tensors) {
    if (listed++ == most) return text + ", ...";
    text += (text.empty() ? "" : ", ") + quote(name) + " " + shape_text(tensor.shape);
  }
  return text.empty() ? "no tensors" : text;
}

// A tensor in memory; T is float or double.
template <class T>
struct Numbers {
  Shape shape;
  std::vector<T> values;

  Index extent(std::size_t axis) const { return static_cast<Index>(shape.at(axis)); }
};

template <class T>
Numbers<T> read_numbers(const safetensors::File& file, const std::string& name) {
  const auto found = file.tensors.find(name);
  if (found == file.tensors.end()) {
    throw Error("the file has no tensor " + name + "; it has " + contents(file));
  }
  try {
    if constexpr (std::is_same_v<T, double>) {
      return {found->second.shape, found->second.doubles()};
    } else {
      return {found->second.shape, found->second.floats()};
    }
  } catch (const std::runtime_error& error) {
    throw Error("tensor " + name + ": " + error.what());
  }
}

[[noreturn]] inline void wrong_shape(const std::string& name, const std::string& expected,
                                     const Shape& shape) {
  throw Error("tensor " + name + " must be " + expected + ", got " + shape_text(shape));
}

// Writes under the golden names and in their types: integers as I64, numbers as F32.
class Writer {
 public:
  explicit Writer(safetensors::File& file) : file_(file) {}

  void integers(const std::string& name, Shape shape, const std::vector<std::int64_t>& values) {
    file_.tensors[name] = safetensors::make(std::move(shape), std::span(values));
  }
  void integers(const std::string& name, const std::vector<std::int64_t>& values) {
    integers(name, {static_cast<std::int64_t>(values.size())}, values);
  }
  template <class T>
  void numbers(const std::string& name, Shape shape, const std::vector<T>& values) {
    std::vector<float> narrow;
    narrow.reserve(values.size());
    for (const T value : values) narrow.push_back(to_float(value));
    file_.tensors[name] = safetensors::make(std::move(shape), std::span<const float>(narrow));
  }
  template <class T>
  void numbers(const std::string& name, const std::vector<T>& values) {
    numbers(name, {static_cast<std::int64_t>(values.size())}, values);
  }
  void metadata(const std::string& key, const std::string& value) { file_.metadata[key] = value; }

 private:
  static float to_float(float value) { return value; }
  // A double beyond float becomes infinite; the plain conversion would be undefined.
  static float to_float(double value) {
    constexpr float largest = std::numeric_limits<float>::max();
    if (std::abs(value) > static_cast<double>(largest)) {
      const float infinity = std::numeric_limits<float>::infinity();
      return value > 0 ? infinity : -infinity;
    }
    return static_cast<float>(value);
  }

  safetensors::File& file_;
};

}  // namespace reduce_tool
