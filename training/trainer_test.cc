#include "training/trainer.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/model/config.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "training/config.h"
#include "training/data/corpus.h"
#include "training/routing_fixture.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

ModelConfig TinyModel() {
  ModelConfig config = TinyHierarchical();
  config.mutable_moe()->mutable_hierarchical()->set_exit_threshold(0.3);
  return config;
}

// Steps enough to learn the corpus.
TrainConfig LearningTrain() {
  TrainConfig train = TinyTrain();
  train.set_steps(60);
  train.set_warmup_steps(10);
  train.set_learning_rate(1e-2);
  train.set_validation_tokens(256);
  train.set_checkpoints_to_keep(2);
  return train;
}

class TrainerTest : public ::testing::Test {
 protected:
  std::unique_ptr<Trainer> Make(int num_threads) {
    auto trainer =
        Trainer::Create(TinyModel(), LearningTrain(), &corpus_, num_threads);
    EXPECT_THAT(trainer, IsOk());
    return *std::move(trainer);
  }

  std::string Runs() const {
    return absl::StrCat(
        ::testing::TempDir(), "/runs_",
        ::testing::UnitTest::GetInstance()->current_test_info()->name());
  }

  const Corpus corpus_ = TinyCorpus();
};

// Losses of `n` steps, to the last bit.
std::vector<double> Losses(Trainer& trainer, int n) {
  std::vector<double> losses;
  for (int i = 0; i < n; ++i) {
    const auto metrics = trainer.Step();
    EXPECT_THAT(metrics, IsOk());
    losses.push_back(metrics->total_loss);
    losses.push_back(metrics->grad_norm);
  }
  return losses;
}

TEST_F(TrainerTest, LearnsAndSaysHowTheExpertsWereUsed) {
  const std::unique_ptr<Trainer> trainer = Make(2);

  const auto before = trainer->Validate();
  while (!trainer->done()) ASSERT_THAT(trainer->Step(), IsOk());
  const auto after = trainer->Validate();

  ASSERT_THAT(before, IsOk());
  ASSERT_THAT(after, IsOk());
  EXPECT_GT(before->bits_per_byte, 7);  // Guessing among 256 is 8.
  EXPECT_LT(after->bits_per_byte, 2.5);
  ASSERT_EQ(after->domains.size(), 2);
  EXPECT_EQ(after->domains[0].name, "code");
  EXPECT_EQ(after->domains[0].tokens, 256);
  // At least one expert a tier for a token that stays, at most k_max = 2 of
  // 4 + 6.
  EXPECT_GT(after->experts.active_share, 0.0);
  EXPECT_LE(after->experts.active_share, 0.4);
  EXPECT_EQ(after->experts.tier_tokens[0], 1.0);
  EXPECT_LE(after->experts.tier_tokens[1], 1.0);
}

TEST_F(TrainerTest, LossesAreBitEqualForAnyNumberOfThreads) {
  const std::vector<double> one = Losses(*Make(1), 5);

  EXPECT_EQ(Losses(*Make(2), 5), one);
  EXPECT_EQ(Losses(*Make(3), 5), one);
}

TEST_F(TrainerTest, AResumedRunGoesOnBitForBit) {
  const std::unique_ptr<Trainer> straight = Make(2);
  Losses(*straight, 5);
  const auto checkpoint = straight->SaveCheckpoint(Runs(), {{"commit", "x"}});
  ASSERT_THAT(checkpoint, IsOk());
  const std::vector<double> want = Losses(*straight, 5);
  const auto want_validation = straight->Validate();

  const std::unique_ptr<Trainer> resumed = Make(1);
  ASSERT_THAT(resumed->Resume(*checkpoint), IsOk());

  EXPECT_EQ(resumed->step(), 5);
  EXPECT_EQ(Losses(*resumed, 5), want);
  EXPECT_EQ(resumed->Validate()->nll, want_validation->nll);
}

TEST_F(TrainerTest, KeepsTheNewestCheckpointsAndFindsTheLast) {
  const std::unique_ptr<Trainer> trainer = Make(2);
  for (int i = 0; i < 3; ++i) {
    Losses(*trainer, 1);
    ASSERT_THAT(trainer->SaveCheckpoint(Runs(), {}), IsOk());
  }

  const auto found = FindCheckpoint(Runs());
  ASSERT_THAT(found, IsOk());
  EXPECT_EQ(*found, Runs() + "/step-000003");
  EXPECT_THAT(FindCheckpoint(Runs() + "/step-000002"), IsOk());
  EXPECT_THAT(FindCheckpoint(Runs() + "/step-000001"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("step-000001")));
}

TEST_F(TrainerTest, RefusesACheckpointOfAnotherModelOrOfOtherData) {
  const std::unique_ptr<Trainer> trainer = Make(2);
  const auto checkpoint = trainer->SaveCheckpoint(Runs(), {});
  ASSERT_THAT(checkpoint, IsOk());

  ModelConfig wider = TinyModel();
  wider.mutable_moe()->set_expert_width(24);
  auto other_model = Trainer::Create(wider, LearningTrain(), &corpus_, 1);
  ASSERT_THAT(other_model, IsOk());
  EXPECT_THAT((*other_model)->Resume(*checkpoint),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("is of another model")));

  Corpus changed = corpus_;
  changed.sha256 = "0";
  auto other_data = Trainer::Create(TinyModel(), LearningTrain(), &changed, 1);
  ASSERT_THAT(other_data, IsOk());
  EXPECT_THAT((*other_data)->Resume(*checkpoint),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("was trained on other data")));
}

TEST_F(TrainerTest, ANanStopsTheRunAtTheOperatorThatMadeItAndChangesNoWeight) {
  const std::unique_ptr<Trainer> trainer = Make(2);
  Losses(*trainer, 1);
  trainer->state().Get("model.layers.1.input_layernorm.weight").as<float>()[3] =
      std::numeric_limits<float>::quiet_NaN();
  const float* weight =
      trainer->state().Get("model.embed_tokens.weight").as<float>();
  const std::vector<float> before(weight, weight + 100);

  EXPECT_THAT(trainer->Step(),
              StatusIs(absl::StatusCode::kOutOfRange,
                       AllOf(HasSubstr("step 2"),
                             HasSubstr("model.layers.1/RmsNorm"))));
  EXPECT_EQ(std::vector<float>(weight, weight + 100), before);
  EXPECT_EQ(trainer->step(), 1);
}

TEST_F(TrainerTest, ConfigsThatDoNotFitAreErrorsWithTheNumbers) {
  TrainConfig train = LearningTrain();
  train.set_seq_len(100000);
  EXPECT_THAT(Trainer::Create(TinyModel(), train, &corpus_, 1),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("train.seq_len is 100000")));
  ModelConfig model = TinyModel();
  model.set_vocab_size(100);
  EXPECT_THAT(Trainer::Create(model, LearningTrain(), &corpus_, 1),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("vocab_size is 100")));
}

TEST_F(TrainerTest, TheCpuRefusesBf16State) {
  TrainConfig train = LearningTrain();
  train.set_state_precision(TrainConfig::BF16);
  EXPECT_THAT(Trainer::Create(TinyModel(), train, &corpus_, /*num_threads=*/1),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("train.state_precision is BF16; the cpu "
                                 "backend trains with FP32 state only")));
}

}  // namespace
}  // namespace strata
