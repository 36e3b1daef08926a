// A pipeline schedule carried out: when each item starts and ends.
//
//   schedule, duration of each item, delay of each transfer
//     |
//     |  an item starts when its device has finished the one before, and what
//     |  it reads is there:
//     |    forward         the forward of the stage before (+ transfer)
//     |    input gradient  its own forward, and the input gradient of the stage
//     |                    after (+ transfer)
//     |    weight gradient its own input gradient
//     v
//   start and end of each item, what each waited for, idle time and activations
//   of each device
//
// Transfers cost the devices nothing and may overlap anything. Durations may
// differ by device, stage and micro-batch: uneven stages, slow devices and
// expert loads are all given so.

#ifndef CORE_PARALLEL_PIPELINE_TIMELINE_H_
#define CORE_PARALLEL_PIPELINE_TIMELINE_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "core/parallel/pipeline_schedule.h"

namespace strata {

// All times are of one unit, whichever the caller likes, and not negative.
struct PipelineCosts {
  std::function<int64_t(int device, const PipelineItem& item)> duration;
  // From the device of a stage to that of the next, or back; not asked where
  // both are one device. Null: 0.
  std::function<int64_t(int from, int to)> transfer;
  // Of an activation, what stays between input gradient and weight gradient,
  // where these are apart: 0 to 1.
  double held_for_weight_grad = 1;
};

// The same durations on each device.
struct EvenDurations {
  int64_t forward = 1;
  int64_t input_grad = 1;
  int64_t weight_grad = 1;
  int64_t forward_backward = 3;  // Of an overlapped pair.
};
PipelineCosts EvenCosts(const EvenDurations& durations, int64_t transfer = 0);

// Which item's end let another start.
struct TimelineCause {
  int device = -1;  // -1: nothing; it started at 0.
  int index = -1;   // In the schedule's items of that device.
};

struct TimelineItem {
  int64_t start = 0;
  int64_t end = 0;
  // The item before on the same device, or the one whose result it read,
  // whichever was later (of equals the former).
  TimelineCause cause;
};

struct PipelineTimeline {
  std::vector<std::vector<TimelineItem>> items;  // As in the schedule.
  int64_t total = 0;                             // The end of the last item.
  std::vector<int64_t> busy;                     // [num_devices]
  // The most activations held at once, [num_devices]: one is what a chunk keeps
  // of a micro-batch from its forward to its gradients.
  std::vector<double> peak_activations;

  int64_t Idle(int device) const { return total - busy[device]; }

  // The items from the start to the end of which each let the next one start,
  // up to the one that ends last.
  std::vector<TimelineCause> CriticalPath() const;
};

// Takes time in proportion to the items.
//
// Returns INVALID_ARGUMENT if an item is of no stage or micro-batch of the
// schedule, if one is there twice or missing, if a duration is negative or the
// sum is beyond 64 bits, or if no device can go on: the message then names the
// item at which each stands (up to four) and what it waits for.
absl::StatusOr<PipelineTimeline> RunPipeline(const PipelineSchedule& schedule,
                                             const PipelineCosts& costs);

}  // namespace strata

#endif  // CORE_PARALLEL_PIPELINE_TIMELINE_H_
