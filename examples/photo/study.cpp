// SPDX-License-Identifier: Apache-2.0
#include "study.hpp"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "tokenfold/methods/ficoco_vl.hpp"
#include "tokenfold/registry.hpp"

namespace photo {
namespace {

namespace tf = tokenfold;

std::string spelled(const tf::MethodInfo& info) {
  return std::string(info.title.empty() ? info.name : info.title);
}

Group group_of(const tf::MethodInfo& info) {
  if (info.baseline) return Group::baseline;
  if (info.video) return Group::video;
  switch (info.place) {
    case tf::Place::encoder:
      return Group::encoder;
    case tf::Place::after_encoder:
      return Group::after_encoder;
    case tf::Place::decoder:
      break;
  }
  return Group::decoder;
}

const char* where_of(Group group) {
  switch (group) {
    case Group::encoder:
      return "encoder";
    case Group::decoder:
      return "LLM";
    case Group::baseline:
      return "baseline";
    default:
      return "between";
  }
}

/// The way to `tokens`: PyramidDrop halves in each of its layers, all others go at once.
std::vector<tf::Budget> budgets_to(Index tokens, Index visual, const tf::MethodInfo& info) {
  std::vector<Index> counts{tokens};
  if (info.name == "pyramiddrop") {
    counts = tf::pyramiddrop_counts(visual);
    counts.back() = tokens;
  }
  std::vector<tf::Budget> budgets;
  for (const Index count : counts) budgets.push_back(tf::Budget::keep(std::max(count, tokens)));
  return budgets;
}

}  // namespace

Study::Study(const Encoded& encoded, Index column, Index row)
    : layout_(tf::TokenLayout::encoder({encoded.grid_h, encoded.grid_w})),
      layer_{encoded.tokens, encoded.queries, encoded.keys},
      question_(encoded, column, row),
      steps_(encoded.heads, question_.tokens),
      cls_attention_(static_cast<std::size_t>(layout_.visual_count())) {
  const tf::QueryKeyAttention attention(tf::split_heads(layer_.queries, encoded.heads),
                                        tf::split_heads(layer_.keys, encoded.heads));
  const auto cls = static_cast<tf::Token>(*layout_.cls());
  tf::Workspace workspace;
  attention.rows(tf::Span<const tf::Token>(&cls, 1), layout_.visual_range(),
                 tf::MatrixView<float>(cls_attention_.data(), 1, layout_.visual_count()),
                 workspace);
  float sum = 0.0F;
  for (const float a : cls_attention_) sum += a;
  for (float& a : cls_attention_) a /= sum;
}

std::vector<Outcome> Study::at(Index tokens) {
  std::vector<Outcome> outcomes;
  for (const tf::MethodInfo& info : tf::list_methods()) {
    if (group_of(info) == Group::video) continue;
    outcomes.push_back(one(info, budgets_to(tokens, layout_.visual_count(), info)));
  }
  return outcomes;
}

std::vector<Outcome> Study::adaptive() {
  const tf::Budget budget = tf::Budget::adaptive();
  std::vector<Outcome> outcomes;
  for (const tf::MethodInfo& info : tf::list_methods()) {
    if (!info.adaptive || group_of(info) == Group::video) continue;
    outcomes.push_back(one(info, {&budget, 1}));
  }
  return outcomes;
}

std::vector<Outcome> Study::layer_by_layer(Index tokens) {
  std::vector<Outcome> outcomes{both("FiCoCo-V", 1.0, tokens), both("FiCoCo-L", 0.0, tokens),
                                both("FiCoCo-VL", 0.5, tokens)};
  outcomes.back().where = "both";
  return outcomes;
}

/// On the output of an encoder, or in a decoder that sees all patches, with text around them.
Outcome Study::one(const tf::MethodInfo& info, std::span<const tf::Budget> budgets) {
  const auto method = tf::make_reducer<float>(info.name);
  const bool decoder = info.place == tf::Place::decoder;
  const Index n = layout_.visual_count();
  const tf::TokenLayout layout =
      decoder ? tf::TokenLayout::decoder(kPromptTokens, n, kQuestionTokens, layout_.grid())
              : layout_;
  const Layer input = decoder ? after_encoder(layer_, n) : layer_;
  return measured(spelled(info), group_of(info), [&] {
    const Cost cost = steps_.run(*method, input, layout, budgets, decoder);
    return Outcome{.patches = steps_.total().within(layout.visual_range()),
                   .steps = steps_.count(),
                   .cost = cost};
  });
}

/// The encoder's layers first, then the decoder's on what is left.
Outcome Study::both(std::string name, double encoder_share, Index tokens) {
  const auto in_encoder = tf::make_reducer<float>("ficoco_v");
  const auto in_decoder = tf::make_reducer<float>("ficoco_l");
  const tf::FiCoCoVL schedule{.encoder_share = encoder_share};
  const tf::FiCoCoVLSteps steps = schedule.steps(layout_.visual_count(), tf::Budget::keep(tokens));
  return measured(std::move(name), encoder_share > 0.0 ? Group::encoder : Group::decoder, [&] {
    Outcome outcome;
    outcome.cost = steps_.run(*in_encoder, layer_, layout_, budgets_of(steps.encoder));
    outcome.steps = steps_.count();
    outcome.patches = steps_.total().within(layout_.visual_range());
    const std::vector<tf::Budget> decoder = budgets_of(steps.decoder);
    if (decoder.empty()) return outcome;
    const auto layout =
        tf::TokenLayout::decoder(kPromptTokens, steps_.cells(), kQuestionTokens, layout_.grid());
    const Layer input = after_encoder(steps_.layer(), outcome.patches.output_tokens());
    const Cost more = steps_.run(*in_decoder, input, layout, decoder, true);
    outcome.cost = {outcome.cost.plan + more.plan, outcome.cost.apply + more.apply};
    outcome.steps += steps_.count();
    outcome.patches = outcome.patches.then(steps_.total().within(layout.visual_range()));
    return outcome;
  });
}

/// LLaVA's way: [CLS] stays behind, text comes around the `n` patches that are left.
Layer Study::after_encoder(const Layer& left, Index n) const {
  return decoder_input(
      {left.tokens.bottomRows(n), left.queries.bottomRows(n), left.keys.bottomRows(n)}, question_);
}

/// Runs once for the result and to warm up, then for the median times.
template <class Run>
Outcome Study::measured(std::string name, Group group, Run&& run) const {
  Outcome outcome = run();
  outcome.method = std::move(name);
  outcome.group = group;
  outcome.where = where_of(group);
  outcome.fate = fate_of(outcome.patches);
  std::vector<double> plan;
  std::vector<double> apply;
  for (int i = 0; i < kTimedRuns; ++i) {
    const Cost cost = run().cost;
    plan.push_back(cost.plan);
    apply.push_back(cost.apply);
  }
  const auto median = [](std::vector<double>& times) {
    std::nth_element(times.begin(), times.begin() + kTimedRuns / 2, times.end());
    return times[kTimedRuns / 2];
  };
  outcome.cost = {median(plan), median(apply)};
  return outcome;
}

Fate Study::fate_of(const tf::ReductionPlan& plan) const {
  Fate fate;
  for (Index row = 0; row < plan.output_tokens(); ++row) {
    const tf::Token kept = plan.kept()[row];
    for (Index e = plan.offsets()[row]; e < plan.offsets()[row + 1]; ++e) {
      const tf::Token patch = plan.columns()[e];
      double& sum = kept == patch ? fate.kept : kept == tf::no_token ? fate.extra : fate.merged;
      sum += static_cast<double>(plan.shares()[e]) *
             static_cast<double>(cls_attention_[static_cast<std::size_t>(patch)]);
    }
  }
  return fate;
}

std::vector<Outcome> study_video(std::span<const Encoded> frames, Index tokens) {
  const Encoded& first = frames.front();
  const auto layout =
      tf::TokenLayout::video(static_cast<Index>(frames.size()), {first.grid_h, first.grid_w});
  Matrix patches(layout.tokens(), first.tokens.cols());
  for (std::size_t t = 0; t < frames.size(); ++t) {
    const Index n = layout.grid().cells();
    patches.middleRows(static_cast<Index>(t) * n, n) = frames[t].tokens.bottomRows(n);
  }
  tf::Inputs<float> inputs(layout);
  inputs.features = {tf::MatrixView(std::as_const(patches))};
  std::vector<Outcome> outcomes;
  for (const tf::MethodInfo& info : tf::list_methods()) {
    if (group_of(info) != Group::video && info.name != "uniform") continue;
    outcomes.push_back(
        {.method = spelled(info),
         .group = group_of(info),
         .patches = tf::make_reducer<float>(info.name)->plan(inputs, tf::Budget::keep(tokens))});
  }
  return outcomes;
}

}  // namespace photo
