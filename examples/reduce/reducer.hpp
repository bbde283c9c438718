// SPDX-License-Identifier: Apache-2.0
//
// What the tool knows of a method: options by name, what it needs, how to plan, what to report.

#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <tokenfold/core/attention.hpp>
#include <tokenfold/core/budget.hpp>
#include <tokenfold/core/plan.hpp>
#include <tokenfold/core/select.hpp>
#include <tokenfold/core/sequence.hpp>
#include <tokenfold/core/workspace.hpp>
#include <vector>

#include "attention.hpp"
#include "options.hpp"

namespace reduce_tool {

enum class Preset { standard, released, published };
template <>
struct Names<Preset> {
  static constexpr auto values = std::to_array<Name<Preset>>({{"default", Preset::standard},
                                                              {"released", Preset::released},
                                                              {"published", Preset::published}});
};

// Order of `discarded_indices`, and with them of the rows of `target_*`.
enum class DiscardedOrder { row, score };
template <>
struct Names<DiscardedOrder> {
  static constexpr auto values = std::to_array<Name<DiscardedOrder>>(
      {{"row", DiscardedOrder::row}, {"score", DiscardedOrder::score}});
};

// Options of several methods.
template <>
struct Names<tokenfold::Aggregate> {
  using E = tokenfold::Aggregate;
  static constexpr auto values = std::to_array<Name<E>>({{"mean", E::mean}, {"sum", E::sum}});
};
template <>
struct Names<tokenfold::TokenOrder> {
  using E = tokenfold::TokenOrder;
  static constexpr auto values =
      std::to_array<Name<E>>({{"raster", E::raster}, {"score", E::score}});
};

// What is written beyond the tensors that every method has, and the defaults of common options.
struct Reports {
  bool self_preserving = false;  // link weights are shares α of the source: target_* tensors
  bool neighbours = false;       // neighbour_indices: what each preserved token picked
  bool patches = false;          // kept_patches, and the scores as cls_attention
  bool ranking = false;          // top_indices: the preserved tokens by falling score
  bool keep_special = true;      // default: rows outside the visual range are part of the output
  tokenfold::Rounding rounding = tokenfold::Rounding::nearest_even;  // default, of --keep-ratio
  DiscardedOrder discarded_order = DiscardedOrder::row;
};

// What planning leaves behind.
struct Decision {
  tokenfold::ReductionPlan plan;
  tokenfold::Workspace workspace;  // with the partition and the correlation
  std::vector<double> scores_before_penalty;
};

template <class T>
using FileSequence =
    tokenfold::Sequence<tokenfold::Attention<FileAttention<T>>, tokenfold::Keys<T>>;

class Reducer {
 public:
  virtual ~Reducer() = default;
  virtual void use_preset(Preset preset) = 0;
  virtual void declare(Options& options) = 0;
  virtual Needs needs() const = 0;
  virtual Reports reports() const = 0;
  virtual void plan(const FileSequence<float>& sequence, const tokenfold::Budget& budget,
                    Decision& decision) const = 0;
  virtual void plan(const FileSequence<double>& sequence, const tokenfold::Budget& budget,
                    Decision& decision) const = 0;
};

// A Reducer of any class with the same members and `plan` as a template.
template <class Method>
class ReducerOf final : public Reducer {
 public:
  void use_preset(Preset preset) override { method_.use_preset(preset); }
  void declare(Options& options) override { method_.declare(options); }
  Needs needs() const override { return method_.needs(); }
  Reports reports() const override { return method_.reports(); }
  void plan(const FileSequence<float>& sequence, const tokenfold::Budget& budget,
            Decision& decision) const override {
    method_.plan(sequence, budget, decision);
  }
  void plan(const FileSequence<double>& sequence, const tokenfold::Budget& budget,
            Decision& decision) const override {
    method_.plan(sequence, budget, decision);
  }

 private:
  Method method_;
};

}  // namespace reduce_tool
