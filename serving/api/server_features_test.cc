// What the server offers beyond completions: schemas, embeddings, tensors,
// rates, versions, the monitor.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/sha256.h"
#include "core/cpu/batch_invariant.h"
#include "core/cpu/cpu_backend.h"
#include "core/model/config.pb.h"
#include "core/runtime/state_store.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "httplib.h"
#include "nlohmann/json.hpp"
#include "serving/api/api_keys.h"
#include "serving/api/served_model.h"
#include "serving/api/server.h"
#include "serving/api/server_fixture.h"
#include "serving/engine/engine.h"
#include "serving/engine/tiny_models.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

TEST_F(ServerTest, LimitsTheRequestsOfEachKey) {
  ServerOptions options;
  auto keys = ApiKeys::Parse(Sha256Hex("one") + "\n" + Sha256Hex("two") + "\n");
  ASSERT_THAT(keys, IsOk());
  options.keys = *std::move(keys);
  options.requests_per_minute = 2;
  Start(options);
  const auto ask = [&](const std::string& key) {
    return Client().Post("/tokenize", {{"Authorization", "Bearer " + key}},
                         R"({"prompt": "a"})", "application/json");
  };
  EXPECT_EQ(ask("one")->status, 200);
  EXPECT_EQ(ask("one")->status, 200);
  const auto refused = ask("one");
  EXPECT_EQ(refused->status, 429);
  EXPECT_THAT(refused->body, HasSubstr("rate_limit_error"));
  EXPECT_NE(refused->get_header_value("Retry-After"), "");
  EXPECT_EQ(ask("two")->status, 200) << "who has done nothing";
}

TEST_F(ServerTest, WritesJsonOfASchema) {
  Start();
  const Json schema = Json::parse(R"({"type": "object",
      "required": ["colour", "size"], "properties":
      {"colour": {"enum": ["red", "green"]},
       "size": {"type": "integer", "minimum": 1, "maximum": 20},
       "tags": {"type": "array", "maxItems": 2,
                "items": {"type": "string", "maxLength": 5}}}})");
  const Json body = {
      {"prompt", "x"},
      {"max_tokens", 400},
      {"n", 4},
      {"logprobs", 1},
      {"response_format",
       {{"type", "json_schema"},
        {"json_schema", {{"name", "thing"}, {"schema", schema}}}}}};
  const Json answer = Ask("/v1/completions", body);
  ASSERT_EQ(answer["choices"].size(), 4);
  for (const Json& choice : answer["choices"]) {
    const std::string text = choice["text"];
    EXPECT_EQ(choice["finish_reason"], "stop") << text;
    const Json value = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    ASSERT_TRUE(value.is_object()) << text;
    EXPECT_TRUE(value["colour"] == "red" || value["colour"] == "green");
    EXPECT_TRUE(value["size"] >= 1 && value["size"] <= 20) << text;
  }
  // A stream gives the same; without a stop token in the model's vocabulary
  // the answer ends with its last bracket all the same.
  Json one = body;
  one.update({{"n", 1}, {"seed", 7}, {"ignore_eos", true}});
  const Json whole = Ask("/v1/completions", one);
  std::string streamed;
  for (const Json& event : Stream("/v1/completions", one)) {
    streamed += event["choices"][0]["text"].get<std::string>();
  }
  EXPECT_EQ(whole["choices"][0]["text"], streamed);
  EXPECT_TRUE(Json::accept(streamed)) << streamed;

  const auto message = [&](const Json& format) {
    return Ask("/v1/completions",
               {{"prompt", "x"}, {"response_format", format}},
               400)["error"]["message"]
        .get<std::string>();
  };
  EXPECT_THAT(message({{"type", "xml"}}), HasSubstr("response_format.type"));
  EXPECT_THAT(message("json"), HasSubstr("response_format is \"json\""));
  EXPECT_THAT(message({{"type", "json_schema"}}),
              HasSubstr("response_format.json_schema is null"));
  EXPECT_THAT(
      message({{"type", "json_schema"},
               {"json_schema",
                {{"schema",
                  {{"type", "array"}, {"minItems", 2}, {"maxItems", 1}}}}}}),
      HasSubstr("response_format.json_schema.schema: minItems is 2"));
}

