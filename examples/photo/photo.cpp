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

#include "draw.hpp"
#include "runs.hpp"

namespace {

namespace tf = tokenfold;
using photo::Index;

constexpr const char* kUsage =
    "usage: photo IMAGE OUT_DIR [COLUMN ROW]\n"
    "\n"
    "Reduces the 24 x 24 patches of the middle square of IMAGE (JPEG or PNG) with every method,\n"
    "prints a table and writes photo-overview.png and photo-links.png into OUT_DIR.\n"
    "COLUMN ROW, 0 to 23 from the top left: the cell that FiCoCo-L is asked about, instead of\n"
    "the one in the middle.\n";

constexpr int kTimedRuns = 5;

/// Where the [CLS] attention on the patches, taken before any reduction, ends up; adds up to 1.
struct Fate {
  double kept = 0.0;    // on patches that live on in a token of their own
  double merged = 0.0;  // on patches that were merged into those
  double extra = 0.0;   // on patches that were merged into a token appended for them
};

struct Outcome {
  std::string method;
  std::string where;
  /// From the 576 patches to the visual tokens left.
  tf::ReductionPlan patches;
  photo::Cost cost;
  Fate fate;

  Index extra() const { return patches.extra_tokens(); }
  Index kept() const { return patches.output_tokens() - extra(); }
  std::vector<int> kept_cells() const {
    std::vector<int> cells;
    for (const tf::Token cell : patches.kept()) {
      if (cell != tf::no_token) cells.push_back(cell);
    }
    return cells;
  }
};

/// A photograph, encoded, and everything that the methods need of it.
class Study {
 public:
  Study(const photo::Encoded& encoded, Index column, Index row)
      : layout_(tf::TokenLayout::encoder({encoded.grid_h, encoded.grid_w})),
        layer_{encoded.tokens, encoded.queries, encoded.keys},
        steps_(encoded.heads),
        cls_attention_(static_cast<std::size_t>(layout_.visual_count())),
        question_(encoded, column, row) {
    attend(encoded.heads);
  }

  /// How [CLS] spreads its attention over the patches (mean of the heads), scaled to a sum of 1.
  const std::vector<float>& cls_attention() const { return cls_attention_; }
  const photo::Question& question() const { return question_; }

  /// `method` once, on the output of an encoder.
  template <class Method>
  Outcome encoder(std::string name, const Method& method, const tf::Budget& budget,
                  tf::AttentionKind kind = tf::AttentionKind::probabilities) {
    return measured(std::move(name), "encoder, 1 layer", [&] {
      const photo::Cost cost = steps_.run(method, layer_, layout_,
                                          std::span<const tf::Budget>(&budget, 1), {.kind = kind});
      return std::pair(steps_.total().within(layout_.visual_range()), cost);
    });
  }

  /// `method` once, in a decoder that sees all patches, with text around them.
  template <class Method>
  Outcome decoder(std::string name, const Method& method, const tf::Budget& budget) {
    const tf::TokenLayout layout = tf::TokenLayout::decoder(
        photo::kPromptTokens, layout_.visual_count(), photo::kQuestionTokens, layout_.grid());
    const photo::Layer input = after_encoder(layer_, layout_.visual_count());
    return measured(std::move(name), "decoder, 1 layer", [&] {
      const photo::Cost cost = steps_.run(
          method, input, layout, std::span<const tf::Budget>(&budget, 1), {.causal = true});
      return std::pair(steps_.total().within(layout.visual_range()), cost);
    });
  }

  /// FiCoCo-VL: the encoder's layers first, then the decoder's on what is left; without steps in
  /// the encoder it is FiCoCo-L, without steps in the decoder FiCoCo-V.
  Outcome both(std::string name, const tf::FiCoCoVL& method, const tf::Budget& budget) {
    const tf::FiCoCoVLSteps steps = method.steps(layout_.visual_count(), budget);
    const auto encoder = photo::budgets_of(steps.encoder);
    const auto decoder = photo::budgets_of(steps.decoder);
    std::string where = encoder.empty()   ? "decoder, " + layers_text(decoder.size())
                        : decoder.empty() ? "encoder, " + layers_text(encoder.size())
                                          : "both, " + layers_text(encoder.size() + decoder.size());
    return measured(std::move(name), std::move(where), [&] {
      photo::Cost cost = steps_.run(method.encoder, layer_, layout_, encoder);
      tf::ReductionPlan total = steps_.total().within(layout_.visual_range());
      if (!decoder.empty()) {
        const auto layout = tf::TokenLayout::decoder(photo::kPromptTokens, steps_.cells(),
                                                     photo::kQuestionTokens, layout_.grid());
        const photo::Layer input = after_encoder(steps_.layer(), total.output_tokens());
        const photo::Cost more =
            steps_.run(method.decoder, input, layout, decoder, {.causal = true});
        total = total.then(steps_.total().within(layout.visual_range()));
        cost.plan += more.plan;
        cost.apply += more.apply;
      }
      return std::pair(total, cost);
    });
  }

