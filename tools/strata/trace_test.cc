// strata trace, and the flags that record what it reads.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tools/strata/strata_fixture.h"

namespace strata {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Flags = std::vector<std::string>;
using Json = nlohmann::json;

class TraceTest : public StrataTest {
 protected:
  static void SetUpTestSuite() {
    StrataTest::SetUpTestSuite();
    trace_ = new std::string(Folder("train.trace"));
    const Result result = Strata(Train(Folder("recorded"), 7) +
                                 Flags{"--record-routing", *trace_});
    ASSERT_EQ(result.exit_code, 0) << result.err;
  }

  static Json Summary(const std::string& path) {
    const Result result = Strata({"trace", path, "--json"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return Json::parse(result.out);
  }

  Result Evaluate(const Flags& more) {
    return Strata(Flags{"evaluate", "--model", *run_, "--data", *data_,
                        "--tokens", "128"} +
                  more);
  }

  static std::string* trace_;  // Of seven steps of the tiny model.
};

std::string* TraceTest::trace_ = nullptr;

TEST_F(TraceTest, SumsUpATrainingAsItsMetricsDo) {
  const Json json = Summary(*trace_);

  const Json& header = json["header"];
  EXPECT_EQ(header["recorded_by"], "train");
  EXPECT_EQ(header["domains"], Json({"code", "legal", "prose", "technical"}));
  EXPECT_EQ(header["gates"].size(), 4);  // Two layers of two tiers.
  EXPECT_EQ(header["gates"][0]["experts"], 4);
  EXPECT_FALSE(header.contains("weights_hash"));
  const Json& summary = json["summary"];
  EXPECT_EQ(summary["records"], 7);
  EXPECT_EQ(summary["last_step"], 7);
  EXPECT_EQ(summary["tokens"], 7 * 64);
  EXPECT_EQ(summary["damage"], nullptr);

  // Of one step the trainer says the same itself.
  const std::string one = Folder("one.trace");
  const Result result = Strata(Train(Folder("one"), 1) +
                               Flags{"--json", "--record-routing", one});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const double gini = Json::parse(result.out)["last_step"]["experts"]["gini"];
  // Four quotients, added in another order.
  EXPECT_NEAR(Summary(one)["summary"]["mean"]["whole"]["gini"], gini, 1e-12);
}

TEST_F(TraceTest, PrintsATableOfGates) {
  const Result result = Strata({"trace", *trace_});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out,
              AllOf(HasSubstr("records    7, steps 1 to 7, 448 tokens, 1 rank, "
                              "counts\n"),
                    HasSubstr("layer.tier"), HasSubstr("\n1.1 "),
                    HasSubstr("\nall gates "),
                    HasSubstr("tokens that reach each tier: 100.0 %")));
  EXPECT_THAT(result.err, IsEmpty());
}

TEST_F(TraceTest, RecordingChangesNothingOfTheRun) {
  const std::string plain = absl::StrCat(*run_, "/step-000007");
  const std::string recorded =
      absl::StrCat(testing::TempDir(), "/recorded/step-000007");
  for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
    EXPECT_TRUE(ReadAll(fs::path(plain) / file) ==
                ReadAll(fs::path(recorded) / file))
        << file;
  }
}

TEST_F(TraceTest, ReadsADamagedTraceUpToTheDamage) {
  const std::string whole = ReadAll(*trace_);
  const std::string path = Folder("damaged.trace");
  std::string flipped = whole;
  flipped[flipped.size() - 20] ^= 1;  // Of the end mark.
  for (const std::string& damaged :
       {whole.substr(0, whole.size() - 1), flipped}) {
    WriteAll(path, damaged);
    const Result table = Strata({"trace", path});
    EXPECT_EQ(table.exit_code, 1);
    EXPECT_THAT(table.out, HasSubstr("records    7, steps 1 to 7"));
    EXPECT_THAT(table.err, AllOf(HasSubstr("strata: " + path),
                                 HasSubstr("damaged after record 7, at byte")));
    const Result json = Strata({"trace", path, "--json"});
    EXPECT_EQ(json.exit_code, 1);
    EXPECT_EQ(Json::parse(json.out)["summary"]["records"], 7);
    EXPECT_THAT(Json::parse(json.out)["summary"]["damage"].get<std::string>(),
                HasSubstr("at byte"));
  }
}

TEST_F(TraceTest, SaysWhatIsNoTrace) {
  const std::string metrics = absl::StrCat(*run_, "/metrics.jsonl");
  ExpectFailure(Strata({"trace", metrics}), 1,
                {metrics, "is no routing trace", "--record-routing"});
  ExpectFailure(Strata({"trace", "no/such/file"}), 1, {"no/such/file"});
  ExpectFailure(Strata({"trace", *run_}), 1, {*run_, "directory"});
}

TEST_F(TraceTest, TellsAnotherModelsTrace) {
  EXPECT_EQ(Strata({"trace", *trace_, "--model", *run_}).exit_code, 0);
  const std::string other = Folder("other-model");
  ASSERT_EQ(
      Strata(Train(other, 1) + Flags{"--set", "moe.expert_width=8"}).exit_code,
      0);
  ExpectFailure(Strata({"trace", *trace_, "--model", other}), 1,
                {*trace_, "recorded of another model", "config hash", other});

  // Of an evaluation the weights count too: here one step, not seven.
  const std::string trace = Folder("evaluate.trace");
  ASSERT_EQ(Evaluate({"--record-routing", trace}).exit_code, 0);
  EXPECT_EQ(Strata({"trace", trace, "--model", *run_}).exit_code, 0);
  const std::string early = Folder("early");
  ASSERT_EQ(Strata(Train(early, 1)).exit_code, 0);
  ExpectFailure(Strata({"trace", trace, "--model", early}), 1,
                {"recorded with other weights", early});
}

TEST_F(TraceTest, RecordsAnEvaluationWithTokensAndRanks) {
  const std::string trace = Folder("tokens.trace");
  const Result plain = Evaluate({"--json"});
  const Result result = Evaluate({"--json", "--record-routing", trace,
                                  "--record-tokens", "--routing-ranks", "3"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(Json::parse(result.out)["bits_per_byte"],
            Json::parse(plain.out)["bits_per_byte"]);

  const Json json = Summary(trace);
  EXPECT_EQ(json["header"]["recorded_by"], "evaluate");
  EXPECT_EQ(json["header"]["ranks"], 3);
  EXPECT_EQ(json["header"]["tokens"], true);
  EXPECT_EQ(json["summary"]["tokens"], 4 * 128);
}

TEST_F(TraceTest, NeverReplacesATraceUnasked) {
  const std::string before = ReadAll(*trace_);
  ExpectFailure(Evaluate({"--record-routing", *trace_}), 1,
                {*trace_, "exists already", "--overwrite-routing"});
  // Nor does the run go that would have been replaced.
  const std::string out = Folder("guarded");
  ASSERT_EQ(Strata(Train(out, 3)).exit_code, 0);
  ExpectFailure(
      Strata(Train(out, 2) + Flags{"--overwrite", "--record-routing", *trace_}),
      1, {*trace_, "exists already"});
  EXPECT_TRUE(fs::exists(fs::path(out) / "step-000003"));
  EXPECT_TRUE(ReadAll(*trace_) == before);

  const std::string trace = Folder("replaced.trace");
  WriteAll(trace, before);
  ASSERT_EQ(
      Evaluate({"--record-routing", trace, "--overwrite-routing"}).exit_code,
      0);
  EXPECT_EQ(Summary(trace)["header"]["recorded_by"], "evaluate");
}

TEST_F(TraceTest, AResumedRunBeginsANewTrace) {
  const std::string out = Folder("resumed");
  ASSERT_EQ(Strata(Train(out, 4)).exit_code, 0);
  const std::string trace = Folder("resumed.trace");
  const Result result =
      Strata({"train", "--data", *data_, "--out", out, "--resume", "--steps",
              "7", "--record-routing", trace});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const Json summary = Summary(trace)["summary"];
  EXPECT_EQ(summary["first_step"], 5);
  EXPECT_EQ(summary["last_step"], 7);
}

TEST_F(TraceTest, KeepsATraceOfARunThatWasStopped) {
  const std::string out = Folder("stopped");
  const std::string trace = Folder("stopped.trace");
  RunSettings settings;
  settings.interrupt_after = 5;
  settings.run = out;
  ASSERT_EQ(Strata(Train(out, 600) + Flags{"--record-routing", trace}, settings)
                .exit_code,
            130);
  EXPECT_EQ(Summary(trace)["summary"]["records"], NumSteps(out));
}

TEST_F(TraceTest, SaysThatTheDiskIsFullAndLeavesWhatItHas) {
  ExpectFailure(
      Evaluate({"--record-routing", "/dev/full", "--overwrite-routing"}), 1,
      {"/dev/full", "disk full"});
  // 3000 bytes have room for the header alone.
  const std::string trace = Folder("full.trace");
  RunSettings settings;
  settings.max_file_bytes = 3000;
  const Result result =
      Strata(Flags{"evaluate", "--model", *run_, "--data", *data_, "--tokens",
                   "4096", "--record-routing", trace, "--record-tokens"},
             settings);
  ExpectFailure(result, 1, {trace, "File too large"});
  const Result read = Strata({"trace", trace});
  EXPECT_EQ(read.exit_code, 1);
  EXPECT_THAT(read.err, HasSubstr("ends within a frame"));
}

TEST_F(TraceTest, WantsARecordingForItsFlags) {
  for (const char* flag : {"--record-tokens", "--overwrite-routing"}) {
    ExpectFailure(Evaluate({flag}), 2, {flag, "--record-routing"});
  }
  ExpectFailure(Evaluate({"--routing-ranks", "2"}), 2, {"--record-routing"});
  const std::string trace = Folder("ranks.trace");
  ExpectFailure(Evaluate({"--record-routing", trace, "--routing-ranks", "65"}),
                1, {"--routing-ranks is 65; want 1 to 64"});
  ExpectFailure(Evaluate({"--record-routing", trace, "--routing-ranks", "0"}),
                2, {"--routing-ranks", "at least 1"});
  ExpectFailure(Evaluate({"--record-routing", ""}), 2, {"want a file name"});
  EXPECT_FALSE(fs::exists(trace));
}

TEST_F(TraceTest, ReplaysATrainingBitForBit) {
  const std::string trace = Folder("replay.trace");
  const std::string first = Folder("replay-first");
  ASSERT_EQ(Strata(Train(first, 3) +
                   Flags{"--record-routing", trace, "--record-tokens"})
                .exit_code,
            0);
  const std::string again = Folder("replay-again");
  const Result result =
      Strata(Train(again, 3) + Flags{"--replay-routing", trace, "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;

  for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
    EXPECT_TRUE(ReadAll(fs::path(first) / "step-000003" / file) ==
                ReadAll(fs::path(again) / "step-000003" / file))
        << file;
  }
  EXPECT_EQ(Json::parse(result.out)["manifest"]["route"], "replay of " + trace);
}

TEST_F(TraceTest, ReplaysAnEvaluationOnOtherWeights) {
  const std::string trace = Folder("replay-evaluation.trace");
  const Result recorded =
      Evaluate({"--json", "--record-routing", trace, "--record-tokens"});
  ASSERT_EQ(recorded.exit_code, 0) << recorded.err;
  const auto bits = [](const Result& result) {
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return Json::parse(result.out)["bits_per_byte"].get<double>();
  };
  const Result replayed = Evaluate({"--json", "--replay-routing", trace});
  EXPECT_EQ(bits(replayed), bits(recorded));
  EXPECT_EQ(Json::parse(replayed.out)["route"], "replay of " + trace);

  const std::string early = Folder("replay-early");
  ASSERT_EQ(Strata(Train(early, 1)).exit_code, 0);
  const Flags evaluate = {"evaluate", "--model",  early, "--data",
                          *data_,     "--tokens", "128", "--json"};
  EXPECT_NE(bits(Strata(evaluate + Flags{"--replay-routing", trace})),
            bits(Strata(evaluate)));
}

TEST_F(TraceTest, SaysWhatItCannotReplay) {
  ExpectFailure(Evaluate({"--replay-routing", *trace_}), 1,
                {"cannot replay " + *trace_, "--record-tokens"});
  const std::string trace = Folder("cannot-replay.trace");
  ASSERT_EQ(Evaluate({"--record-routing", trace, "--record-tokens"}).exit_code,
            0);
  ExpectFailure(
      Strata(Train(Folder("cannot"), 1) + Flags{"--replay-routing", trace}), 1,
      {trace, "recorded by strata evaluate"});
  ExpectFailure(Evaluate({"--replay-routing", trace, "--record-routing", trace,
                          "--overwrite-routing"}),
                1, {trace, "is the trace that is replayed"});
  ExpectFailure(Evaluate({"--replay-routing", Folder("none")}), 1,
                {Folder("none")});
  const std::string whole = ReadAll(trace);
  WriteAll(trace, whole.substr(0, whole.size() / 2));
  ExpectFailure(Evaluate({"--replay-routing", trace}), 1,
                {trace, "is damaged after record"});
  ExpectFailure(Evaluate({"--replay-routing", ""}), 2, {"want a file name"});
}

TEST_F(TraceTest, ForcesBalance) {
  const Result result = Evaluate({"--json", "--route", "forced-balance"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const Json json = Json::parse(result.out);
  EXPECT_EQ(json["route"], "forced-balance");
  EXPECT_GT(json["experts"]["utilisation"], 0.99);
  const Result plain = Evaluate({"--json", "--route", "gate"});
  ASSERT_EQ(plain.exit_code, 0) << plain.err;
  EXPECT_EQ(Json::parse(plain.out)["route"], "gate");
  EXPECT_NE(Json::parse(plain.out)["bits_per_byte"], json["bits_per_byte"]);

  const Result trained = Strata(Train(Folder("balanced"), 1) +
                                Flags{"--json", "--route", "forced-balance"});
  ASSERT_EQ(trained.exit_code, 0) << trained.err;
  EXPECT_GT(Json::parse(trained.out)["last_step"]["experts"]["utilisation"],
            0.99);
  ExpectFailure(Evaluate({"--route", "even"}), 2,
                {"--route", "\"even\"; want gate or forced-balance"});
  ExpectFailure(Evaluate({"--route", "gate", "--replay-routing", "x"}), 2,
                {"--route", "--replay-routing"});
}

}  // namespace
}  // namespace strata
