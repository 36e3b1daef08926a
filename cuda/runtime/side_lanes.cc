#include "cuda/runtime/side_lanes.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/passes/plan_beside.h"
#include "cuda/runtime/rank_group.h"
#include "cuda/runtime/side_lane_streams.h"
#include "cuda/runtime/status.h"
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
    if (lane.stream == nullptr) continue;
    RemoveLane(lane.stream);
    cudaStreamDestroy(lane.stream);
  }
}

absl::Status SideLanes::Open(const Graph& graph, const BesidePlan& plan) {
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
      AddLane(lane.stream);
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
  Fork(lane.stream, main);
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

absl::Status SideLanes::Join(Beside& beside, cudaStream_t main) {
  if (!Leave(beside)) return absl::OkStatus();
  return ToStatus(cudaStreamWaitEvent(main, beside.done, 0));
}

absl::Status SideLanes::Join(absl::Span<const NodeId> ids, cudaStream_t main) {
  for (const NodeId id : ids) {
    if (const auto it = beside_.find(id); it != beside_.end()) {
      RETURN_IF_ERROR(Join(it->second, main));
    }
  }
  return absl::OkStatus();
}

absl::Status SideLanes::JoinAll(cudaStream_t main) {
  for (auto& [id, beside] : beside_) RETURN_IF_ERROR(Join(beside, main));
  return absl::OkStatus();
}

absl::Status SideLanes::Wait(absl::Span<RankGroup* const> groups) {
  absl::Status first;
  for (auto& [id, beside] : beside_) {
    if (!Leave(beside)) continue;
    first.Update(
        WaitForRanks(groups, "sums beside a program", absl::ZeroDuration(),
                     [event = beside.done] { return cudaEventQuery(event); }));
  }
  return first;
}

}  // namespace strata::gpu