TEST_F(ServerTest, EmbedsTextsAtLengthOne) {
  Start();
  const Json answer = Ask("/v1/embeddings", {{"input", {"one", "two", "one"}}});
  ASSERT_EQ(answer["data"].size(), 3);
  const auto vector = [](const Json& data) {
    return data["embedding"].get<std::vector<double>>();
  };
  const std::vector<double> first = vector(answer["data"][0]);
  double length = 0;
  for (const double x : first) length += x * x;
  EXPECT_NEAR(length, 1, 1e-5);
  EXPECT_EQ(first, vector(answer["data"][2]));
  EXPECT_NE(first, vector(answer["data"][1]));
  EXPECT_EQ(answer["usage"]["prompt_tokens"], 12);  // A boundary each.

  const Json encoded =
      Ask("/v1/embeddings", {{"input", "one"}, {"encoding_format", "base64"}});
  std::string bytes;
  ASSERT_TRUE(absl::Base64Unescape(
      encoded["data"][0]["embedding"].get<std::string>(), &bytes));
  ASSERT_EQ(bytes.size(), first.size() * sizeof(float));
  float x = 0;
  std::memcpy(&x, bytes.data(), sizeof(x));
  EXPECT_FLOAT_EQ(x, first[0]);

  EXPECT_THAT(Ask("/v1/embeddings", {{"input", 3}}, 400).dump(),
              HasSubstr("input is 3"));
  EXPECT_THAT(
      Ask("/v1/embeddings", {{"input", "a"}, {"dimensions", 7}}, 400).dump(),
      HasSubstr("dimensions is 7"));
}

TEST_F(ServerTest, SpeaksTheOpenInferenceProtocol) {
  Start();
  const Json tensor = {{"name", "ids"},
                       {"datatype", "INT32"},
                       {"shape", {2, 3}},
                       {"data", {{1, 2, 3}, {4, 5, 6}}}};
  const Json answer =
      Ask("/v2/models/tiny/infer", {{"id", "a"}, {"inputs", {tensor}}});
  EXPECT_EQ(answer["id"], "a");
  EXPECT_EQ(answer["model_version"], "v1");
  ASSERT_EQ(answer["outputs"].size(), 2);
  EXPECT_EQ(answer["outputs"][0]["name"], "logits");
  EXPECT_EQ(answer["outputs"][0]["shape"], Json({2, 256}));
  EXPECT_EQ(answer["outputs"][0]["data"].size(), 512);
  // The likeliest next token is the one that temperature 0 draws.
  std::vector<float> logits;
  for (int i = 0; i < 256; ++i) {
    logits.push_back(answer["outputs"][0]["data"][256 + i]);
  }
  const Json drawn = Ask("/v1/completions", {{"prompt", {4, 5, 6}},
                                             {"max_tokens", 1},
                                             {"temperature", 0},
                                             {"logprobs", 0},
                                             {"ignore_eos", true}});
  const auto best = std::max_element(logits.begin(), logits.end());
  EXPECT_EQ(drawn["choices"][0]["logprobs"]["tokens"][0],
            codec_->Show(static_cast<int32_t>(best - logits.begin())));

  const auto message = [&](Json change) {
    Json wrong = tensor;
    wrong.update(change);
    return Ask("/v2/models/tiny/infer", {{"inputs", {wrong}}}, 400).dump();
  };
  EXPECT_THAT(message({{"datatype", "FP32"}}), HasSubstr("datatype of ids"));
  EXPECT_THAT(message({{"shape", {7}}}), HasSubstr("6 numbers; want 7"));
  EXPECT_THAT(message({{"data", {1, 2, 3, 4, 5, 600}}}), HasSubstr("has 600"));
  EXPECT_THAT(message({{"name", "x"}}), HasSubstr("tensor"));
  EXPECT_EQ(Post("/v2/models/other/infer", "{}")->status, 404);
  EXPECT_EQ(Client().Get("/v2/health/ready")->status, 200);
  EXPECT_EQ(Client().Get("/v2/models/tiny")->status, 200);
}

