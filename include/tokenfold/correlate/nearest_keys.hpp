// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "tokenfold/core/highest.hpp"
#include "tokenfold/core/products.hpp"
#include "tokenfold/core/stages.hpp"

namespace tokenfold {
namespace detail {

/// Selects the k highest of a row of values, for one row after another: 32 of 576 in 1 µs, with a
/// selection by comparisons in 5.
template <class T>
class HighestOfRow {
 public:
  /// Memory from the enclosing workspace frame.
  HighestOfRow(Index k, Index count, Workspace& workspace)
      : k_(k), keys_(workspace.take<Key>(count)), chosen_(workspace.take<Token>(count + 1)) {}

  /// The value of a column, to be set for all of them; what is not finite is not chosen.
  void set(Index column, T value) {
    const bool is_finite = std::abs(value) <= std::numeric_limits<T>::max();
    keys_[column] = is_finite ? ordered_bits(value) : never;
  }
  void exclude(Index column) { keys_[column] = never; }

  /// The columns of the k highest values, ascending; of equals at the k-th the lower columns.
  Span<const Token> find() {
    const Key least = std::max<Key>(kth_highest(Span<const Key>(keys_), k_), never + 1);
    Index size = 0;
    for (Index c = 0; c < keys_.size(); ++c) {
      chosen_[size] = static_cast<Token>(c);  // written over unless it reaches the least
      size += keys_[c] >= least ? 1 : 0;
    }
    if (size > k_) {
      Index ties = k_ - std::count_if(chosen_.begin(), chosen_.begin() + size,
                                      [&](Token c) { return keys_[c] > least; });
      const auto too_many = [&](Token c) { return keys_[c] == least && ties-- <= 0; };
      size = std::remove_if(chosen_.begin(), chosen_.begin() + size, too_many) - chosen_.begin();
    }
    return {chosen_.data(), size};
  }

 private:
  using Key = OrderedBits<T>;
  static constexpr Key never = std::numeric_limits<Key>::min();

  Index k_;
  Span<Key> keys_;
  Span<Token> chosen_;
};

}  // namespace detail

namespace correlate {

/// Who may be absorbed.
enum class Sources {
  all,        ///< every other token, preserved ones too (released)
  discarded,  ///< discarded tokens only
};
constexpr auto enum_names(Sources) {
  return enum_names_of<Sources>({{"all", Sources::all}, {"discarded", Sources::discarded}});
}

/// PruMerge's clusters (arXiv 2403.15388, section 3.3): each preserved token p picks the k tokens
/// whose keys are most like its own,
///
///   J_j = { p : j ∈ kNN_k(p) },   similarity cos(k_j, k_p), heads concatenated
///
/// so it is the target that picks its sources: a token may have any number of targets, also none.
/// The paper does not give k; the release has 32. Fewer candidates than k: all of them. A token
/// preserved twice counts as two candidates (as released); zero keys have similarity 0 to
/// everything, keys that are not finite are never absorbed.
///
/// Reads: keys.
/// Strengths: the cosines of the links.
/// Cost: one [K × W] · [W × N] product, W the width of all key heads, and K selections in O(N).
struct NearestKeys {
  Index neighbours = 32;
  Sources sources = Sources::all;

  template <class Visit>
  void options(Visit&& visit) {
    visit("neighbours", neighbours, "tokens of most similar keys that a preserved one absorbs");
    visit("sources", sources, "who may be absorbed");
  }

