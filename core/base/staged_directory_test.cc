#include "core/base/staged_directory.h"

#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/files.h"
#include "core/base/random.h"
#include "core/base/status_macros.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

namespace fs = std::filesystem;

using ::testing::AllOf;
using ::testing::Bool;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Runs `body` in a child process; returns the child's number.
pid_t InChild(const std::function<void()>& body) {
  const pid_t child = fork();
  if (child != 0) return child;
  body();
  _exit(0);
}

// Mounts a disk of 64 KiB at `folder` that only this process sees; returns
// whether the system lets us.
bool MountSmallDisk(const std::string& folder) {
  const std::string uid_map = absl::StrCat("0 ", geteuid(), " 1");
  const std::string gid_map = absl::StrCat("0 ", getegid(), " 1");
  const auto put = [](const std::string& path, const std::string& text) {
    auto file = OutputFile::Create(path);
    return file.ok() && file->Append(text).ok();
  };
  return unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 &&
         put("/proc/self/setgroups", "deny") &&
         put("/proc/self/uid_map", uid_map) &&
         put("/proc/self/gid_map", gid_map) &&
         mount("tmpfs", folder.c_str(), "tmpfs", 0, "size=64k") == 0;
}

// With true as the disk offers it, with false as on disks that cannot swap.
class StagedDirectoryTest : public testing::TestWithParam<bool> {
 protected:
  StagedDirectoryTest()
      : folder_(absl::StrCat(testing::TempDir(), "/staged_", GetParam())),
        final_(folder_ + "/final") {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~StagedDirectoryTest() override { fs::remove_all(folder_); }

  absl::StatusOr<StagedDirectory> Stage() {
    ASSIGN_OR_RETURN(StagedDirectory staged, StagedDirectory::Create(final_));
    staged.set_swap_for_testing(GetParam());
    return staged;
  }

  // A folder whose three files hold `version`.
  absl::Status CommitVersion(int version) {
    ASSIGN_OR_RETURN(StagedDirectory staged, Stage());
    RETURN_IF_ERROR(staged.WriteFile("a", absl::StrCat(version)));
    RETURN_IF_ERROR(MakeFolders(staged.path() + "/sub"));
    RETURN_IF_ERROR(staged.WriteFile("sub/b", absl::StrCat(version)));
    RETURN_IF_ERROR(staged.WriteFile("sub/c", absl::StrCat(version)));
    return staged.Commit();
  }

  // The version at the final name; -1 unless it is whole.
  int CommittedVersion() {
    const auto files = ListFiles(final_);
    if (!files.ok() ||
        *files != std::vector<std::string>{"a", "sub/b", "sub/c"}) {
      return -1;
    }
    const std::string a = *ReadFile(final_ + "/a");
    if (*ReadFile(final_ + "/sub/b") != a) return -1;
    if (*ReadFile(final_ + "/sub/c") != a) return -1;
    return std::atoi(a.c_str());
  }

  std::vector<std::string> Entries() {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      names.push_back(entry.path().filename());
    }
    return names;
  }

  const std::string folder_;
  const std::string final_;
};

TEST_P(StagedDirectoryTest, AppearsWholeAndReplacesTheOldOne) {
  for (const int version : {1, 2, 3}) {
    ASSERT_THAT(CommitVersion(version), IsOk());
    EXPECT_EQ(CommittedVersion(), version);
    EXPECT_THAT(Entries(), ElementsAre("final"));
  }
}

TEST_P(StagedDirectoryTest, LeavesNothingIfItIsNotCommitted) {
  ASSERT_THAT(CommitVersion(1), IsOk());
  {
    auto staged = Stage();
    ASSERT_THAT(staged, IsOk());
    ASSERT_THAT(staged->WriteFile("a", "2"), IsOk());
  }
  EXPECT_EQ(CommittedVersion(), 1);
  EXPECT_THAT(Entries(), ElementsAre("final"));
}

TEST_P(StagedDirectoryTest, LeavesFoldersAloneThatAreStillWritten) {
  auto first = Stage();
  ASSERT_THAT(first, IsOk());
  ASSERT_THAT(first->WriteFile("a", "1"), IsOk());

  ASSERT_THAT(CommitVersion(2), IsOk());  // Tidies up.
  ASSERT_THAT(TidyStaging(folder_), IsOk());
  ASSERT_THAT(first->Commit(), IsOk());

  EXPECT_THAT(*ListFiles(final_), ElementsAre("a"));
  EXPECT_THAT(Entries(), ElementsAre("final"));
}

