// SPDX-License-Identifier: Apache-2.0
// SparseVLM v1.5 and version 2 against the golden files, the library and the reference alike.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <numeric>
#include <string>
#include <tokenfold/methods/sparsevlm.hpp>
#include <tokenfold/tokenfold.hpp>
#include <vector>

#include "golden/golden_file.hpp"
#include "reference/sparsevlm.hpp"
#include "support/outcome.hpp"

namespace {

using golden::File;
using support::Outcome;
using support::Tensor;
using tokenfold::Budget;
using tokenfold::HeadsView;
using tokenfold::Index;
using tokenfold::MatrixView;
using tokenfold::Span;
using tokenfold::Token;
using tokenfold::TokenLayout;

template <class Container>
reference::Rows as_rows(const Container& values) {
  reference::Rows rows;
  for (const auto value : values) rows.push_back(static_cast<std::size_t>(value));
  return rows;
}

class SparseVlmFile : public testing::TestWithParam<std::string> {
 protected:
  TokenLayout layout() const {
    return TokenLayout::decoder(file_.count("vision_token_start_index"),
                                file_.count("vision_token_length"), file_.count("text_tokens"));
  }
  reference::Rows visual_rows() const { return as_rows(layout().visual()); }
  reference::Rows text_rows() const {
    const tokenfold::Range text = layout().text_after();
    reference::Rows rows(static_cast<std::size_t>(text.size()));
    std::iota(rows.begin(), rows.end(), static_cast<std::size_t>(text.begin));
    return rows;
  }
  std::vector<Token> raters() const {
    const auto rows = file_.indices("rater_indices");
    return {rows.begin(), rows.end()};
  }
  /// The two small files hold all of the attention, the others the raters' rows.
  bool has_whole_attention() const {
    return GetParam() == "sparsevlm_s5_n36_t9_l15r64" ||
           GetParam() == "sparsevlm_s3_n64_t12_l15r96";
  }
  Index heads() const { return file_.count("heads"); }
  Index rater_count() const { return file_.count("n_raters"); }
  Index visual_count() const { return file_.count("vision_token_length"); }

  /// The raters' rows of one head, [raters × N].
  reference::Matrix rater_head(std::size_t h) const {
    reference::Matrix result(static_cast<std::size_t>(rater_count()),
                             static_cast<std::size_t>(visual_count()));
    const std::string name = has_whole_attention() ? "attention" : "rater_attention";
    const std::vector<double> all = file_.doubles(name);
    const auto rows = static_cast<std::size_t>(file_.extent(name, 1));
    const auto cols = static_cast<std::size_t>(file_.extent(name, 2));
    const reference::Rows from = as_rows(raters());
    const std::size_t first = has_whole_attention() ? visual_rows().front() : 0;
    for (std::size_t t = 0; t < result.rows; ++t) {
      for (std::size_t v = 0; v < result.cols; ++v) {
        const std::size_t row = has_whole_attention() ? from[t] : t;
        result(t, v) = all.at((h * rows + row) * cols + first + v);
      }
    }
    return result;
  }
  /// The same for all heads, [H][raters][N].
  template <class T>
  std::vector<T> rater_values() const {
    std::vector<T> result;
    for (std::size_t h = 0; h < static_cast<std::size_t>(heads()); ++h) {
      const std::vector<T> head = support::cast<T>(rater_head(h).values);
      result.insert(result.end(), head.begin(), head.end());
    }
    return result;
  }
  /// Those values as an attention source whose queries are the first rows of text.
  template <class T>
  tokenfold::DenseAttention<T> rater_attention(const std::vector<T>& values,
                                               const TokenLayout& tokens) const {
    const Index rows = rater_count();
    const Index n = visual_count();
    return tokenfold::DenseAttention<T>(
        HeadsView<const T>(values.data(), {heads(), rows, n}, {rows * n, n}),
        {.first_query = tokens.text_after().begin, .first_key = tokens.visual_range().begin});
  }
  /// Those rows.
  std::vector<Token> first_text_rows(const TokenLayout& tokens) const {
    std::vector<Token> rows(static_cast<std::size_t>(rater_count()));
    std::iota(rows.begin(), rows.end(), static_cast<Token>(tokens.text_after().begin));
    return rows;
  }