  template <HasKeys S>
  void operator()(const S& sequence, const Partition& partition, Correlation& correlation,
                  Workspace& workspace) const {
    require(neighbours >= 0, "nearest keys: neighbours must not be negative, got ", neighbours);
    const auto all_keys = keys_of(sequence);
    const Range range = sequence.layout.visual_range();
    const auto keys = all_keys.middle_tokens(range);
    using T = Accumulator<typename decltype(all_keys)::Element>;

    Workspace::Frame frame(workspace);
    const Span<Token> targets = distinct(partition.preserved, workspace);
    const Span<Token> candidates = candidate_list(partition, workspace);
    const Span<T> inverse_length = inverse_lengths(keys, workspace);

    const MatrixView<T> directions(workspace.take<T>(targets.size() * keys.width()).data(),
                                   targets.size(), keys.width());
    detail::gather_rows(keys, Span<const Token>(targets.data(), targets.size()), range.begin, T(1),
                        directions);
    for (Index i = 0; i < targets.size(); ++i) {
      directions.map().row(i) *= inverse_length[targets[i] - range.begin];
    }
    const MatrixView<T> similarity(workspace.take<T>(targets.size() * range.size()).data(),
                                   targets.size(), range.size());
    detail::inner_products(MatrixView<const T>(directions), keys, similarity, workspace);

    // Per target, the k best candidates; then grouped by source, as a correlation is.
    const Index k = std::min(neighbours, candidates.size());
    const Span<Link> links = workspace.take<Link>(targets.size() * k);
    detail::HighestOfRow<T> row(k, candidates.size(), workspace);
    Index size = 0;
    for (Index i = 0; i < targets.size(); ++i) {
      T* const cosines = similarity.row(i);
      for (Index c = 0; c < range.size(); ++c) {
        cosines[c] *= inverse_length[c];
      }
      for (Index c = 0; c < candidates.size(); ++c) {
        row.set(c, cosines[candidates[c] - range.begin]);
      }
      const auto self = std::lower_bound(candidates.begin(), candidates.end(), targets[i]);
      if (self != candidates.end() && *self == targets[i]) {
        row.exclude(self - candidates.begin());
      }
      for (const Token c : row.find()) {
        const Token source = candidates[c];
        links[size++] = {source, targets[i], static_cast<double>(cosines[source - range.begin])};
      }
    }
    group_by_source(links.subspan(0, size), range, correlation, workspace);
  }

 private:
  struct Link {
    Token source;
    Token target;
    double cosine;
  };

  /// `tokens` without repetitions, in the same order.
  static Span<Token> distinct(Span<const Token> tokens, Workspace& workspace) {
    const Span<Token> list = workspace.take<Token>(tokens.size());
    std::copy(tokens.begin(), tokens.end(), list.begin());
    if (std::is_sorted(list.begin(), list.end())) {
      return {list.data(), std::unique(list.begin(), list.end()) - list.begin()};
    }
    Index size = 0;
    for (const Token token : tokens) {
      if (std::find(list.begin(), list.begin() + size, token) == list.begin() + size) {
        list[size++] = token;
      }
    }
    return {list.data(), size};
  }

  /// Everybody who may be absorbed, ascending.
  Span<Token> candidate_list(const Partition& partition, Workspace& workspace) const {
    const Span<const Token> preserved(partition.preserved);
    const Span<const Token> discarded(partition.discarded);
    const bool with_preserved = sources == Sources::all;
    const Span<Token> list =
        workspace.take<Token>(discarded.size() + (with_preserved ? preserved.size() : 0));
    auto end = std::copy(discarded.begin(), discarded.end(), list.begin());
    if (with_preserved) {
      std::copy(preserved.begin(), preserved.end(), end);
    }
    std::sort(list.begin(), list.end());
    return list;
  }

  /// 1 / ‖key‖ over all heads, 0 for a zero key.
  template <class E>
  static Span<Accumulator<E>> inverse_lengths(HeadsView<const E> keys, Workspace& workspace) {
    using T = Accumulator<E>;
    const Span<T> lengths = workspace.take_filled<T>(keys.tokens(), T(0));
    detail::for_each_joined_part(keys, [&](Range, MatrixView<const E> part) {
      detail::for_each_row_block(part, workspace, [&](Range block, MatrixView<const T> rows) {
        for (Index i = 0; i < block.size(); ++i) {
          lengths[block.begin + i] += rows.map().row(i).squaredNorm();
        }
      });
    });
    for (T& length : lengths) {
      length = length > T(0) ? T(1) / std::sqrt(length) : T(0);
    }
    return lengths;
  }

  static void group_by_source(Span<Link> links, Range range, Correlation& correlation,
                              Workspace& workspace) {
    const Span<Index> ends = workspace.take_filled<Index>(range.size() + 1, 0);
    for (const Link& link : links) {
      ++ends[link.source - range.begin + 1];
    }
    for (Index i = 0; i < range.size(); ++i) {
      ends[i + 1] += ends[i];
    }
    const Span<Link> grouped = workspace.take<Link>(links.size());
    for (const Link& link : links) {
      grouped[ends[link.source - range.begin]++] = link;
    }
    Token source = no_token;
    for (const Link& link : grouped) {
      if (link.source != source) {
        source = link.source;
        correlation.begin_source(source);
      }
      correlation.link(link.target, link.cosine);
    }
  }
};

}  // namespace correlate
}  // namespace tokenfold
