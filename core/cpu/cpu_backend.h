// The CPU backend: host memory, one thread pool, the kernels of core/cpu.

#ifndef CORE_CPU_CPU_BACKEND_H_
#define CORE_CPU_CPU_BACKEND_H_

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/thread_pool.h"
#include "core/graph/graph.h"
#include "core/runtime/backend.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/runtime/lanes.h"
#include "core/runtime/scratch.h"
#include "core/tensor/tensor.h"

namespace strata {

// Results are bit-equal for any number of threads. One program runs at a time.
class CpuBackend : public Backend {
 public:
  // `kernels` says what it can run: AllCpuKernels() (core/cpu/all_kernels.h),
  // or a few families in a test.
  CpuBackend(int num_threads, KernelRegistry kernels);

  absl::string_view name() const override { return "cpu"; }
  absl::StatusOr<std::unique_ptr<Memory>> Allocate(int64_t num_bytes) override;
  Kernel FindKernel(absl::string_view op, DType dtype) const override {
    return kernels_.Find(op, dtype);
  }
  absl::Status Run(Kernel kernel, const Node& node,
                   absl::Span<const TensorView> inputs,
                   absl::Span<const TensorView> outputs) override;
  bool RunsBeside(const Node& node) const override;
  void Begin(Kernel kernel, const Node& node,
             absl::Span<const TensorView> inputs,
             absl::Span<const TensorView> outputs) override;
  absl::Status Join(const Node& node) override;

  ThreadPool& pool() { return pool_; }
  // The ranks that run the same programs, which must outlive them; null: none.
  void set_mesh(const Mesh* mesh) { mesh_ = mesh; }

 private:
  ThreadPool pool_;
  KernelRegistry kernels_;
  Scratch scratch_;
  const Mesh* mesh_ = nullptr;
  Lanes lanes_;
};

}  // namespace strata

#endif  // CORE_CPU_CPU_BACKEND_H_
