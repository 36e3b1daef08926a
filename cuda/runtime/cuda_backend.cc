#include "cuda/runtime/cuda_backend.h"

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/ops/collective.h"
#include "core/ops/collective_rows.h"
#include "cublas_v2.h"
#include "cuda/runtime/cuda_executable.h"
#include "cuda/runtime/device_memory.h"
#include "cuda/runtime/pack.h"
#include "cuda/runtime/status.h"
#include "cuda/runtime/together.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {
namespace {

// The oldest architecture whose instructions kernels use (BF16 in the tensor
// cores, asynchronous copies).
constexpr int kOldestArchitecture = 80;

// What cuBLAS' documentation advises for Hopper. Given by us, so that capture
// does not make it allocate.
constexpr size_t kBlasWorkspaceBytes = size_t{32} << 20;

// An H100's products of experts, 500 TFLOP/s, over rows to its peers, 300 GB/s
// (docs/several_gpus.md).
constexpr double kFlopsPerPeerByte = 1600;

// What CudaBackend::FindKernel() finds.
absl::Status RunNothing(const strata::KernelContext& context) {
  return absl::UnimplementedError("the CUDA backend runs whole programs only");
}

std::string Version(int version) {
  return absl::StrCat(version / 1000, ".", version % 1000 / 10);
}

absl::Status CheckDevice(int device) {
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (driver == 0) {
    return absl::UnavailableError("no NVIDIA driver here, so no GPU to run on");
  }
  if (driver / 1000 < runtime / 1000) {
    return absl::UnavailableError(
        absl::StrCat("the NVIDIA driver is too old: it is for CUDA up to ",
                     Version(driver), "; this build wants ", Version(runtime)));
  }
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) {
    return absl::UnavailableError("no GPU here");
  }
  if (error == cudaSuccess && device >= count) {
    return absl::UnavailableError(
        absl::StrCat("there is no GPU ", device, "; this machine has ", count));
  }
  return ToStatus(error);
}

}  // namespace

absl::StatusOr<std::unique_ptr<CudaBackend>> CudaBackend::Create(
    const CudaOptions& options, KernelTable kernels) {
  auto backend = std::unique_ptr<CudaBackend>(
      new CudaBackend(options, std::move(kernels)));
  RETURN_IF_ERROR(backend->Open());
  return backend;
}

absl::Status CudaBackend::Open() {
  RETURN_IF_ERROR(CheckDevice(options_.device));
  RETURN_IF_ERROR(ToStatus(cudaSetDevice(options_.device)));
  cudaDeviceProp properties;
  RETURN_IF_ERROR(
      ToStatus(cudaGetDeviceProperties(&properties, options_.device)));
  device_name_ = properties.name;
  const int architecture = properties.major * 10 + properties.minor;
  if (architecture < kOldestArchitecture) {
    return absl::UnavailableError(
        absl::StrCat(device_name_, " is of architecture sm_", architecture,
                     "; want sm_", kOldestArchitecture, " or newer"));
  }
  if (CheckCode() != cudaSuccess) {
    cudaGetLastError();
    return absl::UnavailableError(absl::StrCat(
        "this build holds no code for ", device_name_, " (sm_", architecture,
        "); build it with --//tools/bazel:cuda_archs=", architecture));
  }
  RETURN_IF_ERROR(ToStatus(cudaStreamCreate(&stream_)));
  if (const cublasStatus_t status = cublasCreate(&blas_);
      status != CUBLAS_STATUS_SUCCESS) {
    return absl::UnavailableError(
        absl::StrCat("cuBLAS does not start: ", cublasGetStatusString(status)));
  }
  RETURN_IF_ERROR(ToStatus(cudaMalloc(&blas_workspace_, kBlasWorkspaceBytes)));
  cublasSetStream(blas_, stream_);
  cublasSetWorkspace(blas_, blas_workspace_, kBlasWorkspaceBytes);
  return absl::OkStatus();
}

