// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "support/random.hpp"
#include "tokenfold/registry.hpp"
#include "tokenfold/tokenfold.hpp"

// What tests that go through all methods of the registry need.
namespace support {

/// How large the inputs of a test are, beside the patches.
struct Widths {
  Index channels = 96;
  Index heads = 4;
  Index head_channels = 16;
  Index text_tokens = 5;
  Index raters = 1;
};

/// Everything that any method reads, for a sequence of `layout`.
template <class T>
struct AllInputs {
  explicit AllInputs(tokenfold::TokenLayout tokens, const Widths& widths = {})
      : layout(std::move(tokens)), inputs(layout) {
    Random random(1);
    const auto p = static_cast<std::size_t>(layout.tokens());
    const auto draw = [&](std::size_t rows, std::size_t cols) {
      return tensor<T>(normal_matrix<T>(rows, cols, random));
    };
    const auto channels = static_cast<std::size_t>(widths.channels);
    const auto all_heads = static_cast<std::size_t>(widths.heads * widths.head_channels);
    features = draw(p, channels);
    queries = draw(p, all_heads);
    keys = draw(p, all_heads);
    values = draw(p, all_heads);
    text = draw(static_cast<std::size_t>(widths.text_tokens), channels);
    sizes.assign(p, 1.0f);
    inputs.attention = tokenfold::QueryKeyAttention(tokenfold::split_heads(queries, widths.heads),
                                                    tokenfold::split_heads(keys, widths.heads));
    layers.assign(3, inputs.attention);
    inputs.attention_layers = layers;
    inputs.values = tokenfold::split_heads(values, widths.heads);
    inputs.features = {features};
    inputs.image_embeddings = {features};
    inputs.text_embeddings = text;
    inputs.sizes = sizes;
    for (Index row = layout.text_after().begin; row < layout.text_after().end; ++row) {
      if (static_cast<Index>(raters.size()) < widths.raters) {
        raters.push_back(static_cast<Token>(row));
      }
    }
    inputs.raters = raters;
  }
  AllInputs(const AllInputs&) = delete;

  tokenfold::TokenLayout layout;
  Tensor<T> features, queries, keys, values, text;
  std::vector<float> sizes;
  std::vector<Token> raters;
  std::vector<tokenfold::AnyAttention<T>> layers;
  tokenfold::Inputs<T> inputs;
};

/// A sequence of side × side patches that suits the method: after [CLS], within text, or as a video
/// of four frames. `side` is even.
inline tokenfold::TokenLayout layout_for(const tokenfold::MethodInfo& info, Index side,
                                         Index text_after = 4) {
  using tokenfold::TokenLayout;
  if (info.video) {
    return TokenLayout::video(4, {side / 2, side / 2});
  }
  return info.place == tokenfold::Place::decoder
             ? TokenLayout::decoder(3, side * side, text_after, {side, side})
             : TokenLayout::encoder({side, side});
}

inline std::vector<std::string> method_names() {
  std::vector<std::string> names;
  for (const tokenfold::MethodInfo& info : tokenfold::list_methods()) {
    names.emplace_back(info.name);
  }
  return names;
}

/// The presets of a method: "default", "released", ...
inline std::vector<std::string> preset_names(const std::string& method) {
  const auto options = tokenfold::make_reducer<float>(method)->options();
  std::vector<std::string> names;
  std::string name;
  for (const char c : options.front().type + "|") {
    if (c == '|') {
      names.push_back(std::exchange(name, {}));
    } else {
      name += c;
    }
  }
  return names;
}

/// A budget that every method can meet in one step: half stays with ToMe, whole windows with
/// pooling.
inline tokenfold::Budget budget_for(const tokenfold::MethodInfo& info) {
  return tokenfold::Budget::keep_ratio(info.name == "pooling" ? 0.25 : 0.6);
}

}  // namespace support
