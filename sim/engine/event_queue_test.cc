#include "sim/engine/event_queue.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "core/base/random.h"
#include "core/testing/allocation_counter.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sim/engine/time.h"

namespace strata::sim {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

class Recorder : public EventHandler {
 public:
  void OnEvent(Picoseconds now, uint64_t tag) override {
    seen.emplace_back(now, tag);
  }

  std::vector<std::pair<Picoseconds, uint64_t>> seen;
};

TEST(EventQueueTest, RunsByTimeThenInTheOrderOfScheduling) {
  EventQueue queue;
  Recorder recorder;
  queue.Schedule(5, &recorder, 0);
  queue.Schedule(3, &recorder, 1);
  queue.Schedule(5, &recorder, 2);
  queue.Schedule(3, &recorder, 3);

  queue.Run();

  EXPECT_THAT(recorder.seen,
              ElementsAre(Pair(3, 1), Pair(3, 3), Pair(5, 0), Pair(5, 2)));
  EXPECT_EQ(queue.now(), 5);
  EXPECT_EQ(queue.num_run(), 4);
  EXPECT_TRUE(queue.empty());
}

TEST(EventQueueTest, RunsNothingWhenEmpty) {
  EventQueue queue;

  EXPECT_FALSE(queue.RunNext());
  EXPECT_EQ(queue.now(), 0);
}

TEST(EventQueueTest, RunsUntilATimeAndThatIncluded) {
  EventQueue queue;
  Recorder recorder;
  queue.Schedule(10, &recorder, 0);
  queue.Schedule(11, &recorder, 1);

  queue.RunUntil(9);
  EXPECT_THAT(recorder.seen, IsEmpty());
  EXPECT_EQ(queue.now(), 9);
  queue.RunUntil(10);

  EXPECT_THAT(recorder.seen, ElementsAre(Pair(10, 0)));
  EXPECT_EQ(queue.num_pending(), 1);
}

// Each event schedules another, some at the same time, up to a number.
class Spawner : public EventHandler {
 public:
  Spawner(EventQueue& queue, int64_t limit) : queue_(queue), left_(limit) {}

  void OnEvent(Picoseconds now, uint64_t tag) override {
    // Time never runs backwards, and tags of equal time come in order.
    EXPECT_GE(now, last_time_);
    last_time_ = now;
    if (left_-- > 0) queue_.Schedule(now + random_.UniformInt(3), this, tag);
  }

 private:
  EventQueue& queue_;
  int64_t left_;
  Picoseconds last_time_ = 0;
  Random random_{/*seed=*/7, /*stream=*/0};
};

TEST(EventQueueTest, AllocatesNothingInTheSteadyState) {
  EventQueue queue;
  Spawner spawner(queue, 10000);
  for (int i = 0; i < 100; ++i) queue.Schedule(i, &spawner, i);

  const AllocationCounter allocations;
  queue.Run();

  // The number pending never grows, so the array never does.
  EXPECT_EQ(allocations.count(), 0) << allocations.first_bytes();
}

// Random schedules and runs, against a list that is sorted anew each time.
TEST(EventQueueTest, AgreesWithASortedList) {
  EventQueue queue;
  Recorder recorder;
  std::vector<std::pair<Picoseconds, uint64_t>> model;  // Pending.
  std::vector<std::pair<Picoseconds, uint64_t>> want;   // Run.
  Random random(/*seed=*/1, /*stream=*/0);

  for (uint64_t action = 0; action < 5000; ++action) {
    if (random.UniformInt(5) < 3) {
      const Picoseconds time = queue.now() + random.UniformInt(20);
      queue.Schedule(time, &recorder, action);
      model.emplace_back(time, action);
    } else if (queue.RunNext()) {
      // Tags grow with the order of scheduling, so they break ties.
      const auto first = std::min_element(model.begin(), model.end());
      want.push_back(*first);
      model.erase(first);
    }
  }

  EXPECT_EQ(recorder.seen, want);
  EXPECT_EQ(queue.num_pending(), model.size());
}

}  // namespace
}  // namespace strata::sim
