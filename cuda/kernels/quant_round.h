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

// The order of a piece's 32 columns (packed_chunk.cuh), so that masks cut pairs
// of neighbours out of a word of codes:
//
//   kByThread   those of thread 0 of four, then of the next: 0, 2, 1, 3 of each
//               four columns
//   kBySlot     slots 0 to 15 of step 0, then of step 1: what a product from
//               shared memory sums over
//   kAsItLies   as they are
enum class RoundedOrder { kByThread, kBySlot, kAsItLies };

// rounded [rows, RoundedColumns] BF16. Only enqueues; the next kernel may begin
// early (ahead.cuh), even before the one ahead has ended.
cudaError_t RoundForProduct(const QuantProductArgs& args, RoundedOrder order,
                            __nv_bfloat16* rounded, cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_QUANT_ROUND_H_
