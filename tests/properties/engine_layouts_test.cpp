// SPDX-License-Identifier: Apache-2.0
// What real engines hand over: the same image in any memory layout gives the same reduction.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <unsupported/Eigen/CXX11/Tensor>
#include <vector>

#include "tokenfold/tokenfold.hpp"

namespace {

using tokenfold::AttentionKind;
using tokenfold::Budget;
using tokenfold::ClsToken;
using tokenfold::FiCoCoL;
using tokenfold::FiCoCoV;
using tokenfold::Grid;
using tokenfold::HeadsView;
using tokenfold::Index;
using tokenfold::Keys;
using tokenfold::LayoutDescription;
using tokenfold::MatrixView;
using tokenfold::PruMerge;
using tokenfold::QueryKeyAttention;
using tokenfold::QueryKeyOptions;
using tokenfold::ReductionPlan;
using tokenfold::Sequence;
using tokenfold::Span;
using tokenfold::split_heads;
using tokenfold::Token;
using tokenfold::TokenLayout;
using tokenfold::Workspace;

template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr Index heads = 4, dim = 8, width = heads * dim;
constexpr Grid grid{6, 7};
constexpr Index patches = grid.height * grid.width, tokens = patches + 1;
const float junk = std::numeric_limits<float>::quiet_NaN();

/// [token][head · dim], uniform in [−2, 2), in steps that half holds exactly.
Matrix<float> random_rows(Index rows, Index cols, std::uint32_t seed) {
  std::mt19937 engine(seed);
  Matrix<float> m(rows, cols);
  for (Index i = 0; i < m.size(); ++i) {
    m.data()[i] = static_cast<float>(static_cast<int>(engine() >> 22) - 512) / 256.0f;
  }
  return m;
}

struct Image {
  TokenLayout layout = TokenLayout::encoder(grid);
  Matrix<float> q = random_rows(tokens, width, 1);
  Matrix<float> k = random_rows(tokens, width, 2);

