// The serving engine: many requests on one model, a step at a time.
//
//   ASSIGN_OR_RETURN(auto engine, Engine::Create(config, backend, state, {}));
//   ASSIGN_OR_RETURN(auto generation, engine->Submit(request));
//   while (auto event = generation->Next(absl::InfiniteFuture())) {
//     if (event->has_token) ...;
//     if (event->finished) ...;
//   }
//
// One thread of the engine's runs the model: each step computes some tokens of
// some sequences (serving/engine/scheduler.h) in one run of one program, and
// draws a token for each that is due. With the kernels of
// core/cpu/batch_invariant.h the answer to a request is the same bit for bit
// whatever else the engine does.

#ifndef SERVING_ENGINE_ENGINE_H_
#define SERVING_ENGINE_ENGINE_H_

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/base/thread_pool.h"
#include "core/model/config.pb.h"
#include "core/quant/cache_format.h"
#include "core/runtime/backend.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "serving/engine/block_copier.h"
#include "serving/engine/request_sampler.h"
#include "serving/engine/scheduler.h"

namespace strata {

struct EngineOptions {
  int64_t max_sequences = 64;  // In one step.
  // In one step, which whoever comes waits for.
  int64_t max_step_tokens = 160;
  int64_t block_size = 16;  // Tokens of a block of the cache.
  int64_t num_blocks = 0;   // 0: as cache_bytes allow.
  // At most what max_sequences of max_seq_len need.
  int64_t cache_bytes = int64_t{1} << 30;
  // Keys and values in fewer bits, and attention's probabilities in powers of
  // two (docs/quantisation.md). Then attention is not fused.
  CacheOptions cache;
  int64_t max_waiting = 1024;  // Choices that wait for their turn.
  ThreadPool* pool = nullptr;  // For drawing tokens; null: one thread.
  bool profile = false;        // Time operators; see Profile().
  // A block as a few composite operators, as far as the backend has kernels of
  // them (docs/fusion.md). Answers are the same, bit for bit.
  bool fuse = true;
};

enum class FinishReason {
  kStop,       // A stop token was drawn; it is not part of the answer.
  kLength,     // max_new_tokens, or max_seq_len.
  kCancelled,  // By Cancel or by the engine's end.
  kTimedOut,   // The deadline passed.
  kFailed,     // See EngineEvent::error.
};
inline constexpr int kNumFinishReasons = 5;

struct EngineRequest {
  std::vector<int32_t> prompt;
  int64_t max_new_tokens = 16;  // Fewer where max_seq_len ends before.
  RequestSampling sampling;
  int num_choices = 1;            // Choice i draws with seed + i.
  std::vector<int32_t> stop_ids;  // Any of these ends the answer.
  int priority = 0;               // The higher goes first.
  absl::Time deadline = absl::InfiniteFuture();
  int num_logprobs = -1;  // Most likely tokens to tell of; -1: none at all.
  // Draw nothing: the one event tells what the model makes of the prompt.
  bool features = false;
};

struct EngineEvent {
  int choice = 0;
  bool has_token = false;
  int32_t token = 0;
  std::vector<TokenLogprob> logprobs;  // As Logprobs gives them, if asked for.
  // If the request asked for features, of the prompt's last token: its last
  // hidden state, normalised as the model does, and logits.
  std::vector<float> features;  // [d_model]
  std::vector<float> logits;    // [vocab]
  bool finished = false;        // The choice's last event.
  FinishReason reason = FinishReason::kStop;
  absl::Status error;
};

// The answer to a request as it comes. For several threads.
class Generation {
 public:
  // The next event; none if `until` passes, or all choices have finished.
  std::optional<EngineEvent> Next(absl::Time until);

  // Whether every choice has finished and been told of.
  bool done() const;

  // Ends what has not ended. Events that were made stay.
  void Cancel();

  // Ends one choice as if it had drawn a stop token: its text met a stop
  // string.
  void Stop(int choice);

 private:
  friend class Engine;
  explicit Generation(int num_choices)
      : num_open_(num_choices), stopped_(num_choices) {}

  void Push(EngineEvent event);
  // Why a choice is to end, if it is.
  std::optional<FinishReason> ToEnd(int choice) const;

