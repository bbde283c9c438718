// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <vector>

#include "attention.hpp"
#include "tensor.hpp"

// FiCoCo-V and FiCoCo-L, methods.md part I. A[q, k]: how much query q attends to key k.
namespace reference {

enum class Direction { received, given };
enum class ScoreNormalization { none, l2 };
enum class TargetRule { quantile, fixed, relative, nucleus };

struct TargetPolicy {
  TargetRule rule = TargetRule::quantile;
  double epsilon = 0.998;  // quantile: C >= the epsilon-quantile of the row
  std::size_t count = 1;   // fixed: the K strongest
  double ratio = 0.5;      // relative: C >= ratio * row maximum
  double mass = 0.5;       // nucleus: the fewest that hold this share of the row
};

struct LocalPenalty {
  std::size_t height = 2;
  std::size_t width = 2;
  double coefficient = 2.0;  // 1 = off
};

struct FicocoVOptions {
  std::size_t discard = 0;
  double lambda = 0.35;
  Direction direction = Direction::received;
  ScoreNormalization normalization = ScoreNormalization::none;
  LocalPenalty penalty;
  TargetPolicy targets;
  std::optional<double> max_recycled_share;  // largest share of a merged token that is not its own
};

struct FicocoLOptions {
  std::size_t discard = 0;
  double beta = 0.6;
  double gamma = 0.6;
  Direction direction = Direction::received;
  ScoreNormalization normalization = ScoreNormalization::none;
  LocalPenalty penalty{2, 2, 1.0};
  TargetPolicy targets;
  std::optional<double> max_recycled_share;
};

struct FicocoLReleasedOptions {
  std::size_t discard = 0;
  double beta = 0.6;
  double gamma = 0.6;
  double epsilon = 0.998;
  bool protect_first = true;  // visual token 0 is never discarded
};

struct FicocoInput {
  Matrix tokens;        // X [P, D]
  Matrix attention;     // A [P, P], head-averaged
  bool logits = false;  // A holds scaled logits, no mask, no softmax
  Rows visual_rows;     // ascending
  std::vector<std::int64_t>
      grid_cells;  // per visual token: y * grid_width + x, or -1; may be empty
  std::size_t grid_height = 0;
  std::size_t grid_width = 0;
  std::int64_t cls_row = -1;  // V: -1 = no [CLS], then patch_keys decide
  Matrix patch_keys;          // V without [CLS]: m_i [visual tokens, d]
  Rows text_rows;             // L: the text tokens that count, see text_rows()
};

/// Where a discarded token goes: rows of X (ascending) and their weights alpha.
struct Links {
  Rows targets;
  std::vector<double> alphas;
};

struct FicocoResult {
  std::vector<double> scores_before_penalty;  // per visual token
  std::vector<double> scores;
  Rows discard_order;        // rows of X, the most redundant first
  Rows discarded;            // the same, ascending
  Rows preserved;            // visual rows that stay, ascending
  Rows kept;                 // all rows that stay, ascending: the rows of the output
  std::vector<Links> links;  // one per entry of `discarded`, alphas as merged
  Matrix weights;            // W [kept, P], output = W X
  Matrix output;
};

enum class TextRange { after, all };

/// Text = everything but the visual range [begin, begin + count): after it only, or all of it.
inline Rows text_rows(std::size_t length, std::size_t begin, std::size_t count, TextRange range) {
  Rows result;
  for (std::size_t p = 0; p < length; ++p) {
    if (p >= begin + count || (range == TextRange::all && p < begin)) result.push_back(p);
  }
  return result;
}

inline bool all_finite(const std::vector<double>& values) {
  return std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); });
}

/// Positions by falling value; ties: lower position first; non-finite values count as +infinity.
inline Rows falling_order(const std::vector<double>& values) {
  auto rank = [&](std::size_t i) {
    return std::isfinite(values[i]) ? values[i] : std::numeric_limits<double>::infinity();
  };
  Rows order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t i, std::size_t j) { return rank(i) > rank(j); });
  return order;
}

