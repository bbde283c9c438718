// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "tokenfold/core/select.hpp"
#include "tokenfold/core/similarity.hpp"
#include "tokenfold/core/stages.hpp"
#include "tokenfold/filter/python_set_order.hpp"
#include "tokenfold/filter/row_norms.hpp"

namespace tokenfold::filter {

/// Whose norm makes a token a pivot.
enum class PivotSource {
  keys,      ///< the key, heads concatenated (DART)
  features,  ///< the compared vector itself (embedding-only engines, which have no keys)
};
constexpr auto enum_names(PivotSource) {
  return enum_names_of<PivotSource>(
      {{"keys", PivotSource::keys}, {"features", PivotSource::features}});
}

/// In which order the pivots take their tokens.
enum class PivotOrder {
  norm,          ///< by falling norm, image and text pivots together
  images_first,  ///< image pivots by falling norm, then text pivots by falling norm
  python_set,    ///< as CPython iterates over a set of the pivots' rows (released)
};
constexpr auto enum_names(PivotOrder) {
  return enum_names_of<PivotOrder>({{"norm", PivotOrder::norm},
                                    {"images_first", PivotOrder::images_first},
                                    {"python_set", PivotOrder::python_set}});
}

/// How a budget of T becomes picks of p pivots, p_i of them image tokens.
enum class PickCount {
  exact,     ///< T − p_i picks, the first pivots taking one more if p does not divide them
  released,  ///< ⌊T / p⌋ picks for each pivot: p · ⌊T / p⌋ + p_i tokens are preserved
};
constexpr auto enum_names(PickCount) {
  return enum_names_of<PickCount>({{"exact", PickCount::exact}, {"released", PickCount::released}});
}

/// DART's filter (arXiv 2502.11494, section 3): preserves a few pivots and the visual tokens that
/// duplicate them least. Pivots are the image tokens, and the tokens of the text after the image,
/// with the largest norms; each in turn takes those of the image tokens still free that are least
/// similar to it,
///
///   dup(p, i) = cos(x_p, x_i),   picks of p = the q lowest dup(p, ·)
///
/// Image pivots are preserved themselves; text pivots only vote. Fewer text tokens than asked for:
/// those that there are. T ≤ p_i (exact): the T image tokens of largest norm. A budget of none or
/// of all tokens is met exactly in either count. Zero rows are similar to nothing (0). Rows that
/// are not finite do not vote, unless nothing is finite, and are taken last.
///
/// Reads: features of the image and, for text pivots, of the text after it; keys (not for
/// PivotSource::features).
/// Score: the lowest cosine to a pivot, low = preserved in general (a pivot sees only what earlier
/// ones left); NaN for a token that is not finite.
/// Cost: one pass over the keys and one over the features, a [p × D] · [D × N] product, p partial
/// selections. Scratch: p (D + N) numbers and a few of length N.
struct PivotDuplicates {
  Index image_pivots = 4;
  Index text_pivots = 4;
  PivotSource pivots_by = PivotSource::keys;
  /// The released norm; the paper leaves it open.
  RowNorm norm = RowNorm::l1;
  PivotOrder pivot_order = PivotOrder::norm;
  PickCount count = PickCount::exact;
  /// score: image pivots by falling norm, then the picks as they were made.
  TokenOrder order = TokenOrder::raster;

  template <class Visit>
  void options(Visit&& visit) {
    visit("image_pivots", image_pivots, "image tokens that vote, and stay");
    visit("text_pivots", text_pivots, "tokens of the text after the image that vote");
    visit("pivots_by", pivots_by, "whose norm makes a pivot");
    visit("norm", norm, "which norm");
    visit("pivot_order", pivot_order, "the order in which pivots take tokens");
    visit("count", count, "exactly the budget, or the release's count");
    visit("order", order, "order of the preserved tokens");
  }

  template <HasFeatures S>
  void operator()(const S& sequence, const Budget& budget, Partition& partition,
                  Workspace& workspace) const {
    using E = typename std::remove_cvref_t<decltype(sequence.features)>::Element;
    using T = Accumulator<E>;
    const TokenLayout& layout = sequence.layout;
    const Index n = layout.visual_count();
    const Index keep = budget.keep_count(n);
    check();
    if (n == 0) {
      return;
    }
    Workspace::Frame frame(workspace);
    const Range image = layout.visual_range();
    const Range text = text_pivots > 0 ? layout.text_after() : Range{};
    // What is compared: the image, whatever stands between, the text. "Local" rows start here.
    const Range rows{image.begin, text.empty() ? image.end : text.end};
    const MatrixView<const E> features = feature_rows(sequence, rows);
    const Span<Index> chosen = workspace.take<Index>(n);
    const Pivots pivots =
        finite_pivots(layout, rows, text, features,
                      pivot_norms(sequence, rows, features, workspace), chosen, workspace);
    const Index voters = pivots.voters.size();
    const MatrixView<T> duplication(workspace.take<T>(voters * image.size()).data(), voters,
                                    image.size());
    const Span<bool> valid = workspace.take<bool>(image.size());
    compare(features, pivots.voters, duplication, valid, workspace);
    append_scores(layout, valid, duplication, partition.scores);

    Index kept_pivots = std::min(pivots.images, keep);
    Index picks = keep - kept_pivots;
    if (count == PickCount::released && 0 < keep && keep < n) {
      kept_pivots = pivots.images;
      picks = std::min(keep / voters * voters, n - kept_pivots);
    }
    pick(layout, valid, duplication, picks, chosen, kept_pivots, workspace);
    preserve(layout, chosen.subspan(0, kept_pivots + picks), order, partition, workspace);
  }

