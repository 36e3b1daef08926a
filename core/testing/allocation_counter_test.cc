#include "core/testing/allocation_counter.h"

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <thread>

#include "core/tensor/buffer.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

// Keeps the compiler from leaving an allocation out.
void Use(void* p) { asm volatile("" : : "r"(p) : "memory"); }

// A test that expects no allocation is worth as much as this one.
#ifndef __SANITIZE_ADDRESS__

TEST(AllocationCounterTest, CountsEachWayToTheHeap) {
  const auto count = [](auto allocate) {
    AllocationCounter allocations;
    void* const p = allocate();
    const int64_t count = allocations.count();
    Use(p);
    std::free(p);
    return count;
  };
  EXPECT_EQ(count([] { return std::malloc(8); }), 1);
  EXPECT_EQ(count([] { return std::calloc(2, 8); }), 1);
  EXPECT_EQ(count([] { return std::realloc(nullptr, 8); }), 1);
  EXPECT_EQ(count([] { return std::aligned_alloc(64, 64); }), 1);
  EXPECT_EQ(count([] {
              void* p = nullptr;
              return posix_memalign(&p, 64, 64) == 0 ? p : nullptr;
            }),
            1);
}

TEST(AllocationCounterTest, CountsOperatorNew) {
  struct alignas(64) Line {
    char bytes[64];
  };
  AllocationCounter allocations;
  const auto plain = std::make_unique<int>();
  Use(plain.get());
  const int64_t one = allocations.count();
  const auto aligned = std::make_unique<Line>();
  Use(aligned.get());
  const int64_t two = allocations.count();

  EXPECT_EQ(one, 1);
  EXPECT_EQ(two, 2);
}

TEST(AllocationCounterTest, CountsOtherThreads) {
  std::atomic<int> stage{0};
  std::thread thread([&stage] {
    while (stage != 1) std::this_thread::yield();
    const auto p = std::make_unique<int>(3);
    Use(p.get());
    stage = 2;
  });
  AllocationCounter allocations;
  stage = 1;
  while (stage != 2) std::this_thread::yield();

  EXPECT_EQ(allocations.count(), 1);
  EXPECT_EQ(allocations.first_bytes(), sizeof(int));

  thread.join();
}

#endif  // __SANITIZE_ADDRESS__

TEST(AllocationCounterTest, CountsABufferOfTensors) {
  AllocationCounter allocations;
  const auto buffer = Buffer::Allocate(12345);
  const int64_t count = allocations.count();

  ASSERT_THAT(buffer, IsOk());
  EXPECT_EQ(count, 1);
  EXPECT_EQ(allocations.first_bytes(), 12345);
}

TEST(AllocationCounterTest, CountsFromItsBeginningToItsEnd) {
  Use(std::make_unique<int>(1).get());
  {
    AllocationCounter allocations;
    EXPECT_EQ(allocations.count(), 0);
  }
  Use(std::make_unique<int>(2).get());
  AllocationCounter allocations;
  EXPECT_EQ(allocations.count(), 0);
}

}  // namespace
}  // namespace strata
