#include "core/base/thread_pool.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace {
std::atomic<int64_t> num_allocations{0};
}  // namespace

// Counts every allocation of the program. Not inlined, or the compiler takes
// malloc and free for a mismatch with new and delete.
__attribute__((noinline)) void* operator new(size_t size) {
  num_allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
__attribute__((noinline)) void operator delete(void* memory) noexcept {
  std::free(memory);
}
__attribute__((noinline)) void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}

namespace strata {
namespace {

using ::testing::Each;
using ::testing::TestWithParam;
using ::testing::Values;

TEST(NumUsableCoresTest, IsAtLeastOne) { EXPECT_GE(NumUsableCores(), 1); }

class ThreadPoolTest : public TestWithParam<int> {
 protected:
  ThreadPool pool_{GetParam()};
};

TEST_P(ThreadPoolTest, HasTheThreadsItWasAskedFor) {
  EXPECT_EQ(pool_.num_threads(), GetParam());
}

TEST_P(ThreadPoolTest, RunsEachIndexOnce) {
  for (const int64_t n : {-1, 0, 1, 2, 3, 7, 64, 1000}) {
    std::vector<int> count(n > 0 ? n : 0);  // [n]

    pool_.ParallelFor(n, [&](int64_t i) { ++count[i]; });

    EXPECT_THAT(count, Each(1)) << n;
  }
}

TEST_P(ThreadPoolTest, GivesAWorkerToOneIndexAtATime) {
  std::vector<std::atomic<int>> inside(GetParam());  // [worker]
  std::atomic<int> num_wrong{0};

  pool_.ParallelFor(2000, [&](int64_t i, int worker) {
    if (worker < 0 || worker >= GetParam()) {
      ++num_wrong;
      return;
    }
    if (++inside[worker] != 1) ++num_wrong;
    --inside[worker];
  });

  EXPECT_EQ(num_wrong, 0);
}

TEST_P(ThreadPoolTest, RunsNestedLoopsInlineAsTheSameWorker) {
  std::vector<int> sum(50);  // [outer index]
  std::atomic<int> num_moved{0};

  pool_.ParallelFor(50, [&](int64_t i, int worker) {
    const std::thread::id outer_thread = std::this_thread::get_id();
    pool_.ParallelFor(20, [&](int64_t j, int inner_worker) {
      if (inner_worker != worker ||
          std::this_thread::get_id() != outer_thread) {
        ++num_moved;
      }
      sum[i] += j;
    });
  });

  EXPECT_EQ(num_moved, 0);
  EXPECT_THAT(sum, Each(190));  // 0 + 1 + ... + 19.
}

TEST_P(ThreadPoolTest, ShowsTheCallerWhatEachOfManySmallJobsWrote) {
  std::vector<int64_t> value(5, 0);
  for (int64_t job = 1; job <= 70000; ++job) {  // Past a wrap of the epoch.
    pool_.ParallelFor(5, [&](int64_t i) { value[i] += i * job; });
  }
  // The sum of 1 to 70000 is 2450035000.
  for (int64_t i = 0; i < 5; ++i) EXPECT_EQ(value[i], i * 2450035000);
}

TEST_P(ThreadPoolTest, WakesWorkersThatSleep) {
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::atomic<int64_t> sum{0};
    pool_.ParallelFor(100, [&](int64_t i) { sum += i; });
    EXPECT_EQ(sum, 4950);
  }
}

TEST_P(ThreadPoolTest, WaitsForIndexesThatTakeLong) {
  std::atomic<int> num_done{0};
  pool_.ParallelFor(8, [&](int64_t i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    ++num_done;
  });
  EXPECT_EQ(num_done, 8);
}

TEST_P(ThreadPoolTest, LetsCallersTakeTurns) {
  std::vector<std::atomic<int>> inside(GetParam());  // [worker]
  std::atomic<int> num_wrong{0};
  std::atomic<int64_t> sum{0};
  const auto call = [&] {
    for (int job = 0; job < 500; ++job) {
      pool_.ParallelFor(job % 4, [&](int64_t i, int worker) {
        if (++inside[worker] != 1) ++num_wrong;
        sum += i + 1;
        --inside[worker];
      });
    }
  };

  std::thread first(call), second(call);
  first.join();
  second.join();

  EXPECT_EQ(num_wrong, 0);
  EXPECT_EQ(sum, 2 * 125 * (0 + 1 + 3 + 6));
}

TEST_P(ThreadPoolTest, AllocatesNothingOnceItRuns) {
  std::vector<float> value(64);
  const auto run = [&] {
    pool_.ParallelFor(64, [&](int64_t i) { value[i] += 1; });
  };
  // The first job may come before the last thread has started.
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  run();

  const int64_t before = num_allocations;
  for (int job = 0; job < 100; ++job) run();
  const int64_t after = num_allocations;

  EXPECT_EQ(after - before, 0);
}

// One; the two of a pair; more than a small machine's cores.
INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, Values(1, 2, 3, 9));

TEST(ThreadPoolLifeTest, StopsWhetherOrNotItWorked) {
  for (int round = 0; round < 50; ++round) {
    ThreadPool idle(4);
    ThreadPool used(4);
    used.ParallelFor(3, [](int64_t i) {});
  }
}

TEST(ThreadPoolLifeTest, RunsALoopOfOnePoolInsideThatOfAnother) {
  ThreadPool outer(2), inner(2);
  std::atomic<int64_t> sum{0};
  outer.ParallelFor(10, [&](int64_t i) {
    inner.ParallelFor(10, [&](int64_t j) { sum += j; });
    outer.ParallelFor(10, [&](int64_t j) { sum += j; });
  });
  EXPECT_EQ(sum, 900);
}

}  // namespace
}  // namespace strata
