// SPDX-License-Identifier: Apache-2.0
// Every method of the registry on one photograph, or on a few frames of a video.
#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "runs.hpp"

namespace photo {

/// Per row of the table, for median times.
inline constexpr int kTimedRuns = 5;

/// How the methods are grouped: by where they act, baselines and methods for videos apart.
enum class Group { encoder, after_encoder, decoder, baseline, video };

/// Where the [CLS] attention on the patches, taken before any reduction, ends up.
struct Fate {
  double kept = 0.0;    // on patches that live on in a token of their own
  double merged = 0.0;  // on patches that were merged into those
  double extra = 0.0;   // on patches that were merged into a token appended for them

  double lost() const { return std::max(0.0, 1.0 - kept - merged - extra); }
};

/// What a method did.
struct Outcome {
  std::string method = {};
  Group group = Group::encoder;
  std::string where = {};
  /// From the patches to the visual tokens left.
  tokenfold::ReductionPlan patches = {};
  int steps = 1;
  Cost cost = {};
  Fate fate = {};

  Index extra() const { return patches.extra_tokens(); }
  Index kept() const { return patches.output_tokens() - extra(); }
};

/// A photograph, encoded, and everything that the methods need of it.
class Study {
 public:
  /// The question is about the box around cell (column, row).
  Study(const Encoded& encoded, Index column, Index row);

  /// How [CLS] spreads its attention over the patches (mean of the heads), scaled to a sum of 1.
  const std::vector<float>& cls_attention() const { return cls_attention_; }
  const Question& question() const { return question_; }
  /// Of the sequence of which `Outcome::patches` takes the visual rows.
  const tokenfold::TokenLayout& layout() const { return layout_; }

  /// Every method for images, in the order of the registry: at `tokens` patches, or, of those that
  /// have a rule of their own, at whatever that gives.
  std::vector<Outcome> at(Index tokens);
  std::vector<Outcome> adaptive();
  /// FiCoCo-V, -L and -VL with their budget spread over the layers of encoder and decoder.
  std::vector<Outcome> layer_by_layer(Index tokens);

 private:
  Outcome one(const tokenfold::MethodInfo& info, std::span<const tokenfold::Budget> budgets);
  Outcome both(std::string name, double encoder_share, Index tokens);
  Layer after_encoder(const Layer& left, Index n) const;
  template <class Run>
  Outcome measured(std::string name, Group group, Run&& run) const;
  Fate fate_of(const tokenfold::ReductionPlan& plan) const;

  tokenfold::TokenLayout layout_;
  Layer layer_;
  Question question_;
  Steps steps_;
  std::vector<float> cls_attention_;
};

/// Every method for videos, and uniform sampling, on frames encoded one by one; no `fate`.
std::vector<Outcome> study_video(std::span<const Encoded> frames, Index tokens);

}  // namespace photo
