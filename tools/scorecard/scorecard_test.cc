// Claims from runs made up by hand; the study that makes real ones, in small.

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/model/config.h"
#include "core/model/count.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/scorecard/claim.h"
#include "tools/scorecard/html.h"
#include "tools/scorecard/runs.h"
#include "tools/scorecard/tiny_study.h"
#include "tools/scorecard/variants.h"
#include "training/data/corpus.h"

namespace strata {
namespace {

using ::testing::DoubleNear;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

ScoredRun Scored(const std::string& variant, uint64_t seed) {
  ScoredRun run;
  run.variant = variant;
  run.seed = seed;
  run.bits_per_byte = 2.0;
  run.accuracy = 0.5;
  run.experts.active_share = 0.3;
  run.experts.flops_per_token = 1000;
  run.experts.gini = 0.5;
  run.experts.utilisation = 0.5;
  run.train_flops_per_token = 1100;
  run.cold_start_steps = 20;
  run.redundancy = 0.4;
  return run;
}

// Two seeds in which every claim holds.
std::vector<ScoredRun> GoodRuns() {
  std::vector<ScoredRun> runs;
  for (const uint64_t seed : {1, 2}) {
    runs.push_back(Scored(kV1, seed));
    runs.push_back(Scored(kV2, seed));
    runs.push_back(Scored(kV3, seed));
    runs.back().experts.gini = 0.1;
    runs.back().experts.utilisation = 0.9;
    runs.back().redundancy = 0.3;
    runs.push_back(Scored(kV3Sparse, seed));
    runs.back().experts.flops_per_token = 600;
    runs.back().experts.active_share = 0.18;
    runs.back().accuracy = 0.495;
    for (const FlatShare& share : kV2Shares) {
      runs.push_back(Scored(share.name, seed));
    }
    for (ScoredRun& run : runs) {
      if (run.variant == kV2Shares[0].name) run.accuracy = 0.4;
    }
  }
  return runs;
}

ScoredRun& Find(std::vector<ScoredRun>& runs, const std::string& variant,
                uint64_t seed) {
  for (ScoredRun& run : runs) {
    if (run.variant == variant && run.seed == seed) return run;
  }
  ADD_FAILURE() << "no run " << variant;
  return runs[0];
}

TEST(ClaimTest, IsReachedWhereEveryMeasureIs) {
  const std::vector<ScoredRun> runs = GoodRuns();

  EXPECT_EQ(HierarchicalExperts(runs).verdict(), "reached as far as measured");
  EXPECT_EQ(AdaptiveGate(runs).verdict(), "reached as far as measured");
  EXPECT_EQ(SparseActivation(runs).verdict(), "reached");
}

TEST(ClaimTest, FewerFlopsDoNotCountAtMoreLoss) {
  std::vector<ScoredRun> runs = GoodRuns();
  Find(runs, kV3Sparse, 1).bits_per_byte = 2.01;

  EXPECT_EQ(HierarchicalExperts(runs).verdict(), "not reached");
}

TEST(ClaimTest, AGiniIsComparedWithV1s) {
  std::vector<ScoredRun> runs = GoodRuns();
  Find(runs, kV3, 1).experts.gini = 0.49;  // Mean ratio 0.59.

  EXPECT_EQ(AdaptiveGate(runs).verdict(), "not reached");
}

TEST(ClaimTest, AForgottenExpertMustComeBackInTime) {
  std::vector<ScoredRun> runs = GoodRuns();
  for (ScoredRun& run : runs) run.cold_start_steps = 51;

  EXPECT_EQ(AdaptiveGate(runs).verdict(), "not reached");
}

TEST(ClaimTest, WhatIsPromisedOfOursAloneIsNoRatio) {
  const std::vector<ScoredRun> runs = {Scored(kV2, 1), Scored(kV3, 1)};
  Measure measure =
      Compare(runs, "steps", kV2, kV3, ColdStartSteps, Measure::Of::kOurs);
  measure.want = Measure::Want::kAtMost;
  measure.promised = 50;

  EXPECT_DOUBLE_EQ(measure.ratio.mean, 20);
  EXPECT_EQ(FormatRatio(measure), "ours (want at most 50)");
}

TEST(ClaimTest, ExpertsChosenTogetherMustSayLessOfTheSame) {
  std::vector<ScoredRun> runs = GoodRuns();
  Find(runs, kV3, 1).redundancy = 0.6;  // Ratios 1.5 and 0.75.

  EXPECT_EQ(AdaptiveGate(runs).verdict(), "not reached");
}

TEST(ClaimTest, ATimeOfRoutingPromisesNothing) {
  const Measure time = RoutingTime(4096, {1, 3}, {8, 8});

  EXPECT_DOUBLE_EQ(time.ratio.mean, 4);
  EXPECT_TRUE(time.reached());
}

TEST(ClaimTest, SparsityIsNoMeritWhereExpertsDoNotMatter) {
  std::vector<ScoredRun> runs = GoodRuns();
  // 3 % of the experts are as good, within two deviations.
  Find(runs, kV2Shares[0].name, 1).accuracy = 0.6;

  EXPECT_EQ(SparseActivation(runs).verdict(), "not reached");
}

TEST(ClaimTest, RatiosAreTakenSeedBySeed) {
  std::vector<ScoredRun> runs = {Scored(kV2, 1), Scored(kV3, 1), Scored(kV2, 2),
                                 Scored(kV3, 2), Scored(kV3, 3)};
  runs[0].bits_per_byte = 2;
  runs[1].bits_per_byte = 1;  // 0.5
  runs[2].bits_per_byte = 4;
  runs[3].bits_per_byte = 4;  // 1; seed 3 has no baseline.

  const Measure measure = Compare(runs, "loss", kV2, kV3, BitsPerByte);

  EXPECT_THAT(measure.ratio.mean, DoubleNear(0.75, 1e-12));
  EXPECT_THAT(measure.ours.mean, DoubleNear(2.5, 1e-12));
  EXPECT_THAT(measure.ratio.deviation, DoubleNear(0.353553, 1e-6));
}

TEST(VariantsTest, HaveAsManyParametersAndTheSharesTheyAreNamedFor) {
  const ModelConfig model = *ModelPreset("demo");
  const std::vector<Variant> variants = VariantsOf(model, {"A1", "A2", "A3"});

  EXPECT_THAT(variants, SizeIs(9));
  for (const Variant& variant : variants) {
    EXPECT_THAT(Validate(variant.config), IsOk()) << variant.name;
    // 0 to one unit of width more: 3 d_model an expert and layer.
    const int64_t more =
        CountParameters(variant.config) - CountParameters(model);
    EXPECT_GE(more, 0) << variant.name;
    EXPECT_LT(more, 3 * model.d_model() * 32 * model.num_layers());
    if (variant.name == "v2-3") {
      EXPECT_EQ(variant.config.moe().flat().k(), 1);
    }
    if (variant.name == "v2") {
      EXPECT_EQ(variant.config.moe().flat().k(), 10);
      EXPECT_GT(variant.config.moe().flat().balance_weight(), 0);
    }
    if (variant.name == "v1") {
      EXPECT_EQ(variant.config.moe().flat().balance_weight(), 0);
    }
  }
}

TEST(PageTest, ShowsWhatWasMissedAndEscapesNames) {
  std::vector<ScoredRun> runs = GoodRuns();
  Find(runs, kV3Sparse, 1).bits_per_byte = 2.01;
  runs[0].variant = "<script>";

  const std::string page =
      ScorecardPage({HierarchicalExperts(runs)}, runs, {{"commit", "a<b"}});

  EXPECT_THAT(page, HasSubstr("not reached"));
  EXPECT_THAT(page, HasSubstr("class=\"missed\""));
  EXPECT_THAT(page, HasSubstr("&lt;script&gt;"));
  EXPECT_THAT(page, HasSubstr("<svg"));
  EXPECT_THAT(page, HasSubstr("<td>–</td>"));  // None of them was probed.
  EXPECT_THAT(page, Not(HasSubstr("<script>")));
}

class StudyTest : public ::testing::Test {
 protected:
  StudyTest() {
    options_.train = TinyTraining();
    options_.seeds = {1, 2};
    options_.cold_start_steps = 2;
    options_.redundancy.rows = 8;
    options_.folder = absl::StrCat(
        testing::TempDir(), "/",
        testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(options_.folder);
  }

  absl::StatusOr<std::vector<ScoredRun>> Train(bool stop = false) {
    return TrainAll(VariantsOf(model_, {"A2"}), options_, corpus_, {},
                    [stop] { return stop; });
  }

  ModelConfig model_ = TinyModel();
  StudyOptions options_;
  Corpus corpus_ = TinyCorpus();
};

TEST_F(StudyTest, GivesTheSameRunsForAnyNumberOfJobs) {
  const auto one = Train();
  ASSERT_THAT(one, IsOk());
  ASSERT_THAT(*one, SizeIs(6));  // v2, v3, v1 of two seeds.
  std::filesystem::remove_all(options_.folder);
  options_.num_jobs = 3;
  const auto three = Train();
  ASSERT_THAT(three, IsOk());

  for (size_t i = 0; i < one->size(); ++i) {
    EXPECT_EQ((*one)[i].variant, (*three)[i].variant);
    EXPECT_EQ((*one)[i].bits_per_byte, (*three)[i].bits_per_byte);
    EXPECT_EQ((*one)[i].validation["loads"], (*three)[i].validation["loads"]);
    EXPECT_EQ((*one)[i].probes, (*three)[i].probes);
    EXPECT_EQ((*one)[i].probes["cold_start"]["max_steps"], 2);
    EXPECT_GT((*one)[i].train_flops_per_token, 0);
  }
}

TEST_F(StudyTest, ProbingChangesNoRunAndIsMadeUpForWhereItIsMissing) {
  const std::vector<Variant> probed = VariantsOf(model_, {"A2"});
  std::vector<Variant> plain = probed;
  for (Variant& variant : plain) variant.probe = false;
  const auto no_stop = [] { return false; };

  const auto without = TrainAll(plain, options_, corpus_, {}, no_stop);
  const auto with = TrainAll(probed, options_, corpus_, {}, no_stop);

  ASSERT_THAT(without, IsOk());
  ASSERT_THAT(with, IsOk());
  for (size_t i = 0; i < with->size(); ++i) {
    EXPECT_TRUE((*without)[i].probes.is_null());
    EXPECT_FALSE((*with)[i].probes.is_null());
    EXPECT_EQ((*with)[i].bits_per_byte, (*without)[i].bits_per_byte);
  }
  // Runs, and nothing that probes left behind.
  for (const auto& entry :
       std::filesystem::directory_iterator(options_.folder)) {
    EXPECT_EQ(entry.path().extension(), ".json");
  }
}

TEST_F(StudyTest, StopsAndGoesOnWithWhatIsNotDone) {
  EXPECT_THAT(Train(/*stop=*/true),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("stopped")));
  ASSERT_THAT(Train(), IsOk());
  // All done: nothing is left to be stopped.
  EXPECT_THAT(Train(/*stop=*/true), IsOk());
}

TEST_F(StudyTest, NamesARunThatIsDamaged) {
  ASSERT_THAT(Train(), IsOk());
  const std::string path =
      std::filesystem::directory_iterator(options_.folder)->path();
  std::ofstream(path) << "{\"variant\": \"v1\"";

  EXPECT_THAT(Train(), StatusIs(absl::StatusCode::kDataLoss, HasSubstr(path)));
}

}  // namespace
}  // namespace strata
