// The CUDA backend: one GPU, one stream (and lanes for what exchanges data,
// side_lanes.h), programs as captured graphs.
//
//   ASSIGN_OR_RETURN(auto backend,
//                    CudaBackend::Create({}, AllCudaKernels()));
//   StateStore state(*backend);
//   ASSIGN_OR_RETURN(auto program, Program::Compile(graph, *backend, state));
//
// docs/gpu.md says how it works.

#ifndef CUDA_RUNTIME_CUDA_BACKEND_H_
#define CUDA_RUNTIME_CUDA_BACKEND_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/graph/graph.h"
#include "core/runtime/backend.h"
#include "core/runtime/kernel.h"
#include "core/tensor/tensor.h"
#include "cublas_v2.h"
#include "cuda/runtime/device_memory.h"
#include "cuda/runtime/kernel.h"
#include "cuda/runtime/kernel_table.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

struct CudaOptions {
  Precision precision = Precision::kF32;
  // False: every run goes operator by operator.
  bool capture = true;
  // Runs that go operator by operator begin with NaN in every activation, so
  // that a result which is not written, or a row beyond the count which is
  // read, shows: for tests.
  bool poison = false;
  // The GPU, counted from 0.
  int device = 0;
  // Where several ranks run a program together: their groups over NCCL
  // (cuda/nccl). Must outlive the backend.
  const Mesh* mesh = nullptr;
};

// Runs one program at a time, on the thread that made it. Programs and memory
// must not outlive it.
class CudaBackend : public Backend {
 public:
  // Returns UNAVAILABLE if there is no such GPU, the driver is too old, or this
  // build holds no code for the GPU's architecture.
  static absl::StatusOr<std::unique_ptr<CudaBackend>> Create(
      const CudaOptions& options, KernelTable kernels);
  ~CudaBackend() override;

  absl::string_view name() const override { return "cuda"; }
  absl::StatusOr<std::unique_ptr<Memory>> Allocate(int64_t num_bytes) override;
  bool shares_host_memory() const override { return false; }
  bool rounds_products() const override {
    return options_.precision == Precision::kBf16;
  }
  absl::Status ToDevice(const TensorView& tensor) override;
  absl::Status ToHost(const TensorView& tensor) override;
  // On stream(); they do not wait.
  absl::Status Copy(void* to, const void* from, int64_t num_bytes) override;
  absl::Status Clear(void* data, int64_t num_bytes) override;
  absl::StatusOr<void*> KernelAddress(void* data) override;
  absl::StatusOr<std::unique_ptr<Executable>> Compile(
      const Graph& graph, const Layout& layout) override;
  // What copies and adds for others, takes no scratch memory, and needs little
  // of the GPU.
  bool RunsBeside(const Node& node) const override;
  std::vector<NodeRun> RunsTogether(const Graph& graph) const override;
  double flops_per_wire_byte() const override;

  // Programs run as a whole: what is found says that there is a kernel, and
  // fails if it is called.
  strata::Kernel FindKernel(absl::string_view op, DType dtype) const override;
  absl::Status Run(strata::Kernel kernel, const Node& node,
                   absl::Span<const TensorView> inputs,
                   absl::Span<const TensorView> outputs) override;

  const CudaOptions& options() const { return options_; }
  const std::string& device_name() const { return device_name_; }
  cudaStream_t stream() const { return stream_; }
  cublasHandle_t blas() const { return blas_; }
  OpKernels Find(absl::string_view op) const { return kernels_.Find(op); }

  // Changes whenever parameters may have: the host brought tensors here or had
  // them copied, or a program that updates parameters ran.
  int64_t parameter_version() const { return parameter_version_; }
  void NoteParameterUpdate() { ++parameter_version_; }

  // The device address of memory of this backend, or of host memory that a
  // store adopted, which gets a twin when it is first asked for.
  absl::StatusOr<char*> DeviceAddress(void* host, int64_t num_bytes);

 private:
  CudaBackend(const CudaOptions& options, KernelTable kernels)
      : options_(options),
        kernels_(std::move(kernels)),
        twins_(std::make_shared<TwinMap>()) {}

  absl::Status Open();

  CudaOptions options_;
  KernelTable kernels_;
  std::string device_name_;
  cudaStream_t stream_ = nullptr;
  cublasHandle_t blas_ = nullptr;
  void* blas_workspace_ = nullptr;
  std::shared_ptr<TwinMap> twins_;
  std::vector<std::unique_ptr<TwinMemory>> adopted_;
  int64_t parameter_version_ = 0;
};

}  // namespace strata::gpu

#endif  // CUDA_RUNTIME_CUDA_BACKEND_H_
