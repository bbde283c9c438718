// SPDX-License-Identifier: Apache-2.0
// Any method of the registry at its place in the model: what insertions.cpp shows for single
// methods, for all of them by name.
#pragma once

#include <algorithm>
#include <chrono>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "methods.hpp"
#include "model.hpp"
#include "text.hpp"
#include "tokenfold/core/query_key_attention.hpp"
#include "tokenfold/core/survivors.hpp"
#include "tokenfold/filter/raters.hpp"
#include "tokenfold/methods/ficoco_vl.hpp"
#include "tokenfold/methods/ivtp.hpp"
#include "tokenfold/schedule.hpp"

namespace llava {

/// What to reduce with, and to how much.
struct Choice {
  /// A name of tokenfold's registry, "ficoco_vl", or "none".
  std::string method = "none";
  std::vector<tokenfold::OptionSetting> options = {};
  /// Visual tokens that are left in the end; empty: the method's own rule. Tokens that a method
  /// appends come on top.
  std::optional<Index> keep = {};
  /// How RoPE positions go on after tokens were dropped in the decoder; empty: as the method's
  /// authors do it.
  std::optional<tokenfold::PositionRule> positions = {};
};

/// The layer of a model with `layers` layers that lies where the paper's lies in its own; one of
/// the first `run` of them, which are those that run.
inline Index layer_at(Index paper_layer, Index paper_layers, Index layers, Index run) {
  return std::min((paper_layer * layers + paper_layers / 2) / paper_layers, run - 1);
}

/// One reduction of one picture and prompt. Lives through one run of the model; says afterwards how
/// long it took.
class Reduction {
 public:
  Reduction(const Model& model, Prompt prompt, Choice choice)
      : model_(model),
        prompt_(std::move(prompt)),
        choice_(std::move(choice)),
        visual_(tokenfold::TokenLayout::encoder(
            {model.config.encoder.grid(), model.config.encoder.grid()})) {
    const Index patches = model.config.encoder.patches();
    if (choice_.keep) {
      tokenfold::require(0 <= *choice_.keep && *choice_.keep <= patches, "cannot keep ",
                         *choice_.keep, " of ", patches, " visual tokens");
    }
    if (choice_.method == "none") return;
    if (choice_.method == "ficoco_vl") {
      plan_both_ficocos();
      return;
    }
    std::vector<tokenfold::OptionSetting> options = choice_.options;
    if (choice_.method == "sparsevlm_v2") {  // the model knows, unless the user knows better
      options.emplace(options.begin(), "rope_theta", shortest(model.config.decoder.rope_theta));
    }
    auto reducer = make_method(choice_.method, options);
    const tokenfold::MethodInfo& info = reducer->info();
    tokenfold::require(!info.video, choice_.method,
                       " compares frames of a video, this is a picture");
    tokenfold::require(choice_.keep || info.adaptive, choice_.method,
                       " has no rule of its own for how many tokens stay; say how many");
    tokenfold::require(choice_.method != "dart" || !has_preset("embeddings"),
                       "dart: preset=embeddings is for the decoder's input, where this engine does "
                       "not put it");
    switch (info.place) {
      case tokenfold::Place::encoder:
        encoder_ = encoder_stage(std::move(reducer));
        break;
      case tokenfold::Place::after_encoder:
        between_ = std::move(reducer);
        break;
      case tokenfold::Place::decoder:
        decoder_ = decoder_stage(std::move(reducer));
        break;
    }
  }

  /// For `Encoder::run`; empty if nothing happens there.
  Hook in_encoder() {
    if (!encoder_.reducer) return {};
    return [this](LayerStep& step) {
      const auto timer = time(seconds_in_encoder);
      const bool merges = encoder_.reducer->info().name.starts_with("tome");
      if (merges && step.key_bias().empty()) step.weigh_by_size();
      remember(step);
      tokenfold::Inputs<float> inputs(visual_.layout());
      inputs.attention = tokenfold::QueryKeyAttention(
          step.queries, step.keys, {.kind = attention_kind(), .key_bias = step.key_bias()});
      inputs.keys = step.keys;
      inputs.values = step.values;
      inputs.sizes = step.sizes();
      std::vector<tokenfold::AnyAttention<float>> group = remembered();
      inputs.attention_layers = group;
      reduce(encoder_, inputs, step, visual_);
    };
  }

