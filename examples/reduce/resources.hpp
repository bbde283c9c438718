// SPDX-License-Identifier: Apache-2.0
//
// Everything a file knows of its tokens, as the inputs of a method.

#pragma once

#include <limits>
#include <optional>
#include <string>
#include <tokenfold/filter/raters.hpp>
#include <tokenfold/registry/inputs.hpp>
#include <vector>

#include "attention.hpp"
#include "tensors.hpp"

namespace reduce_tool {

struct ResourceOptions {
  std::optional<std::string> relevance;
  // As the preset chooses raters.
  tokenfold::RaterThreshold threshold = tokenfold::RaterThreshold::above_mean;

  void declare(Options& options) {
    options.add("relevance", relevance,
                "tensor [N] or [P] of relevance, for methods that take it; auto: none");
  }
};

// Reads what is there under the names of the golden files; the method says what it misses.
template <class T>
class FileInputs {
 public:
  FileInputs(const safetensors::File& file, const TokenLayout& layout,
             const ResourceOptions& options, const AttentionData<T>& attention,
             const Numbers<T>& tokens)
      : inputs_(layout) {
    const Index rows = layout.tokens();
    inputs_.attention = attention.source();
    inputs_.attention_layers = attention.layers();
    inputs_.features = {matrix(tokens)};
    for (const char* name : {"keys", "keys_heads"}) {
      if (file.has(name) && inputs_.keys.tokens() == 0) {
        keys_ = read_numbers<T>(file, name);
        inputs_.keys = detail::as_heads(name, keys_, rows, "[H, P, d] or [P, D]");
      }
    }
    if (file.has("values")) {
      values_ = read_numbers<T>(file, "values");
      inputs_.values = detail::as_heads("values", values_, rows, "[H, P, d] or [P, D]");
    }
    for (const char* name : {"image_embeds", "vision_embeds"}) {
      if (!file.has(name)) continue;
      image_ = read_numbers<T>(file, name);
      inputs_.image_embeddings = of_tokens(name, image_, layout);
    }
    if (file.has("text_embeds")) {
      text_ = read_matrix(file, "text_embeds");
      inputs_.text_embeddings = matrix(text_);
    }
    if (options.relevance) {
      relevance_ = read_numbers<T>(file, *options.relevance);
      relevance_.shape.push_back(1);
      inputs_.relevance = of_tokens(*options.relevance, relevance_, layout);
    }
    read_raters(file, layout, options.threshold);
    if (file.has("sizes_in")) {
      const Numbers<float> given = read_numbers<float>(file, "sizes_in");
      if (given.shape != Shape{rows}) wrong_shape("sizes_in", "[P]", given.shape);
      sizes_ = given.values;
      inputs_.sizes = sizes_;
    }
  }
  FileInputs(const FileInputs&) = delete;
  FileInputs& operator=(const FileInputs&) = delete;

  const tokenfold::Inputs<T>& inputs() const { return inputs_; }

 private:
  static tokenfold::MatrixView<const T> matrix(const Numbers<T>& numbers) {
    return {numbers.values.data(), numbers.extent(0), numbers.extent(1)};
  }
  static Numbers<T> read_matrix(const safetensors::File& file, const std::string& name) {
    Numbers<T> numbers = read_numbers<T>(file, name);
    if (numbers.shape.size() != 2) wrong_shape(name, "a matrix", numbers.shape);
    return numbers;
  }
  // A row per token of the sequence, or per row of its visual range.
  static tokenfold::TokenRows<T> of_tokens(const std::string& name, const Numbers<T>& numbers,
                                           const TokenLayout& layout) {
    const Index visual = layout.visual_range().size();
    if (numbers.shape.size() != 2 ||
        (numbers.extent(0) != layout.tokens() && numbers.extent(0) != visual)) {
      wrong_shape(
          name,
          "[" + std::to_string(visual) + " or " + std::to_string(layout.tokens()) + " rows, C]",
          numbers.shape);
    }
    return {matrix(numbers),
            numbers.extent(0) == layout.tokens() ? 0 : layout.visual_range().begin};
  }

  // SparseVLM's raters: given, or chosen from the embeddings before layer 0.
  void read_raters(const safetensors::File& file, const TokenLayout& layout,
                   tokenfold::RaterThreshold threshold) {
    if (file.has("rater_indices")) {
      for (const std::int64_t row : file.tensors.at("rater_indices").int64s()) {
        if (row < 0 || row >= layout.tokens()) {
          throw Error("tensor rater_indices: there is no row " + std::to_string(row));
        }
        raters_.push_back(static_cast<Token>(row));
      }
    } else if (file.has("embeds")) {
      const Numbers<T> embeds = read_matrix(file, "embeds");
      raters_ = tokenfold::text_raters(layout, matrix(embeds), threshold);
    }
    inputs_.raters = raters_;
  }

  Numbers<T> keys_;
  Numbers<T> values_;
  Numbers<T> image_;
  Numbers<T> text_;
  Numbers<T> relevance_;
  std::vector<Token> raters_;
  std::vector<float> sizes_;
  tokenfold::Inputs<T> inputs_;
};

}  // namespace reduce_tool
