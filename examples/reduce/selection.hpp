// SPDX-License-Identifier: Apache-2.0
//
// Methods that select by one score for the tool: EViT and FastV.

#pragma once

#include <array>
#include <tokenfold/methods/evit.hpp>
#include <tokenfold/methods/fastv.hpp>

#include "reducer.hpp"

namespace reduce_tool {

template <>
struct Names<tokenfold::filter::QuestionScore> {
  using E = tokenfold::filter::QuestionScore;
  static constexpr auto values =
      std::to_array<Name<E>>({{"last_token", E::last_token}, {"all_tokens", E::all_tokens}});
};

class EViTReducer {
 public:
  void use_preset(Preset preset) {
    method_ = preset == Preset::released ? tokenfold::evit_released() : tokenfold::EViT{};
    fuse_ = true;
  }
  void declare(Options& options) {
    options.add("order", method_.filter.order, "order of the preserved tokens");
    options.add("fuse", fuse_, "append one token made of what was discarded");
    options.add("rule", method_.compress.rule,
                "fuse: sum of the discarded, weighted by attention, or their weighted mean");
  }
  Needs needs() const {
    Needs needs;
    needs.cls = true;
    needs.rows = AttentionRows::cls;
    needs.kind = AttentionKind::probabilities;
    return needs;
  }
  Reports reports() const {
    return {.patches = true, .rounding = tokenfold::Rounding::ceil};  // as the release counts
  }

  template <class S>
  void plan(const S& sequence, const tokenfold::Budget& budget, Decision& decision) const {
    if (fuse_) {
      method_.plan(sequence, budget, decision.workspace, decision.plan);
    } else {
      const tokenfold::EViTWithoutFusion method{method_.filter, {}, {}};
      method.plan(sequence, budget, decision.workspace, decision.plan);
    }
  }

 private:
  tokenfold::EViT method_ = {};
  bool fuse_ = true;
};

class FastVReducer {
 public:
  void use_preset(Preset preset) {
    method_ = preset == Preset::published ? tokenfold::fastv_published() : tokenfold::FastV{};
  }
  void declare(Options& options) {
    options.add("score", method_.filter.score,
                "attention from the last text token alone, or the mean over all tokens");
  }
  Needs needs() const {
    Needs needs;
    needs.decoder = true;
    if (method_.filter.score == tokenfold::filter::QuestionScore::last_token) {
      needs.rows = AttentionRows::last_text;
    }
    needs.kind = AttentionKind::probabilities;
    return needs;
  }
  Reports reports() const { return {.ranking = true}; }

  template <class S>
  void plan(const S& sequence, const tokenfold::Budget& budget, Decision& decision) const {
    method_.plan(sequence, budget, decision.workspace, decision.plan);
  }

 private:
  tokenfold::FastV method_ = {};
};

}  // namespace reduce_tool
