// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <vector>

#include "tokenfold/core/options.hpp"
#include "tokenfold/core/types.hpp"

/// What a prefill costs, from the shape of a model and the tokens that each layer sees: operations,
/// KV cache, weights, and bytes moved. What does pruning LLaVA-1.5-7B to 64 of 576 tokens save,
/// with 60 of text?
///
///   const auto llm = llava_7b();
///   const auto full = layer_tokens(llm, 576 + 60);
///   const auto before = layer_tokens(llm, 64 + 60);
///   const auto fastv =
///       layer_tokens(llm, Schedule::stages(576, {{2, 64}}, llm.layers).counts(576), 60);
///   prefill_flops(llm, full);     // 8.45e12
///   prefill_flops(llm, before);   // 1.61e12, pruned before the LLM
///   prefill_flops(llm, fastv);    // 2.04e12, behind two of its layers
///   kv_cache_bytes(llm, full);    // 333'447'168
///   kv_cache_bytes(llm, before);  //  65'011'712
///
/// and `layer_flops` is a cost that `Schedule::for_cost` solves for.
///
/// Papers count operations in three ways (`FlopConvention`), which differ by up to 2.6, so compare
/// two tables only in one of them. FastV, DivPrune: `mac_two_matrix_ffn`. PyramidDrop, SparseVLM,
/// CDPruner: `mac`. LLM-Viewer, and with it FiCoCo, PruMerge and IVTP: `flop`. What they print
/// follows from the functions here, except:
///
///   FiCoCo      1.5 T beside 65.0 MB: 64 + 60 tokens, which the cache is of, are 1.61 T.
///   FiCoCo-L    1.5 T and 64.2 MB: four full layers alone, and no visual token in the rest, are
///               1.74 T and 69 MB.
///   FiCoCo 13B  24.9 T would be 439 visual tokens; no setting has them. Its row of 15.4 T and
///               488 MB has 84 visual tokens, not 64.
///   FiCoCo      "memory" is bytes moved, 22.2 → 14.45 GB for its 22.4 → 14.4; with INT8 11.1 → 7.2
///               for 11.2 → 7.8, with INT4 5.6 → 3.6 for 6.2 → 4.4. There it divides FLOPs by 2
///               and 4, but operations are as many.
///   PruMerge    captioned 616 → 80 tokens; its figures are those of 700 → 70. INT4 0.28 T repeats
///               another cell, a quarter of the FP16 one is 0.23 T; 13B 1.80 T is 1.78 T.
///   FastV       K = 0, R = 90 %: 18.9 G where its formula gives 14.9. Its G are of one layer.
///   PyramidDrop five stages 1.38 T: 1.39 T over 32 layers, 1.38 T over 5 · 6.
///   SparseVLM   ToMe at 192 and 128 tokens 2.05 and 1.62 T: 2.03 and 1.61 T.
///   DART        1512.1 → 168.0 MB are 0.1 % more than the cache of 2880 → 320 tokens.
///   IVTP        8.2 and 15.6 T after pruning: its tokens per layer are not published.
///
/// Left out: rotary embedding, embedding lookup, and of operations softmax and norms (0.04 %).
namespace tokenfold {

/// The sizes of a transformer, as in its configuration file.
struct TransformerShape {
  Index layers = 0;
  Index width = 0;            ///< d, channels of a token
  Index ffn = 0;              ///< m, hidden channels of the MLP
  Index ffn_matrices = 3;     ///< 3 with a gate (SwiGLU), 2 without
  Index heads = 0;            ///< of the queries
  Index key_value_width = 0;  ///< channels of K, and of V: d, or less with grouped queries
  Index vocabulary = 0;       ///< 0 without an output head
  Index query_width = 0;      ///< channels of Q and of what attention returns; 0: d
};

/// LLaVA-1.5's language models, Vicuna 7B and 13B.
constexpr TransformerShape llava_7b() {
  return {.layers = 32,
          .width = 4096,
          .ffn = 11008,
          .ffn_matrices = 3,
          .heads = 32,
          .key_value_width = 4096,
          .vocabulary = 32000};
}
constexpr TransformerShape llava_13b() {
  return {.layers = 40,
          .width = 5120,
          .ffn = 13824,
          .ffn_matrices = 3,
          .heads = 40,
          .key_value_width = 5120,
          .vocabulary = 32000};
}

/// Their encoder, CLIP ViT-L/14-336: 577 tokens. LLaVA runs 23 of the 24 layers; papers count 24.
constexpr TransformerShape clip_l_336() {
  return {.layers = 24,
          .width = 1024,
          .ffn = 4096,
          .ffn_matrices = 2,
          .heads = 16,
          .key_value_width = 1024,
          .vocabulary = 0};
}

/// What is counted as one operation, and of how many matrices an MLP.
enum class FlopConvention {
  mac_two_matrix_ffn,  ///< multiply-adds, every MLP as two matrices: 4nd² + 2n²d + 2ndm
  mac,                 ///< multiply-adds, the MLP as it is: 4nd² + 2n²d + 3ndm
  flop                 ///< a multiply-add is two: 8nd² + 4n²d + 6ndm
};

constexpr auto enum_names(FlopConvention) {
  return enum_names_of<FlopConvention>({{"mac_two_matrix_ffn", FlopConvention::mac_two_matrix_ffn},
                                        {"mac", FlopConvention::mac},
                                        {"flop", FlopConvention::flop}});
}

/// Which of the n² scores are counted. Papers count all, a kernel that skips the masked ones
/// computes half.
enum class ScoresCounted { all, causal_half };

/// Where the scores of attention are: written out for every head, or inside one kernel.
enum class ScoresKept { in_memory, on_chip };

/// Bits of a stored value: 16, 8 (INT8), 4 (INT4). Scales of quantised blocks are not counted.
struct Precision {
  Index weights = 16;
  Index activations = 16;
  Index cache = 16;
};

/// Bytes between memory and processor.
struct Traffic {
  std::int64_t weights = 0;
  std::int64_t loaded = 0;  ///< activations
  std::int64_t stored = 0;  ///< activations
  std::int64_t cache = 0;   ///< keys and values, stored once and loaded once