 private:
  /// LLaVA's way: [CLS] stays behind, text comes around the `n` patches that are left.
  photo::Layer after_encoder(const photo::Layer& left, Index n) const {
    return photo::decoder_input(
        {left.tokens.bottomRows(n), left.queries.bottomRows(n), left.keys.bottomRows(n)},
        question_);
  }

  static std::string layers_text(std::size_t count) {
    return std::to_string(count) + (count == 1 ? " layer" : " layers");
  }

  void attend(Index heads) {
    const tf::QueryKeyAttention attention(tf::split_heads(layer_.queries, heads),
                                          tf::split_heads(layer_.keys, heads));
    const auto cls = static_cast<tf::Token>(*layout_.cls());
    tf::Workspace workspace;
    attention.rows(tf::Span<const tf::Token>(&cls, 1), layout_.visual_range(),
                   tf::MatrixView<float>(cls_attention_.data(), 1, layout_.visual_count()),
                   workspace);
    float sum = 0.0F;
    for (const float a : cls_attention_) sum += a;
    for (float& a : cls_attention_) a /= sum;
  }

  /// Runs once for the result and to warm up, then for the median times.
  template <class Run>
  Outcome measured(std::string name, std::string where, Run&& run) const {
    Outcome outcome;
    outcome.method = std::move(name);
    outcome.where = std::move(where);
    outcome.patches = run().first;
    std::vector<double> plan;
    std::vector<double> apply;
    for (int i = 0; i < kTimedRuns; ++i) {
      const photo::Cost cost = run().second;
      plan.push_back(cost.plan);
      apply.push_back(cost.apply);
    }
    const auto median = [](std::vector<double>& times) {
      std::nth_element(times.begin(), times.begin() + kTimedRuns / 2, times.end());
      return times[kTimedRuns / 2];
    };
    outcome.cost = {median(plan), median(apply)};
    outcome.fate = fate_of(outcome.patches);
    return outcome;
  }

  Fate fate_of(const tf::ReductionPlan& plan) const {
    Fate fate;
    for (Index row = 0; row < plan.output_tokens(); ++row) {
      const tf::Token kept = plan.kept()[row];
      for (Index e = plan.offsets()[row]; e < plan.offsets()[row + 1]; ++e) {
        const tf::Token patch = plan.columns()[e];
        double& sum = kept == patch ? fate.kept : kept == tf::no_token ? fate.extra : fate.merged;
        sum += static_cast<double>(plan.shares()[e]) *
               static_cast<double>(cls_attention_[static_cast<std::size_t>(patch)]);
      }
    }
    return fate;
  }

  tf::TokenLayout layout_;
  photo::Layer layer_;
  photo::Steps steps_;
  std::vector<float> cls_attention_;
  photo::Question question_;
};

/// What a discarded patch gave to kept ones.
std::vector<photo::Link> links_of(const tf::ReductionPlan& plan) {
  std::vector<photo::Link> links;
  for (Index row = 0; row < plan.output_tokens(); ++row) {
    const tf::Token kept = plan.kept()[row];
    for (Index e = plan.offsets()[row]; e < plan.offsets()[row + 1]; ++e) {
      if (kept != tf::no_token && plan.columns()[e] != kept && plan.shares()[e] > 0.0F) {
        links.push_back({plan.columns()[e], kept, plan.shares()[e]});
      }
    }
  }
  return links;
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
      "Further layers see its queries and keys, shortened; the question of FiCoCo-L is a "
      "stand-in.\n"
      "Where the [CLS] attention on the patches, taken before the reduction, ends up, in %%:\n"
      "  kept    on patches that keep a token of their own\n"
      "  merged  on patches that were merged into kept ones\n"
      "  extra   on patches that were merged into one appended token (the + 1)\n"
      "  lost    on patches that nothing is left of\n"
      "Times in us, medians of %d warm runs on one thread, summed over the layers.\n\n"
      "%-22s %-19s %-14s %6s %6s %6s %6s %8s %6s\n",
      kTimedRuns, "method", "where", "visual tokens", "kept", "merged", "extra", "lost", "plan",
      "apply");
}

void print_row(const Outcome& o) {
  const std::string tokens = std::to_string(o.patches.input_tokens()) + " -> " +
                             std::to_string(o.kept()) + (o.extra() > 0 ? " + 1" : "");
  const double lost = std::max(0.0, 1.0 - o.fate.kept - o.fate.merged - o.fate.extra);
  std::printf("%-22s %-19s %-14s %6.1f %6.1f %6.1f %6.1f %8.0f %6.0f\n", o.method.c_str(),
              o.where.c_str(), tokens.c_str(), 100.0 * o.fate.kept, 100.0 * o.fate.merged,
              100.0 * o.fate.extra, 100.0 * lost, o.cost.plan, o.cost.apply);
}