  /// The picture's rows of the decoder's input.
  Matrix embeddings(const Encoder::Output& encoded) {
    const Matrix& hidden = encoded.hidden;
    const tokenfold::Range patches{1, hidden.rows()};  // [CLS] is the first row
    if (!between_) return project(hidden.bottomRows(patches.size()));

    const std::string_view method = between_->info().name;
    tokenfold::Inputs<float> inputs(visual_.layout());
    QueriesKeys next;
    const bool reads_next = method == "prumerge" || method == "prumerge_plus";
    if (reads_next && model_.config.encoder.layers_run < model_.config.encoder.layers) {
      const auto timer = time(seconds_between);
      next = model_.encoder.project(model_.config.encoder.layers_run, hidden);
    }
    const QueriesKeys& qk = next.queries.size() > 0 ? next : encoded.last;
    inputs.attention = tokenfold::QueryKeyAttention(model_.encoder.heads(qk.queries),
                                                    model_.encoder.heads(qk.keys));
    inputs.keys = model_.encoder.heads(qk.keys);
    inputs.features = {tokenfold::MatrixView(hidden)};
    if (!reads_projected(method)) {
      Matrix kept;
      {
        const auto timer = time(seconds_between);
        between_->plan(inputs, budget(), workspace_, plan_);
        kept.resize(plan_.output_tokens(), hidden.cols());
        plan_.apply(hidden, kept);
      }
      const tokenfold::Range rows =
          between_->info().returns_cls ? tokenfold::Range{0, kept.rows()} : plan_.visual();
      return project(kept.middleRows(rows.begin, rows.size()));
    }

    const Matrix projected = project(hidden.bottomRows(patches.size()));
    const auto timer = time(seconds_between);
    const Matrix question = model_.decoder.embed(prompt_.after);
    Matrix mean_of_question;  // none of no words
    if (question.rows() > 0) mean_of_question = question.colwise().mean();
    inputs.features = {tokenfold::MatrixView(projected), patches.begin};
    if (method == "cdpruner") {
      // LLaVA's checkpoint has no text tower: picture and question meet in the decoder's space.
      inputs.image_embeddings = inputs.features;
      inputs.text_embeddings = tokenfold::MatrixView(mean_of_question);
    } else {
      inputs.image_embeddings = {tokenfold::MatrixView(hidden)};
      inputs.text_embeddings = tokenfold::MatrixView(question);
    }
    between_->plan(inputs, budget(), workspace_, plan_);
    const tokenfold::ReductionPlan of_patches = plan_.within(patches);
    Matrix kept(of_patches.output_tokens(), projected.cols());
    of_patches.apply(projected, kept);
    return kept;
  }

  /// For `Decoder::prefill`. `input`: what it is given.
  DecoderHooks in_decoder(const Matrix& input) {
    DecoderHooks hooks;
    if (!decoder_.reducer) return hooks;
    const auto before = static_cast<Index>(prompt_.before.size());
    const auto after = static_cast<Index>(prompt_.after.size());
    const Index side = model_.config.encoder.grid();
    sequence_.emplace(
        tokenfold::TokenLayout::decoder(before, visual_.layout().cells(), after, {side, side}));
    if (decoder_.reducer->info().name.starts_with("sparsevlm")) {
      const auto timer = time(seconds_in_decoder);
      const bool published = has_preset("published");
      raters_ = tokenfold::text_raters(sequence_->layout(), input,
                                       published ? tokenfold::RaterThreshold::at_least_mean
                                                 : tokenfold::RaterThreshold::above_mean);
    }
    const Hook hook = [this](LayerStep& step) { reduce_in_decoder(step); };
    if (decoder_.reducer->info().name == "pyramiddrop") {
      hooks.before_attention = hook;
    } else if (decoder_.reducer->info().name == "ficoco_l") {
      hooks.after_attention = hook;
    } else {
      hooks.after_layer = hook;
    }
    return hooks;
  }

  /// How many rows the projector had to do.
  Index projected_rows() const { return projected_rows_; }

  /// What the reduction took, plan and apply, and whatever it had to compute beyond the model.
  double seconds_in_encoder = 0;
  double seconds_between = 0;
  double seconds_in_decoder = 0;

 private:
  /// A method inside layers, and how much it keeps in which.
  struct Stage {
    std::unique_ptr<tokenfold::Reducer<float>> reducer;
    std::map<Index, tokenfold::Budget> budgets;
  };

  class Timer {
   public:
    explicit Timer(double& sum) : sum_(sum) {}
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;
    ~Timer() {
      sum_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    }

   private:
    double& sum_;
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  };
  static Timer time(double& sum) { return Timer(sum); }

  tokenfold::Budget budget() const {
    return choice_.keep ? tokenfold::Budget::keep(*choice_.keep) : tokenfold::Budget::adaptive();
  }

