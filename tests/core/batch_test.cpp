// SPDX-License-Identifier: Apache-2.0
// Many items in one call: the same bits as one by one, whatever the executor.
#include "tokenfold/batch.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <string>
#include <tokenfold/tokenfold.hpp>
#include <vector>

#include "support/outcome.hpp"
#include "support/random.hpp"
#include "tokenfold/eigen_thread_pool.hpp"
#include "tokenfold/std_threads.hpp"

namespace {

using support::Random;
using support::refusal;
using support::Tensor;
using tokenfold::AttentionKind;
using tokenfold::Batch;
using tokenfold::Budget;
using tokenfold::Grid;
using tokenfold::HeadsView;
using tokenfold::Index;
using tokenfold::ItemsFrom;
using tokenfold::MatrixView;
using tokenfold::ReductionPlan;
using tokenfold::SharedBudget;
using tokenfold::Span;
using tokenfold::StdThreads;
using tokenfold::Token;
using tokenfold::TokenLayout;
using tokenfold::Workspace;

using Counts = std::vector<Index>;

// --- the sample of the header ----------------------------------------------------------------

// Five crops of one LLaVA-NeXT image, 576 patches each and [CLS]; 16 heads of 64 are 2 of 4 here.
TEST(Batch, usage) {
  namespace tf = tokenfold;
  constexpr Index crop_count = 5;
  constexpr Index rows = 1 + 6 * 6;
  std::vector<float> hidden(crop_count * rows * 8);
  std::vector<float> qkv(crop_count * rows * 24);
  Random random(1);
  for (float& value : hidden) value = static_cast<float>(random.normal());
  for (float& value : qkv) value = static_cast<float>(random.normal());

  const auto layout = tf::TokenLayout::encoder({.height = 6, .width = 6});
  const tf::ItemsFrom crops(crop_count, [&](tf::Index i) {
    float* const crop = qkv.data() + i * rows * 24;
    const tf::HeadsView q(crop, {.heads = 2, .tokens = rows, .dim = 4}, {4, 24});
    const tf::HeadsView k(crop + 8, {.heads = 2, .tokens = rows, .dim = 4}, {4, 24});
    return tf::Sequence(layout, tf::QueryKeyAttention(q, k));
  });

  tf::Batch batch;
  batch.plan(tf::FiCoCoV{}, crops, tf::Budget::keep(9), tf::StdThreads{4});
  std::vector<float> packed(static_cast<std::size_t>(batch.output_tokens() * 8));
  batch.apply(tf::MatrixView(hidden.data(), crop_count * rows, 8),
              tf::MatrixView(packed.data(), batch.output_tokens(), 8));

  EXPECT_EQ(batch.output_tokens(), crop_count * 10);
  EXPECT_EQ(support::indices(batch.offsets()), (Counts{0, 10, 20, 30, 40, 50}));
  EXPECT_EQ(support::indices(batch.visual_offsets()), (Counts{0, 9, 18, 27, 36, 45}));
}

// --- the same bits as one by one -------------------------------------------------------------

/// One image or frame: attention in any form, and hidden states.
struct Item {
  TokenLayout layout;
  Tensor<float> queries;
  Tensor<float> keys;
  Tensor<float> hidden;

