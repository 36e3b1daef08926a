// The thread pool: hands the indexes of a loop out to a fixed set of threads.
//
//   pool.ParallelFor(num_tiles, [&](int64_t tile) { Multiply(tile); });
//   pool.ParallelFor(num_rows, [&](int64_t row, int worker) {
//     Softmax(row, &scratch[worker]);
//   });
//
// Which thread runs an index, and in which order, changes from run to run. So
// that results are bit for bit the same for any number of threads, what an
// index computes must depend on nothing but the index: cut work into tiles by
// the problem's size, never by num_threads(), give every output one writer, and
// add up partial results in the order of their indexes after the loop. Scratch
// of a worker holds nothing from one index to the next.
//
// Dispatch costs a microsecond or two while the workers are hot: they spin for
// a while before they sleep. An index should be worth about that much. Nothing
// is allocated after construction.

#ifndef CORE_BASE_THREAD_POOL_H_
#define CORE_BASE_THREAD_POOL_H_

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

namespace strata {

// Cores that this process may use: its affinity mask, cut to the CPU quota of
// its control group. At least 1.
int NumUsableCores();

class ThreadPool {
 public:
  // The thread that calls ParallelFor is one of the `num_threads`, so
  // `num_threads - 1` are started. `num_threads` is at least 1.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();

  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(threads_.size()) + 1; }

  // Calls fn(i) once for each i in [0, n) and returns when all have returned;
  // what they wrote is then visible to the caller. `worker`, in
  // [0, num_threads()), is never in two calls of `fn` at the same time, so it
  // indexes scratch.
  //
  // A call from inside `fn` runs on its own thread, as the same worker. Calls
  // from several threads outside the pool take turns. `fn` must not throw.
  void ParallelFor(int64_t n, absl::FunctionRef<void(int64_t i)> fn);
  void ParallelFor(int64_t n,
                   absl::FunctionRef<void(int64_t i, int worker)> fn);

 private:
  using Body = absl::FunctionRef<void(int64_t i, int worker)>;

  void WorkerMain(int worker);
  // Takes indexes of the current job until none is left.
  void RunIndexes(int worker, const Body& fn);
  void Publish(const Body& fn, int64_t n);
  void CloseAndWait();
  // Returns a state that is open with an epoch other than `seen`, or that
  // stops.
  uint32_t WaitForJob(uint32_t seen);

  // One job at a time: it opens, workers join and leave it, the caller closes
  // it and waits until all who joined have left. A worker that is asleep or
  // descheduled joins late or not at all and delays nobody. The layout of
  // `state_` is in the source; it is also the futex that everybody sleeps on.
  alignas(64) std::atomic<uint32_t> state_{0};
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<int> num_sleeping_{0};
  int64_t n_ = 0;             // Of the job; stable while it has members.
  const Body* fn_ = nullptr;  // Likewise.
  int spin_us_ = 0;
  std::mutex caller_mutex_;
  std::vector<std::thread> threads_;
};

}  // namespace strata

#endif  // CORE_BASE_THREAD_POOL_H_
