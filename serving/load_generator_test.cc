#include "serving/load_generator.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/cpu/batch_invariant.h"
#include "core/cpu/cpu_backend.h"
#include "core/model/init.h"
#include "core/runtime/state_store.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "serving/engine/engine.h"
#include "serving/engine/tiny_models.h"

namespace strata {
namespace {

// The median of 4000 log-normal draws has a standard error of
// 1.25 sigma / sqrt(4000), 1 %; five of them. Half of the draws lie within
// exp(0.674 sigma) of the median.
TEST(DrawLengthsTest, AreLogNormalWithTheMediansAsked) {
  LoadOptions options;
  std::vector<double> prompts, outputs;
  for (int64_t i = 0; i < 4000; ++i) {
    const Lengths lengths = DrawLengths(options, 1 << 20, i);
    prompts.push_back(static_cast<double>(lengths.prompt));
    outputs.push_back(static_cast<double>(lengths.output));
  }
  EXPECT_NEAR(Percentile(prompts, 0.5), 300, 15);
  EXPECT_NEAR(Percentile(outputs, 0.5), 150, 7.5);
  EXPECT_NEAR(Percentile(prompts, 0.75) / 300, std::exp(0.674 * options.sigma),
              0.07);
}

TEST(DrawLengthsTest, FitIntoTheContext) {
  for (int64_t i = 0; i < 500; ++i) {
    const Lengths lengths = DrawLengths({}, 256, i);
    EXPECT_GE(lengths.prompt, 1);
    EXPECT_GE(lengths.output, 1);
    EXPECT_LE(lengths.prompt + lengths.output, 256);
  }
}

TEST(PercentileTest, IsTheLeastThatEnoughDoNotExceed) {
  EXPECT_EQ(Percentile({4, 1, 3, 2}, 0.5), 2);
  EXPECT_EQ(Percentile({4, 1, 3, 2}, 0.51), 3);
  EXPECT_EQ(Percentile({4, 1, 3, 2}, 0), 1);
  EXPECT_EQ(Percentile({4, 1, 3, 2}, 1), 4);
}

// An engine with a tiny model.
struct Served {
  explicit Served(int64_t max_sequences)
      : backend(1, BatchInvariantCpuKernels()),
        state(backend),
        engine(Engine::Create(Dense(), backend, state, [&] {
          EngineOptions options;
          options.max_sequences = max_sequences;
          return options;
        }())) {
    if (engine.ok()) InitializeParameters(Dense(), /*seed=*/1, state);
  }

  CpuBackend backend;
  StateStore state;
  absl::StatusOr<std::unique_ptr<Engine>> engine;
};

TEST(LoadTest, EveryRequestThatWasSentEndsInTheEngineOnce) {
  Served served(/*max_sequences=*/4);
  ASSERT_THAT(served.engine, IsOk());
  Engine& engine = **served.engine;
  LoadOptions options;
  options.median_prompt = 6;
  options.median_output = 4;
  options.duration = absl::Milliseconds(300);

  const LoadResult closed = RunClosedLoop(engine, 3, options);
  options.warm_up = absl::Milliseconds(100);
  const LoadResult open = RunOpenLoop(engine, 100, options);

  EXPECT_GT(closed.requests.size(), 0);
  EXPECT_GT(open.requests.size(), 0);
  // Counts follow a little after the last event.
  EXPECT_TRUE(engine.Drain(absl::Now() + absl::Seconds(60)));
  const EngineStats stats = engine.stats();
  int64_t ended = 0;
  for (const int64_t count : stats.num_finished) ended += count;
  EXPECT_EQ(ended, closed.num_sent + open.num_sent);
  EXPECT_EQ(stats.num_submitted, ended);
  std::vector<RequestTimes> all = closed.requests;
  all.insert(all.end(), open.requests.begin(), open.requests.end());
  for (const RequestTimes& times : all) {
    EXPECT_GT(times.output, 0);
    EXPECT_GT(times.first_token, 0);
    EXPECT_GE(times.seconds, times.first_token);
  }
}

// An open loop gives up none that it measures, however slow the engine.
TEST(LoadTest, AnOpenLoopLeavesNoneOut) {
  Served served(/*max_sequences=*/1);
  ASSERT_THAT(served.engine, IsOk());
  Engine& engine = **served.engine;
  LoadOptions options;
  options.median_prompt = 6;
  options.median_output = 8;
  options.duration = absl::Milliseconds(50);
  options.warm_up = absl::Milliseconds(20);

  // Of 140 that come in 70 ms, some 100 are measured (10 is the deviation), and
  // one at a time they do not all end within that time.
  const LoadResult open = RunOpenLoop(engine, 2000, options);

  EXPECT_EQ(open.num_refused, 0);
  EXPECT_GT(open.requests.size(), 50);
  EXPECT_GT(open.num_sent, static_cast<int64_t>(open.requests.size()));
  for (const RequestTimes& times : open.requests) {
    EXPECT_GT(times.output, 0);
    EXPECT_LE(times.first_token, times.seconds);
  }
}

}  // namespace
}  // namespace strata
