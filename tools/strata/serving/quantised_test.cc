// strata serve over a folder whose experts have 4 or 8 bits each: it says what
// the engine and the generator say of the same folder, in any company, also as
// a version that takes the place of one in F32.

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/sha256.h"
#include "core/checkpoint/load_model.h"
#include "core/checkpoint/model_files.h"
#include "core/checkpoint/weight_storage.h"
#include "core/cpu/batch_invariant.h"
#include "core/cpu/cpu_backend.h"
#include "core/model/config.pb.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "httplib.h"
#include "nlohmann/json.hpp"
#include "serving/api/text_codec.h"
#include "serving/engine/engine.h"
#include "serving/engine/generator.h"
#include "tools/strata/serving/serving_process.h"
#include "tools/strata/strata_fixture.h"

namespace strata {
namespace {

using Json = nlohmann::json;

constexpr int64_t kNewTokens = 12;
// Of one token, of fewer and of more than share a pass of a product.
constexpr const char* kPrompts[] = {"", "if", "the cat sat on a mat",
                                    "whereas the party hereby agrees"};

struct Answer {
  std::string text;
  std::vector<double> logprobs;  // Of each token.

  bool operator==(const Answer& other) const {
    return text == other.text && logprobs == other.logprobs;
  }
};

// An answer at temperature 0 by what serving and generating are made of, in
// this process: one sequence on one thread.
class Direct {
 public:
  Direct(const std::string& folder, WeightStorage storage)
      : backend_(1, BatchInvariantCpuKernels()),
        of_engine_(backend_),
        of_generator_(backend_) {
    const auto config = LoadModelConfig(folder);
    EXPECT_THAT(config, IsOk());
    config_ = *config;
    for (StateStore* const state : {&of_engine_, &of_generator_}) {
      EXPECT_THAT(LoadModelWeights(folder, config_, *state, nullptr, storage),
                  IsOk());
    }
    auto codec = LoadTextCodec(folder, config_.vocab_size());
    EXPECT_THAT(codec, IsOk());
    codec_ = *std::move(codec);
  }

  Answer OfEngine(const std::string& prompt) {
    auto engine = Engine::Create(config_, backend_, of_engine_, {});
    EXPECT_THAT(engine, IsOk());
    EngineRequest request;
    request.prompt = codec_->Encode(prompt);
    request.max_new_tokens = kNewTokens;
    request.sampling.draw.temperature = 0;
    request.num_logprobs = 0;
    const auto generation = (*engine)->Submit(request);
    EXPECT_THAT(generation, IsOk());
    Answer answer;
    const auto text = codec_->NewText(request.prompt);
    while (auto event = (*generation)->Next(absl::Now() + absl::Seconds(60))) {
      EXPECT_THAT(event->error, IsOk());
      if (!event->has_token) continue;
      answer.text += text->Push(event->token);
      answer.logprobs.push_back(event->logprobs[0].logprob);
    }
    answer.text += text->Finish();
    return answer;
  }

  std::string OfGenerator(const std::string& prompt) {
    const auto generator = Generator::Create(config_, backend_, of_generator_);
    EXPECT_THAT(generator, IsOk());
    const std::vector<int32_t> ids = codec_->Encode(prompt);
    GenerateOptions options;
    options.max_new_tokens = kNewTokens;
    options.sampling.temperature = 0;
    const auto tokens = (*generator)->Generate(ids, options);
    EXPECT_THAT(tokens, IsOk());
    const auto text = codec_->NewText(ids);
    std::string all;
    for (const int32_t token : *tokens) all += text->Push(token);
    return all + text->Finish();
  }

  // Weights that are packed with formats of their own in each expert.
  int64_t NumMixed() const {
    const auto& names = of_engine_.names();
    return std::count_if(names.begin(), names.end(), [&](const auto& name) {
      const TensorView& view = of_engine_.Peek(name);
      return view.dtype == DType::kU8 && view.rank() == 1;
    });
  }

