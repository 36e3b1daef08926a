// Scratch memory of one program's kernels on the device.

#ifndef CUDA_RUNTIME_DEVICE_SCRATCH_H_
#define CUDA_RUNTIME_DEVICE_SCRATCH_H_

#include <cstddef>
#include <vector>

#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// A bump allocator of one block. What does not fit while it grows gets a block
// of its own until Consolidate() makes one that all operators fit into.
class DeviceScratch : public Scratch {
 public:
  DeviceScratch() = default;
  DeviceScratch(const DeviceScratch&) = delete;
  DeviceScratch& operator=(const DeviceScratch&) = delete;
  ~DeviceScratch() override;

  void* TakeBytes(size_t num_bytes) override;

  // Forgets what was taken: the next operator begins.
  void Reset() { used_ = 0; }

  // Makes one block of what the hungriest operator so far took. Only while no
  // kernel runs. Addresses stay as they are from then on.
  cudaError_t Consolidate();

  size_t num_bytes() const { return size_; }

 private:
  char* block_ = nullptr;
  size_t size_ = 0;
  size_t used_ = 0;
  size_t most_used_ = 0;
  std::vector<void*> extra_;
};

}  // namespace strata::gpu

#endif  // CUDA_RUNTIME_DEVICE_SCRATCH_H_
