#include "cuda/runtime/side_lane_streams.h"

#include <cstdint>

#include "cuda_runtime_api.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

// Nothing is asked of them, so they need not be.
cudaStream_t Stream(uintptr_t number) {
  return reinterpret_cast<cudaStream_t>(number);
}

TEST(SideLaneStreamsTest, KnowsLanesUntilTheyAreRemoved) {
  AddLane(Stream(64));

  EXPECT_TRUE(IsLane(Stream(64)));
  EXPECT_FALSE(IsLane(Stream(128)));
  EXPECT_FALSE(IsLane(nullptr));
  Fork(Stream(64), Stream(128));
  EXPECT_EQ(BesideLane(Stream(64)), Stream(128));
  EXPECT_EQ(BesideLane(Stream(128)), nullptr);

  RemoveLane(Stream(64));
  EXPECT_FALSE(IsLane(Stream(64)));
}

TEST(SideLaneStreamsTest, AStreamRunsBesideUntilTheLastNodeIsJoined) {
  BeginBeside(Stream(64));
  BeginBeside(Stream(64));
  BeginBeside(Stream(128));

  EndBeside(Stream(64));
  EXPECT_TRUE(RunsBeside(Stream(64)));
  EndBeside(Stream(64));
  EXPECT_FALSE(RunsBeside(Stream(64)));
  EXPECT_TRUE(RunsBeside(Stream(128)));

  EndBeside(Stream(128));
  EndBeside(Stream(128));  // Joined before: no harm.
  EXPECT_FALSE(RunsBeside(Stream(128)));
}

}  // namespace
}  // namespace strata::gpu
