// What lies between the products of a batch of up to some hundred rows: each
// row is read once, results that only products read are BF16, and each kernel
// begins before the one ahead has ended (ahead.cuh), since most of what such a
// kernel takes is its launch.

#ifndef CUDA_OPS_BATCH_BATCH_ROWS_H_
#define CUDA_OPS_BATCH_BATCH_ROWS_H_

#include <cstdint>

#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// Widths are multiples of 8, and rows aligned to 16 bytes. Functions only
// enqueue.

// y [t, d] = the rows of x over their root mean square, times gain [d].
cudaError_t NormRounded(Extent tokens, int64_t d, const float* x,
                        const float* gain, float eps, __nv_bfloat16* y,
                        cudaStream_t stream);

// y [rows, width] = silu(first half) * second half of both [rows, 2 width].
cudaError_t SwiGluRounded(Extent rows, int64_t width, const float* both,
                          __nv_bfloat16* y, cudaStream_t stream);

// y [t, d] = x + add.
cudaError_t SumRows(Extent tokens, int64_t d, const float* x, const float* add,
                    float* y, cudaStream_t stream);

// y [heads, columns, rows] = x of each head, [rows, columns] from head * step
// on, transposed.
cudaError_t TransposeRounded(int64_t heads, int64_t rows, int64_t columns,
                             int64_t step, const float* x, __nv_bfloat16* y,
                             cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_OPS_BATCH_BATCH_ROWS_H_
