// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tokenfold/core/options.hpp"
#include "tokenfold/core/plan.hpp"
#include "tokenfold/core/products.hpp"
#include "tokenfold/core/sequence.hpp"

/// SparseVLM's raters: the text tokens that have to do with the image, chosen once, before layer 0,
/// and asked in every pruning layer.
///
///   std::vector<tf::Token> raters = tf::text_raters(layout, embeddings);
///   for (each pruning layer) {
///     SparseVLM{}.plan(Sequence(layout, attention, Features(hidden), Raters(raters)), budget, …);
///     tf::follow_raters(plan, raters);
///   }
namespace tokenfold {

/// Resource `raters`: the text tokens that rate the visual ones, as rows of the sequence.
struct Raters {
  Span<const Token> raters;

  explicit Raters(Span<const Token> rows) : raters(rows) {}
};

/// The sequence has `raters`: add Raters(rows).
template <class S>
concept HasRaters = HasLayout<S> && requires(const S& sequence) {
  { sequence.raters } -> std::convertible_to<Span<const Token>>;
};

/// Who rates.
enum class RaterSource {
  given,     ///< the resource `raters`; refused if there are none
  all_text,  ///< every text token after the image
};
constexpr auto enum_names(RaterSource) {
  return enum_names_of<RaterSource>(
      {{"given", RaterSource::given}, {"all_text", RaterSource::all_text}});
}

/// How relevant a text token must be to become a rater.
enum class RaterThreshold {
  above_mean,     ///< r_t > mean(r), or ≥ where that leaves nobody (released)
  at_least_mean,  ///< r_t ≥ mean(r) (published)
};

namespace detail {

/// SparseVLM's relevance of each text token after the image,
///
///   r_t = (1/N) Σ_j softmax_t(x_j · x_t),   j visual
///
/// the softmax running over the text, unscaled. A product that is not finite counts as −∞; a visual
/// token without finite products is left out. `embeddings`: [P × D].
template <class T>
void text_relevance(const TokenLayout& layout, MatrixView<const T> embeddings,
                    Span<double> relevance, Workspace& workspace) {
  using Acc = Accumulator<T>;
  Workspace::Frame frame(workspace);
  const Range text = layout.text_after();
  const Range visual = layout.visual_range();
  const HeadsView<const T> text_rows(embeddings.middle_rows(text));
  auto sum = as_vector<DoubleFor<T>>(relevance);
  sum.setZero();
  Index counted = 0;
  const auto rate = [&](Index row, Span<Acc> products) {
    if (layout.ordinal(row) < 0) {
      return;
    }
    Acc top = -std::numeric_limits<Acc>::infinity();
    for (Acc& product : products) {
      product = std::isfinite(product) ? product : -std::numeric_limits<Acc>::infinity();
      top = std::max(top, product);
    }
    if (std::isfinite(top)) {
      auto p = as_vector(products).array();
      p = (p - top).exp();
      sum += (as_vector(products) / p.sum()).template cast<double>();
      ++counted;
    }
  };
  const MatrixView<Acc> products(workspace.take<Acc>(widening_block * text.size()).data(),
                                 widening_block, text.size());
  for (Index begin = visual.begin; begin < visual.end; begin += widening_block) {
    const Range rows{begin, std::min(begin + widening_block, visual.end)};
    for_each_row_block(embeddings.middle_rows(rows), workspace,
                       [&](Range block, MatrixView<const Acc> left) {
                         const auto out = products.middle_rows(block);
                         inner_products(left, text_rows, out, workspace);
                         for (Index i = 0; i < block.size(); ++i) {
                           rate(begin + block.begin + i, Span<Acc>(out.row(i), text.size()));
                         }
                       });
  }
  if (counted > 0) {
    sum /= static_cast<double>(counted);
  }
}

}  // namespace detail

/// SparseVLM's raters (arXiv 2410.04417): the text tokens after the image whose relevance r_t (see
/// `detail::text_relevance`) is above the mean, as ascending rows. At least one if there is text
/// after the image.
///
/// `embeddings`: [P × D], the language model's input before layer 0. Cost: N · M · D multiply-adds.
template <class T>
void text_raters(const TokenLayout& layout, MatrixView<const T> embeddings,
                 RaterThreshold threshold, Workspace& workspace, std::vector<Token>& raters) {
  require(embeddings.rows() == layout.tokens(), "text raters: ", embeddings.rows(),
          " rows of embeddings were given for ", layout.tokens(), " tokens");
  raters.clear();
  const Range text = layout.text_after();
  if (text.empty()) {
    return;
  }
  Workspace::Frame frame(workspace);
  const Span<double> relevance = workspace.take<double>(text.size());
  detail::text_relevance(layout, embeddings, relevance, workspace);
  // The mean of equal numbers may be rounded to above them.
  const auto r = detail::as_vector<detail::DoubleFor<T>>(relevance);
  const double mean = std::min(r.mean(), r.maxCoeff());
  const auto choose = [&](auto&& chosen) {
    for (Index t = 0; t < text.size(); ++t) {
      if (chosen(relevance[t])) {
        raters.push_back(static_cast<Token>(text.begin + t));
      }
    }
  };
  if (threshold == RaterThreshold::above_mean) {
    choose([&](double value) { return value > mean; });
  }
  if (raters.empty()) {
    choose([&](double value) { return value >= mean; });
  }
}

/// The same for callers who do not reuse memory; any row-major matrix or view.
template <class M>
std::vector<Token> text_raters(const TokenLayout& layout, const M& embeddings,
                               RaterThreshold threshold = RaterThreshold::above_mean) {
  using T = typename decltype(MatrixView(embeddings))::Element;
  Workspace workspace;
  std::vector<Token> raters;
  text_raters(layout, MatrixView<const T>(MatrixView(embeddings)), threshold, workspace, raters);
  return raters;
}

/// Renumbers the raters after a reduction: the text after the image has moved up.
inline void follow_raters(const ReductionPlan& plan, Span<Token> raters) {
  const Index end = plan.visual().end;
  const Span<const Token> after = plan.kept().subspan(end, plan.output_tokens() - end);
  for (Token& rater : raters) {
    const Token* found = std::lower_bound(after.begin(), after.end(), rater);
    require(found != after.end() && *found == rater, "raters: row ", rater,
            " is not a row after the image");
    rater = static_cast<Token>(end + (found - after.begin()));
  }
}

namespace detail {

/// The rows that rate, checked; at least one. Memory from `workspace` or the caller's.
template <HasLayout S>
Span<const Token> rater_rows(const S& sequence, RaterSource source, Workspace& workspace) {
  const TokenLayout& layout = sequence.layout;
  if (source == RaterSource::all_text) {
    const Range text = layout.text_after();
    require(!text.empty(), "raters: the layout has no text tokens after the image");
    const Span<Token> rows = workspace.take<Token>(text.size());
    for (Index t = 0; t < text.size(); ++t) {
      rows[t] = static_cast<Token>(text.begin + t);
    }
    return {rows.data(), rows.size()};
  }
  Span<const Token> rows;
  if constexpr (HasRaters<S>) {
    rows = sequence.raters;
  }
  require(!rows.empty(),
          "raters: none were given; choose them with text_raters(), or set raters = all_text");
  for (const Token row : rows) {
    require(0 <= row && row < layout.tokens() && layout.ordinal(row) < 0, "raters: row ", row,
            " is not a text token of the ", layout.tokens(), " rows");
  }
  return rows;
}

}  // namespace detail
}  // namespace tokenfold
