// SPDX-License-Identifier: Apache-2.0
//
// llava PICTURE [--model FOLDER] [--prompt TEXT] [--method NAME --keep N] [--sweep FOLDER]
//
// A picture and a question through a LLaVA-1.5 model on the CPU, with fewer visual tokens and with
// all of them: what that gains, and how far it moves the next token.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "config_file.hpp"
#include "image_file.hpp"
#include "preprocess.hpp"
#include "prompt.hpp"
#include "report.hpp"
#include "run.hpp"
#include "sweep.hpp"

namespace {

using llava::Index;

struct CommandLine {
  std::string picture;
  std::string model;
  std::string shape = "small";
  std::uint64_t seed = 1;
  std::string prompt = "What is in the picture?";
  std::string tokens;
  std::string method = "ficoco_v";
  Index keep = 64;
  bool adaptive = false;
  std::vector<std::string> settings;
  std::string positions;
  Index new_tokens = 8;
  Index threads = llava::Threads{}.threads;
  std::string sweep;
  std::vector<std::string> methods = {
      "ficoco_v", "ficoco_l", "ficoco_vl", "tome",  "evit",        "prumerge",     "visionzip",
      "divprune", "cdpruner", "mmtok",     "fastv", "pyramiddrop", "sparsevlm_v2", "dart"};
  std::vector<Index> keeps = {288, 192, 128, 64, 32};
  int repeat = 1;
  bool list = false;
};

void declare(CLI::App& app, CommandLine& line) {
  app.description(
      "A picture and a question through LLaVA-1.5 on the CPU, with fewer visual tokens and with "
      "all.");
  app.add_option("PICTURE", line.picture, "JPEG or PNG");
  app.add_option("--model", line.model,
                 "folder with config.json, safetensors files and tokenizer.model, as Hugging Face "
                 "has them; without it the weights are random");
  app.add_option("--shape", line.shape,
                 "of random weights: small, or 7b (LLaVA-1.5-7B; two layers' weights take turns)")
      ->check(CLI::IsMember({"small", "7b"}));
  app.add_option("--seed", line.seed, "of random weights");
  app.add_option("--prompt", line.prompt, "the question");
  app.add_option("--tokens", line.tokens, "the whole prompt as token ids: 1,3148,<image>,13")
      ->type_name("IDS");
  auto* method = app.add_option("--method", line.method, "one of --list");
  auto* keep = app.add_option("--keep", line.keep, "visual tokens that are left in the end");
  auto* adaptive =
      app.add_flag("--adaptive", line.adaptive, "let the method decide how many, if it has a rule");
  adaptive->excludes(keep);
  app.add_option("--set", line.settings, "set an option of the method; may be repeated")
      ->type_name("name=value")
      ->allow_extra_args(false);
  app.add_option("--positions", line.positions,
                 "RoPE positions after a pruning in the decoder; default: as the method's authors")
      ->check(CLI::IsMember({"original", "packed"}));
  app.add_option("--new-tokens", line.new_tokens, "how many tokens to generate")
      ->check(CLI::Range(Index{1}, Index{100000}));
  app.add_option("--threads", line.threads)->check(CLI::Range(Index{1}, Index{1024}));
  app.add_option("--sweep", line.sweep,
                 "run all of --methods at all of --keeps; write sweep.csv and sweep.svg here")
      ->type_name("FOLDER")
      ->excludes(method)
      ->excludes(keep)
      ->excludes(adaptive);
  app.add_option("--methods", line.methods, "of a sweep")->delimiter(',');
  app.add_option("--keeps", line.keeps, "of a sweep")->delimiter(',');
  app.add_option("--repeat", line.repeat, "run as often, report the fastest")
      ->check(CLI::Range(1, 1000));
  app.add_flag("--list", line.list, "list the methods");
}

/// Twelve layers each, 24 x 24 patches: 130 GFLOP to the first token, in seconds on any laptop.
llava::Config small_config() {
  llava::Config config;
  config.encoder = {.layers = 12, .width = 384, .heads = 6, .ffn = 1536, .layers_run = 11};
  config.decoder = {.layers = 12,
                    .width = 768,
                    .heads = 12,
                    .key_value_heads = 4,
                    .head_dim = 64,
                    .ffn = 2048,
                    .vocabulary = 32064};
  return config;
}

std::unique_ptr<llava::Model> open_model(const CommandLine& line) {
  const llava::Threads threads{line.threads};
  if (!line.model.empty()) {
    const std::filesystem::path folder = line.model;
    const llava::Config config = llava::read_config(folder / "config.json");
    return std::make_unique<llava::Model>(config, llava::Weights::open(folder), threads);
  }
  if (line.shape == "7b") {
    return std::make_unique<llava::Model>(llava::Config(), llava::Weights::random(line.seed, 2),
                                          threads);
  }
  return std::make_unique<llava::Model>(small_config(), llava::Weights::random(line.seed), threads);
}

llava::Choice choice_of(const CommandLine& line) {
  llava::Choice choice{.method = line.method};
  if (!line.adaptive) choice.keep = line.keep;
  if (!line.positions.empty()) {
    choice.positions = line.positions == "packed" ? tokenfold::PositionRule::packed
                                                  : tokenfold::PositionRule::original;
  }
  for (const std::string& setting : line.settings) {
    const std::size_t equals = setting.find('=');
    if (equals == std::string::npos) {
      throw std::runtime_error("--set takes name=value, got '" + setting + "'");
    }
    choice.options.emplace_back(setting.substr(0, equals), setting.substr(equals + 1));
  }
  return choice;
}

void write(const std::filesystem::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  if (!file) throw std::runtime_error("cannot write " + path.string());
}

/// A model, a picture and a prompt; runs with whatever method.
class Engine {
 public:
  explicit Engine(const CommandLine& line)
      : line_(line),
        image_(picture::load_image(line.picture)),  // first, because a model takes long to open
        model_(open_model(line)),
        tokenizer_(llava::Tokenizer::open(line.model, model_->config.decoder.vocabulary)),
        pixels_(llava::preprocess(image_, model_->config.encoder.image_size)),
        prompt_(line.tokens.empty() ? llava::chat_prompt(line.prompt, tokenizer_, model_->config)
                                    : llava::prompt_of_ids(line.tokens, model_->config)) {}

