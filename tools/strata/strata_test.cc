// Runs the program itself, as a user would, on a tiny model and corpus.

#include <sys/wait.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tools/strata/strata_fixture.h"

namespace strata {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;
using Json = nlohmann::json;

// Lines of what a process watched itself by, anew from its start on.
bool IsOfMonitor(const Json& line) {
  return line["kind"] == "alarm" || line["kind"] == "rebalance";
}

// What a run computed: its metrics without times, and without what says which
// process wrote them.
std::vector<std::string> Computed(const std::string& run) {
  std::vector<std::string> lines;
  const std::string text = ReadAll(fs::path(run) / "metrics.jsonl");
  for (const auto line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    Json json = Json::parse(line.begin(), line.end());
    if (json["kind"] == "manifest" || json["kind"] == "resume") continue;
    if (IsOfMonitor(json)) continue;
    json.erase("seconds");
    json.erase("monitor");
    lines.push_back(json.dump());
  }
  return lines;
}

TEST_F(StrataTest, TrainsAndLeavesMetricsAndCheckpoints) {
  std::vector<std::string> kinds;
  const std::string text = ReadAll(fs::path(*run_) / "metrics.jsonl");
  for (const auto line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    const Json json = Json::parse(line.begin(), line.end());
    if (!IsOfMonitor(json)) kinds.push_back(json["kind"]);
    if (json["kind"] == "step") {
      EXPECT_EQ(json["monitor"]["vanishing_index"].size(), 2);
      EXPECT_EQ(json["layer_grad_norms"].size(), 2);
    }
  }
  EXPECT_THAT(kinds,
              ElementsAre("manifest", "step", "step", "step", "step",
                          "validation", "step", "step", "step", "validation"));
  // Of steps 3, 6 and 7 the preset keeps two.
  EXPECT_FALSE(fs::exists(fs::path(*run_) / "step-000003"));
  EXPECT_TRUE(fs::exists(fs::path(*run_) / "step-000006"));
  const Json manifest =
      Json::parse(ReadAll(fs::path(*run_) / "step-000007/manifest.json"));
  for (const char* key : {"commit", "config_hash", "data_hash", "seeds",
                          "machine", "model", "train", "weights_hash"}) {
    EXPECT_TRUE(manifest.contains(key)) << key;
  }
}

TEST_F(StrataTest, ResumesBitForBitAsIfItHadNotStopped) {
  // Stopped after the checkpoint of step 3, of a run of 7; with other threads.
  const std::string out = Folder("resumed");
  ASSERT_EQ(Strata(Train(out, 7) + std::vector<std::string>{"--threads", "1"})
                .exit_code,
            0);
  EXPECT_EQ(Computed(out), Computed(*run_));
  fs::remove_all(fs::path(out) / "step-000007");

  const Result result =
      Strata({"train", "--data", *data_, "--resume", "--out", out, "--json"});

  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(Computed(out), Computed(*run_));
  const Json json = Json::parse(result.out);
  EXPECT_EQ(json["step"], 7);
  EXPECT_EQ(json["stopped"], false);
  for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
    EXPECT_TRUE(ReadAll(fs::path(out) / "step-000007" / file) ==
                ReadAll(fs::path(*run_) / "step-000007" / file))
        << file;
  }
}

TEST_F(StrataTest, StopsOnCtrlCAndGoesOnBitForBit) {
  const std::string whole = Folder("whole");
  ASSERT_EQ(Strata(Train(whole, 600)).exit_code, 0);
  const std::string out = Folder("interrupted");
  RunSettings settings;
  settings.interrupt_after = 5;
  settings.run = out;

  const Result result = Strata(Train(out, 600), settings);

  EXPECT_EQ(result.exit_code, 130) << result.err;
  EXPECT_THAT(result.err, AllOf(HasSubstr("stopped after step"),
                                HasSubstr(absl::StrCat(out, "/step-"))));
  ASSERT_LT(NumSteps(out), 600);
  const Result resumed =
      Strata({"train", "--data", *data_, "--resume", out, "--threads", "1"});
  EXPECT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_EQ(Computed(out), Computed(whole));
}

