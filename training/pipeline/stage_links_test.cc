#include "training/pipeline/stage_links.h"

#include <functional>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/parallel/communicator.h"
#include "core/parallel/pipeline_schedule.h"
#include "core/parallel/thread_communicator.h"
#include "core/testing/status_matchers.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

// Calls `body` as both ranks of a pipeline of that kind.
void OnTwoRanks(PipelineKind kind,
                const std::function<void(int rank, const StageLinks&)>& body) {
  PipelineShape shape;
  shape.kind = kind;
  shape.num_devices = 2;
  shape.num_micro_batches = 4;
  shape.num_chunks = kind == PipelineKind::k1F1B ? 1 : 2;
  const auto schedule = MakePipelineSchedule(shape);
  ASSERT_THAT(schedule, IsOk());
  const auto world = ThreadCommunicators(2, absl::Seconds(60));
  std::vector<std::thread> threads;
  for (const auto& rank : world) {
    threads.emplace_back([&, rank = rank.get()] {
      const auto links = StageLinks::Create(*schedule, *rank);
      ASSERT_THAT(links, IsOk());
      body(rank->rank(), **links);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

void Send(const StageLink& link, float value) {
  EXPECT_THAT(link.group->Send(PayloadOf(absl::MakeSpan(&value, 1)), link.rank),
              IsOk());
}

float Receive(const StageLink& link) {
  float value = 0;
  EXPECT_THAT(
      link.group->Receive(PayloadOf(absl::MakeSpan(&value, 1)), link.rank),
      IsOk());
  return value;
}

// Of stages 0 1 2 3 the first rank has 0 and 2. What stages 0 and 2 send to
// stage 3, and 2 to 1 (a gradient), is received in another order.
TEST(StageLinksTest, StreamsOfTwoRanksDoNotMeet) {
  OnTwoRanks(PipelineKind::kInterleaved, [](int rank, const StageLinks& links) {
    if (rank == 0) {
      for (int m = 0; m < 2; ++m) Send(links.To(3, m, /*chunk=*/0), 10.f + m);
      for (int m = 0; m < 2; ++m) Send(links.To(3, m, /*chunk=*/1), 20.f + m);
      Send(links.To(1, 0, /*chunk=*/1), 30);
      return;
    }
    EXPECT_EQ(Receive(links.From(2, 0, /*chunk=*/0)), 30);
    for (int m = 0; m < 2; ++m) {
      EXPECT_EQ(Receive(links.From(2, m, /*chunk=*/1)), 20.f + m);
      EXPECT_EQ(Receive(links.From(0, m, /*chunk=*/1)), 10.f + m);
    }
  });
}

// The second half of the micro-batches goes the other way: from the second
// rank's chunk 1, stage 0, to the first one's.
TEST(StageLinksTest, DualPipeHasTwoWays) {
  OnTwoRanks(PipelineKind::kDualPipe, [](int rank, const StageLinks& links) {
    if (rank == 0) {
      Send(links.To(1, 0, /*chunk=*/0), 1);
      Send(links.To(0, 2, /*chunk=*/1), 2);
      return;
    }
    EXPECT_EQ(Receive(links.From(1, 2, /*chunk=*/1)), 2);
    EXPECT_EQ(Receive(links.From(0, 0, /*chunk=*/0)), 1);
  });
}

// Stages 1 and 2 of DualPipeV are on the second rank.
TEST(StageLinksTest, ARankMaySendToItself) {
  OnTwoRanks(PipelineKind::kDualPipeV, [](int rank, const StageLinks& links) {
    if (rank == 0) return;
    Send(links.To(2, 0, /*chunk=*/0), 1);
    Send(links.To(1, 0, /*chunk=*/1), 2);
    EXPECT_EQ(Receive(links.From(2, 0, /*chunk=*/0)), 2);
    EXPECT_EQ(Receive(links.From(1, 0, /*chunk=*/1)), 1);
  });
}

TEST(StageLinksTest, OneStageARankNeedsNoOtherGroup) {
  OnTwoRanks(PipelineKind::k1F1B, [](int rank, const StageLinks& links) {
    const StageLink link = links.To(1 - rank, 0, /*chunk=*/0);
    EXPECT_EQ(link.rank, 1 - rank);
    EXPECT_EQ(link.group, links.From(1 - rank, 3, /*chunk=*/0).group);
  });
}

}  // namespace
}  // namespace strata