/// v / ||v||_2; a zero vector stays zero.
inline std::vector<double> l2_normalized(std::vector<double> values) {
  double square = 0.0;
  for (double value : values) square += value * value;
  if (square == 0.0) return values;
  for (double& value : values) value /= std::sqrt(square);
  return values;
}

/// Filter, local penalty: in every window of the grid the highest score s becomes c·s (s > 0) or
/// s/c (s < 0). Cells without a token are padding. Ties: lowest cell.
inline std::vector<double> penalized(std::vector<double> scores,
                                     const std::vector<std::int64_t>& grid_cells,
                                     std::size_t grid_height, std::size_t grid_width,
                                     const LocalPenalty& penalty) {
  if (penalty.coefficient == 1.0 || grid_cells.empty()) return scores;
  const std::size_t none = scores.size();
  std::vector<std::size_t> token_at(grid_height * grid_width, none);
  for (std::size_t i = 0; i < scores.size(); ++i) {
    if (grid_cells.at(i) >= 0) token_at.at(static_cast<std::size_t>(grid_cells[i])) = i;
  }
  auto rank = [&](std::size_t i) {
    return std::isfinite(scores[i]) ? scores[i] : std::numeric_limits<double>::infinity();
  };
  for (std::size_t top = 0; top < grid_height; top += penalty.height) {
    for (std::size_t left = 0; left < grid_width; left += penalty.width) {
      std::size_t best = none;
      for (std::size_t y = top; y < std::min(top + penalty.height, grid_height); ++y) {
        for (std::size_t x = left; x < std::min(left + penalty.width, grid_width); ++x) {
          const std::size_t i = token_at[y * grid_width + x];
          if (i != none && (best == none || rank(i) > rank(best))) best = i;
        }
      }
      if (best == none) continue;
      if (scores[best] > 0.0) {
        scores[best] *= penalty.coefficient;
      } else {
        scores[best] /= penalty.coefficient;
      }
    }
  }
  return scores;
}

/// Filter for V: s_i = lambda v_i - (1 - lambda) a_i.
inline std::vector<double> ficoco_v_scores(const FicocoInput& input,
                                           const FicocoVOptions& options) {
  const Matrix& attention = input.attention;
  const std::size_t n = input.visual_rows.size();
  std::vector<double> v(n, 0.0);  // mean over the visual tokens j, i itself included
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < n; ++j) {
      const std::size_t row_i = input.visual_rows[i];
      const std::size_t row_j = input.visual_rows[j];
      v[i] += options.direction == Direction::received ? attention(row_j, row_i)
                                                       : attention(row_i, row_j);
    }
    v[i] /= static_cast<double>(n);
  }

  std::vector<double> a(n, 0.0);
  if (input.cls_row >= 0) {  // a_i = A[cls, i]
    for (std::size_t i = 0; i < n; ++i) {
      a[i] = attention(static_cast<std::size_t>(input.cls_row), input.visual_rows[i]);
    }
  } else {  // a_i = -cos(mu, m_i), eq. 9-13
    std::vector<double> mu(input.patch_keys.cols, 0.0);
    for (std::size_t c = 0; c < mu.size(); ++c) {
      for (std::size_t i = 0; i < n; ++i) mu[c] += input.patch_keys(i, c);
      mu[c] /= static_cast<double>(n);
    }
    for (std::size_t i = 0; i < n; ++i) a[i] = -cosine(mu, input.patch_keys.row(i));
  }

  if (options.normalization == ScoreNormalization::l2) {
    v = l2_normalized(v);
    a = l2_normalized(a);
  }
  std::vector<double> scores(n);
  for (std::size_t i = 0; i < n; ++i) {
    scores[i] = options.lambda * v[i] - (1.0 - options.lambda) * a[i];
  }
  return scores;
}

