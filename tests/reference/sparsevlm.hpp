// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "attention.hpp"
#include "tensor.hpp"

// SparseVLM v1.5 and version 2, methods.md part II section 7 with the corrections of part III.
namespace reference {

struct SparseVlmOptions {
  double share = 0.3;                   // of the deleted tokens, recycled
  std::size_t tokens_per_cluster = 10;  // recycled tokens per centre
  bool join_by_cosine = false;          // published; released: by distance
  bool sum = false;                     // published; released: sum / (n + epsilon)
  double epsilon = 1e-6;
};

struct SparseVlmInput {
  Matrix tokens;                  // X [P, D], the pruning layer's output
  Matrix attention;               // head mean [P, P]
  Rows visual_rows;               // ascending
  Rows raters;                    // rows
  std::size_t keep = 0;           // visual tokens preserved
  std::size_t first_after_image;  // row that the synthetic tokens stand before
};

struct SparseVlmResult {
  std::vector<double> scores;  // p_i by ordinal
  Rows preserved;
  Rows discarded;
  Rows recycled;           // in falling p
  Rows cluster;            // of each recycled token
  Rows centers;            // rows, by falling rho * eta
  std::vector<long> kept;  // of every output row, -1 = synthetic
  Matrix weights;
  Matrix output;
};

/// Positions by falling value; ties: lower position first; non-finite values last.
inline Rows sparsevlm_best_first(const std::vector<double>& values) {
  auto rank = [&](std::size_t i) {
    return std::isfinite(values[i]) ? values[i] : -std::numeric_limits<double>::infinity();
  };
  Rows order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t i, std::size_t j) { return rank(i) > rank(j); });
  return order;
}

/// r_t of each text row.
inline std::vector<double> sparsevlm_text_relevance(const Matrix& embeddings, const Rows& visual,
                                                    const Rows& text) {
  std::vector<double> r(text.size(), 0.0);
  for (std::size_t j : visual) {
    std::vector<double> logits(text.size(), 0.0);
    for (std::size_t t = 0; t < text.size(); ++t) {
      for (std::size_t c = 0; c < embeddings.cols; ++c) {
        logits[t] += embeddings(j, c) * embeddings(text[t], c);
      }
    }
    const std::vector<double> p = softmax(logits);
    for (std::size_t t = 0; t < text.size(); ++t) {
      r[t] += p[t] / static_cast<double>(visual.size());
    }
  }
  return r;
}

/// strict: r > mean, nobody if all are equal.
inline Rows sparsevlm_raters(const Matrix& embeddings, const Rows& visual, const Rows& text,
                             bool strict) {
  const std::vector<double> r = sparsevlm_text_relevance(embeddings, visual, text);
  const double mean = std::accumulate(r.begin(), r.end(), 0.0) / static_cast<double>(r.size());
  Rows raters;
  for (std::size_t t = 0; t < text.size(); ++t) {
    if (strict ? r[t] > mean : r[t] >= mean) raters.push_back(text[t]);
  }
  return raters;
}

/// Singular values of a, descending: one-sided Jacobi rotations of the columns of its transpose.
inline std::vector<double> sparsevlm_singular_values(const Matrix& a) {
  std::vector<std::vector<double>> v;
  for (std::size_t i = 0; i < a.rows; ++i) v.push_back(a.row(i));
  const auto dot = [](const std::vector<double>& x, const std::vector<double>& y) {
    return std::inner_product(x.begin(), x.end(), y.begin(), 0.0);
  };
  for (int sweep = 0; sweep < 60; ++sweep) {
    for (std::size_t p = 0; p < v.size(); ++p) {
      for (std::size_t q = p + 1; q < v.size(); ++q) {
        const double off = dot(v[p], v[q]);
        if (off == 0.0) continue;
        const double tau = (dot(v[q], v[q]) - dot(v[p], v[p])) / (2.0 * off);
        const double t = (tau >= 0.0 ? 1.0 : -1.0) / (std::abs(tau) + std::hypot(1.0, tau));
        const double c = 1.0 / std::hypot(1.0, t);
        for (std::size_t i = 0; i < a.cols; ++i) {
          const double x = v[p][i];
          const double y = v[q][i];
          v[p][i] = c * x - c * t * y;
          v[q][i] = c * t * x + c * y;
        }
      }
    }
  }
  std::vector<double> values;
  for (const auto& row : v) values.push_back(std::sqrt(dot(row, row)));
  std::sort(values.rbegin(), values.rend());
  return values;
}