  bool has_preset(const char* name) const {
    bool is_set = false;  // the last one counts
    for (const auto& [option, value] : choice_.options) {
      if (option == "preset") is_set = value == name;
    }
    return is_set;
  }
  /// FiCoCo as released reads logits, all others probabilities.
  tokenfold::AttentionKind attention_kind() const {
    const bool logits = choice_.method.starts_with("ficoco") && has_preset("released");
    return logits ? tokenfold::AttentionKind::logits : tokenfold::AttentionKind::probabilities;
  }

  static std::map<Index, tokenfold::Budget> budgets_of(const tokenfold::Schedule& schedule) {
    std::map<Index, tokenfold::Budget> budgets;
    for (Index l = 0; l < schedule.size(); ++l) {
      if (schedule[l] > 0) budgets.emplace(l, tokenfold::Budget::discard(schedule[l]));
    }
    return budgets;
  }

  /// Everything that is to go, as evenly over the layers from `first` on as their share `most` of
  /// the tokens allows: what the last ones cannot take, the others do.
  std::map<Index, tokenfold::Budget> evenly(Index visual, Index first, Index layers,
                                            double most = 1) const {
    const Index goal = visual - *choice_.keep;
    tokenfold::Schedule schedule;
    for (Index total = goal; total <= visual * layers && schedule.total() < goal; ++total) {
      schedule = tokenfold::Schedule::evenly(total, {layers, first}).clamped(visual, most);
    }
    return budgets_of(schedule);
  }

  /// Prunings in `layers` that all keep the same share and in the end leave what was asked for.
  std::map<Index, tokenfold::Budget> stages(Index visual, const std::vector<Index>& layers) const {
    const auto counts =
        tokenfold::ivtp_counts(visual, *choice_.keep, static_cast<Index>(layers.size()));
    std::map<Index, tokenfold::Budget> budgets;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      budgets.insert_or_assign(layers[i], tokenfold::Budget::keep(counts[i]));
    }
    return budgets;
  }

  Stage encoder_stage(std::unique_ptr<tokenfold::Reducer<float>> reducer) {
    const Index layers = model_.config.encoder.layers_run;
    const Index patches = model_.config.encoder.patches();
    const std::string_view method = reducer->info().name;
    const auto at = [&](Index layer, Index of) {
      return layer_at(layer, of, model_.config.encoder.layers, layers);
    };
    std::map<Index, tokenfold::Budget> budgets;
    if (method == "evit") {  // layers 4, 7 and 10 of 12
      budgets = stages(patches, {at(3, 12), at(6, 12), at(9, 12)});
    } else if (method == "ivtp") {
      std::vector<Index> last_of_group;
      for (Index l = group_size - 1; l < layers; l += group_size) last_of_group.push_back(l);
      budgets = stages(patches, last_of_group);
    } else if (method == "ficoco_v") {
      budgets = evenly(patches, at(tokenfold::ficoco_v_first_layer, 24), layers);
    } else if (method.starts_with("tome")) {  // every layer; a matching takes half at most
      budgets = evenly(patches, 0, layers, 0.5);
    } else {
      tokenfold::fail("llava: no place in the encoder is known for " + std::string(method));
    }
    return {std::move(reducer), std::move(budgets)};
  }

  Stage decoder_stage(std::unique_ptr<tokenfold::Reducer<float>> reducer) {
    const Index layers = model_.config.decoder.layers;
    const Index patches = model_.config.encoder.patches();
    const std::string_view method = reducer->info().name;
    const auto at = [&](Index layer) { return layer_at(layer, 32, layers, layers); };
    std::map<Index, tokenfold::Budget> budgets;
    if (method == "ficoco_l") {
      budgets = evenly(patches, ficoco_l_first(), layers);
    } else if (method == "pyramiddrop") {
      budgets = stages(patches, {at(8), at(16), at(24)});
    } else if (method.starts_with("sparsevlm")) {
      for (const Index layer : {2, 6, 15}) {
        if (!choice_.keep) budgets.emplace(at(layer), tokenfold::Budget::adaptive());
      }
      if (choice_.keep) budgets = stages(patches, {at(2), at(6), at(15)});
    } else if (method == "fastv" || method == "dart") {  // once, behind the second layer
      budgets.emplace(std::min<Index>(1, layers - 1), budget());
    } else {
      tokenfold::fail("llava: no place in the decoder is known for " + std::string(method));
    }
    return {std::move(reducer), std::move(budgets)};
  }

