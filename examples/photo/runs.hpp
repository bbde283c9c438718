// SPDX-License-Identifier: Apache-2.0
// Reductions over several layers of a network that is not there, and a question that nobody asked.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "encoder.hpp"
#include "tokenfold/core/query_key_attention.hpp"
#include "tokenfold/core/survivors.hpp"
#include "tokenfold/filter/raters.hpp"
#include "tokenfold/registry/reducer.hpp"

namespace photo {

/// What a layer hands to a reduction: [P, heads * dim] each.
struct Layer {
  Matrix tokens;
  Matrix queries;
  Matrix keys;
};

/// Microseconds, summed over the steps of a run.
struct Cost {
  double plan = 0.0;
  double apply = 0.0;
};

/// A method over one or more layers. A real network computes new tokens, queries and keys in every
/// layer; here each layer sees those of the layer before, shortened by its plan, so that later
/// steps do decide on merged tokens.
class Steps {
 public:
  /// `question`: the embeddings of its words, for methods that compare patches with them.
  Steps(Index heads, const Matrix& question) : heads_(heads), question_(question) {}

  /// Runs `method` once per budget, and again as long as it leaves more than that (a step of ToMe
  /// discards half of the tokens at most). Afterwards `layer()` is what is left and `total()` how
  /// it came about. Times count `Reducer::plan` and the one `apply` that any engine needs, to the
  /// tokens.
  Cost run(const tokenfold::Reducer<float>& method, const Layer& first,
           const tokenfold::TokenLayout& layout, std::span<const tokenfold::Budget> budgets,
           bool causal = false) {
    using tokenfold::Budget;
    tokenfold::Survivors survivors(layout);
    layer_ = first;
    sizes_.assign(static_cast<std::size_t>(layout.tokens()), 1.0F);
    raters_ = tokenfold::text_raters(layout, layer_.tokens);
    count_ = 0;
    Cost cost;
    for (const Budget& budget : budgets) {
      Index left = survivors.layout().visual_count();
      if (budget.is_adaptive()) {
        step(method, budget, causal, survivors, cost);
        continue;
      }
      for (const Index wanted = budget.keep_count(left); left > wanted;) {
        step(method, Budget::keep(wanted), causal, survivors, cost);
        const Index now = plan_.visual().size() - plan_.extra_tokens();
        if (now >= left) break;
        left = now;
      }
    }
    cells_.assign(survivors.layout().cells().begin(), survivors.layout().cells().end());
    total_ = survivors.total();
    return cost;
  }

  const Layer& layer() const { return layer_; }
  /// From the rows of the first layer to those of the last.
  const tokenfold::ReductionPlan& total() const { return total_; }
  /// The grid cell of every visual token that is left.
  tokenfold::Span<const tokenfold::Token> cells() const { return cells_; }
  /// How often the method ran.
  int count() const { return count_; }

 private:
  /// Offers a method whatever it may ask for, and lets it shorten the layer.
  void step(const tokenfold::Reducer<float>& method, const tokenfold::Budget& budget, bool causal,
            tokenfold::Survivors& survivors, Cost& cost) {
    namespace tf = tokenfold;
    using Clock = std::chrono::steady_clock;
    using Microseconds = std::chrono::duration<double, std::micro>;
    const Layer& layer = layer_;
    const tf::AnyAttention<float> attention =
        tf::QueryKeyAttention(tf::split_heads(layer.queries, heads_),
                              tf::split_heads(layer.keys, heads_), {.causal = causal});
    const std::array layers{attention, attention, attention};  // there is no other layer
    tf::Inputs<float> inputs(survivors.layout());
    inputs.attention = attention;
    inputs.attention_layers = layers;
    inputs.values = tf::split_heads(layer.tokens, heads_);
    inputs.features = {tf::MatrixView(layer.tokens)};
    inputs.image_embeddings = inputs.features;
    inputs.text_embeddings = tf::MatrixView(question_);
    inputs.sizes = sizes_;
    inputs.raters = raters_;

    const auto start = Clock::now();
    method.plan(inputs, budget, workspace_, plan_);
    cost.plan += Microseconds(Clock::now() - start).count();

    for (Matrix* m : {&shorter_.tokens, &shorter_.queries, &shorter_.keys}) {
      m->resize(plan_.output_tokens(), layer.tokens.cols());
    }
    const auto planned = Clock::now();
    plan_.apply(layer.tokens, shorter_.tokens);
    cost.apply += Microseconds(Clock::now() - planned).count();
    plan_.apply(layer.queries, shorter_.queries);
    plan_.apply(layer.keys, shorter_.keys);
    std::vector<float> sizes(static_cast<std::size_t>(plan_.output_tokens()));
    plan_.sizes(sizes_, sizes);
    sizes_ = std::move(sizes);
    tf::follow_raters(plan_, raters_);
    std::swap(layer_, shorter_);
    survivors.advance(plan_, workspace_);
    ++count_;
  }

