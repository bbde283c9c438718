// SPDX-License-Identifier: Apache-2.0
//
// Several crops of an image in one file, one after the other: each is reduced alone, under the same
// budget, and the results are joined.

#pragma once

#include <algorithm>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "tensors.hpp"

namespace reduce_tool {

namespace detail {

// Part `crop` of `crops` equal ones along the first axis.
inline safetensors::Tensor part_of(const safetensors::Tensor& whole, Index crop, Index crops) {
  safetensors::Tensor part{whole.dtype, whole.shape, {}};
  part.shape[0] /= crops;
  const std::size_t bytes = whole.bytes.size() / static_cast<std::size_t>(crops);
  const auto begin = whole.bytes.begin() + static_cast<std::ptrdiff_t>(bytes) * crop;
  part.bytes.assign(begin, begin + static_cast<std::ptrdiff_t>(bytes));
  return part;
}

}  // namespace detail

// The file of one crop. Tensors by row are cut, those with a leading axis of crops are taken apart,
// what all crops share is kept.
inline safetensors::File crop_of(const safetensors::File& file, Index crop, Index crops) {
  static const std::set<std::string> by_row = {"tokens", "image_embeds", "vision_embeds",
                                               "relevance", "sizes_in"};
  static const std::set<std::string> by_crop = {
      "attention",   "logits",      "head_mean_logits", "cls_attention_heads",
      "queries",     "keys",        "values",           "queries_heads",
      "keys_heads",  "queries_cls", "attention_layers", "attention_last",
      "queries_last"};
  safetensors::File part;
  part.metadata = file.metadata;
  part.metadata.erase("crops");
  for (const auto& [name, tensor] : file.tensors) {
    const bool rows = by_row.contains(name);
    if (!rows && !by_crop.contains(name)) {
      part.tensors[name] = tensor;
      continue;
    }
    if (tensor.shape.empty() || (rows ? tensor.shape[0] % crops : tensor.shape[0] - crops) != 0) {
      wrong_shape(name, std::to_string(crops) + " crops", tensor.shape);
    }
    safetensors::Tensor cut = detail::part_of(tensor, crop, crops);
    if (!rows) cut.shape.erase(cut.shape.begin());
    part.tensors[name] = cut;
  }
  return part;
}

// Rows of the crops' tensors one after the other, indices as rows of the whole file.
inline safetensors::File join_crops(const std::vector<safetensors::File>& crops, Index rows) {
  safetensors::File out;
  out.metadata = crops.front().metadata;
  out.metadata["crops"] = std::to_string(crops.size());
  for (const char* name : {"kept_indices", "discarded_indices", "selection_indices", "output",
                           "sizes_out", "scores", "selection_gains"}) {
    if (!crops.front().has(name)) continue;  // a method without scores has no gains
    safetensors::Tensor& joined = out.tensors[name];
    joined = crops.front().tensors.at(name);
    joined.bytes.clear();
    joined.shape[0] = 0;
    for (std::size_t crop = 0; crop < crops.size(); ++crop) {
      safetensors::Tensor tensor = crops[crop].tensors.at(name);
      if (tensor.dtype == safetensors::Dtype::i64) {
        std::vector<std::int64_t> values = tensor.int64s();
        for (std::int64_t& value : values) value += static_cast<std::int64_t>(crop) * rows;
        tensor = safetensors::make(tensor.shape, std::span<const std::int64_t>(values));
      }
      joined.shape[0] += tensor.shape[0];
      joined.bytes.insert(joined.bytes.end(), tensor.bytes.begin(), tensor.bytes.end());
    }
    const bool equal = std::all_of(crops.begin(), crops.end(), [&](const auto& crop) {
      return crop.tensors.at(name).shape == crops.front().tensors.at(name).shape;
    });
    if (std::string(name).starts_with("selection") && equal) {  // one row a crop
      const auto count = static_cast<std::int64_t>(crops.size());
      joined.shape = {count, joined.shape[0] / count};
    }
  }
  return out;
}

}  // namespace reduce_tool