/// delta_ij = |x_i - x_j| / sqrt(D)
inline double sparsevlm_distance(const Matrix& tokens, std::size_t i, std::size_t j) {
  double square = 0.0;
  for (std::size_t c = 0; c < tokens.cols; ++c) {
    square += (tokens(i, c) - tokens(j, c)) * (tokens(i, c) - tokens(j, c));
  }
  return std::sqrt(square) / std::sqrt(static_cast<double>(tokens.cols));
}

struct SparseVlmPeaks {
  std::vector<double> density;
  std::vector<double> separation;
  Rows centers;  // numbers in `rows`
};

/// Density peaks among the (ascending) rows of tokens.
inline SparseVlmPeaks sparsevlm_density_peaks(const Matrix& tokens, const Rows& rows,
                                              std::size_t count) {
  const std::size_t n = rows.size();
  SparseVlmPeaks peaks;
  double largest = 0.0;
  for (std::size_t i = 0; i < n; ++i) {
    std::vector<double> squares;
    for (std::size_t j = 0; j < n; ++j) {
      const double delta = sparsevlm_distance(tokens, rows[i], rows[j]);
      largest = std::max(largest, delta);
      squares.push_back(delta * delta);
    }
    std::sort(squares.begin(), squares.end());
    const std::size_t k = std::min(count, n);
    double mean = 0.0;
    for (std::size_t m = 0; m < k; ++m) mean += squares[m] / static_cast<double>(k);
    peaks.density.push_back(std::exp(-mean));
  }
  std::vector<double> score;
  for (std::size_t i = 0; i < n; ++i) {
    double eta = std::numeric_limits<double>::infinity();
    for (std::size_t j = 0; j < n; ++j) {
      const bool denser =
          peaks.density[j] > peaks.density[i] || (peaks.density[j] == peaks.density[i] && j < i);
      if (denser) eta = std::min(eta, sparsevlm_distance(tokens, rows[i], rows[j]));
    }
    if (std::isinf(eta)) eta = largest;
    peaks.separation.push_back(eta);
    score.push_back(peaks.density[i] * eta);
  }
  peaks.centers = sparsevlm_best_first(score);
  peaks.centers.resize(std::min(count, n));
  return peaks;
}

/// Filter by given scores, recycle, compress. All rows that are not visual pass through.
inline SparseVlmResult sparsevlm_reduce(const SparseVlmInput& input,
                                        const SparseVlmOptions& options, std::vector<double> scores,
                                        bool recycle) {
  SparseVlmResult result;
  result.scores = std::move(scores);
  const std::size_t n = input.visual_rows.size();
  const Rows order = sparsevlm_best_first(result.scores);
  std::vector<bool> stays(n, false);
  for (std::size_t r = 0; r < input.keep; ++r) stays[order[r]] = true;
  for (std::size_t v = 0; v < n; ++v) {
    (stays[v] ? result.preserved : result.discarded).push_back(input.visual_rows[v]);
  }

  std::size_t clusters = 0;
  if (recycle && !result.discarded.empty()) {
    const auto deleted = static_cast<double>(result.discarded.size());
    const std::size_t most =
        std::min(static_cast<std::size_t>(deleted * options.share) + 1, result.discarded.size());
    for (std::size_t r = input.keep; r < n && result.recycled.size() < most; ++r) {
      const std::size_t row = input.visual_rows[order[r]];
      bool finite = std::isfinite(result.scores[order[r]]);
      for (double x : input.tokens.row(row)) finite = finite && std::isfinite(x);
      if (finite) result.recycled.push_back(row);
    }
    Rows rows = result.recycled;
    std::sort(rows.begin(), rows.end());
    if (!rows.empty()) {
      clusters = std::min(rows.size() / options.tokens_per_cluster + 1, rows.size());
      for (std::size_t c : sparsevlm_density_peaks(input.tokens, rows, clusters).centers) {
        result.centers.push_back(rows[c]);
      }
      for (std::size_t row : result.recycled) {
        std::vector<double> nearness;
        for (std::size_t c : result.centers) {
          if (c == row) {
            nearness.push_back(std::numeric_limits<double>::max());
          } else if (options.join_by_cosine) {
            nearness.push_back(cosine(input.tokens.row(row), input.tokens.row(c)));
          } else {
            nearness.push_back(-sparsevlm_distance(input.tokens, row, c));
          }
        }
        std::size_t best = 0;
        for (std::size_t g = 1; g < nearness.size(); ++g) {
          const bool tie = nearness[g] == nearness[best];
          if (tie ? result.centers[g] < result.centers[best] : nearness[g] > nearness[best]) {
            best = g;
          }
        }
        result.cluster.push_back(best);
      }
    }
  }

  // W: before | preserved | synthetic | after; other rows within the visual range stay in place.
  std::vector<bool> gone(input.tokens.rows, false);
  for (std::size_t row : result.discarded) gone[row] = true;
  std::vector<std::vector<double>> weights;
  const auto add_row = [&](long kept) {
    result.kept.push_back(kept);
    weights.emplace_back(input.tokens.rows, 0.0);
  };
  for (std::size_t row = 0; row <= input.tokens.rows; ++row) {
    if (row == input.first_after_image) {
      for (std::size_t g = 0; g < clusters; ++g) {
        add_row(-1);
        double members = 0.0;
        for (std::size_t c : result.cluster) members += c == g ? 1.0 : 0.0;
        for (std::size_t i = 0; i < result.recycled.size(); ++i) {
          if (result.cluster[i] != g) continue;
          weights.back()[result.recycled[i]] =
              options.sum ? 1.0 : 1.0 / (members + options.epsilon);
        }
      }
    }
    if (row < input.tokens.rows && !gone[row]) {
      add_row(static_cast<long>(row));
      weights.back()[row] = 1.0;
    }
  }
  result.weights = Matrix(weights.size(), input.tokens.rows);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    for (std::size_t k = 0; k < input.tokens.rows; ++k) result.weights(i, k) = weights[i][k];
  }
  result.output = multiply(result.weights, input.tokens);
  return result;
}