TEST_F(StrataTest, GuardsARunThatIsThere) {
  const std::string before = ReadAll(fs::path(*run_) / "metrics.jsonl");
  ExpectFailure(Strata(Train(*run_, 7)), 1,
                {*run_, "holds a run", "--resume", "--overwrite"});
  EXPECT_EQ(ReadAll(fs::path(*run_) / "metrics.jsonl"), before);

  const std::string out = Folder("overwritten");
  ASSERT_EQ(Strata(Train(out, 4)).exit_code, 0);
  ASSERT_EQ(
      Strata(Train(out, 2) + std::vector<std::string>{"--overwrite"}).exit_code,
      0);
  EXPECT_EQ(NumSteps(out), 2);
  EXPECT_FALSE(fs::exists(fs::path(out) / "step-000004"));
}

TEST_F(StrataTest, GeneratesTheSameTextForASeed) {
  const std::vector<std::string> args = {
      "generate",         "--model", *run_,    "--prompt", "the caf\xC3\xA9",
      "--max-new-tokens", "40",      "--seed", "3"};

  const Result first = Strata(args);
  const Result again =
      Strata(args + std::vector<std::string>{"--threads", "1"});
  const Result json = Strata(args + std::vector<std::string>{"--json"});

  EXPECT_EQ(first.exit_code, 0) << first.err;
  EXPECT_EQ(first.out, again.out);
  EXPECT_THAT(first.out, EndsWith("\n"));
  EXPECT_THAT(first.err, HasSubstr("new tokens"));
  ASSERT_EQ(json.exit_code, 0) << json.err;
  const Json parsed = Json::parse(json.out);  // Fails if it is not UTF-8.
  const std::string text = parsed["text"];
  EXPECT_TRUE(first.out == text || first.out == text + "\n");
  EXPECT_EQ(parsed["prompt_tokens"], 10);  // With the boundary before it.
  EXPECT_TRUE(parsed["manifest"].contains("weights_hash"));
}

TEST_F(StrataTest, EndsInPeaceWhenNobodyReads) {
  const std::string generate =
      absl::StrCat(kBinary, " generate --model ", *run_,
                   " --prompt a --max-new-tokens 50 2>&1");

  EXPECT_EQ(
      std::system(absl::StrCat(generate, " | head -c 1 >/dev/null").c_str()),
      0);
  // A full disk behind stdout is an error.
  const int status = std::system(
      absl::StrCat(kBinary, " info --preset demo >/dev/full 2>/dev/null")
          .c_str());
  EXPECT_EQ(WEXITSTATUS(status), 1);
}

TEST_F(StrataTest, ReadsThePromptFromAFile) {
  const std::string file = absl::StrCat(::testing::TempDir(), "/prompt.txt");
  WriteAll(file, "the cat");
  const std::vector<std::string> common = {"--model", *run_, "--max-new-tokens",
                                           "9"};

  const Result from_file = Strata(
      std::vector<std::string>{"generate", "--prompt-file", file} + common);
  const Result from_flag = Strata(
      std::vector<std::string>{"generate", "--prompt", "the cat"} + common);

  EXPECT_EQ(from_file.exit_code, 0) << from_file.err;
  EXPECT_EQ(from_file.out, from_flag.out);
}

TEST_F(StrataTest, EvaluatesToWhatTheTrainingMeasured) {
  const Result result = Strata({"evaluate", "--model", *run_, "--data", *data_,
                                "--tokens", "128", "--json"});

  ASSERT_EQ(result.exit_code, 0) << result.err;
  const Json json = Json::parse(result.out);
  const Json last = Json::parse(Computed(*run_).back());
  EXPECT_EQ(json["bits_per_byte"], last["bits_per_byte"]);
  EXPECT_EQ(json["domains"], last["domains"]);
  EXPECT_EQ(json["experts"], last["experts"]);

  const Result table = Strata({"evaluate", "--model", *run_, "--data", *data_});
  EXPECT_EQ(table.exit_code, 0) << table.err;
  EXPECT_THAT(table.out, AllOf(HasSubstr("legal"), HasSubstr("Gini")));
}

