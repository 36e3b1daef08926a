// Rows of F32 rounded to BF16, as products in the tensor cores take them.

#ifndef CUDA_KERNELS_ROUND_ROWS_H_
#define CUDA_KERNELS_ROUND_ROWS_H_

#include <cstdint>

#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// y [rows, columns] = x, to the nearest, ties to even; from the count to the
// bound zeros, or what was there without `zero_tail`. `columns` is a multiple
// of 8, both are aligned to 16 bytes. Bound by its 6 bytes an element. Only
// enqueues.
cudaError_t RoundRows(Extent rows, int64_t columns, const float* x,
                      __nv_bfloat16* y, cudaStream_t stream,
                      bool zero_tail = true);

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_ROUND_ROWS_H_
