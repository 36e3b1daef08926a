// A message on its way: a copy on the device.

#ifndef CUDA_NCCL_MESSAGE_COPY_H_
#define CUDA_NCCL_MESSAGE_COPY_H_

#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"
#include "core/base/status_macros.h"
#include "cuda/runtime/status.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// Freed on the stream of the thread where it goes: what reads it is done then.
class MessageCopy {
 public:
  // Of host or device memory; the copy is done.
  static absl::StatusOr<MessageCopy> Of(const void* data, int64_t num_bytes) {
    MessageCopy copy;
    copy.num_bytes_ = num_bytes;
    if (num_bytes == 0) return copy;
    RETURN_IF_ERROR(
        ToStatus(cudaMallocAsync(&copy.data_, num_bytes, cudaStreamPerThread)));
    RETURN_IF_ERROR(ToStatus(cudaMemcpyAsync(
        copy.data_, data, num_bytes, cudaMemcpyDefault, cudaStreamPerThread)));
    RETURN_IF_ERROR(ToStatus(cudaStreamSynchronize(cudaStreamPerThread)));
    return copy;
  }
  MessageCopy(MessageCopy&& other) { *this = std::move(other); }
  MessageCopy& operator=(MessageCopy&& other) {
    std::swap(data_, other.data_);
    std::swap(num_bytes_, other.num_bytes_);
    return *this;
  }
  ~MessageCopy() {
    if (data_ != nullptr) cudaFreeAsync(data_, cudaStreamPerThread);
  }

  const void* data() const { return data_; }
  int64_t num_bytes() const { return num_bytes_; }

 private:
  MessageCopy() = default;

  void* data_ = nullptr;
  int64_t num_bytes_ = 0;
};

}  // namespace strata::gpu

#endif  // CUDA_NCCL_MESSAGE_COPY_H_
