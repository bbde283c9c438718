// SPDX-License-Identifier: Apache-2.0
// Attention in one kernel: scores exist for a few queries of one head at a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "math.hpp"
#include "tokenfold/core/views.hpp"

namespace llava {

using HeadsView = tokenfold::HeadsView<const float>;

/// out = softmax(Q · Kᵀ / √d + bias) · V, head by head, [queries × H·d]. Query heads share the key
/// heads in consecutive groups. `causal`: the last query sees all keys, each one before it one
/// fewer; what is masked is not computed, in steps of a block (within one its weight is 0, so values
/// must be finite). `key_bias`: one number a key, or
/// empty.
inline void attention(const HeadsView& queries, const HeadsView& keys, const HeadsView& values,
                      bool causal, std::span<const float> key_bias, Matrix& out,
                      const Threads& threads) {
  constexpr Index block = 64;  // 64 × 640 scores and a head's keys stay in the L2 cache
  const Index rows = queries.tokens();
  const Index dim = queries.dim();
  const Index group = queries.heads() / keys.heads();
  const Index blocks = (rows + block - 1) / block;
  const float scale = 1.0F / std::sqrt(static_cast<float>(dim));
  out.resize(rows, queries.width());

  const Index items = queries.heads() * blocks;
  const Index workers = tokenfold::worker_count(threads, items);
  std::vector<Matrix> scratch(static_cast<std::size_t>(workers));
  tokenfold::parallel_for(threads, workers, items, [&](Index item, Index worker) {
    const Index head = item / blocks;
    const tokenfold::Range q{item % blocks * block, std::min(rows, (item % blocks + 1) * block)};
    const Index hidden = causal ? rows - q.end : 0;
    const Index seen = keys.tokens() - hidden;
    const auto k = keys.head(head / group).middle_rows({0, seen}).map();
    const auto v = values.head(head / group).middle_rows({0, seen}).map();
    Matrix& scores = scratch[static_cast<std::size_t>(worker)];
    scores.resize(q.size(), seen);
    scores.noalias() = queries.head(head).middle_rows(q).map() * k.transpose();
    Eigen::ArrayXf sums(q.size());
    for (Index i = 0; i < q.size(); ++i) {
      const Index visible = causal ? seen - (q.size() - 1 - i) : seen;
      auto row = scores.row(i).head(visible).array();
      row *= scale;
      if (!key_bias.empty()) {
        row += Eigen::Map<const Eigen::ArrayXf>(key_bias.data(), visible).transpose();
      }
      row = (row - row.maxCoeff()).exp();
      sums[i] = row.sum();
      scores.row(i).tail(seen - visible).setZero();
    }
    auto block_out = out.block(q.begin, head * dim, q.size(), dim);
    block_out.noalias() = scores * v;
    block_out.array().colwise() /= sums;
  });
}

}  // namespace llava