  Item(TokenLayout tokens, Random& random) : layout(std::move(tokens)) {
    const auto matrix = [&](Index cols) {
      return support::tensor<float>(support::normal_matrix<float>(
          static_cast<std::size_t>(layout.tokens()), static_cast<std::size_t>(cols), random));
    };
    queries = matrix(12);
    keys = matrix(12);
    hidden = matrix(7);
  }
};

using Source = tokenfold::QueryKeyAttention<float>;
using ItemSequence = tokenfold::Sequence<tokenfold::Attention<Source>>;

ItemSequence sequence_of(const Item& item, tokenfold::QueryKeyOptions options = {}) {
  return ItemSequence(item.layout, Source(tokenfold::split_heads(item.queries, 3),
                                          tokenfold::split_heads(item.keys, 3), options));
}

constexpr Grid grids[] = {{4, 4}, {7, 3}, {1, 1}, {9, 9}, {2, 5}, {6, 6}, {12, 10}, {1, 8}, {3, 3}};

std::vector<Item> images(std::uint64_t seed) {
  Random random(seed);
  std::vector<Item> items;
  for (const Grid grid : grids) items.emplace_back(TokenLayout::encoder(grid), random);
  return items;
}
std::vector<Item> prompts(std::uint64_t seed) {
  Random random(seed);
  std::vector<Item> items;
  for (const Grid grid : grids) {
    items.emplace_back(
        TokenLayout::decoder(random.below(4), grid.cells(), 1 + random.below(6), grid), random);
  }
  return items;
}

template <class T>
bool same_bits(Span<const T> a, Span<const T> b) {
  return a.size() == b.size() &&
         (a.empty() ||
          std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(T)) == 0);
}
bool same_bits(const Tensor<float>& a, const Tensor<float>& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() &&
         same_bits(Span<const float>(a.data(), a.size()), Span<const float>(b.data(), b.size()));
}
bool same_plan(const ReductionPlan& a, const ReductionPlan& b) {
  return a.input_tokens() == b.input_tokens() && a.visual() == b.visual() &&
         a.selects_only() == b.selects_only() && same_bits(a.kept(), b.kept()) &&
         same_bits(a.offsets(), b.offsets()) && same_bits(a.columns(), b.columns()) &&
         same_bits(a.weights(), b.weights()) && same_bits(a.shares(), b.shares());
}

/// Compares `batch` with `expected`, one plan per item, in plans, offsets and outputs.
template <class E>
void expect_same(const Batch& batch, const std::vector<ReductionPlan>& expected,
                 const std::vector<Item>& items, const E& executor) {
  ASSERT_EQ(batch.size(), static_cast<Index>(items.size()));
  std::vector<Tensor<float>> separate;
  std::vector<Tensor<float>> hidden;
  Tensor<float> packed_in(batch.input_tokens(), 7);
  for (Index i = 0; i < batch.size(); ++i) {
    hidden.push_back(items[static_cast<std::size_t>(i)].hidden);
    separate.emplace_back(batch[i].output_tokens(), 7);
    packed_in.middleRows(batch.input_offsets()[i], hidden.back().rows()) = hidden.back();
  }
  Tensor<float> packed(batch.output_tokens(), 7);
  Tensor<float> visual(batch.visual_tokens(), 7);
  batch.apply(hidden, separate, executor);
  batch.apply(packed_in, packed, executor);
  batch.apply_visual(hidden, visual, executor);

  Index row = 0;
  Index visual_row = 0;
  for (Index i = 0; i < batch.size(); ++i) {
    SCOPED_TRACE("item " + std::to_string(i));
    const auto u = static_cast<std::size_t>(i);
    EXPECT_TRUE(same_plan(batch[i], expected[u]));
    EXPECT_EQ(batch.offsets()[i], row);
    EXPECT_EQ(batch.visual_offsets()[i], visual_row);
    const Tensor<float> alone = [&] {
      Tensor<float> out(expected[u].output_tokens(), 7);
      expected[u].apply(hidden[u], out);
      return out;
    }();
    EXPECT_TRUE(same_bits(separate[u], alone));
    EXPECT_TRUE(same_bits(packed.middleRows(row, alone.rows()), alone));
    const tokenfold::Range range = expected[u].visual();
    EXPECT_TRUE(same_bits(visual.middleRows(visual_row, range.size()),
                          alone.middleRows(range.begin, range.size())));
    row += alone.rows();
    visual_row += range.size();
  }
  EXPECT_EQ(batch.output_tokens(), row);
  EXPECT_EQ(batch.visual_tokens(), visual_row);
}

/// Plans with every executor, one batch object for all of them.
template <class Method>
void check_method(const Method& method, const std::vector<Item>& items, const Budget& budget,
                  tokenfold::QueryKeyOptions options = {}) {
  std::vector<ItemSequence> sequences;
  std::vector<ReductionPlan> expected;
  for (const Item& item : items) {
    sequences.push_back(sequence_of(item, options));
    expected.push_back(method.plan(sequences.back(), budget));  // a fresh workspace each
  }
  Batch batch;
  const auto check = [&](const std::string& name, const auto& executor) {
    SCOPED_TRACE(name);
    for (int repeat = 0; repeat < 3; ++repeat) {
      batch.plan(method, sequences, budget, executor);
      expect_same(batch, expected, items, executor);
    }
  };
  check("serial", tokenfold::Serial{});
  for (const Index width : {1, 2, 3, 16})
    check("threads " + std::to_string(width), StdThreads{width});
  Eigen::ThreadPool pool(3);
  check("Eigen", tokenfold::EigenThreadPool(pool));
  check("backwards", tokenfold::ParallelFor{4, [](Index count, const auto& body) {
                                              for (Index i = count - 1; i >= 0; --i) body(i);
                                            }});
#if defined(_OPENMP)
  Eigen::setNbThreads(1);
  for (const int width : {1, 2, 5}) check("OpenMP", tokenfold::OpenMP{width});
#endif
}