  std::int64_t total() const;
};

namespace detail {

/// The product of numbers that are not negative; refused if it leaves 64 bits.
inline std::int64_t exact_product(std::initializer_list<std::int64_t> factors) {
  std::int64_t product = 1;
  for (const std::int64_t factor : factors) {
    require(factor == 0 || product <= std::numeric_limits<std::int64_t>::max() / factor,
            "cost: a count exceeds 64 bits");
    product *= factor;
  }
  return product;
}

/// Likewise their sum.
inline std::int64_t exact_sum(std::initializer_list<std::int64_t> terms) {
  std::int64_t sum = 0;
  for (const std::int64_t term : terms) {
    require(sum <= std::numeric_limits<std::int64_t>::max() - term,
            "cost: a count exceeds 64 bits");
    sum += term;
  }
  return sum;
}

/// Bytes that `values` of `bits` bits fill, packed.
inline std::int64_t packed_bytes(std::int64_t values, Index bits) {
  require(bits >= 1 && bits <= 64, "cost: a value has 1 to 64 bits, got ", bits);
  return exact_sum({exact_product({values / 8, bits}), (values % 8 * bits + 7) / 8});
}

inline void require_shape(const TransformerShape& shape) {
  require(shape.layers > 0 && shape.width > 0 && shape.ffn > 0 && shape.heads > 0 &&
              shape.key_value_width > 0 && shape.vocabulary >= 0 && shape.query_width >= 0,
          "cost: layers, width, ffn, heads and key_value_width must be positive, got ",
          shape.layers, ", ", shape.width, ", ", shape.ffn, ", ", shape.heads, ", ",
          shape.key_value_width, ", vocabulary and query_width not negative, got ",
          shape.vocabulary, ", ", shape.query_width);
  require(shape.ffn_matrices == 2 || shape.ffn_matrices == 3,
          "cost: an MLP has 2 or 3 matrices, got ", shape.ffn_matrices);
}

inline void require_tokens(Index tokens) {
  require(tokens >= 0, "cost: negative token count ", tokens);
}

inline void require_tokens(const TransformerShape& shape, Span<const Index> tokens) {
  require_shape(shape);
  require(tokens.size() == shape.layers, "cost: expected token counts of ", shape.layers,
          " layers, got ", tokens.size());
}

inline double operations_per_multiply_add(FlopConvention convention) {
  return convention == FlopConvention::flop ? 2 : 1;
}

inline Index query_width(const TransformerShape& shape) {
  return shape.query_width > 0 ? shape.query_width : shape.width;
}

/// Entries of a layer's weight matrices.
inline std::int64_t layer_weights(const TransformerShape& shape) {
  const std::int64_t d = shape.width;
  return exact_sum({exact_product({2, d, query_width(shape)}),
                    exact_product({2, d, shape.key_value_width}),
                    exact_product({shape.ffn_matrices, d, shape.ffn})});
}

}  // namespace detail

inline std::int64_t Traffic::total() const {
  return detail::exact_sum({weights, loaded, stored, cache});
}

/// The same number of tokens in every layer.
inline std::vector<Index> layer_tokens(const TransformerShape& shape, Index tokens) {
  detail::require_shape(shape);
  detail::require_tokens(tokens);
  return std::vector<Index>(static_cast<std::size_t>(shape.layers), tokens);
}

/// `visual` tokens of each layer, as `Schedule::counts` gives them (what leaves the last layer is
/// passed over), and `others`: text, or [CLS].
inline std::vector<Index> layer_tokens(const TransformerShape& shape, Span<const Index> visual,
                                       Index others) {
  detail::require_shape(shape);
  detail::require_tokens(others);
  require(visual.size() == shape.layers || visual.size() == shape.layers + 1,
          "cost: expected visual token counts of ", shape.layers, " layers, got ", visual.size());
  std::vector<Index> tokens;
  for (const Index count : visual.subspan(0, shape.layers)) {
    detail::require_tokens(count);
    tokens.push_back(static_cast<Index>(detail::exact_sum({count, others})));
  }
  return tokens;
}

/// [tokens × inputs] times [inputs × outputs]: a projector, an output head.
inline double matrix_flops(Index tokens, Index inputs, Index outputs,
                           FlopConvention convention = FlopConvention::flop) {
  detail::require_tokens(tokens);
  require(inputs >= 0 && outputs >= 0, "cost: negative matrix size ", inputs, " x ", outputs);
  return detail::operations_per_multiply_add(convention) * static_cast<double>(tokens) *
         static_cast<double>(inputs) * static_cast<double>(outputs);
}

/// The attention of one layer, projections included: 2n(2d·d_q + 2d·d_kv) + 4n²d_q FLOPs.
inline double attention_flops(const TransformerShape& shape, Index tokens,
                              FlopConvention convention = FlopConvention::flop,
                              ScoresCounted scores = ScoresCounted::all) {
  detail::require_shape(shape);
  detail::require_tokens(tokens);
  const auto n = static_cast<double>(tokens);
  const auto d = static_cast<double>(shape.width);
  const auto d_q = static_cast<double>(detail::query_width(shape));
  const auto d_kv = static_cast<double>(shape.key_value_width);
  const double share = scores == ScoresCounted::causal_half ? 0.5 : 1;
  return detail::operations_per_multiply_add(convention) *
         (n * (2 * d * d_q + 2 * d * d_kv) + share * 2 * n * n * d_q);
}

/// The MLP of one layer: 6ndm FLOPs with a gate, 4ndm without. A method that reduces between
/// attention and MLP (FiCoCo-V, ToMe, EViT) leaves it fewer tokens than the layer's attention had.
inline double mlp_flops(const TransformerShape& shape, Index tokens,
                        FlopConvention convention = FlopConvention::flop) {
  detail::require_shape(shape);
  const bool as_two = convention == FlopConvention::mac_two_matrix_ffn;
  const Index matrices = as_two ? 2 : shape.ffn_matrices;
  return static_cast<double>(matrices) * matrix_flops(tokens, shape.width, shape.ffn, convention);
}

/// One layer.
inline double layer_flops(const TransformerShape& shape, Index tokens,
                          FlopConvention convention = FlopConvention::flop,
                          ScoresCounted scores = ScoresCounted::all) {
  return attention_flops(shape, tokens, convention, scores) + mlp_flops(shape, tokens, convention);
}

/// All layers, layer l with tokens[l], and the output head for `output_tokens` of them: one in a
/// prefill, all of them where logits of the prompt are asked for.
inline double prefill_flops(const TransformerShape& shape, Span<const Index> tokens,
                            FlopConvention convention = FlopConvention::flop,
                            ScoresCounted scores = ScoresCounted::all, Index output_tokens = 1) {
  detail::require_tokens(shape, tokens);
  double sum = matrix_flops(output_tokens, shape.width, shape.vocabulary, convention);
  for (const Index count : tokens) {
    sum += layer_flops(shape, count, convention, scores);
  }
  return sum;
}

/// What one layer keeps for `tokens`: K and V. As a cost for `Schedule::for_cost`, a memory budget.
inline std::int64_t layer_kv_bytes(const TransformerShape& shape, Index tokens, Index bits = 16) {
  detail::require_shape(shape);
  detail::require_tokens(tokens);
  return detail::packed_bytes(detail::exact_product({2, tokens, shape.key_value_width}), bits);
}

/// What all layers keep. 7B at 16 bits: 524 288 bytes a token.
inline std::int64_t kv_cache_bytes(const TransformerShape& shape, Span<const Index> tokens,
                                   Index bits = 16) {
  detail::require_tokens(shape, tokens);
  std::int64_t sum = 0;
  for (const Index count : tokens) {
    sum = detail::exact_sum({sum, layer_kv_bytes(shape, count, bits)});
  }
  return sum;
}

/// The matrices of one layer, without biases and norms (0.01 %).
inline std::int64_t layer_weight_bytes(const TransformerShape& shape, Index bits = 16) {
  detail::require_shape(shape);
  return detail::packed_bytes(detail::layer_weights(shape), bits);
}

/// The matrices of all layers, the embedding table and an output head of its own.
inline std::int64_t weight_bytes(const TransformerShape& shape, Index bits = 16) {
  detail::require_shape(shape);
  const std::int64_t tables = detail::exact_product({2, shape.width, shape.vocabulary});
  return detail::exact_sum({detail::exact_product({shape.layers, layer_weight_bytes(shape, bits)}),
                            detail::packed_bytes(tables, bits)});
}

/// Bytes that one layer moves if every operator loads what it reads and stores what it makes, as
/// LLM-Viewer counts: an activation function at width d, an addition with one operand. Unlike it
/// this counts Q as an activation, of d_q channels whatever K has. An engine that fuses operators
/// moves less; `ScoresKept::on_chip` takes the scores out, its largest saving. In memory, they are
/// stored by QKᵀ, loaded and stored by softmax, and loaded by the product with V.
inline Traffic layer_traffic(const TransformerShape& shape, Index tokens, Precision precision = {},
                             ScoresKept scores = ScoresKept::in_memory) {
  detail::require_shape(shape);
  detail::require_tokens(tokens);
  const Index m = shape.ffn;
  const Index matrices = shape.ffn_matrices;
  const bool written = scores == ScoresKept::in_memory;
  const auto activations = [&](Index widths, Index queries, Index hidden) {
    const std::int64_t channels =
        detail::exact_sum({detail::exact_product({widths, shape.width}),
                           detail::exact_product({queries, detail::query_width(shape)}),
                           detail::exact_product({hidden, m})});
    const std::int64_t score_values =
        written ? detail::exact_product({2, tokens, tokens, shape.heads}) : 0;
    return detail::packed_bytes(
        detail::exact_sum({detail::exact_product({tokens, channels}), score_values}),
        precision.activations);
  };
  const std::int64_t cache = layer_kv_bytes(shape, tokens, precision.cache);
  // Loaded, in widths d: 3 projections, 2 norms, 2 additions, what opens the MLP, what its
  // activation function reads; in widths d_q: Q, output projection. Stored, in widths d: output
  // projection, MLP, 2 norms, 2 additions, activation function; in widths d_q: Q, attention.
  return {.weights = layer_weight_bytes(shape, precision.weights),
          .loaded = activations(7 + 2 * (matrices - 1), 2, 1),
          .stored = activations(7, 2, matrices - 1),
          .cache = detail::exact_product({2, cache})};
}

/// Bytes that a prefill moves: all layers, layer l with tokens[l], and the output head. Time is at
/// least this over the memory's bandwidth, whatever the operations: with few tokens, the weights'.
inline Traffic bytes_moved(const TransformerShape& shape, Span<const Index> tokens,
                           Precision precision = {}, ScoresKept scores = ScoresKept::in_memory,
                           Index output_tokens = 1) {
  detail::require_tokens(shape, tokens);
  detail::require_tokens(output_tokens);
  const auto values = [&](Index rows, Index columns, Index bits) {
    return detail::packed_bytes(detail::exact_product({rows, columns}), bits);
  };
  Traffic sum;
  if (output_tokens > 0 && shape.vocabulary > 0) {
    sum = {.weights = values(shape.width, shape.vocabulary, precision.weights),
           .loaded = values(output_tokens, shape.width, precision.activations),
           .stored = values(output_tokens, shape.vocabulary, precision.activations),
           .cache = 0};
  }
  for (const Index count : tokens) {
    const Traffic layer = layer_traffic(shape, count, precision, scores);
    sum = {.weights = detail::exact_sum({sum.weights, layer.weights}),
           .loaded = detail::exact_sum({sum.loaded, layer.loaded}),
           .stored = detail::exact_sum({sum.stored, layer.stored}),
           .cache = detail::exact_sum({sum.cache, layer.cache})};
  }
  return sum;
}

}  // namespace tokenfold
