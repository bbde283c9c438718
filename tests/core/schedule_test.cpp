// SPDX-License-Identifier: Apache-2.0
#include "tokenfold/schedule.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/support.hpp"

namespace {

using core_test::expect_error;
using core_test::Numbers;
using core_test::numbers;
using tokenfold::Index;
using tokenfold::Layers;
using tokenfold::Schedule;

// --- lists
// ----------------------------------------------------------------------------------------

TEST(ScheduleTest, a_list_answers_for_every_layer) {
  const Schedule schedule({0, 3, 0, 2});
  EXPECT_EQ(schedule.size(), 4);
  EXPECT_EQ(schedule[1], 3);
  EXPECT_EQ(schedule.total(), 5);
  EXPECT_EQ(numbers(schedule.counts(9)), (Numbers{9, 9, 6, 6, 4}));
  EXPECT_EQ(schedule.average(9), 30.0 / 4);
  EXPECT_EQ(schedule.cost(9, [](Index n) { return n * n; }), 81 + 81 + 36 + 36);
  EXPECT_EQ(numbers(schedule), (Numbers{0, 3, 0, 2}));
  EXPECT_EQ(Schedule().average(9), 0);
  EXPECT_EQ(numbers(Schedule().counts(9)), (Numbers{9}));
  expect_error([] { Schedule({1, -2}); }, "schedule: layer 1 discards -2 tokens");
}

TEST(ScheduleTest, constant_from_a_first_layer_on) {
  // FiCoCo-V from the 12th of 24 layers on.
  const auto schedule = Schedule::constant(42, {.count = 24, .first = 11});
  EXPECT_EQ(schedule.size(), 24);
  EXPECT_EQ(schedule[10], 0);
  EXPECT_EQ(schedule[11], 42);
  EXPECT_EQ(schedule[23], 42);
  EXPECT_EQ(schedule.counts(576).back(), 576 - 13 * 42);
  // ToMe in CLIP: r = 16 in all 24 layers leaves 192.
  EXPECT_EQ(Schedule::constant(16, {24}).counts(576).back(), 192);
}

TEST(ScheduleTest, layers_that_do_not_exist_are_refused) {
  expect_error([] { Schedule::constant(1, {.count = 24, .first = 24}); },
               "schedule: reduction cannot begin in layer 24 of 24");
  expect_error([] { Schedule::constant(1, {.count = 24, .first = -1}); }, "in layer -1 of 24");
  expect_error([] { Schedule::constant(-1, {2}); }, "schedule: layer 0 discards -1 tokens");
  expect_error([] { Schedule::tome(8, 0, 0); }, "in layer 0 of 0");
}

TEST(ScheduleTest, evenly_gives_the_remainder_to_earlier_layers) {
  EXPECT_EQ(numbers(Schedule::evenly(11, {.count = 6, .first = 2})), (Numbers{0, 0, 3, 3, 3, 2}));
  EXPECT_EQ(numbers(Schedule::evenly(2, {.count = 3})), (Numbers{1, 1, 0}));
  EXPECT_EQ(numbers(Schedule::evenly(0, {.count = 3})), (Numbers{0, 0, 0}));
  expect_error([] { Schedule::evenly(-1, {3}); }, "schedule: cannot discard -1 tokens");
}

TEST(ScheduleTest, discarding_more_than_there_is_is_refused_or_clamped) {
  const auto schedule = Schedule::constant(4, {3});
  expect_error([&] { schedule.counts(10); },
               "schedule: layer 2 discards 4 of 2 visual tokens; clamped() takes what is there");
  EXPECT_EQ(numbers(schedule.clamped(10)), (Numbers{4, 4, 2}));
  EXPECT_EQ(numbers(schedule.clamped(3)), (Numbers{3, 0, 0}));
  EXPECT_EQ(numbers(schedule.clamped(0)), (Numbers{0, 0, 0}));
  EXPECT_EQ(schedule.clamped(12), schedule);
  // ToMe merges at most every other token: 5 of 10, 2 of 5, 1 of 3, 1 of 2, 0 of 1.
  EXPECT_EQ(numbers(Schedule::constant(8, {5}).clamped(10, 0.5)), (Numbers{5, 2, 1, 1, 0}));
  expect_error([&] { schedule.clamped(3, 1.5); }, "schedule: most must lie in [0, 1], got 1.5");
}

// --- published schedules
// --------------------------------------------------------------------------

TEST(ScheduleTest, tome_by_hand) {
  EXPECT_EQ(numbers(Schedule::tome(13, 0, 4)), (Numbers{13, 13, 13, 13}));
  EXPECT_EQ(numbers(Schedule::tome(8, -1, 5)), (Numbers{16, 12, 8, 4, 0}));
  EXPECT_EQ(numbers(Schedule::tome(8, 1, 5)), (Numbers{0, 4, 8, 12, 16}));
  EXPECT_EQ(numbers(Schedule::tome(7, -0.5, 4)), (Numbers{10, 8, 6, 4})) << "10.5 is cut to 10";
  EXPECT_EQ(numbers(Schedule::tome(5, 1, 4)), (Numbers{0, 3, 6, 10})) << "10/3 and 20/3 are cut";
  EXPECT_EQ(numbers(Schedule::tome(5, -1, 4)), (Numbers{10, 6, 3, 0}));
  // 10 · (1 − 0.9) is 0.9999999999999998 in double.
  EXPECT_EQ(Schedule::tome(10, 0.9, 2)[0], 0);
  EXPECT_EQ(numbers(Schedule::tome(9, -1, 1)), (Numbers{9}));
  EXPECT_EQ(Schedule::tome(0, 0.5, 12).total(), 0);
}

TEST(ScheduleTest, tome_ends_exactly_where_it_should) {
  for (const Index layers : {2, 8, 12, 24, 32}) {
    for (Index r = 0; r < 50; ++r) {
      for (int f = -20; f <= 20; ++f) {
        const auto schedule = Schedule::tome(r, f / 20.0, layers);
        const Index from = schedule[0];
        EXPECT_EQ(from, static_cast<Index>(static_cast<double>(r) * (1.0 - f / 20.0)));
        EXPECT_EQ(schedule[layers - 1], 2 * r - from);
        EXPECT_LE(schedule.total(), r * layers);
        EXPECT_GT(schedule.total(), (r - 1) * layers);
      }
    }
  }
}

TEST(ScheduleTest, tome_refuses_bad_options) {
  expect_error([] { Schedule::tome(8, 1.5, 12); },
               "schedule: inflection must lie in [-1, 1], got 1.5");
  expect_error([] { Schedule::tome(8, std::nan(""), 12); }, "inflection must lie in [-1, 1]");
  expect_error([] { Schedule::tome(-8, 0, 12); }, "schedule: cannot discard -8 tokens");
}

TEST(ScheduleTest, stages_say_what_each_layer_sees) {
  // SparseVLM's "64" with its recycled tokens: 3, 4, 9 and 16 layers.
  const auto schedule = Schedule::stages(576, {{3, 82}, {7, 32}, {16, 18}}, 32);
  const auto counts = schedule.counts(576);
  EXPECT_EQ(counts[2], 576);
  EXPECT_EQ(counts[3], 82);
  EXPECT_EQ(counts[6], 82);
  EXPECT_EQ(counts[7], 32);
  EXPECT_EQ(counts[16], 18);
  EXPECT_EQ(counts[32], 18);
  EXPECT_EQ(schedule.average(576), 82.25);
  EXPECT_EQ(schedule[2], 494) << "in the layer before the one that sees fewer";
  // What leaves the last layer may be a stage as well.
  EXPECT_EQ(numbers(Schedule::stages(9, {{2, 4}}, 2).counts(9)), (Numbers{9, 9, 4}));
  EXPECT_EQ(Schedule::stages(9, {}, 2).total(), 0);
}

TEST(ScheduleTest, stages_refuse_what_cannot_be) {
  expect_error(
      [] {
        Schedule::stages(9, {{0, 4}}, 4);
      },
      "schedule: a stage cannot begin in layer 0 of 4, the one before it begins in layer 0");
  expect_error([] { Schedule::stages(9, {{2, 4}, {2, 3}}, 4); }, "begins in layer 2");
  expect_error([] { Schedule::stages(9, {{5, 4}}, 4); }, "cannot begin in layer 5 of 4");
  expect_error(
      [] {
        Schedule::stages(9, {{1, 4}, {2, 5}}, 4);
      },
      "schedule: a stage cannot keep 5 of 4 visual tokens");
  expect_error([] { Schedule::stages(9, {{1, -1}}, 4); }, "cannot keep -1 of 9");
}

TEST(ScheduleTest, pyramiddrop_7b) {
  const auto schedule = Schedule::pyramid(576, {0.5, 0.25, 0.125}, 32);
  const auto counts = schedule.counts(576);
  for (Index l = 0; l < 32; ++l) {
    EXPECT_EQ(counts[static_cast<std::size_t>(l)], 576 >> (l / 8)) << l;
  }
  EXPECT_EQ(schedule.average(576), 270);
  // Multiply-adds of the visual tokens, the paper's formula: its table has 3.82, 2.13, 1.78 and,
  // for five stages, 1.38 T.
  const auto macs = [](Index visual) {
    const double n = static_cast<double>(visual), d = 4096, m = 11008;
    return 1e-12 * (4 * n * d * d + 2 * n * n * d + 3 * n * d * m);
  };
  EXPECT_NEAR(Schedule::constant(0, {32}).cost(576, macs), 3.82, 0.005);
  EXPECT_NEAR(Schedule::pyramid(576, {0.5, 0.25}, 32).cost(576, macs), 2.13, 0.005);
  EXPECT_NEAR(schedule.cost(576, macs), 1.78, 0.005);
  EXPECT_NEAR(Schedule::pyramid(576, {0.5, 0.25, 0.125, 0.0625}, 32).cost(576, macs), 1.39, 0.005);
}

TEST(ScheduleTest, pyramid_counts_are_cut_from_the_original_number) {
  // 50 → 25 → 12 → 6, not 25 / 2 of what was left.
  EXPECT_EQ(numbers(Schedule::pyramid(50, {0.5, 0.25, 0.125}, 4).counts(50)),
            (Numbers{50, 25, 12, 6, 6}));
  // 0.29 · 100 is 28.999999999999996 in double.
  EXPECT_EQ(Schedule::pyramid(100, {0.29}, 2).counts(100).back(), 28);
  // The last stage takes the layers that do not divide: 10, 10, 12.
  const auto counts = Schedule::pyramid(64, {0.5, 0.25}, 32).counts(64);
  EXPECT_EQ(counts[9], 64);
  EXPECT_EQ(counts[10], 32);
  EXPECT_EQ(counts[20], 16);
  EXPECT_EQ(counts[31], 16);
  EXPECT_EQ(Schedule::pyramid(64, {}, 3).total(), 0);
  expect_error([] { Schedule::pyramid(64, {0.25, 0.5}, 6); }, "cannot keep 32 of 16");
  expect_error([] { Schedule::pyramid(64, {1.5}, 6); }, "schedule: ratio must lie in [0, 1]");
  expect_error([] { Schedule::pyramid(64, {0.5, 0.25}, 2); }, "cannot begin in layer 0 of 2");
}

// --- solving for a budget
// -------------------------------------------------------------------------

/// LLaVA-1.5-7B with 60 text tokens, FLOPs as FiCoCo's table counts them.
double flops(Index visual) {
  const double n = static_cast<double>(visual + 60), d = 4096, m = 11008;
  return 8 * n * d * d + 4 * n * n * d + 6 * n * d * m;
}

/// The first of all schedules of this kind, from the mildest on, that meets the budget.
template <class Cost>
Schedule searched(Index visual, Layers layers, const Cost& cost, double budget) {
  for (Index total = 0;; ++total) {
    const auto schedule = Schedule::evenly(total, layers).clamped(visual);
    if (schedule.cost(visual, cost) <= budget) {
      return schedule;
    }
  }
}

TEST(ScheduleTest, least_schedule_for_an_average_is_what_a_search_finds) {
  const auto tokens = [](Index n) { return static_cast<double>(n); };
  for (const Index visual : {0, 1, 5, 64, 97}) {
    for (const Layers layers : {Layers{1, 0}, {6, 0}, {6, 2}, {7, 6}}) {
      for (double average = 0; average <= static_cast<double>(visual) + 1; average += 1.7) {
        const double lowest = static_cast<double>(visual * (layers.first + 1));
        if (average * static_cast<double>(layers.count) < lowest) {
          expect_error([&] { Schedule::for_average(visual, layers, average); }, "cannot be met");
          continue;
        }
        const auto schedule = Schedule::for_average(visual, layers, average);
        EXPECT_LE(schedule.average(visual), average);
        EXPECT_EQ(schedule,
                  searched(visual, layers, tokens, average * static_cast<double>(layers.count)));
      }
    }
  }
}

TEST(ScheduleTest, least_schedule_for_a_cost_is_what_a_search_finds) {
  int refused = 0;
  for (const Layers layers : {Layers{32, 0}, {32, 3}, {32, 20}}) {
    for (const double budget : {4e12, 6.0e12, 7e12, 8.4e12, 9e12}) {
      // At best all is discarded in the first layer that may.
      const auto lowest = Schedule::constant(576, layers).clamped(576).cost(576, flops);
      if (budget < lowest) {
        expect_error([&] { Schedule::for_cost(576, layers, flops, budget); }, "cannot be met");
        ++refused;
        continue;
      }
      const auto schedule = Schedule::for_cost(576, layers, flops, budget);
      EXPECT_LE(schedule.cost(576, flops), budget);
      EXPECT_EQ(schedule, searched(576, layers, flops, budget));
      // The budget is used: one token less discarded would exceed it.
      EXPECT_GT(schedule.cost(576, flops),
                std::min(budget, Schedule::constant(0, {32}).cost(576, flops)) - 32 * 1.4e10);
    }
  }
  EXPECT_EQ(refused, 1);
}

TEST(ScheduleTest, solved_counts_are_even_until_nothing_is_left) {
  const auto mild = Schedule::for_average(576, {32, 3}, 400);
  for (Index l = 3; l < 32; ++l) {
    EXPECT_GE(mild[l], mild[31]);
    EXPECT_LE(mild[l] - mild[31], 1);
  }
  const auto hard = Schedule::for_average(576, {32, 3}, 80);
  EXPECT_EQ(hard.total(), 576);
  EXPECT_EQ(hard[31], 0);
  EXPECT_LE(hard.average(576), 80);
}

TEST(ScheduleTest, a_budget_that_is_large_enough_discards_nothing) {
  EXPECT_EQ(Schedule::for_average(576, {32, 3}, 576).total(), 0);
  EXPECT_EQ(Schedule::for_cost(576, {32, 3}, flops, 1e18).total(), 0);
  EXPECT_EQ(Schedule::for_average(0, {32, 3}, 0).total(), 0);
}

TEST(ScheduleTest, ficoco_l_cannot_have_the_flops_that_its_paper_prints) {
  // Vanilla is 8.45 TFLOPs. Four layers that see everything and 28 without any visual token still
  // need 1.74.
  EXPECT_NEAR(Schedule::constant(0, {32}).cost(576, flops), 8.450e12, 1e9);
  const Layers layers{.count = 32, .first = 3};
  expect_error([&] { Schedule::for_cost(576, layers, flops, 1.5e12); },
               "schedule: the budget of 1.5e+12 cannot be met from layer 3 on; what is left there "
               "costs 1.73");
  EXPECT_LE(Schedule::for_cost(576, layers, flops, 1.75e12).cost(576, flops), 1.75e12);
  // The same for the bytes of its cache: 69 MB is the floor.
  const auto bytes = [](Index n) { return 2.0 * static_cast<double>(n + 60) * 4096 * 2; };
  expect_error([&] { Schedule::for_cost(576, layers, bytes, 64.2e6); }, "costs 6.9");
}

TEST(ScheduleTest, solving_refuses_bad_input) {
  expect_error([] { Schedule::for_average(-1, {4}, 3); }, "negative visual token count -1");
  expect_error([] { Schedule::for_average(4, {4, 4}, 3); }, "reduction cannot begin in layer 4");
  expect_error([] { Schedule::for_average(4, {4}, std::nan("")); }, "cannot be met");
}

}  // namespace
