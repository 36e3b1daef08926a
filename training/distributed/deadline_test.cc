#include "training/distributed/deadline.h"

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

TEST(DeadlineTest, IsMet) {
  const Deadline deadline(absl::InfiniteDuration(), "nothing happens");
}

TEST(DeadlineDeathTest, EndsWhatIsLate) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        const Deadline deadline(absl::Milliseconds(20), "nothing happens");
        absl::SleepFor(absl::InfiniteDuration());
      },
      testing::ExitedWithCode(1), "error: nothing happens for 20ms");
}

}  // namespace
}  // namespace strata
