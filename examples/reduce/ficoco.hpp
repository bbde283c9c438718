// SPDX-License-Identifier: Apache-2.0
//
// FiCoCo-V and FiCoCo-L for the tool.

#pragma once

#include <array>
#include <tokenfold/methods/ficoco_l.hpp>
#include <tokenfold/methods/ficoco_v.hpp>

#include "reducer.hpp"

namespace reduce_tool {

template <>
struct Names<tokenfold::AttentionDirection> {
  using E = tokenfold::AttentionDirection;
  static constexpr auto values =
      std::to_array<Name<E>>({{"received", E::received}, {"given", E::given}});
};
template <>
struct Names<tokenfold::TextTokens> {
  using E = tokenfold::TextTokens;
  static constexpr auto values =
      std::to_array<Name<E>>({{"after", E::after_image}, {"all", E::all}});
};
template <>
struct Names<tokenfold::filter::ScoreNormalization> {
  using E = tokenfold::filter::ScoreNormalization;
  static constexpr auto values = std::to_array<Name<E>>({{"none", E::none}, {"l2", E::l2}});
};
template <>
struct Names<tokenfold::correlate::Candidates> {
  using E = tokenfold::correlate::Candidates;
  static constexpr auto values =
      std::to_array<Name<E>>({{"preserved", E::preserved}, {"all", E::all_visual}});
};

// The target policies behind one name, so that it can be chosen at run time.
struct AnyTargets {
  enum class Policy { quantile, fixed, relative, nucleus };

  Policy policy = Policy::quantile;
  tokenfold::correlate::QuantileTargets quantile = {};
  tokenfold::correlate::FixedTargets fixed = {};
  tokenfold::correlate::RelativeTargets relative = {};
  tokenfold::correlate::NucleusTargets nucleus = {};

  void check() const {
    use([](const auto& targets) { targets.check(); });
  }
  template <class Choose>
  void operator()(tokenfold::Span<const double> strengths, Choose&& choose,
                  tokenfold::Workspace& workspace) const {
    use([&](const auto& targets) { targets(strengths, choose, workspace); });
  }

  void declare(Options& options);

 private:
  template <class Use>
  void use(Use&& with) const {
    switch (policy) {
      case Policy::quantile:
        return with(quantile);
      case Policy::fixed:
        return with(fixed);
      case Policy::relative:
        return with(relative);
      case Policy::nucleus:
        return with(nucleus);
    }
  }
};

template <>
struct Names<AnyTargets::Policy> {
  using E = AnyTargets::Policy;
  static constexpr auto values = std::to_array<Name<E>>({{"quantile", E::quantile},
                                                         {"fixed", E::fixed},
                                                         {"relative", E::relative},
                                                         {"nucleus", E::nucleus}});
};

inline void AnyTargets::declare(Options& options) {
  options.add("targets", policy, "which candidates take over a discarded token");
  options.add("epsilon", quantile.epsilon, "quantile: threshold, as a quantile of the row");
  options.add("strict", quantile.strict, "quantile: above the threshold, not at it");
  options.add("count", fixed.count, "fixed: how many, the strongest");
  options.add("share", relative.share_of_strongest, "relative: at least this share of the best");
  options.add("mass", nucleus.mass, "nucleus: the fewest that hold this share of the row");
}

namespace detail {

// Window and coefficient as one would say them.
struct PenaltyOptions {
  Grid window = {2, 2};
  double coefficient = 1;

  explicit PenaltyOptions(const tokenfold::filter::LocalPenalty& p = {})
      : window{p.window_height, p.window_width}, coefficient(p.coefficient) {}
  void declare(Options& options) {
    options.add("window", window, "window of the local penalty on the patch grid");
    options.add("penalty", coefficient, "coefficient of the local penalty, 1: off");
  }
  tokenfold::filter::LocalPenalty value() const {
    return {window.height, window.width, coefficient};
  }
};

inline void declare_compress(Options& options, tokenfold::compress::SelfPreserving& compress) {
  options.add("rule", compress.rule, "mean: divide by 1 + what came in; sum: do not");
  options.add("max_recycled_share", compress.max_recycled_share,
              "most that recycled tokens may make up of a preserved one (rule=mean)");
}

// The plan, and the scores as they were without the penalty.
template <class Method, class S>
void plan_with_scores(const Method& method, const S& sequence, const tokenfold::Budget& budget,
                      Decision& decision) {
  const bool penalized = method.filter.penalty.coefficient != 1;
  if (penalized && !sequence.layout.has_grid()) {
    throw Error("the local penalty needs a patch grid: give --set grid=HxW or penalty=1");
  }
  method.plan(sequence, budget, decision.workspace, decision.plan);
  decision.scores_before_penalty = decision.workspace.partition.scores;
  if (penalized) {
    auto filter = method.filter;
    filter.penalty.coefficient = 1;
    tokenfold::Workspace workspace;
    filter(sequence, budget, workspace.partition, workspace);
    decision.scores_before_penalty = workspace.partition.scores;
  }
}

}  // namespace detail

class FiCoCoVReducer {
 public:
  FiCoCoVReducer() { use_preset(Preset::standard); }

