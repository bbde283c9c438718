// SPDX-License-Identifier: Apache-2.0
// What stands before and after the picture in the decoder's input.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

#include "model.hpp"
#include "tokenizer.hpp"

namespace llava {

/// Where the picture goes, in text.
inline constexpr std::string_view kImagePlace = "<image>";

/// LLaVA-1.5's conversation: USER: <image>\n`text` ASSISTANT:
/// A text that says where the picture goes is taken as the whole conversation, as it stands.
/// The parts before and after the picture are tokenised each by itself, hence each with
/// SentencePiece's leading space: so did LLaVA in training, and so does the LlamaTokenizer of
/// Hugging Face in its `legacy` form (... 29871, 32000, 29871, 13 ... around the picture).
inline Prompt chat_prompt(std::string_view text, const Tokenizer& tokenizer, const Config& config) {
  std::string conversation(text);
  if (text.find(kImagePlace) == std::string_view::npos) {
    conversation = "USER: <image>\n" + conversation + " ASSISTANT:";
  }
  const std::size_t place = conversation.find(kImagePlace);
  if (conversation.find(kImagePlace, place + 1) != std::string::npos) {
    throw std::runtime_error("prompt: expected <image> once, got it again in '" + conversation +
                             "'");
  }
  const std::string_view parts = conversation;
  Prompt prompt{.before = {config.begin_token},
                .after = tokenizer.encode(parts.substr(place + kImagePlace.size()))};
  const TokenIds before = tokenizer.encode(parts.substr(0, place));
  prompt.before.insert(prompt.before.end(), before.begin(), before.end());
  return prompt;
}

/// Token ids in decimal with commas or spaces between them, among them once the picture, as
/// <image> or as the model's id for it: "1,3148,1001,29901,29871,<image>,29871,13". Nothing is
/// added, not even the begin token.
inline Prompt prompt_of_ids(std::string_view list, const Config& config) {
  Prompt prompt;
  int pictures = 0;
  constexpr std::string_view separators = ", \t\n";
  for (std::size_t begin = list.find_first_not_of(separators); begin < list.size();) {
    const std::size_t end = std::min(list.find_first_of(separators, begin), list.size());
    const std::string_view word = list.substr(begin, end - begin);
    begin = list.find_first_not_of(separators, end);

    std::int64_t id = config.image_token;
    if (word != kImagePlace) {
      const auto [rest, error] = std::from_chars(word.data(), word.data() + word.size(), id);
      if (error == std::errc::invalid_argument || rest != word.data() + word.size()) {
        throw std::runtime_error("token ids: expected a number or <image>, got '" +
                                 std::string(word) + "'");
      }
      if (error != std::errc() ||
          (id != config.image_token && (id < 0 || id >= config.decoder.vocabulary))) {
        throw std::runtime_error("token ids: expected 0 to " +
                                 std::to_string(config.decoder.vocabulary - 1) + ", got " +
                                 std::string(word));
      }
    }
    if (id == config.image_token) {
      ++pictures;
    } else {
      (pictures == 0 ? prompt.before : prompt.after).push_back(id);
    }
  }
  if (pictures != 1) {
    throw std::runtime_error("token ids: expected the picture once, as <image> or " +
                             std::to_string(config.image_token) + ", got it " +
                             std::to_string(pictures) + " times");
  }
  return prompt;
}

}  // namespace llava
