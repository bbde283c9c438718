// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <tokenfold/core/views.hpp>
#include <vector>

#include "reference/tensor.hpp"
#include "safetensors.hpp"

// Reads a golden file; what is missing in it is an exception, and so a failed test.
namespace golden {

class File {
 public:
  explicit File(const std::string& name)
      : file_(safetensors::load(std::filesystem::path(TOKENFOLD_GOLDEN_DIR) /
                                (name + ".safetensors"))) {}

  std::string text(const std::string& key) const { return file_.metadata.at(key); }
  bool has_text(const std::string& key) const { return file_.metadata.contains(key); }
  double number(const std::string& key) const { return std::stod(text(key)); }
  tokenfold::Index count(const std::string& key) const { return std::stol(text(key)); }

  tokenfold::Index extent(const std::string& name, std::size_t axis) const {
    return file_.at(name).shape.at(axis);
  }
  std::vector<double> doubles(const std::string& name) const { return values<double>(name); }
  template <class T>
  std::vector<T> values(const std::string& name) const {
    const std::vector<float> floats = file_.at(name).floats();
    return {floats.begin(), floats.end()};
  }
  std::vector<tokenfold::Index> indices(const std::string& name) const {
    const auto values = file_.at(name).int64s();
    return {values.begin(), values.end()};
  }
  reference::Matrix matrix(const std::string& name) const {
    return {static_cast<std::size_t>(extent(name, 0)), static_cast<std::size_t>(extent(name, 1)),
            doubles(name)};
  }
  /// `values` of the tensor `name`: [head][row][column], or a matrix as one head.
  template <class T>
  tokenfold::HeadsView<const T> heads(const std::vector<T>& values, const std::string& name) const {
    const auto& shape = file_.at(name).shape;
    const tokenfold::Index heads = shape.size() == 3 ? shape[0] : 1;
    const tokenfold::Index rows = shape[shape.size() - 2];
    const tokenfold::Index cols = shape.back();
    return {values.data(), {heads, rows, cols}, {rows * cols, cols, 1}};
  }

 private:
  safetensors::File file_;
};

}  // namespace golden
