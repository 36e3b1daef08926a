#include "cuda/runtime/rank_group.h"

#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/testing/status_matchers.h"
#include "cuda_runtime_api.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

using ::testing::HasSubstr;

class FakeGroup : public RankGroup {
 public:
  explicit FakeGroup(absl::Duration timeout) : timeout_(timeout) {}
  absl::Duration timeout() const override { return timeout_; }
  absl::Status GiveUp(absl::string_view what) override {
    ++num_given_up_;
    return absl::DeadlineExceededError(absl::StrCat(what, " is late"));
  }
  int num_given_up() const { return num_given_up_; }

 private:
  const absl::Duration timeout_;
  int num_given_up_ = 0;
};

TEST(RankGroupTest, WaitsUntilItIsReady) {
  FakeGroup group(absl::Seconds(600));
  RankGroup* const groups[] = {&group};
  int asked = 0;
  EXPECT_THAT(
      WaitForRanks(
          groups, "a sum", absl::ZeroDuration(),
          [&] { return ++asked < 1000 ? cudaErrorNotReady : cudaSuccess; }),
      IsOk());
  EXPECT_EQ(asked, 1000);
  EXPECT_EQ(group.num_given_up(), 0);
}

TEST(RankGroupTest, GivesAllGroupsUpAfterTheLongestTimeOut) {
  FakeGroup quick(absl::Milliseconds(1)), slow(absl::Milliseconds(50));
  RankGroup* const groups[] = {&quick, &slow};
  const absl::Time start = absl::Now();
  EXPECT_THAT(WaitForRanks(groups, "a sum", absl::Milliseconds(10),
                           [] { return cudaErrorNotReady; }),
              StatusIs(absl::StatusCode::kDeadlineExceeded,
                       HasSubstr("a sum is late")));
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(60));
  EXPECT_EQ(quick.num_given_up(), 1);
  EXPECT_EQ(slow.num_given_up(), 1);
}

TEST(RankGroupTest, WaitsForNobodyAsLongAsItTakes) {
  int asked = 0;
  EXPECT_THAT(
      WaitForRanks(
          {}, "a sum", absl::ZeroDuration(),
          [&] { return ++asked < 1000 ? cudaErrorNotReady : cudaSuccess; }),
      IsOk());
  EXPECT_EQ(asked, 1000);
}

TEST(RankGroupTest, ReturnsTheProgramsError) {
  FakeGroup group(absl::Seconds(600));
  RankGroup* const groups[] = {&group};
  EXPECT_THAT(WaitForRanks(groups, "a sum", absl::ZeroDuration(),
                           [] { return cudaErrorIllegalAddress; }),
              ::testing::Not(IsOk()));
}

}  // namespace
}  // namespace strata::gpu
