// SPDX-License-Identifier: Apache-2.0
// One large item on several threads: the same bits as on one, for every method.
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "support/all_inputs.hpp"
#include "tokenfold/std_threads.hpp"

namespace {

using namespace tokenfold;

/// Counts the loops that are spread, so that a test cannot pass because none is.
struct CountingThreads {
  Index concurrency() const { return 3; }

  template <class Body>
  void operator()(Index count, const Body& body) const {
    ++*loops;
    StdThreads{3}(count, body);
  }

  Index* loops;
};

template <class V>
std::vector<std::remove_const_t<std::remove_reference_t<decltype(*std::declval<V>().begin())>>>
copy(const V& values) {
  return {values.begin(), values.end()};
}

class Threads : public testing::TestWithParam<std::string> {};

TEST_P(Threads, change_no_bit) {
  Index loops = 0;
  const CountingThreads executor{&loops};
  Workspace alone;
  Workspace together;
  together.run_on(executor);
  const MethodInfo info = make_reducer<float>(GetParam())->info();
  support::AllInputs<float> picture(support::layout_for(info, 12));
  for (const std::string& preset : support::preset_names(GetParam())) {
    SCOPED_TRACE(preset);
    const auto method = make_reducer<float>(GetParam(), {{"preset", preset}});
    ReductionPlan expected;
    ReductionPlan plan;
    method->plan(picture.inputs, support::budget_for(info), alone, expected);
    method->plan(picture.inputs, support::budget_for(info), together, plan);
    EXPECT_EQ(copy(plan.kept()), copy(expected.kept()));
    EXPECT_EQ(copy(plan.offsets()), copy(expected.offsets()));
    EXPECT_EQ(copy(plan.columns()), copy(expected.columns()));
    EXPECT_EQ(copy(plan.weights()), copy(expected.weights()));
    EXPECT_EQ(together.partition.scores.size(), alone.partition.scores.size());
    for (std::size_t i = 0; i < alone.partition.scores.size(); ++i) {
      const double a = alone.partition.scores[i];
      const double b = together.partition.scores[i];
      EXPECT_TRUE(a == b || (a != a && b != b)) << i << ": " << a << ", " << b;
    }
  }
  // The others read every token once, or a row of attention: memory is what they wait for.
  const std::set<std::string> of_products = {"ficoco_v", "ficoco_l",     "ivtp",  "prumerge",
                                             "divprune", "cdpruner",     "mmtok", "scope",
                                             "tops",     "prumerge_plus"};
  if (of_products.count(GetParam()) > 0) {
    EXPECT_GT(loops, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(, Threads, testing::ValuesIn(support::method_names()),
                         [](const auto& test) { return test.param; });

}  // namespace
