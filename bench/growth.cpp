// SPDX-License-Identifier: Apache-2.0
// How do the methods grow? Plans and applies each of them at growing numbers of tokens, channels
// and images, fits an exponent, time ∝ xᵉ, and compares it with that of the method's formula:
//
//   tokenfold_growth FIGURE.svg            about 3 minutes and 3 GB
//
// Writes the figure, and a table to the standard output; fails if something grows faster than its
// formula. Every method reduces to 64 tokens or by 42 (those that act layer by layer), so that only
// one number grows at a time.

#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <tokenfold/registry.hpp>
#include <tokenfold/std_threads.hpp>
#include <tokenfold/tokenfold.hpp>
#include <vector>

#include "../examples/llava/chart.hpp"
#include "measure.hpp"

namespace {

using bench::Index;
using bench::Matrix;
using llava::Chart;
using llava::Scale;
using llava::Series;
using namespace tokenfold;

/// A method, and the exponents of N and D in the larger term of its formula.
struct Case {
  std::string name;
  std::string title;
  Budget budget;
  double tokens;
  double channels;
  AttentionKind kind = AttentionKind::probabilities;
};

const Budget layer_step = Budget::discard(42);
const Budget few = Budget::keep(64);

/// N · D and a few rows more: the attention of a row or of a mean, or one row a pick.
const std::vector<Case> linear = {
    {"ficoco_v", "FiCoCo-V, logits", layer_step, 1, 1, AttentionKind::logits},
    {"ficoco_l", "FiCoCo-L, logits", layer_step, 1, 1, AttentionKind::logits},
    {"prumerge", "PruMerge", few, 1, 1},
    {"prumerge_plus", "PruMerge+", few, 1, 1},
    {"evit", "EViT", few, 1, 1},
    {"fastv", "FastV", few, 1, 1},
    {"visionzip", "VisionZip", few, 1, 1},
    {"cdpruner", "CDPruner", few, 1, 1},
    {"dart", "DART", few, 1, 1},
};
/// All pairs of tokens: N² · D.
const std::vector<Case> quadratic = {
    {"ficoco_v", "FiCoCo-V, probabilities", layer_step, 2, 1},
    {"tome", "ToMe", layer_step, 2, 1},
    {"divprune", "DivPrune", few, 2, 1},
    {"mmtok", "MMTok", few, 2, 1},
    {"scope", "SCOPE", few, 2, 1},
    {"tops", "TOPS", few, 2, 1},
    {"sparsevlm", "SparseVLM", few, 2, 1},
};

/// An image of side × side patches with everything that a method may read.
class Image {
 public:
  Image(bool decoder, Index side, Index channels, AttentionKind kind)
      : layout_(decoder ? TokenLayout::decoder(35, side * side, 25, {side, side})
                        : TokenLayout::encoder({side, side})),
        tokens_(bench::gaussian(layout_.tokens(), channels, 1)),
        queries_(bench::gaussian(layout_.tokens(), channels, 2)),
        keys_(bench::gaussian(layout_.tokens(), channels, 3)),
        text_(bench::gaussian(20, channels, 4)),
        inputs_(layout_) {
    const Index heads = std::max<Index>(channels / 64, 1);
    inputs_.attention = QueryKeyAttention(split_heads(queries_, heads), split_heads(keys_, heads),
                                          {.kind = kind, .causal = decoder});
    inputs_.features = {tokens_};
    inputs_.image_embeddings = {tokens_};
    inputs_.text_embeddings = text_;
    if (decoder) {
      raters_ = {static_cast<Token>(layout_.tokens() - 1)};
      inputs_.raters = raters_;
    }
  }
  Image(const Image&) = delete;

  const Matrix& tokens() const { return tokens_; }
  const Inputs<float>& inputs() const { return inputs_; }

