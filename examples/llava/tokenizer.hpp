// SPDX-License-Identifier: Apache-2.0
// Text to token ids and back, with the model folder's SentencePiece file where the build found
// SentencePiece (it defines LLAVA_HAS_SENTENCEPIECE then), else byte by byte.
#pragma once

#ifdef LLAVA_HAS_SENTENCEPIECE
#include <sentencepiece_processor.h>
#endif

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "config.hpp"
#include "text.hpp"

namespace llava {

using TokenIds = std::vector<std::int64_t>;

namespace detail {

/// What a terminal can be shown: U+FFFD for bytes that are no UTF-8 and for control characters but
/// tab and new line. A model can say anything.
inline std::string printable_text(std::string_view text) {
  constexpr std::string_view replacement = "\xEF\xBF\xBD";
  std::string shown;
  while (!text.empty()) {
    const std::size_t bytes = utf8_bytes(text);
    const auto lead = static_cast<unsigned char>(text[0]);
    const auto next = static_cast<unsigned char>(bytes == 2 ? text[1] : '\0');
    const bool control = bytes == 1 ? (lead < 0x20 && lead != '\n' && lead != '\t') || lead == 0x7F
                                    : lead == 0xC2 && next < 0xA0;
    if (bytes == 0 || control) {
      shown += replacement;
    } else {
      shown += text.substr(0, bytes);
    }
    text.remove_prefix(bytes == 0 ? 1 : bytes);
  }
  return shown;
}

}  // namespace detail

/// In every LLaMA vocabulary, 3 + b is the byte b. Text in bytes is always valid, but a model sees
/// letters where it was trained on words.
class Tokenizer {
 public:
  /// Byte by byte; `reason` is why, for note().
  explicit Tokenizer(Index vocabulary, std::string reason = "asked for bytes")
      : vocabulary_(vocabulary), reason_(std::move(reason)) {}

  /// For the model in `path` (its folder, a file in it, or nothing), with `vocabulary` tokens.
  /// Throws std::runtime_error if tokenizer.model is there and cannot be used.
  static Tokenizer open(const std::filesystem::path& path, Index vocabulary) {
    namespace fs = std::filesystem;
    if (path.empty()) return Tokenizer(vocabulary, "no model folder was given");
    const fs::path file = (fs::is_directory(path) ? path : path.parent_path()) / "tokenizer.model";
    if (!fs::exists(file)) return Tokenizer(vocabulary, "there is no " + file.string());
#ifdef LLAVA_HAS_SENTENCEPIECE
    Tokenizer tokenizer(vocabulary, "");
    tokenizer.words_ = std::make_unique<sentencepiece::SentencePieceProcessor>();
    const auto status = tokenizer.words_->Load(file.string());
    if (!status.ok()) {
      throw std::runtime_error(file.string() +
                               ": expected a SentencePiece model: " + status.ToString());
    }
    if (tokenizer.words_->GetPieceSize() > vocabulary) {
      throw std::runtime_error(file.string() + ": has " +
                               std::to_string(tokenizer.words_->GetPieceSize()) +
                               " tokens, the model only " + std::to_string(vocabulary));
    }
    return tokenizer;
#else
    return Tokenizer(vocabulary, "this build has no SentencePiece to read " + file.string());
#endif
  }

  /// What the user should know before text goes to the model; empty if nothing.
  std::string note() const {
    if (reason_.empty()) return "";
    return "text goes to the model byte by byte, not in the words it was trained on: " + reason_;
  }

  /// Without begin and end tokens; names of special tokens are text like any other.
  TokenIds encode(std::string_view text) const {
#ifdef LLAVA_HAS_SENTENCEPIECE
    if (words_ != nullptr) {
      std::vector<int> ids;
      check(words_->Encode(text, &ids));
      return {ids.begin(), ids.end()};
    }
#endif
    if (vocabulary_ < kFirstByte + 256) {
      throw std::runtime_error("tokenizer: a vocabulary of " + std::to_string(vocabulary_) +
                               " tokens has no room for bytes; give the prompt as token ids");
    }
    TokenIds ids;
    for (const char c : text) ids.push_back(kFirstByte + static_cast<unsigned char>(c));
    return ids;
  }

  /// A token that stands for no text comes out as its id, <32000>.
  std::string decode(std::span<const std::int64_t> ids) const {
#ifdef LLAVA_HAS_SENTENCEPIECE
    if (words_ != nullptr) {
      // SentencePiece leaves pieces that it does not know as they are.
      std::vector<std::string> pieces;
      for (const std::int64_t id : ids) {
        const bool known = 0 <= id && id < words_->GetPieceSize();
        pieces.push_back(known ? words_->IdToPiece(static_cast<int>(id)) : in_brackets(id));
      }
      std::string text;
      check(words_->Decode(pieces, &text));
      return detail::printable_text(text);
    }
#endif
    std::string text;
    for (const std::int64_t id : ids) {
      if (kFirstByte <= id && id < kFirstByte + 256) {
        text += static_cast<char>(id - kFirstByte);
      } else {
        text += in_brackets(id);
      }
    }
    return detail::printable_text(text);
  }

 private:
  static constexpr std::int64_t kFirstByte = 3;

  static std::string in_brackets(std::int64_t id) { return "<" + std::to_string(id) + ">"; }

  Index vocabulary_ = 0;
  std::string reason_;
#ifdef LLAVA_HAS_SENTENCEPIECE
  static void check(const sentencepiece::util::Status& status) {
    if (!status.ok()) throw std::runtime_error("tokenizer: " + status.ToString());
  }

  std::unique_ptr<sentencepiece::SentencePieceProcessor> words_;
#endif
};

}  // namespace llava