  template <class T>
  void check_raters() const {
    const Tensor<T> embeddings = support::tensor<T>(file_.matrix("embeds"));
    EXPECT_EQ(tokenfold::text_raters(layout(), embeddings), raters());
    const reference::Matrix embeds = file_.matrix("embeds");
    EXPECT_EQ(reference::sparsevlm_raters(embeds, visual_rows(), text_rows(), true),
              as_rows(raters()));
  }

  File file_{GetParam()};
};

// ---------------------------------------------------------------------------------------- v1.5

class SparseVlmGolden : public SparseVlmFile {
 protected:
  Index keep() const { return file_.count("keep"); }
  std::vector<Index> kept_with_synthetic() const {
    std::vector<Index> kept(static_cast<std::size_t>(file_.count("n_output")), tokenfold::no_token);
    const auto rows = file_.indices("kept_rows");
    const auto tokens = file_.indices("kept_indices");
    for (std::size_t i = 0; i < rows.size(); ++i)
      kept[static_cast<std::size_t>(rows[i])] = tokens[i];
    return kept;
  }
  /// Recycled token -> row of the output.
  std::map<Index, Index> recycled() const {
    std::map<Index, Index> result;
    const auto tokens = file_.indices("recycled_indices");
    const auto rows = file_.indices("recycled_dst_rows");
    for (std::size_t i = 0; i < tokens.size(); ++i) result[tokens[i]] = rows[i];
    return result;
  }
  /// The centres are random in the release where there is one cluster.
  bool has_centers() const { return file_.count("clusters") > 1; }

  template <class S>
  void check(const S& sequence, double tolerance) const {
    using T = typename decltype(sequence.features)::Element;
    const reference::Matrix tokens = file_.matrix("tokens");
    const Outcome outcome =
        support::run<T>(tokenfold::SparseVLM{}, sequence, Budget::keep(keep()), tokens);
    EXPECT_EQ(outcome.kept, kept_with_synthetic());
    EXPECT_EQ(outcome.discarded, file_.indices("discarded_indices"));
    EXPECT_TRUE(support::close(outcome.scores, file_.doubles("relevance"), tolerance));
    EXPECT_TRUE(support::close(outcome.output.values, file_.doubles("output"), 1e-5, 1e-6));

    const Index first_synthetic = file_.indices("synthetic_rows").front();
    std::map<Index, Index> links;
    for (const support::Link& link : outcome.links) {
      links[link.source] = first_synthetic - 1 - link.target;
    }
    EXPECT_EQ(links, recycled());
    EXPECT_EQ(links.size(), outcome.links.size());
  }

  template <class T>
  void check_all_forms() const {
    const TokenLayout tokens = layout();
    const Tensor<T> hidden = support::tensor<T>(file_.matrix("tokens"));
    const std::vector<T> values = rater_values<T>();
    const std::vector<Token> rows = first_text_rows(tokens);
    check(tokenfold::Sequence(tokens, rater_attention(values, tokens), tokenfold::Features(hidden),
                              tokenfold::Raters(rows)),
          1e-5);
    // Features of the visual tokens only.
    const MatrixView<const T> all(hidden);
    const tokenfold::Range range = tokens.visual_range();
    check(tokenfold::Sequence(tokens, rater_attention(values, tokens),
                              tokenfold::Features(all.middle_rows(range), range.begin),
                              tokenfold::Raters(rows)),
          1e-5);
    if (has_whole_attention()) {
      const std::vector<T> attention = file_.values<T>("attention");
      const std::vector<Token> chosen = raters();
      check(tokenfold::Sequence(tokens,
                                tokenfold::DenseAttention<T>(file_.heads(attention, "attention")),
                                tokenfold::Features(hidden), tokenfold::Raters(chosen)),
            1e-5);
    }
  }

