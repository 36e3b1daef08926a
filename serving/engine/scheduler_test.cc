#include "serving/engine/scheduler.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "serving/engine/kv_cache.h"

namespace strata {
namespace {

SchedulerOptions Options(int64_t sequences, int64_t tokens, int64_t blocks) {
  SchedulerOptions options;
  options.max_sequences = sequences;
  options.max_step_tokens = tokens;
  options.num_blocks = blocks;
  options.block_size = 4;
  return options;
}

ScheduledSequence Sequence(int64_t id, int64_t length, int priority = 0) {
  ScheduledSequence sequence;
  sequence.id = id;
  sequence.priority = priority;
  for (int64_t i = 0; i < length; ++i) {
    sequence.tokens.push_back(static_cast<int32_t>(100 * id + i));
  }
  return sequence;
}

// What a step computes of a sequence.
int64_t CountOf(const Scheduler::Step& step, const ScheduledSequence& s) {
  for (const Scheduler::Work& work : step.work) {
    if (work.sequence == &s) return work.count;
  }
  return 0;
}

// Plans and finishes a step; who has logits gets a token.
Scheduler::Step RunStep(Scheduler& scheduler, double now = 0) {
  Scheduler::Step step = scheduler.Plan(now);
  scheduler.Computed(step, /*took=*/0);
  for (const Scheduler::Work& work : step.work) {
    if (work.wants_logits()) work.sequence->tokens.push_back(1);
  }
  return step;
}

TEST(SchedulerTest, DecodesFirstAndCutsPromptsToTheRestOfTheBudget) {
  Scheduler scheduler(Options(4, /*tokens=*/8, 32));
  ScheduledSequence a = Sequence(1, 6), b = Sequence(2, 10);
  scheduler.Add(&a);
  scheduler.Add(&b);

  Scheduler::Step step = RunStep(scheduler);
  EXPECT_EQ(CountOf(step, a), 6);
  EXPECT_EQ(CountOf(step, b), 0) << "a's step is not prolonged";
  step = RunStep(scheduler);
  EXPECT_EQ(CountOf(step, a), 1);
  EXPECT_EQ(CountOf(step, b), 7);
  EXPECT_EQ(step.num_tokens, 8);
  step = RunStep(scheduler);
  EXPECT_EQ(CountOf(step, a), 1);
  EXPECT_EQ(CountOf(step, b), 3);
}

TEST(SchedulerTest, AShortPromptPassesLongOnes) {
  Scheduler scheduler(Options(4, /*tokens=*/8, 32));
  ScheduledSequence a = Sequence(1, 30), b = Sequence(2, 17),
                    c = Sequence(3, 3);
  scheduler.Add(&a);
  EXPECT_EQ(CountOf(RunStep(scheduler), a), 8);
  scheduler.Add(&b);
  scheduler.Add(&c);

  Scheduler::Step step = RunStep(scheduler);
  EXPECT_EQ(CountOf(step, a), 0);
  EXPECT_EQ(CountOf(step, b), 0) << "c's step is not prolonged";
  EXPECT_EQ(CountOf(step, c), 3);
  step = RunStep(scheduler);
  EXPECT_EQ(CountOf(step, a), 0);
  EXPECT_EQ(CountOf(step, b), 7) << "due before a";
}

// Before steps were timed, a token is taken to take a millisecond: a is due at
// 2.9 * 30 = 87 ms, and cannot make that at 80 ms, nor twice that at 200 ms.
TEST(SchedulerTest, WhoIsLateLetsOthersPassAndStillGetsOn) {
  Scheduler scheduler(Options(4, /*tokens=*/16, 32));
  ScheduledSequence a = Sequence(1, 30), b = Sequence(2, 40);
  scheduler.Add(&a);
  b.arrival = 0.05;  // Due at 166 ms.
  scheduler.Add(&b);

  Scheduler::Step step = RunStep(scheduler, /*now=*/0.08);
  EXPECT_EQ(CountOf(step, a), 0) << "due at 174 ms";
  EXPECT_EQ(CountOf(step, b), 16);
  step = RunStep(scheduler, /*now=*/0.2);
  EXPECT_EQ(CountOf(step, a), 2) << "an eighth; due at 348 ms";
  EXPECT_EQ(CountOf(step, b), 14) << "due at 282 ms";
  step = RunStep(scheduler, /*now=*/0.29);
  EXPECT_EQ(CountOf(step, a), 16) << "b, now later than a, at 514 ms";
}

TEST(SchedulerTest, DecodingPausesForSomeStepsWhilePromptsWait) {
  SchedulerOptions options = Options(4, /*tokens=*/8, 32);
  options.pause_decoding = true;
  Scheduler scheduler(options);
  ScheduledSequence a = Sequence(1, 3), b = Sequence(2, 20);
  scheduler.Add(&a);
  EXPECT_EQ(CountOf(RunStep(scheduler, 1.000), a), 3);
  EXPECT_EQ(CountOf(RunStep(scheduler, 1.001), a), 1) << "nobody waits";
  scheduler.Add(&b);

  Scheduler::Step step = RunStep(scheduler, 1.002);
  EXPECT_EQ(CountOf(step, a), 0);
  EXPECT_EQ(CountOf(step, b), 8);
  step = RunStep(scheduler, 1.064);
  EXPECT_EQ(CountOf(step, a), 0);
  EXPECT_EQ(CountOf(step, b), 8);
  step = RunStep(scheduler, 1.066);
  EXPECT_EQ(CountOf(step, a), 1) << "eight steps of eight ms were long enough";
  EXPECT_EQ(CountOf(step, b), 4);
  step = RunStep(scheduler, 1.067);
  EXPECT_EQ(CountOf(step, a), 1) << "nobody waits any more";
}

// One that waits but has no room must not keep others from decoding.
TEST(SchedulerTest, DecodingGoesOnIfNoPromptCan) {
  SchedulerOptions options = Options(/*sequences=*/1, 8, 32);
  options.pause_decoding = true;
  Scheduler scheduler(options);
  ScheduledSequence a = Sequence(1, 3), b = Sequence(2, 3);
  scheduler.Add(&a);
  RunStep(scheduler, 1);
  scheduler.Add(&b);
  RunStep(scheduler, 1.001);

  EXPECT_EQ(CountOf(RunStep(scheduler, 1.002), a), 1);
}

TEST(SchedulerTest, HigherPriorityGoesFirstAndDisplacesLower) {
  Scheduler scheduler(Options(/*sequences=*/1, 8, 32));
  ScheduledSequence low = Sequence(1, 3, 0), high = Sequence(2, 3, 1);
  scheduler.Add(&low);
  RunStep(scheduler);
  scheduler.Add(&high);

  const Scheduler::Step step = RunStep(scheduler);

  EXPECT_EQ(CountOf(step, low), 0);
  EXPECT_EQ(CountOf(step, high), 3);
  EXPECT_EQ(low.num_preemptions, 1);
  scheduler.Remove(&high);
  EXPECT_GT(CountOf(RunStep(scheduler), low), 0) << "comes back";
}

TEST(SchedulerTest, PreemptsTheYoungestWhenBlocksRunOut) {
  // Two sequences of two blocks each in four blocks; the third block of the
  // older one is taken from the younger.
  Scheduler scheduler(Options(4, 16, /*blocks=*/4));
  ScheduledSequence a = Sequence(1, 7), b = Sequence(2, 7);
  scheduler.Add(&a);
  scheduler.Add(&b);
  RunStep(scheduler);
  RunStep(scheduler);
  ASSERT_EQ(a.tokens.size(), 9);

  const Scheduler::Step step = RunStep(scheduler);

  EXPECT_EQ(CountOf(step, a), 1);
  EXPECT_EQ(CountOf(step, b), 0);
  EXPECT_EQ(scheduler.num_waiting(), 1);
  EXPECT_EQ(scheduler.num_preemptions(), 1);
}

TEST(SchedulerTest, ALaterPromptWithTheSameBeginningIsNotComputedAgain) {
  Scheduler scheduler(Options(4, 16, 32));
  ScheduledSequence a = Sequence(1, 10), b = Sequence(1, 10);
  b.id = 2;
  scheduler.Add(&a);
  RunStep(scheduler);
  scheduler.Add(&b);

  const Scheduler::Step step = RunStep(scheduler);

  EXPECT_EQ(CountOf(step, b), 2) << "of 10 tokens two blocks of 4 are known";
}

TEST(SchedulerTest, AForkSharesBlocksUntilItWrites) {
  Scheduler scheduler(Options(4, 16, 32));
  ScheduledSequence a = Sequence(1, 6);
  scheduler.Add(&a);
  Scheduler::Step step = scheduler.Plan(0);
  scheduler.Computed(step, 0);
  ScheduledSequence b = a;
  b.id = 2;
  b.cache = KvCache::Sequence();

  ASSERT_TRUE(scheduler.Fork(a, &b));
  EXPECT_EQ(a.cache.blocks, b.cache.blocks);
  a.tokens.push_back(1);
  b.tokens.push_back(2);
  step = scheduler.Plan(0);

  EXPECT_EQ(step.copies.size(), 1);
  EXPECT_EQ(a.cache.blocks[0], b.cache.blocks[0]);
  EXPECT_NE(a.cache.blocks[1], b.cache.blocks[1]);
}

// Random arrivals, forks, ends and removals, with too few blocks for all.
TEST(SchedulerTest, KeepsItsPromisesUnderRandomActions) {
  for (int seed = 0; seed < 30; ++seed) {
    std::mt19937 rng(seed);
    const auto below = [&](int n) { return static_cast<int>(rng() % n); };
    SchedulerOptions options =
        Options(1 + below(6), /*tokens=*/6 + below(20), /*blocks=*/10);
    options.pause_decoding = seed % 2 == 1;
    double now = 0;
    Scheduler scheduler(options);
    std::vector<std::unique_ptr<ScheduledSequence>> all;
    std::vector<int64_t> length;  // At which each ends, by `all`.
    int64_t id = 0, num_ended = 0, idle = 0;
    const auto remove = [&](size_t which) {
      scheduler.Remove(all[which].get());
      all.erase(all.begin() + which);
      length.erase(length.begin() + which);
      ++num_ended;
    };
    for (int i = 0; i < 600 || !all.empty(); ++i) {
      ASSERT_LT(i, 20000) << "some sequence never ends";
      if (i < 600 && below(4) == 0) {
        auto s = std::make_unique<ScheduledSequence>();
        s->id = ++id;
        s->priority = below(3);
        s->arrival = now;
        const int64_t prompt = 1 + below(20);
        for (int64_t j = 0; j < prompt; ++j) s->tokens.push_back(below(2));
        scheduler.Add(s.get());
        length.push_back(prompt + 1 + below(20));  // At most 40: all blocks.
        all.push_back(std::move(s));
      }
      if (below(20) == 0 && !all.empty()) remove(below(all.size()));

      const Scheduler::Step step = scheduler.Plan(now);

      int64_t tokens = 0;
      std::set<const ScheduledSequence*> seen;
      std::set<int32_t> written;
      for (const Scheduler::Work& work : step.work) {
        const ScheduledSequence& s = *work.sequence;
        ASSERT_TRUE(seen.insert(&s).second);
        ASSERT_TRUE(s.running);
        ASSERT_GE(work.count, 1);
        ASSERT_EQ(work.first, s.cache.num_computed);
        tokens += work.count;
        for (int64_t t = work.first; t < work.first + work.count; ++t) {
          written.insert(s.cache.blocks.at(t / options.block_size));
          ASSERT_EQ(scheduler.cache().pool().holders(
                        s.cache.blocks[t / options.block_size]),
                    1);
        }
      }
      ASSERT_EQ(tokens, step.num_tokens);
      ASSERT_LE(tokens, options.max_step_tokens);
      ASSERT_LE(scheduler.num_running(), options.max_sequences);
      ASSERT_EQ(scheduler.num_running() + scheduler.num_waiting(),
                static_cast<int64_t>(all.size()));
      idle = step.work.empty() ? idle + 1 : 0;
      ASSERT_TRUE(all.empty() || idle == 0) << "nothing runs, though some wait";
      const double took =
          1e-3 * static_cast<double>(2 + step.num_tokens + below(5));
      scheduler.Computed(step, took);
      now += took;

      for (const Scheduler::Work& work : step.work) {
        if (!work.wants_logits()) continue;
        ScheduledSequence* const s = work.sequence;
        if (below(10) == 0) {
          auto child = std::make_unique<ScheduledSequence>();
          child->id = ++id;
          child->priority = s->priority;
          child->tokens = s->tokens;
          if (!scheduler.Fork(*s, child.get())) scheduler.Add(child.get());
          child->tokens.push_back(below(2));
          length.push_back(
              std::min<int64_t>(40, child->tokens.size() + below(5)));
          all.push_back(std::move(child));
        }
        s->tokens.push_back(below(2));
      }
      for (size_t j = all.size(); j > 0; --j) {
        if (static_cast<int64_t>(all[j - 1]->tokens.size()) >= length[j - 1]) {
          remove(j - 1);
        }
      }
    }
    EXPECT_EQ(num_ended, id);
    EXPECT_EQ(scheduler.cache().num_free() + scheduler.cache().num_kept(),
              options.num_blocks);
  }
}

}  // namespace
}  // namespace strata
