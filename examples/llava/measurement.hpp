// SPDX-License-Identifier: Apache-2.0
// What a run filled in, and how two runs compare.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "cost_of.hpp"

namespace llava {

/// Wall time. A stage does not include the reduction that happened in it. Reading the image and the
/// prompt is not timed.
struct Seconds {
  double encoder = 0;
  double reduction_in_encoder = 0;
  double projector = 0;
  double reduction_between = 0;  ///< before or behind the projector
  double prefill = 0;            ///< with the output head, up to the logits of the first token
  double reduction_in_decoder = 0;
  double per_decoded_token = 0;  ///< mean of those after the first; 0 if there are none
};

/// One image and prompt through the model, with one method or with none.
struct Measurement {
  std::string method;   ///< registry name: "ficoco_v"
  std::string title;    ///< as its paper writes it: "FiCoCo-V"
  std::string where;    ///< "in the encoder"; the legend of a sweep groups by it
  std::string options;  ///< budget and options, as given

  TokenCounts tokens;
  Seconds seconds;
  Flops flops;
  std::int64_t kv_bytes = 0;         ///< as held behind the prefill, in floats
  std::int64_t kv_bytes_16_bit = 0;  ///< the same rows in 16 bits

  std::vector<std::int64_t> generated;  ///< token ids
  std::vector<float> logits;            ///< of the first of them
};

namespace detail {

/// NaN where nothing can be said.
inline double ratio(double numerator, double denominator) {
  return denominator > 0 ? numerator / denominator : std::numeric_limits<double>::quiet_NaN();
}

inline void require_same_vocabulary(std::span<const float> reference,
                                    std::span<const float> reduced) {
  if (reference.size() != reduced.size() || reference.empty()) {
    throw std::runtime_error("logits: expected two vectors of one size above 0, got " +
                             std::to_string(reference.size()) + " and " +
                             std::to_string(reduced.size()));
  }
}

/// log Σ exp(z), without overflow.
inline double log_sum_exp(std::span<const float> logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float z : logits) sum += std::exp(z - largest);
  return largest + std::log(sum);
}

/// The largest first, of equal ones the lower index, NaN last.
inline std::vector<std::size_t> largest(std::span<const float> values, std::size_t count) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  count = std::min(count, order.size());
  const auto before = [values](std::size_t a, std::size_t b) {
    const float x = values[a];
    const float y = values[b];
    if (std::isnan(x) || std::isnan(y))
      return std::isnan(x) == std::isnan(y) ? a < b : !std::isnan(x);
    return x > y || (x == y && a < b);
  };
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(),
                    before);
  order.resize(count);
  return order;
}

}  // namespace detail

inline double reduction_seconds(const Seconds& s) {
  return s.reduction_in_encoder + s.reduction_between + s.reduction_in_decoder;
}

/// Seconds from the pixels to the logits of the first token.
inline double time_to_first_token(const Seconds& s) {
  return s.encoder + s.projector + s.prefill + reduction_seconds(s);
}

/// What part of the time to first token the reduction itself takes.
inline double reduction_share(const Seconds& s) {
  return detail::ratio(reduction_seconds(s), time_to_first_token(s));
}

/// Mean over the decoder's layers of the visual tokens that enter them: the one number by which a
/// method that prunes in the middle of the decoder compares with one that prunes before it.
inline double mean_visual_tokens(const TokenCounts& tokens) {
  double sum = 0;
  for (const LayerTokens& layer : tokens.decoder) sum += static_cast<double>(layer.attention);
  return detail::ratio(sum, static_cast<double>(tokens.decoder.size()));
}

/// Of the time to first token.
inline double measured_speed_up(const Measurement& reference, const Measurement& reduced) {
  return detail::ratio(time_to_first_token(reference.seconds),
                       time_to_first_token(reduced.seconds));
}

/// The same if time were operations.
inline double predicted_speed_up(const Measurement& reference, const Measurement& reduced) {
  return detail::ratio(reference.flops.total(), reduced.flops.total());
}

/// KL(p || q) = Σ p ln(p / q) in nats, of p = softmax(reference) and q = softmax(reduced): 0 for
/// the same distribution, and from there up. Infinite if q excludes (logit −∞) what p does not;
/// NaN if a logit is NaN or +∞.
inline double kl_divergence(std::span<const float> reference, std::span<const float> reduced) {
  detail::require_same_vocabulary(reference, reduced);
  const double norm_p = detail::log_sum_exp(reference);
  const double norm_q = detail::log_sum_exp(reduced);
  if (std::isnan(norm_p) || std::isnan(norm_q)) return std::numeric_limits<double>::quiet_NaN();
  double sum = 0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const double log_p = reference[i] - norm_p;
    const double p = std::exp(log_p);
    if (p > 0) sum += p * (log_p - (reduced[i] - norm_q));
  }
  return sum < 0 ? 0.0 : sum;  // by rounding
}

/// The index of the largest logit; of equal ones the lowest, as in greedy decoding.
inline std::int64_t top_token(std::span<const float> logits) {
  if (logits.empty()) throw std::runtime_error("logits: expected some, got none");
  return static_cast<std::int64_t>(detail::largest(logits, 1)[0]);
}

inline bool same_top_token(std::span<const float> reference, std::span<const float> reduced) {
  detail::require_same_vocabulary(reference, reduced);
  return top_token(reference) == top_token(reduced);
}

/// How many of the `count` most likely tokens both have, in whatever order.
inline Index top_overlap(std::span<const float> reference, std::span<const float> reduced,
                         std::size_t count = 5) {
  detail::require_same_vocabulary(reference, reduced);
  const std::vector<std::size_t> a = detail::largest(reference, count);
  const std::vector<std::size_t> b = detail::largest(reduced, count);
  return std::count_if(a.begin(), a.end(), [&b](std::size_t token) {
    return std::find(b.begin(), b.end(), token) != b.end();
  });
}

/// Generated tokens before the first that differs.
inline Index same_generated(const Measurement& reference, const Measurement& reduced) {
  const auto& a = reference.generated;
  const auto& b = reduced.generated;
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

}  // namespace llava