std::string caption(const Outcome& o, const char* how) {
  char text[160];
  std::snprintf(text, sizeof text, "%s: %td -> %td tokens\n[CLS] attention kept: %.3g %%\n%s",
                o.method.c_str(), o.patches.input_tokens(), o.patches.output_tokens(),
                100.0 * o.fate.kept, how);
  return text;
}

void run(const std::string& path, const std::filesystem::path& out, Index column, Index row) {
  const photo::Image image = photo::load_image(path);
  std::error_code error;
  std::filesystem::create_directories(out, error);
  if (!std::filesystem::is_directory(out)) {
    throw std::runtime_error("cannot create folder '" + out.string() +
                             "': " + (error ? error.message() : "a file has that name"));
  }
  Study study(photo::encode(photo::prepare(image)), column, row);

  const tf::FiCoCoVL stepwise_v{.encoder_share = 1};
  const tf::FiCoCoVL stepwise_l{.encoder_share = 0};
  const tf::FiCoCoVL once_l{.encoder_share = 0, .decoder_first_layer = 31};
  tf::BasicFiCoCoV<tf::correlate::FixedTargets> pruning;
  pruning.correlate.targets.count = 0;
  tf::PruMerge capped = tf::prumerge_plus();
  capped.filter.max_tokens = 192;

  print_header();
  std::vector<Outcome> pictured;
  const auto report = [&](Outcome outcome, bool picture = false) {
    print_row(outcome);
    if (picture) pictured.push_back(std::move(outcome));
  };
  for (const Index n : {192, 128, 64}) {
    const tf::Budget keep = tf::Budget::keep(n);
    const bool picture = n == 128;
    report(study.encoder("FiCoCo-V", tf::FiCoCoV{}, keep));
    report(study.both("FiCoCo-V", stepwise_v, keep), picture);
    report(study.encoder("FiCoCo-V, no targets", pruning, keep));
    report(study.encoder("FiCoCo-V, released", tf::ficoco_v_released(), keep,
                         tf::AttentionKind::logits));
    report(study.both("FiCoCo-L", once_l, keep), picture);
    report(study.both("FiCoCo-L", stepwise_l, keep));
    report(study.both("FiCoCo-VL", {}, keep));
    report(study.encoder("PruMerge", tf::PruMerge{}, keep), picture);
    report(study.encoder("PruMerge+", tf::prumerge_plus(), keep), picture);
    report(study.encoder("EViT", tf::EViT{}, keep));
    report(study.decoder("FastV", tf::FastV{}, keep));
    std::printf("\n");
  }
  report(study.encoder("PruMerge, adaptive", tf::PruMerge{}, tf::Budget::adaptive()));
  report(study.encoder("PruMerge+, adaptive", tf::prumerge_plus(), tf::Budget::adaptive()));
  report(study.encoder("PruMerge+, at most 192", capped, tf::Budget::adaptive()));

  std::printf(
      "\nFiCoCo's equations ask for probabilities, so their plan time holds a softmax over all\n"
      "patches; the released code scores logits. PruMerge+ draws about three samples for every\n"
      "outlier, which may be the whole picture: give it a cap.\n\n");

  const auto kept = [&](const Outcome& outcome) {
    return photo::draw_kept(image, outcome.kept_cells());
  };
  const Outcome& v = pictured[0];
  const Outcome& l = pictured[1];
  const std::vector<photo::Link> links = links_of(v.patches);
  photo::Image asked = kept(l);
  photo::draw_box(asked, static_cast<int>(study.question().column),
                  static_cast<int>(study.question().row), photo::Question::kWidth,
                  photo::Question::kHeight);
  const photo::Image arrows = photo::draw_links(image, v.kept_cells(), spread_out(links, 7));

  const std::vector<photo::Panel> overview{
      {photo::draw_original(image),
       "Photo: 576 tokens\n24 x 24 patches, from\na stand-in for an encoder"},
      {kept(v), caption(v, "13 encoder layers")},
      {arrows, "FiCoCo-V: the other 448\nmerge into those kept:\n7 of them, and who took them"},
      {asked, caption(l, "1 layer, asked about the box")},
      {kept(pictured[2]), caption(pictured[2], "after the encoder")},
      {kept(pictured[3]), caption(pictured[3], "after the encoder")}};
  const std::vector<photo::Panel> more{
      {photo::draw_heat(image, study.cls_attention()), "[CLS] attention\nbefore the reduction"},
      {arrows, "FiCoCo-V: 576 -> 128 tokens\n7 patches, who took them"},
      {photo::draw_groups(image, v.kept_cells(), links),
       "FiCoCo-V: 576 -> 128 tokens\ncolour: who took a patch"}};
  const auto write = [&](const char* name, const std::vector<photo::Panel>& panels) {
    const std::string file = (out / name).string();
    photo::save_image(photo::contact_sheet(panels, 3), file);
    std::printf("wrote %s\n", file.c_str());
  };
  write("photo-overview.png", overview);
  write("photo-links.png", more);
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
