#include "serving/api/server.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
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
#include "serving/api/text_codec.h"
#include "serving/engine/engine.h"
#include "serving/engine/tiny_models.h"

namespace strata {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::ordered_json;

ModelConfig Config(int64_t vocab_size) {
  ModelConfig config = Flat();
  config.set_vocab_size(vocab_size);
  config.set_max_seq_len(512);
  return config;
}

// A tiny model of bytes behind HTTP.
class ServerTest : public testing::Test {
 protected:
  ServerTest() : backend_(2, BatchInvariantCpuKernels()), state_(backend_) {}

  // `folder` may hold a tokenizer; without one the model is one of bytes.
  void Start(ServerOptions options = {}, int64_t max_sequences = 8,
             const std::string& folder = testing::TempDir(),
             int64_t vocab_size = 256) {
    EngineOptions engine;
    engine.max_sequences = max_sequences;
    engine.max_step_tokens = 32;
    engine.block_size = 4;
    auto created = Engine::Create(Config(vocab_size), backend_, state_, engine);
    ASSERT_THAT(created, IsOk());
    engine_ = *std::move(created);
    FillState<float>(Config(vocab_size), state_);
    auto codec = LoadTextCodec(folder, vocab_size);
    ASSERT_THAT(codec, IsOk());
    codec_ = *std::move(codec);
    options.port = 0;
    options.model = "tiny";
    options.log = [this](const std::string& line) {
      absl::MutexLock lock(&mutex_);
      log_.push_back(line);
    };
    model_ = std::make_shared<ServedModel>(*codec_, *engine_, "v1");
    auto server = Server::Create(options, model_);
    ASSERT_THAT(server, IsOk());
    server_ = *std::move(server);
    thread_ = std::thread([this] { server_->Run(); });
  }

  ~ServerTest() override {
    if (server_ == nullptr) return;
    server_->Stop(absl::Seconds(10));
    thread_.join();
  }

  httplib::Client Client() {
    httplib::Client client("127.0.0.1", server_->port());
    client.set_read_timeout(60);
    return client;
  }

  httplib::Result Post(const std::string& path, const std::string& body) {
    return Client().Post(path, body, "application/json");
  }

  // The object that `body` is answered with, which must be `status`.
  Json Ask(const std::string& path, const Json& body, int status = 200) {
    const auto result = Post(path, body.dump());
    if (!result) {
      ADD_FAILURE() << "no answer: " << httplib::to_string(result.error());
      return {};
    }
    EXPECT_EQ(result->status, status) << result->body;
    return Json::parse(result->body, nullptr, false);
  }

  // The objects of a stream, which must end with [DONE].
  std::vector<Json> Stream(const std::string& path, Json body) {
    body["stream"] = true;
    const auto result = Post(path, body.dump());
    std::vector<Json> events;
    if (!result) {
      ADD_FAILURE() << "no answer";
      return events;
    }
    EXPECT_EQ(result->get_header_value("Content-Type"), "text/event-stream");
    bool done = false;
    for (const absl::string_view line : absl::StrSplit(result->body, "\n\n")) {
      if (line.empty()) continue;
      EXPECT_FALSE(done) << line;
      EXPECT_TRUE(absl::StartsWith(line, "data: ")) << line;
      if (line == "data: [DONE]") {
        done = true;
        continue;
      }
      events.push_back(Json::parse(line.substr(6)));
    }
    EXPECT_TRUE(done);
    return events;
  }

  // A number of /metrics: of the line that has the label, if one is given.
  double Metric(const std::string& name, const std::string& label = "") {
    const auto page = Client().Get("/metrics");
    EXPECT_EQ(page->status, 200);
    for (const absl::string_view line : absl::StrSplit(page->body, '\n')) {
      double value = 0;
      if (absl::StartsWith(line, name) && absl::StrContains(line, label) &&
          absl::SimpleAtod(line.substr(line.rfind(' ') + 1), &value)) {
        return value;
      }
    }
    ADD_FAILURE() << "no " << name;
    return -1;
  }

  CpuBackend backend_;
  StateStore state_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<TextCodec> codec_;
  std::shared_ptr<ServedModel> model_;
  std::unique_ptr<Server> server_;
  std::thread thread_;
  absl::Mutex mutex_;
  std::vector<std::string> log_;
};

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
  const double ended =
      Metric("strata:request_success_total", "finished_reason=\"length\"") +
      Metric("strata:request_success_total", "finished_reason=\"stop\"");
  EXPECT_EQ(ended, answers);
}

// Requests that would take long, so that there is time to leave.
Json Long() {
  return {{"prompt", "x"},
          {"max_tokens", 500},
          {"ignore_eos", true},
          {"timeout", 500}};
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
    client.set_read_timeout(0, 200000);
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
