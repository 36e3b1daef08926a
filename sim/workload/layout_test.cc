#include "sim/workload/layout.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/model/config.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata::sim {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(LayoutTest, ReadsItsWordsAndPrintsThemAgain) {
  const std::string text =
      "tp2,cp4,pp16,ep64,vp3,mbs2,gbs15360,seq8192,zero3,mtp1,sp,fp8,fp8d,"
      "act8,deepep,epo,ptb,ppb,grad16,mom16,w16,loss32,ebias,recompute=torch";

  const absl::StatusOr<Layout> layout = ParseLayout(text);

  ASSERT_THAT(layout, IsOk());
  EXPECT_EQ(layout->tensor, 2);
  EXPECT_EQ(layout->context, 4);
  EXPECT_EQ(layout->expert, 64);
  EXPECT_EQ(layout->global_batch, 15360);
  EXPECT_TRUE(layout->sequence_parallel);
  EXPECT_FALSE(layout->overlap_tensor);
  EXPECT_TRUE(layout->fp8_dispatch);
  EXPECT_FALSE(layout->sequential_data);
  EXPECT_EQ(layout->recompute, Recompute::kTorch);
  EXPECT_EQ(ToString(*layout), text);
}

TEST(LayoutTest, RejectsWhatIsNoWord) {
  struct Case {
    const char* text;
    const char* message;
  };
  for (const Case& c : std::vector<Case>{
           {"pp4,xx2", "no word \"xx2\""},
           {"pp0", "\"pp0\"; want pp1 to pp1048576"},
           {"pp-1", "want pp1"},
           {"pp", "want pp1"},
           {"pp4x", "want pp1"},
           {"pp99999999999999999999", "want pp1"},
           {"zero4", "want zero0 to zero3"},
           {"pp2,pp4", "pp is given twice"},
           {"fp8,bf16", "precision is given twice"},
           {"recompute=some", "want none, selective, moe, full or torch"}}) {
    EXPECT_THAT(
        ParseLayout(c.text),
        StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(c.message)))
        << c.text;
  }
}

absl::StatusOr<Layout> For(const char* text, PipelineKind schedule,
                           int64_t ranks, const char* model = "deepseek-v3") {
  return LayoutFor(*ParseLayout(text), *ModelPreset(model), schedule, ranks);
}

TEST(LayoutTest, FillsInDataParallelRanksAndBatch) {
  const absl::StatusOr<Layout> layout =
      For("pp16,ep64", PipelineKind::k1F1B, 2048);

  ASSERT_THAT(layout, IsOk());
  EXPECT_EQ(layout->data, 128);
  EXPECT_EQ(layout->global_batch, 128);
  EXPECT_EQ(layout->MicroBatches(), 1);
  EXPECT_EQ(layout->ExpertData(), 2);
}

TEST(LayoutTest, RejectsWhatDoesNotDivide) {
  struct Case {
    const char* text;
    PipelineKind schedule;
    const char* message;
  };
  for (const Case& c : std::vector<Case>{
           {"pp3", PipelineKind::k1F1B, "number of GPUs, 64, does not divide"},
           {"pp2,dp8", PipelineKind::k1F1B, "are 16 GPUs; the cluster has 64"},
           {"pp2,ep64", PipelineKind::k1F1B, "tp cp dp, 32, does not divide"},
           {"pp2,ep32,gbs48", PipelineKind::k1F1B, "gbs, 48, does not divide"},
           {"cp32,seq4100", PipelineKind::k1F1B, "seq, 4100, does not divide"},
           {"pp64", PipelineKind::k1F1B, "64 stages for 61 layers"},
           {"pp4,gbs96", PipelineKind::kDualPipe, "want at least twice"},
           {"pp4,vp4,gbs96", PipelineKind::kInterleaved, "a multiple of"}}) {
    EXPECT_THAT(
        For(c.text, c.schedule, 64),
        StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(c.message)))
        << c.text;
  }
  EXPECT_THAT(For("ep2", PipelineKind::k1F1B, 8, "demo"), IsOk());
  EXPECT_THAT(For("tp8", PipelineKind::k1F1B, 8, "demo"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("num_heads, 4, does not divide by tp, 8")));
}

TEST(LayoutTest, LayersThatAreMissingAreMissingAtTheEnds) {
  EXPECT_THAT(LayersOfStages(8, 4), ElementsAre(2, 2, 2, 2));
  EXPECT_THAT(LayersOfStages(7, 4), ElementsAre(2, 2, 2, 1));
  EXPECT_THAT(LayersOfStages(6, 4), ElementsAre(1, 2, 2, 1));
  EXPECT_THAT(LayersOfStages(5, 4), ElementsAre(1, 2, 1, 1));
  EXPECT_THAT(LayersOfStages(2, 4), ElementsAre(0, 1, 1, 0));
}

}  // namespace
}  // namespace strata::sim
