// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <initializer_list>
#include <tokenfold/tokenfold.hpp>
#include <utility>

#include "measure.hpp"

/// One reduction as an engine runs it: plan and apply, with workspace, plan and output reused.
namespace bench {

/// Bytes of matrices that must be read.
template <class... M>
std::size_t bytes(const M&... matrices) {
  return (std::size_t{0} + ... +
          (static_cast<std::size_t>(matrices.size()) * sizeof(typename M::Scalar)));
}

/// Plans and applies `method` over and over; `bound` is what must be read and multiplied, to which
/// the output is added, which must be written. Beside the times: `kept`, the visual rows that come
/// out, and `scratch_kB`, the most workspace memory in use.
template <class Method, class S, class Tokens>
void step(benchmark::State& state, const Method& method, const S& sequence,
          const tokenfold::Budget& budget, const Tokens& tokens, Bound bound,
          tokenfold::Workspace workspace = {}) {
  tokenfold::ReductionPlan plan;
  method.plan(sequence, budget, workspace, plan);
  Tokens out(plan.output_tokens(), tokens.cols());
  bound.add_bytes(bytes(out));
  run(state, std::move(bound), [&] {
    method.plan(sequence, budget, workspace, plan);
    plan.apply(tokens, out);
    benchmark::DoNotOptimize(out.data());
  });
  state.counters["kept"] = static_cast<double>(plan.visual().size());
  state.counters["scratch_kB"] = static_cast<double>(workspace.peak()) / 1e3;
}

}  // namespace bench