  /// Model and prompt in words.
  void introduce() const {
    const llava::EncoderConfig& encoder = model_->config.encoder;
    const llava::DecoderConfig& decoder = model_->config.decoder;
    std::cout << (line_.model.empty()
                      ? "RANDOM WEIGHTS: times and sizes are real, what the model says is noise, "
                        "and KL does not rank methods\n"
                      : line_.model + "\n")
              << "encoder " << encoder.layers_run << " layers x " << encoder.width << ", decoder "
              << decoder.layers << " layers x " << decoder.width << ", " << prompt_.before.size()
              << " + " << encoder.patches() << " + " << prompt_.after.size() << " tokens, "
              << line_.threads << " threads\n";
    if (line_.tokens.empty() && !tokenizer_.note().empty()) std::cout << tokenizer_.note() << "\n";
    std::cout << "\n" << std::flush;
  }

  /// Throws what a run would throw, before any of them costs time.
  void check(const llava::Choice& choice) const { llava::Reduction(*model_, prompt_, choice); }

  /// Weights in a file are read when they are first used, which no run shall be charged with.
  void warm_up(const llava::Choice& choice) {
    if (!line_.model.empty()) run_once(choice, 1);
  }

  /// The fastest of so many runs: whatever else the machine does only makes it slower.
  llava::Measurement run(const llava::Choice& choice, Index new_tokens) {
    llava::Measurement best = run_once(choice, new_tokens);
    for (int i = 1; i < line_.repeat; ++i) {
      llava::Measurement once = run_once(choice, new_tokens);
      if (llava::time_to_first_token(once.seconds) < llava::time_to_first_token(best.seconds)) {
        best = std::move(once);
      }
    }
    return best;
  }

  /// What the model says, up to the end token.
  std::string answer(const llava::Measurement& run) const {
    const auto& ids = run.generated;
    const auto end = std::find(ids.begin(), ids.end(), model_->config.end_token);
    return tokenizer_.decode({ids.begin(), end});
  }

