#include "tools/scorecard/ablation.h"

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "core/model/config.h"
#include "core/model/count.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/scorecard/runs.h"

namespace strata {
namespace {

using ::testing::Contains;
using ::testing::DoubleNear;
using ::testing::IsSupersetOf;
using ::testing::Not;
using ::testing::SizeIs;

std::set<std::string> Names(const std::vector<Ablation>& ablations) {
  std::set<std::string> names;
  for (const Ablation& ablation : ablations)
    names.insert(ablation.variant.name);
  return names;
}

TEST(AblationsTest, SwitchEachStageAndTierMechanismOff) {
  const ModelConfig model = *ModelPreset("demo");

  const std::vector<Ablation> ablations = AblationsOf(model, /*fixed_k=*/3);

  EXPECT_EQ(ablations[0].variant.name, kWhole);
  EXPECT_EQ(ToJson(ablations[0].variant.config), ToJson(model));
  EXPECT_THAT(Names(ablations), SizeIs(ablations.size()));
  EXPECT_THAT(Names(ablations),
              IsSupersetOf({"no-coarse", "plain-norm", "no-fine", "no-bias",
                            "bias-on-weight", "fixed-k", "no-exit", "one-tier",
                            "concat"}));
  for (size_t i = 1; i < ablations.size(); ++i) {
    EXPECT_THAT(Validate(ablations[i].variant.config), IsOk())
        << ablations[i].what;
    EXPECT_NE(ToJson(ablations[i].variant.config), ToJson(model))
        << ablations[i].what;
  }
}

TEST(AblationsTest, LeaveOutWhatTheModelHasNot) {
  ModelConfig model = *ModelPreset("demo");
  HierarchicalRouterConfig& gate = *model.mutable_moe()->mutable_hierarchical();
  gate.set_exit_threshold(0);
  gate.set_coarse_keep(1);

  const std::set<std::string> names = Names(AblationsOf(model, 3));

  EXPECT_THAT(names, Not(Contains("no-exit")));
  EXPECT_THAT(names, Not(Contains("no-coarse")));
}

TEST(AblationsTest, OneTierHasAllExperts) {
  const ModelConfig model = *ModelPreset("demo");
  for (const Ablation& ablation : AblationsOf(model, 3)) {
    if (ablation.variant.name != "one-tier") continue;
    EXPECT_EQ(ablation.variant.config.moe().hierarchical().tier_experts_size(),
              1);
    EXPECT_EQ(NumRoutedExperts(ablation.variant.config),
              NumRoutedExperts(model));
    EXPECT_EQ(MaxActiveExperts(ablation.variant.config),
              MaxActiveExperts(model));
  }
}

ScoredRun Scored(const std::string& variant, uint64_t seed, double bits) {
  ScoredRun run;
  run.variant = variant;
  run.seed = seed;
  run.bits_per_byte = bits;
  run.seconds = 2;
  run.experts.active_share = 0.25;
  return run;
}

TEST(AblationRowsTest, CompareSeedBySeed) {
  const ModelConfig model = *ModelPreset("demo");
  const std::vector<Ablation> ablations = AblationsOf(model, 3);
  const std::vector<ScoredRun> runs = {
      Scored(kWhole, 1, 2.0), Scored("no-fine", 1, 2.1), Scored(kWhole, 2, 3.0),
      Scored("no-fine", 2, 3.3)};

  const std::vector<AblationRow> rows =
      AblationRows({ablations[0], {{"no-fine", model}, "no fine stage"}}, runs,
                   /*steps=*/100);

  ASSERT_THAT(rows, SizeIs(2));
  EXPECT_THAT(rows[0].more_bits.mean, DoubleNear(0, 1e-12));
  EXPECT_THAT(rows[1].bits_per_byte.mean, DoubleNear(2.7, 1e-12));
  EXPECT_THAT(rows[1].more_bits.mean, DoubleNear(0.2, 1e-12));
  EXPECT_THAT(rows[1].milliseconds.mean, DoubleNear(20, 1e-12));
}

TEST(MeanExpertsTest, IsTheNearestWholeNumberATier) {
  // A quarter of 32 in two tiers: 4.
  EXPECT_EQ(MeanExpertsPerTier(*ModelPreset("demo"), {Scored("v3", 1, 2)}), 4);
}

}  // namespace
}  // namespace strata
