// SPDX-License-Identifier: Apache-2.0
// Methods by name: what is listed, what is set, what is refused, and that the name makes no
// difference to the plan.

#include "tokenfold/registry.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "support/all_inputs.hpp"
#include "support/outcome.hpp"
#include "tokenfold/std_threads.hpp"
#include "tokenfold/tokenfold.hpp"

namespace {

using support::Random;
using support::Tensor;
using tokenfold::Budget;
using tokenfold::Index;
using tokenfold::Inputs;
using tokenfold::make_reducer;
using tokenfold::MethodInfo;
using tokenfold::Place;
using tokenfold::ReductionPlan;
using tokenfold::Token;
using tokenfold::TokenLayout;

using Resources = support::AllInputs<float>;

/// 36 visual tokens, in a shape that suits the method.
TokenLayout layout_for(const MethodInfo& info) { return support::layout_for(info, 6); }

TEST(Registry, names_are_unique_and_summaries_short) {
  std::set<std::string_view> names;
  for (const MethodInfo& info : tokenfold::list_methods()) {
    EXPECT_TRUE(names.insert(info.name).second) << info.name;
    EXPECT_FALSE(info.summary.empty());
    EXPECT_LE(info.summary.size(), 90u) << info.name;
  }
  EXPECT_GE(names.size(), 20u);
}

TEST(Registry, every_method_plans_what_its_budget_says) {
  for (const MethodInfo& info : tokenfold::list_methods()) {
    SCOPED_TRACE(info.name);
    const Resources resources(layout_for(info));
    const auto reducer = make_reducer(info.name);
    const ReductionPlan plan = reducer->plan(resources.inputs, Budget::keep(18));
    EXPECT_EQ(plan.input_tokens(), resources.layout.tokens());
    EXPECT_EQ(plan.visual().size() - plan.extra_tokens(), 18);
    EXPECT_EQ(plan.output_tokens() - plan.visual().size(), resources.layout.tokens() - 36);
  }
}

TEST(Registry, keeping_all_changes_nothing) {
  for (const MethodInfo& info : tokenfold::list_methods()) {
    if (info.name == "tome_every_kth") continue;  // N / k of N = all only for k = 1
    const Resources resources(layout_for(info));
    const auto plan = make_reducer(info.name)->plan(resources.inputs, Budget::keep(36));
    // PruMerge's and ToMe's rows absorb others even then, or come in another order.
    if (plan.selects_only() && info.name != "tome") {
      EXPECT_TRUE(plan.is_identity()) << info.name;
    }
    EXPECT_EQ(plan.output_tokens(), resources.layout.tokens()) << info.name;
  }
}

TEST(Registry, adaptive_methods_decide_and_others_refuse) {
  for (const MethodInfo& info : tokenfold::list_methods()) {
    SCOPED_TRACE(info.name);
    const Resources resources(layout_for(info));
    const auto reducer = make_reducer(info.name);
    if (info.name == "vidcom2") reducer->set("retention", "0.5");
    if (info.adaptive) {
      EXPECT_LE(reducer->plan(resources.inputs, Budget::adaptive()).output_tokens(),
                resources.layout.tokens() + 1);
    } else {
      EXPECT_NE(support::refusal([&] { reducer->plan(resources.inputs, Budget::adaptive()); }), "");
    }
  }
}

TEST(Registry, options_read_what_they_write_in_every_preset) {
  for (const MethodInfo& info : tokenfold::list_methods()) {
    for (const char* preset : {"default", "released", "published"}) {
      const auto reducer = make_reducer(info.name, {{"preset", preset}});
      std::set<std::string> names;
      for (const tokenfold::OptionInfo& option : reducer->options()) {
        SCOPED_TRACE(std::string(info.name) + ", " + option.name);
        EXPECT_TRUE(names.insert(option.name).second);
        EXPECT_FALSE(option.meaning.empty());
        EXPECT_FALSE(option.type.empty());
        reducer->set(option.name, option.value);
        const auto after = reducer->options();
        const auto same = std::find_if(after.begin(), after.end(), [&](const auto& other) {
          return other.name == option.name;
        });
        ASSERT_NE(same, after.end());
        EXPECT_EQ(same->value, option.value);
      }
      EXPECT_EQ(names.count("preset"), 1u);
    }
  }
}

TEST(Registry, a_name_makes_the_plan_that_the_type_makes) {
  const Resources encoder(TokenLayout::encoder({6, 6}));
  const tokenfold::QueryKeyAttention attention(tokenfold::split_heads(encoder.queries, 4),
                                               tokenfold::split_heads(encoder.keys, 4));
  const tokenfold::Sequence sequence(encoder.layout, attention);
  const Budget budget = Budget::discard(9);
  const auto named = [&](const char* name, const std::vector<tokenfold::OptionSetting>& options) {
    return support::dense_weights(make_reducer(name, options)->plan(encoder.inputs, budget)).values;
  };
  const auto typed = [&](const auto& method) {
    return support::dense_weights(method.plan(sequence, budget)).values;
  };
  EXPECT_EQ(named("ficoco_v", {}), typed(tokenfold::FiCoCoV{}));
  EXPECT_EQ(named("ficoco_v", {{"preset", "released"}}), typed(tokenfold::ficoco_v_released()));
  EXPECT_EQ(named("ficoco_v", {{"lambda", "0.9"}, {"preset", "released"}, {"penalty", "1"}}),
            typed([] {
              auto method = tokenfold::ficoco_v_released();
              method.filter.lambda = 0.9;
              method.filter.penalty.coefficient = 1;
              return method;
            }()));
  EXPECT_EQ(named("ficoco_v", {{"targets", "nucleus"}, {"mass", "0.7"}}),
            typed(tokenfold::BasicFiCoCoV<tokenfold::correlate::NucleusTargets>{
                .correlate = {.targets = {.mass = 0.7}}}));
  EXPECT_EQ(named("prumerge_plus", {}), typed(tokenfold::prumerge_plus()));
  EXPECT_EQ(named("evit", {{"order", "score"}}), typed(tokenfold::evit_released()));
  EXPECT_NE(named("evit", {{"fuse", "false"}}), typed(tokenfold::EViT{}));
}

TEST(Registry, a_shared_option_sets_every_stage) {
  const Resources decoder(TokenLayout::decoder(3, 36, 4));
  const tokenfold::Sequence sequence(
      decoder.layout, tokenfold::QueryKeyAttention(tokenfold::split_heads(decoder.queries, 4),
                                                   tokenfold::split_heads(decoder.keys, 4)));
  tokenfold::FiCoCoL method;
  method.filter.direction = tokenfold::AttentionDirection::given;
  method.correlate.direction = tokenfold::AttentionDirection::given;
  const auto plan =
      make_reducer("ficoco_l", {{"direction", "given"}})->plan(decoder.inputs, Budget::keep(20));
  EXPECT_EQ(support::dense_weights(plan).values,
            support::dense_weights(method.plan(sequence, Budget::keep(20))).values);
}

TEST(Registry, a_reducer_serves_a_batch_of_inputs) {
  const Resources small(TokenLayout::encoder({4, 5}));
  const Resources large(TokenLayout::encoder({6, 6}));
  const auto reducer = make_reducer("divprune");
  tokenfold::Batch batch;
  batch.plan(
      *reducer,
      tokenfold::ItemsFrom(
          2, [&](Index i) -> const Inputs<float>& { return i == 0 ? small.inputs : large.inputs; }),
      Budget::keep(7), tokenfold::StdThreads{2});
  EXPECT_EQ(batch[0].kept_hash(), reducer->plan(small.inputs, Budget::keep(7)).kept_hash());
  EXPECT_EQ(batch[1].kept_hash(), reducer->plan(large.inputs, Budget::keep(7)).kept_hash());
}

TEST(Registry, what_is_missing_is_named) {
  const TokenLayout encoder = TokenLayout::encoder({6, 6});
  const Inputs<float> nothing(encoder);
  const auto message = [&](const char* name) {
    return support::refusal([&] { make_reducer(name)->plan(nothing, Budget::keep(9)); });
  };
  EXPECT_EQ(message("evit"), "attention: this method reads attention, but none was given");
  EXPECT_NE(message("divprune").find("features"), std::string::npos);
  EXPECT_NE(message("tome").find("0 keys were given for 37 tokens"), std::string::npos);
  // What reads nothing needs nothing.
  EXPECT_EQ(make_reducer("uniform")->plan(nothing, Budget::keep(9)).visual().size(), 9);
}

TEST(Registry, unknown_names_and_values_are_refused) {
  const auto refused = [](const char* name, std::vector<tokenfold::OptionSetting> options) {
    return support::refusal([&] { make_reducer(name, options); });
  };
  EXPECT_NE(refused("ficoco", {}).find("unknown method \"ficoco\"; known: ficoco_v, tome, "),
            std::string::npos);
  EXPECT_EQ(refused("evit", {{"ordr", "score"}}),
            "evit: unknown option \"ordr\"; known: preset, order, fuse, rule");
  EXPECT_EQ(refused("evit", {{"order", "up"}}),
            "evit: option order takes raster|score, got \"up\"");
  EXPECT_EQ(refused("evit", {{"preset", "best"}}),
            "evit: option preset takes default|released|published, got \"best\"");
  for (const char* number : {"", "1x", "nan", "1e999", "0x10", " 1", "1 "}) {
    EXPECT_NE(refused("ficoco_v", {{"lambda", number}}).find("takes number"), std::string::npos)
        << number;
  }
  for (const char* grid : {"2", "2x", "x2", "0x2", "-1x2", "2x2x2", "99999999999x2"}) {
    EXPECT_NE(refused("ficoco_v", {{"window", grid}}).find("takes HxW|none"), std::string::npos)
        << grid;
  }
  EXPECT_NE(refused("evit", {{"fuse", "1"}}).find("takes true|false"), std::string::npos);
  EXPECT_NE(refused("prumerge", {{"neighbours", "1.5"}}).find("takes integer"), std::string::npos);
  // Input of any length or content ends up quoted, short and printable.
  const std::string message = refused("evit", {{"order", std::string(1000, '\n')}});
  EXPECT_LT(message.size(), 150u);
  EXPECT_EQ(message.find('\n'), std::string::npos);
}

TEST(Registry, a_refused_value_leaves_the_option_alone) {
  const auto reducer = make_reducer("ficoco_v", {{"lambda", "0.5"}});
  EXPECT_NE(support::refusal([&] { reducer->set("lambda", "x"); }), "");
  EXPECT_EQ(reducer->options()[1].name, "lambda");
  EXPECT_EQ(reducer->options()[1].value, "0.5");
}

// --- The lists agree: headers, contents page, registry, README -----------------------------------

std::string read(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(Registry, every_method_header_is_in_the_contents_and_in_the_readme) {
  const std::filesystem::path root(TOKENFOLD_SOURCE_DIR);
  const std::string contents = read(root / "include/tokenfold/tokenfold.hpp");
  const std::string registry = read(root / "include/tokenfold/registry/methods.hpp");
  const std::string readme = read(root / "README.md");
  int headers = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(root / "include/tokenfold/methods")) {
    const std::string name = entry.path().filename().string();
    const std::string include = "#include \"tokenfold/methods/" + name + "\"";
    EXPECT_NE(contents.find(include), std::string::npos) << name;
    EXPECT_NE(readme.find("include/tokenfold/methods/" + name), std::string::npos) << name;
    // These two work on methods rather than being one of the table's plain names.
    if (name != "ficoco_vl.hpp" && name != "frame_wise.hpp" && name != "combinations.hpp") {
      EXPECT_NE(registry.find(include), std::string::npos) << name;
    }
    ++headers;
  }
  EXPECT_GE(headers, 20);
}

TEST(Registry, every_method_has_a_row_in_the_readme) {
  const std::string readme = read(std::filesystem::path(TOKENFOLD_SOURCE_DIR) / "README.md");
  for (const MethodInfo& info : tokenfold::list_methods()) {
    EXPECT_NE(readme.find("`" + std::string(info.name) + "`"), std::string::npos) << info.name;
  }
}

}  // namespace