 private:
  /// Who votes, by local row and in turn, and how many of them are image tokens.
  struct Pivots {
    Span<const Index> voters;
    Index images;
  };

  void check() const {
    require(image_pivots >= 0, "dart: image_pivots must not be negative, got ", image_pivots);
    require(text_pivots >= 0, "dart: text_pivots must not be negative, got ", text_pivots);
    require(image_pivots + text_pivots > 0, "dart: at least one pivot is needed");
  }

  template <class S>
  auto feature_rows(const S& sequence, Range rows) const {
    const auto& features = sequence.features;
    require(features.rows().contains(rows), "dart: features of rows [", features.rows().begin, ", ",
            features.rows().end, ") were given, but image and text pivots lie in rows [",
            rows.begin, ", ", rows.end, ")");
    return features.matrix.middle_rows(
        {rows.begin - features.first_row, rows.end - features.first_row});
  }

  /// The norm that makes a pivot, by local row.
  template <class S, class E>
  Span<double> pivot_norms(const S& sequence, Range rows, MatrixView<const E> features,
                           Workspace& workspace) const {
    const Span<double> norms = workspace.take<double>(rows.size());
    if (pivots_by == PivotSource::features) {
      detail::row_norms(HeadsView<const E>(features), norm, norms, workspace);
    } else if constexpr (HasKeys<S>) {
      detail::row_norms(keys_of(sequence).middle_tokens(rows), norm, norms, workspace);
    } else {
      fail("dart: pivots by the norm of their keys need keys; or set pivots_by = features");
    }
    return norms;
  }

  /// The pivots among the tokens whose features are finite. Hardly ever one is not: so only the
  /// features of pivots are looked at, unless one of theirs is not; all are read but once, when
  /// they are compared.
  template <class E>
  Pivots finite_pivots(const TokenLayout& layout, Range rows, Range text,
                       MatrixView<const E> features, Span<double> norms, Span<Index> chosen,
                       Workspace& workspace) const {
    const auto is_finite = [&](Index row) {
      return std::isfinite(
          detail::squared_norm(detail::ConstVectorMap<E>(features.row(row), features.cols())
                                   .template cast<Accumulator<E>>()));
    };
    const Pivots pivots = find_pivots(layout, rows, text, norms, chosen, workspace);
    if (std::all_of(pivots.voters.begin(), pivots.voters.end(), is_finite)) {
      return pivots;
    }
    for (Index row = 0; row < norms.size(); ++row) {
      if (!is_finite(row)) {
        norms[row] = std::numeric_limits<double>::quiet_NaN();
      }
    }
    return find_pivots(layout, rows, text, norms, chosen, workspace);
  }

  /// Image pivots by falling norm also go to the front of `chosen`, by ordinal.
  Pivots find_pivots(const TokenLayout& layout, Range rows, Range text, Span<const double> norms,
                     Span<Index> chosen, Workspace& workspace) const {
    const Index n = layout.visual_count();
    const Span<double> visual_norms = workspace.take<double>(n);
    for (Index v = 0; v < n; ++v) {
      visual_norms[v] = norms[layout.visual()[v] - rows.begin];
    }
    const Index first_word = text.begin - rows.begin;
    const Span<const double> word_norms =
        text.empty() ? Span<const double>() : norms.subspan(first_word, text.size());
    const Span<const Index> words = largest(word_norms, text_pivots, workspace);
    Span<const Index> images = largest(visual_norms, image_pivots, workspace);
    if (images.empty() && words.empty()) {
      images = detail::rank_highest(visual_norms, 1, workspace).subspan(0, 1);
    }

    const Span<Index> voters = workspace.take<Index>(images.size() + words.size());
    for (Index i = 0; i < images.size(); ++i) {
      chosen[i] = images[i];
      voters[i] = layout.visual()[images[i]] - rows.begin;
    }
    for (Index i = 0; i < words.size(); ++i) {
      voters[images.size() + i] = first_word + words[i];
    }
    put_in_turn(voters, rows.begin, norms, workspace);
    return {{voters.data(), voters.size()}, images.size()};
  }