  HeadsView<const float> queries() const { return split_heads(q, heads); }
  HeadsView<const float> keys() const { return split_heads(k, heads); }
};

void expect_same(const ReductionPlan& plan, const ReductionPlan& expected) {
  ASSERT_EQ(plan.input_tokens(), expected.input_tokens());
  ASSERT_EQ(plan.output_tokens(), expected.output_tokens());
  EXPECT_EQ(plan.kept_hash(), expected.kept_hash());
  EXPECT_TRUE(std::equal(plan.kept().begin(), plan.kept().end(), expected.kept().begin()));
  ASSERT_EQ(plan.columns().size(), expected.columns().size());
  EXPECT_TRUE(std::equal(plan.offsets().begin(), plan.offsets().end(), expected.offsets().begin()));
  EXPECT_TRUE(std::equal(plan.columns().begin(), plan.columns().end(), expected.columns().begin()));
  for (Index e = 0; e < plan.weights().size(); ++e) {
    EXPECT_NEAR(plan.weights()[e], expected.weights()[e], 1e-6f);
  }
}

/// Both papers' methods on whatever holds the image's queries and keys.
struct Plans {
  ReductionPlan ficoco;
  ReductionPlan ficoco_logits;
  ReductionPlan prumerge;
};
template <class Q, class K>
Plans plans(const TokenLayout& layout, const Q& queries, const K& keys,
            QueryKeyOptions options = {}) {
  const QueryKeyAttention probabilities(queries, keys, options);
  options.kind = AttentionKind::logits;
  const QueryKeyAttention logits(queries, keys, options);
  return {FiCoCoV{}.plan(Sequence(layout, probabilities), Budget::discard(15)),
          tokenfold::ficoco_v_released().plan(Sequence(layout, logits), Budget::discard(15)),
          PruMerge{}.plan(Sequence(layout, probabilities), Budget::keep(12))};
}
Plans expected_plans(const Image& image) {
  return plans(image.layout, image.queries(), image.keys());
}
void expect_same(const Plans& found, const Plans& expected) {
  {
    SCOPED_TRACE("FiCoCo-V");
    expect_same(found.ficoco, expected.ficoco);
  }
  {
    SCOPED_TRACE("FiCoCo-V on logits");
    expect_same(found.ficoco_logits, expected.ficoco_logits);
  }
  {
    SCOPED_TRACE("PruMerge");
    expect_same(found.prumerge, expected.prumerge);
  }
}

TEST(EngineLayouts, the_plans_under_test_reduce_something) {
  const Plans p = expected_plans(Image{});
  EXPECT_EQ(p.ficoco.output_tokens(), tokens - 15);
  EXPECT_FALSE(p.ficoco.selects_only());
  EXPECT_NE(p.ficoco.kept_hash(), p.ficoco_logits.kept_hash());
  EXPECT_EQ(p.prumerge.output_tokens(), 1 + 12 + 1);
  const Image other{.q = random_rows(tokens, width, 3)};
  EXPECT_NE(expected_plans(other).ficoco.kept_hash(), p.ficoco.kept_hash());
}

TEST(EngineLayouts, queries_and_keys_by_head_or_by_token) {
  const Image image;
  std::vector<float> q(static_cast<std::size_t>(tokens * width)), k(q.size());
  const auto by_head = [](const Matrix<float>& from, std::vector<float>& to) {
    for (Index h = 0; h < heads; ++h) {
      Eigen::Map<Matrix<float>>(to.data() + h * tokens * dim, tokens, dim) =
          from.middleCols(h * dim, dim);
    }
    return HeadsView<const float>(to.data(), {heads, tokens, dim}, {tokens * dim, dim});
  };
  expect_same(plans(image.layout, by_head(image.q, q), by_head(image.k, k)), expected_plans(image));
  // One of each.
  expect_same(plans(image.layout, image.queries(), by_head(image.k, k)), expected_plans(image));
}

TEST(EngineLayouts, queries_and_keys_inside_a_fused_buffer) {
  const Image image;
  Matrix<float> qkv = Matrix<float>::Constant(tokens, 3 * width, junk);
  qkv.leftCols(width) = image.q;
  qkv.middleCols(width, width) = image.k;
  expect_same(plans(image.layout, split_heads(qkv.leftCols(width), heads),
                    split_heads(qkv.middleCols(width, width), heads)),
              expected_plans(image));
}

TEST(EngineLayouts, rows_further_apart_than_they_are_wide) {
  const Image image;
  Matrix<float> q = Matrix<float>::Constant(tokens, width + 13, junk);
  Matrix<float> k = Matrix<float>::Constant(tokens, width + 5, junk);
  q.middleCols(3, width) = image.q;
  k.rightCols(width) = image.k;
  expect_same(plans(image.layout, split_heads(q.middleCols(3, width), heads),
                    split_heads(k.rightCols(width), heads)),
              expected_plans(image));
}

TEST(EngineLayouts, tensors_of_either_storage_order) {
  const Image image;
  Eigen::Tensor<float, 3, Eigen::RowMajor> q(tokens, heads, dim);
  Eigen::Tensor<float, 3> k(dim, heads, tokens);  // ggml's order: the contiguous axis comes first
  std::copy_n(image.q.data(), image.q.size(), q.data());
  std::copy_n(image.k.data(), image.k.size(), k.data());
  expect_same(
      plans(image.layout,
            HeadsView<const float>(tokenfold::heads_view(q, {.head = 1, .token = 0, .dim = 2})),
            HeadsView<const float>(tokenfold::heads_view(k, {.head = 1, .token = 2, .dim = 0}))),
      expected_plans(image));
}

TEST(EngineLayouts, one_token_per_column) {
  const Image image;
  const Eigen::MatrixXf q = image.q.transpose(), k = image.k.transpose();
  expect_same(
      plans(image.layout, split_heads(q.transpose(), heads), split_heads(k.transpose(), heads)),
      expected_plans(image));
}

TEST(EngineLayouts, key_cache_with_undefined_cells_past_the_end) {
  const Image image;
  Matrix<float> cache = Matrix<float>::Constant(2 * tokens, width, junk);
  cache.topRows(tokens) = image.k;
  expect_same(plans(image.layout, image.queries(), split_heads(cache.topRows(tokens), heads)),
              expected_plans(image));
}

TEST(EngineLayouts, half_precision_cache_of_the_same_values) {
  const Image image;
  const Matrix<Eigen::half> q = image.q.cast<Eigen::half>(), k = image.k.cast<Eigen::half>();
  ASSERT_TRUE(k.cast<float>() == image.k) << "the values must be exact in half";
  expect_same(plans(image.layout, split_heads(q, heads), split_heads(k, heads)),
              expected_plans(image));
}

TEST(EngineLayouts, grouped_query_heads_are_keys_not_repeated) {
  // Two key heads for four query heads, against the same keys written out for every query head.
  Image image;
  const Matrix<float> cache = random_rows(tokens, 2 * dim, 4);
  for (Index h = 0; h < heads; ++h) {
    image.k.middleCols(h * dim, dim) = cache.middleCols(h / 2 * dim, dim);
  }
  const Plans found = plans(image.layout, image.queries(), split_heads(cache, 2));
  const Plans expected = expected_plans(image);
  expect_same(found.ficoco, expected.ficoco);
  expect_same(found.ficoco_logits, expected.ficoco_logits);
  // Cosines of PruMerge are the same if every key head is repeated equally often.
  expect_same(found.prumerge, expected.prumerge);
}

/// `kept()` and columns of `plan` by grid cell: [CLS] is −2, synthetic −1.
std::vector<std::int64_t> cells_of(const ReductionPlan& plan, const TokenLayout& layout,
                                   Span<const Token> rows) {
  std::vector<std::int64_t> cells;
  for (const Token row : rows) {
    EXPECT_LT(row, plan.input_tokens());
    const Index ordinal = row < 0 ? -1 : layout.ordinal(row);
    cells.push_back(row < 0 ? -1 : ordinal < 0 ? -2 : layout.cells()[ordinal]);
  }
  return cells;
}
/// The same patches are kept and merged; rows without a patch are left out.
void expect_same_patches(const ReductionPlan& plan, const TokenLayout& layout,
                         const ReductionPlan& expected, const TokenLayout& expected_layout) {
  struct Part {
    std::int64_t kept;
    std::int64_t source;
    float weight;
  };
  const auto parts = [](const ReductionPlan& p, const TokenLayout& l) {
    const auto kept = cells_of(p, l, p.kept());
    const auto sources = cells_of(p, l, p.columns());
    std::vector<Part> list;
    for (Index row = 0; row < p.output_tokens(); ++row) {
      for (Index e = p.offsets()[row]; e < p.offsets()[row + 1]; ++e) {
        const auto cell = kept[static_cast<std::size_t>(row)];
        if (cell != -2) {
          list.push_back({cell, sources[static_cast<std::size_t>(e)], p.weights()[e]});
        }
      }
    }
    return list;
  };
  const auto found = parts(plan, layout);
  const auto wanted = parts(expected, expected_layout);
  ASSERT_EQ(found.size(), wanted.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i].kept, wanted[i].kept);
    EXPECT_EQ(found[i].source, wanted[i].source);
    EXPECT_NEAR(found[i].weight, wanted[i].weight, 1e-6f);
  }
}

