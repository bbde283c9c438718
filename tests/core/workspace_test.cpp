// SPDX-License-Identifier: Apache-2.0
#include "tokenfold/core/workspace.hpp"

#include <gtest/gtest.h>

#include <cstdint>

#include "core/support.hpp"

namespace {

using core_test::expect_error;
using tokenfold::Index;
using tokenfold::Span;
using tokenfold::Workspace;

TEST(WorkspaceTest, every_array_is_aligned_to_64_bytes) {
  Workspace workspace;
  Workspace::Frame frame(workspace);
  for (const Index count : {1, 3, 0, 7, 100, 1, 70000, 5}) {
    const auto address = reinterpret_cast<std::uintptr_t>(workspace.take<char>(count).data());
    EXPECT_EQ(address % 64, 0u);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(workspace.take<double>(count).data()) % 64, 0u);
  }
}

TEST(WorkspaceTest, arrays_of_one_frame_do_not_overlap) {
  Workspace workspace;
  Workspace::Frame frame(workspace);
  std::vector<Span<int>> arrays;
  for (int i = 0; i < 200; ++i) {
    arrays.push_back(workspace.take_filled<int>(17 * i, i));
  }
  for (int i = 0; i < 200; ++i) {
    for (const int value : arrays[static_cast<std::size_t>(i)]) {
      ASSERT_EQ(value, i);
    }
  }
}

TEST(WorkspaceTest, frames_give_memory_back_in_reverse_order) {
  Workspace workspace;
  Workspace::Frame outer(workspace);
  const Span<float> kept = workspace.take_filled<float>(10, 1.5f);
  const float* first = nullptr;
  {
    Workspace::Frame inner(workspace);
    first = workspace.take<float>(100).data();
    {
      Workspace::Frame innermost(workspace);
      EXPECT_NE(workspace.take<float>(100).data(), first);
    }
  }
  EXPECT_EQ(workspace.take_filled<float>(100, 0.0f).data(), first) << "memory was not reused";
  for (const float value : kept) {
    EXPECT_EQ(value, 1.5f);
  }
}

TEST(WorkspaceTest, an_overflowing_inner_frame_leaves_the_outer_arrays_alone) {
  Workspace workspace;
  {
    Workspace::Frame outer(workspace);
    const Span<int> kept = workspace.take_filled<int>(1000, 7);
    for (Index megabytes = 1; megabytes < 4; ++megabytes) {
      Workspace::Frame inner(workspace);
      workspace.take_filled<int>(megabytes << 18, 9);
      workspace.take_filled<int>(megabytes << 18, 9);
    }
    for (const int value : kept) {
      ASSERT_EQ(value, 7);
    }
  }
  const std::size_t warm = workspace.capacity();
  for (int repeat = 0; repeat < 3; ++repeat) {
    Workspace::Frame frame(workspace);
    workspace.take<int>(1000);
    workspace.take<int>(6 << 18);
    EXPECT_EQ(workspace.capacity(), warm);
  }
}

TEST(WorkspaceTest, after_a_warm_up_nothing_is_allocated) {
  Workspace workspace;
  const auto call = [&] {
    Workspace::Frame frame(workspace);
    workspace.take<double>(3000);
    {
      Workspace::Frame inner(workspace);
      workspace.take<char>(200000);
    }
    return workspace.take<float>(50000).data();
  };
  call();
  const std::size_t warm = workspace.capacity();
  const float* place = call();
  for (int repeat = 0; repeat < 5; ++repeat) {
    EXPECT_EQ(call(), place);
    EXPECT_EQ(workspace.capacity(), warm);
  }
}

TEST(WorkspaceTest, peak_counts_what_is_in_use_at_once) {
  Workspace workspace;
  EXPECT_EQ(workspace.peak(), 0u);
  EXPECT_EQ(workspace.capacity(), 0u);
  for (int repeat = 0; repeat < 3; ++repeat) {
    Workspace::Frame frame(workspace);
    workspace.take<char>(64);
    {
      Workspace::Frame inner(workspace);
      workspace.take<char>(640);
    }
    workspace.take<char>(128);
  }
  EXPECT_EQ(workspace.peak(), 704u);
  EXPECT_GE(workspace.capacity(), workspace.peak());
}

TEST(WorkspaceTest, holds_no_more_than_was_in_use_at_once) {
  Workspace workspace;
  {
    Workspace::Frame frame(workspace);
    workspace.take<char>(40000);
    for (const Index count : {200000, 100000}) {
      Workspace::Frame inner(workspace);
      workspace.take<char>(count);  // more than is left of the first block
      EXPECT_EQ(workspace.peak(), 240000u);
    }
  }
  EXPECT_EQ(workspace.peak(), 240000u);
  EXPECT_EQ(workspace.capacity(), 240000u);
}

TEST(WorkspaceTest, moving_keeps_the_memory) {
  Workspace first;
  {
    Workspace::Frame frame(first);
    first.take<float>(100);
  }
  const std::size_t held = first.capacity();
  const Workspace second = std::move(first);
  EXPECT_EQ(second.capacity(), held);
}

TEST(WorkspaceTest, negative_count_is_refused) {
  Workspace workspace;
  expect_error([&] { workspace.take<int>(-3); }, "workspace: negative count -3");
}

}  // namespace