/// FiCoCo-L does not discard its first token, the only one of a grid of one.
Budget at_least(double ratio) { return Budget::keep_ratio(ratio, tokenfold::Rounding::ceil); }

constexpr tokenfold::QueryKeyOptions logits = {.kind = AttentionKind::logits};

TEST(BatchBits, ficoco_v) {
  check_method(tokenfold::FiCoCoV{}, images(2), Budget::keep_ratio(0.6));
  check_method(tokenfold::FiCoCoV{}, images(3), Budget::keep_ratio(0.25), logits);
  check_method(tokenfold::ficoco_v_released(), images(4), Budget::keep_ratio(0.5), logits);
}
TEST(BatchBits, ficoco_l) {
  check_method(tokenfold::FiCoCoL{}, prompts(5), at_least(0.6), {.causal = true});
  check_method(tokenfold::ficoco_l_released(), prompts(6), at_least(0.5), logits);
}
TEST(BatchBits, prumerge) {
  check_method(tokenfold::PruMerge{}, images(7), Budget::adaptive());
  check_method(tokenfold::prumerge_plus(), images(8), Budget::adaptive());
  check_method(tokenfold::prumerge_released(), images(9), Budget::keep_ratio(0.3));
}
TEST(BatchBits, evit) {
  check_method(tokenfold::EViT{}, images(10), Budget::keep_ratio(0.5));
  check_method(tokenfold::evit_released(), images(11), Budget::keep(0));
}
TEST(BatchBits, fastv) {
  check_method(tokenfold::FastV{}, prompts(12), Budget::keep_ratio(0.5), {.causal = true});
}

// One method after another, larger and smaller batches: nothing of the last call is left.
TEST(BatchBits, a_reused_batch_forgets) {
  const std::vector<Item> many = images(13);
  const std::vector<Item> few(many.begin() + 3, many.begin() + 5);
  Batch batch;
  const auto check = [&](const auto& method, const std::vector<Item>& items, const Budget& budget) {
    std::vector<ItemSequence> sequences;
    std::vector<ReductionPlan> expected;
    for (const Item& item : items) {
      sequences.push_back(sequence_of(item));
      expected.push_back(method.plan(sequences.back(), budget));
    }
    batch.plan(method, sequences, budget, StdThreads{2});
    expect_same(batch, expected, items, StdThreads{2});
  };
  check(tokenfold::PruMerge{}, many, Budget::adaptive());
  check(tokenfold::EViT{}, few, Budget::keep(3));
  check(tokenfold::FiCoCoV{}, many, Budget::keep_ratio(0.9));
  check(tokenfold::EViT{}, {}, Budget::keep(3));
  check(tokenfold::FiCoCoV{}, few, Budget::discard(1));
}

TEST(Batch, a_warm_serial_call_keeps_its_memory) {
  const std::vector<Item> items = images(14);
  std::vector<ItemSequence> sequences;
  for (const Item& item : items) sequences.push_back(sequence_of(item));
  Batch batch;
  const auto places = [&] {
    batch.plan(tokenfold::FiCoCoV{}, sequences, Budget::keep_ratio(0.5));
    std::vector<const void*> pointers = {batch.plans().data(), batch.offsets().data(),
                                         batch.visual_offsets().data()};
    for (const ReductionPlan& plan : batch.plans()) {
      pointers.push_back(plan.columns().data());
      pointers.push_back(plan.kept().data());
    }
    return pointers;
  };
  const auto first = places();
  EXPECT_EQ(places(), first);
}

// --- budgets -----------------------------------------------------------------------------------

Counts split(const Budget& total, const Counts& visual) {
  Counts keep(visual.size());
  Workspace workspace;
  SharedBudget(total).split(visual, keep, workspace);
  return keep;
}

