// What the collectives of a program ask of a group of GPUs: work on the
// program's stream, which may be captured, on device memory. Nothing waits.
//
// Every rank of the group makes the same calls in the same order.

#ifndef CUDA_NCCL_GPU_GROUP_H_
#define CUDA_NCCL_GPU_GROUP_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/parallel/communicator.h"
#include "cuda/nccl/peer_table.h"
#include "cuda/runtime/rank_group.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

class GpuGroup : public RankGroup {
 public:
  // Each of `states` becomes its sum over the ranks, all by one operation.
  // F32, I32, or BF16, whose sums are rounded to the nearest at each rank that
  // they come through: n - 1 times of n ranks, as often as one rank rounds that
  // adds n micro-batches up.
  virtual absl::Status EnqueueAllReduce(absl::Span<const Payload> states,
                                        cudaStream_t stream) = 0;
  // Each of `states` becomes that of rank `root`, all by one operation.
  virtual absl::Status EnqueueBroadcast(absl::Span<const Payload> states,
                                        int root, cudaStream_t stream) = 0;
  // out = the ranks' `in`, in their order.
  virtual absl::Status EnqueueAllGather(const Payload& in, const Payload& out,
                                        cudaStream_t stream) = 0;

  // The peers of kernels that write into one another's windows, pieces of up to
  // `piece_bytes`; `fault` is left to the caller. Where there is less room than
  // ever before it waits for the other ranks, and must not be captured.
  //
  // Returns FAILED_PRECONDITION if they are not all on one host.
  virtual absl::StatusOr<Peers> PeersFor(int64_t piece_bytes) = 0;
};

}  // namespace strata::gpu

#endif  // CUDA_NCCL_GPU_GROUP_H_