 private:
  TokenLayout layout_;
  Matrix tokens_, queries_, keys_, text_;
  std::vector<Token> raters_;
  Inputs<float> inputs_;
};

/// The shortest of several runs within about half a second, in milliseconds.
double shortest_ms(const std::function<void()>& work) {
  work();
  double best = bench::time_ms(work);
  for (double spent = best; spent < 300; spent += best) {
    best = std::min(best, bench::time_ms(work));
  }
  return best;
}

double measure(const Case& c, Index side, Index channels) {
  const auto method = make_reducer(c.name);
  const Image image(method->info().place == Place::decoder, side, channels, c.kind);
  Workspace workspace;
  ReductionPlan plan;
  method->plan(image.inputs(), c.budget, workspace, plan);
  Matrix out(plan.output_tokens(), channels);
  return shortest_ms([&] {
    method->plan(image.inputs(), c.budget, workspace, plan);
    plan.apply(image.tokens(), out);
  });
}

/// The slope of a straight line through the logarithms of all points.
double exponent(const Series& series) {
  double n = 0, x = 0, y = 0, xx = 0, xy = 0;
  for (const llava::Point& point : series.points) {
    const double u = std::log(point.x), v = std::log(point.y);
    n += 1, x += u, y += v, xx += u * u, xy += u * v;
  }
  return (n * xy - x * y) / (n * xx - x * x);
}

struct Growth {
  double fitted = 0;
  double formula = 0;
  std::vector<llava::Point> times = {};
};
using Table = std::map<std::string, std::map<std::string, Growth>>;

/// "ToMe: N^1.7, D^0.9", for the legend.
std::string with_exponents(std::string name, const std::map<std::string, Growth>& growths) {
  const char* separator = ": ";
  for (const auto& [of, growth] : growths) {
    char text[32];
    std::snprintf(text, sizeof text, "%s%s^%.1f", separator, of.c_str(), growth.fitted);
    name += text;
    separator = ", ";
  }
  return name;
}

/// One line per method: time at each of `sizes`.
Chart chart(const std::vector<Case>& cases, std::string title, std::string axis,
            const std::vector<Index>& sizes, const std::string& of, Table& table,
            const std::function<double(const Case&, Index)>& time,
            const std::function<double(Index)>& x, double Case::*formula) {
  Chart result{.title = std::move(title),
               .x = {.title = std::move(axis), .scale = Scale::log2},
               .y = {.title = "milliseconds, plan and apply", .scale = Scale::log10}};
  for (const Case& c : cases) {
    Series series{.name = c.title};
    for (const Index size : sizes) {
      series.points.push_back({x(size), time(c, size)});
    }
    table[c.title][of] = {exponent(series), c.*formula, series.points};
    result.series.push_back(std::move(series));
  }
  return result;
}

/// Time of a batch of `images` on `threads` threads.
double measure_batch(const auto& method, Index images, Index threads) {
  const Matrix tokens = bench::gaussian(images * 577, 1024, 1);
  const Matrix q = bench::gaussian(577, 1024, 2), k = bench::gaussian(577, 1024, 3);
  const TokenLayout layout = TokenLayout::encoder({24, 24});
  const QueryKeyAttention attention(split_heads(q, 16), split_heads(k, 16));
  const auto sequences = ItemsFrom(images, [&](Index i) {
    return Sequence(layout, attention,
                    Features(MatrixView(tokens).middle_rows({i * 577, (i + 1) * 577})));
  });
  Batch batch;
  batch.plan(method, sequences, few);
  Matrix out(batch.output_tokens(), 1024);
  const StdThreads executor{threads};
  return shortest_ms([&] {
    batch.plan(method, sequences, few, executor);
    batch.apply(tokens, out, executor);
  });
}

Chart batch_chart(Table& table) {
  Chart result{.title = "Images in a batch, 576 × 1024 each",
               .x = {.title = "images", .scale = Scale::log2},
               .y = {.title = "milliseconds, plan and apply", .scale = Scale::log10}};
  const auto add = [&](const auto& method, const std::string& title) {
    for (const Index threads : {1, 2}) {
      Series series{.name = threads == 1 ? title : title + ", 2 threads"};
      for (const Index images : {1, 2, 4, 8, 16, 32}) {
        series.points.push_back(
            {static_cast<double>(images), measure_batch(method, images, threads)});
      }
      table[series.name]["batch"] = {exponent(series), 1, series.points};
      result.series.push_back(std::move(series));
    }
  };
  add(PruMerge{}, "PruMerge");
  add(DivPrune{}, "DivPrune");
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: tokenfold_growth FIGURE.svg\n");
    return 2;
  }
  Table table;
  const auto by_tokens = [](const Case& c, Index side) { return measure(c, side, 1024); };
  const auto by_channels = [](const Case& c, Index channels) { return measure(c, 24, channels); };
  const auto square = [](Index side) { return static_cast<double>(side * side); };
  const auto same = [](Index channels) { return static_cast<double>(channels); };
  const std::vector<Index> sides = {12, 24, 36, 54, 76, 108};
  std::vector<Case> all = linear;
  all.insert(all.end(), quadratic.begin(), quadratic.end());

  llava::Figure figure{.title = "Time against size", .subtitle = "", .charts = {}};
  figure.charts.push_back(chart(linear, "Few rows of attention or similarity",
                                "visual tokens of 1024 channels", sides, "N", table, by_tokens,
                                square, &Case::tokens));
  figure.charts.push_back(chart(quadratic, "All pairs of tokens", "visual tokens of 1024 channels",
                                sides, "N", table, by_tokens, square, &Case::tokens));
  figure.charts.push_back(chart(all, "Channels, 576 tokens", "channels",
                                {256, 512, 1024, 2048, 4096, 8192}, "D", table, by_channels, same,
                                &Case::channels));
  figure.charts.push_back(batch_chart(table));
  for (Chart& c : figure.charts) {
    for (Series& series : c.series) {
      series.name = with_exponents(series.name, table[series.name]);
    }
  }
  std::ofstream(argv[1]) << llava::to_svg(figure);

  bool as_expected = true;
  std::printf("| method | against | fitted exponent | formula | ms |\n|---|---|---|---|---|\n");
  for (const auto& [method, growths] : table) {
    for (const auto& [of, growth] : growths) {
      // Small problems fit into a cache, large ones do not: that adds up to 0.5 to a formula.
      const bool faster = growth.fitted > growth.formula + 0.5;
      as_expected = as_expected && !faster;
      std::printf("| %s | %s | %.2f%s | %.0f |", method.c_str(), of.c_str(), growth.fitted,
                  faster ? " (!)" : "", growth.formula);
      for (const llava::Point& point : growth.times) {
        std::printf(" %.3g", point.y);
      }
      std::printf(" |\n");
    }
  }
  return as_expected ? 0 : 1;
}
