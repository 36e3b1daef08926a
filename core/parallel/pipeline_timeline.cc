#include "core/parallel/pipeline_timeline.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/status_macros.h"
#include "core/parallel/pipeline_schedule.h"

namespace strata {
namespace {

using Kind = PipelineItem::Kind;

constexpr size_t kMaxNamedItems = 4;
constexpr int64_t kMaxTime = std::numeric_limits<int64_t>::max() / 4;

class Run {
 public:
  Run(const PipelineSchedule& schedule, const PipelineCosts& costs)
      : schedule_(schedule), costs_(costs) {
    const size_t passes =
        static_cast<size_t>(schedule.num_stages) * schedule.num_micro_batches;
    forward_.resize(passes);
    input_grad_.resize(passes);
    for (int d = 0; d < schedule.num_devices; ++d) {
      timeline_.items.emplace_back();
      timeline_.items.back().reserve(schedule.items[d].size());
    }
    timeline_.busy.resize(schedule.num_devices);
    timeline_.peak_activations.resize(schedule.num_devices);
    live_.resize(schedule.num_devices);
  }

  absl::StatusOr<PipelineTimeline> Finish() {
    RETURN_IF_ERROR(Check());
    // Devices that may be able to go on. A device that stands is looked at
    // again when a neighbour has moved.
    std::vector<int> ready(schedule_.num_devices);
    for (int d = 0; d < schedule_.num_devices; ++d) ready[d] = d;
    std::vector<bool> listed(schedule_.num_devices, true);
    while (!ready.empty()) {
      const int device = ready.back();
      ready.pop_back();
      listed[device] = false;
      while (Next(device) < schedule_.items[device].size()) {
        ASSIGN_OR_RETURN(const bool moved, Step(device));
        if (!moved) break;
        for (const int d : woken_) {
          if (d == device || listed[d]) continue;
          listed[d] = true;
          ready.push_back(d);
        }
      }
    }
    for (int d = 0; d < schedule_.num_devices; ++d) {
      if (Next(d) < schedule_.items[d].size()) return Standstill();
      if (!timeline_.items[d].empty()) {
        timeline_.total =
            std::max(timeline_.total, timeline_.items[d].back().end);
      }
    }
    return std::move(timeline_);
  }

 private:
  struct Pass {
    int64_t end = -1;  // -1: not yet.
    TimelineCause where;
  };
  struct Start {
    int64_t time = 0;
    TimelineCause cause;
  };

  size_t Next(int device) const { return timeline_.items[device].size(); }

  size_t PassOf(int micro_batch, int stage) const {
    return static_cast<size_t>(micro_batch) * schedule_.num_stages + stage;
  }

  absl::Status CheckHalf(int device, const PipelineItem& item, int micro_batch,
                         int chunk) const {
    if (micro_batch >= 0 && micro_batch < schedule_.num_micro_batches &&
        chunk >= 0 && chunk < schedule_.num_chunks) {
      const int stage = schedule_.StageOf(device, chunk);
      const StagePlace place = schedule_.PlaceOf(stage, micro_batch);
      if (place.device == device && place.chunk == chunk) {
        return absl::OkStatus();
      }
    }
    return absl::InvalidArgumentError(
        absl::StrCat("device ", device, " has a ", ToString(item),
                     ", which does not pass there"));
  }

