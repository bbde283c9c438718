// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "tokenfold/core/stages.hpp"

namespace tokenfold::compress {

/// One more token for each cluster (SparseVLM, arXiv 2410.04417): preserved tokens stay as they
/// are, and the sources that are tied to synthetic token g become
///
///   y_g = Σ_i s_i x_i / (Σ_i s_i + ε)          or          y_g = Σ_i s_i x_i
///
/// s_i their strengths. The paper prints the sum, the release takes the mean with ε = 1e-6. The
/// synthetic tokens stand after the visual ones, in order of g; an empty cluster gives none.
///
/// Reads: links to `Correlation::extra_token(g)`; others are refused.
struct ClusterTokens {
  Aggregate rule = Aggregate::mean;
  /// ε of the mean.
  double epsilon = 1e-6;

  template <HasLayout S>
  void operator()(const S&, const Partition& partition, const Correlation& correlation,
                  PlanWriter& writer, Workspace& workspace) const {
    require(epsilon >= 0, "cluster tokens: epsilon must not be negative, got ", epsilon);
    for (const Token token : partition.preserved) {
      writer.copy_row(token);
    }
    Workspace::Frame frame(workspace);
    const Index most = correlation.link_count();
    const Span<double> total = workspace.take_filled<double>(most, 0);
    const Span<Index> end = workspace.take_filled<Index>(most + 1, 0);
    const auto for_each_link = [&](auto&& use) {
      for (Index i = 0; i < correlation.source_count(); ++i) {
        for (Index l = 0; l < correlation.targets(i).size(); ++l) {
          const double strength = correlation.strengths(i)[l];
          if (std::isfinite(strength) && strength > 0) {
            use(cluster(correlation.targets(i)[l], most), correlation.source(i), strength);
          }
        }
      }
    };
    for_each_link([&](Index g, Token, double strength) {
      total[g] += strength;
      ++end[g + 1];
    });
    for (Index g = 0; g < most; ++g) {
      end[g + 1] += end[g];
    }
    // Filling moves every start to its end, which is the start of the next cluster.
    const Span<Member> members = workspace.take<Member>(end[most]);
    for_each_link([&](Index g, Token source, double strength) {
      members[end[g]++] = {source, strength};
    });
    Index begin = 0;
    for (Index g = 0; g < most; ++g) {
      if (end[g] > begin) {
        writer.begin_extra_row();
      }
      const double divisor = rule == Aggregate::mean ? total[g] + epsilon : 1;
      for (; begin < end[g]; ++begin) {
        writer.add(members[begin].source, members[begin].strength / divisor);
      }
    }
  }

  template <class Visit>
  void options(Visit&& visit) {
    visit("rule", rule, "a cluster's token is the mean or the sum of its members");
    visit("epsilon", epsilon, "added to the number of members in the mean");
  }

 private:
  struct Member {
    Token source;
    double strength;
  };

  static Index cluster(Token target, Index most) {
    const Index g = -1 - Index{target};
    require(0 <= g && g < most, "cluster tokens: links must point to the synthetic tokens 0 to ",
            most - 1, ", got ", g);
    return g;
  }
};

}  // namespace tokenfold::compress
