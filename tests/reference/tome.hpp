// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <vector>

#include "attention.hpp"
#include "tensor.hpp"

// ToMe, methods.md part II section 2. A dense W, all pairs.
namespace reference {

struct TomeInput {
  Matrix tokens;              // X [P, D]
  Heads keys;                 // [H, P, d]
  std::vector<double> sizes;  // [P]; empty: all 1
  Rows rows;                  // the current order that is split by parity, no text
  Rows protected_rows;        // those of `rows` that are special
  bool class_token = false;   // decides the order of what is left of A
};

struct TomeResult {
  Rows a;
  Rows b;
  std::vector<double> similarity;  // of a: to its best b
  Rows merged;                     // by falling similarity
  Rows destinations;               // of `merged`
  Rows kept;                       // rows of `tokens` in output order
  Matrix weights;                  // [output rows, P]
  Matrix output;
  std::vector<double> sizes;  // of the output rows
};

/// Merges each of `sources` into the one of `targets` whose mean key has the highest cosine.
inline Rows tome_destinations(const Heads& keys, const Rows& sources, const Rows& targets,
                              std::vector<double>* similarity = nullptr) {
  const Matrix metric = mean_rows_over_heads(keys);
  Rows best;
  for (std::size_t source : sources) {
    std::size_t choice = targets.at(0);
    double highest = cosine(metric.row(source), metric.row(choice));
    for (std::size_t target : targets) {
      const double value = cosine(metric.row(source), metric.row(target));
      if (value > highest) {
        highest = value;
        choice = target;
      }
    }
    best.push_back(choice);
    if (similarity != nullptr) similarity->push_back(highest);
  }
  return best;
}

/// x_b = (n_b x_b + sum n_a x_a) / (n_b + sum n_a) for every kept row, n_b = n_b + sum n_a.
inline void tome_merge(const TomeInput& input, TomeResult& result) {
  const std::size_t p = input.tokens.rows;
  const std::vector<double> n = input.sizes.empty() ? std::vector<double>(p, 1.0) : input.sizes;
  result.weights = Matrix(result.kept.size(), p);
  result.sizes.clear();
  for (std::size_t row = 0; row < result.kept.size(); ++row) {
    const std::size_t target = result.kept[row];
    double total = n.at(target);
    for (std::size_t m = 0; m < result.merged.size(); ++m) {
      if (result.destinations[m] == target) total += n.at(result.merged[m]);
    }
    result.weights(row, target) = n[target] / total;
    for (std::size_t m = 0; m < result.merged.size(); ++m) {
      if (result.destinations[m] == target) {
        result.weights(row, result.merged[m]) = n[result.merged[m]] / total;
      }
    }
    result.sizes.push_back(total);
  }
  result.output = multiply(result.weights, input.tokens);
}

/// Every merged row gets a copy of the row that absorbed it.
inline Matrix tome_unmerge(const TomeResult& result, std::size_t tokens) {
  Matrix back(tokens, result.output.cols);
  auto copy = [&](std::size_t to, std::size_t output_row) {
    for (std::size_t c = 0; c < back.cols; ++c) back(to, c) = result.output(output_row, c);
  };
  for (std::size_t row = 0; row < result.kept.size(); ++row) copy(result.kept[row], row);
  for (std::size_t m = 0; m < result.merged.size(); ++m) {
    const auto found = std::find(result.kept.begin(), result.kept.end(), result.destinations[m]);
    copy(result.merged[m], static_cast<std::size_t>(found - result.kept.begin()));
  }
  return back;
}

/// One step of bipartite soft matching over a sequence without text. Special rows stand first or
/// last, and keep their place.
inline TomeResult tome(const TomeInput& input, std::size_t r) {
  TomeResult result;
  auto is_protected = [&](std::size_t row) {
    return std::find(input.protected_rows.begin(), input.protected_rows.end(), row) !=
           input.protected_rows.end();
  };
  for (std::size_t position = 0; position < input.rows.size(); ++position) {
    const std::size_t row = input.rows[position];
    if (!is_protected(row)) (position % 2 == 0 ? result.a : result.b).push_back(row);
  }
  r = std::min(r, (input.rows.size() - input.protected_rows.size()) / 2);
  if (r == 0) {
    result.kept = input.rows;
    tome_merge(input, result);
    return result;
  }
  const Rows best = tome_destinations(input.keys, result.a, result.b, &result.similarity);
  std::vector<std::size_t> order(result.a.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t i, std::size_t j) {
    return result.similarity[i] > result.similarity[j];
  });
  Rows unmerged;
  for (std::size_t i = 0; i < order.size(); ++i) {
    if (i < r) {
      result.merged.push_back(result.a[order[i]]);
      result.destinations.push_back(best[order[i]]);
    } else {
      unmerged.push_back(result.a[order[i]]);
    }
  }
  if (input.class_token) std::sort(unmerged.begin(), unmerged.end());
  for (std::size_t row : input.rows) {
    if (is_protected(row) && row < result.a.at(0) && row < result.b.at(0)) {
      result.kept.push_back(row);
    }
  }
  result.kept.insert(result.kept.end(), unmerged.begin(), unmerged.end());
  result.kept.insert(result.kept.end(), result.b.begin(), result.b.end());
  for (std::size_t row : input.rows) {
    if (is_protected(row) && row > result.a.at(0) && row > result.b.at(0)) {
      result.kept.push_back(row);
    }
  }
  tome_merge(input, result);
  return result;
}

/// The same merging with sources and targets chosen otherwise (every k-th, random); all rows of the
/// sequence are one or the other.
inline TomeResult tome_with_split(const TomeInput& input, const Rows& sources,
                                  const Rows& targets) {
  TomeResult result;
  result.merged = sources;
  if (!targets.empty()) {
    result.destinations = tome_destinations(input.keys, sources, targets);
  }
  result.kept = targets;
  tome_merge(input, result);
  return result;
}

}  // namespace reference
