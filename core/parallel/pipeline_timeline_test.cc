#include "core/parallel/pipeline_timeline.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/random.h"
#include "core/parallel/pipeline_schedule.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

PipelineShape Shape(PipelineKind kind, int p, int m, const EvenDurations& t,
                    int v = 1) {
  return {kind, p, m, v, t.forward, t.input_grad, t.weight_grad};
}

PipelineTimeline Timeline(const PipelineShape& shape,
                          const PipelineCosts& costs) {
  const absl::StatusOr<PipelineSchedule> schedule = MakePipelineSchedule(shape);
  EXPECT_THAT(schedule, IsOk());
  absl::StatusOr<PipelineTimeline> timeline = RunPipeline(*schedule, costs);
  EXPECT_THAT(timeline, IsOk());
  return *std::move(timeline);
}

double MaxPeak(const PipelineTimeline& timeline) {
  return *std::max_element(timeline.peak_activations.begin(),
                           timeline.peak_activations.end());
}

// Durations in which the pair is what its halves take.
EvenDurations Times(int64_t forward, int64_t input_grad, int64_t weight_grad) {
  return {forward, input_grad, weight_grad, forward + input_grad + weight_grad};
}

const std::vector<EvenDurations>& SomeTimes() {
  static const auto* times = new std::vector<EvenDurations>{
      Times(1, 1, 1), Times(100, 120, 80), Times(100, 300, 100),
      Times(50, 80, 50), Times(7, 11, 3)};
  return *times;
}

TEST(PipelineTimelineTest, FourDevicesAndEightMicroBatchesTake3300) {
  // m (F + B) = 8 * 300 and (p - 1)(F + B) = 3 * 300.
  const EvenDurations t = Times(100, 100, 100);

  const PipelineTimeline timeline =
      Timeline(Shape(PipelineKind::k1F1B, 4, 8, t), EvenCosts(t));

  EXPECT_EQ(timeline.total, 3300);
  EXPECT_THAT(timeline.busy, Each(2400));
  EXPECT_EQ(timeline.Idle(0), 900);
}

