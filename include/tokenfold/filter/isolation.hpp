// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <numeric>

#include "tokenfold/filter/directions.hpp"
#include "tokenfold/filter/nearest_pick.hpp"

namespace tokenfold::detail {

/// The distance of every token to its nearest neighbour, exact where it is largest: what the most
/// isolated token is found by.
///
/// One neighbour that is nearer than that shows that a token is not the most isolated one; so each
/// token is compared with the others only until such a neighbour turns up, and each cosine counts
/// for both of its tokens. Sixteen tokens at a time make rounds through all others; who is out, or
/// is back where it began, makes room for the next.
template <class T>
class Isolation {
 public:
  using Acc = Accumulator<T>;

  /// `usable`: tokens that count. `everybody`: exact distances of all.
  Isolation(const CosineRows<T>& cosines, Span<const bool> usable, bool everybody,
            Workspace& workspace)
      : directions_(cosines, slots, workspace),
        usable_(usable),
        everybody_(everybody),
        highest_(workspace.take_filled<Acc>(cosines.size(), Acc(-1))),
        done_(workspace.take_filled<bool>(cosines.size(), false)),
        order_(workspace.take<Index>(cosines.size())),
        columns_(workspace.take<Index>(cosines.size())),
        cosines_(workspace.take<Acc>(slots * chunk).data(), slots, chunk) {}

  void distances(Span<double> out) {
    const Index n = order_.size();
    std::iota(columns_.begin(), columns_.end(), Index{0});
    compare_neighbours();
    std::iota(order_.begin(), order_.end(), Index{0});
    std::sort(order_.begin(), order_.end(), [&](Index a, Index b) {
      return highest_[a] < highest_[b] || (highest_[a] == highest_[b] && a < b);
    });
    Index next = 0;
    for (Range at{0, std::min(chunk, n)};; at = next_chunk(at)) {
      for (; running_ < slots && next < n; ++next) {
        const Index i = order_[next];
        if (usable_[i] && !is_out(i)) {
          directions_.hold(running_, i);
          runners_[running_++] = {i, 0};
        }
      }
      if (running_ == 0) {
        break;
      }
      compare(at);
    }
    for (Index v = 0; v < n; ++v) {
      out[v] = cosine_distance(highest_[v]);
    }
  }

 private:
  static constexpr Index slots = 16;
  static constexpr Index chunk = 32;
  struct Runner {
    Index token;
    Index seen;  // columns
  };

  Range next_chunk(Range at) const {
    const Index begin = at.end < order_.size() ? at.end : 0;
    return {begin, std::min(begin + chunk, order_.size())};
  }

  /// Somebody else is more isolated, or as much and of a lower row.
  bool is_out(Index i) const {
    if (everybody_ || best_ < 0) {
      return false;
    }
    const double own = cosine_distance(highest_[i]);
    const double best = cosine_distance(highest_[best_]);
    return own < best || (own == best && i > best_);
  }

  void meet(Index i, Index j, Acc cosine) {
    if (i != j && usable_[i] && usable_[j]) {
      highest_[i] = std::max(highest_[i], cosine);
      highest_[j] = std::max(highest_[j], cosine);
    }
  }

  /// Neighbours in the image are often alike: a few cosines per token that tell who might be
  /// isolated.
  void compare_neighbours() {
    const Index n = order_.size();
    constexpr Index few = 4;
    for (Index begin = 0; begin + 1 < n; begin += few) {
      const Index rows = std::min(few, n - begin);
      const Index others = std::min(few, n - begin - 1);
      for (Index r = 0; r < rows; ++r) {
        directions_.hold(r, begin + r);
      }
      directions_.cosines({0, rows}, columns_.subspan(begin + 1, others),
                          cosines_.middle_rows({0, rows}).middle_cols({0, others}));
      for (Index r = 0; r < rows; ++r) {
        for (Index c = r; c < others; ++c) {
          meet(begin + r, begin + 1 + c, cosines_(r, c));
        }
      }
    }
  }

  void compare(Range at) {
    directions_.cosines({0, running_}, columns_.subspan(at.begin, at.size()),
                        cosines_.middle_rows({0, running_}).middle_cols({0, at.size()}));
    for (Index r = 0; r < running_; ++r) {
      for (Index j = at.begin; j < at.end; ++j) {
        // Whose round is over has met everybody: a second cosine of the same two, with other
        // rounding, would break their tie.
        if (!done_[j]) {
          meet(runners_[r].token, j, cosines_(r, j - at.begin));
        }
      }
    }
    for (Index r = running_ - 1; r >= 0; --r) {
      const Index i = runners_[r].token;
      runners_[r].seen += at.size();
      const bool out = is_out(i);
      if (out || runners_[r].seen == order_.size()) {
        if (!out) {
          done_[i] = true;
          best_ = i;
        }
        runners_[r] = runners_[--running_];
        directions_.copy(running_, r);
      }
    }
  }

  Directions<T> directions_;
  Span<const bool> usable_;
  bool everybody_;
  Span<Acc> highest_;
  Span<bool> done_;
  Span<Index> order_;
  Span<Index> columns_;
  MatrixView<Acc> cosines_;
  Runner runners_[slots] = {};
  Index running_ = 0;
  Index best_ = -1;
};

}  // namespace tokenfold::detail
