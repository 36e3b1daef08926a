#include "cuda/runtime/status.h"

#include "absl/status/status.h"
#include "core/testing/status_matchers.h"
#include "cuda_runtime_api.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

using ::testing::HasSubstr;

TEST(ToStatusTest, SortsErrorsByTheirCause) {
  EXPECT_THAT(ToStatus(cudaSuccess), IsOk());
  EXPECT_THAT(ToStatus(cudaErrorMemoryAllocation),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       HasSubstr("out of memory")));
  EXPECT_THAT(ToStatus(cudaErrorInvalidValue),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("cudaErrorInvalidValue")));
  EXPECT_THAT(ToStatus(cudaErrorNoDevice),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("device")));
  EXPECT_THAT(ToStatus(cudaErrorIllegalAddress),
              StatusIs(absl::StatusCode::kInternal,
                       HasSubstr("cudaErrorIllegalAddress")));
}

}  // namespace
}  // namespace strata::gpu
