// SPDX-License-Identifier: Apache-2.0
//
// One reduction of one file: request and tensors in, tensors out. See reduce.cpp for the command
// line.

#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tokenfold/version.hpp>
#include <vector>

#include "methods.hpp"
#include "results.hpp"
#include "tensors.hpp"

namespace reduce_tool {

using tokenfold::Budget;

template <>
struct Names<tokenfold::Rounding> {
  using E = tokenfold::Rounding;
  static constexpr auto values = std::to_array<Name<E>>(
      {{"nearest_even", E::nearest_even}, {"floor", E::floor}, {"ceil", E::ceil}});
};

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

// A method with all of its options.
class Job {
 public:
  explicit Job(std::string_view method) : reducer_(find_method(method).make()) {
    options_.add("preset", preset_,
                 "applied before all other options; default: as the library's header of the method "
                 "says; published: the paper's equations; released: as the authors' code computes");
    reducer_->declare(options_);
    layout.declare(options_);
    attention.declare(options_);
    options_.add("keep_special", keep_special,
                 "rows outside the visual range are part of the output; auto: " +
                     Text<bool>::write(reducer_->reports().keep_special));
    options_.add("rounding", rounding,
                 "how --keep-ratio becomes a count; auto: " +
                     Text<tokenfold::Rounding>::write(reducer_->reports().rounding));
  }

  // The options point into this object.
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  void set(const std::vector<std::string>& settings) {
    std::vector<Setting> parsed;
    for (const std::string& text : settings) parsed.push_back(parse_setting(text));
    for (const Setting& setting : parsed) {
      if (setting.name == "preset") options_.set(setting.name, setting.value);
    }
    reducer_->use_preset(preset_);
    for (const Setting& setting : parsed) options_.set(setting.name, setting.value);
  }

  const Options& options() const { return options_; }
  const Reducer& reducer() const { return *reducer_; }

  LayoutOptions layout;
  AttentionOptions attention;
  std::optional<bool> keep_special;
  std::optional<tokenfold::Rounding> rounding;

 private:
  std::unique_ptr<Reducer> reducer_;
  Preset preset_ = Preset::standard;
  Options options_;
};

// "name  summary" per method
inline std::string list_methods() {
  std::string text;
  for (const MethodEntry& entry : methods) {
    text += std::string(entry.name) + std::string(16 - entry.name.size(), ' ') +
            std::string(entry.summary) + "\n";
  }
  return text;
}

// Every option of a method with type, default and meaning.
inline std::string list_options(std::string_view method) {
  const Job job(method);
  std::string text = "options of " + std::string(method) + ", for --set name=value:\n";
  for (const Option& option : job.options().list()) {
    text += "  " + option.name + "=" + option.write() + "  (" + option.type + ")\n      " +
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
                     "keep_ratio " + Text<double>::write(*request.keep_ratio)});
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

template <class T>
safetensors::File reduce_as(const safetensors::File& in, const Request& request, Job& job) {
  const Needs needs = job.reducer().needs();
  const Reports reports = job.reducer().reports();
  if (!job.rounding) job.rounding = reports.rounding;
  const NamedBudget budget = budget_of(request, *job.rounding, needs.adaptive);

  const Numbers<T> tokens = read_numbers<T>(in, "tokens");
  if (tokens.shape.size() != 2) wrong_shape("tokens", "[P, D]", tokens.shape);
  const Index rows = tokens.extent(0);
  const Index channels = tokens.extent(1);
  const TokenLayout layout = resolve_layout(in, rows, needs.decoder, needs.cls, job.layout);
  const AttentionData<T> data(in, request.method, needs, job.attention, layout);

  Decision decision;
  const FileSequence<T> sequence(layout, tokenfold::Attention(data.source()),
                                 tokenfold::Keys<T>(data.keys()));
  job.reducer().plan(sequence, budget.budget, decision);

  if (!job.keep_special) job.keep_special = reports.keep_special;
  const Range part = *job.keep_special ? Range{0, rows} : layout.visual_range();
  const tokenfold::ReductionPlan plan =
      *job.keep_special ? decision.plan : decision.plan.within(part);

  safetensors::File out;
  Writer writer(out);
  write_decision(writer, decision, layout, plan, part, reports);

  const tokenfold::MatrixView<const T> input(tokens.values.data(), rows, channels);
  std::vector<T> output(at(plan.output_tokens() * channels));
  plan.apply(input.middle_rows(part),
             tokenfold::MatrixView<T>(output.data(), plan.output_tokens(), channels));
  writer.numbers("output", {plan.output_tokens(), channels}, output);

  std::vector<float> sizes(at(part.size()), 1.0f);
  if (in.has("sizes_in")) {
    const Numbers<float> given = read_numbers<float>(in, "sizes_in");
    if (given.shape != Shape{rows}) wrong_shape("sizes_in", "[P]", given.shape);
    std::copy_n(given.values.begin() + part.begin, part.size(), sizes.begin());
  }
  std::vector<float> sizes_out(at(plan.output_tokens()));
  plan.sizes(tokenfold::Span<const float>(sizes), tokenfold::Span<float>(sizes_out));
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
  for (const Option& option : job.options().list()) {
    writer.metadata("option." + option.name, option.write());
  }
  return out;
}

}  // namespace detail

// Throws Error, std::invalid_argument or std::runtime_error with one line that says what is wrong.
inline safetensors::File reduce(const safetensors::File& in, const Request& request) {
  Job job(request.method);
  job.set(request.settings);
  return request.in_double ? detail::reduce_as<double>(in, request, job)
                           : detail::reduce_as<float>(in, request, job);
}

}  // namespace reduce_tool
