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
