// SPDX-License-Identifier: Apache-2.0
//
// What was decided, as tensors under the names of the golden files.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "layout.hpp"
#include "tensors.hpp"

namespace reduce_tool {

// Order of `discarded_indices`, and with them of the rows of `target_*`.
enum class DiscardedOrder { row, score };
constexpr auto enum_names(DiscardedOrder) {
  return tokenfold::enum_names_of<DiscardedOrder>(
      {{"row", DiscardedOrder::row}, {"score", DiscardedOrder::score}});
}

// What planning leaves behind.
struct Decision {
  tokenfold::ReductionPlan plan;
  tokenfold::Workspace workspace;  // with the partition and the correlation
};

namespace detail {

using Integers = std::vector<std::int64_t>;

inline std::size_t at(Index i) { return static_cast<std::size_t>(i); }

template <class Span>
Integers integers(const Span& values, std::int64_t add = 0) {
  Integers out;
  for (const auto value : values) out.push_back(static_cast<std::int64_t>(value) + add);
  return out;
}

// A link with its final weight.
struct Link {
  Token source;
  Token target;
  double weight;
  double strength;
};

// The entry of W in the output row of each preserved token, by input row.
class PlanEntries {
 public:
  explicit PlanEntries(const tokenfold::ReductionPlan& plan) : plan_(plan) {
    for (Index row = 0; row < plan.output_tokens(); ++row) {
      if (plan.kept()[row] != tokenfold::no_token) rows_.emplace(plan.kept()[row], row);
    }
  }
  // -1: not preserved.
  Index row(Token token) const {
    const auto found = rows_.find(token);
    return found == rows_.end() ? -1 : found->second;
  }
  double weight(Index row, Token column) const {
    const auto columns = plan_.columns();
    const auto begin = columns.begin() + plan_.offsets()[row];
    const auto end = columns.begin() + plan_.offsets()[row + 1];
    const auto found = std::lower_bound(begin, end, column);
    const bool there = found != end && *found == column;
    return there ? static_cast<double>(plan_.weights()[found - columns.begin()]) : 0.0;
  }

 private:
  const tokenfold::ReductionPlan& plan_;
  std::map<Token, Index> rows_;  // the first one of a token that is preserved twice
};

// All links, by source, then target, each with what the target takes of the source for every part
// of itself, W[target, source] / W[target, target]: FiCoCo's share α. A share that goes to a
// discarded target is lost, so that W has no entry.
inline std::vector<Link> final_links(const Decision& decision) {
  const tokenfold::Correlation& correlation = decision.workspace.correlation;
  const PlanEntries entries(decision.plan);
  std::vector<Link> links;
  for (Index i = 0; i < correlation.source_count(); ++i) {
    const auto strengths = correlation.strengths(i);
    double total = 0;
    for (const double strength : strengths) total += strength;
    for (Index l = 0; l < strengths.size(); ++l) {
      Link link{correlation.source(i), correlation.targets(i)[l], 0, strengths[l]};
      const Index row = entries.row(link.target);
      if (row >= 0) {
        const double own = entries.weight(row, link.target);
        link.weight = entries.weight(row, link.source) / (own > 0 ? own : 1);
      } else if (link.target >= 0 && total > 0 && std::isfinite(total)) {
        link.weight = strengths[l] / total;
      }
      links.push_back(link);
    }
  }
  std::sort(links.begin(), links.end(), [](const Link& a, const Link& b) {
    return a.source != b.source ? a.source < b.source : a.target < b.target;
  });
  return links;
}

inline void write_links(Writer& writer, const std::vector<Link>& links) {
  Integers sources, targets;
  std::vector<double> weights;
  for (const Link& link : links) {
    if (link.weight == 0) continue;
    sources.push_back(link.source);
    targets.push_back(link.target);
    weights.push_back(link.weight);
  }
  writer.integers("link_src_indices", sources);
  writer.integers("link_dst_indices", targets);
  writer.numbers("link_weights", weights);
}

// Rows of at most `width` links each, the strongest first; shorter rows are padded with -1 and 0.
struct LinkTable {
  Shape shape;
  Integers tokens;
  Integers rows;
  std::vector<double> weights;
};

template <class Key, class Other>
LinkTable link_table(const std::vector<Link>& links, const Integers& order, const Key& key,
                     const Other& other, const PlanEntries& entries, Index row_shift) {
  std::map<std::int64_t, std::vector<Link>> groups;
  std::size_t width = 0;
  for (const Link& link : links) groups[link.*key].push_back(link);
  for (auto& [token, group] : groups) {
    std::stable_sort(group.begin(), group.end(),
                     [](const Link& a, const Link& b) { return a.strength > b.strength; });
  }
  for (const std::int64_t token : order) {
    const auto group = groups.find(token);
    if (group != groups.end()) width = std::max(width, group->second.size());
  }
  LinkTable table;
  table.shape = {static_cast<std::int64_t>(order.size()), static_cast<std::int64_t>(width)};
  for (const std::int64_t token : order) {
    const std::vector<Link>& group = groups[token];
    for (std::size_t i = 0; i < width; ++i) {
      const bool there = i < group.size();
      const Token linked = there ? group[i].*other : tokenfold::no_token;
      const Index row = there ? entries.row(linked) : -1;
      table.tokens.push_back(linked);
      table.rows.push_back(row < 0 ? -1 : row - row_shift);
      table.weights.push_back(there ? group[i].weight : 0.0);
    }
  }
  return table;
}

// Falling, ties by row; scores that are not finite at either end.
inline Integers by_score(const TokenLayout& layout, const tokenfold::Partition& partition,
                         Integers order, bool finite_first) {
  std::sort(order.begin(), order.end());
  const auto score = [&](std::int64_t row) {
    return partition.scores[at(layout.ordinal(static_cast<Index>(row)))];
  };
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    const bool finite_a = std::isfinite(score(a));
    const bool finite_b = std::isfinite(score(b));
    return finite_a != finite_b ? finite_a == finite_first : finite_a && score(a) > score(b);
  });
  return order;
}

