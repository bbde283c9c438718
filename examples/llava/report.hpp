// SPDX-License-Identifier: Apache-2.0
// One run beside the run without its method, for a terminal; and how far a run has come.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <ostream>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#ifdef _WIN32
#include <io.h>
#else
#include <unistd.h>
#endif

#include "measurement.hpp"
#include "table.hpp"
#include "text.hpp"

namespace llava {

namespace detail {

inline constexpr std::size_t kReportWidth = 100;

inline std::string times(double factor) {
  return std::isnan(factor) ? "-" : fixed(factor, 2) + " x";
}

inline std::string megabytes(std::int64_t bytes) {
  return fixed(static_cast<double>(bytes) * 1e-6, 1);
}

/// "2 x 576, 534, 30 x 64": layers that are alike, together.
inline std::string by_layer(std::span<const LayerTokens> layers) {
  std::string text;
  for (std::size_t l = 0, end = 0; l < layers.size(); l = end) {
    const auto [attention, mlp] = layers[l];
    while (end < layers.size() && layers[end].attention == attention && layers[end].mlp == mlp) {
      ++end;
    }
    text += text.empty() ? "" : ", ";
    if (end - l > 1) text += std::to_string(end - l) + " x ";
    text += std::to_string(attention);
    if (mlp != attention) text += ">" + std::to_string(mlp);
  }
  return text.empty() ? "-" : text;
}

inline void add_tokens(Table& table, const TokenCounts& a, const TokenCounts& b) {
  const auto row = [&](const char* label, Index x, Index y) {
    table.row({label, std::to_string(x), std::to_string(y)});
  };
  table.row({"visual tokens"});
  row("  of the image", a.image, b.image);
  row("  out of the encoder", a.encoded, b.encoded);
  row("  into the decoder", a.into_decoder, b.into_decoder);
  table.row({"  mean of the decoder layers", fixed(mean_visual_tokens(a), 1),
             fixed(mean_visual_tokens(b), 1)});
  row("  out of the decoder", a.left, b.left);
  row("text tokens", a.text, b.text);
}

inline void add_times(Table& table, const Measurement& a, const Measurement& b) {
  // A tiny model takes less than a millisecond.
  const int decimals = time_to_first_token(a.seconds) < 0.1 ? 3 : 1;
  const auto ms = [decimals](double seconds) { return fixed(seconds * 1e3, decimals); };
  const auto stage = [&](const char* label, double x, double y, double flops_x, double flops_y) {
    table.row({label, ms(x), ms(y), times(ratio(x, y)), times(ratio(flops_x, flops_y))});
  };
  const auto reduction = [&](double x, double y) {
    if (x > 0 || y > 0) table.row({"    + reduction", x > 0 ? ms(x) : "", ms(y)});
  };
  const Seconds& s = a.seconds;
  const Seconds& t = b.seconds;
  table.row({"time, ms", "", "", "speed-up", "by FLOPs"});
  stage("  encoder", s.encoder, t.encoder, a.flops.encoder, b.flops.encoder);
  reduction(s.reduction_in_encoder, t.reduction_in_encoder);
  stage("  projector", s.projector, t.projector, a.flops.projector, b.flops.projector);
  reduction(s.reduction_between, t.reduction_between);
  stage("  prefill", s.prefill, t.prefill, a.flops.prefill, b.flops.prefill);
  reduction(s.reduction_in_decoder, t.reduction_in_decoder);
  stage("  = time to first token", time_to_first_token(s), time_to_first_token(t), a.flops.total(),
        b.flops.total());
  table.row({"  of which reduction, %", fixed(100 * reduction_share(s), 2),
             fixed(100 * reduction_share(t), 2)});
  if (s.per_decoded_token > 0 && t.per_decoded_token > 0) {
    table.row({"  a token after that", ms(s.per_decoded_token), ms(t.per_decoded_token),
               times(ratio(s.per_decoded_token, t.per_decoded_token))});
  }
}

inline std::string next_token(const Measurement& a, const Measurement& b) {
  const std::int64_t expected = top_token(a.logits);
  const std::int64_t got = top_token(b.logits);
  const std::size_t considered = std::min<std::size_t>(5, a.logits.size());
  std::string text = "next token\n";
  text += "  KL(unreduced || reduced)    " + significant(kl_divergence(a.logits, b.logits), 3) +
          " nats\n";
  text += "  most likely token           " +
          (expected == got
               ? "the same, " + std::to_string(got)
               : "differs, " + std::to_string(got) + " instead of " + std::to_string(expected)) +
          "\n";
  text += "  " + std::to_string(considered) + " most likely tokens        " +
          std::to_string(top_overlap(a.logits, b.logits)) + " in common\n";
  if (a.generated.size() > 1) {
    text += "  greedy continuation         the first " + std::to_string(same_generated(a, b)) +
            " of " + std::to_string(a.generated.size()) + " tokens are the same\n";
  }
  return text;
}

}  // namespace detail

/// `reduced` beside `reference`, the run that keeps every token, in 100 columns. "By FLOPs": the
/// speed-up if time were operations. MB are 1e6 bytes.
inline std::string report(const Measurement& reference, const Measurement& reduced) {
  std::string text = reduced.title + (reduced.where.empty() ? "" : ", " + reduced.where) + "\n";
  if (!reduced.options.empty()) {
    text += wrapped("  ", reduced.options, detail::kReportWidth);
  }
  Table table;
  table.row({});
  table.row({"", "unreduced", "reduced"});
  detail::add_tokens(table, reference.tokens, reduced.tokens);
  table.row({});
  detail::add_times(table, reference, reduced);
  table.row({});
  table.row({"GFLOP to the first token", fixed(reference.flops.total() * 1e-9, 1),
             fixed(reduced.flops.total() * 1e-9, 1)});
  table.row(
      {"KV cache, MB", detail::megabytes(reference.kv_bytes), detail::megabytes(reduced.kv_bytes)});
  table.row({"  if held in 16 bits", detail::megabytes(reference.kv_bytes_16_bit),
             detail::megabytes(reduced.kv_bytes_16_bit)});
  text += table.str() + "\n";
  if (!reference.logits.empty()) text += detail::next_token(reference, reduced) + "\n";
  const auto layers = [](const char* label, std::span<const LayerTokens> counts) {
    return wrapped(label, detail::by_layer(counts), detail::kReportWidth);
  };
  text += "visual tokens by layer (attention>MLP where they differ)\n";
  text += layers("  encoder  ", reduced.tokens.encoder);
  text += layers("  decoder  ", reduced.tokens.decoder);
  return text;
}

/// One line that is overwritten as a run goes on, and gone at its end. Only for people: where
/// `visible` is false, nothing is written.
class Progress {
 public:
  Progress(std::ostream& out, bool visible) : out_(out), visible_(visible) {}
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() { clear(); }