  template <class T>
  void check_centers() const {
    const Tensor<T> hidden = support::tensor<T>(file_.matrix("tokens"));
    const auto recycled = file_.indices("recycled_indices");
    std::vector<Token> rows(recycled.begin(), recycled.end());
    std::sort(rows.begin(), rows.end());
    tokenfold::Workspace workspace;
    tokenfold::Workspace::Frame frame(workspace);
    const tokenfold::Features features(hidden);
    tokenfold::detail::PairDistances distances(features.features, Span<const Token>(rows),
                                               workspace);
    std::vector<Index> centers;
    for (const Index c :
         tokenfold::detail::density_peaks(distances, file_.count("clusters"), workspace)) {
      centers.push_back(rows[static_cast<std::size_t>(c)]);
    }
    if (has_centers()) {
      EXPECT_EQ(centers, file_.indices("center_indices"));
    } else {
      EXPECT_EQ(centers, std::vector<Index>{rows.front()});
    }
  }
};

TEST_P(SparseVlmGolden, float_finds_the_raters) { check_raters<float>(); }
TEST_P(SparseVlmGolden, double_finds_the_raters) { check_raters<double>(); }
TEST_P(SparseVlmGolden, float_gives_the_file) { check_all_forms<float>(); }
TEST_P(SparseVlmGolden, double_gives_the_file) { check_all_forms<double>(); }
TEST_P(SparseVlmGolden, float_finds_the_centers) { check_centers<float>(); }
TEST_P(SparseVlmGolden, double_finds_the_centers) { check_centers<double>(); }

TEST_P(SparseVlmGolden, recycled_are_the_best_of_the_discarded) {
  const std::vector<double> relevance = file_.doubles("relevance");
  const Index first = layout().visual_range().begin;
  std::vector<Index> discarded = file_.indices("discarded_indices");
  std::stable_sort(discarded.begin(), discarded.end(), [&](Index a, Index b) {
    return relevance[static_cast<std::size_t>(a - first)] >
           relevance[static_cast<std::size_t>(b - first)];
  });
  discarded.resize(static_cast<std::size_t>(file_.count("recycled")));
  EXPECT_EQ(discarded, file_.indices("recycled_indices"));
}

TEST_P(SparseVlmGolden, schedule_has_the_count) {
  const auto schedule = tokenfold::sparsevlm_schedule(file_.count("retain_tokn"));
  EXPECT_EQ(schedule.layers[2], file_.count("layer_index"));
  EXPECT_EQ(schedule.budget(2, layout().visual_count()).keep_count(layout().visual_count()),
            keep());
}

TEST_P(SparseVlmGolden, reference_gives_the_file) {
  reference::SparseVlmInput input;
  input.tokens = file_.matrix("tokens");
  input.visual_rows = visual_rows();
  input.raters = as_rows(raters());
  input.keep = static_cast<std::size_t>(keep());
  input.first_after_image = input.visual_rows.back() + 1;
  input.attention = reference::Matrix(input.tokens.rows, input.tokens.rows);
  for (std::size_t h = 0; h < static_cast<std::size_t>(heads()); ++h) {
    const reference::Matrix head = rater_head(h);
    for (std::size_t t = 0; t < head.rows; ++t) {
      for (std::size_t v = 0; v < head.cols; ++v) {
        input.attention(input.raters[t], input.visual_rows[v]) +=
            head(t, v) / static_cast<double>(heads());
      }
    }
  }
  const reference::SparseVlmResult result = reference::sparsevlm(input, {});
  EXPECT_TRUE(support::close(result.scores, file_.doubles("relevance")));
  EXPECT_EQ(support::indices(result.kept), kept_with_synthetic());
  EXPECT_EQ(support::indices(result.discarded), file_.indices("discarded_indices"));
  EXPECT_EQ(support::indices(result.recycled), file_.indices("recycled_indices"));
  if (has_centers()) {
    EXPECT_EQ(support::indices(result.centers), file_.indices("center_indices"));
  }
  const auto synthetic = file_.indices("synthetic_rows");
  std::vector<Index> destinations;
  for (const std::size_t g : result.cluster) destinations.push_back(synthetic.at(g));
  EXPECT_EQ(destinations, file_.indices("recycled_dst_rows"));
  EXPECT_TRUE(support::close(result.output.values, file_.doubles("output"), 1e-5, 1e-6));
}

TEST_P(SparseVlmGolden, packed_positions_count_up) {
  const TokenLayout tokens = layout();
  const Tensor<float> hidden = support::tensor<float>(file_.matrix("tokens"));
  const std::vector<float> values = rater_values<float>();
  const std::vector<Token> rows = first_text_rows(tokens);
  const auto plan = tokenfold::SparseVLM{}.plan(
      tokenfold::Sequence(tokens, rater_attention(values, tokens), tokenfold::Features(hidden),
                          tokenfold::Raters(rows)),
      Budget::keep(keep()));
  std::vector<std::int32_t> in(static_cast<std::size_t>(tokens.tokens()));
  std::iota(in.begin(), in.end(), 0);
  std::vector<std::int32_t> out(static_cast<std::size_t>(plan.output_tokens()));
  plan.positions(tokenfold::PositionRule::packed,
                 MatrixView<const std::int32_t>(in.data(), 1, tokens.tokens()),
                 MatrixView<std::int32_t>(out.data(), 1, plan.output_tokens()));
  std::vector<std::int32_t> expected(static_cast<std::size_t>(file_.count("n_output")));
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(out, expected);
}

INSTANTIATE_TEST_SUITE_P(Files, SparseVlmGolden,
                         testing::Values("sparsevlm_s5_n36_t9_l15r64",
                                         "sparsevlm_s3_n64_t12_l15r96",
                                         "sparsevlm_s20_n144_t15_l15r128"),
                         [](const auto& param) { return param.param; });

// ----------------------------------------------------------------------------------- version 2

class SparseVlmV2Golden : public SparseVlmFile {
 protected:
  tokenfold::SparseVLMv2 method() const {
    return {.filter = {.rope = {.head_dim = file_.count("head_dim"),
                                .theta = file_.number("rope_theta")}},
            .correlate = {},
            .compress = {}};
  }
  /// The position of each row as the attention of `rater_attention` sees it: the first rows of text
  /// stand where the raters do.
  std::vector<std::int32_t> positions() const {
    std::vector<std::int32_t> result(static_cast<std::size_t>(layout().tokens()));
    std::iota(result.begin(), result.end(), 0);
    const std::vector<Token> rows = raters();
    std::copy(rows.begin(), rows.end(), result.begin() + layout().text_after().begin);
    return result;
  }