TEST(PipelineTimelineTest, TransfersOnTheCriticalPathAddUp) {
  // In nanoseconds: 3 hops there and 3 back, and in the steady state, for each
  // of the 5 further micro-batches, one hop to a neighbour and one back.
  const EvenDurations t = Times(100'000, 100'000, 100'000);

  const PipelineTimeline timeline =
      Timeline(Shape(PipelineKind::k1F1B, 4, 8, t), EvenCosts(t, 500));

  EXPECT_EQ(timeline.total, 3'300'000 + 16 * 500);
}

TEST(PipelineTimelineTest, GPipeAnd1F1BIdleAsPublished) {
  for (const PipelineKind kind : {PipelineKind::kGPipe, PipelineKind::k1F1B}) {
    for (const EvenDurations& t : SomeTimes()) {
      for (int p = 1; p <= 9; ++p) {
        for (const int m : {1, 2, p, p + 1, 3 * p - 1}) {
          const PipelineTimeline timeline =
              Timeline(Shape(kind, p, m, t), EvenCosts(t));
          const int64_t both = t.forward + t.input_grad + t.weight_grad;
          EXPECT_EQ(timeline.total, m * both + (p - 1) * both)
              << Name(kind) << " p " << p << " m " << m;
          EXPECT_EQ(MaxPeak(timeline),
                    kind == PipelineKind::kGPipe ? m : std::min(p, m));
        }
      }
    }
  }
}

TEST(PipelineTimelineTest, InterleavingDividesTheBubbleByItsChunks) {
  for (const EvenDurations& t : SomeTimes()) {
    for (int p = 1; p <= 6; ++p) {
      for (int v = 2; v <= 5; ++v) {
        for (const int rounds : {1, 2, 5}) {
          const int m = rounds * p;
          const PipelineTimeline timeline = Timeline(
              Shape(PipelineKind::kInterleaved, p, m, t, v), EvenCosts(t));
          // The durations are a chunk's.
          const int64_t both = t.forward + t.input_grad + t.weight_grad;
          EXPECT_EQ(timeline.total, int64_t{m} * v * both + (p - 1) * both)
              << "p " << p << " m " << m << " v " << v;
          // In chunks: p v (1 + (p - 1) / (p v)); one round holds no more than
          // it has.
          EXPECT_EQ(MaxPeak(timeline), std::min(p * v + p - 1, m * v));
        }
      }
    }
  }
}

TEST(PipelineTimelineTest, ZeroBubblesIdleAsPublished) {
  for (const PipelineKind kind : {PipelineKind::kZbH1, PipelineKind::kZb1p}) {
    for (const EvenDurations& t : SomeTimes()) {  // All with F, I >= W.
      for (int p = 1; p <= 9; ++p) {
        for (const int m : {p, p + 1, 2 * p, 3 * p + 2}) {
          const PipelineTimeline timeline =
              Timeline(Shape(kind, p, m, t), EvenCosts(t));
          EXPECT_EQ(timeline.total,
                    m * (t.forward + t.input_grad + t.weight_grad) +
                        (p - 1) * (t.forward + t.input_grad - t.weight_grad))
              << Name(kind) << " p " << p << " m " << m << " F " << t.forward;
          EXPECT_EQ(MaxPeak(timeline), p);
        }
      }
    }
  }
}

TEST(PipelineTimelineTest, ZeroBubbleCannotBeatTheFillOfTheLastDevice) {
  // With I < W the published bubble is below (p - 1) F, which the last device
  // idles before its first item whatever the order.
  const EvenDurations t = Times(100, 80, 120);
  for (const PipelineKind kind : {PipelineKind::kZbH1, PipelineKind::kZb1p}) {
    EXPECT_EQ(Timeline(Shape(kind, 4, 8, t), EvenCosts(t)).total,
              8 * 300 + 3 * 100);
  }
}

// The longest idle time over devices. Where the pair takes less than its
// halves, devices that pair less are busy longer.
int64_t MaxIdle(const PipelineTimeline& timeline) {
  int64_t idle = 0;
  for (size_t d = 0; d < timeline.busy.size(); ++d) {
    idle = std::max(idle, timeline.Idle(d));
  }
  return idle;
}

TEST(PipelineTimelineTest, DualPipesIdleAsPublished) {
  std::vector<EvenDurations> times = {Times(1, 1, 1), Times(100, 100, 80),
                                      Times(100, 100, 50)};
  times.push_back({100, 100, 100, 250});  // The overlap saves a sixth.
  times.push_back({100, 100, 90, 260});
  for (const EvenDurations& t : times) {
    const int64_t backward = t.input_grad + t.weight_grad;
    const int64_t bubble = t.forward_backward + backward - 3 * t.weight_grad;
    for (int half = 1; half <= 8; ++half) {
      const int p = 2 * half;
      for (const int m : {2 * p, 2 * p + 2, 5 * p}) {
        const PipelineTimeline dual =
            Timeline(Shape(PipelineKind::kDualPipe, p, m, t), EvenCosts(t));
        EXPECT_EQ(MaxIdle(dual), (half - 1) * bubble)
            << "p " << p << " m " << m;
        EXPECT_THAT(dual.peak_activations, Each(p + 1));
        const PipelineTimeline folded =
            Timeline(Shape(PipelineKind::kDualPipeV, half, m, t), EvenCosts(t));
        EXPECT_EQ(MaxIdle(folded), (half - 1) * bubble)
            << "p " << half << " m " << m;
        EXPECT_THAT(folded.peak_activations, Each(p + 1));
        if (t.forward_backward != t.forward + backward) continue;
        // Each device of a dual pipe runs m stages, of a folded one 2 m.
        EXPECT_EQ(dual.total, m * t.forward_backward + (half - 1) * bubble);
        EXPECT_EQ(folded.total,
                  2 * m * t.forward_backward + (half - 1) * bubble);
      }
    }
  }
}

TEST(PipelineTimelineTest, ASlowDeviceSetsThePace) {
  // Device 1 takes 2 F + 2 B = 6 a micro-batch. It waits 1 for its first and
  // is followed by device 0's last backward, 2.
  PipelineCosts costs;
  costs.duration = [](int device, const PipelineItem& item) -> int64_t {
    const int64_t even = item.kind == PipelineItem::Kind::kForward ? 1 : 2;
    return device == 1 ? 2 * even : even;
  };

  const PipelineTimeline timeline =
      Timeline({PipelineKind::k1F1B, 2, 10, 1}, costs);

  EXPECT_EQ(timeline.total, 1 + 10 * 6 + 2);
  EXPECT_EQ(timeline.busy, (std::vector<int64_t>{30, 60}));
}

TEST(PipelineTimelineTest, ActivationsThatWaitForWeightGradientsCountByShare) {
  // Device 1 of 2 holds one micro-batch and, lagging one weight gradient
  // behind, a half of another.
  const EvenDurations t = Times(1, 1, 1);
  PipelineCosts costs = EvenCosts(t);
  costs.held_for_weight_grad = 0.5;

  const PipelineTimeline timeline =
      Timeline(Shape(PipelineKind::kZbH1, 2, 6, t), costs);

  EXPECT_EQ(timeline.peak_activations, (std::vector<double>{2, 1.5}));
}

TEST(PipelineTimelineTest, TheCriticalPathHasNoGaps) {
  Random random(7, 0);
  for (const PipelineKind kind :
       {PipelineKind::kGPipe, PipelineKind::k1F1B, PipelineKind::kZbH1,
        PipelineKind::kDualPipe, PipelineKind::kDualPipeV}) {
    PipelineCosts costs;
    costs.duration = [&](int, const PipelineItem&) {
      return static_cast<int64_t>(random.UniformInt(100));
    };
    const PipelineTimeline timeline = Timeline({kind, 4, 12, 1}, costs);

    int64_t time = 0;
    for (const TimelineCause& at : timeline.CriticalPath()) {
      const TimelineItem& item = timeline.items[at.device][at.index];
      EXPECT_EQ(item.start, time);
      time = item.end;
    }
    EXPECT_EQ(time, timeline.total);
    // No device does two things at once, and none goes back in time.
    for (const std::vector<TimelineItem>& items : timeline.items) {
      int64_t free = 0;
      for (const TimelineItem& item : items) {
        EXPECT_GE(item.start, free);
        EXPECT_GE(item.end, item.start);
        free = item.end;
      }
    }
  }
}

TEST(PipelineTimelineTest, FasterDevicesNeverTakeLonger) {
  Random random(11, 0);
  const absl::StatusOr<PipelineSchedule> schedule =
      MakePipelineSchedule({PipelineKind::kInterleaved, 4, 8, 3});
  ASSERT_THAT(schedule, IsOk());
  for (int trial = 0; trial < 50; ++trial) {
    std::vector<int64_t> pace;
    for (int d = 0; d < 4; ++d) pace.push_back(1 + random.UniformInt(20));
    const auto total = [&] {
      PipelineCosts costs;
      costs.duration = [&](int device, const PipelineItem&) {
        return pace[device];
      };
      return RunPipeline(*schedule, costs)->total;
    };
    const int64_t before = total();
    pace[random.UniformInt(4)] -= 1;
    EXPECT_LE(total(), before);
  }
}

using Kind = PipelineItem::Kind;

// Two devices, two micro-batches.
PipelineSchedule Small() {
  return *MakePipelineSchedule({PipelineKind::k1F1B, 2, 2, 1});
}

TEST(PipelineTimelineTest, AStandstillNamesItsItems) {
  PipelineSchedule schedule = Small();
  // Device 0 wants the first backward before it has sent the forward.
  std::swap(schedule.items[0][0], schedule.items[0][2]);

  EXPECT_THAT(
      RunPipeline(schedule, EvenCosts({})),
      StatusIs(
          absl::StatusCode::kInvalidArgument,
          AllOf(HasSubstr("stands still"),
                HasSubstr("device 0 at its item 0, the backward of micro-batch "
                          "0, chunk 0, waits for the forward of micro-batch 0 "
                          "at stage 0"),
                HasSubstr("device 1 at its item 0, the forward of micro-batch "
                          "0, chunk 0, waits for the forward of micro-batch 0 "
                          "at stage 0"))));
}

TEST(PipelineTimelineTest, RejectsSchedulesThatAreNotWhole) {
  PipelineSchedule lacking = Small();
  lacking.items[1].pop_back();
  EXPECT_THAT(RunPipeline(lacking, EvenCosts({})),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("micro-batch 1 lacks its input gradient at "
                                 "stage 1")));

  PipelineSchedule twice = Small();
  twice.items[1].push_back(twice.items[1].back());
  EXPECT_THAT(RunPipeline(twice, EvenCosts({})),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("twice")));

  PipelineSchedule astray = Small();
  astray.items[0][0].micro_batch = 2;
  EXPECT_THAT(RunPipeline(astray, EvenCosts({})),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("does not pass there")));

  PipelineSchedule short_of_devices = Small();
  short_of_devices.items.pop_back();
  EXPECT_THAT(
      RunPipeline(short_of_devices, EvenCosts({})),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("items of 1")));
}

TEST(PipelineTimelineTest, RejectsDurationsThatTimeCannotHold) {
  for (const int64_t duration : {int64_t{-1}, int64_t{1} << 62}) {
    EXPECT_THAT(RunPipeline(Small(), EvenCosts({duration, 1, 1, 1})),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr("forward of micro-batch 0")));
  }
}

}  // namespace
}  // namespace strata