/// The image with its rows in another order: `order[i]` is the row of `image` that becomes row i.
Image reordered(const Image& image, const std::vector<Index>& order) {
  Image result = image;
  for (std::size_t i = 0; i < order.size(); ++i) {
    result.q.row(static_cast<Index>(i)) = image.q.row(order[i]);
    result.k.row(static_cast<Index>(i)) = image.k.row(order[i]);
  }
  return result;
}

void expect_same_patches(const Plans& found, const TokenLayout& layout, const Plans& expected,
                         const TokenLayout& expected_layout) {
  expect_same_patches(found.ficoco, layout, expected.ficoco, expected_layout);
  expect_same_patches(found.ficoco_logits, layout, expected.ficoco_logits, expected_layout);
  expect_same_patches(found.prumerge, layout, expected.prumerge, expected_layout);
}

TEST(EngineLayouts, cls_last_keeps_the_same_patches) {
  const Image image;
  std::vector<Index> order;
  for (Index row = 1; row < tokens; ++row) {
    order.push_back(row);
  }
  order.push_back(0);
  Image last = reordered(image, order);
  last.layout = TokenLayout::encoder(grid, ClsToken::last);
  expect_same_patches(expected_plans(last), last.layout, expected_plans(image), image.layout);
}

TEST(EngineLayouts, a_row_that_is_no_patch_among_the_visual_rows) {
  // llama.cpp's LLaVA graph: rows are patches 1, 2, …, the last row is [CLS] and patch 0 is gone;
  // against the same rows with [CLS] first.
  const Image image;
  std::vector<Index> order;
  LayoutDescription first{.tokens = patches, .visual = {1, patches}, .grid = grid, .cls = 0};
  LayoutDescription last{
      .tokens = patches, .visual = {0, patches}, .grid = grid, .cls = patches - 1};
  for (Index cell = 1; cell < patches; ++cell) {
    order.push_back(cell + 1);
    first.cells.push_back(static_cast<Token>(cell));
    last.cells.push_back(static_cast<Token>(cell));
  }
  last.cells.push_back(-1);
  order.push_back(0);
  const auto plans_of = [](const TokenLayout& layout, const Image& rows) {
    return plans(layout, split_heads(rows.q.topRows(patches), heads),
                 split_heads(rows.k.topRows(patches), heads));
  };
  const Image cls_last = reordered(image, order);
  std::rotate(order.begin(), order.end() - 1, order.end());
  const Image cls_first = reordered(image, order);
  expect_same_patches(plans_of(TokenLayout(last), cls_last), TokenLayout(last),
                      plans_of(TokenLayout(first), cls_first), TokenLayout(first));
}

