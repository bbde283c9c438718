// SPDX-License-Identifier: Apache-2.0
// The README's sample is the quickstart example, to the letter, and short.

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>

namespace {

std::string read(const std::string& path) {
  std::ifstream file(std::string(TOKENFOLD_SOURCE_DIR) + "/" + path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

/// The lines between the markers, without the `indentation` that they all share.
std::string marked_sample(const std::string& path, const std::string& marker,
                          const std::string& indentation) {
  std::istringstream source(read(path));
  std::string sample;
  bool inside = false;
  for (std::string line; std::getline(source, line);) {
    if (line.find("// [/" + marker + "]") != std::string::npos) {
      return sample;
    }
    if (inside) {
      sample += (line.rfind(indentation, 0) == 0 ? line.substr(indentation.size()) : line) + "\n";
    }
    inside = inside || line.find("// [" + marker + "]") != std::string::npos;
  }
  return "";
}
std::string quickstart() {
  return marked_sample("examples/quickstart/quickstart.cpp", "quickstart", "  ");
}
std::string own_method() {
  return marked_sample("examples/own_method/own_method.cpp", "own-method", "");
}

std::string insertion(const std::string& place) {
  return marked_sample("examples/llava/insertions.cpp", place, "  ");
}

TEST(Readme, samples_are_those_of_the_examples) {
  const std::string choices = "examples/choices/choices.cpp";
  for (const std::string& sample :
       {quickstart(), own_method(), marked_sample(choices, "mix", ""),
        marked_sample(choices, "by-name", "  "), marked_sample(choices, "around", "  "),
        insertion("in-encoder"), insertion("behind-encoder"), insertion("in-decoder")}) {
    ASSERT_FALSE(sample.empty());
    EXPECT_NE(read("README.md").find("```cpp\n" + sample + "```"), std::string::npos)
        << "the README must show exactly:\n"
        << sample;
  }
}

TEST(Readme, samples_are_short) {
  const std::string first = quickstart();
  EXPECT_LE(std::count(first.begin(), first.end(), '\n'), 15);
  for (const char* place : {"in-encoder", "behind-encoder", "in-decoder"}) {
    const std::string sample = insertion(place);
    EXPECT_LE(std::count(sample.begin(), sample.end(), '\n'), 1 + 9) << "a comment and the rest";
  }
  const std::string method = own_method();
  EXPECT_LE(std::count(method.begin(), method.end(), '\n'), 34);
}

TEST(Readme, pictures_and_files_it_names_exist) {
  // Without its code, where "](" begins a lambda's parameters.
  std::string readme;
  std::istringstream lines(read("README.md"));
  bool code = false;
  for (std::string line; std::getline(lines, line);) {
    const bool fence = line.rfind("```", 0) == 0;
    code = code != fence;
    if (!code) readme += line + "\n";
  }
  std::size_t links = 0;
  for (std::size_t at = readme.find("]("); at != std::string::npos;
       at = readme.find("](", at + 2)) {
    const std::string target = readme.substr(at + 2, readme.find(')', at) - at - 2);
    if (target.rfind("http", 0) != 0 && target.rfind('#', 0) != 0) {
      ++links;
      EXPECT_TRUE(std::ifstream(std::string(TOKENFOLD_SOURCE_DIR) + "/" + target).good()) << target;
    }
  }
  EXPECT_GT(links, 0u);
}

}  // namespace