/// Filter for L: s_i = beta mean_{j in V} A(i,j) - (1 - beta) mean_{k in text} A(i,k), eq. 3;
/// A(i,j) = A[j,i] when received, A[i,j] when given.
inline std::vector<double> ficoco_l_scores(const FicocoInput& input,
                                           const FicocoLOptions& options) {
  auto between = [&](std::size_t row_i, std::size_t row_j) {
    return options.direction == Direction::received ? input.attention(row_j, row_i)
                                                    : input.attention(row_i, row_j);
  };
  const std::size_t n = input.visual_rows.size();
  const std::size_t m = input.text_rows.size();
  std::vector<double> vision(n, 0.0);
  std::vector<double> task(n, 0.0);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t row_j : input.visual_rows) vision[i] += between(input.visual_rows[i], row_j);
    for (std::size_t row_k : input.text_rows) task[i] += between(input.visual_rows[i], row_k);
    vision[i] /= static_cast<double>(n);
    if (m > 0) task[i] /= static_cast<double>(m);
  }
  if (options.normalization == ScoreNormalization::l2) {
    vision = l2_normalized(vision);
    task = l2_normalized(task);
  }
  std::vector<double> scores(n);
  for (std::size_t i = 0; i < n; ++i) {
    scores[i] = options.beta * vision[i] - (1.0 - options.beta) * task[i];
  }
  return scores;
}

/// Splits the visual tokens: the `discard` highest scores go.
inline void partition(const FicocoInput& input, std::size_t discard, FicocoResult& result) {
  const Rows order = falling_order(result.scores);
  if (discard > order.size()) throw std::invalid_argument("reference: discard > visual tokens");
  std::vector<bool> gone(input.tokens.rows, false);
  for (std::size_t n = 0; n < discard; ++n) {
    result.discard_order.push_back(input.visual_rows[order[n]]);
    gone[result.discard_order.back()] = true;
  }
  result.discarded = result.discard_order;
  std::sort(result.discarded.begin(), result.discarded.end());
  for (std::size_t row : input.visual_rows) {
    if (!gone[row]) result.preserved.push_back(row);
  }
  for (std::size_t row = 0; row < input.tokens.rows; ++row) {
    if (!gone[row]) result.kept.push_back(row);
  }
}

