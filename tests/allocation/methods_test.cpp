// SPDX-License-Identifier: Apache-2.0
// After one call with the largest shape nothing asks for memory: every method with every preset,
// planned, applied, applied in place.

#include "allocation/counted.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "support/all_inputs.hpp"

namespace {

using allocation::Counter;
using namespace tokenfold;
using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Memory that is written down here cannot be left out by a compiler that sees no use of it.
const float* volatile kept = nullptr;

TEST(Counter, sees_new_and_what_eigen_asks_for) {
  std::size_t counts[4];
  {
    const Counter counter;
    counts[0] = counter.count();
    const std::vector<float> values(1000);
    kept = values.data();
    counts[1] = counter.count();
    const Matrix matrix = Matrix::Ones(300, 300);
    kept = matrix.data();
    counts[2] = counter.count();
    const Matrix product = matrix * matrix;  // its result and at least one packed side
    kept = product.data();
    counts[3] = counter.count();
  }
  EXPECT_EQ(counts[0], 0u);
  EXPECT_EQ(counts[1], 1u);
  EXPECT_EQ(counts[2], 2u);
  EXPECT_GE(counts[3], 4u);
}

template <class T>
void expect_no_allocation(const MethodInfo& info) {
  using support::AllInputs;
  AllInputs<T> large(support::layout_for(info, 12));
  AllInputs<T> small(support::layout_for(info, 8));
  for (const std::string& preset : support::preset_names(std::string(info.name))) {
    SCOPED_TRACE(std::string(info.name) + ", preset " + preset);
    const auto method = make_reducer<T>(info.name, {{"preset", preset}});
    Workspace workspace;
    ReductionPlan plan;
    support::Tensor<T> out;
    const auto run = [&](AllInputs<T>& picture) {
      method->plan(picture.inputs, support::budget_for(info), workspace, plan);
      const MatrixView<T> rows(out.data(), plan.output_tokens(), picture.features.cols());
      plan.apply(picture.features, rows);
    };
    out.resize(200, large.features.cols());
    run(large);
    run(large);  // the first one's overflow is joined to one block
    for (AllInputs<T>* picture : {&large, &small}) {
      std::size_t requests = 0;
      {
        const Counter counter;
        run(*picture);
        requests = counter.count();
      }
      EXPECT_EQ(requests, 0u);
    }
  }
}

class NoAllocation : public testing::TestWithParam<std::string> {};

TEST_P(NoAllocation, float_tokens) {
  expect_no_allocation<float>(make_reducer<float>(GetParam())->info());
}
TEST_P(NoAllocation, half_tokens) {
  expect_no_allocation<Eigen::half>(make_reducer<float>(GetParam())->info());
}

INSTANTIATE_TEST_SUITE_P(, NoAllocation, testing::ValuesIn(support::method_names()),
                         [](const auto& test) { return test.param; });

}  // namespace