// `plan` is decision.plan or, without special rows, its part within `rows`.
inline void write_plan(Writer& writer, const tokenfold::ReductionPlan& plan, Range rows) {
  Integers kept = integers(plan.kept(), rows.begin);
  for (Index row = 0; row < plan.output_tokens(); ++row) {
    if (plan.kept()[row] == tokenfold::no_token) kept[at(row)] = tokenfold::no_token;
  }
  writer.integers("plan_kept", kept);
  writer.integers("plan_offsets", integers(plan.offsets()));
  writer.integers("plan_columns", integers(plan.columns(), rows.begin));
  writer.numbers("plan_weights", std::vector<float>(plan.weights().begin(), plan.weights().end()));
  kept.erase(std::remove(kept.begin(), kept.end(), tokenfold::no_token), kept.end());
  writer.integers("kept_indices", kept);
}

}  // namespace detail

// Everything that follows from the decision alone. Row numbers are those of `tokens`.
inline void write_decision(Writer& writer, const Decision& decision, const TokenLayout& layout,
                           const tokenfold::ReductionPlan& plan, Range rows,
                           DiscardedOrder discarded_order) {
  using namespace detail;
  const tokenfold::Partition& partition = decision.workspace.partition;
  const bool scored = static_cast<Index>(partition.scores.size()) == layout.visual_count();
  write_plan(writer, plan, rows);
  writer.numbers("scores", partition.scores);
  Integers discarded = integers(partition.discarded);
  if (discarded_order == DiscardedOrder::score && scored) {
    discarded = by_score(layout, partition, discarded, false);
  }
  writer.integers("discarded_indices", discarded);
  Integers patches;
  for (const Token row : partition.preserved) patches.push_back(layout.ordinal(row));
  writer.integers("kept_patches", patches);
  if (scored) {
    writer.integers("top_indices",
                    by_score(layout, partition, integers(partition.preserved), true));
  }

  const std::vector<Link> links = final_links(decision);
  write_links(writer, links);
  const PlanEntries entries(decision.plan);
  // Rows before the range are special rows, which every plan has at its start.
  const LinkTable targets =
      link_table(links, discarded, &Link::source, &Link::target, entries, rows.begin);
  writer.integers("target_indices", targets.shape, targets.tokens);
  writer.integers("target_rows", targets.shape, targets.rows);
  writer.numbers("target_weights", targets.shape, targets.weights);
  const LinkTable neighbours = link_table(links, integers(partition.preserved), &Link::target,
                                          &Link::source, entries, rows.begin);
  writer.integers("neighbour_indices", neighbours.shape, neighbours.tokens);
}

}  // namespace reduce_tool
