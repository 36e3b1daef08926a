// The timers of each rank. Timers of a rank that are due at one time run
// together, in the order in which they were set, when the first of them is due
// among all events: ASTRA-sim does so, and who sends first depends on it.

#ifndef SIM_ASTRA_RANK_TIMERS_H_
#define SIM_ASTRA_RANK_TIMERS_H_

#include <cstdint>
#include <vector>

#include "sim/astra/event_queue.h"

namespace strata::astra {

class RankTimers {
 public:
  struct Timer {
    uint32_t kind = 0;
    uint32_t next = 0;
    uint64_t operand = 0;
    uint64_t bytes = 0;
  };

  RankTimers(int num_ranks, EventQueue& queue)
      : queue_(queue), pending_(num_ranks) {}

  // Sets a timer that is due delay_ns from now.
  void Set(int rank, int64_t delay_ns, uint32_t kind, uint64_t operand,
           uint64_t bytes = 0) {
    const int64_t time_ns = queue_.now_ns() + delay_ns;
    uint32_t index = free_;
    if (index == kNone) {
      index = static_cast<uint32_t>(timers_.size());
      timers_.emplace_back();
    } else {
      free_ = timers_[index].next;
    }
    timers_[index] = {kind, kNone, operand, bytes};
    for (Due& due : pending_[rank]) {
      if (due.time_ns != time_ns) continue;
      (due.last == kNone ? due.first : timers_[due.last].next) = index;
      due.last = index;
      return;
    }
    pending_[rank].push_back({time_ns, index, index});
    queue_.Schedule(delay_ns, {EventKind::kTimer, static_cast<uint32_t>(rank)});
  }

  // Calls run(timer) for those of `rank` that are due now, also for timers that
  // are set meanwhile with no delay.
  template <typename Run>
  void RunDue(int rank, Run run) {
    while (true) {
      // The list may have moved: `run` sets timers.
      Due* const due = Find(rank);
      if (due->first == kNone) {
        *due = pending_[rank].back();
        pending_[rank].pop_back();
        return;
      }
      const uint32_t index = due->first;
      const Timer timer = timers_[index];
      due->first = timer.next;
      if (due->first == kNone) due->last = kNone;
      timers_[index].next = free_;
      free_ = index;
      run(timer);
    }
  }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;

  struct Due {
    int64_t time_ns = 0;
    uint32_t first = kNone;
    uint32_t last = kNone;
  };

  Due* Find(int rank) {
    const int64_t now_ns = queue_.now_ns();
    for (Due& due : pending_[rank]) {
      if (due.time_ns == now_ns) return &due;
    }
    return nullptr;  // Not reached: RunDue answers an event of the list.
  }

  EventQueue& queue_;
  std::vector<std::vector<Due>> pending_;  // [rank]
  std::vector<Timer> timers_;
  uint32_t free_ = kNone;
};

}  // namespace strata::astra

#endif  // SIM_ASTRA_RANK_TIMERS_H_