  template <class T>
  void check() const {
    const TokenLayout tokens = layout();
    const std::vector<T> values = rater_values<T>();
    const std::vector<Token> rows = first_text_rows(tokens);
    const std::vector<std::int32_t> where = positions();
    const tokenfold::Sequence sequence(tokens, rater_attention(values, tokens),
                                       tokenfold::Raters(rows), tokenfold::Positions(where));
    tokenfold::Workspace workspace;
    tokenfold::ReductionPlan plan;
    method().plan(sequence, Budget::keep(file_.count("keep")), workspace, plan);
    EXPECT_TRUE(plan.selects_only());
    EXPECT_EQ(support::indices(plan.kept()), file_.indices("kept_indices"));
    EXPECT_EQ(support::indices(workspace.partition.discarded), file_.indices("discarded_indices"));
    EXPECT_TRUE(support::close(workspace.partition.scores, file_.doubles("relevance")));
    EXPECT_TRUE(support::close(support::apply<T>(plan, file_.matrix("tokens")).values,
                               file_.doubles("output"), 0, 0));
    check_parts<T>(sequence, rows);
    check_positions(plan);
  }

  template <class T, class S>
  void check_parts(const S& sequence, const std::vector<Token>& rows) const {
    std::vector<double> rater_positions;
    for (const Token row : raters()) rater_positions.push_back(row);
    std::vector<double> visual_positions;
    for (const std::size_t row : visual_rows()) {
      visual_positions.push_back(static_cast<double>(row));
    }
    tokenfold::Workspace workspace;
    Tensor<double> rope(rater_count(), visual_count());
    tokenfold::detail::rope_weights(method().filter.rope, file_.count("head_dim"), rater_positions,
                                    visual_positions, MatrixView<double>(rope), workspace);
    const std::vector<double> weights(rope.data(), rope.data() + rope.size());
    EXPECT_TRUE(support::close(weights, file_.doubles("rope_weights"), 1e-6));

    Tensor<double> sums(heads(), visual_count());
    std::vector<double> mass(static_cast<std::size_t>(heads()));
    tokenfold::detail::unbiased_head_sums(sequence, Span<const Token>(rows),
                                          MatrixView<const double>(rope), MatrixView<double>(sums),
                                          mass, workspace);
    EXPECT_TRUE(support::close(mass, file_.doubles("head_mass"), 1e-6));
    const Index used = file_.count("n_heads_used");
    EXPECT_EQ(used, method().filter.heads);
    auto best = tokenfold::detail::rank_highest(mass, used, workspace).subspan(0, used);
    std::sort(best.begin(), best.end());
    EXPECT_EQ(support::indices(best), file_.indices("heads_used"));
  }

