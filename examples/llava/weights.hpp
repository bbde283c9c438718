// SPDX-License-Identifier: Apache-2.0
// The weights of a checkpoint by name: from safetensors files as Hugging Face lays them out, or
// random ones.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "../common/safetensors.hpp"
#include "config.hpp"
#include "mapped_file.hpp"
#include "random_weights.hpp"
#include "weight_matrix.hpp"

namespace llava {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Vector = Eigen::VectorXf;

namespace detail {

/// Prefixes under which transformers has written the same tensors, each to its oldest form, which
/// llava-hf/llava-1.5-7b-hf has. The first that fits counts.
inline constexpr std::pair<std::string_view, std::string_view> kRenamed[] = {
    {"model.vision_tower.vision_model.", "vision_tower.vision_model."},
    {"model.vision_tower.", "vision_tower.vision_model."},
    {"vision_tower.vision_model.", "vision_tower.vision_model."},
    {"vision_tower.", "vision_tower.vision_model."},
    {"model.multi_modal_projector.", "multi_modal_projector."},
    {"model.language_model.", "language_model.model."},
    {"lm_head.", "language_model.lm_head."},
};

inline std::string oldest_name(std::string_view name) {
  for (const auto& [prefix, oldest] : kRenamed) {
    if (name.starts_with(prefix)) return std::string(oldest) += name.substr(prefix.size());
  }
  return std::string(name);
}

/// Every name that `oldest` may have in a file, printable.
inline std::string spellings(const std::string& oldest) {
  std::string all = safetensors::printable(oldest);
  for (const auto& [prefix, old] : kRenamed) {
    if (prefix == old || !oldest.starts_with(old)) continue;
    all += " or " + safetensors::printable(std::string(prefix) += oldest.substr(old.size()));
  }
  return all;
}

/// What model.safetensors.index.json says: the tensors of each shard.
inline std::map<std::string, std::set<std::string>> read_index(std::string_view text) {
  const auto refuse = [](const std::string& what) { throw std::runtime_error(what); };
  const nlohmann::json root = safetensors::parse_json(text, "the index");
  if (!root.is_object()) refuse("the index is not a JSON object");
  const auto map = root.find("weight_map");
  if (map == root.end()) refuse("weight_map is missing");
  if (!map->is_object()) refuse("weight_map is not an object");
  if (map->empty()) refuse("weight_map is empty");
  std::map<std::string, std::set<std::string>> shards;
  for (const auto& [tensor, shard] : map->items()) {
    const std::string at = "weight_map: tensor " + safetensors::printable(tensor);
    if (!shard.is_string()) refuse(at + ": its file is not a string");
    const std::string& file = shard.get_ref<const std::string&>();
    // A file beside the index, never one elsewhere.
    const auto plain = [](char c) {
      return ('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z') || ('0' <= c && c <= '9') ||
             c == '.' || c == '_' || c == '-';
    };
    if (file.empty() || file.front() == '.' || !std::all_of(file.begin(), file.end(), plain)) {
      refuse(at + ": " + safetensors::printable(file) + " is not a plain file name");
    }
    shards[file].insert(tensor);
  }
  return shards;
}

}  // namespace detail

/// Names are those of llava-hf/llava-1.5-7b-hf; files with newer transformers' names fit too.
/// Whatever is wrong is a std::runtime_error that names the file and the tensor.
class Weights {
 public:
  /// A folder (model.safetensors, else model.safetensors.index.json and its shards) or one
  /// .safetensors file. All headers are read and checked against the files' sizes; data are read
  /// when they are used.
  static Weights open(const std::filesystem::path& path) {
    Weights weights;
    std::error_code error;
    if (!std::filesystem::is_directory(path, error)) {
      weights.source_ = path.string();
      weights.add_file(path, nullptr);
      return weights;
    }
    const std::filesystem::path single = path / "model.safetensors";
    const std::filesystem::path index = path / "model.safetensors.index.json";
    if (std::filesystem::exists(single, error)) {
      weights.source_ = single.string();
      weights.add_file(single, nullptr);
    } else if (std::filesystem::exists(index, error)) {
      weights.source_ = index.string();
      weights.add_shards(path, index);
    } else {
      detail::fail(path, "there is neither model.safetensors nor model.safetensors.index.json");
    }
    return weights;
  }

  /// Random weights of whatever shapes are asked for (see random_weights.hpp), the same for the
  /// same seed and name on every machine, stored as `element`. With `distinct_layers` > 0, layer l
  /// has the weights, and the memory, of layer l % distinct_layers.
  static Weights random(std::uint64_t seed, Index distinct_layers = 0,
                        Element element = Element::f32) {
    Weights weights;
    weights.random_.emplace(seed, distinct_layers, element);
    return weights;
  }

  /// Random weights have every name.
  bool has(std::string_view name) const {
    return random_.has_value() || tensors_.contains(detail::oldest_name(name));
  }

  /// Throws unless the tensor is there, is F32, F16 or BF16, and has rows · cols elements with
  /// `rows` as its first dimension: a convolution [w, 3, p, p] is asked for as [w, 3·p·p]. Valid
  /// as long as *this lives, or what it was moved to. Not for two threads at once.
  WeightMatrix matrix(std::string_view name, Index rows, Index cols) {
    const std::string oldest = checked_name(name, rows, cols);
    if (random_) return random_->matrix(oldest, rows, cols);
    const Stored& tensor = find(oldest);
    const bool fits = !tensor.shape.empty() && tensor.shape.front() == rows &&
                      tensor.elements == static_cast<std::int64_t>(rows * cols);
    if (!fits) refuse_shape(tensor, {rows, cols});
    return {tensor.data, element_of(tensor), rows, cols};
  }

