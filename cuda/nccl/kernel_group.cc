#include "cuda/nccl/kernel_group.h"

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/parallel/communicator.h"
#include "core/parallel/mesh.h"
#include "cuda/nccl/gpu_group.h"
#include "cuda/nccl/peer_table.h"
#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

absl::StatusOr<KernelGroup> GroupOf(const KernelContext& ctx) {
  const char* const name = ctx.attrs->Text("group");
  Communicator* const ranks =
      ctx.mesh == nullptr ? nullptr : ctx.mesh->Find(name);
  auto* const gpus = dynamic_cast<GpuGroup*>(ranks);
  if (gpus == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("the backend has no group ", name, " of GPUs"));
  }
  return KernelGroup{gpus, ranks->size()};
}

absl::StatusOr<KernelGroup> GroupOfItsSize(const KernelContext& ctx) {
  ASSIGN_OR_RETURN(const KernelGroup group, GroupOf(ctx));
  if (ctx.Int("ranks") != group.ranks) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the group ", ctx.attrs->Text("group"), " has ", group.ranks,
        " ranks; the graph is for ", ctx.Int("ranks")));
  }
  return group;
}

absl::StatusOr<Peers> PeersOf(const KernelContext& ctx,
                              const KernelGroup& group, int64_t piece_bytes) {
  ASSIGN_OR_RETURN(Peers peers, group.gpus->PeersFor(piece_bytes));
  peers.fault = ctx.fault;
  peers.waits = ctx.waits;
  return peers;
}

cudaError_t Complain(const KernelContext& ctx, const absl::Status& status) {
  if (status.ok()) return cudaSuccess;
  thread_local std::string complaint;
  complaint = std::string(status.message());
  ctx.complaint = complaint.c_str();
  return status.code() == absl::StatusCode::kUnimplemented
             ? cudaErrorNotSupported
             : cudaErrorUnknown;
}

}  // namespace strata::gpu
