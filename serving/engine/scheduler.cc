#include "serving/engine/scheduler.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/base/check.h"
#include "serving/engine/kv_cache.h"
#include "serving/engine/prompt_shares.h"
#include "serving/engine/schedule/step_times.h"

namespace strata {
namespace {

bool GoesBefore(const ScheduledSequence* a, const ScheduledSequence* b) {
  if (a->priority != b->priority) return a->priority > b->priority;
  return a->id < b->id;
}

void InsertInOrder(ScheduledSequence* sequence,
                   std::vector<ScheduledSequence*>& list) {
  list.insert(std::upper_bound(list.begin(), list.end(), sequence, GoesBefore),
              sequence);
}

bool Erase(const ScheduledSequence* sequence,
           std::vector<ScheduledSequence*>& list) {
  const auto it = std::find(list.begin(), list.end(), sequence);
  if (it == list.end()) return false;
  list.erase(it);
  return true;
}

int64_t NumTokens(const ScheduledSequence* sequence) {
  return static_cast<int64_t>(sequence->tokens.size());
}

int64_t NumWanted(const ScheduledSequence* sequence) {
  return NumTokens(sequence) - sequence->cache.num_computed;
}

// Whether its first token is out and its next one due.
bool Decodes(const ScheduledSequence* sequence) {
  return NumWanted(sequence) == 1 && NumTokens(sequence) > sequence->num_prompt;
}

// How many times its time alone a prompt's first token may take: a little less
// than the 3 of the goal, as a step that has begun is waited for.
constexpr double kDue = 2.9;

// Whole steps for which those who decode may pause. With fewer, prompts that
// come together share the machine with decoding, and first tokens are late.
constexpr int kPauseSteps = 8;

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options)
    : options_(options), cache_(options.num_blocks, options.block_size) {
  CHECK(options.max_sequences >= 1 &&
        options.max_step_tokens >= options.max_sequences)
      << options.max_step_tokens << " tokens a step for "
      << options.max_sequences << " sequences";
}

void Scheduler::Add(ScheduledSequence* sequence) {
  CHECK(!sequence->tokens.empty());
  sequence->num_prompt = NumTokens(sequence);
  InsertInOrder(sequence, waiting_);
}

void Scheduler::Remove(ScheduledSequence* sequence) {
  if (Erase(sequence, running_)) {
    Keep(*sequence);
    cache_.End(sequence->cache);
    sequence->running = false;
    return;
  }
  CHECK(Erase(sequence, waiting_)) << "sequence " << sequence->id;
}

void Scheduler::Keep(const ScheduledSequence& sequence) {
  if (sequence.shares_prefix) cache_.Keep(sequence.cache, sequence.tokens);
}

void Scheduler::Preempt(ScheduledSequence* sequence, Step& step) {
  const auto work =
      std::find_if(step.work.begin(), step.work.end(),
                   [&](const Work& w) { return w.sequence == sequence; });
  if (work != step.work.end()) {
    step.num_tokens -= work->count;
    step.work.erase(work);
  }
  Erase(sequence, running_);
  Keep(*sequence);
  cache_.End(sequence->cache);
  sequence->running = false;
  ++sequence->num_preemptions;
  ++num_preemptions_;
  InsertInOrder(sequence, waiting_);
}

bool Scheduler::MakeRoom(ScheduledSequence* sequence, Step& step) {
  while (!cache_.Reserve(sequence->cache, NumTokens(sequence), step.copies)) {
    ScheduledSequence* const last = running_.back();
    Preempt(last, step);
    if (last == sequence) return false;
  }
  return true;
}

void Scheduler::AddWork(ScheduledSequence* sequence, int64_t count,
                        Step& step) {
  if (count == 0) return;
  step.work.push_back({sequence, sequence->cache.num_computed, count});
  step.num_tokens += count;
}

void Scheduler::AddDecoding(double now, Step& step) {
  for (ScheduledSequence* const sequence : running_) {
    const bool has_work = std::any_of(
        step.work.begin(), step.work.end(),
        [&](const Work& work) { return work.sequence == sequence; });
    if (!Decodes(sequence) || has_work) continue;
    AddWork(sequence, 1, step);
    decoded_at_ = now;
  }
}

std::vector<ScheduledSequence*> Scheduler::Prompts(const Step& step) const {
  std::vector<ScheduledSequence*> prompts;
  for (ScheduledSequence* const sequence : running_) {
    if (!Decodes(sequence) && NumWanted(sequence) > 0) {
      prompts.push_back(sequence);
    }
  }
  return prompts;
}

PromptDemand Scheduler::DemandOf(const ScheduledSequence& sequence) const {
  PromptDemand demand;
  demand.id = sequence.id;
  demand.priority = sequence.priority;
  demand.wanted = NumWanted(&sequence);
  const auto alone = [&](int64_t tokens) {
    return times_.OfPrompt(tokens, options_.max_step_tokens);
  };
  double allowed = kDue * alone(NumTokens(&sequence));
  const double needed = now_ - sequence.arrival + alone(demand.wanted);
  for (int times = 0; allowed < needed; ++times) {
    allowed *= 2;
    demand.late = times > 0;
  }
  demand.due = sequence.arrival + allowed;
  return demand;
}

std::vector<int64_t> Scheduler::Shares(
    const std::vector<ScheduledSequence*>& prompts, const Step& step) const {
  std::vector<PromptDemand> demands;
  for (const ScheduledSequence* const prompt : prompts) {
    demands.push_back(DemandOf(*prompt));
  }
  return SharePrompts(demands, options_.max_step_tokens - step.num_tokens);
}

void Scheduler::Admit(Step& step) {
  const std::vector<ScheduledSequence*> order = waiting_;
  for (ScheduledSequence* const next : order) {
    // Whoever would get no token waits, and may be passed by who would.
    std::vector<ScheduledSequence*> prompts = Prompts(step);
    prompts.push_back(next);
    if (Shares(prompts, step).back() == 0) continue;
    const auto displaces = [&] {
      return !running_.empty() && running_.back()->priority < next->priority;
    };
    while (num_running() >= options_.max_sequences && displaces()) {
      Preempt(running_.back(), step);
    }
    if (num_running() >= options_.max_sequences) return;
    next->cache =
        next->shares_prefix ? cache_.Begin(next->tokens) : KvCache::Sequence();
    while (!cache_.Reserve(next->cache, NumTokens(next), step.copies)) {
      if (!displaces()) {
        cache_.End(next->cache);
        return;
      }
      Preempt(running_.back(), step);
    }
    Erase(next, waiting_);
    next->running = true;
    InsertInOrder(next, running_);
  }
}

Scheduler::Step Scheduler::Plan(double now) {
  now_ = now;
  Step step;
  // Room for those who decode, then for those in the midst of their prompt.
  // Whoever is preempted meanwhile runs no more.
  const std::vector<ScheduledSequence*> order = running_;
  for (const bool decodes : {true, false}) {
    for (ScheduledSequence* const sequence : order) {
      if (!sequence->running || Decodes(sequence) != decodes) continue;
      MakeRoom(sequence, step);
    }
  }
  const bool prompts_wait = !waiting_.empty() || !Prompts(step).empty();
  const bool pause =
      options_.pause_decoding && prompts_wait &&
      now < decoded_at_ + kPauseSteps * times_.Of(options_.max_step_tokens);
  if (!pause) AddDecoding(now, step);
  Admit(step);
  // Of who came back, the cache may know all but the last token.
  if (!pause) AddDecoding(now, step);
  const std::vector<ScheduledSequence*> prompts = Prompts(step);
  const std::vector<int64_t> shares = Shares(prompts, step);
  for (size_t i = 0; i < prompts.size(); ++i) {
    AddWork(prompts[i], shares[i], step);
  }
  if (pause && step.work.empty()) AddDecoding(now, step);
  return step;
}

void Scheduler::Computed(const Step& step, double took) {
  times_.Add(step.num_tokens, took);
  for (const Work& work : step.work) {
    KvCache::Sequence& cache = work.sequence->cache;
    const bool was_prompt = work.count > 1;
    cache.num_computed = work.first + work.count;
    // Whoever comes with the same beginning need not wait for the end.
    if (was_prompt) Keep(*work.sequence);
  }
}

bool Scheduler::Fork(const ScheduledSequence& parent,
                     ScheduledSequence* child) {
  CHECK(parent.running && child->tokens == parent.tokens &&
        parent.cache.num_computed == NumTokens(&parent));
  if (num_running() >= options_.max_sequences) return false;
  child->cache = cache_.Fork(parent.cache);
  child->num_prompt = parent.num_prompt;
  child->running = true;
  InsertInOrder(child, running_);
  return true;
}

}  // namespace strata
