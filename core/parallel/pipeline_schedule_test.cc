#include "core/parallel/pipeline_schedule.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// "F0 F1 B0": one letter for the kind; F, B, I(nput), W(eight), and F1|B0 for a
// pair; the chunk follows where there are several.
std::string Order(const PipelineSchedule& schedule, int device) {
  std::string text;
  const auto half = [&](char letter, int micro_batch, int chunk) {
    absl::StrAppend(&text, std::string(1, letter), micro_batch);
    if (schedule.num_chunks > 1) absl::StrAppend(&text, ".", chunk);
  };
  for (const PipelineItem& item : schedule.items[device]) {
    if (!text.empty()) text += ' ';
    half("FBIWF"[static_cast<int>(item.kind)], item.micro_batch, item.chunk);
    if (item.kind == PipelineItem::Kind::kForwardBackward) {
      text += '|';
      half('B', item.backward_micro_batch, item.backward_chunk);
    }
  }
  return text;
}

PipelineSchedule Make(PipelineKind kind, int p, int m, int v = 1) {
  const absl::StatusOr<PipelineSchedule> schedule =
      MakePipelineSchedule({kind, p, m, v});
  EXPECT_THAT(schedule, IsOk());
  return *schedule;
}

TEST(PipelineScheduleTest, GPipeRunsAllForwardsBeforeTheFirstBackward) {
  EXPECT_EQ(Order(Make(PipelineKind::kGPipe, 2, 3), 1), "F0 F1 F2 B0 B1 B2");
}

TEST(PipelineScheduleTest, OneForwardOneBackwardFillsThePipelineFirst) {
  const PipelineSchedule schedule = Make(PipelineKind::k1F1B, 3, 4);

  EXPECT_EQ(Order(schedule, 0), "F0 F1 F2 B0 F3 B1 B2 B3");
  EXPECT_EQ(Order(schedule, 1), "F0 F1 B0 F2 B1 F3 B2 B3");
  EXPECT_EQ(Order(schedule, 2), "F0 B0 F1 B1 F2 B2 F3 B3");
}

TEST(PipelineScheduleTest, OneForwardOneBackwardWorksWithFewerMicroBatches) {
  const PipelineSchedule schedule = Make(PipelineKind::k1F1B, 4, 2);

  EXPECT_EQ(Order(schedule, 0), "F0 F1 B0 B1");
  EXPECT_EQ(Order(schedule, 3), "F0 B0 F1 B1");
}

TEST(PipelineScheduleTest, InterleavingTakesAllChunksOfARoundInTurn) {
  // Device 1 of 2: (v - 1) p = 2 forwards ahead of its first backward.
  const PipelineSchedule schedule = Make(PipelineKind::kInterleaved, 2, 4, 2);

  EXPECT_EQ(schedule.num_stages, 4);
  EXPECT_EQ(Order(schedule, 1),
            "F0.0 F1.0 F0.1 B0.1 F1.1 B1.1 F2.0 B0.0 F3.0 B1.0 F2.1 B2.1 F3.1 "
            "B3.1 B2.0 B3.0");
}

TEST(PipelineScheduleTest, ZeroBubbleH1LagsOneWeightGradientADevice) {
  const PipelineSchedule schedule = Make(PipelineKind::kZbH1, 2, 3);

  EXPECT_EQ(Order(schedule, 0), "F0 F1 I0 W0 F2 I1 W1 I2 W2");
  EXPECT_EQ(Order(schedule, 1), "F0 I0 F1 I1 W0 F2 I2 W1 W2");
}

TEST(PipelineScheduleTest, ZeroBubble1pFillsWaitsThatAWeightGradientFits) {
  // Device 0 waits for the second input gradient 100 longer than the first
  // weight gradient takes; device 1 never waits before its end.
  PipelineShape shape = {PipelineKind::kZb1p, 2, 3};
  shape.forward = 100;
  shape.input_grad = 100;
  shape.weight_grad = 100;

  const absl::StatusOr<PipelineSchedule> schedule = MakePipelineSchedule(shape);

  ASSERT_THAT(schedule, IsOk());
  EXPECT_EQ(Order(*schedule, 0), "F0 F1 I0 W0 F2 I1 W1 I2 W2");
  EXPECT_EQ(Order(*schedule, 1), "F0 I0 F1 I1 W0 F2 I2 W1 W2");
}

