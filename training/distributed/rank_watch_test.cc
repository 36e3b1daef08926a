#include "training/distributed/rank_watch.h"

#include <signal.h>
#include <spawn.h>
#include <sys/types.h>
#include <sys/wait.h>

#include <filesystem>
#include <functional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

extern char** environ;

namespace strata {
namespace {

// A shell in mpirun's place, whose ranks are `sleep`.
RankWatchResult Watch(const std::string& script,
                      absl::Duration start = absl::InfiniteDuration(),
                      std::function<bool()> stop = nullptr) {
  std::string shell = "bash", flag = "-c", text = script;
  char* const argv[] = {shell.data(), flag.data(), text.data(), nullptr};
  pid_t pid = 0;
  EXPECT_EQ(posix_spawnp(&pid, "bash", nullptr, nullptr, argv, environ), 0);
  return WaitForRanks(pid, std::filesystem::canonical("/bin/sleep").string(),
                      {start, /*end=*/absl::Milliseconds(300), stop});
}

TEST(RankWatchTest, WhatEndsByItselfHasItsStatus) {
  const RankWatchResult result = Watch("sleep 0.5; exit 3");
  EXPECT_TRUE(result.had_ranks);
  EXPECT_FALSE(result.was_ended);
  ASSERT_TRUE(WIFEXITED(result.status));
  EXPECT_EQ(WEXITSTATUS(result.status), 3);
}

// `read` from a pipe that it could write to itself waits for ever.
TEST(RankWatchTest, WhatOutlivesItsRanksIsEnded) {
  const RankWatchResult result = Watch("sleep 0.5; read <> <(:); exit 3");
  EXPECT_TRUE(result.was_ended);
  ASSERT_TRUE(WIFSIGNALED(result.status));
  EXPECT_EQ(WTERMSIG(result.status), SIGTERM);
}

TEST(RankWatchTest, ARankThatStaysBehindIsNotWaitedFor) {
  const RankWatchResult result = Watch("sleep 0.5 & sleep 20; exit 3");
  EXPECT_TRUE(result.was_ended);
  EXPECT_TRUE(WIFSIGNALED(result.status));
}

TEST(RankWatchTest, WhatDoesNotListenIsKilled) {
  const RankWatchResult result =
      Watch("trap '' TERM; sleep 0.5; read <> <(:); exit 3");
  EXPECT_TRUE(result.was_ended);
  ASSERT_TRUE(WIFSIGNALED(result.status));
  EXPECT_EQ(WTERMSIG(result.status), SIGKILL);
}

TEST(RankWatchTest, WhatIsToHaveRanksAndHasNoneIsEnded) {
  const RankWatchResult result =
      Watch("read <> <(:); exit 3", absl::Milliseconds(500));
  EXPECT_FALSE(result.had_ranks);
  EXPECT_TRUE(result.was_ended);
}

TEST(RankWatchTest, WhoIsToStopIsTold) {
  const std::string listens = absl::StrCat(::testing::TempDir(), "/listens");
  std::filesystem::remove(listens);
  const RankWatchResult result =
      Watch(absl::StrCat("trap 'exit 5' USR1; sleep 0.5; : >", listens,
                         "; for i in {1..200}; do sleep 0.1; done"),
            absl::InfiniteDuration(),
            [&] { return std::filesystem::exists(listens); });
  EXPECT_TRUE(result.had_ranks);
  EXPECT_FALSE(result.was_ended);
  ASSERT_TRUE(WIFEXITED(result.status));
  EXPECT_EQ(WEXITSTATUS(result.status), 5);
}

// Ranks of other machines alone: `read` waits for a second.
TEST(RankWatchTest, WhatNeverHadRanksIsWaitedFor) {
  const RankWatchResult result = Watch("read -t 1 <> <(:); exit 4");
  EXPECT_FALSE(result.was_ended);
  ASSERT_TRUE(WIFEXITED(result.status));
  EXPECT_EQ(WEXITSTATUS(result.status), 4);
}

}  // namespace
}  // namespace strata
