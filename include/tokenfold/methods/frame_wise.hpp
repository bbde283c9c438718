// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/core/pipeline.hpp"
#include "tokenfold/filter/per_frame.hpp"

namespace tokenfold {
namespace detail {

template <class Method>
struct FrameWiseOf;
template <class FilterStage, class CorrelateStage, class CompressStage>
struct FrameWiseOf<Pipeline<FilterStage, CorrelateStage, CompressStage>> {
  using type = Pipeline<filter::PerFrame<FilterStage>, CorrelateStage, CompressStage>;
};

}  // namespace detail

/// An image method with frame-wise budgets: every frame of a video keeps its share of the budget,
/// whatever the other frames hold. `FrameWise<FastV>{}`; see filter::PerFrame.
template <class Method>
using FrameWise = typename detail::FrameWiseOf<Method>::type;

/// The same with the options of `method`: `frame_wise(prumerge_released())`.
template <class FilterStage, class CorrelateStage, class CompressStage>
auto frame_wise(const Pipeline<FilterStage, CorrelateStage, CompressStage>& method) {
  return Pipeline<filter::PerFrame<FilterStage>, CorrelateStage, CompressStage>{
      .filter = {.filter = method.filter},
      .correlate = method.correlate,
      .compress = method.compress};
}

}  // namespace tokenfold