  const llava::Config& config() const { return model_->config; }

 private:
  llava::Measurement run_once(const llava::Choice& choice, Index new_tokens) {
    using Clock = std::chrono::steady_clock;
    llava::Progress progress = llava::Progress::on_stderr();
    Clock::time_point shown;
    return llava::run(*model_, pixels_, prompt_, choice, new_tokens,
                      [&](std::string_view stage, Index done, Index total) {
                        if (Clock::now() - shown < std::chrono::milliseconds(100)) return;
                        shown = Clock::now();
                        progress.show(choice.method + " " + std::string(stage), done, total);
                      });
  }

  const CommandLine& line_;
  picture::Image image_;
  std::unique_ptr<llava::Model> model_;
  llava::Tokenizer tokenizer_;
  llava::Matrix pixels_;
  llava::Prompt prompt_;
};

void compare(const CommandLine& line) {
  const llava::Choice choice = choice_of(line);
  Engine engine(line);
  engine.check(choice);
  engine.introduce();
  engine.warm_up(choice);
  const llava::Measurement reference = engine.run({}, line.new_tokens);
  const llava::Measurement reduced = engine.run(choice, line.new_tokens);
  std::cout << llava::report(reference, reduced) << "\n"
            << "answer, unreduced: " << engine.answer(reference) << "\n"
            << "answer, reduced:   " << engine.answer(reduced) << "\n";
}

void sweep(const CommandLine& line) {
  std::vector<llava::Choice> choices;
  for (const std::string& method : line.methods) {
    for (const Index keep : line.keeps) {
      choices.push_back(choice_of(line));
      choices.back().method = method;
      choices.back().keep = keep;
    }
  }
  Engine engine(line);
  for (const llava::Choice& choice : choices) engine.check(choice);
  const std::filesystem::path folder = line.sweep;
  std::filesystem::create_directories(folder);
  engine.introduce();
  engine.warm_up(choices.front());
  const llava::Measurement reference = engine.run({}, 1);
  std::vector<llava::Measurement> runs;
  for (const llava::Choice& choice : choices) {
    runs.push_back(engine.run(choice, 1));
    write(folder / "sweep.csv", llava::sweep_csv(reference, runs));  // a long sweep may be stopped
  }
  std::cout << llava::sweep_table(reference, runs) << "\n";

  const llava::DecoderConfig& decoder = engine.config().decoder;
  const Index fewest = *std::min_element(line.keeps.begin(), line.keeps.end());
  const llava::Series predicted[] = {
      llava::predicted_speed_ups(engine.config(), reference.tokens.text, fewest)};
  const std::string weights =
      line.model.empty() ? "random weights (KL says nothing about quality)" : line.model;
  const std::string subtitle = std::to_string(decoder.layers) + " layers x " +
                               std::to_string(decoder.width) + ", " + weights + ", " +
                               std::to_string(line.threads) + " threads";
  write(folder / "sweep.svg",
        llava::to_svg(llava::sweep_figure(reference, runs, predicted,
                                          "Fewer visual tokens in a LLaVA-1.5 engine", subtitle)));
  std::cout << (folder / "sweep.csv").string() << "\n" << (folder / "sweep.svg").string() << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  try {
    CommandLine line;
    CLI::App app("", "llava");
    declare(app, line);
    try {
      app.parse(argc, argv);
    } catch (const CLI::CallForHelp& help) {
      return app.exit(help);
    }
    if (line.list) {
      for (const auto& info : llava::list_methods()) {
        if (!info.video) std::cout << info.name << "\n    " << info.summary << "\n";
      }
      std::cout << "ficoco_vl\n    ficoco_v in the encoder, then ficoco_l in the decoder\n";
    } else if (line.picture.empty()) {
      throw std::runtime_error("PICTURE is needed; see --help");
    } else if (line.sweep.empty()) {
      compare(line);
    } else {
      sweep(line);
    }
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "llava: " << error.what() << "\n";
    return 1;
  }
}
