#include "cuda/nccl/collective.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/parallel/communicator.h"
#include "core/parallel/mesh.h"
#include "core/tensor/dtype.h"
#include "cuda/nccl/nccl_communicator.h"
#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {
namespace {

cudaError_t Complain(const KernelContext& ctx, std::string what) {
  thread_local std::string complaint;
  complaint = std::move(what);
  ctx.complaint = complaint.c_str();
  return cudaErrorUnknown;
}

cudaError_t RunAllReduce(const KernelContext& ctx) {
  const char* const name = ctx.attrs->Text("group");
  auto* const group =
      ctx.mesh == nullptr
          ? nullptr
          : dynamic_cast<NcclCommunicator*>(ctx.mesh->Find(name));
  if (group == nullptr) {
    return Complain(
        ctx, absl::StrCat("the backend has no group ", name, " of GPUs"));
  }
  std::vector<Payload> states;
  for (int i = 0; i < ctx.num_inputs; ++i) {
    const Operand& state = ctx.in(i);
    states.push_back({state.data, state.max_elements(),
                      state.is_integer ? DType::kI32 : DType::kF32});
  }
  const absl::Status status = group->EnqueueAllReduce(states, ctx.stream);
  if (!status.ok()) return Complain(ctx, std::string(status.message()));
  return cudaSuccess;
}

}  // namespace

void RegisterCollectiveKernels(KernelRegistry& kernels) {
  kernels.Register("AllReduce", RunAllReduce);
}

}  // namespace strata::gpu