// Twelve clients ask on while versions come and go: every answer is whole, of
// one version, and none is refused.
TEST_F(ServerTest, SwapsVersionsWithoutLosingARequest) {
  struct Version {
    Version() : backend(1, BatchInvariantCpuKernels()), state(backend) {}
    CpuBackend backend;
    StateStore state;
    std::unique_ptr<Engine> engine;
  };
  ServerOptions options;
  auto keys = ApiKeys::Parse(Sha256Hex("admin"));
  ASSERT_THAT(keys, IsOk());
  options.admin_keys = *std::move(keys);
  options.load = [&](const std::string& path)
      -> absl::StatusOr<std::shared_ptr<ServedModel>> {
    if (path == "nowhere") return absl::NotFoundError("nowhere is not there");
    auto version = std::make_shared<Version>();
    EngineOptions engine;
    engine.max_sequences = 8;
    engine.block_size = 4;
    auto created =
        Engine::Create(Config(256), version->backend, version->state, engine);
    if (!created.ok()) return created.status();
    version->engine = *std::move(created);
    FillState<float>(Config(256), version->state);
    return std::make_shared<ServedModel>(*codec_, *version->engine, path,
                                         version);
  };
  Start(options);
  const auto admin = [&](const std::string& path, const std::string& body,
                         const std::string& key) {
    return Client().Post(path, {{"Authorization", "Bearer " + key}}, body,
                         "application/json");
  };
  std::atomic<bool> done{false};
  std::atomic<int> answers{0}, failures{0};
  absl::Mutex mutex;
  std::set<std::string> seen;
  std::vector<std::thread> clients;
  for (int i = 0; i < 12; ++i) {
    clients.emplace_back([&, i] {
      httplib::Client client = Client();
      while (!done) {
        const auto answer = client.Post(
            "/v1/completions",
            Json{{"prompt", "x"}, {"max_tokens", 20}, {"seed", i}}.dump(),
            "application/json");
        ++answers;
        if (!answer || answer->status != 200) {
          ++failures;
          continue;
        }
        const absl::MutexLock lock(&mutex);
        seen.insert(Json::parse(answer->body)["system_fingerprint"]);
      }
    });
  }
  const auto wait_for = [&](int more) {
    const int until = answers + more;
    while (answers < until) absl::SleepFor(absl::Milliseconds(2));
  };
  wait_for(20);
  EXPECT_EQ(admin("/admin/load", R"({"path": "v2"})", "other")->status, 401);
  EXPECT_EQ(admin("/admin/rollback", "{}", "admin")->status, 400);
  EXPECT_EQ(admin("/admin/load", R"({"path": "nowhere"})", "admin")->status,
            404);
  for (const char* path : {"v2", "v3", "v4"}) {
    EXPECT_EQ(
        admin("/admin/load", Json{{"path", path}}.dump(), "admin")->status,
        200);
    wait_for(20);
  }
  const auto back = admin("/admin/rollback", "{}", "admin");
  EXPECT_EQ(back->status, 200);
  EXPECT_EQ(Json::parse(back->body)["version"], "v3");
  wait_for(40);
  done = true;
  for (std::thread& client : clients) client.join();

  EXPECT_EQ(failures, 0) << "of " << answers;
  EXPECT_THAT(seen, testing::ElementsAre("v1", "v2", "v3", "v4"));
  EXPECT_EQ(server_->versions().Current()->version, "v3");
  // What versions that are gone answered still counts.
  const auto ended = [&] {
    return Metric("strata:request_success_total",
                  "finished_reason=\"length\"") +
           Metric("strata:request_success_total", "finished_reason=\"stop\"");
  };
  // The engine says so a little after the last answer has.
  const absl::Time give_up = absl::Now() + absl::Seconds(30);
  while (ended() < answers && absl::Now() < give_up) {
    absl::SleepFor(absl::Milliseconds(2));
  }
  EXPECT_EQ(ended(), answers);
}

TEST_F(ServerTest, WatchesItsExpertsAndTellsOfAlarms) {
  ServerOptions options;
  options.monitor_period = absl::Milliseconds(20);
  options.ranks.num_ranks = 2;
  Start(options);
  Ask("/v1/completions", Long());
  while (!absl::StrContains(Client().Get("/metrics")->body, "tier=\"0\"")) {
    absl::SleepFor(absl::Milliseconds(10));
  }
  const double rate = Metric("strata:expert_activation_rate", "tier=\"0\"");
  const FlatRouterConfig router = Config(256).moe().flat();
  EXPECT_NEAR(rate, static_cast<double>(router.k()) / router.num_experts(),
              1e-6)
      << "each token takes k experts";
  EXPECT_GE(Metric("strata:rank_load_max_over_mean", "over=\"worst\""), 1);
  const Json alarms = Json::parse(Client().Get("/alarms")->body);
  EXPECT_TRUE(alarms["alarms"].is_array());
}

}  // namespace
}  // namespace strata