  // Every pass has its forward and both gradients, once.
  absl::Status Check() const {
    if (static_cast<int>(schedule_.items.size()) != schedule_.num_devices) {
      return absl::InvalidArgumentError(
          absl::StrCat("a schedule of ", schedule_.num_devices,
                       " devices has items of ", schedule_.items.size()));
    }
    struct Count {
      uint8_t forward = 0, input_grad = 0, weight_grad = 0;
    };
    std::vector<Count> count(forward_.size());
    for (int d = 0; d < schedule_.num_devices; ++d) {
      for (const PipelineItem& item : schedule_.items[d]) {
        RETURN_IF_ERROR(CheckHalf(d, item, item.micro_batch, item.chunk));
        const size_t pass =
            PassOf(item.micro_batch, schedule_.StageOf(d, item.chunk));
        size_t backward = pass;
        if (item.kind == Kind::kForwardBackward) {
          RETURN_IF_ERROR(CheckHalf(d, item, item.backward_micro_batch,
                                    item.backward_chunk));
          backward = PassOf(item.backward_micro_batch,
                            schedule_.StageOf(d, item.backward_chunk));
        }
        bool twice = false;
        if (item.has_forward()) twice |= count[pass].forward++ > 0;
        if (item.has_input_grad()) twice |= count[backward].input_grad++ > 0;
        if (item.has_weight_grad()) twice |= count[backward].weight_grad++ > 0;
        if (twice) {
          return absl::InvalidArgumentError(absl::StrCat(
              "device ", d, " does a part of the ", ToString(item), " twice"));
        }
      }
    }
    for (size_t pass = 0; pass < count.size(); ++pass) {
      const Count& c = count[pass];
      if (c.forward == 1 && c.input_grad == 1 && c.weight_grad == 1) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          "micro-batch ", pass / schedule_.num_stages, " lacks its ",
          c.forward == 0
              ? "forward"
              : (c.input_grad == 0 ? "input gradient" : "weight gradient"),
          " at stage ", pass % schedule_.num_stages));
    }
    return absl::OkStatus();
  }

  // Delays `start` until `pass` is there, at `device`; false if it is not yet.
  bool WaitFor(const Pass& pass, int device, Start& start) const {
    if (pass.end < 0) return false;
    int64_t time = pass.end;
    if (costs_.transfer && pass.where.device != device) {
      time += costs_.transfer(pass.where.device, device);
    }
    if (time > start.time) start = {time, pass.where};
    return true;
  }

  bool WaitForForward(int device, int micro_batch, int stage,
                      Start& start) const {
    return stage == 0 ||
           WaitFor(forward_[PassOf(micro_batch, stage - 1)], device, start);
  }

  bool WaitForBackward(int device, int micro_batch, int stage,
                       Start& start) const {
    if (!WaitFor(forward_[PassOf(micro_batch, stage)], device, start)) {
      return false;
    }
    return stage + 1 == schedule_.num_stages ||
           WaitFor(input_grad_[PassOf(micro_batch, stage + 1)], device, start);
  }

  // Whether the item can start, and when.
  bool CanStart(int device, const PipelineItem& item, Start& start) const {
    const int stage = schedule_.StageOf(device, item.chunk);
    switch (item.kind) {
      case Kind::kForward:
        return WaitForForward(device, item.micro_batch, stage, start);
      case Kind::kBackward:
      case Kind::kInputGrad:
        return WaitForBackward(device, item.micro_batch, stage, start);
      case Kind::kWeightGrad:
        return WaitFor(input_grad_[PassOf(item.micro_batch, stage)], device,
                       start);
      case Kind::kForwardBackward:
        return WaitForForward(device, item.micro_batch, stage, start) &&
               WaitForBackward(device, item.backward_micro_batch,
                               schedule_.StageOf(device, item.backward_chunk),
                               start);
    }
    return false;
  }

