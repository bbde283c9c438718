// SPDX-License-Identifier: Apache-2.0
// Every method on one photograph: which patches stay, where the others go, what it costs.
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "image_file.hpp"
#include "sheet.hpp"

namespace {

namespace tf = tokenfold;
using photo::Index;
using photo::Outcome;

constexpr const char* kUsage =
    "usage: photo IMAGE OUT_DIR [COLUMN ROW]\n"
    "\n"
    "Reduces the 24 x 24 patches of the middle square of IMAGE (JPEG or PNG) with every method,\n"
    "prints a table and writes photo-methods.png, photo-links.png and photo-video.png into "
    "OUT_DIR.\n"
    "COLUMN ROW, 0 to 23 from the top left: the cell that the question is about, instead of the\n"
    "one in the middle.\n";

constexpr Index kTokens = 64;

/// What a discarded patch gave to kept ones.
std::vector<photo::Link> links_of(const photo::Study& study, const Outcome& o) {
  const tf::SourceMap map(o.patches, study.layout(), study.layout().visual_range().begin);
  std::vector<photo::Link> links;
  for (Index patch = 0; patch < map.input_tokens(); ++patch) {
    for (const auto& [output, share] : map.takers(patch)) {
      const tf::Token kept = o.patches.kept()[output];
      if (kept != tf::no_token && kept != patch && share > 0.0F) {
        links.push_back({static_cast<int>(patch), kept, share});
      }
    }
  }
  return links;
}

std::vector<int> kept_cells(const Outcome& o) {
  std::vector<int> cells;
  for (const tf::Token cell : o.patches.kept()) {
    if (cell != tf::no_token) cells.push_back(cell);
  }
  return cells;
}

/// The links of `count` sources that lie far from each other, each time the farthest one next;
/// neighbours of their target are left out, because no arrow fits between them.
std::vector<photo::Link> spread_out(const std::vector<photo::Link>& links, int count) {
  const auto distance = [](int a, int b) {
    const int x = a % photo::kGridSide - b % photo::kGridSide;
    const int y = a / photo::kGridSide - b / photo::kGridSide;
    return x * x + y * y;
  };
  std::vector<int> sources;
  for (int i = 0; i < count; ++i) {
    int best = -1;
    int best_distance = 0;
    for (const photo::Link& link : links) {
      if (distance(link.source, link.target) <= 2) continue;
      int nearest = photo::kCells * photo::kCells;
      for (const int source : sources) nearest = std::min(nearest, distance(link.source, source));
      if (nearest > best_distance) {
        best = link.source;
        best_distance = nearest;
      }
    }
    if (best >= 0) sources.push_back(best);
  }
  std::vector<photo::Link> chosen;
  for (const photo::Link& link : links) {
    if (std::find(sources.begin(), sources.end(), link.source) != sources.end()) {
      chosen.push_back(link);
    }
  }
  return chosen;
}

void print_header() {
  std::printf(
      "One photograph: 576 patches and [CLS], 4 heads of 16, from a stand-in for an encoder.\n"
      "Further layers see its queries and keys, shortened; the question is a stand-in too.\n"
      "where: inside the encoder, between encoder and LLM, or inside the LLM.\n"
      "steps: layers in which the method ran.\n"
      "Where the [CLS] attention on the patches, taken before the reduction, ends up, in %%:\n"
      "  kept    on patches that keep a token of their own\n"
      "  merged  on patches that were merged into kept ones\n"
      "  extra   on patches that were merged into appended tokens (the + 1)\n"
      "  lost    on patches that nothing is left of\n"
      "Times in us, medians of %d warm runs on one thread, summed over the steps.\n\n"
      "%-19s %-9s %5s %-14s %6s %6s %6s %6s %8s %6s\n",
      photo::kTimedRuns, "method", "where", "steps", "visual tokens", "kept", "merged", "extra",
      "lost", "plan", "apply");
}

void print_rows(std::span<const Outcome> outcomes) {
  for (const Outcome& o : outcomes) {
    const std::string tokens = std::to_string(o.patches.input_tokens()) + " -> " +
                               std::to_string(o.kept()) +
                               (o.extra() > 0 ? " + " + std::to_string(o.extra()) : "");
    std::printf("%-19s %-9s %5d %-14s %6.1f %6.1f %6.1f %6.1f %8.0f %6.0f\n", o.method.c_str(),
                o.where.c_str(), o.steps, tokens.c_str(), 100.0 * o.fate.kept,
                100.0 * o.fate.merged, 100.0 * o.fate.extra, 100.0 * o.fate.lost(), o.cost.plan,
                o.cost.apply);
  }
  std::printf("\n");
}

/// FiCoCo-V merges into several patches each, ToMe pair by pair in several steps.
photo::Image draw_links_sheet(const photo::Image& image, const photo::Study& study,
                              std::span<const Outcome> outcomes) {
  std::vector<photo::Panel> panels;
  for (const Outcome& o : outcomes) {
    if (o.method != "FiCoCo-V" && o.method != "ToMe") continue;
    const std::vector<int> kept = kept_cells(o);
    const std::vector<photo::Link> links = links_of(study, o);
    const std::string head = o.method + ": 576 -> " + std::to_string(o.kept()) + " tokens, " +
                             std::to_string(o.steps) + (o.steps == 1 ? " step" : " steps");
    if (panels.empty()) {
      panels.push_back({photo::draw_links(image, kept, spread_out(links, 7)),
                        head + "\nseven patches and their takers"});
    }
    panels.push_back(
        {photo::draw_groups(image, kept, links), head + "\none colour: held by one token"});
  }
  return photo::contact_sheet(panels, static_cast<int>(panels.size()));
}

/// A camera that stands, pans by one patch a frame, and stands again.
photo::Image draw_video_sheet(const photo::Image& image) {
  constexpr int kPatch = photo::kInputSize / photo::kGridSide;
  constexpr int kPan = 3;
  const photo::Image wide =
      picture::resize(picture::centre_crop(image), photo::kInputSize + kPan * kPatch,
                      photo::kInputSize + kPan * kPatch);
  std::vector<photo::Image> frames;
  std::vector<photo::Encoded> encoded;
  for (const int pan : {0, 0, 0, 1, 2, 3, 3, 3}) {
    frames.push_back(
        picture::crop(wide, pan * kPatch, kPatch, photo::kInputSize, photo::kInputSize));
    encoded.push_back(photo::encode(frames.back()));
  }
  const auto patches = static_cast<Index>(frames.size()) * photo::kCells;
  return photo::draw_video_sheet(frames, photo::study_video(encoded, patches / 4));
}

void run(const std::string& path, const std::filesystem::path& out, Index column, Index row) {
  const photo::Image image = picture::load_image(path);
  std::error_code error;
  std::filesystem::create_directories(out, error);
  if (!std::filesystem::is_directory(out)) {
    throw std::runtime_error("cannot create folder '" + out.string() +
                             "': " + (error ? error.message() : "a file has that name"));
  }
  photo::Study study(photo::encode(photo::prepare(image)), column, row);
  print_header();
  const std::vector<Outcome> outcomes = study.at(kTokens);
  print_rows(outcomes);
  std::printf("FiCoCo layer by layer, in the encoder, in the LLM, half in each:\n");
  print_rows(study.layer_by_layer(kTokens));
  std::printf("As many tokens as the method's own rule keeps:\n");
  print_rows(study.adaptive());

  const auto write = [&](const char* name, const photo::Image& sheet) {
    const std::string file = (out / name).string();
    picture::save_image(sheet, file);
    std::printf("wrote %s\n", file.c_str());
  };
  write("photo-methods.png", photo::MethodSheet(image, study, outcomes).draw());
  write("photo-links.png", draw_links_sheet(image, study, outcomes));
  write("photo-video.png", draw_video_sheet(image));
}

Index cell_coordinate(std::string_view text) {
  Index value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0 ||
      value >= photo::kGridSide) {
    throw std::invalid_argument("COLUMN and ROW must lie in 0 to 23, got '" + std::string(text) +
                                "'");
  }
  return value;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3 && argc != 5) {
    std::fputs(kUsage, stderr);
    return 1;
  }
  try {
    const Index middle = photo::kGridSide / 2;
    run(argv[1], argv[2], argc == 5 ? cell_coordinate(argv[3]) : middle,
        argc == 5 ? cell_coordinate(argv[4]) : middle);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "photo: %s\n", error.what());
    return 1;
  }
  return 0;
}
