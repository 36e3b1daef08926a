#include "serving/api/server.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/files.h"
#include "core/base/sha256.h"
#include "core/cpu/batch_invariant.h"
#include "core/cpu/cpu_backend.h"
#include "core/model/config.pb.h"
#include "core/runtime/state_store.h"
#include "core/testing/status_matchers.h"
#include "core/tokenizer/byte_level.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "httplib.h"
#include "nlohmann/json.hpp"
#include "serving/api/api_keys.h"
#include "serving/api/served_model.h"
#include "serving/api/server_fixture.h"
#include "serving/api/text_codec.h"
#include "serving/engine/engine.h"
#include "serving/engine/tiny_models.h"

namespace strata {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST_F(ServerTest, CompletesATextAndStreamsTheSame) {
  Start();
  const Json body = {{"model", "tiny"},  {"prompt", "the quick"},
                     {"max_tokens", 24}, {"temperature", 0.7},
                     {"seed", 5},        {"ignore_eos", true}};

  const Json whole = Ask("/v1/completions", body);
  const std::vector<Json> events = Stream("/v1/completions", body);

  EXPECT_EQ(whole["object"], "text_completion");
  EXPECT_EQ(whole["model"], "tiny");
  EXPECT_EQ(whole["choices"][0]["finish_reason"], "length");
  // The boundary and nine bytes.
  EXPECT_EQ(whole["usage"], Json({{"prompt_tokens", 10},
                                  {"completion_tokens", 24},
                                  {"total_tokens", 34}}));
  std::string streamed;
  for (const Json& event : events) {
    streamed += event["choices"][0]["text"].get<std::string>();
  }
  EXPECT_EQ(whole["choices"][0]["text"], streamed);
  EXPECT_FALSE(streamed.empty());
  EXPECT_EQ(events.back()["choices"][0]["finish_reason"], "length");
  EXPECT_TRUE(events.front()["choices"][0]["finish_reason"].is_null());
}

TEST_F(ServerTest, ManyAtOnceAnswerAsOneAlone) {
  Start();
  std::mt19937 rng(1);
  std::vector<Json> bodies;
  std::vector<std::string> alone;
  for (int i = 0; i < 24; ++i) {
    std::string prompt = rng() % 2 == 0 ? "a common beginning of texts " : "";
    for (int j = rng() % 40; j >= 0; --j) prompt += 'a' + rng() % 26;
    Json body = {{"prompt", prompt},
                 {"max_tokens", 1 + rng() % 30},
                 {"temperature", rng() % 3 * 0.5},
                 {"seed", i},
                 {"ignore_eos", true},
                 {"logprobs", 2}};
    bodies.push_back(body);
    alone.push_back(Ask("/v1/completions", body)["choices"].dump());
  }
  std::vector<std::string> together(bodies.size());
  std::vector<std::thread> clients;
  for (size_t i = 0; i < bodies.size(); ++i) {
    clients.emplace_back([&, i] {
      together[i] = Ask("/v1/completions", bodies[i])["choices"].dump();
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(together, alone);
}

TEST_F(ServerTest, SeveralPromptsAndChoicesHaveIndexesInOrder) {
  Start();
  Json body = {{"prompt", {"one", "two"}},
               {"n", 2},
               {"max_tokens", 6},
               {"seed", 3},
               {"echo", true},
               {"ignore_eos", true}};
  const Json choices = Ask("/v1/completions", body)["choices"];
  ASSERT_EQ(choices.size(), 4);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(choices[i]["index"], i);
    EXPECT_TRUE(absl::StartsWith(choices[i]["text"].get<std::string>(),
                                 i < 2 ? "one" : "two"));
  }
  std::vector<std::string> streamed(4);
  for (const Json& event : Stream("/v1/completions", body)) {
    const Json& choice = event["choices"][0];
    streamed[choice["index"]] += choice["text"].get<std::string>();
  }
  for (int i = 0; i < 4; ++i) EXPECT_EQ(choices[i]["text"], streamed[i]);
}

TEST_F(ServerTest, StopStringsEndTheTextBeforeThem) {
  Start();
  Json body = {{"prompt", "x"},
               {"max_tokens", 60},
               {"seed", 2},
               {"temperature", 1.0},
               {"ignore_eos", true}};
  const std::string text = Ask("/v1/completions", body)["choices"][0]["text"];
  // Some characters in the midst of it (of whole UTF-8, U+FFFD or ASCII).
  size_t at = text.size() / 2;
  while (at < text.size() && (text[at] & 0x80) != 0) ++at;
  ASSERT_LT(at + 1, text.size());
  const std::string stop = text.substr(at, 1);
  body["stop"] = {"never in it", stop};

  const Json choice = Ask("/v1/completions", body)["choices"][0];

  EXPECT_EQ(choice["text"], text.substr(0, text.find(stop)));
  EXPECT_EQ(choice["finish_reason"], "stop");
  std::string streamed;
  for (const Json& event : Stream("/v1/completions", body)) {
    streamed += event["choices"][0]["text"].get<std::string>();
  }
  EXPECT_EQ(streamed, choice["text"]);
}

TEST_F(ServerTest, TellsLogprobsAndUsageWhenAsked) {
  Start();
  const Json body = {{"prompt", "x"},
                     {"max_tokens", 3},
                     {"temperature", 0},
                     {"logprobs", 2},
                     {"ignore_eos", true}};
  const Json logprobs = Ask("/v1/completions", body)["choices"][0]["logprobs"];
  ASSERT_EQ(logprobs["tokens"].size(), 3);
  for (int i = 0; i < 3; ++i) {
    // Greedy: the token is the likeliest one.
    double largest = -1e9;
    for (const auto& [token, value] : logprobs["top_logprobs"][i].items()) {
      largest = std::max(largest, value.get<double>());
    }
    EXPECT_EQ(logprobs["token_logprobs"][i], largest);
  }
  Json streamed = body;
  streamed["stream_options"] = {{"include_usage", true}};
  const std::vector<Json> events = Stream("/v1/completions", streamed);
  EXPECT_EQ(events.back()["usage"]["completion_tokens"], 3);
  EXPECT_TRUE(events.back()["choices"].empty());
}

TEST_F(ServerTest, ChatsByTheModelsTemplateAndStreamsTheSame) {
  const std::string dir = testing::TempDir() + "/chat";
  std::filesystem::create_directories(dir);
  // A token for each byte, and one that begins the assistant's turn.
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", false}};
  Json tokenizer = {{"pre_tokenizer", byte_level},
                    {"decoder", byte_level},
                    {"model", {{"type", "BPE"}, {"merges", Json::array()}}},
                    {"added_tokens", Json::array({{{"id", 256},
                                                   {"content", "<a>"},
                                                   {"single_word", false},
                                                   {"lstrip", false},
                                                   {"rstrip", false},
                                                   {"normalized", false},
                                                   {"special", true}}})}};
  for (int byte = 0; byte < 256; ++byte) {
    const std::string text(1, static_cast<char>(byte));
    tokenizer["model"]["vocab"][ToByteLevel(text)] = byte;
  }
  ASSERT_THAT(WriteFileAtomically(dir + "/tokenizer.json", tokenizer.dump()),
              IsOk());
  ASSERT_THAT(WriteFileAtomically(dir + "/chat_template.jinja",
                                  "{% for m in messages %}{{ m.role }}: {{ "
                                  "m.content }}{% endfor %}<a>"),
              IsOk());
  ASSERT_THAT(WriteFileAtomically(dir + "/tokenizer_config.json", "{}"),
              IsOk());
  Start({}, /*max_sequences=*/8, dir, /*vocab_size=*/257);
  const Json body = {
      {"messages", Json::array({{{"role", "user"}, {"content", "hi"}}})},
      {"max_completion_tokens", 12},
      {"seed", 4},
      {"logprobs", true},
      {"top_logprobs", 2}};

  const Json whole = Ask("/v1/chat/completions", body);
  const std::vector<Json> events = Stream("/v1/chat/completions", body);

  EXPECT_EQ(whole["object"], "chat.completion");
  EXPECT_EQ(whole["usage"]["prompt_tokens"], 9) << "user: hi and <a>";
  const Json& choice = whole["choices"][0];
  EXPECT_EQ(choice["message"]["role"], "assistant");
  EXPECT_EQ(choice["logprobs"]["content"].size(), 12);
  EXPECT_EQ(choice["logprobs"]["content"][0]["top_logprobs"].size(), 2);
  std::string streamed;
  for (const Json& event : events) {
    EXPECT_EQ(event["object"], "chat.completion.chunk");
    streamed += event["choices"][0]["delta"].value("content", "");
  }
  EXPECT_EQ(events[0]["choices"][0]["delta"]["role"], "assistant");
  EXPECT_EQ(choice["message"]["content"], streamed);
}

TEST_F(ServerTest, ListsItsModelAndItsState) {
  Start();
  EXPECT_EQ(Json::parse(Client().Get("/v1/models")->body)["data"][0]["id"],
            "tiny");
  EXPECT_EQ(Json::parse(Client().Get("/v1/models/tiny")->body)["id"], "tiny");
  EXPECT_EQ(Client().Get("/v1/models/other")->status, 404);
  EXPECT_EQ(Client().Get("/health")->status, 200);
  EXPECT_EQ(Client().Get("/ready")->status, 200);
  EXPECT_EQ(Ask("/tokenize", {{"prompt", "ab"}})["tokens"],
            Json({0, 'a', 'b'}));
}

TEST_F(ServerTest, RejectsWhatIsWrongAndNamesTheField) {
  Start();
  const auto message = [&](const std::string& body, int status = 400) {
    const auto result = Post("/v1/completions", body);
    EXPECT_EQ(result->status, status) << body;
    const Json json = Json::parse(result->body, nullptr, false);
    EXPECT_TRUE(json.contains("error")) << result->body;
    return json["error"].value("message", "");
  };
  EXPECT_THAT(message("{"), HasSubstr("not JSON"));
  EXPECT_THAT(message("{\"prompt\": \"\xff\"}"), HasSubstr("not JSON"));
  EXPECT_THAT(message("[1]"), HasSubstr("want an object"));
  EXPECT_THAT(message(std::string(5000, '[')), HasSubstr("too deep"));
  EXPECT_THAT(message("{}"), HasSubstr("prompt is null"));
  EXPECT_THAT(message(R"({"prompt": 7})"), HasSubstr("prompt is 7"));
  EXPECT_THAT(message(R"({"prompt": [300]})"), HasSubstr("token 300"));
  EXPECT_THAT(message(R"({"prompt": ["a", [1]]})"), HasSubstr("one kind"));
  EXPECT_THAT(message(R"({"prompt": "a", "max_tokens": -1})"),
              HasSubstr("max_tokens is -1"));
  EXPECT_THAT(message(R"({"prompt": "a", "max_tokens": 1e30})"),
              HasSubstr("max_tokens is"));
  EXPECT_THAT(message(R"({"prompt": "a", "temperature": "hot"})"),
              HasSubstr("temperature is \"hot\""));
  EXPECT_THAT(message(R"({"prompt": "a", "temperature": -1})"),
              HasSubstr("temperature is -1"));
  EXPECT_THAT(message(R"({"prompt": "a", "top_p": 0})"),
              HasSubstr("top_p is 0"));
  EXPECT_THAT(message(R"({"prompt": "a", "n": 0})"), HasSubstr("n is 0"));
  EXPECT_THAT(message(R"({"prompt": "a", "n": 60})"), HasSubstr("n is 60"));
  EXPECT_THAT(message(R"({"prompt": "a", "stop": [""]})"),
              HasSubstr("stop has"));
  EXPECT_THAT(message(R"({"prompt": "a", "logit_bias": {"x": 1}})"),
              HasSubstr("logit_bias"));
  EXPECT_THAT(message(R"({"prompt": "a", "logit_bias": {"999": 1}})"),
              HasSubstr("token 999"));
  EXPECT_THAT(message(R"({"prompt": "a", "temprature": 1})"),
              HasSubstr("temprature"));
  EXPECT_THAT(message(R"({"prompt": "a", "best_of": 4})"),
              HasSubstr("best_of"));
  EXPECT_THAT(message(R"({"prompt": "a", "timeout": 0})"),
              HasSubstr("timeout is 0"));
  EXPECT_THAT(message(R"({"prompt": "a", "model": "gpt"})", 404),
              HasSubstr("model \"gpt\""));
  EXPECT_THAT(message(Json{{"prompt", std::string(600, 'a')}}.dump()),
              HasSubstr("601 tokens"));
  EXPECT_EQ(Post("/v1/nothing", "{}")->status, 404);
  EXPECT_THAT(Ask("/v1/chat/completions",
                  {{"messages", {{{"role", "user"}, {"content", "hi"}}}}},
                  400)["error"]["message"]
                  .get<std::string>(),
              HasSubstr("no chat template"));
  EXPECT_THAT(Ask("/v1/chat/completions", {{"messages", {{{"role", 3}}}}},
                  400)["error"]["message"]
                  .get<std::string>(),
              HasSubstr("messages[0].role is 3"));
}

TEST_F(ServerTest, RefusesABodyThatIsTooLarge) {
  ServerOptions options;
  options.max_body_bytes = 1000;
  Start(options);
  const auto result =
      Post("/v1/completions", Json{{"prompt", std::string(2000, 'a')}}.dump());
  ASSERT_TRUE(result);
  EXPECT_EQ(result->status, 413);
  EXPECT_THAT(result->body, HasSubstr("too large"));
}

TEST_F(ServerTest, WantsAKeyIfThereAreSome) {
  ServerOptions options;
  auto keys = ApiKeys::Parse(Sha256Hex("secret") + " somebody\n");
  ASSERT_THAT(keys, IsOk());
  options.keys = *std::move(keys);
  Start(options);
  const auto status = [&](const std::string& header) {
    httplib::Headers headers;
    if (!header.empty()) headers.emplace("Authorization", header);
    return Client().Get("/v1/models", headers)->status;
  };
  EXPECT_EQ(status(""), 401);
  EXPECT_EQ(status("Bearer secre"), 401);
  EXPECT_EQ(status("secret"), 401);
  EXPECT_EQ(status("Bearer secret"), 200);
  EXPECT_EQ(Post("/v1/completions", "{}")->status, 401);
  EXPECT_EQ(Client().Get("/health")->status, 200);
}

TEST_F(ServerTest, AClientThatLeavesEndsItsRequest) {
  Start({}, /*max_sequences=*/1);
  // Twenty others keep the engine busy for thousands of steps.
  std::vector<std::thread> others;
  for (int i = 0; i < 20; ++i) {
    others.emplace_back([&] { Post("/v1/completions", Long().dump()); });
  }
  while (Metric("strata:num_requests_waiting") < 15) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  // A stream that is given up at its first event, and one who hangs up without
  // having heard anything.
  for (const bool stream : {true, false}) {
    httplib::Client client = Client();
    // Far less than those before it take, however fast the engine is.
    client.set_read_timeout(0, 5000);
    Json body = Long();
    body["stream"] = stream;
    httplib::Request request;
    request.method = "POST";
    request.path = "/v1/completions";
    request.body = body.dump();
    request.set_header("Content-Type", "application/json");
    httplib::Response response;
    httplib::Error error;
    EXPECT_FALSE(client.send(request, response, error)) << "came in time";
  }

  const absl::Time until = absl::Now() + absl::Seconds(30);
  double aborted = 0;
  while (aborted < 2 && absl::Now() < until) {
    absl::SleepFor(absl::Milliseconds(20));
    aborted = Metric("strata:request_success_total", "reason=\"abort\"");
  }
  EXPECT_EQ(aborted, 2);
  server_->Stop(absl::ZeroDuration());
  for (std::thread& other : others) other.join();
}

TEST_F(ServerTest, ATimeoutIsAnError) {
  Start();
  Json body = Long();
  body["timeout"] = 1e-9;
  EXPECT_THAT(
      Ask("/v1/completions", body, 408)["error"]["message"].get<std::string>(),
      HasSubstr("timeout"));
  const std::vector<Json> events = Stream("/v1/completions", body);
  ASSERT_EQ(events.size(), 1);
  EXPECT_TRUE(events[0].contains("error"));
}

TEST_F(ServerTest, DrainsWhatRunsAndTakesNoMore) {
  Start();
  std::thread client([&] {
    const Json body = {
        {"prompt", "x"}, {"max_tokens", 400}, {"ignore_eos", true}};
    EXPECT_EQ(Ask("/v1/completions", body)["usage"]["completion_tokens"], 400);
  });
  while (Metric("strata:num_requests_running") < 1) {
    if (Metric("strata:generation_tokens_total") >= 400) break;
  }
  server_->Stop(absl::Seconds(60));
  client.join();
  EXPECT_FALSE(Client().Get("/health")) << "nobody listens";
}

TEST_F(ServerTest, CountsAddUpAndTheLogHasNoText) {
  Start();
  for (int i = 0; i < 5; ++i) {
    Ask("/v1/completions",
        {{"prompt", "my secret"}, {"max_tokens", 4}, {"ignore_eos", true}});
  }
  EXPECT_EQ(Metric("strata:request_success_total", "reason=\"length\""), 5);
  EXPECT_EQ(Metric("strata:generation_tokens_total"), 20);
  EXPECT_EQ(Metric("strata:prompt_tokens_total"), 50);
  EXPECT_EQ(Metric("strata:time_to_first_token_seconds_count"), 5);
  EXPECT_EQ(Metric("strata:e2e_request_latency_seconds_count"), 5);
  absl::MutexLock lock(&mutex_);
  for (const std::string& line : log_) {
    EXPECT_THAT(line, Not(HasSubstr("secret")));
  }
  const Json first = Json::parse(log_.at(0));
  EXPECT_EQ(first["path"], "/v1/completions");
  EXPECT_EQ(first["status"], 200);
  EXPECT_EQ(first["completion_tokens"], 4);
}

TEST_F(ServerTest, APortInUseIsOneClearError) {
  Start();
  ServerOptions options;
  options.port = server_->port();
  EXPECT_THAT(Server::Create(options, model_).status(),
              StatusIs(absl::StatusCode::kUnavailable,
                       HasSubstr("Address already in use")));
}

TEST_F(ServerTest, ACertificateThatIsNoneIsAnError) {
  Start();
  ServerOptions options;
  options.port = 0;
  options.tls_certificate = options.tls_key = "/nowhere.pem";
  EXPECT_THAT(
      Server::Create(options, model_).status(),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("/nowhere.pem")));
}

}  // namespace
}  // namespace strata
