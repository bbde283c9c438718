// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenfold/core/budget.hpp"
#include "tokenfold/core/pipeline.hpp"
#include "tokenfold/registry/inputs.hpp"
#include "tokenfold/registry/option_text.hpp"

namespace tokenfold {

/// Where in a model a method acts.
enum class Place {
  encoder,        ///< inside layers of a vision encoder
  after_encoder,  ///< between encoder and decoder, on the visual rows alone
  decoder,        ///< inside layers of an LLM
};
constexpr auto enum_names(Place) {
  return enum_names_of<Place>({{"encoder", Place::encoder},
                               {"after_encoder", Place::after_encoder},
                               {"decoder", Place::decoder}});
}

/// What there is to know of a method before it is made.
struct MethodInfo {
  std::string_view name;
  /// As its paper spells it; empty: `name`.
  std::string_view title = {};
  std::string_view summary;
  Place place;
  /// How the authors' code turns a ratio into a count.
  Rounding rounding = Rounding::nearest_even;
  /// Has a rule of its own for how many tokens stay (`Budget::adaptive()`).
  bool adaptive = false;
  /// Reads the [CLS] row, always.
  bool needs_cls = false;
  /// Hands [CLS] on to the decoder, unlike other methods after the encoder.
  bool returns_cls = false;
  /// Compares frames: the layout must be that of a video.
  bool video = false;
  /// Looks at no token.
  bool baseline = false;
};

/// An option of a method, with its present value.
struct OptionInfo {
  std::string name;
  std::string type;
  std::string value;
  std::string meaning;
};

/// An option's name and the text of its value.
using OptionSetting = std::pair<std::string, std::string>;

/// A method chosen at run time; see `make_reducer`. Safe to use from several threads at once, each
/// with its own workspace and plan.
template <Scalar T = float>
class Reducer {
 public:
  virtual ~Reducer() = default;

  virtual const MethodInfo& info() const = 0;
  /// Every option with its present value.
  virtual std::vector<OptionInfo> options() const = 0;
  /// Sets one option. Throws on an unknown name, naming the known ones, and on a value that is
  /// none.
  virtual void set(std::string_view name, std::string_view value) = 0;
  /// As `Pipeline::plan`. Throws if the method needs what `inputs` lacks.
  virtual void plan(const Inputs<T>& inputs, const Budget& budget, Workspace& workspace,
                    ReductionPlan& plan) const = 0;

  ReductionPlan plan(const Inputs<T>& inputs, const Budget& budget) const {
    Workspace workspace;
    ReductionPlan result;
    plan(inputs, budget, workspace, result);
    return result;
  }
};

/// All options of a method under one name.
template <class Method>
struct Preset {
  std::string_view name;
  Method (*make)();
};

/// What the registry says of one method: its facts, and its presets. "default", "released" (as the
/// authors' code computes) and "published" (the paper's equations) always exist; one that is not
/// listed is `Method{}`, the default.
template <class Method>
struct MethodLine {
  MethodInfo info;
  std::vector<Preset<Method>> presets = {};

  std::vector<std::string_view> preset_names() const {
    std::vector<std::string_view> names = {"default", "released", "published"};
    for (const Preset<Method>& preset : presets) {
      if (std::find(names.begin(), names.end(), preset.name) == names.end()) {
        names.push_back(preset.name);
      }
    }
    return names;
  }
  Method make(std::string_view name) const {
    for (const Preset<Method>& preset : presets) {
      if (preset.name == name) {
        return preset.make();
      }
    }
    const auto names = preset_names();
    require(std::find(names.begin(), names.end(), name) != names.end(), info.name,
            ": option preset takes ", detail::joined(names, "|"), ", got ", detail::quote(name));
    return Method{};
  }
};

namespace detail {

template <Scalar T, class Method>
class ReducerOf final : public Reducer<T> {
 public:
  explicit ReducerOf(const MethodLine<Method>& line)
      : line_(line), preset_("default"), method_(line.make(preset_)) {}

  const MethodInfo& info() const override { return line_.info; }

  std::vector<OptionInfo> options() const override {
    std::vector<OptionInfo> list{{"preset", joined(line_.preset_names(), "|"), preset_,
                                  "sets all other options; released: as the authors' code "
                                  "computes, published: as the paper is written"}};
    Method method = method_;
    method.options([&](std::string_view name, auto& value, std::string_view meaning) {
      using Text = OptionText<std::remove_cvref_t<decltype(value)>>;
      if (std::none_of(list.begin(), list.end(), [&](const auto& o) { return o.name == name; })) {
        list.push_back({std::string(name), Text::type(), Text::write(value), std::string(meaning)});
      }
    });
    return list;
  }

  void set(std::string_view name, std::string_view value) override {
    if (name == "preset") {
      method_ = line_.make(value);
      preset_ = value;
      return;
    }
    bool found = false;
    method_.options([&](std::string_view known, auto& variable, std::string_view) {
      if (known == name) {
        using Text = OptionText<std::remove_cvref_t<decltype(variable)>>;
        require(Text::parse(value, variable), line_.info.name, ": option ", name, " takes ",
                Text::type(), ", got ", quote(value));
        found = true;
      }
    });
    if (!found) {
      std::vector<std::string> known;
      for (const OptionInfo& option : options()) {
        known.push_back(option.name);
      }
      fail(std::string(line_.info.name) + ": unknown option " + quote(name) +
           "; known: " + joined(known, ", "));
    }
  }

  void plan(const Inputs<T>& inputs, const Budget& budget, Workspace& workspace,
            ReductionPlan& plan) const override {
    Inputs<T> given = inputs;
    if (given.keys.tokens() == 0) {
      given.keys = given.attention.key_heads();
    }
    method_.plan(given, budget, workspace, plan);
  }
  using Reducer<T>::plan;

 private:
  MethodLine<Method> line_;
  std::string preset_;
  Method method_;
};

}  // namespace detail
}  // namespace tokenfold