  void use_preset(Preset preset) {
    released_ = preset == Preset::released;
    const tokenfold::FiCoCoV from =
        released_ ? tokenfold::ficoco_v_released() : tokenfold::FiCoCoV{};
    method_.filter = from.filter;
    method_.correlate.targets = {.quantile = from.correlate.targets};
    method_.compress = from.compress;
    penalty_ = detail::PenaltyOptions(from.filter.penalty);
    order_ = DiscardedOrder::row;
  }
  void declare(Options& options) {
    options.add("lambda", method_.filter.lambda, "weight of the vision term against [CLS]");
    options.add("direction", method_.filter.direction,
                "attention between visual tokens: received or given");
    options.add("normalization", method_.filter.normalization, "of both terms before they meet");
    penalty_.declare(options);
    method_.correlate.targets.declare(options);
    detail::declare_compress(options, method_.compress);
    options.add("discarded_order", order_, "order of discarded_indices and target_*");
  }
  Needs needs() const {
    Needs needs;
    needs.keys = Needs::KeysNeed::without_cls;
    if (released_) needs.kind = AttentionKind::logits;
    return needs;
  }
  Reports reports() const { return {.self_preserving = true, .discarded_order = order_}; }

  template <class S>
  void plan(const S& sequence, const tokenfold::Budget& budget, Decision& decision) const {
    auto method = method_;
    method.filter.penalty = penalty_.value();
    detail::plan_with_scores(method, sequence, budget, decision);
  }

 private:
  tokenfold::BasicFiCoCoV<AnyTargets> method_ = {};
  detail::PenaltyOptions penalty_;
  DiscardedOrder order_ = DiscardedOrder::row;
  bool released_ = false;
};

class FiCoCoLReducer {
 public:
  FiCoCoLReducer() { use_preset(Preset::standard); }

  void use_preset(Preset preset) {
    released_ = preset == Preset::released;
    const tokenfold::FiCoCoL from =
        released_ ? tokenfold::ficoco_l_released() : tokenfold::FiCoCoL{};
    method_.filter = from.filter;
    method_.correlate = {.gamma = from.correlate.gamma,
                         .direction = from.correlate.direction,
                         .text = from.correlate.text,
                         .indirect = from.correlate.indirect,
                         .candidates = from.correlate.candidates,
                         .targets = {.quantile = from.correlate.targets}};
    method_.compress = from.compress;
    penalty_ = detail::PenaltyOptions(from.filter.penalty);
    order_ = released_ ? DiscardedOrder::score : DiscardedOrder::row;
  }
  void declare(Options& options) {
    options.add("beta", method_.filter.beta, "weight of the vision term against the text");
    options.add("gamma", method_.correlate.gamma, "weight of direct attention against indirect");
    options.add("direction", method_.filter.direction,
                "attention between two tokens, in both stages: received or given");
    options.add("text", method_.filter.text, "the text listened to: after the image, or all");
    options.add("vision_term", method_.filter.vision_term, "mean or sum over visual tokens");
    options.add("indirect", method_.correlate.indirect, "mean or sum over the text");
    options.add("protect_first", method_.filter.protect_first,
                "never discard the first visual token");
    options.add("candidates", method_.correlate.candidates,
                "who may be a target; what goes to a discarded token is lost");
    penalty_.declare(options);
    method_.correlate.targets.declare(options);
    detail::declare_compress(options, method_.compress);
    options.add("discarded_order", order_, "order of discarded_indices and target_*");
  }
  Needs needs() const {
    Needs needs;
    needs.decoder = true;
    if (released_) needs.kind = AttentionKind::logits;
    return needs;
  }
  Reports reports() const { return {.self_preserving = true, .discarded_order = order_}; }

  template <class S>
  void plan(const S& sequence, const tokenfold::Budget& budget, Decision& decision) const {
    auto method = method_;
    method.filter.penalty = penalty_.value();
    method.correlate.direction = method.filter.direction;
    method.correlate.text = method.filter.text;
    detail::plan_with_scores(method, sequence, budget, decision);
  }

 private:
  tokenfold::BasicFiCoCoL<AnyTargets> method_ = {};
  detail::PenaltyOptions penalty_;
  DiscardedOrder order_ = DiscardedOrder::row;
  bool released_ = false;
};

}  // namespace reduce_tool