 private:
  CpuBackend backend_;
  StateStore of_engine_;  // Their caches are of other sizes.
  StateStore of_generator_;
  ModelConfig config_;
  std::unique_ptr<TextCodec> codec_;
};

Json Body(const std::string& prompt) {
  return {{"prompt", prompt},
          {"max_tokens", kNewTokens},
          {"temperature", 0},
          {"ignore_eos", true},
          {"logprobs", 0}};
}

std::string Post(int port, const std::string& path, const Json& body,
                 const std::string& key = "") {
  httplib::Client client("127.0.0.1", port);
  client.set_read_timeout(60);
  const auto answer = client.Post(path, {{"Authorization", "Bearer " + key}},
                                  body.dump(), "application/json");
  if (!answer || answer->status != 200) {
    ADD_FAILURE() << path << ": " << (answer ? answer->body : "no answer");
    return "{}";
  }
  return answer->body;
}

void Append(const Json& choice, Answer& answer) {
  answer.text += choice["text"].get<std::string>();
  if (!choice["logprobs"].is_object()) return;
  for (const Json& logprob : choice["logprobs"]["token_logprobs"]) {
    answer.logprobs.push_back(logprob);
  }
}

Answer Whole(int port, const std::string& prompt) {
  Answer answer;
  const Json json = Json::parse(Post(port, "/v1/completions", Body(prompt)));
  Append(json.at("choices").at(0), answer);
  return answer;
}

Answer Streamed(int port, const std::string& prompt) {
  Json body = Body(prompt);
  body["stream"] = true;
  Answer answer;
  int events = 0;
  const std::string text = Post(port, "/v1/completions", body);
  for (absl::string_view line : absl::StrSplit(text, "\n\n")) {
    if (!absl::ConsumePrefix(&line, "data: ") || line == "[DONE]") continue;
    Append(Json::parse(line).at("choices").at(0), answer);
    ++events;
  }
  EXPECT_GT(events, 1);
  return answer;
}

std::vector<Answer> AllAlone(int port) {
  std::vector<Answer> answers;
  for (const char* prompt : kPrompts) answers.push_back(Whole(port, prompt));
  return answers;
}

class QuantisedServingTest : public StrataTest {
 protected:
  static void SetUpTestSuite() {
    StrataTest::SetUpTestSuite();
    mixed_ = new std::string(Folder("mixed"));
    const Result result =
        Quantize(*mixed_, {"--budget-bytes", absl::StrCat(MixedBudget())});
    ASSERT_EQ(result.exit_code, 0) << result.err;
  }

  static std::string* mixed_;
};
std::string* QuantisedServingTest::mixed_ = nullptr;

TEST_F(QuantisedServingTest, SaysWhatEngineAndGeneratorSayInAnyCompany) {
  Direct packed(*mixed_, WeightStorage::kAsStored);
  ASSERT_GT(packed.NumMixed(), 0);
  std::vector<Answer> want;
  for (const char* prompt : kPrompts) {
    want.push_back(packed.OfEngine(prompt));
    EXPECT_EQ(want.back().logprobs.size(), kNewTokens);
    EXPECT_EQ(packed.OfGenerator(prompt), want.back().text);
  }
  // Products with packed weights round activations, so numbers tell whether it
  // serves these or the same widened.
  Direct widened(*mixed_, WeightStorage::kF32);
  ASSERT_EQ(widened.NumMixed(), 0);
  EXPECT_NE(widened.OfEngine(kPrompts[2]).logprobs, want[2].logprobs);

  Serving serving({"--model", *mixed_, "--threads", "2", "--quiet"});
  ASSERT_GT(serving.port(), 0);
  EXPECT_EQ(AllAlone(serving.port()), want);
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ(Streamed(serving.port(), kPrompts[i]), want[i]);
  }
  constexpr size_t kClients = 16;
  std::vector<Answer> together(kClients);
  std::vector<std::thread> clients;
  for (size_t i = 0; i < kClients; ++i) {
    clients.emplace_back([&, i] {
      together[i] = Whole(serving.port(), kPrompts[i % want.size()]);
    });
  }
  for (std::thread& client : clients) client.join();
  for (size_t i = 0; i < kClients; ++i) {
    EXPECT_EQ(together[i], want[i % want.size()]) << i;
  }
  EXPECT_EQ(serving.End(), 0);

  Serving in_f32({"--model", *mixed_, "--weights", "f32", "--quiet"});
  ASSERT_GT(in_f32.port(), 0);
  EXPECT_EQ(Whole(in_f32.port(), kPrompts[2]), widened.OfEngine(kPrompts[2]));
  EXPECT_EQ(in_f32.End(), 0);
}

TEST_F(QuantisedServingTest, TakesThePlaceOfAVersionInF32AndGivesItBack) {
  Direct packed(*mixed_, WeightStorage::kAsStored);
  std::vector<Answer> want;
  for (const char* prompt : kPrompts) want.push_back(packed.OfEngine(prompt));
  const std::string keys = Folder("admin_keys");
  WriteAll(keys, Sha256Hex("secret") + "\n");
  Serving serving({"--model", *run_, "--admin-keys", keys, "--quiet"});
  ASSERT_GT(serving.port(), 0);
  const std::vector<Answer> before = AllAlone(serving.port());
  EXPECT_NE(before, want);

  // Someone asks all the while; each answer is of one version or the other.
  std::vector<Answer> during(12);
  std::thread client([&] {
    for (Answer& answer : during) answer = Whole(serving.port(), kPrompts[2]);
  });
  Post(serving.port(), "/admin/load", {{"path", *mixed_}}, "secret");
  EXPECT_EQ(AllAlone(serving.port()), want);
  client.join();
  for (const Answer& answer : during) {
    EXPECT_TRUE(answer == before[2] || answer == want[2]);
  }
  Post(serving.port(), "/admin/rollback", Json::object(), "secret");
  EXPECT_EQ(AllAlone(serving.port()), before);
  EXPECT_EQ(serving.End(), 0);
}

}  // namespace
}  // namespace strata
