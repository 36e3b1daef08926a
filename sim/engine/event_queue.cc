#include "sim/engine/event_queue.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "core/base/check.h"
#include "sim/engine/time.h"

namespace strata::sim {
namespace {

// Four children share two cache lines, and the heap is half as deep as a binary
// one.
constexpr size_t kArity = 4;

}  // namespace

void EventQueue::Schedule(Picoseconds time, EventHandler* handler,
                          uint64_t tag) {
  CHECK(time >= now_) << "scheduled for " << time << " ps at " << now_;
  const Event event = {time, next_sequence_++, handler, tag};
  size_t hole = heap_.size();
  heap_.push_back(event);
  while (hole > 0) {
    const size_t parent = (hole - 1) / kArity;
    if (!Before(event, heap_[parent])) break;
    heap_[hole] = heap_[parent];
    hole = parent;
  }
  heap_[hole] = event;
}

EventQueue::Event EventQueue::PopFirst() {
  const Event first = heap_.front();
  const Event moved = heap_.back();
  heap_.pop_back();
  const size_t size = heap_.size();
  if (size == 0) return first;
  size_t hole = 0;
  for (size_t child = 1; child < size; child = hole * kArity + 1) {
    const size_t end = std::min(child + kArity, size);
    size_t least = child;
    for (size_t c = child + 1; c < end; ++c) {
      if (Before(heap_[c], heap_[least])) least = c;
    }
    if (!Before(heap_[least], moved)) break;
    heap_[hole] = heap_[least];
    hole = least;
  }
  heap_[hole] = moved;
  return first;
}

bool EventQueue::RunNext() {
  if (heap_.empty()) return false;
  const Event event = PopFirst();
  now_ = event.time;
  ++num_run_;
  event.handler->OnEvent(event.time, event.tag);
  return true;
}

void EventQueue::Run() {
  while (RunNext()) {
  }
}

void EventQueue::RunUntil(Picoseconds end) {
  while (!heap_.empty() && heap_.front().time <= end) RunNext();
  now_ = std::max(now_, end);
}

}  // namespace strata::sim
