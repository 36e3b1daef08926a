// Small results of a program, brought together for one copy to the host.

#ifndef CUDA_RUNTIME_PACK_H_
#define CUDA_RUNTIME_PACK_H_

#include <cstdint>

#include "cuda_runtime_api.h"

namespace strata::gpu {

struct PackEntry {
  const void* from = nullptr;  // In device memory.
  int64_t offset = 0;          // Bytes, in the packed block.
  int64_t num_bytes = 0;
};

// packed[e.offset ...] = *e.from for each of `entries` (in device memory, as
// all else).
cudaError_t Pack(const PackEntry* entries, int num_entries, char* packed,
                 cudaStream_t stream);

// Does nothing, where the device has code of this program; returns
// cudaErrorNoKernelImageForDevice where it has not.
cudaError_t CheckCode();

}  // namespace strata::gpu

#endif  // CUDA_RUNTIME_PACK_H_