  mutable absl::Mutex mutex_;
  std::deque<EngineEvent> events_ ABSL_GUARDED_BY(mutex_);
  int num_open_ ABSL_GUARDED_BY(mutex_);  // Choices whose end nobody has read.
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<bool> stopped_ ABSL_GUARDED_BY(mutex_);  // [choices]
};

// Counts since the beginning, and what is the case now.
struct EngineStats {
  int64_t num_running = 0;
  int64_t num_waiting = 0;
  int64_t num_blocks = 0;
  int64_t num_used_blocks = 0;  // Held by sequences, or kept for their prefix.
  int64_t num_kept_blocks = 0;  // Of these, in the prefix tree.
  int64_t num_steps = 0;
  double step_seconds = 0;     // Of all steps ...
  double forward_seconds = 0;  // ... of these in the model.
  int64_t prompt_tokens = 0;   // Of requests that began.
  int64_t computed_tokens = 0;
  int64_t generated_tokens = 0;
  int64_t num_preemptions = 0;
  int64_t prefix_queried_tokens = 0;
  int64_t prefix_found_tokens = 0;
  int64_t num_submitted = 0;  // Choices.
  std::array<int64_t, kNumFinishReasons> num_finished = {};

  // Of two engines together.
  EngineStats& operator+=(const EngineStats& other);
};

// What one gate of the model has chosen, prompts included.
struct GateLoad {
  int64_t layer = 0;
  int64_t tier = 0;           // 0 where there are no tiers.
  int64_t tokens = 0;         // That reached it.
  std::vector<int64_t> rows;  // [experts], tokens sent to each.
};

class Engine {
 public:
  // An engine over the weights in `state`, which, with `backend`, must outlive
  // it, and which nobody else may run programs on. Starts its thread.
  //
  // Returns INVALID_ARGUMENT if the config or an option is wrong,
  // UNIMPLEMENTED for a model whose tokens compete for experts (an answer would
  // depend on the batch), and RESOURCE_EXHAUSTED if memory runs out.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(
      const ModelConfig& config, Backend& backend, StateStore& state,
      const EngineOptions& options);

  // Cancels what has not ended.
  ~Engine();

  // Returns INVALID_ARGUMENT if the request can not be answered (the message
  // names the field), RESOURCE_EXHAUSTED if too many wait, UNAVAILABLE after
  // Drain.
  absl::StatusOr<std::shared_ptr<Generation>> Submit(EngineRequest request);

  // Takes no more requests, and returns when all have ended or `until` passes;
  // then the rest is cancelled. False if some were.
  bool Drain(absl::Time until);

  EngineStats stats() const;
  // Since the beginning, by layer, then tier; empty for a dense model.
  std::vector<GateLoad> gate_loads() const;
  // Time by operator, if the options asked for it; to be called while nothing
  // runs.
  std::vector<Program::OpTime> Profile() const { return program_->Profile(); }
  const ModelConfig& config() const { return config_; }
  // Tokens that a request may have, prompt and answer together.
  int64_t max_tokens() const;

 private:
  struct Choice;

  Engine(const ModelConfig& config, Backend& backend, StateStore& state,
         const EngineOptions& options, const SchedulerOptions& scheduling);

  absl::Status Compile();
  absl::Status Check(const EngineRequest& request) const;
  void Loop();
  bool TakeRequests();  // Waits for work; false if the engine is to end.
  void Sweep();         // Ends what was cancelled or is too late.
  void Step();
  absl::Status Forward(const Scheduler::Step& step);
  void Draw(const Scheduler::Step& step);
  EngineEvent DrawOne(Choice& choice, int64_t row,
                      absl::Span<const float> logits) const;
  void Fork(Choice* parent);
  void Take(Choice* choice, EngineEvent event);
  void Finish(Choice* choice, FinishReason reason, absl::Status error);
  void CountGates();
  void UpdateStats(double step_seconds);

  const ModelConfig config_;
  Backend& backend_;
  StateStore& state_;
  const EngineOptions options_;
  std::unique_ptr<Program> program_;
  std::unique_ptr<BlockCopier> copier_;

  // The engine thread's alone:
  Scheduler scheduler_;
  std::vector<std::unique_ptr<Choice>> choices_;
  int64_t next_id_ = 0;
  EngineStats counts_;
  std::vector<GateLoad> gates_;
  std::vector<std::pair<std::string, std::string>> gate_outputs_;  // Names.

  mutable absl::Mutex mutex_;
  std::vector<std::unique_ptr<Choice>> inbox_ ABSL_GUARDED_BY(mutex_);
  int64_t num_unfinished_ ABSL_GUARDED_BY(mutex_) = 0;  // Choices.
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  EngineStats stats_ ABSL_GUARDED_BY(mutex_);
  std::vector<GateLoad> published_gates_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace strata

#endif  // SERVING_ENGINE_ENGINE_H_
