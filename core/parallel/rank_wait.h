// How long a thread has waited for other ranks: whoever blocks for them says so
// by a RankWait, and whoever has a device that waited for them tells its time.
// What a step takes beyond that is the rank's own work
// (core/monitor/rank_speed.h). A message's way counts as waiting where it is
// waited for.

#ifndef CORE_PARALLEL_RANK_WAIT_H_
#define CORE_PARALLEL_RANK_WAIT_H_

#include <chrono>

namespace strata {

// Waits as long as it lives. They do not nest.
class RankWait {
 public:
  RankWait() : start_(Clock::now()) {}
  RankWait(const RankWait&) = delete;
  RankWait& operator=(const RankWait&) = delete;
  ~RankWait() { total_ += Clock::now() - start_; }

  // The calling thread's device has waited so long, while the thread waited for
  // the device.
  static void Add(std::chrono::nanoseconds time) {
    total_ += std::chrono::duration_cast<Clock::duration>(time);
  }

  // Of the calling thread, since it began.
  static double Seconds() {
    return std::chrono::duration<double>(total_).count();
  }

 private:
  using Clock = std::chrono::steady_clock;

  const Clock::time_point start_;
  static inline thread_local Clock::duration total_ = {};
};

}  // namespace strata

#endif  // CORE_PARALLEL_RANK_WAIT_H_
