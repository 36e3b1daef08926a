// Random numbers made on the device: a model's weights are more than a host
// fills in a benchmark's time.

#ifndef CUDA_MODEL_RANDOM_FILL_H_
#define CUDA_MODEL_RANDOM_FILL_H_

#include <cstdint>

#include "cuda_runtime_api.h"

namespace strata::gpu {

// `n` numbers at `data`, uniform with this mean and standard deviation, BF16 or
// F32. Only enqueues.
cudaError_t FillRandom(void* data, int64_t n, bool bf16, float mean,
                       float deviation, uint64_t seed, cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_MODEL_RANDOM_FILL_H_