  /// The up to `count` finite values that are largest, by falling value.
  static Span<const Index> largest(Span<const double> values, Index count, Workspace& workspace) {
    count = std::min(count, values.size());
    const Span<const Index> ranking = detail::rank_highest(values, count, workspace);
    while (count > 0 && !std::isfinite(values[ranking[count - 1]])) {
      --count;
    }
    return ranking.subspan(0, count);
  }

  void put_in_turn(Span<Index> voters, Index first_row, Span<const double> norms,
                   Workspace& workspace) const {
    if (pivot_order == PivotOrder::norm) {
      std::sort(voters.begin(), voters.end(), [&](Index a, Index b) {
        return norms[a] != norms[b] ? norms[a] > norms[b] : a < b;
      });
    } else if (pivot_order == PivotOrder::python_set) {
      Workspace::Frame frame(workspace);
      const Span<Token> rows = workspace.take<Token>(voters.size());
      std::transform(voters.begin(), voters.end(), rows.begin(),
                     [&](Index voter) { return static_cast<Token>(voter + first_row); });
      detail::python_set_order(rows, workspace);
      std::transform(rows.begin(), rows.end(), voters.begin(),
                     [&](Token row) { return row - first_row; });
    }
  }

  /// out[k, i] = cos(x_voter k, x_i) and whether x_i is finite, for the first rows of `features`,
  /// the image's. Row block by row block, so that norms and products read the features once.
  template <class E, class T>
  static void compare(MatrixView<const E> features, Span<const Index> voters, MatrixView<T> out,
                      Span<bool> valid, Workspace& workspace) {
    constexpr Index block_rows = 16;
    const Index d = features.cols();
    Workspace::Frame frame(workspace);
    const MatrixView<T> directions(workspace.take<T>(voters.size() * d).data(), voters.size(), d);
    for (Index k = 0; k < voters.size(); ++k) {
      const auto row = features.middle_rows({voters[k], voters[k] + 1});
      const T inverse = detail::CosineRows<E>(row, workspace).inverse_norm(0);
      if (inverse > 0) {
        directions.map().row(k) = inverse * row.map().template cast<T>();
      } else {
        directions.map().row(k).setZero();
      }
    }
    for (Index begin = 0; begin < out.cols(); begin += block_rows) {
      const Range block{begin, std::min(begin + block_rows, out.cols())};
      Workspace::Frame inner(workspace);
      const detail::CosineRows<E> rows(features.middle_rows(block), workspace);
      const auto products = out.middle_cols(block);
      detail::inner_products(MatrixView<const T>(directions), HeadsView<const E>(rows.matrix()),
                             products, workspace);
      for (Index i = 0; i < block.size(); ++i) {
        valid[begin + i] = rows.valid(i);
        const T inverse = rows.inverse_norm(i);
        for (Index k = 0; k < voters.size(); ++k) {
          // Not a product with 0: 0 · NaN is not 0.
          products(k, i) = inverse > 0 ? products(k, i) * inverse : T(0);
        }
      }
    }
  }

  template <class T>
  static void append_scores(const TokenLayout& layout, Span<const bool> valid,
                            MatrixView<T> duplication, std::vector<double>& scores) {
    for (const Token row : layout.visual()) {
      const Index i = row - layout.visual_range().begin;
      scores.push_back(valid[i] ? static_cast<double>(duplication.map().col(i).minCoeff())
                                : std::numeric_limits<double>::quiet_NaN());
    }
  }

  /// Writes the `picks` tokens that the pivots take, in turn, to `chosen` from `size` on.
  template <class T>
  static void pick(const TokenLayout& layout, Span<const bool> valid, MatrixView<T> duplication,
                   Index picks, Span<Index> chosen, Index size, Workspace& workspace) {
    const Index n = layout.visual_count();
    const Span<bool> taken = detail::mark(n, chosen.subspan(0, size), workspace);
    Span<Index> free = workspace.take<Index>(n - size);
    for (Index v = 0, i = 0; v < n; ++v) {
      if (!taken[v]) {
        free[i++] = v;
      }
    }
    const Index voters = duplication.rows();
    for (Index k = 0; k < voters; ++k) {
      const auto similarity = [&](Index v) {
        const Index i = layout.visual()[v] - layout.visual_range().begin;
        return valid[i] ? duplication(k, i) : std::numeric_limits<T>::infinity();
      };
      const Index quota = picks / voters + (k < picks % voters ? 1 : 0);
      std::partial_sort(free.begin(), free.begin() + quota, free.end(), [&](Index a, Index b) {
        const T to_a = similarity(a);
        const T to_b = similarity(b);
        return to_a != to_b ? to_a < to_b : a < b;
      });
      std::copy_n(free.begin(), quota, chosen.begin() + size);
      size += quota;
      free = free.subspan(quota, free.size() - quota);
    }
  }
};

}  // namespace tokenfold::filter
