// Cold start, redundancy and routing time of a tiny model.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/model/sibling.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/scorecard/cold_start.h"
#include "tools/scorecard/redundancy.h"
#include "tools/scorecard/routing_time.h"
#include "tools/scorecard/tiny_study.h"
#include "training/data/corpus.h"
#include "training/trainer.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Ge;
using ::testing::Gt;
using ::testing::HasSubstr;
using ::testing::Le;
using ::testing::SizeIs;

TEST(ColdStartTest, CountsStepsBeforeFiveInARow) {
  ColdStart cold;
  cold.max_steps = 8;
  cold.load = {{0, 0, 0.5, 0.5, 0.5, 0.5, 0.5, 0},  // From the third on.
               {1, 1, 1, 1, 1, 1, 1, 1},            // Never forgotten.
               {0, 1, 1, 1, 1, 0.4, 1, 1}};         // Four and two in a row.

  EXPECT_THAT(cold.Steps(), ElementsAre(2, 0, 8));
  EXPECT_DOUBLE_EQ(cold.MeanSteps(), 10.0 / 3);
}

class ProbeTest : public ::testing::Test {
 protected:
  ProbeTest() { train_.set_batch_size(4); }

  std::unique_ptr<Trainer> Make(const ModelConfig& model) {
    auto trainer = Trainer::Create(model, train_, &corpus_, /*num_threads=*/1);
    EXPECT_THAT(trainer, IsOk());
    return *std::move(trainer);
  }

  ModelConfig model_ = TinyModel();
  TrainConfig train_ = TinyTraining();
  Corpus corpus_ = TinyCorpus();
};

TEST_F(ProbeTest, ForgetsTheLastExpertsRouterAndLoadHistory) {
  const auto trainer = Make(model_);
  ASSERT_THAT(trainer->Step(), IsOk());

  const auto none = MeasureColdStart(*trainer, 0, [] { return false; });

  ASSERT_THAT(none, IsOk());
  const std::string gate = "model.layers.0.mlp.tier.1.gate.";
  for (const char* name : {"key.weight", "expert.weight", "bias", "load_ema"}) {
    const TensorView view = trainer->state().Get(gate + name);
    const int64_t row = view.num_elements() / view.dim(0);
    const auto values = view.span<float>();
    EXPECT_THAT(std::vector<float>(values.end() - row, values.end()),
                Each(0.0f))
        << name;
    EXPECT_NE(values[0], 0) << name;
  }
}

TEST_F(ProbeTest, FollowsTheForgottenExpertOfEachGate) {
  for (const ModelConfig& model : {model_, FlatSibling(model_, 10)}) {
    const auto trainer = Make(model);

    const auto cold = MeasureColdStart(*trainer, 3, [] { return false; });

    ASSERT_THAT(cold, IsOk());
    EXPECT_EQ(trainer->step(), 3);
    EXPECT_EQ(cold->load.size(), model.moe().has_flat() ? 1u : 2u);
    EXPECT_THAT(cold->load, Each(SizeIs(3)));
    EXPECT_THAT(cold->load, Each(Each(Ge(0.0))));
    EXPECT_THAT(cold->Steps(), Each(Le(3)));
  }
}

TEST_F(ProbeTest, StopsBetweenSteps) {
  EXPECT_THAT(MeasureColdStart(*Make(model_), 3, [] { return true; }),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("stopped")));
}

TEST_F(ProbeTest, RedundancyIsAMeanOfCkaAndRepeats) {
  RedundancyOptions options;
  options.rows = 24;
  options.pairs_per_gate = 20;
  options.max_batches = 16;
  for (const ModelConfig& model : {model_, FlatSibling(model_, 10)}) {
    const auto trainer = Make(model);

    const auto first = MeasureRedundancy(*trainer, corpus_, options);
    const auto second = MeasureRedundancy(*trainer, corpus_, options);

    ASSERT_THAT(first, IsOk());
    EXPECT_THAT(first->num_pairs, AllOf(Gt(0), Le(40)));
    EXPECT_THAT(first->cka, AllOf(Gt(0.0), Le(1.0)));
    ASSERT_THAT(second, IsOk());
    EXPECT_EQ(second->cka, first->cka);
  }
}

TEST_F(ProbeTest, RedundancyLeavesOutPairsThatTooFewTokensChose) {
  RedundancyOptions options;
  options.rows = 10000;
  options.max_batches = 1;

  const auto none = MeasureRedundancy(*Make(model_), corpus_, options);

  ASSERT_THAT(none, IsOk());
  EXPECT_EQ(none->num_pairs, 0);
  EXPECT_EQ(none->cka, 0);
}

TEST_F(ProbeTest, RoutingTimeIsOneNumberARepeat) {
  for (const ModelConfig& model : {model_, FlatSibling(model_, 10)}) {
    const auto ms = RoutingMilliseconds(model, /*num_tokens=*/32, 3);

    ASSERT_THAT(ms, IsOk());
    EXPECT_THAT(*ms, SizeIs(3));
    EXPECT_THAT(*ms, Each(Gt(0.0)));
  }
}

}  // namespace
}  // namespace strata