  /// Not in the first layer, if there is another.
  Index ficoco_l_first() const {
    const Index layers = model_.config.decoder.layers;
    const Index first = layer_at(tokenfold::ficoco_l_first_layer, 32, layers, layers);
    return std::min(std::max<Index>(1, first), layers - 1);
  }

  void plan_both_ficocos() {
    tokenfold::require(choice_.keep.has_value() && choice_.options.empty(),
                       "ficoco_vl takes a number of tokens and no options");
    const Config& config = model_.config;
    const tokenfold::FiCoCoVL method{
        .encoder_first_layer = layer_at(tokenfold::ficoco_v_first_layer, 24, config.encoder.layers,
                                        config.encoder.layers_run),
        .decoder_first_layer = ficoco_l_first()};
    const auto steps = method.steps(config.encoder.patches(), budget(), config.encoder.layers_run,
                                    config.decoder.layers);
    encoder_ = {make_method("ficoco_v"), budgets_of(steps.encoder)};
    decoder_ = {make_method("ficoco_l"), budgets_of(steps.decoder)};
  }

  /// Methods that compare what the decoder would see; the others work before the projector, which
  /// then has less to do.
  static bool reads_projected(std::string_view method) {
    return method == "divprune" || method == "cdpruner" || method == "mmtok" || method == "tops";
  }

  tokenfold::PositionRule position_rule() const {
    const std::string_view method = decoder_.reducer->info().name;
    const bool packed = method == "pyramiddrop" || method == "sparsevlm";
    return choice_.positions.value_or(packed ? tokenfold::PositionRule::packed
                                             : tokenfold::PositionRule::original);
  }

  Matrix project(const Matrix& rows) {
    projected_rows_ = rows.rows();
    return model_.projector.run(rows);
  }

  void reduce_in_decoder(LayerStep& step) {
    const auto timer = time(seconds_in_decoder);
    if (!decoder_.budgets.contains(step.layer)) return;
    const std::string_view method = decoder_.reducer->info().name;
    tokenfold::Inputs<float> inputs(sequence_->layout());
    inputs.attention = tokenfold::QueryKeyAttention(step.queries, step.keys,
                                                    {.kind = attention_kind(), .causal = true});
    inputs.keys = step.keys;
    inputs.values = step.values;
    const Matrix normalised =
        method == "dart" ? model_.decoder.normalised(step.hidden()) : Matrix();
    inputs.features = {tokenfold::MatrixView(method == "dart" ? normalised : step.hidden())};
    inputs.sizes = step.sizes();
    inputs.raters = raters_;
    inputs.positions = step.positions();
    reduce(decoder_, inputs, step, *sequence_, position_rule());
    if (!raters_.empty()) tokenfold::follow_raters(plan_, raters_);
  }

  void reduce(Stage& stage, const tokenfold::Inputs<float>& inputs, LayerStep& step,
              tokenfold::Survivors& survivors,
              tokenfold::PositionRule rule = tokenfold::PositionRule::original) {
    const auto budget = stage.budgets.find(step.layer);
    if (budget == stage.budgets.end()) return;
    stage.reducer->plan(inputs, budget->second, workspace_, plan_);
    step.shorten(plan_, rule);
    survivors.advance(plan_, workspace_);
    group_.clear();  // remembered rows are those of the tokens before
  }

  /// IVTP looks at all layers of a group.
  static constexpr Index group_size = 3;
  void remember(const LayerStep& step) {
    const bool needed = encoder_.reducer->info().name == "ivtp" && !encoder_.budgets.empty() &&
                        step.layer <= encoder_.budgets.rbegin()->first;
    if (!needed) return;
    if (group_.size() == static_cast<std::size_t>(group_size)) group_.pop_front();
    group_.push_back({step.queries.joined().map(), step.keys.joined().map()});
  }
  std::vector<tokenfold::AnyAttention<float>> remembered() const {
    std::vector<tokenfold::AnyAttention<float>> attention;
    for (const QueriesKeys& qk : group_) {
      attention.push_back(tokenfold::QueryKeyAttention(model_.encoder.heads(qk.queries),
                                                       model_.encoder.heads(qk.keys)));
    }
    return attention;
  }

  const Model& model_;
  Prompt prompt_;
  Choice choice_;
  Stage encoder_;
  std::unique_ptr<tokenfold::Reducer<float>> between_;
  Stage decoder_;
  tokenfold::Survivors visual_;
  std::optional<tokenfold::Survivors> sequence_;
  std::vector<tokenfold::Token> raters_;
  std::deque<QueriesKeys> group_;
  Index projected_rows_ = 0;
  tokenfold::Workspace workspace_;
  tokenfold::ReductionPlan plan_;
};

}  // namespace llava