  // Takes the device's next item if it can start.
  absl::StatusOr<bool> Step(int device) {
    std::vector<TimelineItem>& done = timeline_.items[device];
    const int index = static_cast<int>(done.size());
    const PipelineItem& item = schedule_.items[device][index];
    Start start;
    if (index > 0) start = {done.back().end, {device, index - 1}};
    if (!CanStart(device, item, start)) return false;
    const int64_t duration = costs_.duration(device, item);
    if (duration < 0 || duration > kMaxTime ||
        start.time > kMaxTime - duration) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the ", ToString(item), " on device ", device, " takes ", duration,
          " from ", start.time, " on; want 0 to ", kMaxTime, " in all"));
    }
    const int64_t end = start.time + duration;
    done.push_back({start.time, end, start.cause});
    timeline_.busy[device] += duration;
    Record(device, item, {end, {device, index}});
    return true;
  }

  void Record(int device, const PipelineItem& item, const Pass& pass) {
    woken_.clear();
    const int stage = schedule_.StageOf(device, item.chunk);
    double& live = live_[device];
    if (item.has_forward()) {
      forward_[PassOf(item.micro_batch, stage)] = pass;
      if (stage + 1 < schedule_.num_stages) {
        woken_.push_back(schedule_.PlaceOf(stage + 1, item.micro_batch).device);
      }
      live += 1;
      timeline_.peak_activations[device] =
          std::max(timeline_.peak_activations[device], live);
    }
    const bool pair = item.kind == Kind::kForwardBackward;
    const int micro_batch = pair ? item.backward_micro_batch : item.micro_batch;
    const int back_stage =
        pair ? schedule_.StageOf(device, item.backward_chunk) : stage;
    if (item.has_input_grad()) {
      input_grad_[PassOf(micro_batch, back_stage)] = pass;
      if (back_stage > 0) {
        woken_.push_back(schedule_.PlaceOf(back_stage - 1, micro_batch).device);
      }
      live -= 1 - costs_.held_for_weight_grad;
    }
    if (item.has_weight_grad()) live -= costs_.held_for_weight_grad;
  }

  absl::Status Standstill() const {
    std::vector<std::string> stands;
    for (int d = 0; d < schedule_.num_devices; ++d) {
      if (Next(d) == schedule_.items[d].size()) continue;
      if (stands.size() == kMaxNamedItems) {
        stands.push_back("...");
        break;
      }
      const PipelineItem& item = schedule_.items[d][Next(d)];
      stands.push_back(absl::StrCat("device ", d, " at its item ", Next(d),
                                    ", the ", ToString(item), ", waits for ",
                                    Missing(d, item)));
    }
    return absl::InvalidArgumentError(absl::StrCat(
        "the schedule stands still: ", absl::StrJoin(stands, "; ")));
  }

  std::string Missing(int device, const PipelineItem& item) const {
    const auto of = [](const char* what, int micro_batch, int stage) {
      return absl::StrCat("the ", what, " of micro-batch ", micro_batch,
                          " at stage ", stage);
    };
    const int stage = schedule_.StageOf(device, item.chunk);
    if (item.has_forward() && stage > 0 &&
        forward_[PassOf(item.micro_batch, stage - 1)].end < 0) {
      return of("forward", item.micro_batch, stage - 1);
    }
    const bool pair = item.kind == Kind::kForwardBackward;
    const int micro_batch = pair ? item.backward_micro_batch : item.micro_batch;
    const int back =
        pair ? schedule_.StageOf(device, item.backward_chunk) : stage;
    if (item.kind == Kind::kWeightGrad) {
      return of("input gradient", micro_batch, back);
    }
    if (forward_[PassOf(micro_batch, back)].end < 0) {
      return of("forward", micro_batch, back);
    }
    return of("input gradient", micro_batch, back + 1);
  }

  const PipelineSchedule& schedule_;
  const PipelineCosts& costs_;
  // [num_micro_batches, num_stages]
  std::vector<Pass> forward_;
  std::vector<Pass> input_grad_;
  std::vector<double> live_;  // Activations, [num_devices].
  std::vector<int> woken_;    // Devices that the latest item may let go on.
  PipelineTimeline timeline_;
};

}  // namespace

PipelineCosts EvenCosts(const EvenDurations& durations, int64_t transfer) {
  PipelineCosts costs;
  costs.duration = [durations](int, const PipelineItem& item) {
    switch (item.kind) {
      case Kind::kForward:
        return durations.forward;
      case Kind::kBackward:
        return durations.input_grad + durations.weight_grad;
      case Kind::kInputGrad:
        return durations.input_grad;
      case Kind::kWeightGrad:
        return durations.weight_grad;
      case Kind::kForwardBackward:
        break;
    }
    return durations.forward_backward;
  };
  if (transfer != 0) costs.transfer = [transfer](int, int) { return transfer; };
  return costs;
}

std::vector<TimelineCause> PipelineTimeline::CriticalPath() const {
  TimelineCause at;
  for (size_t d = 0; d < items.size(); ++d) {
    if (items[d].empty() || items[d].back().end != total) continue;
    at = {static_cast<int>(d), static_cast<int>(items[d].size()) - 1};
    break;
  }
  std::vector<TimelineCause> path;
  while (at.device >= 0) {
    path.push_back(at);
    at = items[at.device][at.index].cause;
  }
  std::reverse(path.begin(), path.end());
  return path;
}

absl::StatusOr<PipelineTimeline> RunPipeline(const PipelineSchedule& schedule,
                                             const PipelineCosts& costs) {
  return Run(schedule, costs).Finish();
}

}  // namespace strata
