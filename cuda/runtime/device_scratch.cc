#include "cuda/runtime/device_scratch.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "cuda_runtime_api.h"

namespace strata::gpu {
namespace {

constexpr size_t kAlignment = 256;

}  // namespace

DeviceScratch::~DeviceScratch() {
  cudaFree(block_);
  for (void* const extra : extra_) cudaFree(extra);
  for (const auto& [key, kept] : kept_) cudaFree(kept.data);
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

void* DeviceScratch::KeepBytes(const char* name, size_t num_bytes) {
  Kept& kept = kept_[{node_, name}];
  if (kept.size < num_bytes) {
    cudaFree(kept.data);
    kept = {};
    if (cudaMalloc(&kept.data, num_bytes) != cudaSuccess) return nullptr;
    if (cudaMemset(kept.data, 0, num_bytes) != cudaSuccess) return nullptr;
    kept.size = num_bytes;
  }
  return kept.data;
}

void* DeviceScratch::KeptByMaker(int input, const char* name) const {
  const auto it = kept_.find({(*makers_)[input], name});
  return it != kept_.end() ? it->second.data : nullptr;
}

cudaError_t DeviceScratch::Consolidate() {
  used_ = 0;
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
