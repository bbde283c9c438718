// SPDX-License-Identifier: Apache-2.0
//
// One reduction of one file: request and tensors in, tensors out. See reduce.cpp for the command
// line.

#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tokenfold/registry.hpp>
#include <tokenfold/source_map.hpp>
#include <tokenfold/version.hpp>
#include <utility>
#include <vector>

#include "crops.hpp"
#include "resources.hpp"
#include "results.hpp"

namespace reduce_tool {

using tokenfold::Budget;

struct Request {
  std::string method;
  std::vector<std::string> settings;  // name=value
  // At most one of these; none means adaptive, for methods that can.
  std::optional<Index> keep;
  std::optional<Index> discard;
  std::optional<double> keep_ratio;
  bool adaptive = false;
  bool in_double = true;  // a check of conformance should not stumble over rounding
};

// A method with all of its options and the tool's.
template <class T>
class Job {
 public:
  explicit Job(std::string_view method) : reducer_(tokenfold::make_reducer<T>(method)) {
    const tokenfold::MethodInfo& info = reducer_->info();
    layout.declare(options_);
    attention.declare(options_);
    resources.declare(options_);
    options_.add("keep_special", keep_special,
                 "rows outside the visual range are part of the output; auto: as the method hands "
                 "them on, text always");
    options_.add("rounding", rounding,
                 "how --keep-ratio becomes a count; auto: " +
                     OptionText<tokenfold::Rounding>::write(info.rounding));
    options_.add("discarded_order", discarded_order,
                 "order of discarded_indices and target_*; auto: score for FiCoCo-L as released, "
                 "else row");
    options_.add("crops", crops,
                 "crops of an image, one after the other in the tensors, each reduced alone under "
                 "the budget; auto: metadata, else 1");
  }

  // The options point into this object.
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  // The preset before all others.
  void set(const std::vector<std::string>& settings) {
    std::vector<tokenfold::OptionSetting> parsed;
    for (const std::string& text : settings) parsed.push_back(parse_setting(text));
    std::stable_partition(parsed.begin(), parsed.end(),
                          [](const auto& setting) { return setting.first == "preset"; });
    for (const auto& [name, value] : parsed) {
      if (!options_.set(name, value)) reducer_->set(name, value);
    }
  }

  // Those of the method first.
  std::vector<tokenfold::OptionInfo> options() const {
    std::vector<tokenfold::OptionInfo> all = reducer_->options();
    for (const Option& option : options_.list()) {
      all.push_back({option.name, option.type, option.write(), option.meaning});
    }
    return all;
  }
  // A method's option, without a name if it has none of that name.
  tokenfold::OptionInfo option(std::string_view name) const {
    for (const tokenfold::OptionInfo& option : reducer_->options()) {
      if (option.name == name) return option;
    }
    return {};
  }
  std::string value(std::string_view name) const { return option(name).value; }
  const tokenfold::Reducer<T>& reducer() const { return *reducer_; }
  // What the file says of the attention that was stored without its keys.
  void complete(const safetensors::File& file) {
    std::optional<Index> head_dim;
    default_from_metadata(file, {"head_dim"}, head_dim);
    if (head_dim && value("head_dim") == "0") {
      reducer_->set("head_dim", OptionText<Index>::write(*head_dim));
    }
    if (value("preset") == "published") {
      resources.threshold = tokenfold::RaterThreshold::at_least_mean;
    }
  }

  LayoutOptions layout;
  AttentionOptions attention;
  ResourceOptions resources;
  std::optional<bool> keep_special;
  std::optional<tokenfold::Rounding> rounding;
  std::optional<DiscardedOrder> discarded_order;
  std::optional<Index> crops;