/// J_i: the positions in one row of strengths that a policy chooses, ascending.
inline Rows choose_targets(const std::vector<double>& strengths, const TargetPolicy& policy) {
  Rows chosen;
  if (strengths.empty()) return chosen;
  if (policy.rule == TargetRule::quantile || policy.rule == TargetRule::relative) {
    const double top = *std::max_element(strengths.begin(), strengths.end());
    const double threshold = policy.rule == TargetRule::quantile
                                 ? quantile(strengths, policy.epsilon)
                                 : policy.ratio * top;
    for (std::size_t j = 0; j < strengths.size(); ++j) {
      if (strengths[j] >= threshold) chosen.push_back(j);
    }
    return chosen;
  }
  const Rows order = falling_order(strengths);
  if (policy.rule == TargetRule::fixed) {
    for (std::size_t n = 0; n < std::min(policy.count, order.size()); ++n) {
      chosen.push_back(order[n]);
    }
  } else {
    double total = 0.0;
    for (std::size_t j : order) total += strengths[j];
    double reached = 0.0;
    for (std::size_t j : order) {
      chosen.push_back(j);
      reached += strengths[j];
      if (reached >= policy.mass * total) break;
    }
  }
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

/// Targets and alpha_ij = C_ij / sum_{J_i} C_ij' of one row of C over `domain`; logits go through
/// softmax over the domain first. Nothing when C is not finite or the chosen strengths sum to zero.
inline Links link(std::vector<double> strengths, const Rows& domain, bool logits,
                  const TargetPolicy& policy) {
  Links result;
  if (!all_finite(strengths)) return result;
  if (logits) strengths = softmax(strengths);
  const Rows chosen = choose_targets(strengths, policy);
  double total = 0.0;
  for (std::size_t j : chosen) total += strengths[j];
  if (!(total > 0.0) || !std::isfinite(total)) return result;
  for (std::size_t j : chosen) {
    result.targets.push_back(domain[j]);
    result.alphas.push_back(strengths[j] / total);
  }
  return result;
}

/// Correlate for V: C[i,j] = A[i,j], j in T.
inline std::vector<double> ficoco_v_correlation(const FicocoInput& input, std::size_t row_i,
                                                const Rows& targets) {
  std::vector<double> strengths;
  for (std::size_t row_j : targets) strengths.push_back(input.attention(row_i, row_j));
  return strengths;
}

/// Correlate for L: C[i,j] = gamma A[i,j] + (1 - gamma) 1/M sum_k B[i,k] A[k,j], with
/// B[i,k] = A[k,i] when received, A[i,k] when given.
inline std::vector<double> ficoco_l_correlation(const FicocoInput& input, std::size_t row_i,
                                                const Rows& targets,
                                                const FicocoLOptions& options) {
  const Matrix& attention = input.attention;
  std::vector<double> strengths;
  for (std::size_t row_j : targets) {
    double bridge = 0.0;
    for (std::size_t row_k : input.text_rows) {
      const double to_text = options.direction == Direction::received ? attention(row_k, row_i)
                                                                      : attention(row_i, row_k);
      bridge += to_text * attention(row_k, row_j);
    }
    if (!input.text_rows.empty()) bridge /= static_cast<double>(input.text_rows.size());
    strengths.push_back(options.gamma * attention(row_i, row_j) + (1.0 - options.gamma) * bridge);
  }
  return strengths;
}

/// Compress, self-preserving: x_j <- (x_j + sum_i alpha_ij x_i) / (1 + sum_i alpha_ij). With
/// max_recycled_share = f the alphas of a token with sum/(1 + sum) > f are scaled so that it is f.
inline void compress(const FicocoInput& input, const std::optional<double>& max_recycled_share,
                     FicocoResult& result) {
  const std::size_t length = input.tokens.rows;
  std::vector<double> sums(length, 0.0);
  for (const Links& links : result.links) {
    for (std::size_t t = 0; t < links.targets.size(); ++t) {
      sums[links.targets[t]] += links.alphas[t];
    }
  }
  if (max_recycled_share && *max_recycled_share < 1.0) {
    const double limit = *max_recycled_share / (1.0 - *max_recycled_share);
    for (Links& links : result.links) {
      for (std::size_t t = 0; t < links.targets.size(); ++t) {
        const double sum = sums[links.targets[t]];
        if (sum > limit) links.alphas[t] *= limit / sum;
      }
    }
    for (double& sum : sums) sum = std::min(sum, limit);
  }
  result.weights = Matrix(result.kept.size(), length);
  std::vector<std::size_t> output_row(length, 0);
  for (std::size_t k = 0; k < result.kept.size(); ++k) {
    const std::size_t row = result.kept[k];
    output_row[row] = k;
    result.weights(k, row) = 1.0 / (1.0 + sums[row]);
  }
  for (std::size_t n = 0; n < result.discarded.size(); ++n) {
    const Links& links = result.links[n];
    for (std::size_t t = 0; t < links.targets.size(); ++t) {
      const std::size_t row = links.targets[t];
      result.weights(output_row[row], result.discarded[n]) = links.alphas[t] / (1.0 + sums[row]);
    }
  }
  result.output = multiply(result.weights, input.tokens);
}

/// FiCoCo-V.
inline FicocoResult ficoco_v(const FicocoInput& input, const FicocoVOptions& options) {
  FicocoResult result;
  result.scores_before_penalty = ficoco_v_scores(input, options);
  result.scores = penalized(result.scores_before_penalty, input.grid_cells, input.grid_height,
                            input.grid_width, options.penalty);
  partition(input, options.discard, result);
  for (std::size_t row : result.discarded) {
    result.links.push_back(link(ficoco_v_correlation(input, row, result.preserved),
                                result.preserved, input.logits, options.targets));
  }
  compress(input, options.max_recycled_share, result);
  return result;
}

/// FiCoCo-L, the paper's equations.
inline FicocoResult ficoco_l(const FicocoInput& input, const FicocoLOptions& options) {
  FicocoResult result;
  result.scores_before_penalty = ficoco_l_scores(input, options);
  result.scores = penalized(result.scores_before_penalty, input.grid_cells, input.grid_height,
                            input.grid_width, options.penalty);
  partition(input, options.discard, result);
  for (std::size_t row : result.discarded) {
    result.links.push_back(link(ficoco_l_correlation(input, row, result.preserved, options),
                                result.preserved, input.logits, options.targets));
  }
  compress(input, options.max_recycled_share, result);
  return result;
}

/// FiCoCo-L as released (golden metadata `semantics`), on logits. Differences to the paper: sum
/// over visual j (diagonal included), first visual token protected, bridge without 1/M, targets
/// among all visual tokens (a share for a discarded one is lost), one K for all rows, nothing is
/// divided.
inline FicocoResult ficoco_l_released(const FicocoInput& input,
                                      const FicocoLReleasedOptions& options) {
  const Matrix& attention = input.attention;
  const Rows& visual = input.visual_rows;
  const std::size_t n = visual.size();
  FicocoResult result;
  for (std::size_t row_i : visual) {
    double vision = 0.0;
    double task = 0.0;
    for (std::size_t row_j : visual) vision += attention(row_i, row_j);
    for (std::size_t row_k : input.text_rows) task += attention(row_i, row_k);
    if (!input.text_rows.empty()) task /= static_cast<double>(input.text_rows.size());
    result.scores.push_back(options.beta * vision - (1.0 - options.beta) * task);
  }
  result.scores_before_penalty = result.scores;

  FicocoInput candidates = input;
  if (options.protect_first && n > 0) {
    candidates.visual_rows.erase(candidates.visual_rows.begin());
    FicocoResult rest;
    rest.scores.assign(result.scores.begin() + 1, result.scores.end());
    partition(candidates, options.discard, rest);
    result.discard_order = rest.discard_order;
    result.discarded = rest.discarded;
    result.preserved = rest.preserved;
    result.preserved.insert(result.preserved.begin(), visual.front());
    result.kept = rest.kept;
  } else {
    partition(candidates, options.discard, result);
  }

  // corr[i, j] = gamma A[i,j] + (1 - gamma) sum_k A[i,k] A[k,j], corr[i, i] = -infinity.
  std::vector<std::vector<double>> rows;
  std::size_t target_count = 0;
  for (std::size_t row_i : result.discarded) {
    std::vector<double> strengths;
    for (std::size_t row_j : visual) {
      double bridge = 0.0;
      for (std::size_t row_k : input.text_rows) {
        bridge += attention(row_i, row_k) * attention(row_k, row_j);
      }
      strengths.push_back(row_i == row_j ? -std::numeric_limits<double>::infinity()
                                         : options.gamma * attention(row_i, row_j) +
                                               (1.0 - options.gamma) * bridge);
    }
    const double threshold = quantile(strengths, options.epsilon);
    std::size_t above = 0;
    for (double strength : strengths) above += strength > threshold ? 1 : 0;
    target_count = std::max(target_count, above);
    rows.push_back(strengths);
  }

  const std::size_t length = input.tokens.rows;
  std::vector<std::size_t> output_row(length, result.kept.size());
  result.weights = Matrix(result.kept.size(), length);
  for (std::size_t k = 0; k < result.kept.size(); ++k) {
    output_row[result.kept[k]] = k;
    result.weights(k, result.kept[k]) = 1.0;
  }
  for (std::size_t s = 0; s < rows.size(); ++s) {
    Links links;
    Rows domain;  // all visual tokens but the source itself
    std::vector<double> strengths;
    for (std::size_t j = 0; j < n; ++j) {
      if (visual[j] == result.discarded[s]) continue;
      domain.push_back(visual[j]);
      strengths.push_back(rows[s][j]);
    }
    TargetPolicy policy;
    policy.rule = TargetRule::fixed;
    policy.count = target_count;
    links = link(strengths, domain, true, policy);
    for (std::size_t t = 0; t < links.targets.size(); ++t) {
      const std::size_t k = output_row[links.targets[t]];
      if (k < result.kept.size()) result.weights(k, result.discarded[s]) = links.alphas[t];
    }
    result.links.push_back(links);
  }
  result.output = multiply(result.weights, input.tokens);
  return result;
}

}  // namespace reference
