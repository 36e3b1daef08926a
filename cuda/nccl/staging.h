// Device memory in front of host memory: what NCCL sees of a payload.

#ifndef CUDA_NCCL_STAGING_H_
#define CUDA_NCCL_STAGING_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/parallel/communicator.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// One payload at a time. Payloads in device memory are used where they are.
class Staging {
 public:
  Staging() = default;
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  ~Staging();

  // Where the device has room for `payload`; with Fill() what it holds, too.
  absl::StatusOr<char*> Room(const Payload& payload);
  absl::StatusOr<char*> Fill(const Payload& payload, cudaStream_t stream);

  // Enqueues the way back to `payload`.
  absl::Status Empty(const Payload& payload, cudaStream_t stream);

 private:
  char* buffer_ = nullptr;
  int64_t capacity_ = 0;  // Bytes.
};

}  // namespace strata::gpu

#endif  // CUDA_NCCL_STAGING_H_
