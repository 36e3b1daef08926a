// Which sequences run in the next step, and how many tokens of each.
//
//   Add --> waiting --Plan--> running --Remove--> gone
//              ^                 |
//              '--- preempted ---'     no block was left
//
// A step runs, within a budget of tokens: one token of every sequence that
// decodes; then prompts, those that have begun and new ones, by the shares of
// prompt_shares.h. A new one needs blocks for all of its tokens. Of two
// sequences the one of higher priority goes first, then the older; of prompts
// the one whose first token is due first. If a running sequence needs a
// block and there is none, the last in that order gives up its blocks and waits
// again; its full blocks stay known for as long as their room is not needed.
// One waiting may so displace only a sequence of lower priority.
//
// A first token is due after a few times what the prompt would take with nobody
// else there, by the steps so far (schedule/step_times.h). Who cannot make that
// any more is due after twice the time: it lets those pass who can. Who cannot
// make that either is late, and the oldest of these gets a share of each step.
//
// The first in the order always gets on, if its tokens fit into the cache at
// all, which the caller sees to. Pure bookkeeping; not for several threads.

#ifndef SERVING_ENGINE_SCHEDULER_H_
#define SERVING_ENGINE_SCHEDULER_H_

#include <cstdint>
#include <vector>

#include "serving/engine/kv_cache.h"
#include "serving/engine/prompt_shares.h"
#include "serving/engine/schedule/step_times.h"

namespace strata {

struct SchedulerOptions {
  int64_t max_sequences = 64;     // In one step.
  int64_t max_step_tokens = 512;  // At least max_sequences.
  int64_t num_blocks = 1024;
  int64_t block_size = 16;
  // While prompts wait, those who decode pause for as long as a few whole steps
  // of max_step_tokens take, so that first tokens come sooner.
  bool pause_decoding = false;
};

// A sequence as the scheduler sees it; the caller owns it, and appends to
// `tokens` between steps.
struct ScheduledSequence {
  int64_t id = 0;    // Unique; of equal priority the lower goes first.
  int priority = 0;  // The higher goes first.
  std::vector<int32_t> tokens;
  // Whether keys and values follow from the tokens up to theirs alone, so that
  // sequences of one beginning can share them.
  bool shares_prefix = true;
  double arrival = 0;  // Seconds, on Plan's clock.
  // The scheduler's:
  KvCache::Sequence cache;
  bool running = false;
  int64_t num_preemptions = 0;
  int64_t num_prompt = 0;  // Tokens when it was added.
};

class Scheduler {
 public:
  // Tokens first .. first + count of a sequence are to be computed. Logits are
  // wanted if these are its last.
  struct Work {
    ScheduledSequence* sequence = nullptr;
    int64_t first = 0;
    int64_t count = 0;

    bool wants_logits() const {
      return first + count == static_cast<int64_t>(sequence->tokens.size());
    }
  };
  struct Step {
    std::vector<Work> work;
    std::vector<BlockCopy> copies;  // To be made before the step.
    int64_t num_tokens = 0;
  };

  explicit Scheduler(const SchedulerOptions& options);

  // A sequence that waits. It must have a token, and stay where it is until
  // Remove.
  void Add(ScheduledSequence* sequence);

  // The next step; empty only if nothing runs or waits (or what waits does not
  // fit into the cache, which is the caller's error). Work of a step must be
  // done, and Computed called, before the next. `now` and what the step took
  // are in seconds.
  Step Plan(double now);
  void Computed(const Step& step, double took);

  // Lets `child`, whose tokens are those of `parent`, run on with a share of
  // all its blocks, parent having all its tokens computed. False if too many
  // run already: then Add it instead.
  bool Fork(const ScheduledSequence& parent, ScheduledSequence* child);

  // Forgets a sequence, running or waiting.
  void Remove(ScheduledSequence* sequence);

  int64_t num_running() const { return static_cast<int64_t>(running_.size()); }
  int64_t num_waiting() const { return static_cast<int64_t>(waiting_.size()); }
  int64_t num_preemptions() const { return num_preemptions_; }
  const KvCache& cache() const { return cache_; }
  // Whether a sequence of so many tokens can ever run.
  bool Fits(int64_t num_tokens) const {
    return cache_.BlocksFor(num_tokens) <= cache_.num_blocks();
  }

 private:
  // Room for all tokens of a running sequence; preempts others, or at last
  // itself, for it. False if it runs no more.
  bool MakeRoom(ScheduledSequence* sequence, Step& step);
  void Preempt(ScheduledSequence* sequence, Step& step);
  void Keep(const ScheduledSequence& sequence);
  void AddWork(ScheduledSequence* sequence, int64_t count, Step& step);
  // One token of each that decodes.
  void AddDecoding(double now, Step& step);
  PromptDemand DemandOf(const ScheduledSequence& sequence) const;
  // Running sequences that are in the midst of their prompts.
  std::vector<ScheduledSequence*> Prompts(const Step& step) const;
  // Tokens of each in this step.
  std::vector<int64_t> Shares(const std::vector<ScheduledSequence*>& prompts,
                              const Step& step) const;
  void Admit(Step& step);

  const SchedulerOptions options_;
  KvCache cache_;
  // Both in order, the first to go first.
  std::vector<ScheduledSequence*> running_;
  std::vector<ScheduledSequence*> waiting_;
  int64_t num_preemptions_ = 0;
  StepTimes times_;
  double now_ = 0;         // Of the step that is planned.
  double decoded_at_ = 0;  // When those who decode last did.
};

}  // namespace strata

#endif  // SERVING_ENGINE_SCHEDULER_H_