inline SparseVlmResult sparsevlm(const SparseVlmInput& input, const SparseVlmOptions& options) {
  std::vector<double> p(input.visual_rows.size(), 0.0);
  for (std::size_t v = 0; v < p.size(); ++v) {
    for (std::size_t t : input.raters) {
      p[v] += input.attention(t, input.visual_rows[v]) / static_cast<double>(input.raters.size());
    }
  }
  return sparsevlm_reduce(input, options, p, true);
}

/// w = (2/sqrt(d)) sum_k cos(delta theta^(-2k/d))
inline double sparsevlm_rope_weight(double delta, std::size_t dim, double theta) {
  double sum = 0.0;
  for (std::size_t k = 0; k < dim / 2; ++k) {
    sum +=
        std::cos(delta * std::pow(theta, -2.0 * static_cast<double>(k) / static_cast<double>(dim)));
  }
  return 2.0 / std::sqrt(static_cast<double>(dim)) * sum;
}

struct SparseVlmV2Input {
  std::vector<Matrix> attention;  // per head, [raters, N]
  std::vector<double> rater_positions;
  std::vector<double> visual_positions;
  std::size_t head_dim = 128;
  double theta = 10000.0;
  double floor = 0.05;     // least w as a share of w(0)
  std::size_t heads = 14;  // used
};

struct SparseVlmV2Scores {
  Matrix rope_weights;  // [raters, N]
  std::vector<double> head_mass;
  Rows heads_used;  // ascending
  std::vector<double> scores;
};

inline SparseVlmV2Scores sparsevlm_v2_scores(const SparseVlmV2Input& input) {
  SparseVlmV2Scores result;
  const std::size_t raters = input.rater_positions.size();
  const std::size_t n = input.visual_positions.size();
  result.rope_weights = Matrix(raters, n);
  const double least = input.floor * sparsevlm_rope_weight(0.0, input.head_dim, input.theta);
  for (std::size_t t = 0; t < raters; ++t) {
    for (std::size_t v = 0; v < n; ++v) {
      const double delta = input.rater_positions[t] - input.visual_positions[v];
      result.rope_weights(t, v) =
          std::max(sparsevlm_rope_weight(delta, input.head_dim, input.theta), least);
    }
  }
  std::vector<Matrix> quotients = input.attention;
  for (Matrix& head : quotients) {
    double mass = 0.0;
    for (std::size_t t = 0; t < raters; ++t) {
      for (std::size_t v = 0; v < n; ++v) {
        head(t, v) /= result.rope_weights(t, v);
        if (std::isfinite(head(t, v))) mass += head(t, v);
      }
    }
    result.head_mass.push_back(mass);
  }
  const std::size_t used =
      input.heads == 0 ? quotients.size() : std::min(input.heads, quotients.size());
  result.heads_used = sparsevlm_best_first(result.head_mass);
  result.heads_used.resize(used);
  std::sort(result.heads_used.begin(), result.heads_used.end());
  result.scores.assign(n, 0.0);
  for (std::size_t v = 0; v < n; ++v) {
    for (std::size_t h : result.heads_used) {
      for (std::size_t t = 0; t < raters; ++t) {
        result.scores[v] += quotients[h](t, v) / static_cast<double>(raters * used);
      }
    }
  }
  return result;
}

}  // namespace reference
