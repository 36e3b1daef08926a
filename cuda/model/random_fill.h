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

// The same of packed rows (core/quant/packed_rows.h), symmetric: random codes
// of 4 or 8 bits in the first `code_bytes` of each `row_bytes`, behind them
// scales of `scale`. The mean is 0.
cudaError_t FillPackedRandom(uint8_t* data, int64_t bytes, int64_t row_bytes,
                             int64_t code_bytes, int bits, float scale,
                             uint64_t seed, cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_MODEL_RANDOM_FILL_H_
