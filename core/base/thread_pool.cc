#include "core/base/thread_pool.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <cstdint>
#include <cstdio>
#include <mutex>

#include "core/base/check.h"

namespace strata {
namespace {

// state_, from the low bits: how many workers are in the job, then flags, then
// the epoch, which counts jobs and wraps. Wrapping is harmless: a worker that
// slept through exactly 2^16 jobs lets one more pass.
constexpr uint32_t kMembersMask = (1u << 13) - 1;
constexpr uint32_t kOpen = 1u << 13;
constexpr uint32_t kCallerSleeps = 1u << 14;
constexpr uint32_t kStop = 1u << 15;
constexpr uint32_t kEpoch = 1u << 16;
constexpr uint32_t kEpochMask = ~(kEpoch - 1);

// Who a futex wake is for.
constexpr uint32_t kWorkers = 1;
constexpr uint32_t kCaller = 2;

// Longer than the serial gaps between the kernels of a step, much shorter than
// a time slice.
constexpr int kSpinUs = 50;

// The pool whose loop this thread is in, and as which worker.
thread_local const ThreadPool* current_pool = nullptr;
thread_local int current_worker = 0;

void FutexWait(std::atomic<uint32_t>* word, uint32_t expected, uint32_t who) {
  syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, expected, nullptr,
          nullptr, who);
}

void FutexWake(std::atomic<uint32_t>* word, int count, uint32_t who) {
  syscall(SYS_futex, word, FUTEX_WAKE_BITSET_PRIVATE, count, nullptr, nullptr,
          who);
}

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins until `done` or until `spin_us` have passed; returns `done`.
template <typename Done>
bool SpinUntil(int spin_us, Done done) {
  if (done()) return true;
  if (spin_us == 0) return false;
  const auto deadline =
      std::chrono::steady_clock::now() + std::chrono::microseconds(spin_us);
  do {
    for (int i = 0; i < 16; ++i) {
      if (done()) return true;
      Pause();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return done();
}

// Cores' worth of time that the control group grants, or INT_MAX.
int CpuQuota() {
  std::FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "r");
  if (file == nullptr) return INT_MAX;
  long long quota_us = 0, period_us = 0;  // "max 100000" has no quota.
  const int num_read = std::fscanf(file, "%lld %lld", &quota_us, &period_us);
  std::fclose(file);
  if (num_read != 2 || quota_us <= 0 || period_us <= 0) return INT_MAX;
  return static_cast<int>(
      std::min<long long>(INT_MAX, (quota_us + period_us - 1) / period_us));
}

}  // namespace

int NumUsableCores() {
  int num_cores = static_cast<int>(std::thread::hardware_concurrency());
  cpu_set_t set;  // Fails beyond 1024 cores; then the count above stands.
  if (sched_getaffinity(0, sizeof(set), &set) == 0) num_cores = CPU_COUNT(&set);
  return std::max(1, std::min(num_cores, CpuQuota()));
}

ThreadPool::ThreadPool(int num_threads) {
  CHECK(num_threads >= 1 && num_threads <= static_cast<int>(kMembersMask))
      << num_threads << " threads";
  // With more threads than cores a spinning thread keeps a working one waiting.
  spin_us_ = num_threads <= NumUsableCores() ? kSpinUs : 0;
  threads_.reserve(num_threads - 1);
  for (int worker = 1; worker < num_threads; ++worker) {
    threads_.emplace_back([this, worker] { WorkerMain(worker); });
  }
}

ThreadPool::~ThreadPool() {
  state_.fetch_or(kStop);
  FutexWake(&state_, INT_MAX, kWorkers);
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::ParallelFor(int64_t n, absl::FunctionRef<void(int64_t i)> fn) {
  ParallelFor(n, [&fn](int64_t i, int worker) { fn(i); });
}

void ThreadPool::ParallelFor(
    int64_t n, absl::FunctionRef<void(int64_t i, int worker)> fn) {
  if (n <= 0) return;
  if (current_pool == this) {  // Nested.
    for (int64_t i = 0; i < n; ++i) fn(i, current_worker);
    return;
  }
  // Also for a single index, so that two callers never are worker 0 at once.
  std::lock_guard<std::mutex> lock(caller_mutex_);
  const ThreadPool* const outer_pool = current_pool;
  const int outer_worker = current_worker;
  current_pool = this;
  current_worker = 0;
  if (n == 1 || threads_.empty()) {
    for (int64_t i = 0; i < n; ++i) fn(i, 0);
  } else {
    Publish(fn, n);
    RunIndexes(0, fn);
    CloseAndWait();
  }
  current_pool = outer_pool;
  current_worker = outer_worker;
}

void ThreadPool::Publish(const Body& fn, int64_t n) {
  // Nobody is in a job now, so these have no reader.
  fn_ = &fn;
  n_ = n;
  next_.store(0, std::memory_order_relaxed);
  const uint32_t epoch = state_.load(std::memory_order_relaxed) & kEpochMask;
  state_.store((epoch + kEpoch) | kOpen);
  // Sequentially consistent with WaitForJob: either this sees the sleeper, or
  // the sleeper's futex sees the new state.
  if (num_sleeping_.load() > 0) {
    const int64_t num_useful = std::min<int64_t>(n - 1, threads_.size());
    FutexWake(&state_, static_cast<int>(num_useful), kWorkers);
  }
}

void ThreadPool::RunIndexes(int worker, const Body& fn) {
  const int64_t n = n_;
  for (;;) {
    const int64_t i = next_.fetch_add(1, std::memory_order_relaxed);
    if (i >= n) return;
    fn(i, worker);
  }
}

void ThreadPool::CloseAndWait() {
  uint32_t state = state_.fetch_and(~kOpen) & ~kOpen;
  const auto all_left = [this, &state] {
    state = state_.load(std::memory_order_acquire);
    return (state & kMembersMask) == 0;
  };
  if (SpinUntil(spin_us_, all_left)) return;
  state_.fetch_or(kCallerSleeps);
  while (!all_left()) FutexWait(&state_, state, kCaller);
  state_.fetch_and(~kCallerSleeps);
}

uint32_t ThreadPool::WaitForJob(uint32_t seen) {
  uint32_t state = 0;
  const auto ready = [this, &state, seen] {
    state = state_.load(std::memory_order_relaxed);
    return (state & kStop) != 0 ||
           ((state & kOpen) != 0 && (state & kEpochMask) != seen);
  };
  if (SpinUntil(spin_us_, ready)) return state;
  num_sleeping_.fetch_add(1);
  while (!ready()) FutexWait(&state_, state, kWorkers);
  num_sleeping_.fetch_sub(1);
  return state;
}

void ThreadPool::WorkerMain(int worker) {
  current_pool = this;
  current_worker = worker;
  uint32_t seen = 0;  // The epoch of the last job joined; the first one is 1.
  for (;;) {
    uint32_t state = WaitForJob(seen);
    if ((state & kStop) != 0) return;
    // Joins unless something changed; then looks again. Acquires the job.
    if (!state_.compare_exchange_weak(state, state + 1,
                                      std::memory_order_acq_rel)) {
      continue;
    }
    seen = state & kEpochMask;
    RunIndexes(worker, *fn_);
    // The caller may return, and `this` may die, as soon as the count is zero,
    // unless it sleeps: then it waits for the wake, which touches only the
    // address. The destructor joins this thread.
    const uint32_t left = state_.fetch_sub(1, std::memory_order_acq_rel);
    if ((left & kMembersMask) == 1 && (left & kCallerSleeps) != 0) {
      FutexWake(&state_, 1, kCaller);
    }
  }
}

}  // namespace strata
