// A tiny model behind HTTP, for tests.

#ifndef SERVING_API_SERVER_FIXTURE_H_
#define SERVING_API_SERVER_FIXTURE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "core/cpu/batch_invariant.h"
#include "core/cpu/cpu_backend.h"
#include "core/model/config.pb.h"
#include "core/runtime/state_store.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "httplib.h"
#include "nlohmann/json.hpp"
#include "serving/api/served_model.h"
#include "serving/api/server.h"
#include "serving/api/text_codec.h"
#include "serving/engine/engine.h"
#include "serving/engine/tiny_models.h"

namespace strata {

using Json = nlohmann::ordered_json;

inline ModelConfig Config(int64_t vocab_size) {
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

// Requests that would take long, so that there is time to leave.
inline Json Long() {
  return {{"prompt", "x"},
          {"max_tokens", 500},
          {"ignore_eos", true},
          {"timeout", 500}};
}

}  // namespace strata

#endif  // SERVING_API_SERVER_FIXTURE_H_
