// What tests of several GPUs share: ranks, threads of this process, each with a
// GPU of its own.

#ifndef TRAINING_GPU_GPU_RANKS_H_
#define TRAINING_GPU_GPU_RANKS_H_

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "core/parallel/mesh.h"
#include "core/parallel/thread_communicator.h"
#include "core/testing/status_matchers.h"
#include "cuda/nccl/nccl_communicator.h"
#include "cuda/nccl/nccl_library.h"
#include "cuda/ops/all_kernels.h"
#include "cuda/runtime/cuda_backend.h"
#include "cuda/runtime/status.h"
#include "cuda_runtime_api.h"
#include "gtest/gtest.h"
#include "training/trainer.h"

namespace strata {

// Why there are no `wanted` ranks here; empty if there are.
inline std::string WhyNoGpuRanks(int wanted) {
  if (!gpu::HasDevice()) return "no GPU";
  const auto nccl = gpu::NcclLibrary::Load();
  if (!nccl.ok()) return std::string(nccl.status().message());
  int num_gpus = 0;
  EXPECT_EQ(cudaGetDeviceCount(&num_gpus), cudaSuccess);
  if (num_gpus >= wanted) return "";
  return absl::StrCat(num_gpus, " GPUs; wants ", wanted);
}

// For GPU `device`; `mesh` is null where it is alone.
inline BackendFactory BackendOnGpu(
    int device, const Mesh* mesh,
    gpu::Precision precision = gpu::Precision::kF32) {
  return [=]() -> absl::StatusOr<std::unique_ptr<Backend>> {
    gpu::CudaOptions cuda;
    cuda.device = device;
    cuda.mesh = mesh;
    cuda.precision = precision;
    return gpu::CudaBackend::Create(cuda, gpu::AllCudaKernels());
  };
}

// Calls `body` as each rank of a mesh of that shape; rank r has GPU r.
inline void OnGpuMesh(const MeshShape& shape,
                      const std::function<void(const Mesh&)>& body) {
  const auto hosts = ThreadCommunicators(shape.size(), absl::Seconds(60));
  std::vector<std::thread> threads;
  for (const auto& host : hosts) {
    threads.emplace_back([&, host = host.get()] {
      const auto world =
          gpu::NcclCommunicator::Join(*host, host->rank(), absl::Seconds(60));
      ASSERT_THAT(world, IsOk());
      const auto mesh = Mesh::Create(**world, shape);
      ASSERT_THAT(mesh, IsOk());
      body(**mesh);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace strata

#endif  // TRAINING_GPU_GPU_RANKS_H_
