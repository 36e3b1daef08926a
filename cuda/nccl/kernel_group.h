// The group of ranks that a kernel works with, and kernels whose errors are
// Abseil's.

#ifndef CUDA_NCCL_KERNEL_GROUP_H_
#define CUDA_NCCL_KERNEL_GROUP_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cuda/nccl/gpu_group.h"
#include "cuda/nccl/peer_table.h"
#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

struct KernelGroup {
  GpuGroup* gpus = nullptr;
  int ranks = 0;
};

// The group that the node's attribute "group" names; its errors are those of
// the CPU's kernels.
absl::StatusOr<KernelGroup> GroupOf(const KernelContext& ctx);

// The same, of as many ranks as the node was made for.
absl::StatusOr<KernelGroup> GroupOfItsSize(const KernelContext& ctx);

// The ranks' memory (GpuGroup::PeersFor), with where the node's faults and
// waits go.
absl::StatusOr<Peers> PeersOf(const KernelContext& ctx,
                              const KernelGroup& group, int64_t piece_bytes);

// As a kernel says it: a code, and a complaint that lives until the thread's
// next.
cudaError_t Complain(const KernelContext& ctx, const absl::Status& status);

template <absl::Status (*kEnqueue)(const KernelContext&)>
cudaError_t RunEnqueue(const KernelContext& ctx) {
  return Complain(ctx, kEnqueue(ctx));
}

}  // namespace strata::gpu

#endif  // CUDA_NCCL_KERNEL_GROUP_H_
