#include "tools/scorecard/quant/joint_study.h"

#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/model/config.pb.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tools/scorecard/claim.h"
#include "tools/scorecard/tiny_study.h"
#include "training/data/corpus.h"
#include "training/trainer.h"

namespace strata {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

ModelConfig Model() {
  ModelConfig config = TinyModel();
  config.set_d_model(32);
  config.mutable_attention()->set_head_dim(32);
  config.mutable_moe()->set_expert_width(32);
  return config;
}

absl::StatusOr<std::string> Trained(const ModelConfig& model,
                                    const Corpus& corpus) {
  const std::string folder = absl::StrCat(testing::TempDir(), "/joint_study");
  std::filesystem::remove_all(folder);
  const auto trainer = Trainer::Create(model, TinyTraining(), &corpus, 1);
  if (!trainer.ok()) return trainer.status();
  while (!(*trainer)->done()) {
    if (const auto step = (*trainer)->Step(); !step.ok()) return step.status();
  }
  return (*trainer)->SaveCheckpoint(folder, nlohmann::json());
}

TEST(JointStudyTest, ComparesBothOrdersAtEqualBytes) {
  const Corpus corpus = TinyCorpus();
  const auto model = Trained(Model(), corpus);
  ASSERT_THAT(model, IsOk());
  JointStudyOptions options;
  options.model = *model;
  options.tuning_steps = 2;
  options.calibration_tokens = 512;
  options.validation_tokens = 64;

  for (const int bits : {2, 4}) {
    options.bits = bits;
    const auto run = RunJointStudy(corpus, options, nullptr);
    ASSERT_THAT(run, IsOk());
    EXPECT_EQ(run->bits, bits);
    EXPECT_EQ(run->num_experts, 32);
    EXPECT_EQ(run->num_wide, 8);
    EXPECT_LE(run->num_shared, 8);
    ASSERT_EQ(run->outcomes.size(), 7);
    for (const JointOutcome& outcome : run->outcomes) {
      EXPECT_GT(outcome.bits_per_byte, 0) << outcome.variant;
      // A quarter at 8.5 bits, the others at 4.5; or at 4.5 and 2.5625.
      const double wanted = bits == 4 ? 5.5 : 3.046875;
      const bool quantised = outcome.variant.find("bits") != std::string::npos;
      EXPECT_EQ(outcome.bits_per_weight, quantised ? wanted : 32)
          << outcome.variant;
    }
    EXPECT_NE(run->outcomes[0].bits_per_byte, run->outcomes[1].bits_per_byte);

    const ClaimResult b5 = JointPrecision({*run});
    EXPECT_EQ(b5.id, "B5");
    EXPECT_EQ(b5.measures[0].ratio.mean,
              run->outcomes[6].bits_per_byte - run->outcomes[5].bits_per_byte);
    EXPECT_THAT(b5.not_measured, ElementsAre(HasSubstr("more than one run")));
  }
}

JointRun RunOf(double one_by_one, double joint) {
  JointRun run;
  run.outcomes = {{kOneByOne, one_by_one, 0, 0}, {kJoint, joint, 0, 0}};
  return run;
}

TEST(JointStudyTest, IsReachedBeyondTheNoiseOnly) {
  // Differences of -1 and -3: a mean of -2, a standard error of 1.
  const ClaimResult lower = JointPrecision({RunOf(4, 3), RunOf(4, 1)});
  EXPECT_EQ(lower.measures[0].ratio.mean, -2);
  EXPECT_NEAR(lower.measures[0].promised, -2, 1e-12);
  // -1 and -5: a mean of -3, an error of 2.
  const ClaimResult noise = JointPrecision({RunOf(9, 8), RunOf(9, 4)});
  EXPECT_FALSE(noise.measures[0].reached());
  const ClaimResult clear = JointPrecision({RunOf(9, 8), RunOf(9, 7.5)});
  EXPECT_TRUE(clear.measures[0].reached());
}

TEST(JointStudyTest, StopsAndWantsExperts) {
  const Corpus corpus = TinyCorpus();
  JointStudyOptions options;
  options.calibration_tokens = 512;
  options.validation_tokens = 64;
  const auto model = Trained(Model(), corpus);
  ASSERT_THAT(model, IsOk());
  options.model = *model;
  EXPECT_THAT(RunJointStudy(corpus, options, [] { return true; }),
              StatusIs(absl::StatusCode::kCancelled, testing::_));

  ModelConfig dense = Model();
  dense.clear_moe();
  dense.set_num_dense_layers(1);
  dense.set_dense_width(32);
  const auto without = Trained(dense, corpus);
  ASSERT_THAT(without, IsOk());
  options.model = *without;
  EXPECT_THAT(RunJointStudy(corpus, options, nullptr),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("has no experts")));
}

}  // namespace
}  // namespace strata
