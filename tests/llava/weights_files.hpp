// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "safetensors.hpp"

// Small files of weights, good and bad.
namespace llava::files {

/// The message of the std::runtime_error that `action` throws, "" if it throws nothing.
inline std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

/// A folder of the running test's own, removed with this.
class Folder {
 public:
  Folder() {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    path_ = std::filesystem::temp_directory_path() /
            ("tokenfold_llava_" + std::to_string(::getpid()) + "_" + test->test_suite_name() + "_" +
             test->name());
    std::filesystem::create_directories(path_);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path write(const std::string& name, std::string_view text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
    return path_ / name;
  }

 private:
  std::filesystem::path path_;
};

template <class T>
safetensors::Tensor tensor_of(safetensors::Dtype dtype, std::vector<std::int64_t> shape,
                              const std::vector<T>& values) {
  safetensors::Tensor tensor;
  tensor.dtype = dtype;
  tensor.shape = std::move(shape);
  tensor.bytes.resize(values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(tensor.bytes.data(), values.data(), tensor.bytes.size());
  return tensor;
}

inline std::string text_of(const safetensors::File& file) {
  const std::vector<std::byte> bytes = safetensors::serialize(file);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// As `text`, with the header's end, and so the data, moved on by `bytes`.
inline std::string shifted(std::string text, std::size_t bytes) {
  std::uint64_t length = 0;
  std::memcpy(&length, text.data(), sizeof(length));
  text.insert(sizeof(length) + length, std::string(bytes, ' '));
  length += bytes;
  std::memcpy(text.data(), &length, sizeof(length));
  return text;
}

}  // namespace llava::files
