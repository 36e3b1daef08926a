#include "core/base/folder_lock.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/files.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class FolderLockTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_THAT(MakeFolders(folder_), IsOk()); }

  bool HasFile() const {
    struct stat info;
    return stat(absl::StrCat(folder_, "/.lock").c_str(), &info) == 0;
  }

  auto IsHeldBy(pid_t process) const {
    return StatusIs(
        absl::StatusCode::kUnavailable,
        AllOf(StartsWith(folder_),
              HasSubstr(absl::StrCat("in use by process ", process, ";"))));
  }

  const std::string folder_ = absl::StrCat(
      ::testing::TempDir(), "/lock_",
      ::testing::UnitTest::GetInstance()->current_test_info()->name());
};

TEST_F(FolderLockTest, KeepsOutASecondOneOfTheSameProcess) {
  const auto first = FolderLock::Take(folder_);
  ASSERT_THAT(first, IsOk());

  EXPECT_THAT(FolderLock::Take(folder_).status(), IsHeldBy(getpid()));
}

TEST_F(FolderLockTest, IsFreeAgainAndLeavesNoFileOnceItIsReleased) {
  auto first = FolderLock::Take(folder_);
  ASSERT_THAT(first, IsOk());
  std::optional<FolderLock> kept = *std::move(first);
  EXPECT_TRUE(HasFile());
  EXPECT_THAT(FolderLock::Take(folder_).status(), IsHeldBy(getpid()));

  kept.reset();

  EXPECT_FALSE(HasFile());
  EXPECT_THAT(FolderLock::Take(folder_), IsOk());
}

TEST_F(FolderLockTest, NamesTheProcessThatHoldsItAndIsFreeOnceThatIsKilled) {
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    const auto lock = FolderLock::Take(folder_);
    if (!lock.ok() || write(ready[1], "x", 1) != 1) _exit(1);
    while (true) pause();
  }
  char byte;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  EXPECT_THAT(FolderLock::Take(folder_).status(), IsHeldBy(child));

  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);

  EXPECT_TRUE(HasFile());
  const auto lock = FolderLock::Take(folder_);
  ASSERT_THAT(lock, IsOk());
  EXPECT_THAT(FolderLock::Take(folder_).status(), IsHeldBy(getpid()));
}

TEST_F(FolderLockTest, AFileThatSaysNothingIsNoProcess) {
  const auto first = FolderLock::Take(folder_);
  ASSERT_THAT(first, IsOk());
  ASSERT_EQ(truncate(absl::StrCat(folder_, "/.lock").c_str(), 0), 0);

  EXPECT_THAT(FolderLock::Take(folder_),
              StatusIs(absl::StatusCode::kUnavailable,
                       HasSubstr("in use by another process")));
}

// Removing the file and locking it are two steps, in which others meet.
TEST_F(FolderLockTest, IsNeverHeldTwice) {
  std::atomic<int> num_holders{0};
  std::atomic<int> num_taken{0};
  std::atomic<bool> held_twice{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      while (num_taken < 200) {
        const auto lock = FolderLock::Take(folder_);
        if (!lock.ok()) continue;
        if (++num_holders > 1) held_twice = true;
        ++num_taken;
        std::this_thread::yield();
        --num_holders;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();

  EXPECT_FALSE(held_twice);
}

TEST_F(FolderLockTest, AFolderThatIsNotThereIsAnError) {
  EXPECT_THAT(FolderLock::Take(folder_ + "/none"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/none/.lock")));
}

}  // namespace
}  // namespace strata
