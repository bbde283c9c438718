// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tokenfold/core/options.hpp"
#include "tokenfold/core/products.hpp"
#include "tokenfold/core/sequence.hpp"

namespace tokenfold {

/// The sequence says, or lets us compute, how relevant each token is to the text: add Relevance(r),
/// or ImageEmbeddings(e) and TextEmbeddings(t).
template <class S>
concept HasTextRelevance = HasRelevance<S> ||(HasImageEmbeddings<S>&& HasTextEmbeddings<S>);

namespace filter {

/// Are tokens that resemble the text relevant, or those that do not? CLIP's patches often resemble
/// the matching caption *less* than the background does.
enum class RelevanceSign {
  positive,  ///< r = cos (published)
  negative,  ///< r = −cos (released)
};
constexpr auto enum_names(RelevanceSign) {
  return enum_names_of<RelevanceSign>(
      {{"positive", RelevanceSign::positive}, {"negative", RelevanceSign::negative}});
}

}  // namespace filter

namespace detail {

/// out[i] = (1/M) Σ_m cos(image_i, text_m) = the direction of image_i · the mean direction of the
/// text: one product of N · C. A text row without a direction adds 0; an image row that is not
/// finite gives NaN.
template <class T, class U>
void mean_text_cosines(MatrixView<const T> image, MatrixView<const U> text, Span<double> out,
                       Workspace& workspace) {
  using Acc = Accumulator<T>;
  Workspace::Frame frame(workspace);
  const Span<double> mean = workspace.take_filled<double>(text.cols(), 0);
  for (Index m = 0; m < text.rows(); ++m) {
    const auto row = ConstVectorMap<U>(text.row(m), text.cols()).template cast<double>();
    const double norm = row.norm();
    if (norm > 0 && std::isfinite(norm)) {
      as_vector<DoubleFor<T>>(mean) += row / (norm * static_cast<double>(text.rows()));
    }
  }
  const Span<Acc> direction = workspace.take<Acc>(mean.size());
  as_vector(direction) = as_vector<DoubleFor<T>>(mean).template cast<Acc>();
  const Span<Acc> dots = workspace.take<Acc>(image.rows());
  row_dot_products<T>(image, Span<const Acc>(direction.data(), direction.size()), dots, workspace);
  for (Index i = 0; i < image.rows(); ++i) {
    const double norm =
        ConstVectorMap<T>(image.row(i), image.cols()).template cast<double>().norm();
    out[i] = norm == 0 ? 0 : static_cast<double>(dots[i]) / norm;
  }
}

inline void negate(Span<double> r) {
  for (double& value : r) {
    value = -value;
  }
}

/// r̃ = (r − min r + 1e-6) / (max r − min r) in place, over the finite values; equal values: 1.
inline void normalize_relevance(Span<double> r) {
  double low = std::numeric_limits<double>::infinity();
  double high = -low;
  for (const double value : r) {
    if (std::isfinite(value)) {
      low = std::min(low, value);
      high = std::max(high, value);
    }
  }
  for (double& value : r) {
    if (std::isfinite(value)) {
      value = high > low ? (value - low + 1e-6) / (high - low) : 1;
    }
  }
}

/// r̃ of every visual token: the resource `relevance` as it is, or from the embeddings.
template <HasTextRelevance S>
void text_relevance(const S& sequence, filter::RelevanceSign sign, Span<double> out,
                    Workspace& workspace) {
  const TokenLayout& layout = sequence.layout;
  if constexpr (HasRelevance<S>) {
    if (!sequence.relevance.empty()) {
      require(sequence.relevance.matrix.cols() == 1,
              "cdpruner: relevance must be one number a row, got ",
              sequence.relevance.matrix.cols());
      const auto given = visual_rows(layout, sequence.relevance, "cdpruner: relevance", workspace);
      for (Index v = 0; v < out.size(); ++v) {
        out[v] = static_cast<double>(given(v, 0));
        require(!(out[v] < 0), "cdpruner: relevance must not be negative, got ", out[v],
                " for visual token ", v);
      }
      return;
    }
  }
  if constexpr (HasImageEmbeddings<S> && HasTextEmbeddings<S>) {
    if (!sequence.image_embeddings.empty() && sequence.text_embeddings.rows() > 0) {
      const auto image =
          visual_rows(layout, sequence.image_embeddings, "cdpruner: image embeddings", workspace);
      require(image.cols() == sequence.text_embeddings.cols(), "cdpruner: image embeddings have ",
              image.cols(), " channels, text embeddings ", sequence.text_embeddings.cols());
      mean_text_cosines(image, sequence.text_embeddings, out, workspace);
      if (sign == filter::RelevanceSign::negative) {
        negate(out);
      }
      normalize_relevance(out);
      return;
    }
  }
  fail("cdpruner: give relevance, or image embeddings and text embeddings; all are empty");
}

}  // namespace detail

/// CDPruner's r̃ of every row of `image`, [N × C], with respect to `text`, [M × C], scaled over all of
/// them. The authors' code scales several crops of an image together: call this with the embeddings
/// of all crops, and give each crop its part as Relevance.
template <class Image, class Text>
std::vector<double> relevance_to_text(
    const Image& image, const Text& text,
    filter::RelevanceSign sign = filter::RelevanceSign::positive) {
  using T = typename decltype(MatrixView(image))::Element;
  using U = typename decltype(MatrixView(text))::Element;
  const MatrixView<const T> rows = MatrixView(image);
  const MatrixView<const U> words = MatrixView(text);
  require(rows.cols() == words.cols() && words.rows() > 0,
          "relevance to text: image embeddings are [", rows.rows(), " x ", rows.cols(),
          "], text embeddings [", words.rows(), " x ", words.cols(), "]");
  Workspace workspace;
  std::vector<double> relevance(static_cast<std::size_t>(rows.rows()));
  detail::mean_text_cosines(rows, words, Span<double>(relevance), workspace);
  if (sign == filter::RelevanceSign::negative) {
    detail::negate(relevance);
  }
  detail::normalize_relevance(relevance);
  return relevance;
}

}  // namespace tokenfold