// Of each kill only a folder that is valid old or valid new may remain, never
// older than the last one that the child reported.
TEST_P(StagedDirectoryTest, SurvivesAKillAtAnyMoment) {
  ASSERT_THAT(CommitVersion(1), IsOk());
  Random random(/*seed=*/1, /*stream=*/GetParam());
  int version = 1, num_leftovers = 0;
  for (int round = 0; round < 50; ++round) {
    int reports[2];
    ASSERT_EQ(pipe(reports), 0);
    const pid_t child = InChild([&] {
      for (int next = version + 1; CommitVersion(next).ok(); ++next) {
        if (write(reports[1], &next, sizeof(next)) < 0) break;
      }
      std::fprintf(stderr, "the child could not commit\n");
      _exit(1);
    });
    close(reports[1]);
    // From its first report on the child is nearly always inside a commit.
    int reported = 0;
    ASSERT_EQ(read(reports[0], &reported, sizeof(reported)), sizeof(reported));
    usleep(random.UniformInt(4000));
    kill(child, SIGKILL);
    int exit_status = 0;
    waitpid(child, &exit_status, 0);
    ASSERT_TRUE(WIFSIGNALED(exit_status));
    while (read(reports[0], &reported, sizeof(reported)) > 0) {
    }
    close(reports[0]);

    num_leftovers += Entries() != std::vector<std::string>{"final"};
    if (GetParam()) {
      ASSERT_GE(CommittedVersion(), reported);
    }
    ASSERT_THAT(TidyStaging(folder_), IsOk());

    ASSERT_GE(CommittedVersion(), reported);
    ASSERT_LE(CommittedVersion(), reported + 1);
    ASSERT_THAT(Entries(), ElementsAre("final"));
    version = CommittedVersion();
  }
  EXPECT_GT(num_leftovers, 10);  // Kills did fall between start and end.
}

TEST_P(StagedDirectoryTest, PutsBackAFolderWhoseReplacementWasKilled) {
  ASSERT_THAT(CommitVersion(1), IsOk());
  fs::rename(final_, folder_ + "/.final.aside-17-0");
  fs::create_directories(folder_ + "/.final.staging-17-0/sub");

  ASSERT_THAT(TidyStaging(folder_), IsOk());

  EXPECT_EQ(CommittedVersion(), 1);
  EXPECT_THAT(Entries(), ElementsAre("final"));
}

TEST_P(StagedDirectoryTest, TidiesOnlyItsOwn) {
  for (const std::string name :
       {".final.staging-", ".staging-1-0", "final.staging-1-0",
        ".final.staging-x", ".final.aside-1-0-"}) {
    fs::create_directories(folder_ + "/" + name);
  }
  ASSERT_THAT(WriteFileAtomically(folder_ + "/.final.staging-3-0", ""), IsOk());

  ASSERT_THAT(TidyStaging(folder_), IsOk());
  ASSERT_THAT(TidyStaging(folder_ + "/none"), IsOk());

  EXPECT_EQ(Entries().size(), 6);
}

TEST_P(StagedDirectoryTest, RefusesWhatCannotBeReplaced) {
  for (const std::string path : {"", "/", ".", "..", "a/.."}) {
    EXPECT_THAT(StagedDirectory::Create(path).status(),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr("does not name a folder")))
        << path;
  }
  ASSERT_THAT(WriteFileAtomically(final_, "a file"), IsOk());
  EXPECT_THAT(Stage(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                AllOf(HasSubstr("/final: "),
                                      HasSubstr("is not a folder"))));
  EXPECT_EQ(*ReadFile(final_), "a file");
}

TEST_P(StagedDirectoryTest, TakesAPathWithASlashAtTheEndAndFoldersToMake) {
  auto staged = StagedDirectory::Create(folder_ + "/x/./y/");
  ASSERT_THAT(staged, IsOk());
  EXPECT_EQ(fs::path(staged->path()).parent_path(), folder_ + "/x");
  ASSERT_THAT(staged->WriteFile("a", "1"), IsOk());
  ASSERT_THAT(staged->Commit(), IsOk());

  EXPECT_EQ(*ReadFile(folder_ + "/x/y/a"), "1");
}

TEST_P(StagedDirectoryTest, KeepsTheOldFolderWhenTheDiskIsFull) {
  const pid_t child = InChild([&] {
    if (!MountSmallDisk(folder_)) _exit(77);
    EXPECT_THAT(CommitVersion(1), IsOk());
    {
      auto staged = Stage();
      EXPECT_THAT(staged, IsOk());
      EXPECT_THAT(
          staged->WriteFile("a", std::string(100000, 'x')),
          StatusIs(absl::StatusCode::kResourceExhausted,
                   AllOf(HasSubstr(staged->path() + "/a"),
                         HasSubstr("disk full"), HasSubstr("bytes wanted"))));
    }
    EXPECT_EQ(CommittedVersion(), 1);
    EXPECT_THAT(CommitVersion(2), IsOk());  // The space is free again.
    EXPECT_THAT(Entries(), ElementsAre("final"));
    _exit(testing::Test::HasFailure() ? 1 : 0);
  });
  int exit_status = 0;
  waitpid(child, &exit_status, 0);
  if (WIFEXITED(exit_status) && WEXITSTATUS(exit_status) == 77) {
    GTEST_SKIP() << "cannot mount a small disk";
  }
  EXPECT_EQ(exit_status, 0);
}

INSTANTIATE_TEST_SUITE_P(Swap, StagedDirectoryTest, Bool());

}  // namespace
}  // namespace strata
