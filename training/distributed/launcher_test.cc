#include "training/distributed/launcher.h"

#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string Joined(const LaunchOptions& options, const std::string& checkpoint,
                   bool again) {
  const auto command = LaunchCommand(options, checkpoint, again);
  EXPECT_THAT(command, IsOk());
  return command.ok() ? absl::StrJoin(*command, " ") : "";
}

TEST(LaunchCommandTest, BeginsAsIsSaidAndGoesOnFromTheCheckpoint) {
  LaunchOptions options;
  options.program = "strata";
  options.arguments = {"train", "--out=a", "--overwrite"};
  EXPECT_EQ(Joined(options, "", false), "strata train --out=a --overwrite");
  EXPECT_EQ(Joined(options, "", true), "strata train --out=a --overwrite");
  EXPECT_EQ(Joined(options, "a/step-000004", true),
            "strata train --out=a --resume=a/step-000004");

  options.arguments = {"train", "--resume", "b", "--out", "a"};
  EXPECT_EQ(Joined(options, "", false), "strata train --resume b --out a");
  EXPECT_EQ(Joined(options, "", true), "strata train --out a --overwrite");
  EXPECT_EQ(Joined(options, "c", true), "strata train --out a --resume=c");

  options.arguments = {"train", "--resume", "--out", "a"};
  EXPECT_EQ(Joined(options, "c", true), "strata train --out a --resume=c");
}

TEST(LaunchCommandTest, GivesSeveralRanksToMpirun) {
  LaunchOptions options;
  options.program = "strata";
  options.ranks = 3;
  options.mpirun = {"--hostfile", "hosts"};
  options.arguments = {"train", "--out=a"};
  EXPECT_THAT(Joined(options, "", false), HasSubstr("mpirun -np 3 "));
  EXPECT_THAT(Joined(options, "", false),
              HasSubstr("--hostfile hosts strata train --out=a"));
}

TEST(LaunchCommandTest, WantsAFolder) {
  LaunchOptions options;
  options.arguments = {"train", "--dp=2"};
  EXPECT_THAT(
      LaunchCommand(options, "", false),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("has no --out")));
}

// A shell script in the program's place, which ends each start as it likes.
class LaunchTest : public ::testing::Test {
 protected:
  LaunchTest()
      : folder_(absl::StrCat(
            ::testing::TempDir(), "/launch_",
            ::testing::UnitTest::GetInstance()->current_test_info()->name())) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    options_.program = absl::StrCat(folder_, "/program");
    options_.arguments = {"train", absl::StrCat("--out=", folder_)};
    options_.note = [this](absl::string_view note) {
      notes_.emplace_back(note);
    };
  }

  void Program(const std::string& body) {
    std::ofstream(options_.program)
        << "#!/bin/sh\ncd " << folder_ << "\necho x >> starts\n"
        << "n=$(wc -l < starts)\n"
        << body << "\n";
    chmod(options_.program.c_str(), 0755);
  }
  // That of the last start; -1 on an error.
  int Status() {
    const auto status = Launch(options_);
    EXPECT_THAT(status, IsOk());
    return status.ok() ? *status : -1;
  }
  int Starts() const {
    std::ifstream file(absl::StrCat(folder_, "/starts"));
    int lines = 0;
    for (std::string line; std::getline(file, line);) ++lines;
    return lines;
  }

  const std::string folder_;
  LaunchOptions options_;
  std::vector<std::string> notes_;
};

TEST_F(LaunchTest, LeavesARunThatEndsWellAlone) {
  Program("exit 0");
  EXPECT_EQ(Status(), 0);
  EXPECT_EQ(Starts(), 1);
  EXPECT_THAT(notes_, IsEmpty());
}

TEST_F(LaunchTest, StartsAgainWhatWasKilledOrFailedAfterAStep) {
  Program(R"(
echo '{"kind": "step", "step": 3}' > metrics.jsonl
[ $n = 1 ] && kill -9 $$
[ $n = 2 ] && exit 1
exit 0)");
  EXPECT_EQ(Status(), 0);
  EXPECT_EQ(Starts(), 3);
  EXPECT_THAT(notes_,
              ElementsAre(HasSubstr("status 137; start 2, from the beginning"),
                          HasSubstr("status 1; start 3")));
}

TEST_F(LaunchTest, GivesUpOnWhatNeverMakesAStep) {
  Program("exit 1");
  EXPECT_THAT(Launch(options_),
              StatusIs(absl::StatusCode::kUnavailable,
                       HasSubstr("status 1, twice before their first step")));
  EXPECT_EQ(Starts(), 2);
}

TEST_F(LaunchTest, StartsAgainOnlySoOften) {
  options_.restarts = 3;
  Program("kill -9 $$");
  EXPECT_THAT(Launch(options_),
              StatusIs(absl::StatusCode::kUnavailable,
                       HasSubstr("they were started again 3 times")));
  EXPECT_EQ(Starts(), 4);
}

TEST_F(LaunchTest, TellsTheRanksWhenItIsAskedToEnd) {
  const std::string listens = absl::StrCat(folder_, "/listens");
  options_.stop = [&] { return std::filesystem::exists(listens); };
  Program("trap 'exit 9' USR1; : >listens; while :; do sleep 0.1; done");
  EXPECT_EQ(Status(), 9);
  EXPECT_EQ(Starts(), 1);
  EXPECT_THAT(notes_, IsEmpty());
}

TEST_F(LaunchTest, SaysWhatIsNotThere) {
  options_.program = absl::StrCat(folder_, "/nothing");
  EXPECT_THAT(Launch(options_),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("cannot start")));
}

}  // namespace
}  // namespace strata
