#include "cuda/nccl/staging.h"

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/status_macros.h"
#include "core/parallel/communicator.h"
#include "cuda/runtime/status.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {
namespace {

constexpr int64_t kSmallestBuffer = 64 << 10;

bool IsOnDevice(const Payload& payload) {
  cudaPointerAttributes attributes;
  if (cudaPointerGetAttributes(&attributes, payload.data) != cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  return attributes.type == cudaMemoryTypeDevice ||
         attributes.type == cudaMemoryTypeManaged;
}

}  // namespace

Staging::~Staging() { cudaFree(buffer_); }

absl::StatusOr<char*> Staging::Room(const Payload& payload) {
  if (IsOnDevice(payload)) return static_cast<char*>(payload.data);
  const int64_t num_bytes = std::max(payload.num_bytes(), kSmallestBuffer);
  if (num_bytes > capacity_) {
    cudaFree(buffer_);
    buffer_ = nullptr;
    capacity_ = 0;
    void* data = nullptr;
    RETURN_IF_ERROR(ToStatus(cudaMalloc(&data, num_bytes)));
    buffer_ = static_cast<char*>(data);
    capacity_ = num_bytes;
  }
  return buffer_;
}

absl::StatusOr<char*> Staging::Fill(const Payload& payload,
                                    cudaStream_t stream) {
  ASSIGN_OR_RETURN(char* const room, Room(payload));
  if (room == payload.data || payload.count == 0) return room;
  RETURN_IF_ERROR(
      ToStatus(cudaMemcpyAsync(room, payload.data, payload.num_bytes(),
                               cudaMemcpyHostToDevice, stream)));
  return room;
}

absl::Status Staging::Empty(const Payload& payload, cudaStream_t stream) {
  if (payload.count == 0 || IsOnDevice(payload)) return absl::OkStatus();
  return ToStatus(cudaMemcpyAsync(payload.data, buffer_, payload.num_bytes(),
                                  cudaMemcpyDeviceToHost, stream));
}

}  // namespace strata::gpu