TEST(PipelineScheduleTest, DualPipeFeedsBothEndsAndPairsWhatMeets) {
  // Two devices, two micro-batches from either side. Both stand in the middle.
  const PipelineSchedule schedule = Make(PipelineKind::kDualPipe, 2, 4);

  EXPECT_EQ(schedule.num_stages, 2);
  EXPECT_EQ(Order(schedule, 0), "F0.0 F2.1 F1.0 B2.1 F3.1|B0.0 B3.1 I1.0 W1.0");
  EXPECT_EQ(Order(schedule, 1), "F2.1 F0.0 F3.1 B0.0 F1.0|B2.1 B1.0 I3.1 W3.1");
}

TEST(PipelineScheduleTest, PlacesInvertStages) {
  for (const PipelineSchedule& schedule :
       {Make(PipelineKind::k1F1B, 3, 6),
        Make(PipelineKind::kInterleaved, 3, 6, 2),
        Make(PipelineKind::kDualPipe, 4, 8),
        Make(PipelineKind::kDualPipeV, 3, 6)}) {
    for (int i = 0; i < schedule.num_micro_batches; ++i) {
      for (int stage = 0; stage < schedule.num_stages; ++stage) {
        const StagePlace place = schedule.PlaceOf(stage, i);
        EXPECT_EQ(schedule.StageOf(place.device, place.chunk), stage);
      }
    }
  }
}

TEST(PipelineScheduleTest, NamesAreReadBack) {
  for (const char* name : {"gpipe", "1f1b", "interleaved", "zb-h1", "zb1p",
                           "dualpipe", "dualpipev"}) {
    const absl::StatusOr<PipelineKind> kind = ParsePipelineKind(name);
    ASSERT_THAT(kind, IsOk());
    EXPECT_EQ(Name(*kind), name);
  }
  EXPECT_THAT(ParsePipelineKind("2f2b"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("\"2f2b\""), HasSubstr("dualpipev"))));
}

TEST(PipelineScheduleTest, RejectsWhatDoesNotExist) {
  struct Case {
    PipelineShape shape;
    std::string message;
  };
  for (const Case& c : std::vector<Case>{
           {{PipelineKind::k1F1B, 0, 4}, "0 devices; want at least 1"},
           {{PipelineKind::k1F1B, 4, 0}, "0 micro-batches; want at least 1"},
           {{PipelineKind::k1F1B, 4, 8, 0}, "0 chunks a device"},
           {{PipelineKind::k1F1B, 4, 8, 2}, "2 chunks a device; want 1"},
           {{PipelineKind::kInterleaved, 4, 8, 1}, "want at least 2"},
           {{PipelineKind::kInterleaved, 4, 6, 2},
            "6 micro-batches; want a multiple of its 4 devices"},
           {{PipelineKind::kDualPipe, 3, 8}, "3 devices; want an even number"},
           {{PipelineKind::kDualPipe, 4, 9}, "9 micro-batches; want an even"},
           {{PipelineKind::kDualPipe, 4, 6}, "want at least twice"},
           {{PipelineKind::kDualPipe, 4, 8, 3}, "3 chunks a device; want 2"},
           {{PipelineKind::kDualPipeV, 4, 7}, "want at least twice"},
           {{PipelineKind::k1F1B, 1 << 20, 1 << 20}, "too many items"},
           {{PipelineKind::kZb1p, 4, 8, 1, -1, 1, 1}, "-1 as a duration"},
           {{PipelineKind::kZb1p, 4, 8, 1, int64_t{1} << 55, 1, 1},
            "as a duration; want 0 to"}}) {
    EXPECT_THAT(
        MakePipelineSchedule(c.shape),
        StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(c.message)));
  }
  // Ten seconds, in picoseconds, are no reason to refuse.
  constexpr int64_t kTenSeconds = 10'000'000'000'000;
  EXPECT_THAT(MakePipelineSchedule({PipelineKind::kZb1p, 16, 512, 1,
                                    kTenSeconds, kTenSeconds, kTenSeconds}),
              IsOk());
}

}  // namespace
}  // namespace strata
