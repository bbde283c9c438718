// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/core/budget.hpp"
#include "tokenfold/core/correlation.hpp"
#include "tokenfold/core/partition.hpp"
#include "tokenfold/core/plan_writer.hpp"
#include "tokenfold/core/sequence.hpp"
#include "tokenfold/core/workspace.hpp"

/// The three stages of a reduction, each a callable that fills in what the next one reads:
///
///   stage       question it answers                 what it contributes to W
///   Filter      which tokens are discarded?         the rows
///   Correlate   where should what they knew go?     the sparsity pattern, the raw strengths
///   Compress    how is it merged?                   the values
///
/// A stage is an aggregate of its options with one const operator(). It constrains its sequence by
/// the resources it reads (`template <HasAttention S>`), so that a missing one is named by the
/// compiler, and clears nothing: outputs arrive empty.
namespace tokenfold {

/// Fills `partition` from a sequence and a budget.
template <class F, class S>
concept Filter = requires(const F& filter, const S& sequence, const Budget& budget,
                          Partition& partition, Workspace& workspace) {
  filter(sequence, budget, partition, workspace);
};

/// Fills `correlation` with links from discarded to preserved tokens.
template <class C, class S>
concept Correlate = requires(const C& correlate, const S& sequence, const Partition& partition,
                             Correlation& correlation, Workspace& workspace) {
  correlate(sequence, partition, correlation, workspace);
};

/// Writes one row per preserved or synthetic token.
template <class M, class S>
concept Compress = requires(const M& compress, const S& sequence, const Partition& partition,
                            const Correlation& correlation, PlanWriter& writer,
                            Workspace& workspace) {
  compress(sequence, partition, correlation, writer, workspace);
};

}  // namespace tokenfold
