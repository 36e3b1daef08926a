#include "core/parallel/traffic_meter.h"

#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/parallel/communicator.h"
#include "core/parallel/thread_communicator.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Key;

TEST(TrafficMeterTest, CountsWhatLeavesTheRankByGroup) {
  const auto ranks = ThreadCommunicators(4, absl::Seconds(60));
  std::vector<std::thread> threads;
  for (const auto& rank : ranks) {
    threads.emplace_back([rank = rank.get()] {
      TrafficMeter meter;
      const auto world = WithTraffic(*rank, meter);
      std::vector<float> data(8, 1);
      ASSERT_THAT(
          world->AllReduce(PayloadOf(absl::MakeSpan(data)), ReduceOp::kSum),
          IsOk());
      EXPECT_EQ(data[0], 4);
      const auto pair = world->Split(rank->rank() / 2, rank->rank(), "pair");
      ASSERT_THAT(pair, IsOk());
      // To rank 0 of the pair 3 elements, to rank 1 one.
      std::vector<double> rows(4), got((*pair)->rank() == 0 ? 6 : 2);
      const int64_t each = (*pair)->rank() == 0 ? 3 : 1;
      ASSERT_THAT(
          (*pair)->AllToAll(PayloadOf(absl::MakeSpan(rows)), {3, 1},
                            {each, each}, PayloadOf(absl::MakeSpan(got))),
          IsOk());
      const auto alone = world->Split(rank->rank(), 0, "alone");
      ASSERT_THAT(alone, IsOk());
      ASSERT_THAT((*alone)->Broadcast(PayloadOf(absl::MakeSpan(data)), 0),
                  IsOk());

      EXPECT_THAT(meter.traffic(), ElementsAre(Key("pair"), Key("world")));
      // 2 * 3 / 4 of 32 bytes, in 2 * 3 steps.
      const Traffic& sum = meter.traffic().at("world");
      EXPECT_EQ(sum.calls, 1);
      EXPECT_EQ(sum.steps, 6);
      EXPECT_EQ(sum.bytes, 48);
      const Traffic& exchange = meter.traffic().at("pair");
      EXPECT_EQ(exchange.steps, 1);
      EXPECT_EQ(exchange.bytes, ((*pair)->rank() == 0 ? 1 : 3) * 8);
      meter.Reset();
      EXPECT_THAT(meter.traffic(), IsEmpty());
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace strata
