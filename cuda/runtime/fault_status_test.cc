#include "cuda/runtime/fault_status.h"

#include <cstdint>

#include "absl/status/status.h"
#include "core/testing/status_matchers.h"
#include "cuda/runtime/fault.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

Fault Of(FaultKind kind, int64_t place, int64_t value, int64_t limit) {
  return {static_cast<int32_t>(kind), /*node=*/0, place, value, limit};
}

TEST(FaultStatusTest, SaysWhatWasFoundAndWhatWasWanted) {
  EXPECT_THAT(FaultStatus(Fault()), IsOk());
  EXPECT_THAT(FaultStatus(Of(FaultKind::kTokenId, 7, 300, 256)),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "token 7 has id 300; want 0 to 255"));
  EXPECT_THAT(FaultStatus(Of(FaultKind::kTable, 2, 4, 4)),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "slot 2 of the table holds expert 4; want 0 to 3"));
  EXPECT_THAT(FaultStatus(Of(FaultKind::kChoice, 1, 3, 4)),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "choice 1 is expert 3; want one of the 4 that has a "
                       "slot, or -1"));
  EXPECT_THAT(FaultStatus(Of(FaultKind::kNoSlot, 3, 0, 4)),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "expert 3 of 4 has no slot"));
  EXPECT_THAT(FaultStatus(Of(FaultKind::kLatePeer, 1, 0, 2000)),
              StatusIs(absl::StatusCode::kDeadlineExceeded,
                       "rank 1 of its group has not come in 2s"));
}

}  // namespace
}  // namespace strata::gpu