TEST_F(StrataTest, ShowsWhatAModelIsMadeOf) {
  const Result text =
      Strata({"info", "--preset", "demo", "--graph", "--memory"});
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_THAT(text.out, AllOf(HasSubstr("routed_experts"), HasSubstr("FLOPs"),
                              HasSubstr("Attention"), HasSubstr("reuse")));

  const Result deepseek = Strata({"info", "--preset", "deepseek-v3", "--json"});
  ASSERT_EQ(deepseek.exit_code, 0) << deepseek.err;
  EXPECT_EQ(Json::parse(deepseek.out)["parameters"]["total"], 671026404352);

  const Result fused =
      Strata({"info", "--preset", "deepseek-v3", "--passes", "--json"});
  ASSERT_EQ(fused.exit_code, 0) << fused.err;
  const Json passes = Json::parse(fused.out)["passes"];
  EXPECT_EQ(passes["after"]["operators"],
            Json({"LatentQkv", "PagedLatentAttendProject", "RoutedExperts"}));
  EXPECT_GT(passes["before"]["launches"], 30);
  EXPECT_EQ(passes["before"]["flops"], passes["after"]["flops"]);
  EXPECT_LT(passes["after"]["step_bytes"], passes["before"]["step_bytes"]);

  const Result own = Strata(
      {"info", "--model", *run_, "--backward", "--json", "--tokens", "64"});
  ASSERT_EQ(own.exit_code, 0) << own.err;
  const Json json = Json::parse(own.out);
  EXPECT_EQ(json["config"]["d_model"], 32);
  EXPECT_TRUE(json["flops_per_token"].contains("weight_gradients"));
  EXPECT_LT(json["memory"]["bytes"], json["memory"]["bytes_without_reuse"]);
}

TEST_F(StrataTest, ComparesTwoModelsInTheDemo) {
  const std::string out = Folder("demo");
  const Result result =
      Strata(std::vector<std::string>{"demo", "--data", *data_, "--out", out,
                                      "--steps", "3", "--seeds", "2"} +
             Tiny());

  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out,
              AllOf(HasSubstr("±"), HasSubstr("no worse than flat: "),
                    HasSubstr("Gini"), HasSubstr("technical"),
                    HasSubstr(" >>>"), HasSubstr("report.json")));
  const Json json = Json::parse(ReadAll(fs::path(out) / "report.json"));
  EXPECT_EQ(json["steps"]["done"], 3);
  EXPECT_EQ(json["samples"].size(), 4);
  for (const Json& model : json["models"]) {
    ASSERT_EQ(model["runs"].size(), 2);
    EXPECT_TRUE(model["summary"].contains("bits_per_byte.prose"));
    EXPECT_NE(model["runs"][0]["weights_hash"],
              model["runs"][1]["weights_hash"]);
    const std::string checkpoint = model["runs"][0]["checkpoint"];
    EXPECT_TRUE(fs::exists(checkpoint));
  }
  EXPECT_EQ(json["verdict"]["hierarchical_no_worse"],
            json["models"][0]["summary"]["bits_per_byte"]["mean"] <=
                json["models"][1]["summary"]["bits_per_byte"]["mean"]);
}

TEST_F(StrataTest, ChoosesTheDemosStepsByTheTimeThereIs) {
  const std::string out = Folder("timed");
  const std::vector<std::string> args =
      std::vector<std::string>{"demo", "--data",    *data_, "--out",
                               out,    "--minutes", "0.1",  "--json"} +
      Tiny();

  const Result result = Strata(args);

  ASSERT_EQ(result.exit_code, 0) << result.err;
  const Json json = Json::parse(result.out);
  EXPECT_EQ(json["steps"]["measured"], true);
  EXPECT_GE(json["steps"]["done"], 1);
}

TEST_F(StrataTest, RefusesWhatTheDeviceLacks) {
  const std::string out = Folder("device");
  ExpectFailure(
      Strata({"train", "--data", *data_, "--out", out, "--precision", "bf16"}),
      1, {"--precision=bf16", "--device=cuda"});
  ExpectFailure(
      Strata({"train", "--data", *data_, "--out", out, "--device", "tpu"}), 2,
      {"--device", "\"tpu\"", "cpu or cuda"});
}

