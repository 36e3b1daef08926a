#include "core/cpu/collective.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/ops/collective.h"
#include "core/parallel/communicator.h"
#include "core/parallel/mesh.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

absl::Status RunAllReduce(const KernelContext& ctx) {
  const std::string& name = ctx.attrs().String("group");
  Communicator* const group =
      ctx.mesh == nullptr ? nullptr : ctx.mesh->Find(name);
  if (group == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("the backend has no group ", name, " of ranks"));
  }
  Payload bucket;
  bucket.dtype = ctx.in(0).dtype;
  int64_t num_bytes = 0;
  for (const TensorView& state : ctx.inputs) num_bytes += state.num_bytes();
  bucket.count = num_bytes / SizeOf(bucket.dtype);
  char* const data = ctx.scratch.Take<char>(num_bytes);
  bucket.data = data;
  char* at = data;
  for (const TensorView& state : ctx.inputs) {
    at = std::copy_n(static_cast<const char*>(state.data), state.num_bytes(),
                     at);
  }
  absl::Status status = group->AllReduce(bucket, ReduceOp::kSum);
  if (!status.ok()) return status;
  at = data;
  for (const TensorView& state : ctx.inputs) {
    std::copy_n(at, state.num_bytes(), static_cast<char*>(state.data));
    at += state.num_bytes();
  }
  return absl::OkStatus();
}

}  // namespace

void RegisterCollectiveKernels(KernelRegistry& kernels) {
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kI32}) {
    kernels.Register(kAllReduce, dtype, RunAllReduce);
  }
}

}  // namespace strata
