// Two processes and one folder.

#include "training/run/training_run.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/model/config.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "training/config.h"
#include "training/data/corpus.h"

namespace strata {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class TrainingRunTest : public ::testing::Test {
 protected:
  TrainingRunTest() : corpus_(*MakeCorpus({{"a", {{"a", Text()}}}})) {
    options_.model = *ModelPreset("demo");
    options_.model.set_d_model(32);
    options_.model.set_num_layers(1);
    options_.model.mutable_moe()->set_expert_width(8);
    options_.model.mutable_moe()->mutable_hierarchical()->set_energy_groups(8);
    options_.train = *TrainPreset("demo");
    options_.train.set_steps(8);
    options_.train.set_seq_len(16);
    options_.train.set_batch_size(1);
    options_.train.set_warmup_steps(1);
    options_.train.set_validation_tokens(16);
    options_.out = absl::StrCat(
        ::testing::TempDir(), "/run_",
        ::testing::UnitTest::GetInstance()->current_test_info()->name());
  }

  static std::string Text() {
    std::string text;
    for (int i = 0; i < 5000; ++i) text += static_cast<char>(i * i % 97 + 30);
    return text;
  }

  // A process that has saved a checkpoint of the run, and now sits in it.
  pid_t StartProcess() {
    int ready[2];
    EXPECT_EQ(pipe(ready), 0);
    const pid_t child = fork();
    if (child == 0) {
      const auto run = TrainingRun::Start(options_, &corpus_);
      if (!run.ok() || !(*run)->Step().ok() || !(*run)->Save().ok()) _exit(1);
      if (write(ready[1], "x", 1) != 1) _exit(1);
      while (true) pause();
    }
    close(ready[1]);
    char byte;
    EXPECT_EQ(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return child;
  }

  Corpus corpus_;
  RunOptions options_;
};

TEST_F(TrainingRunTest, KeepsOutASecondProcessWhateverItWants) {
  const pid_t first = StartProcess();
  RunOptions overwrites = options_;
  overwrites.overwrite = true;
  RunOptions resumes = options_;
  resumes.resume_from = absl::StrCat(options_.out, "/step-000001");
  const auto is_held =
      StatusIs(absl::StatusCode::kUnavailable,
               AllOf(StartsWith(options_.out),
                     HasSubstr(absl::StrCat("in use by process ", first))));

  EXPECT_THAT(TrainingRun::Start(options_, &corpus_), is_held);
  EXPECT_THAT(TrainingRun::Start(overwrites, &corpus_), is_held);
  EXPECT_THAT(TrainingRun::Start(resumes, &corpus_), is_held);

  EXPECT_TRUE(fs::exists(resumes.resume_from));
  kill(first, SIGKILL);
  waitpid(first, nullptr, 0);
}

TEST_F(TrainingRunTest, GoesOnInTheFolderOfAProcessThatWasKilled) {
  const pid_t first = StartProcess();
  kill(first, SIGKILL);
  waitpid(first, nullptr, 0);

  EXPECT_THAT(
      TrainingRun::Start(options_, &corpus_),
      StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("holds a run")));
  options_.resume_from = absl::StrCat(options_.out, "/step-000001");
  const auto resumed = TrainingRun::Start(options_, &corpus_);
  ASSERT_THAT(resumed, IsOk());
  EXPECT_THAT((*resumed)->Step(), IsOk());
}

TEST_F(TrainingRunTest, LeavesNoLockBehind) {
  ASSERT_THAT(TrainingRun::Start(options_, &corpus_), IsOk());

  EXPECT_TRUE(fs::exists(absl::StrCat(options_.out, "/metrics.jsonl")));
  EXPECT_FALSE(fs::exists(absl::StrCat(options_.out, "/.lock")));
}

}  // namespace
}  // namespace strata
