#include "cuda/nccl/taken_counts.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>

#include "absl/status/status.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

using ::testing::HasSubstr;

TEST(TakenCountsTest, AThreadOfTheProcessCounts) {
  const auto sender = TakenCounts::Create();
  ASSERT_THAT(sender, IsOk());
  const auto receiver = TakenCounts::Open((*sender)->key());
  ASSERT_THAT(receiver, IsOk());
  EXPECT_EQ((*sender)->Of(0), 0);

  (*receiver)->Add(0);
  (*receiver)->Add(TakenCounts::kMostBoxes - 1);
  (*receiver)->Add(TakenCounts::kMostBoxes - 1);

  EXPECT_EQ((*sender)->Of(0), 1);
  EXPECT_EQ((*sender)->Of(1), 0);
  EXPECT_EQ((*sender)->Of(TakenCounts::kMostBoxes - 1), 2);
}

// Which may go on after the sender has gone.
TEST(TakenCountsTest, AnotherProcessCounts) {
  const auto sender = TakenCounts::Create();
  ASSERT_THAT(sender, IsOk());
  const TakenCounts::Key key = (*sender)->key();
  const pid_t child = fork();
  if (child == 0) {
    const auto receiver = TakenCounts::Open(key);
    if (!receiver.ok()) _exit(1);
    for (int i = 0; i < 1000; ++i) (*receiver)->Add(7);
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ((*sender)->Of(7), 1000);
}

TEST(TakenCountsTest, TheReceiverKeepsThemWhenTheSenderHasGone) {
  auto sender = TakenCounts::Create();
  ASSERT_THAT(sender, IsOk());
  const auto receiver = TakenCounts::Open((*sender)->key());
  ASSERT_THAT(receiver, IsOk());
  const TakenCounts::Key key = (*sender)->key();
  sender->reset();

  (*receiver)->Add(3);

  EXPECT_EQ((*receiver)->Of(3), 1);
  EXPECT_THAT(TakenCounts::Open({key.process, int64_t{1} << 20}),
              StatusIs(absl::StatusCode::kUnavailable,
                       HasSubstr("cannot open /proc/")));
}

}  // namespace
}  // namespace strata::gpu
