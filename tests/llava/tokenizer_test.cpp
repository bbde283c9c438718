// SPDX-License-Identifier: Apache-2.0

#include "../../examples/llava/tokenizer.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "../../examples/llava/prompt.hpp"

namespace {

namespace fs = std::filesystem;
using llava::Config;
using llava::Prompt;
using llava::TokenIds;
using llava::Tokenizer;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const fs::path kWords = TOKENFOLD_SOURCE_DIR "/tests/llava/words";

/// A folder of its own that goes away again.
class Folder {
 public:
  Folder() : path_(fs::temp_directory_path() / ("llava_tokenizer_" + std::to_string(getpid()))) {
    fs::create_directory(path_);
  }
  ~Folder() { fs::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

template <class Call>
std::string refusal(Call call) {
  try {
    call();
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "no error";
}

TokenIds bytes(std::string_view text) { return Tokenizer(32064).encode(text); }

TokenIds after(TokenIds first, const TokenIds& rest) {
  first.insert(first.end(), rest.begin(), rest.end());
  return first;
}

TEST(Tokenizer, a_byte_is_token_3_and_more) {
  const Tokenizer tokenizer(32000);
  EXPECT_THAT(tokenizer.encode("A\n"), ElementsAre(3 + 65, 3 + 10));
  EXPECT_THAT(tokenizer.encode("\xC3\xBC"), ElementsAre(3 + 0xC3, 3 + 0xBC));
  EXPECT_THAT(tokenizer.encode(std::string_view("\0\xFF", 2)), ElementsAre(3, 258));
  EXPECT_THAT(tokenizer.encode(""), IsEmpty());
}

TEST(Tokenizer, text_in_bytes_comes_back) {
  const Tokenizer tokenizer(32000);
  for (const char* text : {"", "What is this?\n", "\tZ\xC3\xBCrich \xE6\x97\xA5 \xF0\x9F\x99\x82",
                           "\xED\x9F\xBF\xEE\x80\x80\xF4\x8F\xBF\xBF\xC2\xA0\xE0\xA0\x80"}) {
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  }
}

TEST(Tokenizer, other_tokens_come_back_as_ids) {
  EXPECT_EQ(Tokenizer(32000).decode(TokenIds{1, 75, 29871, 108, 2, 259, -5}),
            "<1>H<29871>i<2><259><-5>");
}

TEST(Tokenizer, what_is_no_text_cannot_reach_a_terminal) {
  const Tokenizer tokenizer(32000);
  const std::string gap = "\xEF\xBF\xBD";
  const auto shown = [&](std::string_view text) {
    return tokenizer.decode(tokenizer.encode(text));
  };
  EXPECT_EQ(shown("a\x1B[31m\r\x7F"), "a" + gap + "[31m" + gap + gap);
  EXPECT_EQ(shown("\xC2\x9Bx"), gap + "x");                     // a control character in two bytes
  EXPECT_EQ(shown("\xC3"), gap);                                // cut off
  EXPECT_EQ(shown("\xE6\x97z"), gap + gap + "z");               // cut off
  EXPECT_EQ(shown("\xC0\xAF"), gap + gap);                      // longer than needed
  EXPECT_EQ(shown("\xE0\x80\xAF"), gap + gap + gap);            // longer than needed
  EXPECT_EQ(shown("\xF0\x80\x80\xAF"), gap + gap + gap + gap);  // longer than needed
  EXPECT_EQ(shown("\xED\xA0\x80"), gap + gap + gap);            // a surrogate
  EXPECT_EQ(shown("\xF4\x90\x80\x80"), gap + gap + gap + gap);  // above U+10FFFF
  EXPECT_EQ(shown("\x80\xFFz"), gap + gap + "z");
}

TEST(Tokenizer, says_why_it_takes_bytes) {
  const Folder folder;
  const Tokenizer without_file = Tokenizer::open(folder.path(), 32000);
  EXPECT_THAT(without_file.note(), HasSubstr("byte by byte"));
  EXPECT_THAT(without_file.note(), HasSubstr((folder.path() / "tokenizer.model").string()));
  EXPECT_THAT(without_file.encode("A"), ElementsAre(68));
  const Tokenizer without_folder = Tokenizer::open("", 32000);
  EXPECT_THAT(without_folder.note(), HasSubstr("no model folder"));
  EXPECT_THAT(without_folder.encode("A"), ElementsAre(68));
}

TEST(Tokenizer, refuses_text_where_the_vocabulary_has_no_bytes) {
  EXPECT_THAT(refusal([] { Tokenizer(258).encode("A"); }), HasSubstr("vocabulary of 258"));
  EXPECT_THAT(Tokenizer(259).encode("\xFF"), ElementsAre(258));
  EXPECT_EQ(Tokenizer(160).decode(TokenIds{68, 159}), "A\xEF\xBF\xBD");
}

#ifdef LLAVA_HAS_SENTENCEPIECE

// tests/llava/words/tokenizer.model was trained on a few pages of text, as LLaMA's was on more:
//   spm_train --model_type=bpe --vocab_size=420 --byte_fallback --split_digits
//     --normalization_rule_name=identity --remove_extra_whitespaces=false
//     --allow_whitespace_only_pieces --character_coverage=0.99
// Expected ids are those of transformers 4.46, LlamaTokenizer(..., legacy=True), to which <image>
// was added as token 420.
TEST(TokenizerWords, equals_transformers) {
  const Tokenizer tokenizer = Tokenizer::open(kWords, 421);
  EXPECT_EQ(tokenizer.note(), "");
  Config config;
  config.image_token = 420;
  config.decoder.vocabulary = 421;
  const TokenIds user{1, 346, 88, 391, 401, 416, 368, 346};
  const TokenIds assistant{409, 391, 391, 414, 391, 387, 409, 402, 387, 368};
  const auto check = [&](const char* text, TokenIds expected) {
    const Prompt prompt = chat_prompt(text, tokenizer, config);
    EXPECT_EQ(prompt.before, user) << text;
    EXPECT_EQ(prompt.after, after(std::move(expected), assistant)) << text;
  };
  check("What is shown in this image?", {346, 13,  90,  340, 346, 302, 312, 285, 374, 353, 330,
                                         262, 358, 302, 346, 354, 363, 351, 341, 66,  346});
  // The last space and the one before ASSISTANT: are one token.
  check("  two  spaces ", {346, 13, 346, 262, 374, 349, 280, 350, 356, 351, 359, 264, 280});
  check("Z\xC3\xBCrich\n\xE6\x97\xA5\xE6\x9C\xAC \xF0\x9F\x99\x82",
        {346, 13,  93,  198, 191, 352, 354, 324, 13,  233, 154,
         168, 233, 159, 175, 346, 243, 162, 156, 133, 346});
  check("", {346, 13, 346});

  const Prompt own = chat_prompt("<image>\nUSER: Describe it.\nASSISTANT:", tokenizer, config);
  EXPECT_THAT(own.before, ElementsAre(1));
  EXPECT_EQ(own.after,
            (TokenIds{346, 13,  88,  391, 401, 416, 368, 346, 388, 264, 359, 352, 354, 376, 347,
                      346, 278, 361, 13,  409, 391, 391, 414, 391, 387, 409, 402, 387, 368}));
}

TEST(TokenizerWords, text_comes_back) {
  const Tokenizer tokenizer = Tokenizer::open(kWords, 421);
  for (const char* text : {"", "What is shown in this image?", "a\nb  c",
                           "Z\xC3\xBCrich \xE6\x97\xA5 \xF0\x9F\x99\x82"}) {
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  }
}

TEST(TokenizerWords, tokens_beyond_text_come_back_as_ids) {
  const Tokenizer tokenizer = Tokenizer::open(kWords, 1000);
  TokenIds ids = tokenizer.encode("What");
  ids.push_back(420);
  ids.push_back(999);
  ids.push_back(-1);
  EXPECT_EQ(tokenizer.decode(ids), "What<420><999><-1>");
  EXPECT_EQ(tokenizer.decode(TokenIds{3 + 0x1B}), "\xEF\xBF\xBD");
}

TEST(TokenizerWords, a_file_in_the_folder_stands_for_the_folder) {
  EXPECT_EQ(Tokenizer::open(kWords / "model.safetensors", 421).note(), "");
}

TEST(TokenizerWords, refuses_files_that_do_not_fit) {
  EXPECT_THAT(refusal([] { Tokenizer::open(kWords, 419); }),
              ::testing::AllOf(HasSubstr("tokenizer.model"), HasSubstr("420"), HasSubstr("419")));
  EXPECT_EQ(Tokenizer::open(kWords, 420).note(), "");
  const Folder folder;
  for (const char* content : {"", "no model", "\x0A\xFF\xFF\xFF\xFF\xFF"}) {
    std::ofstream(folder.path() / "tokenizer.model") << content;
    EXPECT_THAT(refusal([&] { Tokenizer::open(folder.path(), 32000); }),
                HasSubstr("expected a SentencePiece model"));
  }
}

#else

TEST(TokenizerWords, says_that_the_build_has_no_sentencepiece) {
  const Tokenizer tokenizer = Tokenizer::open(kWords, 421);
  EXPECT_THAT(tokenizer.note(), HasSubstr("no SentencePiece"));
  EXPECT_THAT(tokenizer.encode("A"), ElementsAre(68));
}

#endif

TEST(Prompt, is_the_conversation_of_llava) {
  const Prompt prompt = chat_prompt("Why?", Tokenizer(32064), Config());
  EXPECT_EQ(prompt.before, after({1}, bytes("USER: ")));
  EXPECT_EQ(prompt.after, bytes("\nWhy? ASSISTANT:"));
}

TEST(Prompt, a_conversation_with_a_place_for_the_picture_stays_as_it_is) {
  const Prompt prompt = chat_prompt("Look: <image>, and?", Tokenizer(32064), Config());
  EXPECT_EQ(prompt.before, after({1}, bytes("Look: ")));
  EXPECT_EQ(prompt.after, bytes(", and?"));
}

TEST(Prompt, refuses_a_second_picture) {
  EXPECT_THAT(refusal([] { chat_prompt("<image> and <image>", Tokenizer(32064), Config()); }),
              HasSubstr("<image> once"));
}

TEST(PromptOfIds, takes_either_name_of_the_picture) {
  for (const char* list :
       {"1,3148,<image>,29871,13", "1 3148 32000 29871 13", " 1, 3148,\n<image>\t29871 , 13,"}) {
    const Prompt prompt = llava::prompt_of_ids(list, Config());
    EXPECT_THAT(prompt.before, ElementsAre(1, 3148)) << list;
    EXPECT_THAT(prompt.after, ElementsAre(29871, 13)) << list;
  }
  const Prompt alone = llava::prompt_of_ids("<image>", Config());
  EXPECT_THAT(alone.before, IsEmpty());
  EXPECT_THAT(alone.after, IsEmpty());
}

TEST(PromptOfIds, the_picture_may_have_an_id_outside_of_the_vocabulary) {
  Config config;
  config.image_token = -200;  // as in LLaVA's own code
  config.decoder.vocabulary = 10;
  const Prompt prompt = llava::prompt_of_ids("0,-200,9", config);
  EXPECT_THAT(prompt.before, ElementsAre(0));
  EXPECT_THAT(prompt.after, ElementsAre(9));
}

TEST(PromptOfIds, says_what_is_wrong) {
  Config config;
  config.decoder.vocabulary = 32064;
  const auto message = [&](const char* list) {
    return refusal([&] { llava::prompt_of_ids(list, config); });
  };
  EXPECT_THAT(message("1,two,<image>"), HasSubstr("'two'"));
  EXPECT_THAT(message("1,2x,<image>"), HasSubstr("'2x'"));
  EXPECT_THAT(message("1.5,<image>"), HasSubstr("'1.5'"));
  EXPECT_THAT(message("[1,<image>]"), HasSubstr("'[1'"));
  EXPECT_THAT(message("32064,<image>"), HasSubstr("0 to 32063, got 32064"));
  EXPECT_THAT(message("-1,<image>"), HasSubstr("0 to 32063, got -1"));
  EXPECT_THAT(message("99999999999999999999,<image>"), HasSubstr("got 99999999999999999999"));
  EXPECT_THAT(message("1,2"), HasSubstr("got it 0 times"));
  EXPECT_THAT(message(""), HasSubstr("got it 0 times"));
  EXPECT_THAT(message("<image>,32000,<image>"), HasSubstr("got it 3 times"));
  EXPECT_EQ(message("<image>,32063"), "no error");
}

}  // namespace