TEST(EngineLayouts, row_to_cell_map_names_patches_that_are_not_in_raster_order) {
  // Windows of 2 x 7 one after another, from the bottom up, [CLS] between them.
  const Image image;
  std::vector<Index> order;
  LayoutDescription d{.tokens = tokens, .visual = {0, tokens}, .grid = grid};
  for (Index band = grid.height / 2; band-- > 0;) {
    for (Index cell = band * 2 * grid.width; cell < (band + 1) * 2 * grid.width; ++cell) {
      order.push_back(cell + 1);
      d.cells.push_back(static_cast<Token>(cell));
    }
    if (band == 1) {
      d.cls = static_cast<Index>(order.size());
      order.push_back(0);
      d.cells.push_back(-1);
    }
  }
  const Image shuffled = reordered(image, order);
  const TokenLayout layout(d);
  EXPECT_FALSE(layout.visual_is_contiguous());
  const Plans found = plans(layout, shuffled.queries(), shuffled.keys());
  const Plans expected = expected_plans(image);
  // The output follows the rows, so compare the sets of cells.
  const auto kept_cells = [](const ReductionPlan& plan, const TokenLayout& of) {
    auto cells = cells_of(plan, of, plan.kept());
    std::sort(cells.begin(), cells.end());
    return cells;
  };
  EXPECT_EQ(kept_cells(found.ficoco, layout), kept_cells(expected.ficoco, image.layout));
  EXPECT_EQ(kept_cells(found.ficoco_logits, layout),
            kept_cells(expected.ficoco_logits, image.layout));
  EXPECT_EQ(kept_cells(found.prumerge, layout), kept_cells(expected.prumerge, image.layout));
}

