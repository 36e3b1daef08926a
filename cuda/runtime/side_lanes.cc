#include "cuda/runtime/side_lanes.h"

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/parallel/rank_wait.h"
#include "core/passes/plan_beside.h"
#include "cuda/runtime/rank_group.h"
#include "cuda/runtime/side_lane_streams.h"
#include "cuda/runtime/status.h"
#include "cuda/runtime/wait_clock.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {
namespace {

absl::Status MakeEvent(cudaEvent_t& event) {
  return ToStatus(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
}

}  // namespace

SideLanes::~SideLanes() {
  for (auto& [id, beside] : beside_) {
    Leave(beside);
    if (beside.done != nullptr) cudaEventDestroy(beside.done);
  }
  for (const auto& [group, lane] : lanes_) {
    if (lane.forked != nullptr) cudaEventDestroy(lane.forked);
    if (lane.stream != nullptr) cudaStreamDestroy(lane.stream);
  }
}

absl::Status SideLanes::Open(const Graph& graph, const BesidePlan& plan,
                             WaitClock* waits) {
  waits_ = waits;
  // What others wait for goes first where multiprocessors become free.
  int least = 0, greatest = 0;
  RETURN_IF_ERROR(
      ToStatus(cudaDeviceGetStreamPriorityRange(&least, &greatest)));
  for (NodeId id = 0; id < static_cast<NodeId>(plan.steps.size()); ++id) {
    if (!plan.steps[id].beside) continue;
    Lane& lane = lanes_[graph.node(id).attrs.String("group")];
    if (lane.stream == nullptr) {
      RETURN_IF_ERROR(ToStatus(cudaStreamCreateWithPriority(
          &lane.stream, cudaStreamNonBlocking, greatest)));
      RETURN_IF_ERROR(MakeEvent(lane.forked));
    }
    Beside& beside = beside_[id];
    beside.lane = &lane;
    RETURN_IF_ERROR(MakeEvent(beside.done));
  }
  return absl::OkStatus();
}

absl::StatusOr<cudaStream_t> SideLanes::Begin(NodeId id, cudaStream_t main) {
  Beside& beside = beside_.at(id);
  beside.main = main;
  const Lane& lane = *beside.lane;
  RETURN_IF_ERROR(ToStatus(cudaEventRecord(lane.forked, main)));
  RETURN_IF_ERROR(ToStatus(cudaStreamWaitEvent(lane.stream, lane.forked, 0)));
  return lane.stream;
}

absl::Status SideLanes::End(NodeId id) {
  Beside& beside = beside_.at(id);
  if (!beside.is_under_way) BeginBeside(beside.main);
  beside.is_under_way = true;
  return ToStatus(cudaEventRecord(beside.done, beside.lane->stream));
}

bool SideLanes::Leave(Beside& beside) {
  if (!beside.is_under_way) return false;
  beside.is_under_way = false;
  EndBeside(beside.main);
  return true;
}

absl::Status SideLanes::Join(absl::Span<Beside* const> begun,
                             cudaStream_t main) {
  if (begun.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(ToStatus(BeginWait(waits_, main)));
  for (Beside* const beside : begun) {
    Leave(*beside);
    RETURN_IF_ERROR(ToStatus(cudaStreamWaitEvent(main, beside->done, 0)));
  }
  return ToStatus(EndWait(waits_, main));
}

absl::Status SideLanes::Join(absl::Span<const NodeId> ids, cudaStream_t main) {
  std::vector<Beside*> begun;
  for (const NodeId id : ids) {
    const auto it = beside_.find(id);
    if (it != beside_.end() && it->second.is_under_way) {
      begun.push_back(&it->second);
    }
  }
  return Join(begun, main);
}

absl::Status SideLanes::JoinAll(cudaStream_t main) {
  std::vector<Beside*> begun;
  for (auto& [id, beside] : beside_) {
    if (beside.is_under_way) begun.push_back(&beside);
  }
  return Join(begun, main);
}

absl::Status SideLanes::Wait(absl::Span<RankGroup* const> groups) {
  absl::Status first;
  for (auto& [id, beside] : beside_) {
    if (!Leave(beside)) continue;
    const RankWait waiting;
    first.Update(
        WaitForRanks(groups, "sums beside a program", absl::ZeroDuration(),
                     [event = beside.done] { return cudaEventQuery(event); }));
  }
  return first;
}

}  // namespace strata::gpu
