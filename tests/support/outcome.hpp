// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <tokenfold/core/pipeline.hpp>
#include <tokenfold/core/plan.hpp>
#include <tuple>
#include <vector>

#include "reference/tensor.hpp"
#include "support/random.hpp"

// What the library decided, in the shapes that the reference and the golden files have.
namespace support {

struct Link {
  Index source;
  Index target;
  double alpha;  // share of the source, summing to 1 over its targets
};

struct Outcome {
  std::vector<Index> kept;  // of every output row, -1 = synthetic
  std::vector<Index> preserved;
  std::vector<Index> discarded;
  std::vector<double> scores;
  std::vector<Link> links;  // by source, then by target
  reference::Matrix weights;
  reference::Matrix output;
};

template <class Container>
std::vector<Index> indices(const Container& values) {
  std::vector<Index> result;
  for (const auto value : values) result.push_back(static_cast<Index>(value));
  return result;
}

inline reference::Matrix dense_weights(const tokenfold::ReductionPlan& plan) {
  reference::Matrix w(static_cast<std::size_t>(plan.output_tokens()),
                      static_cast<std::size_t>(plan.input_tokens()));
  for (Index row = 0; row < plan.output_tokens(); ++row) {
    for (Index e = plan.offsets()[row]; e < plan.offsets()[row + 1]; ++e) {
      w(static_cast<std::size_t>(row), static_cast<std::size_t>(plan.columns()[e])) +=
          static_cast<double>(plan.weights()[e]);
    }
  }
  return w;
}

template <class T>
reference::Matrix apply(const tokenfold::ReductionPlan& plan, const reference::Matrix& tokens) {
  const Tensor<T> in = tensor<T>(tokens);
  Tensor<T> out(plan.output_tokens(), in.cols());
  plan.apply(in, out);
  reference::Matrix result(static_cast<std::size_t>(out.rows()),
                           static_cast<std::size_t>(out.cols()));
  std::transform(out.data(), out.data() + out.size(), result.values.begin(),
                 [](T value) { return static_cast<double>(value); });
  return result;
}

inline std::vector<Link> normalized_links(const tokenfold::Correlation& correlation) {
  std::vector<Link> links;
  for (Index i = 0; i < correlation.source_count(); ++i) {
    double total = 0;
    for (const double strength : correlation.strengths(i)) total += strength;
    for (Index l = 0; l < correlation.targets(i).size(); ++l) {
      links.push_back(
          {correlation.source(i), correlation.targets(i)[l], correlation.strengths(i)[l] / total});
    }
  }
  std::sort(links.begin(), links.end(), [](const Link& a, const Link& b) {
    return std::tie(a.source, a.target) < std::tie(b.source, b.target);
  });
  return links;
}

template <class T, class Method, class S>
Outcome run(const Method& method, const S& sequence, const tokenfold::Budget& budget,
            const reference::Matrix& tokens) {
  tokenfold::Workspace workspace;
  tokenfold::ReductionPlan plan;
  method.plan(sequence, budget, workspace, plan);
  Outcome outcome;
  outcome.kept = indices(plan.kept());
  outcome.preserved = indices(workspace.partition.preserved);
  outcome.discarded = indices(workspace.partition.discarded);
  outcome.scores = workspace.partition.scores;
  outcome.links = normalized_links(workspace.correlation);
  outcome.weights = dense_weights(plan);
  outcome.output = apply<T>(plan, tokens);
  return outcome;
}

/// |actual − expected| ≤ relative · |expected|, or `floor` · the largest |expected|, or `absolute`.
inline testing::AssertionResult close(const std::vector<double>& actual,
                                      const std::vector<double>& expected, double relative = 1e-5,
                                      double floor = 1e-7, double absolute = 0) {
  if (actual.size() != expected.size()) {
    return testing::AssertionFailure() << actual.size() << " values instead of " << expected.size();
  }
  double largest = 0;
  for (const double value : expected) {
    if (std::isfinite(value)) largest = std::max(largest, std::abs(value));
  }
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const bool both_nan = std::isnan(actual[i]) && std::isnan(expected[i]);
    const double allowed = std::max({relative * std::abs(expected[i]), floor * largest, absolute});
    if (!both_nan && actual[i] != expected[i] && !(std::abs(actual[i] - expected[i]) <= allowed)) {
      return testing::AssertionFailure() << "value " << i << " is " << actual[i] << " instead of "
                                         << expected[i] << ", largest " << largest;
    }
  }
  return testing::AssertionSuccess();
}

/// The message of the std::invalid_argument that `call` throws; fails the test if it does not.
template <class Call>
std::string refusal(Call&& call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

}  // namespace support