TEST(EngineLayouts, a_single_query_row_is_enough_for_prumerge) {
  const Image image;
  const ReductionPlan expected = expected_plans(image).prumerge;
  const QueryKeyAttention cls_only(image.queries().middle_tokens({0, 1}), image.keys());
  expect_same(PruMerge{}.plan(Sequence(image.layout, cls_only), Budget::keep(12)), expected);

  // One row that the engine computed, and the keys.
  Matrix<float> row(1, tokens);
  Workspace workspace;
  const std::vector<Token> cls = {0};
  QueryKeyAttention(image.queries(), image.keys())
      .as_single_head()
      .rows(cls, {0, tokens}, MatrixView<float>(row), workspace);
  const auto one_row = tokenfold::head_mean_attention(row);
  expect_same(
      PruMerge{}.plan(Sequence(image.layout, one_row, Keys(image.keys())), Budget::keep(12)),
      expected);

  // The same row over the patches alone.
  const auto patch_row = tokenfold::head_mean_attention(row.rightCols(patches), {.first_key = 1});
  expect_same(
      PruMerge{}.plan(Sequence(image.layout, patch_row, Keys(image.keys())), Budget::keep(12)),
      expected);
}

TEST(EngineLayouts, visual_and_text_queries_are_enough_in_a_decoder) {
  // The engine keeps no queries of the system prompt.
  constexpr Index before = 5, after = 9, all = before + patches + after;
  const auto layout = TokenLayout::decoder(before, patches, after, grid);
  const Matrix<float> q = random_rows(all, width, 5), k = random_rows(all, 2 * dim, 6);
  const auto queries = split_heads(q, heads);
  const auto keys = split_heads(k, 2);
  const QueryKeyAttention full(queries, keys, {.causal = true});
  const QueryKeyAttention later(queries.middle_tokens({before, all}), keys,
                                {.causal = true, .first_query = before});
  expect_same(FiCoCoL{}.plan(Sequence(layout, later), Budget::keep(20)),
              FiCoCoL{}.plan(Sequence(layout, full), Budget::keep(20)));
}

TEST(EngineLayouts, dense_probabilities_give_what_queries_and_keys_give) {
  const Image image;
  const QueryKeyAttention source(image.queries(), image.keys());
  Eigen::Tensor<float, 3, Eigen::RowMajor> dense(heads, tokens, tokens);
  std::vector<Token> rows;
  for (Index row = 0; row < tokens; ++row) {
    rows.push_back(static_cast<Token>(row));
  }
  Workspace workspace;
  for (Index h = 0; h < heads; ++h) {
    const QueryKeyAttention one(HeadsView<const float>(image.queries().head(h)),
                                HeadsView<const float>(image.keys().head(h)));
    one.rows(rows, {0, tokens},
             MatrixView<float>(dense.data() + h * tokens * tokens, tokens, tokens), workspace);
  }
  const auto heads_of_dense = tokenfold::heads_view(dense);
  const tokenfold::DenseAttention from_dense(heads_of_dense);
  expect_same(FiCoCoV{}.plan(Sequence(image.layout, from_dense), Budget::discard(15)),
              expected_plans(image).ficoco);
}

TEST(EngineLayouts, tokens_with_a_wide_row_stride_are_reduced_in_place_of_a_copy) {
  const Image image;
  const ReductionPlan plan = expected_plans(image).ficoco;
  const Matrix<float> x = random_rows(tokens, 20, 7);
  Matrix<float> expected(plan.output_tokens(), 20);
  plan.apply(x, expected);
  Matrix<float> planes = Matrix<float>::Constant(tokens, 50, junk);
  planes.middleCols(20, 20) = x;
  Matrix<float> out = Matrix<float>::Constant(plan.output_tokens(), 33, -1);
  plan.apply(planes.middleCols(20, 20), out.leftCols(20));
  EXPECT_TRUE(out.leftCols(20) == expected);
  EXPECT_TRUE((out.rightCols(13).array() == -1).all());
}

TEST(EngineLayouts, a_warm_workspace_changes_nothing) {
  const Image image;
  const QueryKeyAttention source(image.queries(), image.keys());
  const Sequence sequence(image.layout, source);
  Workspace workspace;
  ReductionPlan plan;
  for (int repeat = 0; repeat < 3; ++repeat) {
    PruMerge{}.plan(sequence, Budget::keep(12), workspace, plan);
    expect_same(plan, expected_plans(image).prumerge);
    FiCoCoV{}.plan(sequence, Budget::discard(15), workspace, plan);
    expect_same(plan, expected_plans(image).ficoco);
  }
}

}  // namespace
