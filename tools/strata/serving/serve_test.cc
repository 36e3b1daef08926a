// strata serve, run as a user would.

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "httplib.h"
#include "nlohmann/json.hpp"
#include "tools/strata/serving/serving_process.h"
#include "tools/strata/strata_fixture.h"

namespace strata {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class ServeTest : public StrataTest {};

TEST_F(ServeTest, AnswersUntilSigterm) {
  Serving serving({"--model", *run_, "--name", "mine"});
  ASSERT_GT(serving.port(), 0);
  httplib::Client client("127.0.0.1", serving.port());

  EXPECT_EQ(client.Get("/ready")->status, 200);
  const auto answer = client.Post(
      "/v1/completions",
      json{{"prompt", "the cat"}, {"max_tokens", 8}, {"seed", 1}}.dump(),
      "application/json");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 200) << answer->body;
  EXPECT_EQ(json::parse(answer->body)["model"], "mine");

  EXPECT_EQ(serving.End(), 0);
  EXPECT_THAT(serving.err(), HasSubstr("\"path\":\"/v1/completions\""));
}

TEST_F(ServeTest, TakesOptionsFromAFileThatTheCommandLineOverrides) {
  const std::string file = Folder("serve.json");
  WriteAll(file, R"({"name": "of the file", "max-context": 32,
                     "max-sequences": 4})");
  Serving serving(
      {"--model", *run_, "--config", file, "--name", "of the line"});
  ASSERT_GT(serving.port(), 0);
  httplib::Client client("127.0.0.1", serving.port());
  const json model = json::parse(client.Get("/v1/models")->body)["data"][0];
  EXPECT_EQ(model["id"], "of the line");
  EXPECT_EQ(model["max_model_len"], 32);
  EXPECT_EQ(serving.End(), 0);
}

TEST_F(ServeTest, ServesInEightBitsAtTheEdge) {
  Serving serving({"--model", *run_, "--profile", "edge", "--attention-bits",
                   "5", "--max-sequences", "2"});
  ASSERT_GT(serving.port(), 0);
  EXPECT_THAT(serving.err(), HasSubstr("weights rounded to 8 bits"));
  httplib::Client client("127.0.0.1", serving.port());
  const auto answer = client.Post(
      "/v1/completions", json{{"prompt", "the cat"}, {"max_tokens", 8}}.dump(),
      "application/json");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 200) << answer->body;
  EXPECT_EQ(serving.End(), 0);
}

TEST_F(ServeTest, SaysInOneLineWhatIsWrong) {
  const auto serve = [&](const std::vector<std::string>& args) {
    return Strata(std::vector<std::string>{"serve"} + args);
  };
  ExpectFailure(serve({}), 2, {"--model"});
  ExpectFailure(serve({"--model", "/nowhere"}), 1, {"/nowhere"});
  ExpectFailure(serve({"--model", *run_, "--port", "70000"}), 2, {"--port"});
  ExpectFailure(serve({"--model", *run_, "--max-step-tokens", "3"}), 1,
                {"max_step_tokens is 3; want at least 64"});
  ExpectFailure(serve({"--model", *run_, "--host", "300.1.2.3"}), 1,
                {"cannot listen on 300.1.2.3"});

  ExpectFailure(serve({"--model", *run_, "--cache", "int3"}), 2, {"--cache"});
  ExpectFailure(serve({"--model", *run_, "--attention-bits", "4"}), 1,
                {"the cache is f32; want int8 or int4"});
  const std::string config = Folder("bad.json");
  WriteAll(config, R"({"cache": "int3"})");
  ExpectFailure(serve({"--model", *run_, "--config", config}), 1,
                {config, "no cache is called int3"});
  WriteAll(config, R"({"prot": 1})");
  ExpectFailure(serve({"--model", *run_, "--config", config}), 1,
                {config, "prot"});
  WriteAll(config, R"({"port": "x"})");
  ExpectFailure(serve({"--model", *run_, "--config", config}), 1,
                {config, "port is \"x\""});
  const std::string keys = Folder("keys");
  WriteAll(keys, "sk-plain\n");
  ExpectFailure(serve({"--model", *run_, "--api-keys", keys}), 1,
                {keys, "line 1"});

  Serving other({"--model", *run_});
  ExpectFailure(serve({"--model", *run_, "--port", absl::StrCat(other.port())}),
                1, {"Address already in use"});
  EXPECT_EQ(other.End(), 0);
}

}  // namespace
}  // namespace strata