TEST(SharedBudgetTest, is_in_proportion_and_exact) {
  EXPECT_EQ(split(Budget::keep(640), {576, 576, 576, 576, 576}), (Counts{128, 128, 128, 128, 128}));
  EXPECT_EQ(split(Budget::keep(50), {100, 300, 100}), (Counts{10, 30, 10}));
  // 7 · (10, 20, 70) / 100 = 0.7, 1.4, 4.9: the two that are missing go to the last and the first.
  EXPECT_EQ(split(Budget::keep(7), {10, 20, 70}), (Counts{1, 1, 5}));
  EXPECT_EQ(split(Budget::discard(93), {10, 20, 70}), (Counts{1, 1, 5}));
  EXPECT_EQ(split(Budget::keep_ratio(0.07), {10, 20, 70}), (Counts{1, 1, 5}));
}

TEST(SharedBudgetTest, equal_remainders_go_to_the_lower_index) {
  EXPECT_EQ(split(Budget::keep(5), {4, 4, 4}), (Counts{2, 2, 1}));
  EXPECT_EQ(split(Budget::keep(1), {4, 4, 4}), (Counts{1, 0, 0}));
  // 4 · (1, 6, 1, 0, 1) / 9 = 0.4, 2.7, 0.4, 0, 0.4
  EXPECT_EQ(split(Budget::keep(4), {1, 6, 1, 0, 1}), (Counts{1, 3, 0, 0, 0}));
}

