// Events in the order of their times, and at one time in the order in which
// they were scheduled.
//
// Times come in crowds, since ranks that do the same do it at once: a bucket
// for each distinct time is a plain array, and only distinct times are ordered
// in a heap. So an event of a crowd costs a push and a read.

#ifndef SIM_ASTRA_EVENT_QUEUE_H_
#define SIM_ASTRA_EVENT_QUEUE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "core/base/check.h"

namespace strata::astra {

enum class EventKind : uint32_t {
  kTimer,     // a: the rank, some of whose timers are due.
  kArrival,   // a: the channel of a message that has arrived; b: its sender.
  kDelivery,  // b: the receiver of a message that had arrived before.
  kHop,       // a: a message that has come to the end of a link.
  kLinkFree,  // a: a link that can take the next message.
};

struct Event {
  EventKind kind = EventKind::kTimer;
  uint32_t a = 0;
  uint64_t b = 0;
};

class EventQueue {
 public:
  // Times beyond are no times of a simulation; some 146 years.
  static constexpr int64_t kMaxTimeNs = int64_t{1} << 62;

  int64_t now_ns() const { return now_ns_; }
  int64_t num_events() const { return num_events_; }

  // Schedules `event` at now + delay_ns. A delay of 0 is behind all that is
  // scheduled for now. Drops the event and sets overflow() beyond kMaxTimeNs.
  void Schedule(int64_t delay_ns, Event event) {
    if (delay_ns == 0) {
      current_.push_back(event);
      return;
    }
    CHECK(delay_ns > 0) << delay_ns;
    if (delay_ns > kMaxTimeNs - now_ns_) {
      overflow_ = true;
      return;
    }
    const int64_t time_ns = now_ns_ + delay_ns;
    // Neighbouring calls tend to ask for the same two times.
    for (const int i : {0, 1}) {
      if (cached_time_ns_[i] == time_ns) {
        buckets_[cached_bucket_[i]].push_back(event);
        return;
      }
    }
    const auto [entry, is_new] = bucket_of_time_.try_emplace(time_ns, 0);
    if (is_new) {
      if (free_.empty()) {
        free_.push_back(static_cast<uint32_t>(buckets_.size()));
        buckets_.emplace_back();
      }
      entry->second = free_.back();
      free_.pop_back();
      times_.push_back(time_ns);
      std::push_heap(times_.begin(), times_.end(), std::greater<int64_t>());
    }
    buckets_[entry->second].push_back(event);
    cached_time_ns_[next_cached_] = time_ns;
    cached_bucket_[next_cached_] = entry->second;
    next_cached_ = 1 - next_cached_;
  }

  // Takes the next event and moves the time to it; false if there is none.
  bool Next(Event* event) {
    while (cursor_ == current_.size()) {
      if (times_.empty()) return false;
      Advance();
    }
    *event = current_[cursor_++];
    ++num_events_;
    return true;
  }

  bool overflow() const { return overflow_; }

 private:
  void Advance() {
    std::pop_heap(times_.begin(), times_.end(), std::greater<int64_t>());
    now_ns_ = times_.back();
    times_.pop_back();
    const auto entry = bucket_of_time_.find(now_ns_);
    // The drained array goes back to the pool with its memory.
    current_.clear();
    cursor_ = 0;
    std::swap(current_, buckets_[entry->second]);
    free_.push_back(entry->second);
    bucket_of_time_.erase(entry);
    for (const int i : {0, 1}) {
      if (cached_time_ns_[i] == now_ns_) cached_time_ns_[i] = -1;
    }
  }

  int64_t now_ns_ = 0;
  int64_t num_events_ = 0;
  std::vector<Event> current_;  // Of now_ns_, from cursor_ on.
  size_t cursor_ = 0;
  std::vector<int64_t> times_;  // A heap, least first.
  absl::flat_hash_map<int64_t, uint32_t> bucket_of_time_;
  std::vector<std::vector<Event>> buckets_;
  std::vector<uint32_t> free_;
  int64_t cached_time_ns_[2] = {-1, -1};
  uint32_t cached_bucket_[2] = {0, 0};
  int next_cached_ = 0;
  bool overflow_ = false;
};

}  // namespace strata::astra

#endif  // SIM_ASTRA_EVENT_QUEUE_H_
