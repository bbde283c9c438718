// SPDX-License-Identifier: Apache-2.0
//
// tokenfold-reduce METHOD IN.safetensors OUT.safetensors [budget] [--set name=value]...
//
// Reduces the tokens of a file, to check activations dumped from any framework against the library.
// Reads the tensor names that tests/golden/README.md lists, and writes the results under them.

#include "reduce.hpp"

#include <CLI/CLI.hpp>
#include <exception>
#include <iostream>
#include <string>

namespace {

struct CommandLine {
  reduce_tool::Request request;
  std::string in;
  std::string out;
  bool list = false;
  std::string options_of;
};

void declare(CLI::App& app, CommandLine& line) {
  app.description("Reduces the visual tokens of a safetensors file by a published method.");
  app.footer(
      "IN holds tokens [P, D] and what the method reads: attention [H, P, P], head_mean_logits\n"
      "or logits [P, P], cls_attention_heads [H, N], attention_last [H, P], queries and keys\n"
      "[H, P, d], queries_last [H, d] or queries_cls [1, D] and keys; values, image_embeds or\n"
      "vision_embeds, text_embeds, embeds or rater_indices, sizes_in [P], grid_positions [N],\n"
      "excluded_indices.\n"
      "What the rows are is read from the metadata (visual_begin, visual_count, text_after or the\n"
      "golden files' names for them, grid, frames, crops, cls, causal, kind)\n"
      "where --set does not say it. Parameters of the method are never read from the\n"
      "file. The exit code is 0 or 1.");
  reduce_tool::Request& request = line.request;
  app.add_option("METHOD", request.method, "one of --list");
  app.add_option("IN", line.in, "input, safetensors");
  app.add_option("OUT", line.out, "output, safetensors");
  app.add_option("--keep", request.keep, "preserve N visual tokens")->type_name("N");
  app.add_option("--discard", request.discard, "discard N visual tokens")->type_name("N");
  app.add_option("--keep-ratio", request.keep_ratio, "preserve this share of the visual tokens")
      ->type_name("X");
  app.add_flag("--adaptive", request.adaptive,
               "let the method decide, if it has a rule; its default without a budget");
  app.add_option("--set", request.settings, "set an option of the method; may be repeated")
      ->type_name("name=value")
      ->allow_extra_args(false);
  app.add_flag("!--float", request.in_double,
               "compute in float, as an engine would, not in double");
  app.add_flag("--list", line.list, "list the methods");
  app.add_option("--options", line.options_of, "list the options of a method")->type_name("METHOD");
}

void run(const CommandLine& line) {
  if (line.list) {
    std::cout << reduce_tool::list_methods();
  } else if (!line.options_of.empty()) {
    std::cout << reduce_tool::list_options(line.options_of);
  } else if (line.out.empty()) {
    throw reduce_tool::Error("METHOD, IN and OUT are needed; see --help");
  } else {
    tokenfold::make_reducer(line.request.method);  // a typo should not cost reading a file
    safetensors::save(line.out, reduce_tool::reduce(safetensors::load(line.in), line.request));
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    CommandLine line;
    CLI::App app("", "tokenfold-reduce");
    declare(app, line);
    try {
      app.parse(argc, argv);
    } catch (const CLI::CallForHelp& help) {
      return app.exit(help);
    }
    run(line);
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "tokenfold-reduce: " << error.what() << "\n";
    return 1;
  }
}