TEST(SharedBudgetTest, ends) {
  EXPECT_EQ(split(Budget::keep(0), {4, 0, 3}), (Counts{0, 0, 0}));
  EXPECT_EQ(split(Budget::keep(7), {4, 0, 3}), (Counts{4, 0, 3}));
  EXPECT_EQ(split(Budget::keep(0), {0, 0}), (Counts{0, 0}));
  EXPECT_EQ(split(Budget::keep(0), {}), (Counts{}));
  // The products exceed 32 bits.
  EXPECT_EQ(split(Budget::keep(1'500'000'000), {1'000'000'000, 1'000'000'000}),
            (Counts{750'000'000, 750'000'000}));
}

TEST(SharedBudgetTest, every_split_is_exact_and_within_one_of_the_proportion) {
  Random random(15);
  for (int trial = 0; trial < 2000; ++trial) {
    Counts visual(static_cast<std::size_t>(1 + random.below(12)));
    Index all = 0;
    for (Index& n : visual) all += n = random.below(40);
    const Index total = random.below(all + 1);
    const Counts keep = split(Budget::keep(total), visual);
    Index sum = 0;
    for (std::size_t i = 0; i < keep.size(); ++i) {
      sum += keep[i];
      EXPECT_LE(keep[i], visual[i]);
      if (all > 0) {
        EXPECT_LT(std::abs(keep[i] * all - total * visual[i]), all);
      }
    }
    EXPECT_EQ(sum, total);
  }
}

TEST(SharedBudgetTest, refusals) {
  EXPECT_EQ(refusal([] {
              split(Budget::keep(8), {4, 3});
            }),
            "budget: cannot keep 8 of 7 visual tokens");
  EXPECT_EQ(refusal([] {
              split(Budget::adaptive(), {4, 3});
            }),
            "shared budget: an adaptive budget has no total to share");
  EXPECT_EQ(refusal([] {
              Counts keep(1);
              Workspace workspace;
              SharedBudget(Budget::keep(1)).split(Counts{4, 3}, keep, workspace);
            }),
            "shared budget: 2 items, but 1 places for their counts");
}

class BatchOfImages : public testing::Test {
 protected:
  BatchOfImages() {
    for (const Item& item : items_) sequences_.push_back(sequence_of(item));
  }
  Counts visual_sizes() const {
    Counts sizes;
    for (const ReductionPlan& plan : batch_.plans()) sizes.push_back(plan.visual().size());
    return sizes;
  }

  std::vector<Item> items_ = images(16);  // 16 21 1 81 10 36 120 8 9 patches
  std::vector<ItemSequence> sequences_;
  Batch batch_;
};

TEST_F(BatchOfImages, one_budget_each) {
  std::vector<Budget> budgets;
  Counts expected;
  for (std::size_t i = 0; i < items_.size(); ++i) {
    const auto n = items_[i].layout.visual_count();
    budgets.push_back(i % 2 == 0 ? Budget::keep(n / 3) : Budget::discard(1));
    expected.push_back(i % 2 == 0 ? n / 3 : n - 1);
  }
  batch_.plan(tokenfold::FiCoCoV{}, sequences_, budgets, StdThreads{2});
  EXPECT_EQ(visual_sizes(), expected);
}

TEST_F(BatchOfImages, one_budget_for_all) {
  batch_.plan(tokenfold::FiCoCoV{}, sequences_, SharedBudget(Budget::keep(100)), StdThreads{2});
  // 100 · n / 302: 5.3 7.0 0.3 26.8 3.3 11.9 39.7 2.6 3.0
  EXPECT_EQ(visual_sizes(), (Counts{5, 7, 0, 27, 3, 12, 40, 3, 3}));
  EXPECT_EQ(batch_.visual_tokens(), 100);
  EXPECT_EQ(batch_.output_tokens(), 100 + 9);
  EXPECT_EQ(batch_.input_tokens(), 302 + 9);
}

// --- where the tokens lie ----------------------------------------------------------------------

TEST_F(BatchOfImages, tokens_may_lie_anywhere) {
  batch_.plan(tokenfold::EViT{}, sequences_, Budget::keep_ratio(0.5));
  Tensor<float> expected(batch_.output_tokens(), 7);
  const ItemsFrom hidden(batch_.size(), [&](Index i) {
    return MatrixView(items_[static_cast<std::size_t>(i)].hidden);
  });
  batch_.apply(hidden, expected);

  // One padded buffer, [row][item][channel]: the rows of different items interleave.
  const Index width = batch_.size() * 7;
  Tensor<float> padded = Tensor<float>::Constant(200, width, -1);
  batch_.apply(hidden, ItemsFrom(batch_.size(), [&](Index i) {
                 return MatrixView(padded.data() + i * 7, batch_[i].output_tokens(), 7, width);
               }));
  // Views in a container, and the caller's row stride.
  std::array<MatrixView<float>, 9> views;
  Tensor<float> wide = Tensor<float>::Constant(batch_.output_tokens(), 10, -1);
  for (Index i = 0; i < batch_.size(); ++i) {
    views[static_cast<std::size_t>(i)] =
        MatrixView(wide.data() + batch_.offsets()[i] * 10, batch_[i].output_tokens(), 7, 10);
  }
  batch_.apply(hidden, views);

  EXPECT_TRUE(same_bits(Tensor<float>(wide.leftCols(7)), expected));
  EXPECT_TRUE((wide.rightCols(3).array() == -1).all());
  for (Index i = 0; i < batch_.size(); ++i) {
    const Index rows = batch_[i].output_tokens();
    EXPECT_TRUE(same_bits(Tensor<float>(padded.block(0, i * 7, rows, 7)),
                          expected.middleRows(batch_.offsets()[i], rows)));
    EXPECT_TRUE((padded.block(rows, i * 7, 200 - rows, 7).array() == -1).all());
  }
}

TEST_F(BatchOfImages, any_element_type) {
  batch_.plan(tokenfold::FiCoCoV{}, sequences_, Budget::keep_ratio(0.5));
  const auto check = [&](auto zero) {
    using T = decltype(zero);
    Tensor<T> in(batch_.input_tokens(), 3);
    for (Index i = 0; i < in.size(); ++i) in.data()[i] = static_cast<T>(static_cast<float>(i % 17));
    Tensor<T> out(batch_.output_tokens(), 3);
    batch_.apply(in, out, StdThreads{3});
    for (Index i = 0; i < batch_.size(); ++i) {
      const Tensor<T> alone_in = in.middleRows(batch_.input_offsets()[i], batch_[i].input_tokens());
      Tensor<T> alone(batch_[i].output_tokens(), 3);
      batch_[i].apply(alone_in, alone);
      EXPECT_TRUE(out.middleRows(batch_.offsets()[i], alone.rows()) == alone);
    }
  };
  check(double{});
  check(Eigen::half{});
  check(Eigen::bfloat16{});
}

// --- padding -------------------------------------------------------------------------------------

constexpr float nan = std::numeric_limits<float>::quiet_NaN();

/// `item` with padding behind it up to `rows` rows: NaN, or `filler` where that is all the engine's
/// attention can bear.
Item padded(const Item& item, Index rows, float filler) {
  const Index n = item.layout.visual_count();
  tokenfold::LayoutDescription d;
  d.tokens = rows;
  d.visual = {1, rows};
  d.grid = item.layout.grid();
  d.cls = 0;
  for (Index row = 1; row < rows; ++row) {
    d.cells.push_back(row <= n ? static_cast<Token>(row - 1) : tokenfold::padding_cell);
  }
  Item result = item;
  result.layout = TokenLayout(d);
  for (Tensor<float>* x : {&result.queries, &result.keys, &result.hidden}) {
    const Tensor<float> real = *x;
    x->setConstant(rows, real.cols(), x == &result.hidden ? nan : filler);
    x->topRows(real.rows()) = real;
  }
  return result;
}

/// Plans images padded to one length as a batch, and as they are one by one; `sequence` makes a
/// sequence of item number i.
template <class Method, class MakeSequence>
void check_padding(const Method& method, const Budget& budget, float filler, bool same_weights,
                   const MakeSequence& sequence) {
  const std::vector<Item> items = images(17);
  const Index count = static_cast<Index>(items.size());
  const Index longest = 121;
  std::vector<Item> padded_items;
  for (const Item& item : items) padded_items.push_back(padded(item, longest, filler));
  const auto padded_item = [&](Index i) -> const Item& {
    return padded_items[static_cast<std::size_t>(i)];
  };
  Batch batch;
  batch.plan(method, ItemsFrom(count, [&](Index i) { return sequence(padded_item(i), i); }), budget,
             StdThreads{2});
  Tensor<float> packed(batch.output_tokens(), 7);
  batch.apply(ItemsFrom(count, [&](Index i) { return MatrixView(padded_item(i).hidden); }), packed,
              StdThreads{2});
  EXPECT_TRUE(packed.allFinite());
  for (Index i = 0; i < count; ++i) {
    SCOPED_TRACE("item " + std::to_string(i));
    const Item& item = items[static_cast<std::size_t>(i)];
    const ReductionPlan alone = method.plan(sequence(item, i), budget);
    EXPECT_EQ(batch[i].input_tokens(), longest);
    EXPECT_EQ(support::indices(batch[i].kept()), support::indices(alone.kept()));
    EXPECT_EQ(batch[i].visual(), alone.visual());
    EXPECT_TRUE(same_bits(batch[i].columns(), alone.columns()));
    if (same_weights) {
      Tensor<float> out(alone.output_tokens(), 7);
      alone.apply(item.hidden, out);
      EXPECT_TRUE(same_bits(batch[i].weights(), alone.weights()));
      EXPECT_TRUE(same_bits(packed.middleRows(batch.offsets()[i], out.rows()), out));
    } else {
      for (Index e = 0; e < alone.weights().size(); ++e) {
        EXPECT_NEAR(batch[i].weights()[e], alone.weights()[e], 1e-6);
      }
    }
  }
}

TEST(BatchPadding, changes_no_bit_of_logits) {
  const auto sequence = [](const Item& item, Index) { return sequence_of(item, logits); };
  check_padding(tokenfold::FiCoCoV{}, Budget::keep_ratio(0.5), nan, true, sequence);
  check_padding(tokenfold::ficoco_v_released(), Budget::keep_ratio(0.25), nan, true, sequence);
  check_padding(tokenfold::EViT{}, Budget::keep_ratio(0.5), nan, true, sequence);
}

// Probabilities that the engine has masked: padded columns hold 0, padded rows anything.
TEST(BatchPadding, changes_no_bit_of_materialised_probabilities) {
  Random random(18);
  std::vector<Tensor<float>> attention;
  std::vector<Tensor<float>> padded_attention;
  for (const Grid grid : grids) {
    attention.push_back(support::tensor<float>(support::random_probabilities<float>(
        static_cast<std::size_t>(1 + grid.cells()), random, false, 2)));
    padded_attention.push_back(Tensor<float>::Constant(121, 121, nan));
    const Index n = attention.back().rows();
    padded_attention.back().topRows(n).setZero();
    padded_attention.back().topLeftCorner(n, n) = attention.back();
  }
  const auto sequence = [&](const Item& item, Index i) {
    const bool whole = item.layout.tokens() == 121;
    const auto& maps = whole ? padded_attention : attention;
    return tokenfold::Sequence(item.layout,
                               tokenfold::head_mean_attention(maps[static_cast<std::size_t>(i)]),
                               tokenfold::Keys(tokenfold::split_heads(item.keys, 3)));
  };
  check_padding(tokenfold::FiCoCoV{}, Budget::keep_ratio(0.5), nan, true, sequence);
  check_padding(tokenfold::EViT{}, Budget::keep_ratio(0.5), nan, true, sequence);
  check_padding(tokenfold::PruMerge{}, Budget::adaptive(), nan, true, sequence);
}

// Probabilities from queries and keys: the softmax is told by `key_bias` where padding begins. Its
// sum runs over more terms, so that the last bits may differ.
TEST(BatchPadding, key_bias_masks_padding_in_the_softmax) {
  std::vector<std::vector<float>> bias;
  for (const Grid grid : grids) {
    bias.emplace_back(121, -std::numeric_limits<float>::infinity());
    std::fill_n(bias.back().begin(), 1 + grid.cells(), 0.0f);
  }
  const auto sequence = [&](const Item& item, Index i) {
    const Span<const float> mask(bias[static_cast<std::size_t>(i)]);
    return sequence_of(item, {.key_bias = mask.subspan(0, item.layout.tokens())});
  };
  check_padding(tokenfold::FiCoCoV{}, Budget::keep_ratio(0.5), 3, false, sequence);
  check_padding(tokenfold::EViT{}, Budget::keep_ratio(0.5), 3, false, sequence);
  check_padding(tokenfold::PruMerge{}, Budget::adaptive(), 3, false, sequence);
}

// Padding in front of the patches and between them, as windows of a fixed size have it.
TEST(BatchPadding, may_stand_anywhere) {
  tokenfold::LayoutDescription d;
  d.tokens = 8;
  d.visual = {0, 7};
  d.cells = {tokenfold::padding_cell, 0, 1, tokenfold::padding_cell, 2, 3, tokenfold::padding_cell};
  d.grid = {2, 2};
  d.cls = 7;
  const TokenLayout layout(d);
  Tensor<float> row(1, 8);
  row << nan, 0.1f, 0.4f, nan, 0.3f, 0.2f, nan, 0;
  const tokenfold::Sequence one(layout, tokenfold::head_mean_attention(row, {.first_query = 7}));
  const std::vector<std::remove_const_t<decltype(one)>> sequences(2, one);
  Batch batch;
  batch.plan(tokenfold::EViT{}, sequences, Budget::keep(2));
  EXPECT_EQ(support::indices(batch[0].kept()), (Counts{2, 4, tokenfold::no_token, 7}));
  EXPECT_EQ(support::indices(batch.offsets()), (Counts{0, 4, 8}));
  EXPECT_EQ(support::indices(batch.visual_offsets()), (Counts{0, 3, 6}));
  Tensor<float> tokens(16, 1);
  tokens << nan, 1, 2, nan, 3, 4, nan, 5, nan, 10, 20, nan, 30, 40, nan, 50;
  Tensor<float> out(8, 1);
  batch.apply(tokens, out);
  EXPECT_TRUE(support::close(std::vector<double>(out.data(), out.data() + 8),
                             {2, 3, 0.1 * 1 + 0.2 * 4, 5, 20, 30, 0.1 * 10 + 0.2 * 40, 50}));
}

// --- refusals ------------------------------------------------------------------------------------

TEST_F(BatchOfImages, a_refusal_names_the_lowest_item) {
  const auto plan = [&](const auto& executor) {
    return refusal([&] { batch_.plan(tokenfold::EViT{}, sequences_, Budget::keep(9), executor); });
  };
  for (int repeat = 0; repeat < 20; ++repeat) {
    EXPECT_EQ(plan(tokenfold::Serial{}), "batch item 2: budget: cannot keep 9 of 1 visual tokens");
    EXPECT_EQ(plan(StdThreads{4}), "batch item 2: budget: cannot keep 9 of 1 visual tokens");
  }
  EXPECT_EQ(batch_.size(), 0);
  EXPECT_EQ(batch_.output_tokens(), 0);
  EXPECT_TRUE(batch_.plans().empty());
  batch_.plan(tokenfold::EViT{}, sequences_, Budget::keep(1), StdThreads{4});
  EXPECT_EQ(batch_.size(), 9);
}

TEST_F(BatchOfImages, counts_must_meet) {
  EXPECT_EQ(
      refusal([&] { batch_.plan(tokenfold::EViT{}, sequences_, std::vector(8, Budget::keep(1))); }),
      "batch: 8 budgets were given for 9 items");
  EXPECT_EQ(
      refusal([&] { batch_.plan(tokenfold::EViT{}, sequences_, SharedBudget(Budget::keep(303))); }),
      "budget: cannot keep 303 of 302 visual tokens");
  EXPECT_EQ(refusal([] { ItemsFrom(-1, [](Index) { return 0; }); }),
            "batch: negative item count -1");
}

TEST_F(BatchOfImages, shapes_must_meet) {
  batch_.plan(tokenfold::FiCoCoV{}, sequences_, SharedBudget(Budget::keep(102)));
  Tensor<float> in(311, 2);
  Tensor<float> out(111, 2);
  in.setZero();
  batch_.apply(in, out);
  EXPECT_EQ(refusal([&] { batch_.apply(in.topRows(310), out); }),
            "batch: the packed input must have 311 rows, got 310");
  EXPECT_EQ(refusal([&] { batch_.apply_visual(in, out); }),
            "batch: the packed output must have 102 rows, got 111");
  EXPECT_EQ(refusal([&] { batch_.apply(std::vector<Tensor<float>>(8), out); }),
            "batch: 8 inputs were given for 9 items");
  std::vector<Tensor<float>> hidden;
  for (const Item& item : items_) hidden.push_back(item.hidden);
  hidden[4].resize(3, 7);
  Tensor<float> wide(111, 7);
  EXPECT_EQ(refusal([&] { batch_.apply(hidden, wide, StdThreads{2}); }),
            "batch item 4: apply: the plan takes 11 tokens, got 3");
}

TEST_F(BatchOfImages, some_rows_of_a_plan) {
  const ReductionPlan plan = tokenfold::EViT{}.plan(sequences_[0], Budget::keep(4));
  Tensor<float> all(6, 7);
  Tensor<float> some(3, 7);
  plan.apply(items_[0].hidden, all);
  plan.apply_rows({2, 5}, items_[0].hidden, some);
  EXPECT_TRUE(same_bits(some, all.middleRows(2, 3)));
  EXPECT_EQ(refusal([&] {
              plan.apply_rows({4, 7}, items_[0].hidden, some);
            }),
            "apply: rows [4, 7) lie outside the plan's 6 output rows");
  EXPECT_EQ(refusal([&] {
              plan.apply_rows({0, 2}, items_[0].hidden, some);
            }),
            "apply: the output must be [2 x 7], got [3 x 7]");
}

TEST_F(BatchOfImages, an_output_over_the_input_of_another_item_is_refused) {
  batch_.plan(tokenfold::FiCoCoV{}, sequences_, SharedBudget(Budget::keep(102)));
  Tensor<float> memory = Tensor<float>::Zero(422, 2);
  const auto place = [&](Index first, Index rows) {
    return MatrixView(memory.data() + first * 2, rows, 2);
  };
  // Item 0 writes where item 8 reads, rows 301 … 310.
  EXPECT_EQ(refusal([&] { batch_.apply(place(0, 311), place(305, 111)); }),
            "batch: the output of item 0 overlaps an input");
  const ItemsFrom separate(batch_.size(), [&](Index i) {
    return place(batch_.input_offsets()[i], batch_[i].input_tokens());
  });
  EXPECT_EQ(refusal([&] { batch_.apply(separate, place(305, 111)); }),
            "batch: the output of item 0 overlaps an input");
  EXPECT_TRUE((memory.array() == 0).all());
  batch_.apply(separate, place(311, 111));
}

TEST(Batch, nothing_to_do) {
  Batch batch;
  EXPECT_EQ(batch.size(), 0);
  EXPECT_EQ(batch.output_tokens(), 0);
  EXPECT_EQ(support::indices(batch.offsets()), (Counts{0}));
  const std::vector<ItemSequence> none;
  batch.plan(tokenfold::FiCoCoV{}, none, Budget::keep(3), StdThreads{2});
  batch.plan(tokenfold::FiCoCoV{}, none, SharedBudget(Budget::keep(0)), StdThreads{2});
  batch.plan(tokenfold::FiCoCoV{}, none, Span<const Budget>(), StdThreads{2});
  Tensor<float> empty(0, 4);
  batch.apply(empty, empty);
  EXPECT_EQ(support::indices(batch.offsets()), (Counts{0}));
}

}  // namespace