 private:
  std::unique_ptr<tokenfold::Reducer<T>> reducer_;
  Options options_;
};

// "name  place  summary" per method
inline std::string list_methods() {
  std::string text;
  const auto column = [](std::string_view entry, std::size_t width) {
    return std::string(entry) + std::string(width - std::min(width - 1, entry.size()), ' ');
  };
  for (const tokenfold::MethodInfo& info : tokenfold::list_methods()) {
    text += column(info.name, 20) + column(OptionText<tokenfold::Place>::write(info.place), 15) +
            std::string(info.summary) + "\n";
  }
  return text;
}

// Every option of a method with type, default and meaning.
inline std::string list_options(std::string_view method) {
  const Job<double> job(method);
  std::string text = "options of " + std::string(method) + ", for --set name=value:\n";
  for (const tokenfold::OptionInfo& option : job.options()) {
    text += "  " + option.name + "=" + option.value + "  (" + option.type + ")\n      " +
            option.meaning + "\n";
  }
  return text;
}

namespace detail {

struct NamedBudget {
  Budget budget;
  std::string text;
};

inline NamedBudget budget_of(const Request& request, tokenfold::Rounding rounding, bool can_adapt) {
  std::vector<NamedBudget> given;
  if (request.keep) {
    given.push_back({Budget::keep(*request.keep), "keep " + std::to_string(*request.keep)});
  }
  if (request.discard) {
    given.push_back(
        {Budget::discard(*request.discard), "discard " + std::to_string(*request.discard)});
  }
  if (request.keep_ratio) {
    given.push_back({Budget::keep_ratio(*request.keep_ratio, rounding),
                     "keep_ratio " + OptionText<double>::write(*request.keep_ratio)});
  }
  if (request.adaptive) given.push_back({Budget::adaptive(), "adaptive"});
  if (given.size() > 1) {
    throw Error("more than one budget: " + given[0].text + " and " + given[1].text);
  }
  const std::string counts = "--keep N, --discard N or --keep-ratio X";
  if (given.empty() && can_adapt) return {Budget::adaptive(), "adaptive"};
  if (given.empty()) throw Error("no budget: give " + counts);
  if (request.adaptive && !can_adapt) {
    throw Error(request.method + " has no rule of its own for the number of tokens: give " +
                counts);
  }
  return given[0];
}

// FiCoCo reads either kind of attention, as released logits; all others read probabilities.
template <class T>
std::optional<AttentionKind> wanted_kind(const Job<T>& job) {
  if (!job.reducer().info().name.starts_with("ficoco")) return AttentionKind::probabilities;
  if (job.value("preset") == "released") return AttentionKind::logits;
  return std::nullopt;
}

// What the method would decide with another value of one of its options, if it has that option and
// another value now.
template <class T>
std::unique_ptr<Decision> decide_with(const std::string& option, const std::string& value,
                                      const Job<T>& job, const tokenfold::Inputs<T>& inputs,
                                      const Budget& budget) {
  const tokenfold::OptionInfo present = job.option(option);
  const bool takes_it = present.type == "number" || present.type.find(value) != std::string::npos;
  if (present.name.empty() || !takes_it || present.value == value) return nullptr;
  const auto other = tokenfold::make_reducer<T>(job.reducer().info().name);
  for (const tokenfold::OptionInfo& set : job.reducer().options()) other->set(set.name, set.value);
  other->set(option, value);
  auto decision = std::make_unique<Decision>();
  other->plan(inputs, budget, decision->workspace, decision->plan);
  return decision;
}

// What the golden files call the scores of a method, beside "scores".
inline std::string score_name(std::string_view method) {
  if (method.starts_with("prumerge") || method == "evit") return "cls_attention";
  if (method == "pyramiddrop") return "image_attention";
  return method.starts_with("sparsevlm") ? "relevance" : "";
}

// The order in which a set was picked, and the value of the criterion at each pick.
inline void write_selection(Writer& writer, const tokenfold::Partition& partition,
                            const TokenLayout& layout) {
  writer.integers("selection_indices", integers(partition.preserved));
  if (static_cast<Index>(partition.scores.size()) != layout.visual_count()) return;
  std::vector<double> gains;
  for (const Token row : partition.preserved) {
    gains.push_back(partition.scores[at(layout.ordinal(row))]);
  }
  writer.numbers("selection_gains", gains);
}

// `unmerged`: every input row as the mix of the output rows that hold it; `group_rows`: the one
// that holds most of it, -1 if it was dropped.
template <class T>
void write_way_back(Writer& writer, const tokenfold::ReductionPlan& plan, const TokenLayout& layout,
                    Range part, const std::vector<T>& output, Index channels) {
  std::vector<T> unmerged(at(part.size() * channels));
  plan.unmerge(tokenfold::MatrixView<const T>(output.data(), plan.output_tokens(), channels),
               tokenfold::MatrixView<T>(unmerged.data(), part.size(), channels));
  writer.numbers("unmerged", {part.size(), channels}, unmerged);
  const tokenfold::SourceMap sources(plan, layout, part.begin);
  Integers homes;
  for (Index row = 0; row < part.size(); ++row) homes.push_back(sources.home(row));
  writer.integers("group_rows", homes);
}

template <class T>
safetensors::File reduce_as(const safetensors::File& in, const Request& request, Job<T>& job) {
  job.complete(in);
  const tokenfold::MethodInfo& info = job.reducer().info();
  if (!job.rounding) job.rounding = info.rounding;
  NamedBudget budget = budget_of(request, *job.rounding, info.adaptive);

  const Numbers<T> tokens = read_numbers<T>(in, "tokens");
  if (tokens.shape.size() != 2 || tokens.extent(1) == 0) {
    wrong_shape("tokens", "[P, D]", tokens.shape);
  }
  const Index rows = tokens.extent(0);
  const Index channels = tokens.extent(1);
  const bool decoder = info.place == tokenfold::Place::decoder || has_text_around(in);
  const TokenLayout layout = resolve_layout(in, rows, decoder, info.needs_cls, job.layout);
  if (info.name == "evs" && request.keep_ratio) {  // a rate is never less than the first frame
    const Index visual = layout.visual_count();
    const Index first = std::min(visual, layout.grid().cells());
    budget.budget = Budget::keep(std::max(first, budget.budget.keep_count(visual)));
  }
  const AttentionData<T> attention(in, request.method, wanted_kind(job), decoder, job.attention,
                                   layout);
  const FileInputs<T> file(in, layout, job.resources, attention, tokens);
  const tokenfold::Inputs<T>& inputs = file.inputs();
  Decision decision;
  job.reducer().plan(inputs, budget.budget, decision.workspace, decision.plan);
  job.attention.attention = attention.used();

  const bool released_l = info.name == "ficoco_l" && job.value("preset") == "released";
  if (!job.discarded_order) {
    job.discarded_order = released_l ? DiscardedOrder::score : DiscardedOrder::row;
  }
  if (!job.keep_special) {
    job.keep_special = info.place != tokenfold::Place::after_encoder || info.returns_cls ||
                       !layout.text_before().empty() || !layout.text_after().empty();
  }
  const Range part = *job.keep_special ? Range{0, rows} : layout.visual_range();
  const tokenfold::ReductionPlan plan =
      *job.keep_special ? decision.plan : decision.plan.within(part);

  safetensors::File out;
  Writer writer(out);
  write_decision(writer, decision, layout, plan, part, *job.discarded_order);
  if (const std::string name = score_name(info.name); !name.empty()) {
    writer.numbers(name, decision.workspace.partition.scores);
  }
  if (const auto without = decide_with<T>("penalty", "1", job, inputs, budget.budget)) {
    writer.numbers("scores_before_penalty", without->workspace.partition.scores);
  } else if (!job.value("penalty").empty()) {
    writer.numbers("scores_before_penalty", decision.workspace.partition.scores);
  }
  if (const auto picked = decide_with<T>("order", "score", job, inputs, budget.budget)) {
    write_selection(writer, picked->workspace.partition, layout);
  } else {
    write_selection(writer, decision.workspace.partition, layout);
  }

  const tokenfold::MatrixView<const T> input(tokens.values.data(), rows, channels);
  std::vector<T> output(at(plan.output_tokens() * channels));
  plan.apply(input.middle_rows(part),
             tokenfold::MatrixView<T>(output.data(), plan.output_tokens(), channels));
  writer.numbers("output", {plan.output_tokens(), channels}, output);
  write_way_back<T>(writer, plan, layout, part, output, channels);

  std::vector<float> sizes(at(part.size()), 1.0f);
  if (!inputs.sizes.empty()) {
    std::copy_n(inputs.sizes.begin() + part.begin, part.size(), sizes.begin());
  }
  std::vector<float> sizes_out(at(plan.output_tokens()));
  plan.sizes(sizes, sizes_out);
  writer.numbers("sizes_out", sizes_out);

  writer.metadata("tool", "tokenfold-reduce " TOKENFOLD_VERSION_STRING);
  writer.metadata("method", request.method);
  writer.metadata("budget", budget.text);
  writer.metadata("precision", request.in_double ? "double" : "float");
  writer.metadata("input_rows", std::to_string(rows));
  writer.metadata("output_rows", std::to_string(plan.output_tokens()));
  writer.metadata("visual_tokens", std::to_string(layout.visual_count()));
  writer.metadata("extra_tokens", std::to_string(plan.extra_tokens()));
  writer.metadata("index_convention", "*_indices and plan_columns are rows of `tokens`");
  for (const tokenfold::OptionInfo& option : job.options()) {
    writer.metadata("option." + option.name, option.value);
  }
  return out;
}

// CDPruner scales the relevance over all crops together.
template <class T>
void relevance_of_crops(safetensors::File& file, const Job<T>& job, Request& request) {
  if (job.reducer().info().name != "cdpruner" || job.resources.relevance ||
      !file.has("image_embeds") || !file.has("text_embeds")) {
    return;
  }
  const Numbers<double> image = read_numbers<double>(file, "image_embeds");
  const Numbers<double> text = read_numbers<double>(file, "text_embeds");
  if (image.shape.size() != 2 || text.shape.size() != 2) return;  // refused crop by crop
  const auto matrix = [](const Numbers<double>& numbers) {
    return tokenfold::MatrixView<const double>(numbers.values.data(), numbers.extent(0),
                                               numbers.extent(1));
  };
  const auto sign = job.value("sign") == "negative" ? tokenfold::filter::RelevanceSign::negative
                                                    : tokenfold::filter::RelevanceSign::positive;
  Writer(file).numbers("relevance",
                       tokenfold::relevance_to_text(matrix(image), matrix(text), sign));
  request.settings.push_back("relevance=relevance");
}

// MMTok asked for as many tokens as there are returns them all, excluded ones too.
inline void keep_everything(safetensors::File& file, Request& request) {
  if (request.method != "mmtok" || !request.keep || !file.has("tokens")) return;
  const Shape& shape = file.tensors.at("tokens").shape;
  if (!shape.empty() && *request.keep >= shape[0]) {
    request.keep = static_cast<Index>(shape[0]);
    file.tensors.erase("excluded_indices");
  }
}

template <class T>
safetensors::File reduce_crops(safetensors::File in, Request request) {
  keep_everything(in, request);
  Job<T> job(request.method);
  job.set(request.settings);
  default_from_metadata(in, {"crops"}, job.crops);
  const Index crops = job.crops.value_or(1);
  if (crops == 1) return reduce_as<T>(in, request, job);
  if (crops < 1) throw Error("option crops must be at least 1, got " + std::to_string(crops));
  if (!in.has("tokens")) throw Error("the file has no tensor tokens; it has " + contents(in));
  relevance_of_crops(in, job, request);
  const Shape& shape = in.tensors.at("tokens").shape;
  const Index all_rows = shape.empty() ? 0 : static_cast<Index>(shape[0]);
  if (crops > all_rows) {
    throw Error("option crops: there are not " + std::to_string(crops) + " crops in " +
                std::to_string(all_rows) + " rows of tokens");
  }
  std::vector<safetensors::File> parts;
  for (Index crop = 0; crop < crops; ++crop) {
    Job<T> part_job(request.method);
    part_job.set(request.settings);
    parts.push_back(reduce_as<T>(crop_of(in, crop, crops), request, part_job));
  }
  return join_crops(parts, all_rows / crops);
}

}  // namespace detail

// Throws Error, std::invalid_argument or std::runtime_error with one line that says what is wrong.
inline safetensors::File reduce(safetensors::File in, const Request& request) {
  return request.in_double ? detail::reduce_crops<double>(std::move(in), request)
                           : detail::reduce_crops<float>(std::move(in), request);
}

}  // namespace reduce_tool
