// Two processes and one folder.

#include "training/run/training_run.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/files.h"
#include "core/model/config.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "training/config.h"
#include "training/data/corpus.h"

namespace strata {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;
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

// A file in the way stands for a disk that is full.
TEST_F(TrainingRunTest,
       GoesOnWithoutACheckpointThatCannotBeSavedButNotTheLast) {
  options_.train.set_checkpoint_interval(3);
  options_.train.set_validation_interval(0);
  const auto in_the_way = [&](const char* step) {
    const std::string path = absl::StrCat(options_.out, "/step-00000", step);
    EXPECT_THAT(MakeFolders(options_.out), IsOk());
    EXPECT_THAT(WriteFileAtomically(path, ""), IsOk());
    return path;
  };
  const auto finish = [&](RunObserver observer) {
    auto run = TrainingRun::Start(options_, &corpus_);
    EXPECT_THAT(run, IsOk());
    return (*run)->Finish(observer, [] { return false; });
  };
  in_the_way("6");
  std::vector<std::string> saved;
  std::vector<nlohmann::json> events;
  RunObserver observer;
  observer.on_checkpoint = [&](const std::string& path) {
    saved.push_back(path);
  };
  observer.on_event = [&](const nlohmann::json& event) {
    if (event["kind"] == "checkpoint") events.push_back(event);
  };

  const auto summary = finish(observer);

  ASSERT_THAT(summary, IsOk());
  EXPECT_EQ(summary->checkpoint, options_.out + "/step-000008");
  EXPECT_THAT(saved, ElementsAre(options_.out + "/step-000003",
                                 options_.out + "/step-000008"));
  ASSERT_THAT(events, SizeIs(1));
  EXPECT_EQ(events[0]["step"], 6);
  EXPECT_THAT(events[0]["error"].get<std::string>(), HasSubstr("step-000006"));

  fs::remove_all(options_.out);
  in_the_way("8");
  EXPECT_THAT(finish({}).status().message(),
              AllOf(HasSubstr("step-000008"),
                    HasSubstr("the last good checkpoint is " + options_.out +
                              "/step-000006")));
}

}  // namespace
}  // namespace strata
