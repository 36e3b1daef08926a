// An array in device memory that frees itself.

#ifndef CUDA_RUNTIME_DEVICE_ARRAY_H_
#define CUDA_RUNTIME_DEVICE_ARRAY_H_

#include <cstddef>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "cuda/runtime/status.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// Copies are synchronous, as tests and set-up want them. Kernels on the path of
// a request take their memory from an arena instead.
template <typename T>
class DeviceArray {
 public:
  // Returns `size` uninitialized elements, or RESOURCE_EXHAUSTED.
  static absl::StatusOr<DeviceArray> Allocate(size_t size) {
    void* data = nullptr;
    const absl::Status status = ToStatus(cudaMalloc(&data, size * sizeof(T)));
    if (!status.ok()) {
      return absl::Status(
          status.code(), absl::StrCat(size * sizeof(T),
                                      " bytes on the GPU: ", status.message()));
    }
    return DeviceArray(static_cast<T*>(data), size);
  }

  static absl::StatusOr<DeviceArray> CopyOf(absl::Span<const T> host) {
    ASSIGN_OR_RETURN(DeviceArray array, Allocate(host.size()));
    RETURN_IF_ERROR(
        ToStatus(cudaMemcpy(array.data(), host.data(), host.size() * sizeof(T),
                            cudaMemcpyHostToDevice)));
    return array;
  }

  // Waits for the device, so it also reports errors of kernels launched before.
  absl::StatusOr<std::vector<T>> ToHost() const {
    std::vector<T> host(size_);
    RETURN_IF_ERROR(ToStatus(cudaMemcpy(host.data(), data(), size_ * sizeof(T),
                                        cudaMemcpyDeviceToHost)));
    return host;
  }

  T* data() const { return data_.get(); }
  size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(T* data) const { cudaFree(data); }
  };

  DeviceArray(T* data, size_t size) : data_(data), size_(size) {}

  std::unique_ptr<T, Free> data_;
  size_t size_;
};

}  // namespace strata::gpu

#endif  // CUDA_RUNTIME_DEVICE_ARRAY_H_
