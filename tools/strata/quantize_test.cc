// strata quantize, and what reads what it made.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tools/strata/strata_fixture.h"

namespace strata {
namespace {

using ::testing::HasSubstr;
using Flags = std::vector<std::string>;
using Json = nlohmann::json;

using QuantizeTest = StrataTest;

TEST_F(QuantizeTest, MakesAModelThatOtherCommandsRead) {
  const std::string out = Folder("int8");
  const Result quantised =
      Strata({"quantize", "--model", *run_, "--data", *data_, "--out", out,
              "--bits", "8", "--group", "0", "--tokens", "256", "--json"});
  ASSERT_EQ(quantised.exit_code, 0) << quantised.err;
  const Json made = Json::parse(quantised.out);
  EXPECT_LT(made["bytes"], made["source_bytes"].get<double>() / 2);
  for (const Json& weight : made["weights"]) {
    EXPECT_LT(weight["output_error"], 1e-3) << weight;
  }

  const auto bits = [&](const std::string& model) {
    const Result result = Strata({"evaluate", "--model", model, "--data",
                                  *data_, "--tokens", "128", "--json"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return Json::parse(result.out)["bits_per_byte"].get<double>();
  };
  // A checkpoint is evaluated in sequences as long as in training, so it is
  // held to one that has forgotten how long those were.
  const std::string plain = Folder("plain");
  const Result converted = Strata(
      {"convert", *run_ + "/step-000007", plain, "--to-format", "strata"});
  ASSERT_EQ(converted.exit_code, 0) << converted.err;
  EXPECT_NEAR(bits(out), bits(plain), 0.01);

  const Result info = Strata({"info", "--model", out});
  EXPECT_EQ(info.exit_code, 0) << info.err;
  EXPECT_THAT(info.out, HasSubstr("INT8, "));

  const Result text = Strata(
      {"generate", "--model", out, "--prompt", "the", "--max-new-tokens", "8"});
  EXPECT_EQ(text.exit_code, 0) << text.err;

  const Result verified = Strata({"verify", out, out});
  EXPECT_EQ(verified.exit_code, 0) << verified.err;
}

TEST_F(QuantizeTest, SpendsABudgetAndServesItsMixedExperts) {
  const int64_t budget = MixedBudget();
  const std::string out = Folder("mixed");
  const Result mixed =
      Quantize(out, {"--budget-bytes", std::to_string(budget), "--json"});
  ASSERT_EQ(mixed.exit_code, 0) << mixed.err;
  const Json made = Json::parse(mixed.out);
  EXPECT_LE(made["bytes"].get<int64_t>(), budget);
  int64_t some = 0;
  for (const Json& weight : made["weights"]) {
    const auto count = weight["in_8_bits"].get<int64_t>();
    some += count > 0 && count < weight["experts"].get<int64_t>();
  }
  EXPECT_GT(some, 0);

  for (const Flags& command :
       {Flags{"generate", "--model", out, "--prompt", "the", "--max-new-tokens",
              "4"},
        Flags{"verify", out, out}, Flags{"info", "--model", out}}) {
    const Result result = Strata(command);
    EXPECT_EQ(result.exit_code, 0) << command[0] << ": " << result.err;
  }
  ExpectFailure(Quantize(Folder("none"), {"--budget-bytes", "1000"}), 1,
                {"1000", "smallest possible"});
}

TEST_F(QuantizeTest, MakesModelsOfTwoBitsAndOfThreeFormats) {
  const std::string out = Folder("int2");
  const Result two = Quantize(out, {"--bits", "2", "--json"});
  ASSERT_EQ(two.exit_code, 0) << two.err;
  const auto least = Json::parse(two.out)["bytes"].get<int64_t>();
  const Result info = Strata({"info", "--model", out});
  EXPECT_EQ(info.exit_code, 0) << info.err;
  EXPECT_THAT(info.out, HasSubstr("INT2, "));

  const std::string mixed = Folder("two_to_eight");
  const Result spent =
      Quantize(mixed, {"--bits", "2", "--budget-bytes",
                       std::to_string(least + 4000), "--json"});
  ASSERT_EQ(spent.exit_code, 0) << spent.err;
  const Json made = Json::parse(spent.out);
  EXPECT_LE(made["bytes"].get<int64_t>(), least + 4000);
  int64_t in_two = 0, in_more = 0;
  for (const Json& weight : made["weights"]) {
    in_two += weight["in_2_bits"].get<int64_t>();
    in_more += weight["in_4_bits"].get<int64_t>();
    in_more += weight["in_8_bits"].get<int64_t>();
  }
  EXPECT_GT(in_two, 0);
  EXPECT_GT(in_more, 0);
  for (const Flags& model :
       {Flags{mixed}, Flags{out}, Flags{out, "--weights", "f32"}}) {
    Flags command = {"generate",         "--prompt", "the",
                     "--max-new-tokens", "4",        "--model"};
    command.insert(command.end(), model.begin(), model.end());
    const Result result = Strata(command);
    EXPECT_EQ(result.exit_code, 0) << result.err;
  }
  const Result same = Strata({"verify", mixed, mixed});
  EXPECT_EQ(same.exit_code, 0) << same.err;
  const Result other = Strata({"verify", out, mixed});
  EXPECT_EQ(other.exit_code, 1) << other.err;
}

// Of a run of ours, and of a public folder, which says nothing of training.
TEST_F(QuantizeTest, ChoosesByTheLossAndTunesTheRouter) {
  const int64_t budget = MixedBudget();
  const std::string out = Folder("joint"), plain = Folder("plain");
  const Flags by_loss = {"--budget-bytes", std::to_string(budget), "--choose",
                         "loss", "--json"};
  const Result chosen = Quantize(plain, by_loss);
  ASSERT_EQ(chosen.exit_code, 0) << chosen.err;
  const Json before = Json::parse(chosen.out);
  EXPECT_EQ(before["choose"], "loss");
  EXPECT_FALSE(before.contains("router"));
  const Result tuned = Quantize(
      out,
      by_loss + Flags{"--tune-router", "3", "--tune-learning-rate", "0.01"});
  ASSERT_EQ(tuned.exit_code, 0) << tuned.err;
  const Json made = Json::parse(tuned.out);
  EXPECT_LE(made["bytes"].get<int64_t>(), budget);
  EXPECT_EQ(made["bytes"], before["bytes"]);
  EXPECT_EQ(made["weights"], before["weights"]);
  EXPECT_EQ(made["router"]["steps"], 3);
  EXPECT_NE(made["router"]["bits_per_byte"],
            made["router"]["bits_per_byte_before"]);

  const Result verified = Strata({"verify", plain, out});
  EXPECT_EQ(verified.exit_code, 1) << verified.err;
  EXPECT_THAT(verified.out + verified.err, HasSubstr(".gate."));
  const Result text = Strata(
      {"generate", "--model", out, "--prompt", "the", "--max-new-tokens", "4"});
  EXPECT_EQ(text.exit_code, 0) << text.err;

  // In words; and of a folder without a trainer's state.
  const std::string bare = Folder("bare");
  const Result converted = Strata(
      {"convert", *run_ + "/step-000007", bare, "--to-format", "strata"});
  ASSERT_EQ(converted.exit_code, 0) << converted.err;
  const Result words = Strata(
      {"quantize", "--model", bare, "--data", *data_, "--out", Folder("words"),
       "--group", "0", "--method", "clip", "--tokens", "256", "--budget-bytes",
       std::to_string(budget), "--choose", "loss", "--tune-router", "1"});
  EXPECT_EQ(words.exit_code, 0) << words.err;
  EXPECT_THAT(words.out, HasSubstr("Router tuned for 1 steps: "));
}

TEST_F(QuantizeTest, LearnsThroughTheModelAndThenTunesItsRouter) {
  const std::string plain = Folder("plain"), out = Folder("learned");
  const Flags two = {"--bits", "2", "--asymmetric", "--json"};
  const Result first = Quantize(plain, two);
  ASSERT_EQ(first.exit_code, 0) << first.err;
  const Json before = Json::parse(first.out);
  EXPECT_FALSE(before.contains("codes"));

  const Result second =
      Quantize(out, two + Flags{"--learn", "5", "--learn-rate", "0.05",
                                "--tune-router", "2"});
  ASSERT_EQ(second.exit_code, 0) << second.err;
  const Json made = Json::parse(second.out);
  EXPECT_EQ(made["codes"]["steps"], 5);
  EXPECT_LT(made["codes"]["bits_per_byte"],
            made["codes"]["bits_per_byte_before"]);
  // The router is tuned on what was learned.
  EXPECT_EQ(made["router"]["bits_per_byte_before"],
            made["codes"]["bits_per_byte"]);

  // In words, without inputs of calibration.
  const Result words = Strata({"quantize", "--model", *run_, "--data", *data_,
                               "--out", Folder("words"), "--group", "0",
                               "--method", "nearest", "--learn", "1"});
  EXPECT_EQ(words.exit_code, 0) << words.err;
  EXPECT_THAT(words.out, HasSubstr("Codes learned for 1 steps: "));
  EXPECT_THAT(words.out, HasSubstr("the errors above are of before"));
}

TEST_F(QuantizeTest, SaysWhyItCannotChooseOrTune) {
  const std::string out = Folder("refused");
  ExpectFailure(Quantize(out, {"--choose", "loss"}), 2, {"--budget-bytes"});
  ExpectFailure(Quantize(out, {"--tune-learning-rate", "0.1"}), 2,
                {"--tune-router"});
  ExpectFailure(Quantize(out, {"--budget-bytes", "100000", "--choose", "luck"}),
                2, {"--choose", "luck"});
  ExpectFailure(Quantize(out, {"--tune-router", "-1"}), 2, {"--tune-router"});
  ExpectFailure(Quantize(out, {"--learn-rate", "0.1"}), 2, {"--learn"});
  ExpectFailure(Quantize(out, {"--learn", "2", "--learn-rate", "0"}), 2,
                {"--learn-rate"});
  ExpectFailure(Strata({"quantize", "--model", *run_, "--data", *data_, "--out",
                        out, "--budget-bytes", "100000", "--choose", "loss",
                        "--method", "nearest"}),
                1, {"--method nearest"});

  // Of the GPU, and of a model that runs.
  ExpectFailure(Quantize(out, {"--learn", "2", "--precision", "bf16"}), 1,
                {"--precision=bf16", "--device=cuda"});
  ExpectFailure(Quantize(out, {"--precision", "bf16"}), 1,
                {"--precision=bf16", "--device=cuda"});
  ExpectFailure(Strata({"quantize", "--model", *run_, "--out", out, "--method",
                        "nearest", "--device", "cuda"}),
                1, {"--device", "--method nearest"});

  // No gates.
  const std::string dense = Folder("dense");
  const Result trained =
      Strata(Train(dense, 2) +
             Flags{"--set", "num_dense_layers=2", "--set", "dense_width=32"});
  ASSERT_EQ(trained.exit_code, 0) << trained.err;
  ExpectFailure(Strata({"quantize", "--model", dense, "--data", *data_, "--out",
                        out, "--group", "0", "--tune-router", "2"}),
                1, {"no router to be tuned"});

  // Too little text, before any work.
  const std::string little = Folder("little");
  WriteAll(std::filesystem::path(little) / "a" / "a.txt", "a few words\n");
  ExpectFailure(Strata({"quantize", "--model", *run_, "--data", little, "--out",
                        out, "--method", "nearest", "--tune-router", "2"}),
                1, {"too small"});
  ExpectFailure(Strata({"quantize", "--model", *run_, "--data", little, "--out",
                        out, "--method", "nearest", "--learn", "2"}),
                1, {"too small"});
  EXPECT_FALSE(std::filesystem::exists(out));
  EXPECT_FALSE(std::filesystem::exists(out + ".partial"));
}

TEST_F(QuantizeTest, SaysWhatCannotBe) {
  const std::string out = Folder("refused");
  // Rows of 16 columns.
  ExpectFailure(Strata({"quantize", "--model", *run_, "--data", *data_, "--out",
                        out, "--group", "32"}),
                1, {"experts.down_proj", "32", "16"});
  EXPECT_FALSE(std::filesystem::exists(out));
  ExpectFailure(
      Strata({"quantize", "--model", *run_, "--out", out, "--bits", "3"}), 2,
      {"--bits", "3"});
}

}  // namespace
}  // namespace strata