TEST_F(StrataTest, HelpsWhoeverMistypes) {
  ExpectFailure(Strata({"trian"}), 2,
                {"\"trian\"", "did you mean train?", "evaluate", "--help"});
  ExpectFailure(Strata({"xylophone"}), 2,
                {"there are demo, ", "scorecard", "train"});
  ExpectFailure(Strata({}), 2, {"strata --help"});
  ExpectFailure(Strata({"train", "--stepz", "3"}), 2,
                {"--stepz", "strata train --help"});
  ExpectFailure(Strata({"train", "--steps", "0"}), 2,
                {"--steps", "at least 1"});
  ExpectFailure(Strata({"train", "--steps", "many"}), 2, {"--steps"});
  ExpectFailure(Strata({"generate", "--prompt", "x"}), 2, {"--model"});
  ExpectFailure(Strata({"info"}), 2, {"--preset", "--model"});
  ExpectFailure(Strata({"scorecard", "B5", "--expert-bits", "3"}), 2,
                {"--expert-bits"});

  for (const char* command : {"demo", "scorecard", "ablate", "train",
                              "generate", "evaluate", "info", "trace"}) {
    const Result help = Strata({command, "--help"});
    EXPECT_EQ(help.exit_code, 0);
    EXPECT_THAT(help.out,
                AllOf(HasSubstr("Usage: strata"), HasSubstr("--json")));
  }
  const Result version = Strata({"--version"});
  EXPECT_EQ(version.exit_code, 0);
  EXPECT_THAT(version.out, AllOf(StartsWith("strata "), HasSubstr("commit")));
}

TEST_F(StrataTest, NamesWhatIsWrongWithAConfig) {
  ExpectFailure(Strata({"train", "--preset", "huge"}), 1,
                {"\"huge\"", "demo", "small"});
  ExpectFailure(Strata({"info", "--preset", "huge"}), 1, {"\"huge\"", "demo"});
  ExpectFailure(Strata({"train", "--set", "train.stepz=3"}), 1,
                {"stepz", "learning_rate"});
  ExpectFailure(Strata({"train", "--set", "tau=3"}), 1,
                {"\"tau\"", "moe.hierarchical.tau"});
  ExpectFailure(Strata({"train", "--set", "d_model"}), 1, {"d_model", "'='"});
  ExpectFailure(Strata({"train", "--set", "train.steps=x"}), 1, {"steps", "x"});
  const std::string out = Folder("misfit");
  ExpectFailure(
      Strata(Train(out, 1) +
             std::vector<std::string>{"--set", "attention.num_kv_heads=3"}),
      1, {"num_heads", "2", "num_kv_heads", "3"});
  ExpectFailure(
      Strata(Train(out, 1) + std::vector<std::string>{"--set", "seq_len=65"}),
      1, {"seq_len", "65", "64"});
  EXPECT_FALSE(fs::exists(out));
}

TEST_F(StrataTest, NamesWhatIsWrongWithTheData) {
  const std::string out = Folder("no-data");
  const auto train_on = [&](const std::string& data) {
    return Strata(std::vector<std::string>{"train", "--out", out, "--data",
                                           data, "--steps", "1"} +
                  Tiny());
  };
  ExpectFailure(train_on("/no/such/folder"), 1, {"/no/such/folder"});
  const std::string empty = Folder("empty");
  fs::create_directories(empty);
  ExpectFailure(train_on(empty), 1, {empty, "is empty"});
  fs::create_directories(fs::path(empty) / "prose");
  ExpectFailure(train_on(empty), 1, {"prose", "no text"});
  WriteAll(fs::path(empty) / "prose/a.txt", "too short");
  ExpectFailure(train_on(empty), 1, {"prose", "too small"});
  EXPECT_FALSE(fs::exists(out));
}

TEST_F(StrataTest, SaysOnceThatFilesAreNotUtf8) {
  const std::string data = Folder("bytes");
  fs::copy(*data_, data, fs::copy_options::recursive);
  WriteAll(fs::path(data) / "prose/c.txt", std::string(5000, '\xFF') + "a");
  WriteAll(fs::path(data) / "prose/d.txt", std::string(5000, '\xFE') + "b");

  const Result result =
      Strata(std::vector<std::string>{"train", "--out", Folder("bytes-run"),
                                      "--data", data, "--steps", "2"} +
             Tiny());

  EXPECT_EQ(result.exit_code, 0) << result.err;
  const size_t first = result.err.find("not UTF-8");
  ASSERT_NE(first, std::string::npos) << result.err;
  EXPECT_EQ(result.err.find("not UTF-8", first + 1), std::string::npos);
  EXPECT_THAT(result.err, HasSubstr("prose/c.txt"));
}

