#include "cuda/runtime/device_scratch.h"

#include <algorithm>
#include <cstddef>

#include "cuda_runtime_api.h"

namespace strata::gpu {
namespace {

constexpr size_t kAlignment = 256;

}  // namespace

DeviceScratch::~DeviceScratch() {
  cudaFree(block_);
  for (void* const extra : extra_) cudaFree(extra);
}

void* DeviceScratch::TakeBytes(size_t num_bytes) {
  num_bytes = std::max<size_t>(num_bytes, 1);
  num_bytes = (num_bytes + kAlignment - 1) / kAlignment * kAlignment;
  const size_t begin = used_;
  used_ += num_bytes;
  most_used_ = std::max(most_used_, used_);
  if (used_ <= size_) return block_ + begin;
  void* extra = nullptr;
  if (cudaMalloc(&extra, num_bytes) != cudaSuccess) return nullptr;
  extra_.push_back(extra);
  return extra;
}

cudaError_t DeviceScratch::Consolidate() {
  Reset();
  if (extra_.empty()) return cudaSuccess;
  for (void* const extra : extra_) cudaFree(extra);
  extra_.clear();
  cudaFree(block_);
  block_ = nullptr;
  size_ = 0;
  void* block = nullptr;
  const cudaError_t error = cudaMalloc(&block, most_used_);
  if (error != cudaSuccess) return error;
  block_ = static_cast<char*>(block);
  size_ = most_used_;
  return cudaSuccess;
}

}  // namespace strata::gpu
