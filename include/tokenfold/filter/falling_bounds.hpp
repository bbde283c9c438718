// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <limits>
#include <numeric>

#include "tokenfold/filter/greedy_picks.hpp"

/// Greedy choice by a criterion that further picks can only lower, as a distance to the nearest
/// pick or what a token adds to their span. What a token's criterion was some picks ago bounds what
/// it is now; so only tokens that lead by their bound are brought up to date.
namespace tokenfold::detail {

/// Tokens by falling bound, equal ones by row. Memory of the enclosing workspace frame: 16 N bytes.
class BoundHeap {
 public:
  BoundHeap(Index capacity, Workspace& workspace) : entries_(workspace.take<Entry>(capacity)) {}

  bool empty() const { return size_ == 0; }
  Index top() const { return entries_[0].token; }
  double highest() const {
    return empty() ? -std::numeric_limits<double>::infinity() : entries_[0].bound;
  }
  void push(Index token, double bound) {
    entries_[size_++] = {bound, token};
    std::push_heap(entries_.begin(), entries_.begin() + size_, after);
  }
  Index pop() {
    std::pop_heap(entries_.begin(), entries_.begin() + size_, after);
    return entries_[--size_].token;
  }
  /// Begins anew with those tokens < n of which `bound` gives one.
  template <class Bound>
  void assign(Index n, Bound&& bound) {
    size_ = 0;
    for (Index v = 0; v < n; ++v) {
      bound(v, [&](double value) { entries_[size_++] = {value, v}; });
    }
    std::make_heap(entries_.begin(), entries_.begin() + size_, after);
  }

 private:
  struct Entry {
    double bound;
    Index token;
  };
  static bool after(const Entry& a, const Entry& b) {
    return a.bound < b.bound || (a.bound == b.bound && a.token > b.token);
  }

  Span<Entry> entries_;
  Index size_ = 0;
};

/// Leaders that are brought up to date together: they share what is read of the picks.
inline constexpr Index leaders = 8;
/// Tokens of which all is read together where many are brought up to date.
inline constexpr Index refresh_group = 64;

/// Picks until `picks` are full or no candidate is left; the same picks as of an exhaustive search,
/// ties included. A criterion says of a token v:
///
///   bound(v)        at least what the criterion of v is now
///   up_to_date(v)   is it exactly that?
///   candidate(v)    may v still be picked, by what is known of it?
///   take(v)         v was picked, and others are going to be
///
/// `refresh(tokens, enough)` compares the tokens with the picks they do not know, each at least
/// until its bound is below `enough`, and may reorder `tokens`. After every `refresh_every` picks
/// (0: never) all tokens whose bound is not far below the criterion of the latest pick, and which
/// are thus to be asked soon, are refreshed in one go.
template <class Criterion>
void pick_by_falling_bounds(Criterion& criterion, GreedyPicks& picks, Span<double> scores,
                            bool repeatable, Workspace& workspace) {
  constexpr double not_far_below = 0.95;
  Workspace::Frame frame(workspace);
  const Index n = scores.size();
  BoundHeap heap(n, workspace);
  const auto is_candidate = [&](Index v) {
    return picks.is_candidate(v) && criterion.candidate(v);
  };
  const auto offer = [&](Index v) {
    if (is_candidate(v)) {
      heap.push(v, criterion.bound(v));
    }
  };
  const auto offer_all = [&] {
    heap.assign(n, [&](Index v, auto&& add) {
      if (is_candidate(v)) {
        add(criterion.bound(v));
      }
    });
  };
  const Span<Index> group = workspace.take<Index>(refresh_group);
  const Span<Index> work = workspace.take<Index>(leaders);
  const auto refresh_all_above = [&](double least) {
    Index size = 0;
    for (Index v = 0; v < n; ++v) {
      if (is_candidate(v) && criterion.bound(v) >= least) {
        group[size++] = v;
      }
      if (size == refresh_group || v + 1 == n) {
        criterion.refresh(group.subspan(0, size), -std::numeric_limits<double>::infinity());
        size = 0;
      }
    }
    offer_all();
  };

  offer_all();
  Index since_refresh = 0;
  while (!picks.full() && !heap.empty()) {
    if (criterion.up_to_date(heap.top())) {
      const Index v = heap.pop();
      const double value = criterion.bound(v);
      picks.add(v, value, scores, repeatable);
      if (!picks.full()) {
        criterion.take(v);
        offer(v);
        if (++since_refresh == Criterion::refresh_every) {
          refresh_all_above(not_far_below * value);
          since_refresh = 0;
        }
      }
      continue;
    }
    Index size = 0;
    while (size < leaders && !heap.empty() && !criterion.up_to_date(heap.top())) {
      group[size++] = heap.pop();
    }
    std::copy_n(group.begin(), size, work.begin());
    criterion.refresh(work.subspan(0, size), heap.highest());
    for (const Index v : group.subspan(0, size)) {
      offer(v);
    }
  }
}

/// Makes the bounds of all tokens exact.
template <class Criterion>
void refresh_all(Criterion& criterion, Index n, Workspace& workspace) {
  workspace.for_each((n + refresh_group - 1) / refresh_group, [&](Index g) {
    Index group[refresh_group];
    const Index begin = g * refresh_group;
    const Index size = std::min(refresh_group, n - begin);
    std::iota(group, group + size, begin);
    criterion.refresh(Span<Index>(group, size), -std::numeric_limits<double>::infinity());
  });
}

/// Compares `tokens` with all picks they do not know, a block of picks at a time, and drops a token
/// once it has heard enough. known[v]: picks that v knows; `compare(picks, tokens)` makes it the
/// end of `picks`.
template <class Compare, class Enough>
void compare_with_picks(Span<Index> tokens, Span<const Index> known, Index picks, Index block,
                        Compare&& compare, Enough&& enough) {
  std::sort(tokens.begin(), tokens.end(), [&](Index a, Index b) { return known[a] < known[b]; });
  while (!tokens.empty() && known[tokens[0]] < picks) {
    const Range some{known[tokens[0]], std::min(known[tokens[0]] + block, picks)};
    Index behind = 0;
    while (behind < tokens.size() && known[tokens[behind]] < some.end) {
      ++behind;
    }
    compare(some, tokens.subspan(0, behind));
    Index begin = behind;  // those that go on move up to the others
    for (Index r = behind - 1; r >= 0; --r) {
      if (!enough(tokens[r])) {
        tokens[--begin] = tokens[r];
      }
    }
    tokens = tokens.subspan(begin, tokens.size() - begin);
  }
}

}  // namespace tokenfold::detail