  Index heads_;
  Matrix question_;
  tokenfold::Workspace workspace_;
  tokenfold::ReductionPlan plan_;
  tokenfold::ReductionPlan total_;
  std::vector<tokenfold::Token> cells_;
  std::vector<tokenfold::Token> raters_;
  std::vector<float> sizes_;
  Layer layer_;
  Layer shorter_;
  int count_ = 0;
};

/// One budget per layer that discards anything.
inline std::vector<tokenfold::Budget> budgets_of(std::span<const tokenfold::Index> discards) {
  std::vector<tokenfold::Budget> budgets;
  for (const tokenfold::Index count : discards) {
    if (count > 0) budgets.push_back(tokenfold::Budget::discard(count));
  }
  return budgets;
}

inline constexpr tokenfold::Index kPromptTokens = 8;
inline constexpr tokenfold::Index kQuestionTokens = 8;

/// A stand-in for a question about one place in the picture: its eight tokens look for what the
/// patches of a box, 2 cells wide and 4 high, look for. Nobody asked anything.
struct Question {
  static constexpr Index kWidth = 2;
  static constexpr Index kHeight = kQuestionTokens / kWidth;

  /// The box: its top left cell.
  Index column = 0;
  Index row = 0;
  Matrix tokens;
  Matrix queries;

  /// The box around cell (x, y), moved inside the picture.
  Question(const Encoded& encoded, Index x, Index y)
      : column(std::clamp<Index>(x - kWidth / 2, 0, encoded.grid_w - kWidth)),
        row(std::clamp<Index>(y - kHeight / 2, 0, encoded.grid_h - kHeight)),
        tokens(kQuestionTokens, encoded.tokens.cols()),
        queries(kQuestionTokens, encoded.tokens.cols()) {
    for (Index i = 0; i < kQuestionTokens; ++i) {
      const Index patch = 1 + (row + i / kWidth) * encoded.grid_w + column + i % kWidth;
      tokens.row(i) = encoded.tokens.row(patch);
      queries.row(i) = encoded.queries.row(patch);
    }
  }
};

/// A decoder's sequence: prompt, visual tokens, question. The decoder itself is missing: the visual
/// rows keep the encoder's queries and keys. The keys of text are noise, because words do not look
/// like patches; so are the prompt's tokens and queries. Real decoders send most attention between
/// patches to a first "sink" token instead, which weakens the vision term of FiCoCo-L: there, many
/// small steps are kinder to what was asked about than they are here.
inline Layer decoder_input(const Layer& visual, const Question& question) {
  constexpr float kNoise = 0.5F;
  std::mt19937 random(7);
  const auto surround = [&random](const Matrix& rows) {
    Matrix all(kPromptTokens + rows.rows() + kQuestionTokens, rows.cols());
    for (Index i = 0; i < all.rows(); ++i) {
      for (Index c = 0; c < all.cols(); ++c) {
        all(i, c) = kNoise * (static_cast<float>(random()) * 0x1p-31F - 1.0F);
      }
    }
    all.middleRows(kPromptTokens, rows.rows()) = rows;
    return all;
  };
  Layer layer{surround(visual.tokens), surround(visual.queries), surround(visual.keys)};
  layer.tokens.bottomRows(kQuestionTokens) = question.tokens;
  layer.queries.bottomRows(kQuestionTokens) = question.queries;
  return layer;
}

}  // namespace photo
