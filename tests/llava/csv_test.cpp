// SPDX-License-Identifier: Apache-2.0
#include "csv.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <vector>

#include "llava/runs.hpp"
#include "sweep.hpp"

namespace {

using Row = std::vector<std::string>;

/// What RFC 4180 says that a reader sees.
std::vector<Row> parsed(const std::string& csv) {
  std::vector<Row> rows(1, Row(1));
  bool quoted = false;
  for (std::size_t i = 0; i < csv.size(); ++i) {
    const char c = csv[i];
    if (quoted && c == '"' && i + 1 < csv.size() && csv[i + 1] == '"') {
      rows.back().back() += csv[++i];
    } else if (c == '"') {
      quoted = !quoted;
    } else if (!quoted && c == ',') {
      rows.back().emplace_back();
    } else if (!quoted && c == '\n') {
      rows.emplace_back(1);
    } else {
      rows.back().back() += c;
    }
  }
  EXPECT_FALSE(quoted);
  EXPECT_EQ(rows.back(), Row(1)) << "the last line ends";
  rows.pop_back();
  return rows;
}

TEST(LlavaCsv, fields_are_quoted_where_they_must_be) {
  EXPECT_EQ(llava::csv_field("plain text"), "plain text");
  EXPECT_EQ(llava::csv_field(""), "");
  EXPECT_EQ(llava::csv_field("a,b"), "\"a,b\"");
  EXPECT_EQ(llava::csv_field("say \"so\""), "\"say \"\"so\"\"\"");
  EXPECT_EQ(llava::csv_field("two\nlines"), "\"two\nlines\"");
  EXPECT_EQ(llava::csv_field("cr\r"), "\"cr\r\"");
  EXPECT_EQ(llava::csv_field(" space"), "\" space\"");
  EXPECT_EQ(llava::csv_field("space "), "\"space \"");
}

TEST(LlavaCsv, numbers_come_back_as_they_were) {
  for (const double value : {0.0, 1.0 / 3, 1e-300, -2.5, 1e22, 576.0}) {
    EXPECT_EQ(std::stod(llava::csv_number(value)), value);
  }
  EXPECT_EQ(llava::csv_number(std::numeric_limits<double>::quiet_NaN()), "");
  EXPECT_EQ(llava::csv_number(std::numeric_limits<double>::infinity()), "inf");
}

TEST(LlavaCsv, lines_are_read_as_they_were_written) {
  const Row row = {"", "a,b", "\"", "x\ny", " ", "last"};
  EXPECT_EQ(parsed(llava::csv_line(row)), std::vector<Row>{row});
  EXPECT_EQ(llava::csv_line({}), "\n");
}

TEST(LlavaCsv, sweep_has_a_line_per_run_under_names_with_units) {
  llava::Measurement odd = llava_test::reduced();
  odd.options = "a,b \"c\"\nd";
  odd.logits.clear();
  const std::vector<llava::Measurement> runs = {llava_test::reduced(), odd};
  const auto rows = parsed(llava::sweep_csv(llava_test::reference(), runs));
  ASSERT_EQ(rows.size(), 4u);
  for (const Row& row : rows) ASSERT_EQ(row.size(), rows[0].size());
  const auto cell = [&rows](std::size_t row, const std::string& name) -> std::string {
    for (std::size_t c = 0; c < rows[0].size(); ++c) {
      if (rows[0][c] == name) return rows[row][c];
    }
    return "no column " + name;
  };
  EXPECT_EQ(cell(1, "method"), "none");
  EXPECT_EQ(cell(2, "method"), "ficoco_v");
  EXPECT_EQ(cell(2, "where"), "inside the encoder");
  EXPECT_EQ(cell(2, "options"), "keep=2, order=\"raster\"");
  EXPECT_EQ(cell(3, "options"), "a,b \"c\"\nd");
  EXPECT_EQ(cell(2, "visual_tokens_of_image"), "4");
  EXPECT_EQ(cell(2, "visual_tokens_out_of_encoder"), "2");
  EXPECT_EQ(cell(2, "visual_tokens_into_decoder"), "2");
  EXPECT_EQ(cell(2, "visual_tokens_per_decoder_layer"), "1.5");
  EXPECT_EQ(cell(2, "visual_tokens_out_of_decoder"), "1");
  EXPECT_EQ(cell(2, "text_tokens"), "3");
  EXPECT_EQ(cell(2, "encoder_ms"), "500");
  EXPECT_EQ(cell(2, "reduction_in_encoder_ms"), "125");
  EXPECT_EQ(cell(2, "projector_ms"), "250");
  EXPECT_EQ(cell(2, "reduction_between_ms"), "62.5");
  EXPECT_EQ(cell(2, "prefill_ms"), "1000");
  EXPECT_EQ(cell(2, "reduction_in_decoder_ms"), "62.5");
  EXPECT_EQ(cell(2, "time_to_first_token_ms"), "2000");
  EXPECT_EQ(cell(2, "reduction_percent"), "12.5");
  EXPECT_EQ(cell(2, "decoded_token_ms"), "200");
  EXPECT_EQ(cell(2, "kv_cache_mb"), "0.5");
  EXPECT_EQ(cell(2, "kv_cache_16_bit_mb"), "0.25");
  EXPECT_NEAR(std::stod(cell(2, "predicted_gflop")), 11184e-9, 1e-15);
  EXPECT_EQ(cell(2, "measured_speed_up"), "2.25");
  EXPECT_EQ(cell(1, "measured_speed_up"), "1");
  EXPECT_NEAR(std::stod(cell(2, "predicted_speed_up")), 18176.0 / 11184.0, 1e-12);
  EXPECT_EQ(cell(1, "kl_nats"), "0");
  EXPECT_GT(std::stod(cell(2, "kl_nats")), 1);
  EXPECT_EQ(cell(1, "top_1_agrees"), "1");
  EXPECT_EQ(cell(2, "top_1_agrees"), "0");
  EXPECT_EQ(cell(2, "top_5_in_common"), "5");
  for (const char* name : {"kl_nats", "top_1_agrees", "top_5_in_common"}) {
    EXPECT_EQ(cell(3, name), "") << "a run without logits";
  }
}

}  // namespace