  void check_positions(const tokenfold::ReductionPlan& plan) const {
    const Index p = layout().tokens();
    std::vector<std::int32_t> in(static_cast<std::size_t>(p));
    std::iota(in.begin(), in.end(), 0);
    std::vector<std::int32_t> out(static_cast<std::size_t>(plan.output_tokens()));
    plan.positions(tokenfold::PositionRule::original,
                   MatrixView<const std::int32_t>(in.data(), 1, p),
                   MatrixView<std::int32_t>(out.data(), 1, plan.output_tokens()));
    EXPECT_EQ(support::indices(out), file_.indices("position_ids"));
  }
};

TEST_P(SparseVlmV2Golden, float_finds_the_raters) { check_raters<float>(); }
TEST_P(SparseVlmV2Golden, double_finds_the_raters) { check_raters<double>(); }
TEST_P(SparseVlmV2Golden, float_gives_the_file) { check<float>(); }
TEST_P(SparseVlmV2Golden, double_gives_the_file) { check<double>(); }

// The same rows where they stand in the sequence: no positions needed.
TEST_P(SparseVlmV2Golden, rows_are_positions_by_default) {
  const TokenLayout tokens = layout();
  const auto head_count = static_cast<std::size_t>(heads());
  const auto p = static_cast<std::size_t>(tokens.tokens());
  const std::vector<Token> rows = raters();
  std::vector<double> attention(head_count * p * p, 0.0);
  for (std::size_t h = 0; h < head_count; ++h) {
    const reference::Matrix head = rater_head(h);
    for (std::size_t t = 0; t < head.rows; ++t) {
      for (std::size_t v = 0; v < head.cols; ++v) {
        const auto column = static_cast<std::size_t>(tokens.visual_range().begin) + v;
        attention[(h * p + static_cast<std::size_t>(rows[t])) * p + column] = head(t, v);
      }
    }
  }
  const Index size = tokens.tokens();
  const tokenfold::DenseAttention<double> source(
      HeadsView<const double>(attention.data(), {heads(), size, size}, {size * size, size}));
  const auto plan =
      method().plan(tokenfold::Sequence(tokens, source, tokenfold::Raters(rows)),
                    tokenfold::sparsevlm_v2_schedule(file_.count("retain_tokn")).budget(2, size));
  EXPECT_EQ(support::indices(plan.kept()), file_.indices("kept_indices"));
}

TEST_P(SparseVlmV2Golden, reference_gives_the_file) {
  reference::SparseVlmV2Input input;
  for (std::size_t h = 0; h < static_cast<std::size_t>(heads()); ++h) {
    input.attention.push_back(rater_head(h));
  }
  for (const Token row : raters()) input.rater_positions.push_back(row);
  for (const std::size_t row : visual_rows()) {
    input.visual_positions.push_back(static_cast<double>(row));
  }
  input.head_dim = static_cast<std::size_t>(file_.count("head_dim"));
  input.theta = file_.number("rope_theta");
  const reference::SparseVlmV2Scores scores = reference::sparsevlm_v2_scores(input);
  EXPECT_TRUE(support::close(scores.rope_weights.values, file_.doubles("rope_weights"), 1e-6));
  EXPECT_TRUE(support::close(scores.head_mass, file_.doubles("head_mass"), 1e-6));
  EXPECT_EQ(support::indices(scores.heads_used), file_.indices("heads_used"));
  EXPECT_TRUE(support::close(scores.scores, file_.doubles("relevance")));

  reference::SparseVlmInput rest;
  rest.tokens = file_.matrix("tokens");
  rest.visual_rows = visual_rows();
  rest.keep = static_cast<std::size_t>(file_.count("keep"));
  rest.first_after_image = rest.visual_rows.back() + 1;
  const auto result = reference::sparsevlm_reduce(rest, {}, scores.scores, false);
  EXPECT_EQ(support::indices(result.kept), file_.indices("kept_indices"));
  EXPECT_EQ(support::indices(result.discarded), file_.indices("discarded_indices"));
  EXPECT_TRUE(support::close(result.output.values, file_.doubles("output"), 0, 0));
}

INSTANTIATE_TEST_SUITE_P(Files, SparseVlmV2Golden,
                         testing::Values("sparsevlm_v2_s5_n40_t9_l15r64",
                                         "sparsevlm_v2_s20_n144_t15_l15r128"),
                         [](const auto& param) { return param.param; });

}  // namespace