TEST_F(StrataTest, NamesWhatIsWrongWithACheckpoint) {
  const std::string broken = Folder("broken");
  const fs::path weights = fs::path(broken) / "model.safetensors";
  const auto restore = [&] {
    fs::remove_all(broken);
    fs::copy(fs::path(*run_) / "step-000007", broken);
  };
  const auto generate = [&](const std::string& model) {
    return Strata({"generate", "--model", model, "--prompt", "a"});
  };
  restore();
  ASSERT_EQ(generate(broken).exit_code, 0);

  ExpectFailure(generate("/no/such/model"), 1, {"/no/such/model"});
  ExpectFailure(generate(*data_), 1, {*data_, "config.json"});
  fs::resize_file(weights, fs::file_size(weights) / 2);
  ExpectFailure(generate(broken), 1, {"model.safetensors"});
  fs::resize_file(weights, 3);
  ExpectFailure(generate(broken), 1, {"model.safetensors"});
  fs::remove(weights);
  ExpectFailure(generate(broken), 1, {"model.safetensors"});
  restore();
  WriteAll(weights, std::string(100000, 'x'));
  ExpectFailure(generate(broken), 1, {"model.safetensors"});
  restore();
  WriteAll(fs::path(broken) / "config.json", "{\"architectures\": [");
  ExpectFailure(generate(broken), 1, {"config.json"});
  // Another program's model.
  WriteAll(fs::path(broken) / "config.json",
           "{\"architectures\": [\"LlamaForCausalLM\"]}");
  ExpectFailure(generate(broken), 1, {"LlamaForCausalLM", "config.json"});
}

TEST_F(StrataTest, NamesWhatCannotBeResumed) {
  const std::string out = Folder("none");
  ExpectFailure(Strata({"train", "--data", *data_, "--out", out, "--resume"}),
                1, {"no checkpoint", out});
  // Of another model, and of other data.
  const std::string checkpoint = absl::StrCat(*run_, "/step-000006");
  ExpectFailure(Strata({"train", "--data", *data_, "--out", out, "--resume",
                        checkpoint, "--set", "d_model=64"}),
                1, {checkpoint, "another model"});
  const std::string data = Folder("other-data");
  fs::copy(*data_, data, fs::copy_options::recursive);
  WriteAll(fs::path(data) / "prose/c.txt", "more");
  ExpectFailure(
      Strata({"train", "--data", data, "--out", out, "--resume", checkpoint}),
      1, {checkpoint, "other data"});
  EXPECT_FALSE(fs::exists(out));
}

TEST_F(StrataTest, KeepsEarlierCheckpointsWhenTheDiskIsFull) {
  const std::string out = Folder("full");
  ASSERT_EQ(Strata(Train(out, 3)).exit_code, 0);
  const std::string before =
      ReadAll(fs::path(out) / "step-000003/model.safetensors");
  RunSettings settings;
  // Room for metrics, not for weights.
  settings.max_file_bytes = static_cast<int64_t>(before.size()) / 2;

  const Result result = Strata(
      {"train", "--data", *data_, "--out", out, "--resume", "--steps", "5"},
      settings);

  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, AllOf(HasSubstr("strata: "), HasSubstr("step-000003"),
                                HasSubstr("safetensors")));
  EXPECT_EQ(ReadAll(fs::path(out) / "step-000003/model.safetensors"), before);
  EXPECT_FALSE(fs::exists(fs::path(out) / "step-000005"));
  ASSERT_EQ(Strata({"train", "--data", *data_, "--out", out, "--resume",
                    "--steps", "5"})
                .exit_code,
            0);
  EXPECT_EQ(NumSteps(out), 5);
}

TEST_F(StrataTest, StopsAtALossThatIsNoNumber) {
  const std::string out = Folder("nan");
  fs::copy(*run_, out, fs::copy_options::recursive);
  const std::string checkpoint = absl::StrCat(out, "/step-000007");
  // The last weights of the file are made no numbers.
  std::string weights = ReadAll(fs::path(checkpoint) / "model.safetensors");
  for (size_t i = weights.size() - 64; i < weights.size(); i += 4) {
    weights.replace(i, 4, std::string("\0\0\xC0\x7F", 4));
  }
  WriteAll(fs::path(checkpoint) / "model.safetensors", weights);

  const Result result = Strata(
      {"train", "--data", *data_, "--resume", checkpoint, "--steps", "9"});

  ExpectFailure(result, 1,
                {"step 8", "nan", "the last good checkpoint", checkpoint});
}

}  // namespace
}  // namespace strata