CudaBackend::~CudaBackend() {
  adopted_.clear();
  if (blas_ != nullptr) cublasDestroy(blas_);
  cudaFree(blas_workspace_);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

absl::StatusOr<std::unique_ptr<Memory>> CudaBackend::Allocate(
    int64_t num_bytes) {
  return TwinMemory::Allocate(num_bytes, twins_);
}

absl::StatusOr<char*> CudaBackend::DeviceAddress(void* host,
                                                 int64_t num_bytes) {
  if (char* const device = twins_->DeviceOf(host); device != nullptr) {
    return device;
  }
  ASSIGN_OR_RETURN(std::unique_ptr<TwinMemory> twin,
                   TwinMemory::Mirror(host, num_bytes, twins_));
  adopted_.push_back(std::move(twin));
  return twins_->DeviceOf(host);
}

absl::Status CudaBackend::ToDevice(const TensorView& tensor) {
  const int64_t num_bytes = tensor.num_bytes();
  if (num_bytes == 0) return absl::OkStatus();
  NoteParameterUpdate();
  ASSIGN_OR_RETURN(char* const device, DeviceAddress(tensor.data, num_bytes));
  return ToStatus(
      cudaMemcpy(device, tensor.data, num_bytes, cudaMemcpyHostToDevice));
}

absl::Status CudaBackend::ToHost(const TensorView& tensor) {
  const int64_t num_bytes = tensor.num_bytes();
  const char* const device = twins_->DeviceOf(tensor.data);
  if (num_bytes == 0 || device == nullptr) return absl::OkStatus();
  return ToStatus(
      cudaMemcpy(tensor.data, device, num_bytes, cudaMemcpyDeviceToHost));
}

absl::Status CudaBackend::Copy(void* to, const void* from, int64_t num_bytes) {
  if (num_bytes == 0) return absl::OkStatus();
  NoteParameterUpdate();  // It may be one.
  char* const device_to = twins_->DeviceOf(to);
  const char* const device_from = twins_->DeviceOf(from);
  CHECK(device_to != nullptr && device_from != nullptr)
      << "not in the backend's memory";
  return ToStatus(cudaMemcpyAsync(device_to, device_from, num_bytes,
                                  cudaMemcpyDeviceToDevice, stream_));
}

absl::Status CudaBackend::Clear(void* data, int64_t num_bytes) {
  if (num_bytes == 0) return absl::OkStatus();
  NoteParameterUpdate();
  char* const device = twins_->DeviceOf(data);
  CHECK(device != nullptr) << "not in the backend's memory";
  return ToStatus(cudaMemsetAsync(device, 0, num_bytes, stream_));
}

absl::StatusOr<void*> CudaBackend::KernelAddress(void* data) {
  RETURN_IF_ERROR(ToStatus(cudaStreamSynchronize(stream_)));
  char* const device = twins_->DeviceOf(data);
  CHECK(device != nullptr) << "not in the backend's memory";
  return device;
}

absl::StatusOr<std::unique_ptr<Executable>> CudaBackend::Compile(
    const Graph& graph, const Layout& layout) {
  return CudaExecutable::Create(graph, layout, *this);
}

bool CudaBackend::RunsBeside(const Node& node) const {
  return node.op == &kAllReduce || MovesRows(node);
}

std::vector<NodeRun> CudaBackend::RunsTogether(const Graph& graph) const {
  std::vector<NodeRun> runs;
  for (const NodesTogether& nodes : FindTogether(graph)) {
    runs.push_back({nodes.first, nodes.end});
  }
  return runs;
}

double CudaBackend::flops_per_wire_byte() const { return kFlopsPerPeerByte; }

strata::Kernel CudaBackend::FindKernel(absl::string_view op,
                                       DType dtype) const {
  const bool is_here = dtype != DType::kF64 && Find(op).run != nullptr;
  return is_here ? RunNothing : nullptr;
}

absl::Status CudaBackend::Run(strata::Kernel kernel, const Node& node,
                              absl::Span<const TensorView> inputs,
                              absl::Span<const TensorView> outputs) {
  return absl::UnimplementedError("the CUDA backend runs whole programs only");
}

}  // namespace strata::gpu
