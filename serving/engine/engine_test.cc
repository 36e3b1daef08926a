#include "serving/engine/engine.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/cpu/batch_invariant.h"
#include "core/cpu/cpu_backend.h"
#include "core/model/config.pb.h"
#include "core/runtime/state_store.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "serving/engine/generator.h"
#include "serving/engine/tiny_models.h"

namespace strata {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

EngineOptions Options(int64_t sequences = 8, int64_t step_tokens = 24,
                      int64_t blocks = 0) {
  EngineOptions options;
  options.max_sequences = sequences;
  options.max_step_tokens = step_tokens;
  options.num_blocks = blocks;
  options.block_size = 4;
  return options;
}

// A model with random weights that serves.
class Server {
 public:
  explicit Server(const ModelConfig& config,
                  const EngineOptions& options = Options(), int threads = 2)
      : backend_(threads, BatchInvariantCpuKernels()), state_(backend_) {
    EngineOptions with_pool = options;
    with_pool.pool = &backend_.pool();
    auto engine = Engine::Create(config, backend_, state_, with_pool);
    EXPECT_THAT(engine, IsOk());
    engine_ = *std::move(engine);
    FillState<float>(config, state_);
  }
  Engine* operator->() { return engine_.get(); }

 private:
  CpuBackend backend_;
  StateStore state_;
  std::unique_ptr<Engine> engine_;
};

struct Answer {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  FinishReason reason = FinishReason::kFailed;
  int num_ends = 0;
};

std::vector<Answer> Read(Generation& generation, int num_choices = 1) {
  std::vector<Answer> answers(num_choices);
  while (auto event = generation.Next(absl::Now() + absl::Seconds(60))) {
    Answer& answer = answers[event->choice];
    EXPECT_EQ(answer.num_ends, 0) << "an event after the last";
    if (event->has_token) {
      answer.tokens.push_back(event->token);
      for (const TokenLogprob& l : event->logprobs) {
        answer.logprobs.push_back(l.logprob);
      }
    }
    if (event->finished) {
      answer.reason = event->reason;
      ++answer.num_ends;
      EXPECT_THAT(event->error, IsOk());
    }
  }
  EXPECT_TRUE(generation.done());
  return answers;
}

EngineRequest Request(int64_t prompt_length, int seed, int64_t new_tokens) {
  EngineRequest request;
  request.prompt = RandomIds(prompt_length, seed);
  request.max_new_tokens = new_tokens;
  request.sampling.draw.seed = seed;
  request.num_logprobs = 2;
  return request;
}

// Requests of all sorts; those with one beginning share blocks.
std::vector<EngineRequest> Mix(int count, int seed) {
  std::mt19937 rng(seed);
  const auto below = [&](int n) { return static_cast<int>(rng() % n); };
  std::vector<EngineRequest> requests;
  for (int i = 0; i < count; ++i) {
    EngineRequest r = Request(1 + below(40), 100 * seed + i, 1 + below(30));
    if (below(3) == 0) {
      const std::vector<int32_t> beginning = RandomIds(18, 7);
      r.prompt.insert(r.prompt.begin(), beginning.begin(), beginning.end());
    }
    r.priority = below(3);
    r.sampling.draw.temperature = below(3) * 0.5;
    r.sampling.draw.top_k = below(2) * 10;
    r.sampling.min_p = below(2) * 0.02;
    r.sampling.repetition_penalty = 1 + 0.2 * below(2);
    r.sampling.frequency_penalty = 0.3 * below(2);
    requests.push_back(r);
  }
  return requests;
}

TEST(EngineTest, AnAnswerIsTheSameBitForBitInAnyCompany) {
  for (const ModelConfig& config :
       {Dense(), Flat(), SigmoidGroups(), Hierarchical(), Latent(), Windowed(),
        LatentYarn(), Dynamic()}) {
    SCOPED_TRACE(config.name());
    std::vector<EngineRequest> requests = Mix(/*count=*/14, /*seed=*/3);
    // Choices that want 40 blocks at once, however fast the engine is.
    requests[0].num_choices = 5;
    requests[0].max_new_tokens = 30;
    std::vector<std::vector<Answer>> alone;
    {
      // One after another, each step large enough for a whole prompt, and on
      // another number of threads.
      Server server(config, Options(8, 64), /*threads=*/1);
      for (const EngineRequest& request : requests) {
        auto generation = server->Submit(request);
        ASSERT_THAT(generation, IsOk());
        alone.push_back(Read(**generation, request.num_choices));
      }
    }
    // Together; steps so small that prompts are cut, and blocks so few that
    // sequences are preempted.
    Server server(config, Options(6, 11, /*blocks=*/24));
    std::vector<std::shared_ptr<Generation>> generations;
    for (const EngineRequest& request : requests) {
      auto generation = server->Submit(request);
      ASSERT_THAT(generation, IsOk());
      generations.push_back(*generation);
    }
    for (size_t i = 0; i < requests.size(); ++i) {
      const std::vector<Answer> answers =
          Read(*generations[i], requests[i].num_choices);
      for (size_t c = 0; c < answers.size(); ++c) {
        EXPECT_EQ(answers[c].tokens, alone[i][c].tokens) << i << " " << c;
        EXPECT_EQ(answers[c].logprobs, alone[i][c].logprobs) << i << " " << c;
        EXPECT_EQ(answers[c].reason, FinishReason::kLength);
      }
    }
    const EngineStats stats = server->stats();
    EXPECT_GT(stats.num_preemptions, 0);
    EXPECT_GT(stats.prefix_found_tokens, 0);
  }
}

TEST(EngineTest, SaysWhatTheGeneratorSays) {
  for (const ModelConfig& config :
       {Dense(), Flat(), Hierarchical(), Latent(), Dynamic()}) {
    SCOPED_TRACE(config.name());
    Model model(config);
    const std::vector<int32_t> prompt = RandomIds(37, 5);
    GenerateOptions options;
    options.max_new_tokens = 20;
    options.sampling.temperature = 0;
    std::vector<std::vector<float>> logits;
    const auto want = model->Generate(prompt, options, [&](int32_t) {
      logits.emplace_back(model->logits().begin(), model->logits().end());
      return true;
    });
    ASSERT_THAT(want, IsOk());

    Server server(config);
    EngineRequest request;
    request.prompt = prompt;
    request.max_new_tokens = 20;
    request.sampling.draw.temperature = 0;
    request.num_logprobs = 0;
    auto generation = server->Submit(request);
    ASSERT_THAT(generation, IsOk());
    const Answer answer = Read(**generation)[0];

    ASSERT_EQ(answer.tokens, *want);
    for (size_t i = 0; i < want->size(); ++i) {
      // Other kernels, other roundings: some 1e-6 in logits of size 1.
      EXPECT_NEAR(answer.logprobs[i],
                  Logprobs(logits[i], (*want)[i], 0)[0].logprob, 1e-4);
    }
  }
}

TEST(EngineTest, ChoicesAreRequestsWithTheNextSeeds) {
  Server server(Flat());
  EngineRequest request = Request(11, 1, 12);
  request.num_choices = 5;
  auto all = server->Submit(request);
  ASSERT_THAT(all, IsOk());
  const std::vector<Answer> choices = Read(**all, 5);

  request.num_choices = 1;
  for (int i = 0; i < 5; ++i) {
    auto one = server->Submit(request);
    ASSERT_THAT(one, IsOk());
    EXPECT_EQ(Read(**one)[0].tokens, choices[i].tokens);
    EXPECT_EQ(choices[i].num_ends, 1);
    ++request.sampling.draw.seed;
  }
  EXPECT_NE(choices[0].tokens, choices[1].tokens);
}

// The counts once `n` answers have ended, which they say a little after the
// last event does.
EngineStats StatsAfter(Server& server, int64_t n) {
  while (true) {
    const EngineStats stats = server->stats();
    int64_t ended = 0;
    for (const int64_t count : stats.num_finished) ended += count;
    if (ended == n) return stats;
    absl::SleepFor(absl::Milliseconds(1));
  }
}

TEST(EngineTest, ALaterRequestFindsTheBeginningOfAnEarlierOne) {
  Server server(Dense());
  Read(**server->Submit(Request(40, 1, 8)));
  const EngineStats before = StatsAfter(server, 1);
  EngineRequest again = Request(40, 1, 8);

  Read(**server->Submit(again));

  // Nine blocks of four; the rest of the prompt and seven of eight new tokens.
  const EngineStats after = StatsAfter(server, 2);
  EXPECT_EQ(after.computed_tokens - before.computed_tokens, 4 + 7);
  EXPECT_EQ(after.prefix_found_tokens, 36);
}

// Keys of a prompt beyond the original length are of its length alone.
TEST(EngineTest, SharesNoBlocksOfPromptsThatTurnByTheirOwnLength) {
  Server server(Dynamic());
  for (const int length : {40, 40, 32}) {
    Read(**server->Submit(Request(length, 1, 8)));
    EXPECT_EQ(server->stats().prefix_found_tokens, 0) << length;
  }
  Read(**server->Submit(Request(32, 1, 8)));
  EXPECT_EQ(server->stats().prefix_found_tokens, 28);
}

TEST(EngineTest, EndsAtAStopTokenWithoutIt) {
  Server server(Dense());
  EngineRequest request = Request(10, 1, 20);
  const Answer whole = Read(**server->Submit(request))[0];
  request.stop_ids = {whole.tokens[6]};
  const auto first =
      std::find(whole.tokens.begin(), whole.tokens.end(), whole.tokens[6]);

  const Answer answer = Read(**server->Submit(request))[0];

  EXPECT_EQ(answer.reason, FinishReason::kStop);
  EXPECT_EQ(answer.tokens, std::vector<int32_t>(whole.tokens.begin(), first));
}

TEST(EngineTest, CancelEndsARequestAndFreesItsBlocks) {
  // The last of many has thousands of steps to wait for.
  Server server(Dense(), Options(/*sequences=*/1));
  std::vector<std::shared_ptr<Generation>> generations;
  for (int i = 0; i < 30; ++i) {
    auto generation = server->Submit(Request(10, i, 80));
    ASSERT_THAT(generation, IsOk());
    generations.push_back(*generation);
  }
  generations.back()->Cancel();

  const Answer answer = Read(*generations.back())[0];

  EXPECT_EQ(answer.reason, FinishReason::kCancelled);
  EXPECT_EQ(answer.num_ends, 1);
  for (const auto& generation : generations) generation->Cancel();
  EXPECT_TRUE(server->Drain(absl::Now() + absl::Seconds(60)));
  EXPECT_EQ(server->stats().num_used_blocks, server->stats().num_kept_blocks);
}

TEST(EngineTest, AStoppedChoiceEndsAndTheOthersGoOn) {
  Server server(Dense(), Options(/*sequences=*/3));
  std::vector<std::shared_ptr<Generation>> before;
  for (int i = 0; i < 30; ++i)
    before.push_back(*server->Submit(Request(10, i, 80)));
  EngineRequest request = Request(10, 1, 8);
  request.num_choices = 3;
  auto generation = server->Submit(request);
  ASSERT_THAT(generation, IsOk());
  (*generation)->Stop(0);  // Before its prompt was through: another takes over.

  const std::vector<Answer> answers = Read(**generation, 3);

  EXPECT_EQ(answers[0].reason, FinishReason::kStop);
  EXPECT_THAT(answers[0].tokens, SizeIs(0));
  EXPECT_EQ(answers[1].reason, FinishReason::kLength);
  EXPECT_THAT(answers[1].tokens, SizeIs(8));
  EXPECT_THAT(answers[2].tokens, SizeIs(8));
}

TEST(EngineTest, ADeadlineEndsARequest) {
  Server server(Dense());
  EngineRequest request = Request(10, 1, 80);
  request.deadline = absl::Now() - absl::Seconds(1);
  request.num_choices = 3;

  const std::vector<Answer> answers = Read(**server->Submit(request), 3);

  for (const Answer& answer : answers) {
    EXPECT_EQ(answer.reason, FinishReason::kTimedOut);
    EXPECT_THAT(answer.tokens, SizeIs(0));
  }
}

TEST(EngineTest, AnswersNothingAfterDrainAndCancelsWhatIsLeft) {
  Server server(Dense());
  auto generation = server->Submit(Request(10, 1, 80));
  ASSERT_THAT(generation, IsOk());

  server->Drain(absl::Now());

  EXPECT_THAT(
      server->Submit(Request(10, 1, 5)),
      StatusIs(absl::StatusCode::kUnavailable, HasSubstr("shutting down")));
  EXPECT_EQ(Read(**generation)[0].num_ends, 1);
}

TEST(EngineTest, StopsAtTheEndOfTheContext) {
  Server server(Dense());
  const Answer answer =
      Read(**server->Submit(Request(kMaxSeqLen - 5, 1, 1000)))[0];
  EXPECT_THAT(answer.tokens, SizeIs(5));
  EXPECT_EQ(answer.reason, FinishReason::kLength);
}

TEST(EngineTest, EveryRequestEndsOnceWhateverHappens) {
  Server server(Flat(), Options(4, 9, /*blocks=*/24));
  std::vector<std::shared_ptr<Generation>> generations;
  std::vector<std::thread> clients;
  absl::Mutex mutex;
  for (int c = 0; c < 4; ++c) {
    clients.emplace_back([&, c] {
      std::mt19937 rng(c);
      for (EngineRequest request : Mix(12, 50 + c)) {
        request.num_choices = 1 + rng() % 2;
        if (rng() % 5 == 0)
          request.deadline = absl::Now() + absl::Milliseconds(3);
        auto generation = server->Submit(request);
        ASSERT_THAT(generation, IsOk());
        if (rng() % 3 == 0) {
          (*generation)->Next(absl::Now() + absl::Milliseconds(2));
          (*generation)->Cancel();
          absl::MutexLock lock(&mutex);
          generations.push_back(*generation);
          continue;
        }
        for (const Answer& answer : Read(**generation, request.num_choices)) {
          EXPECT_EQ(answer.num_ends, 1);
        }
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_TRUE(server->Drain(absl::Now() + absl::Seconds(60)));

  const EngineStats stats = server->stats();
  int64_t ended = 0;
  for (const int64_t n : stats.num_finished) ended += n;
  EXPECT_EQ(ended, stats.num_submitted);
  EXPECT_EQ(stats.num_finished[static_cast<int>(FinishReason::kFailed)], 0);
  EXPECT_EQ(stats.num_used_blocks, stats.num_kept_blocks);
}

TEST(EngineTest, RejectsWhatItCannotAnswer) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EngineOptions options = Options();
  options.max_waiting = 2;
  Server server(Dense(), options);
  EngineRequest r = Request(10, 1, 5);
  r.prompt.clear();
  EXPECT_THAT(server->Submit(r), StatusIs(kInvalid, HasSubstr("empty")));
  EXPECT_THAT(server->Submit(Request(kMaxSeqLen, 1, 5)),
              StatusIs(kInvalid, HasSubstr("has 96 tokens; want at most 95")));
  r = Request(10, 1, 5);
  r.prompt[3] = kVocab;
  EXPECT_THAT(server->Submit(r),
              StatusIs(kInvalid, HasSubstr("token 3 of the prompt is 50")));
  EXPECT_THAT(server->Submit(Request(10, 1, -1)),
              StatusIs(kInvalid, HasSubstr("max_tokens is -1")));
  r = Request(10, 1, 5);
  r.num_choices = 9;
  EXPECT_THAT(server->Submit(r), StatusIs(kInvalid, HasSubstr("n is 9")));
  r.num_choices = 3;
  EXPECT_THAT(server->Submit(r), StatusIs(absl::StatusCode::kResourceExhausted,
                                          HasSubstr("the most is 2")));
}

TEST(EngineTest, RefusesAModelWhoseTokensCompete) {
  ModelConfig config = Flat();
  config.mutable_moe()->mutable_flat()->set_choice(
      FlatRouterConfig::EXPERT_CHOICE);
  CpuBackend backend(1, BatchInvariantCpuKernels());
  StateStore state(backend);
  EXPECT_THAT(Engine::Create(config, backend, state, {}).status(),
              StatusIs(absl::StatusCode::kUnimplemented,
                       HasSubstr("choose among the tokens")));
}

}  // namespace
}  // namespace strata
