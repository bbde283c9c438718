// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <limits>
#include <tokenfold/filter/greedy_coverage.hpp>
#include <tokenfold/filter/similarity_matrix.hpp>
#include <vector>

#include "support/random.hpp"

namespace {

using support::Random;
using tokenfold::Index;
using tokenfold::MatrixView;
using tokenfold::Span;
using tokenfold::Workspace;
template <class T>
using Tensor = support::Tensor<T>;

template <class T>
class GreedyCoverage : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(GreedyCoverage, Scalars);

/// Evaluates everybody before every pick.
template <class T>
std::vector<Index> evaluate_all(tokenfold::detail::Coverage<T> coverage,
                                const std::vector<bool>& usable, std::size_t picks) {
  std::vector<Index> chosen;
  std::vector<bool> picked(usable.size());
  std::vector<double> unused(usable.size());
  while (chosen.size() < picks) {
    Index best = -1;
    double most = -std::numeric_limits<double>::infinity();
    for (const bool wanted : {true, false}) {
      for (std::size_t i = 0; i < usable.size(); ++i) {
        const auto candidate = static_cast<Index>(i);
        if (picked[i] || usable[i] != wanted || (!wanted && best >= 0)) continue;
        const double gain = wanted ? coverage.gain(candidate) : 0;
        if (best < 0 || gain > most) {
          best = candidate;
          most = gain;
        }
      }
    }
    picked[static_cast<std::size_t>(best)] = true;
    chosen.push_back(best);
    coverage.add(best, unused, 1);
  }
  return chosen;
}

/// Demands in the hundreds, so that sums have several segments and add() several groups; equal
/// candidates, demands of weight 0, values that are equal, negative or zero.
TYPED_TEST(GreedyCoverage, lazy_picks_are_those_of_evaluating_everybody) {
  using T = TypeParam;
  Random random(1);
  for (int i = 0; i < 40; ++i) {
    const Index n = 1 + random.below(40);
    const Index demands = i % 4 == 0 ? 200 + random.below(200) : random.below(40);
    const bool coarse = random.chance(0.3);
    Tensor<T> covers(n, demands);
    for (T& value : covers.reshaped()) {
      value = static_cast<T>(coarse ? static_cast<double>(random.below(4)) - 1 : random.normal());
    }
    for (int copies = static_cast<int>(random.below(8)); copies > 0; --copies) {
      covers.row(random.below(n)) = covers.row(random.below(n)).eval();
    }
    const Tensor<T> transposed = covers.transpose();
    std::vector<T> weights;
    for (Index r = 0; r < demands; ++r) {
      weights.push_back(random.chance(0.2) ? T(0) : static_cast<T>(random.uniform()));
    }
    std::vector<bool> usable;
    for (Index c = 0; c < n; ++c) usable.push_back(random.chance(0.9));
    const auto picks = static_cast<std::size_t>(random.below(n + 1));

    Workspace workspace;
    Workspace::Frame frame(workspace);
    tokenfold::detail::Coverage<T> coverage(MatrixView<const T>(covers),
                                            MatrixView<const T>(transposed), weights, workspace);
    tokenfold::detail::Coverage<T> naive(MatrixView<const T>(covers),
                                         MatrixView<const T>(transposed), weights, workspace);
    const Span<bool> may = workspace.take<bool>(n);
    std::copy(usable.begin(), usable.end(), may.begin());
    std::vector<Index> chosen(picks);
    std::vector<Index> told;
    tokenfold::detail::pick_greedily(
        coverage, may, chosen, [](Index, double gain) { return gain; },
        [&](Index candidate, double) { told.push_back(candidate); }, workspace);
    EXPECT_EQ(chosen, evaluate_all(naive, usable, picks)) << "case " << i;
    EXPECT_EQ(told, chosen);
  }
}

TYPED_TEST(GreedyCoverage, gains_fall_by_what_was_added) {
  using T = TypeParam;
  Random random(2);
  const Index n = 30;
  const Tensor<T> covers = support::tensor<T>(support::normal_matrix<T>(30, 333, random));
  const Tensor<T> transposed = covers.transpose();
  const std::vector<T> weights(333, T(0.5));
  Workspace workspace;
  Workspace::Frame frame(workspace);
  tokenfold::detail::Coverage<T> coverage(MatrixView<const T>(covers),
                                          MatrixView<const T>(transposed), weights, workspace);
  std::vector<double> gains;
  for (Index i = 0; i < n; ++i) gains.push_back(coverage.gain(i));
  const std::vector<double> first = gains;
  for (const Index pick : {3, 29, 0, 17}) {
    coverage.add(pick, gains, 1);
    for (Index i = 0; i < n; ++i) {
      const auto at = static_cast<std::size_t>(i);
      EXPECT_NEAR(gains[at], coverage.gain(i), coverage.rounding() * first[at]);
    }
    EXPECT_EQ(coverage.gain(pick), 0);
  }
}

TYPED_TEST(GreedyCoverage, similarities_are_symmetric_at_any_size) {
  using T = TypeParam;
  Random random(3);
  for (const std::size_t n : {1u, 15u, 16u, 17u, 31u, 32u, 33u, 48u, 65u, 130u}) {
    const Tensor<T> x = support::tensor<T>(support::normal_matrix<T>(n, 7, random));
    Workspace workspace;
    Workspace::Frame frame(workspace);
    const tokenfold::detail::CosineRows<T> cosines(MatrixView<const T>(x), workspace);
    Tensor<T> all = Tensor<T>::Constant(cosines.size(), cosines.size(), T(9));
    tokenfold::detail::similarity_matrix(cosines, MatrixView<T>(all), workspace);
    EXPECT_EQ(all, Tensor<T>(all.transpose())) << n;
    const Tensor<T> unit = x.rowwise().normalized();
    EXPECT_LE((all - unit * unit.transpose()).cwiseAbs().maxCoeff(), 1e-6) << n;
  }
}

}  // namespace
