// What the callers of an engine hold: answers on their way, and counts.

#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "serving/engine/engine.h"

namespace strata {

std::optional<EngineEvent> Generation::Next(absl::Time until) {
  absl::MutexLock lock(&mutex_);
  const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !events_.empty() || num_open_ == 0;
  };
  mutex_.AwaitWithDeadline(absl::Condition(&ready), until);
  if (events_.empty()) return std::nullopt;
  EngineEvent event = std::move(events_.front());
  events_.pop_front();
  if (event.finished) --num_open_;
  return event;
}

bool Generation::done() const {
  absl::MutexLock lock(&mutex_);
  return num_open_ == 0;
}

void Generation::Cancel() {
  absl::MutexLock lock(&mutex_);
  cancelled_ = true;
}

void Generation::Push(EngineEvent event) {
  absl::MutexLock lock(&mutex_);
  events_.push_back(std::move(event));
}

void Generation::Stop(int choice) {
  absl::MutexLock lock(&mutex_);
  stopped_[choice] = true;
}

std::optional<FinishReason> Generation::ToEnd(int choice) const {
  absl::MutexLock lock(&mutex_);
  if (stopped_[choice]) return FinishReason::kStop;
  if (cancelled_) return FinishReason::kCancelled;
  return std::nullopt;
}

EngineStats& EngineStats::operator+=(const EngineStats& other) {
  num_running += other.num_running;
  num_waiting += other.num_waiting;
  num_blocks += other.num_blocks;
  num_used_blocks += other.num_used_blocks;
  num_kept_blocks += other.num_kept_blocks;
  num_steps += other.num_steps;
  step_seconds += other.step_seconds;
  forward_seconds += other.forward_seconds;
  prompt_tokens += other.prompt_tokens;
  computed_tokens += other.computed_tokens;
  generated_tokens += other.generated_tokens;
  num_preemptions += other.num_preemptions;
  prefix_queried_tokens += other.prefix_queried_tokens;
  prefix_found_tokens += other.prefix_found_tokens;
  num_submitted += other.num_submitted;
  for (int i = 0; i < kNumFinishReasons; ++i) {
    num_finished[i] += other.num_finished[i];
  }
  return *this;
}

}  // namespace strata
