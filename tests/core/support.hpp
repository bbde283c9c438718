// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <cstdint>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "reference/tensor.hpp"
#include "tokenfold/core/plan_writer.hpp"
#include "tokenfold/core/views.hpp"

/// What the tests of core/ share.
namespace core_test {

template <class T>
using RowMajor = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// `call` must be refused with a message that contains `text`.
template <class Call>
void expect_error(Call&& call, const std::string& text) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find(text), std::string::npos)
        << "expected: " << text << "\ngot:      " << error.what();
    return;
  }
  ADD_FAILURE() << "was not refused; expected: " << text;
}

template <class T>
std::vector<std::int64_t> numbers(const T& span) {
  return {span.begin(), span.end()};
}
using Numbers = std::vector<std::int64_t>;

/// Uniform in [-1, 1), the same on every platform.
class Random {
 public:
  explicit Random(std::uint32_t seed) : engine_(seed) {}
  double operator()() { return static_cast<double>(engine_()) / 2147483648.0 - 1.0; }

  template <class T>
  RowMajor<T> matrix(tokenfold::Index rows, tokenfold::Index cols) {
    RowMajor<T> m(rows, cols);
    for (tokenfold::Index i = 0; i < rows; ++i) {
      for (tokenfold::Index j = 0; j < cols; ++j) {
        m(i, j) = static_cast<T>((*this)());
      }
    }
    return m;
  }

 private:
  std::mt19937 engine_;
};

/// W of a plan, written out.
inline RowMajor<double> dense(const tokenfold::ReductionPlan& plan) {
  RowMajor<double> w(plan.output_tokens(), plan.input_tokens());
  w.setZero();
  for (tokenfold::Index row = 0; row < plan.output_tokens(); ++row) {
    for (tokenfold::Index e = plan.offsets()[row]; e < plan.offsets()[row + 1]; ++e) {
      w(row, plan.columns()[e]) += static_cast<double>(plan.weights()[e]);
    }
  }
  return w;
}

struct Entry {
  tokenfold::Token row;
  double weight;
};
struct Row {
  tokenfold::Token kept;
  std::vector<Entry> entries;
};

/// A plan written by hand; kept −1 begins an extra row.
inline tokenfold::ReductionPlan plan_of(const tokenfold::TokenLayout& layout,
                                        const std::vector<Row>& rows) {
  tokenfold::Workspace workspace;
  tokenfold::ReductionPlan plan;
  tokenfold::PlanWriter writer(layout, plan);
  for (const Row& row : rows) {
    if (row.kept == tokenfold::no_token) {
      writer.begin_extra_row();
    } else {
      writer.begin_row(row.kept);
    }
    for (const Entry& entry : row.entries) {
      writer.add(entry.row, entry.weight);
    }
  }
  writer.finish(workspace);
  return plan;
}

}  // namespace core_test