  /// As `matrix`, for a tensor of one dimension; converted to float.
  Vector vector(std::string_view name, Index size) {
    const std::string oldest = checked_name(name, size, 1);
    if (random_) {
      const std::vector<float> drawn = random_->vector(oldest, size);
      return Eigen::Map<const Vector>(drawn.data(), size);
    }
    const Stored& tensor = find(oldest);
    if (tensor.shape != std::vector<std::int64_t>{size}) refuse_shape(tensor, {size});
    Vector values(size);
    to_float({tensor.data, element_of(tensor), 1, size}, 0, 1, values.data());
    return values;
  }

 private:
  struct Stored {
    std::string name;  // as in the file
    std::size_t file = 0;
    safetensors::Dtype dtype = safetensors::Dtype::f32;
    std::vector<std::int64_t> shape;
    std::int64_t elements = 0;
    const std::byte* data = nullptr;
  };

  Weights() = default;

  /// `only`: the tensors that count, all of which must be there; null for all that are.
  void add_file(const std::filesystem::path& path, const std::set<std::string>* only) {
    const MappedFile& file = files_.emplace_back(path);
    try {
      const safetensors::Header header = safetensors::read_header(file.bytes());
      const auto data_bytes =
          static_cast<std::size_t>(header.entries.empty() ? 0 : header.entries.back().end);
      const auto data = file.bytes().last(data_bytes);
      std::set<std::string> missing;
      if (only != nullptr) missing = *only;
      for (const safetensors::Entry& entry : header.entries) {
        if (missing.erase(entry.name) > 0 || only == nullptr) {
          add(entry, data.data() + entry.begin);
        }
      }
      if (!missing.empty()) {
        throw std::runtime_error("the index has tensor " +
                                 safetensors::printable(*missing.begin()) +
                                 " in this file, which does not");
      }
    } catch (const std::runtime_error& error) {
      detail::fail(path, error.what());
    }
  }

  void add_shards(const std::filesystem::path& folder, const std::filesystem::path& index) {
    const MappedFile file(index);
    std::map<std::string, std::set<std::string>> shards;
    try {
      shards = detail::read_index(file.text());
    } catch (const std::runtime_error& error) {
      detail::fail(index, error.what());
    }
    for (const auto& [shard, names] : shards) add_file(folder / shard, &names);
  }

  void add(const safetensors::Entry& entry, const std::byte* data) {
    const auto [at, added] = tensors_.try_emplace(
        detail::oldest_name(entry.name), Stored{entry.name, files_.size() - 1, entry.tensor.dtype,
                                                entry.tensor.shape, entry.tensor.size(), data});
    if (!added) {
      throw std::runtime_error("tensors " + safetensors::printable(at->second.name) + " and " +
                               safetensors::printable(entry.name) + " are the same one");
    }
  }

  static std::string checked_name(std::string_view name, Index rows, Index cols) {
    constexpr Index most = Index{1} << 32;
    if (rows <= 0 || cols <= 0 || rows > most / cols) {
      throw std::runtime_error("weights " + safetensors::printable(name) +
                               " cannot be asked for as " + std::to_string(rows) + " x " +
                               std::to_string(cols));
    }
    return detail::oldest_name(name);
  }

  const Stored& find(const std::string& oldest) const {
    const auto found = tensors_.find(oldest);
    if (found != tensors_.end()) return found->second;
    std::string message = source_ + ": no tensor " + detail::spellings(oldest) + "; there are " +
                          std::to_string(tensors_.size());
    // Those next to it in the alphabet are most like it.
    auto near = tensors_.lower_bound(oldest);
    for (int i = 0; i < 2 && near != tensors_.begin(); ++i) --near;
    for (int i = 0; i < 4 && near != tensors_.end(); ++i, ++near) {
      message += (i == 0 ? ", such as " : ", ") + safetensors::printable(near->second.name);
    }
    throw std::runtime_error(message);
  }

  [[noreturn]] void refuse(const Stored& tensor, const std::string& what) const {
    detail::fail(files_[tensor.file].path(),
                 "tensor " + safetensors::printable(tensor.name) + ": expected " + what);
  }

  [[noreturn]] void refuse_shape(const Stored& tensor, const std::vector<Index>& expected) const {
    const auto text = [](const auto& shape) {
      std::string dims;
      for (const auto dim : shape) {
        if (dims.size() > 100) return "[" + dims + ", ...]";
        dims += (dims.empty() ? "" : ", ") + std::to_string(dim);
      }
      return "[" + dims + "]";
    };
    refuse(tensor, "shape " + text(expected) + ", got " + text(tensor.shape));
  }

  Element element_of(const Stored& tensor) const {
    switch (tensor.dtype) {
      case safetensors::Dtype::f32:
        return Element::f32;
      case safetensors::Dtype::f16:
        return Element::f16;
      case safetensors::Dtype::bf16:
        return Element::bf16;
      default:
        refuse(tensor,
               "F32, F16 or BF16, got " + std::string(safetensors::dtype_name(tensor.dtype)));
    }
  }

  std::vector<MappedFile> files_;
  std::map<std::string, Stored> tensors_;  // by their oldest names
  std::string source_;
  std::optional<RandomWeights> random_;
};

}  // namespace llava
