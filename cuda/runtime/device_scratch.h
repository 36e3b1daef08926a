// Scratch memory of one program's kernels on the device.

#ifndef CUDA_RUNTIME_DEVICE_SCRATCH_H_
#define CUDA_RUNTIME_DEVICE_SCRATCH_H_

#include <cstddef>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// A bump allocator of one block. What does not fit while it grows gets a block
// of its own until Consolidate() makes one that all operators fit into. What is
// kept has blocks of its own for good.
class DeviceScratch : public Scratch {
 public:
  DeviceScratch() = default;
  DeviceScratch(const DeviceScratch&) = delete;
  DeviceScratch& operator=(const DeviceScratch&) = delete;
  ~DeviceScratch() override;

  void* TakeBytes(size_t num_bytes) override;
  void* KeepBytes(const char* name, size_t num_bytes) override;
  void* KeptByMaker(int input, const char* name) const override;

  // Forgets what was taken: operator `node` begins, whose i-th input is made by
  // node makers[i], or by none where that is negative. `makers` must outlive
  // the operator.
  void Begin(int node, const std::vector<int>& makers) {
    used_ = 0;
    node_ = node;
    makers_ = &makers;
  }

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
  int node_ = 0;
  const std::vector<int>* makers_ = nullptr;
  struct Kept {
    void* data = nullptr;
    size_t size = 0;
  };
  std::map<std::pair<int, std::string>, Kept> kept_;  // By node and name.
};

}  // namespace strata::gpu

#endif  // CUDA_RUNTIME_DEVICE_SCRATCH_H_
