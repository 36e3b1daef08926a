#include "core/cpu/cpu_backend.h"

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/status_macros.h"
#include "core/cpu/gemm.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/parallel/communicator.h"
#include "core/parallel/mesh.h"
#include "core/tensor/buffer.h"

namespace strata {
namespace {

class HostMemory : public Memory {
 public:
  explicit HostMemory(Buffer buffer) : buffer_(std::move(buffer)) {}
  char* data() const override { return buffer_.data(); }

 private:
  Buffer buffer_;
};

}  // namespace

CpuBackend::CpuBackend(int num_threads, KernelRegistry kernels)
    : pool_(num_threads), kernels_(std::move(kernels)) {
  ReserveGemmBuffers(num_threads);
}

absl::StatusOr<std::unique_ptr<Memory>> CpuBackend::Allocate(
    int64_t num_bytes) {
  ASSIGN_OR_RETURN(Buffer buffer, Buffer::Allocate(num_bytes));
  return std::make_unique<HostMemory>(std::move(buffer));
}

absl::Status CpuBackend::Run(Kernel kernel, const Node& node,
                             absl::Span<const TensorView> inputs,
                             absl::Span<const TensorView> outputs) {
  scratch_.Reset();
  return kernel({node, inputs, outputs, pool_, scratch_, mesh_});
}

bool CpuBackend::RunsBeside(const Node& node) const {
  if (mesh_ == nullptr || !kernels_.MayRunBeside(node.op->name)) return false;
  const Communicator* const group = mesh_->Find(node.attrs.String("group"));
  return group != nullptr && group->size() > 1;
}

void CpuBackend::Begin(Kernel kernel, const Node& node,
                       absl::Span<const TensorView> inputs,
                       absl::Span<const TensorView> outputs) {
  lanes_.Begin({kernel, &node, inputs, outputs, mesh_});
}

absl::Status CpuBackend::Join(const Node& node) { return lanes_.Join(node); }

}  // namespace strata
