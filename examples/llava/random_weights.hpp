// SPDX-License-Identifier: Apache-2.0
// Seeded random weights of any shape under the names of a LLaVA checkpoint: a model that costs what
// the trained one costs and understands nothing.
//
// They are scaled so that every activation of a pre-norm transformer stays of order 1 at any depth
// and attention and next-token distribution are neither uniform nor one-hot. A normalised input of
// variance 1 times a matrix of deviation g / sqrt(columns) has deviation g:
//
//   q_proj, k_proj                     g = 1.5    logits q·k / sqrt(d) of deviation 1 to 2
//   out_proj, o_proj, fc2, down_proj   g = 0.5    what a block adds to the hidden state
//   lm_head                            g = 4      of 32000 tokens, tens are likely
//   other matrices                     g = 1
//   embeddings                         deviation 1, positions 0.5
//   norms                              weight 1
//   biases                             0
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "weight_matrix.hpp"

namespace llava {

class RandomWeights {
 public:
  RandomWeights(std::uint64_t seed, Index distinct_layers, Element element)
      : seed_(seed), distinct_layers_(distinct_layers), element_(element) {}

  /// Made when first asked for, and the same memory afterwards, also after a move.
  WeightMatrix matrix(std::string_view name, Index rows, Index cols) {
    const std::string own = shared_name(name);
    auto found = matrices_.find(own);
    if (found == matrices_.end()) found = matrices_.emplace(own, make(own, rows, cols)).first;
    const WeightMatrix& made = found->second.matrix;
    if (made.rows != rows || made.cols != cols) {
      fail(own, "was " + shape(made.rows, made.cols) + " before, is now asked for as " +
                    shape(rows, cols));
    }
    return made;
  }

  std::vector<float> vector(std::string_view name, Index size) const {
    const std::string own = shared_name(name);
    std::vector<float> values(static_cast<std::size_t>(size));
    if (own.ends_with("norm.weight") || own.ends_with("norm1.weight") ||
        own.ends_with("norm2.weight")) {
      values.assign(values.size(), 1.0F);
    } else if (!own.ends_with(".bias")) {
      const float step = step_of(deviation(own, size));
      draw(own, values.data(), size, [step](std::uint32_t level) { return value(level, step); });
    }
    return values;
  }

 private:
  struct Stored {
    std::unique_ptr<std::byte[]> memory;
    WeightMatrix matrix;
  };

  [[noreturn]] static void fail(const std::string& name, const std::string& what) {
    throw std::runtime_error("random weights " + name + ": " + what);
  }

  static std::string shape(Index rows, Index cols) {
    return "[" + std::to_string(rows) + " x " + std::to_string(cols) + "]";
  }

  /// "a.layers.7.b" is "a.layers.1.b" if there are 3 distinct layers.
  std::string shared_name(std::string_view name) const {
    constexpr std::string_view layers = ".layers.";
    const std::size_t at = name.find(layers);
    if (distinct_layers_ <= 0 || at == name.npos) return std::string(name);
    const std::size_t begin = at + layers.size();
    const std::size_t end = name.find_first_not_of("0123456789", begin);
    const std::string number(name.substr(begin, end - begin));
    if (number.empty() || number.size() > 9) return std::string(name);
    std::string own(name.substr(0, begin));
    own += std::to_string(std::stol(number) % distinct_layers_);
    if (end != name.npos) own += name.substr(end);
    return own;
  }

  static double deviation(std::string_view name, Index cols) {
    const auto is = [name](std::string_view part) { return name.find(part) != name.npos; };
    if (is("embed_tokens") || is("class_embedding")) return 1;
    if (is("position_embedding")) return 0.5;
    const double unit = 1 / std::sqrt(static_cast<double>(cols));
    if (is(".q_proj") || is(".k_proj")) return 1.5 * unit;
    if (is(".out_proj") || is(".o_proj") || is(".fc2") || is(".down_proj")) return 0.5 * unit;
    if (is("lm_head")) return 4 * unit;
    return unit;
  }

  /// A value is one of 65536 evenly spaced levels around 0. Sums of many such values are as good as
  /// normal, and one rounding makes them the same on every machine.
  static float value(std::uint32_t level, float step) {
    return static_cast<float>(static_cast<std::int32_t>(2 * level) - 65535) * step;
  }
  static float step_of(double deviation) {
    return static_cast<float>(deviation * std::sqrt(3.0) / 65536);
  }

  static std::uint64_t splitmix64(std::uint64_t state) {
    std::uint64_t z = state + 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
  }

  /// out[i] = convert(level i). Value i and value i + half share the two halves of one hash of i,
  /// of 32 bits because vector units multiply those.
  template <class T, class Convert>
  void draw(std::string_view name, T* out, Index count, Convert convert) const {
    std::uint64_t key = 0xcbf29ce484222325U;  // FNV-1a
    for (const char c : name) key = (key ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
    key = splitmix64(key ^ splitmix64(seed_));
    const auto low = static_cast<std::uint32_t>(key);
    const auto high = static_cast<std::uint32_t>(key >> 32);
    const auto hash = [low, high](Index i) {  // MurmurHash3's finaliser, keyed twice
      std::uint32_t x = (static_cast<std::uint32_t>(i) * 0x9e3779b9U) ^ low;
      x = (x ^ (x >> 16)) * 0x85ebca6bU;
      x = ((x ^ (x >> 13)) + high) * 0xc2b2ae35U;
      return x ^ (x >> 16);
    };
    const Index half = (count + 1) / 2;
    T* const second = out + half;
    for (Index i = 0; i < count / 2; ++i) {
      const std::uint32_t bits = hash(i);
      out[i] = convert(bits & 0xffffU);
      second[i] = convert(bits >> 16);
    }
    if (count % 2 == 1) out[half - 1] = convert(hash(half - 1) & 0xffffU);
  }

  Stored make(const std::string& name, Index rows, Index cols) const {
    const Index count = rows * cols;
    const Index bytes = count * element_bytes(element_);
    Stored stored;
    try {
      stored.memory.reset(new std::byte[static_cast<std::size_t>(bytes)]);
    } catch (const std::bad_alloc&) {
      fail(name, "not enough memory for " + std::to_string(bytes) + " bytes");
    }
    stored.matrix = {stored.memory.get(), element_, rows, cols};
    const float step = step_of(deviation(name, cols));
    if (element_ == Element::f32) {
      draw(name, reinterpret_cast<float*>(stored.memory.get()), count,
           [step](std::uint32_t level) { return value(level, step); });
    } else {
      // There are only so many values: each is rounded once.
      std::vector<std::uint16_t> rounded(65536);
      for (std::uint32_t level = 0; level < rounded.size(); ++level) {
        rounded[level] = element_ == Element::f16 ? bits_of<Eigen::half>(value(level, step))
                                                  : bits_of<Eigen::bfloat16>(value(level, step));
      }
      draw(name, reinterpret_cast<std::uint16_t*>(stored.memory.get()), count,
           [table = rounded.data()](std::uint32_t level) { return table[level]; });
    }
    return stored;
  }

  template <class Half>
  static std::uint16_t bits_of(float value) {
    return Eigen::numext::bit_cast<std::uint16_t>(static_cast<Half>(value));
  }

  std::uint64_t seed_;
  Index distinct_layers_;
  Element element_;
  std::map<std::string, Stored> matrices_;
};

}  // namespace llava
