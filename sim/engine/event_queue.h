// The discrete-event queue: what happens next, in simulated time.
//
// Events of equal time run in the order in which they were scheduled, so a run
// is the same every time. An event is a handler and a tag that means something
// to it alone; the heap of events is one array that grows to the largest number
// pending, so that a simulation in its steady state allocates nothing.
//
//   class Link : public EventHandler {
//     void OnEvent(Picoseconds now, uint64_t packet) override { ... }
//   };
//   queue.Schedule(now + latency, &link, packet);
//   queue.Run();
//
// One thread. Handlers must outlive their events. An event cannot be taken
// back: who may change his mind puts a generation into the tag and drops what
// is stale.

#ifndef SIM_ENGINE_EVENT_QUEUE_H_
#define SIM_ENGINE_EVENT_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sim/engine/time.h"

namespace strata::sim {

class EventHandler {
 public:
  virtual ~EventHandler() = default;

  // `now` is the time that the event was scheduled for.
  virtual void OnEvent(Picoseconds now, uint64_t tag) = 0;
};

class EventQueue {
 public:
  // The time of the event that runs, or of the last one that ran.
  Picoseconds now() const { return now_; }
  bool empty() const { return heap_.empty(); }
  size_t num_pending() const { return heap_.size(); }
  int64_t num_run() const { return num_run_; }

  // `time` is at least now().
  void Schedule(Picoseconds time, EventHandler* handler, uint64_t tag);

  // Runs the next event; false if there is none.
  bool RunNext();

  // Runs until there are no more events.
  void Run();

  // Runs every event up to and including `end`; now() is `end` afterwards.
  void RunUntil(Picoseconds end);

 private:
  struct Event {
    Picoseconds time;
    uint64_t sequence;
    EventHandler* handler;
    uint64_t tag;
  };

  static bool Before(const Event& a, const Event& b) {
    return a.time != b.time ? a.time < b.time : a.sequence < b.sequence;
  }

  Event PopFirst();

  std::vector<Event> heap_;  // A 4-ary heap, the first event at 0.
  Picoseconds now_ = 0;
  uint64_t next_sequence_ = 0;
  int64_t num_run_ = 0;
};

}  // namespace strata::sim

#endif  // SIM_ENGINE_EVENT_QUEUE_H_
