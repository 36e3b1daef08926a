// Rows of x as the products with quantised weights take them.

#ifndef CUDA_KERNELS_QUANT_ROUND_H_
#define CUDA_KERNELS_QUANT_ROUND_H_

#include <cstdint>

#include "cuda/kernels/quant_product.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// Columns of a rounded row: those of w, filled up by zeros so that all kernels
// find whole steps.
inline int64_t RoundedColumns(const PackedRows& w) {
  return (int64_t{w.k} + 255) / 256 * 256;
}

// rounded [rows, RoundedColumns] BF16: of each four columns of x 0, 2, 1, 3, as
// a mask cuts pairs out of a word of codes (packed_chunk.cuh). Only enqueues;
// the next kernel may begin early (ahead.cuh).
cudaError_t RoundForProduct(const QuantProductArgs& args,
                            __nv_bfloat16* rounded, cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_QUANT_ROUND_H_
