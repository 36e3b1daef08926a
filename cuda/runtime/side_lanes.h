// Streams beside a program's own: one for each group of ranks, for the nodes
// that exchange data while others compute (core/passes/plan_beside.h).
//
//   the program's stream   Begin(A)  node  node   Begin(B)  node  Join(A)  ...
//   a group's lane            A --------------      B ----------
//
// How long a join holds the program's stream up is counted, as waiting for
// other ranks.
//
// Nothing here waits but Wait(): all is events between streams, and may be part
// of a capture. Kernels find out by KernelContext::beside that they are
// enqueued on a lane, and by side_lane_streams.h that they are beside one.

#ifndef CUDA_RUNTIME_SIDE_LANES_H_
#define CUDA_RUNTIME_SIDE_LANES_H_

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/graph/graph.h"
#include "core/passes/plan_beside.h"
#include "cuda/runtime/rank_group.h"
#include "cuda/runtime/wait_clock.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

class SideLanes {
 public:
  SideLanes() = default;
  SideLanes(const SideLanes&) = delete;
  SideLanes& operator=(const SideLanes&) = delete;
  ~SideLanes();

  // Of the plan's nodes that run beside others, which have attributes "group".
  // `waits` counts, in device memory.
  absl::Status Open(const Graph& graph, const BesidePlan& plan,
                    WaitClock* waits);

  // The stream on which a node is to be enqueued now: behind all that is on
  // `main` so far. End() follows.
  absl::StatusOr<cudaStream_t> Begin(NodeId id, cudaStream_t main);
  absl::Status End(NodeId id);

  // Lets what follows on `main` wait for those of the nodes, or for all, that
  // were begun and not joined yet.
  absl::Status Join(absl::Span<const NodeId> ids, cudaStream_t main);
  absl::Status JoinAll(cudaStream_t main);

  // Waits for all nodes that were begun and not joined, on the host, as
  // WaitForRanks() does.
  absl::Status Wait(absl::Span<RankGroup* const> groups);

 private:
  struct Lane {
    cudaStream_t stream = nullptr;
    cudaEvent_t forked = nullptr;
  };
  struct Beside {
    Lane* lane = nullptr;
    cudaEvent_t done = nullptr;
    bool is_under_way = false;
    cudaStream_t main = nullptr;  // Which it is under way beside.
  };

  absl::Status Join(absl::Span<Beside* const> begun, cudaStream_t main);
  // Returns whether it was under way.
  static bool Leave(Beside& beside);

  WaitClock* waits_ = nullptr;
  std::map<std::string, Lane> lanes_;  // By group.
  std::map<NodeId, Beside> beside_;
};

}  // namespace strata::gpu

#endif  // CUDA_RUNTIME_SIDE_LANES_H_
