// SPDX-License-Identifier: Apache-2.0
// A LLaMA decoder (Touvron et al., arXiv 2302.13971) with a cache whose layers may differ in
// length.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "config.hpp"
#include "step.hpp"
#include "tokenfold/kv_cache.hpp"

namespace llava {

/// Keys (after RoPE) and values that a layer has seen, and the position of what comes next. After
/// a reduction later layers hold fewer rows; with `PositionRule::packed` they count positions of
/// their own as well.
struct LayerCache {
  Matrix keys;  ///< [room × H_kv·d], of which `length` rows are in use
  Matrix values;
  Index length = 0;
  std::int32_t next_position = 0;

  void append(const Matrix& k, const Matrix& v) {
    if (keys.rows() < length + k.rows()) {
      const Index room = std::max(length + k.rows(), keys.rows() + keys.rows() / 2);
      keys.conservativeResize(room, k.cols());
      values.conservativeResize(room, v.cols());
    }
    keys.middleRows(length, k.rows()) = k;
    values.middleRows(length, v.rows()) = v;
    length += k.rows();
  }

  /// For layers that ran before a pruning, see tokenfold/kv_cache.hpp.
  void shorten(const tokenfold::ReductionPlan& plan, tokenfold::Workspace& workspace) {
    tokenfold::require(plan.input_tokens() == length, "cache: the plan takes ", plan.input_tokens(),
                       " rows, there are ", length);
    tokenfold::compact_cache(plan, tokenfold::HeadsView(tokenfold::MatrixView(keys)), workspace);
    tokenfold::compact_cache(plan, tokenfold::HeadsView(tokenfold::MatrixView(values)), workspace);
    length += plan.output_tokens() - plan.input_tokens();
  }
};
using Cache = std::vector<LayerCache>;

/// What is called in every layer of a prefill, if it is there.
struct DecoderHooks {
  Hook before_attention = {};  ///< once queries, keys and values exist; tokens can only be dropped
  Hook after_attention = {};   ///< between attention and MLP
  Hook after_layer = {};
};

class Decoder {
 public:
  Decoder(const DecoderConfig& config, Weights& weights, Threads threads)
      : config_(config), threads_(threads) {
    const std::string model = "language_model.model.";
    const Index width = config.width;
    const Index wide = config.heads * config.head_dim;
    const Index narrow = config.key_value_heads * config.head_dim;
    table_ = weights.matrix(model + "embed_tokens.weight", config.vocabulary, width);
    for (Index l = 0; l < config.layers; ++l) {
      const std::string layer = model + "layers." + std::to_string(l) + ".";
      const auto linear = [&](const char* name, Index outputs, Index inputs) {
        return Linear(weights, layer + name, outputs, inputs, false);
      };
      layers_.push_back(
          {RmsNorm(weights, layer + "input_layernorm", width, config.norm_epsilon),
           linear("self_attn.q_proj", wide, width), linear("self_attn.k_proj", narrow, width),
           linear("self_attn.v_proj", narrow, width), linear("self_attn.o_proj", width, wide),
           RmsNorm(weights, layer + "post_attention_layernorm", width, config.norm_epsilon),
           linear("mlp.gate_proj", config.ffn, width), linear("mlp.up_proj", config.ffn, width),
           linear("mlp.down_proj", width, config.ffn)});
    }
    final_norm_ = RmsNorm(weights, model + "norm", width, config.norm_epsilon);
    if (config.tied_embeddings) {
      head_.weight = table_;
    } else {
      head_ = Linear(weights, "language_model.lm_head", config.vocabulary, width, false);
    }
  }

  const DecoderConfig& config() const { return config_; }
  Cache empty_cache() const { return Cache(layers_.size()); }

  /// Rows of the embedding table.
  Matrix embed(std::span<const std::int64_t> tokens) const {
    Matrix rows(static_cast<Index>(tokens.size()), config_.width);
    for (Index i = 0; i < rows.rows(); ++i) {
      const std::int64_t token = tokens[static_cast<std::size_t>(i)];
      tokenfold::require(0 <= token && token < config_.vocabulary, "decoder: token ", token,
                         " is not one of the ", config_.vocabulary, " of the vocabulary");
      to_float(table_, token, token + 1, rows.row(i).data());
    }
    return rows;
  }

  /// The whole prompt at once, positions from 0. Fills an empty cache, returns the hidden states
  /// that leave the last layer.
  Matrix prefill(Matrix hidden, Cache& cache, const DecoderHooks& hooks = {}) const {
    check(hidden, cache);
    for (const LayerCache& layer : cache) {
      tokenfold::require(layer.length == 0, "decoder: the cache is not empty");
    }
    LayerStep::Rows rows;
    rows.positions.resize(static_cast<std::size_t>(hidden.rows()));
    std::iota(rows.positions.begin(), rows.positions.end(), 0);
    rows.next_position = static_cast<std::int32_t>(hidden.rows());
    rows.sizes.assign(rows.positions.size(), 1.0F);
    for (Index l = 0; l < config_.layers; ++l) run_layer(l, hidden, rows, cache, hooks);
    return hidden;
  }

