#include "cuda/runtime/device_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "cuda/runtime/status.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {
namespace {

double MiB(double num_bytes) { return num_bytes / (1 << 20); }

// Says what there is of memory, too, where it ran out.
absl::Status AllocationError(cudaError_t error, int64_t num_bytes,
                             const TwinMap& map) {
  const absl::Status status = ToStatus(error);
  if (error != cudaErrorMemoryAllocation) return status;
  cudaGetLastError();  // This error does not stick.
  size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  return absl::ResourceExhaustedError(absl::StrFormat(
      "want %.1f MiB on the GPU, which has %.1f of %.1f MiB free (this "
      "program holds %.1f in %d blocks)",
      MiB(num_bytes), MiB(free), MiB(total), MiB(map.num_bytes()),
      map.num_blocks()));
}

}  // namespace

char* TwinMap::DeviceOf(const void* host) const {
  const char* const at = static_cast<const char*>(host);
  auto it = blocks_.upper_bound(at);
  if (it == blocks_.begin()) return nullptr;
  --it;
  const int64_t offset = at - it->first;
  return offset < it->second.num_bytes ? it->second.device + offset : nullptr;
}

absl::StatusOr<std::unique_ptr<TwinMemory>> TwinMemory::Allocate(
    int64_t num_bytes, std::shared_ptr<TwinMap> map) {
  num_bytes = std::max<int64_t>(1, num_bytes);
  void* const host = mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (host == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("no address space for %d bytes", num_bytes));
  }
  return Add(static_cast<char*>(host), /*owns_host=*/true, num_bytes,
             std::move(map));
}

absl::StatusOr<std::unique_ptr<TwinMemory>> TwinMemory::Mirror(
    void* host, int64_t num_bytes, std::shared_ptr<TwinMap> map) {
  return Add(static_cast<char*>(host), /*owns_host=*/false, num_bytes,
             std::move(map));
}

absl::StatusOr<std::unique_ptr<TwinMemory>> TwinMemory::Add(
    char* host, bool owns_host, int64_t num_bytes,
    std::shared_ptr<TwinMap> map) {
  auto memory = std::unique_ptr<TwinMemory>(
      new TwinMemory(host, owns_host, num_bytes, map));
  void* device = nullptr;
  cudaError_t error = cudaMalloc(&device, num_bytes);
  if (error != cudaSuccess) return AllocationError(error, num_bytes, *map);
  map->blocks_[host] = {static_cast<char*>(device), num_bytes};
  map->num_bytes_ += num_bytes;
  error = cudaMemset(device, 0, num_bytes);
  if (error != cudaSuccess) return ToStatus(error);
  return memory;
}

TwinMemory::~TwinMemory() {
  if (const auto it = map_->blocks_.find(host_); it != map_->blocks_.end()) {
    cudaFree(it->second.device);
    map_->num_bytes_ -= num_bytes_;
    map_->blocks_.erase(it);
  }
  if (owns_host_) munmap(host_, num_bytes_);
}

}  // namespace strata::gpu
