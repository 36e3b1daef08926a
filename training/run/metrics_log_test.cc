#include "training/run/metrics_log.h"

#include <sys/resource.h>

#include <csignal>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/base/files.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

std::string Path(const std::string& name) {
  return absl::StrCat(::testing::TempDir(), "/", name);
}

// Kind and step of each line: "manifest", "step 1", ...
std::vector<std::string> Lines(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadFile(path);
  EXPECT_THAT(text, IsOk());
  std::vector<std::string> lines;
  for (const auto line : absl::StrSplit(*text, '\n', absl::SkipEmpty())) {
    const Json json = Json::parse(line.begin(), line.end());
    const std::string kind = json["kind"];
    lines.push_back(json.contains("step")
                        ? absl::StrCat(kind, " ", json["step"].get<int64_t>())
                        : kind);
  }
  return lines;
}

Json Step(int64_t step) { return {{"kind", "step"}, {"step", step}}; }
Json Validation(int64_t step) {
  return {{"kind", "validation"}, {"step", step}};
}

TEST(MetricsLogTest, WritesALineAtATimeAfterTheManifest) {
  const std::string path = Path("new.jsonl");

  absl::StatusOr<MetricsLog> log = MetricsLog::Create(path, {{"commit", "c"}});
  ASSERT_THAT(log, IsOk());
  EXPECT_EQ(log->last_validation(), -1);
  ASSERT_THAT(log->Append(Step(1)), IsOk());
  ASSERT_THAT(log->Append(Validation(1)), IsOk());

  EXPECT_THAT(Lines(path), ElementsAre("manifest", "step 1", "validation 1"));
  EXPECT_EQ(log->last_validation(), 1);
}

TEST(MetricsLogTest, DropsWhatComesAfterTheResumedStep) {
  const std::string path = Path("resumed.jsonl");
  {
    absl::StatusOr<MetricsLog> log = MetricsLog::Create(path, {});
    ASSERT_THAT(log, IsOk());
    for (int64_t step = 1; step <= 4; ++step) {
      ASSERT_THAT(log->Append(Step(step)), IsOk());
      ASSERT_THAT(log->Append(Validation(step)), IsOk());
    }
  }

  absl::StatusOr<MetricsLog> log = MetricsLog::Resume(path, 2, {});
  ASSERT_THAT(log, IsOk());
  EXPECT_EQ(log->last_validation(), 2);
  ASSERT_THAT(log->Append(Step(3)), IsOk());

  EXPECT_THAT(Lines(path),
              ElementsAre("manifest", "step 1", "validation 1", "step 2",
                          "validation 2", "resume 2", "step 3"));
}

TEST(MetricsLogTest, DropsALineThatAKillCutShort) {
  const std::string path = Path("torn.jsonl");
  ASSERT_THAT(WriteFileAtomically(path,
                                  "{\"kind\": \"manifest\"}\n"
                                  "{\"kind\": \"step\", \"step\": 1}\n"
                                  "{\"kind\": \"st"),
              IsOk());

  ASSERT_THAT(MetricsLog::Resume(path, 1, {}), IsOk());

  EXPECT_THAT(Lines(path), ElementsAre("manifest", "step 1", "resume 1"));
}

TEST(MetricsLogTest, BeginsTheFileOfARunThatIsResumedElsewhere) {
  const std::string path = Path("elsewhere.jsonl");

  ASSERT_THAT(MetricsLog::Resume(path, 5, {}), IsOk());

  EXPECT_THAT(Lines(path), ElementsAre("manifest"));
}

TEST(MetricsLogTest, KeepsWholeLinesWhenTheDiskIsFull) {
  const std::string path = Path("full.jsonl");
  absl::StatusOr<MetricsLog> log = MetricsLog::Create(path, {});
  ASSERT_THAT(log, IsOk());
  ASSERT_THAT(log->Append(Step(1)), IsOk());

  // A limit on the file's size stands for the full disk: room for half a line.
  const absl::StatusOr<std::string> before = ReadFile(path);
  ASSERT_THAT(before, IsOk());
  rlimit old;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const rlimit tight = {before->size() + 10, old.rlim_max};
  std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &tight), 0);
  const absl::Status status = log->Append(Step(2));
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);

  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr("full.jsonl"));
  EXPECT_THAT(Lines(path), ElementsAre("manifest", "step 1"));
}

}  // namespace
}  // namespace strata