  /// Further tokens behind those of the cache, each layer at its own next position.
  Matrix decode(Matrix hidden, Cache& cache) const {
    check(hidden, cache);
    LayerStep::Rows rows;
    rows.positions.resize(static_cast<std::size_t>(hidden.rows()));
    for (Index l = 0; l < config_.layers; ++l) {
      const std::int32_t next = cache[static_cast<std::size_t>(l)].next_position;
      std::iota(rows.positions.begin(), rows.positions.end(), next);
      rows.next_position = next + static_cast<std::int32_t>(hidden.rows());
      run_layer(l, hidden, rows, cache, {});
    }
    return hidden;
  }

  /// Scores of the vocabulary for what follows the last row.
  Vector logits(const Matrix& hidden) const {
    tokenfold::require(hidden.rows() > 0, "decoder: no row is left to predict from");
    return all_logits(hidden.bottomRows(1)).row(0);
  }
  Matrix all_logits(const Matrix& hidden) const {
    Matrix normed, scores;
    final_norm_(hidden, normed);
    head_(normed, scores, threads_);
    return scores;
  }

  /// The final norm, by which DART compares tokens.
  Matrix normalised(const Matrix& hidden) const {
    Matrix normed;
    final_norm_(hidden, normed);
    return normed;
  }

 private:
  struct Layer {
    RmsNorm norm_1;
    Linear query, key, value, out;
    RmsNorm norm_2;
    Linear gate, up, down;
  };

  void check(const Matrix& hidden, const Cache& cache) const {
    tokenfold::require(hidden.rows() > 0 && hidden.cols() == config_.width,
                       "decoder: the input must be [at least 1 x ", config_.width, "], got [",
                       hidden.rows(), " x ", hidden.cols(), "]");
    tokenfold::require(cache.size() == layers_.size(), "decoder: the cache has ", cache.size(),
                       " layers, the model ", layers_.size());
  }

  HeadsView query_heads(const Matrix& rows) const {
    return tokenfold::split_heads(rows, config_.heads);
  }
  /// The first `length` rows of a cached matrix.
  HeadsView key_heads(const Matrix& rows, Index length) const {
    return tokenfold::split_heads(rows, config_.key_value_heads).middle_tokens({0, length});
  }

  void run_layer(Index l, Matrix& hidden, LayerStep::Rows& rows, Cache& cache,
                 const DecoderHooks& hooks) const {
    const Layer& layer = layers_[static_cast<std::size_t>(l)];
    LayerCache& cached = cache[static_cast<std::size_t>(l)];
    Matrix normed, q, k, v, mixed, update;
    layer.norm_1(hidden, normed);
    layer.query(normed, q, threads_);
    layer.key(normed, k, threads_);
    layer.value(normed, v, threads_);
    if (hooks.before_attention) {
      Matrix turned_q = q, turned_k = k;
      rotate(turned_q, config_.head_dim, config_.rope_theta, rows.positions);
      rotate(turned_k, config_.head_dim, config_.rope_theta, rows.positions);
      LayerStep step(l, query_heads(turned_q), key_heads(turned_k, k.rows()),
                     key_heads(v, v.rows()), hidden, rows, {&q, &k, &v});
      hooks.before_attention(step);
    }
    rotate(q, config_.head_dim, config_.rope_theta, rows.positions);
    rotate(k, config_.head_dim, config_.rope_theta, rows.positions);
    cached.append(k, v);
    cached.next_position = rows.next_position;
    const HeadsView queries = query_heads(q);
    const HeadsView keys = key_heads(cached.keys, cached.length);
    const HeadsView values = key_heads(cached.values, cached.length);
    attention(queries, keys, values, true, rows.key_bias, mixed, threads_);
    layer.out(mixed, update, threads_);
    hidden += update;
    if (hooks.after_attention) {
      LayerStep step(l, queries, keys, values, hidden, rows);
      hooks.after_attention(step);
    }
    layer.norm_2(hidden, normed);
    layer.gate(normed, mixed, threads_);
    layer.up(normed, update, threads_);
    gate(mixed, update);
    layer.down(mixed, update, threads_);
    hidden += update;
    if (hooks.after_layer) {
      LayerStep step(l, queries, keys, values, hidden, rows);
      hooks.after_layer(step);
    }
  }

  /// mixed = SiLU(mixed) · up.
  void gate(Matrix& mixed, const Matrix& up) const {
    const Index rows = mixed.rows();
    tokenfold::parallel_for(threads_, tokenfold::worker_count(threads_, rows), rows,
                            [&](Index i, Index) {
                              auto row = mixed.row(i).array();
                              row = sigmoid_unit(row, 1.0F) * up.row(i).array();
                            });
  }

  DecoderConfig config_;
  Threads threads_;
  WeightMatrix table_;
  std::vector<Layer> layers_;
  RmsNorm final_norm_;
  Linear head_;
};

}  // namespace llava
