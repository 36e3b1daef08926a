#include <cstdint>

#include "cuda/runtime/pack.h"

namespace strata::gpu {
namespace {

constexpr int kThreads = 128;

// A block an entry. Entries are few and small; bytes do.
__global__ void __launch_bounds__(kThreads)
    PackKernel(const PackEntry* entries, char* packed) {
  const PackEntry entry = entries[blockIdx.x];
  const char* const from = static_cast<const char*>(entry.from);
  char* const to = packed + entry.offset;
  const bool words =
      (reinterpret_cast<uintptr_t>(from) | reinterpret_cast<uintptr_t>(to) |
       static_cast<uintptr_t>(entry.num_bytes)) %
          4 ==
      0;
  if (words) {
    for (int64_t i = threadIdx.x; i < entry.num_bytes / 4; i += kThreads) {
      reinterpret_cast<uint32_t*>(to)[i] =
          reinterpret_cast<const uint32_t*>(from)[i];
    }
  } else {
    for (int64_t i = threadIdx.x; i < entry.num_bytes; i += kThreads) {
      to[i] = from[i];
    }
  }
}

}  // namespace

cudaError_t Pack(const PackEntry* entries, int num_entries, char* packed,
                 cudaStream_t stream) {
  if (num_entries == 0) return cudaSuccess;
  PackKernel<<<num_entries, kThreads, 0, stream>>>(entries, packed);
  return cudaGetLastError();
}

cudaError_t CheckCode() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, PackKernel);
}

}  // namespace strata::gpu
