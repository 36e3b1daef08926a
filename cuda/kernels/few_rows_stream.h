// Streamed products (few_rows_stream.cuh), a source a format, so that both
// compile at once.

#ifndef CUDA_KERNELS_FEW_ROWS_STREAM_H_
#define CUDA_KERNELS_FEW_ROWS_STREAM_H_

#include <cstdint>

#include "cuda/kernels/few_rows_stream_plan.h"
#include "cuda/kernels/quant_product.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// Products of 8 rows of x that a tile of rows has: 1, 2 or 4.
constexpr int kMaxStreamProducts = 4;
int StreamProducts(int64_t rows);

// But for a choice.
StreamWork DescribeStream(const QuantProductArgs& args);

// Of products that HasStreamedProduct(). Rows of w are of that many bits;
// `sums` is the scratch of QuantProduct. Returns cudaErrorInvalidValue if the
// choice cannot be.
cudaError_t StreamedInt4(const QuantProductArgs& args, const StreamChoice& only,
                         float* sums, cudaStream_t stream);
cudaError_t StreamedInt8(const QuantProductArgs& args, const StreamChoice& only,
                         float* sums, cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_FEW_ROWS_STREAM_H_