  /// On standard error if that is a terminal.
  static Progress on_stderr() {
#ifdef _WIN32
    return {std::cerr, _isatty(_fileno(stderr)) != 0};
#else
    return {std::cerr, isatty(STDERR_FILENO) != 0};
#endif
  }

  /// "prefill  [########------------]  13/32"
  void show(std::string_view what, Index done, Index total) {
    if (!visible_) return;
    constexpr Index width = 24;
    const Index filled = total > 0 ? std::clamp<Index>(done * width / total, 0, width) : width;
    const auto bar = [](Index count, char c) {
      return std::string(static_cast<std::size_t>(count), c);
    };
    // Cut so that it cannot wrap on a terminal of 80 columns.
    std::string line = std::string(what.substr(0, 36)) + "  [" + bar(filled, '#') +
                       bar(width - filled, '-') + "]  " + std::to_string(done) + "/" +
                       std::to_string(total);
    line.resize(std::max(line.size(), last_), ' ');
    out_ << '\r' << line << std::flush;
    last_ = line.size();
  }

  void clear() {
    if (last_ > 0) out_ << '\r' << std::string(last_, ' ') << '\r' << std::flush;
    last_ = 0;
  }

 private:
  std::ostream& out_;
  bool visible_;
  std::size_t last_ = 0;
};

}  // namespace llava
