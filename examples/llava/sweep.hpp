// SPDX-License-Identifier: Apache-2.0
// Many runs beside the one that keeps every token: as a table, as CSV, as a figure.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "chart.hpp"
#include "csv.hpp"
#include "measurement.hpp"
#include "report.hpp"
#include "table.hpp"

namespace llava {

namespace detail {

/// NaN without logits of both.
inline double kl_of(const Measurement& reference, const Measurement& run) {
  if (reference.logits.empty() || run.logits.empty()) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  return kl_divergence(reference.logits, run.logits);
}

struct Column {
  std::string name;
  std::function<std::string(const Measurement&)> value;
};

inline std::vector<Column> columns(const Measurement& reference) {
  using M = const Measurement&;
  std::vector<Column> all;
  const auto text = [&all](std::string name, auto member) {
    all.push_back({std::move(name), [member](M m) { return m.*member; }});
  };
  const auto number = [&all](std::string name, auto value) {
    all.push_back(
        {std::move(name), [value](M m) { return csv_number(static_cast<double>(value(m))); }});
  };
  const auto tokens = [&number](std::string name, Index TokenCounts::*member) {
    number(std::move(name), [member](M m) { return m.tokens.*member; });
  };
  const auto ms = [&number](std::string name, double Seconds::*member) {
    number(std::move(name), [member](M m) { return 1e3 * (m.seconds.*member); });
  };
  text("method", &Measurement::method);
  text("where", &Measurement::where);
  text("options", &Measurement::options);
  tokens("visual_tokens_of_image", &TokenCounts::image);
  tokens("visual_tokens_out_of_encoder", &TokenCounts::encoded);
  tokens("visual_tokens_into_decoder", &TokenCounts::into_decoder);
  number("visual_tokens_per_decoder_layer", [](M m) { return mean_visual_tokens(m.tokens); });
  tokens("visual_tokens_out_of_decoder", &TokenCounts::left);
  tokens("text_tokens", &TokenCounts::text);
  ms("encoder_ms", &Seconds::encoder);
  ms("reduction_in_encoder_ms", &Seconds::reduction_in_encoder);
  ms("projector_ms", &Seconds::projector);
  ms("reduction_between_ms", &Seconds::reduction_between);
  ms("prefill_ms", &Seconds::prefill);
  ms("reduction_in_decoder_ms", &Seconds::reduction_in_decoder);
  number("time_to_first_token_ms", [](M m) { return 1e3 * time_to_first_token(m.seconds); });
  number("reduction_percent", [](M m) { return 100 * reduction_share(m.seconds); });
  ms("decoded_token_ms", &Seconds::per_decoded_token);
  number("kv_cache_mb", [](M m) { return 1e-6 * static_cast<double>(m.kv_bytes); });
  number("kv_cache_16_bit_mb", [](M m) { return 1e-6 * static_cast<double>(m.kv_bytes_16_bit); });
  number("predicted_gflop", [](M m) { return 1e-9 * m.flops.total(); });
  number("measured_speed_up", [&reference](M m) { return measured_speed_up(reference, m); });
  number("predicted_speed_up", [&reference](M m) { return predicted_speed_up(reference, m); });
  number("kl_nats", [&reference](M m) { return kl_of(reference, m); });
  // 0 or 1; of 5.
  const auto of_logits = [&number, &reference](std::string name, auto value) {
    number(std::move(name), [&reference, value](M m) {
      const bool known = !std::isnan(kl_of(reference, m));
      return known ? static_cast<double>(value(reference.logits, m.logits))
                   : std::numeric_limits<double>::quiet_NaN();
    });
  };
  of_logits("top_1_agrees", [](const auto& a, const auto& b) { return same_top_token(a, b); });
  of_logits("top_5_in_common", [](const auto& a, const auto& b) { return top_overlap(a, b); });
  return all;
}

}  // namespace detail

/// A line of names with their units, one of the reference, and one per run.
inline std::string sweep_csv(const Measurement& reference, std::span<const Measurement> runs) {
  const std::vector<detail::Column> columns = detail::columns(reference);
  std::vector<std::string> fields;
  for (const auto& column : columns) fields.push_back(column.name);
  std::string csv = csv_line(fields);
  const auto add = [&](const Measurement& run) {
    fields.clear();
    for (const auto& column : columns) fields.push_back(column.value(run));
    csv += csv_line(fields);
  };
  add(reference);
  for (const Measurement& run : runs) add(run);
  return csv;
}

/// One line per run, in 100 columns.
inline std::string sweep_table(const Measurement& reference, std::span<const Measurement> runs) {
  Table table;
  table.row({"", "tokens a", "first", "reduction,", "speed-up,", "speed-up,", "KV cache,", "KL,",
             "top 1"});
  table.row(
      {"method", "layer", "token, ms", "% of it", "measured", "by FLOPs", "MB", "nats", "agrees"});
  const auto add = [&](const Measurement& m) {
    const double kl = detail::kl_of(reference, m);
    std::string agrees = "-";
    if (!std::isnan(kl)) agrees = same_top_token(reference.logits, m.logits) ? "yes" : "no";
    table.row(
        {m.title, fixed(mean_visual_tokens(m.tokens), 1),
         fixed(1e3 * time_to_first_token(m.seconds), 1), fixed(100 * reduction_share(m.seconds), 2),
         fixed(measured_speed_up(reference, m), 2), fixed(predicted_speed_up(reference, m), 2),
         detail::megabytes(m.kv_bytes), significant(kl, 3), agrees});
  };
  add(reference);
  for (const Measurement& run : runs) add(run);
  return table.str();
}

/// The speed-up of the time to first token that operations predict if the tokens are pruned in
/// front of the decoder and nowhere else, from all of them down to `fewest`. Methods inside the
/// encoder can be above it.
inline Series predicted_speed_ups(const Config& config, Index text, Index fewest) {
  const double all = flops_of(config, unreduced(config, text)).total();
  Series guide{.name = "pruned before the LLM", .group = "predicted by FLOPs", .guide = true};
  std::vector<Point>& points = guide.points;
  // Evenly spaced on a logarithmic axis, eight points an octave.
  const Index most = config.encoder.patches();
  for (int i = 0;; ++i) {
    const auto kept = std::max<Index>(
        std::max<Index>(fewest, 1), std::llround(static_cast<double>(most) * std::exp2(-i / 8.0)));
    if (points.empty() || static_cast<double>(kept) < points.back().x) {
      const double flops = flops_of(config, pruned_before_decoder(config, kept, text)).total();
      points.push_back({static_cast<double>(kept), all / flops});
    }
    if (kept <= std::max<Index>(fewest, 1)) return guide;
  }
}

/// Speed-up and KL against the visual tokens that a decoder layer sees on average, one line per
/// method. `guides` are dashed lines of the speed-up's chart: what operations predict.
inline Figure sweep_figure(const Measurement& reference, std::span<const Measurement> runs,
                           std::span<const Series> guides, std::string title,
                           std::string subtitle) {
  const double all = mean_visual_tokens(reference.tokens);
  Axis tokens{.title = "visual tokens kept, mean of the decoder's layers", .scale = Scale::log2};
  if (all > 0) {
    tokens.include = {0.4 * all, all};  // two ticks at least
    for (double tick = 1; tick < 0.8 * all; tick *= 2) tokens.ticks.push_back(tick);
    tokens.ticks.push_back(all);
  }
  // Both charts reach as far as either needs, so that one can look across.
  for (const Measurement& run : runs) tokens.include.push_back(mean_visual_tokens(run.tokens));
  for (const Series& guide : guides) {
    for (const Point& p : guide.points) tokens.include.push_back(p.x);
  }
  Chart speed{.title = "What it gains",
              .x = tokens,
              .y = {.title = "speed-up of the time to first token", .suffix = "×", .include = {1}},
              .series = {}};
  // Below a millionth of a nat it is rounding that moves a distribution of float logits.
  Chart distance{.title = "What it costs",
                 .x = tokens,
                 .y = {.title = "KL(unreduced || reduced) of the next token, nats",
                       .scale = Scale::log10,
                       .floor = 1e-6},
                 .series = {}};
  for (const Measurement& run : runs) {
    const auto known = std::find_if(speed.series.begin(), speed.series.end(),
                                    [&run](const Series& s) { return s.name == run.title; });
    const auto i = static_cast<std::size_t>(known - speed.series.begin());
    if (known == speed.series.end()) {
      speed.series.push_back({.name = run.title, .group = run.where});
      distance.series.push_back({.name = run.title, .group = run.where});
    }
    const double x = mean_visual_tokens(run.tokens);
    speed.series[i].points.push_back({x, measured_speed_up(reference, run)});
    distance.series[i].points.push_back({x, detail::kl_of(reference, run)});
  }
  for (Chart* chart : {&speed, &distance}) {
    for (Series& series : chart->series) {
      std::stable_sort(series.points.begin(), series.points.end(),
                       [](const Point& a, const Point& b) { return a.x < b.x; });
    }
  }
  speed.series.insert(speed.series.end(), guides.begin(), guides.end());
  return {.title = std::move(title),
          .subtitle = std::move(subtitle),
          .charts = {std::move(speed), std::move(distance)}};
}

}  // namespace llava
