// The products of QuantProduct (quant_product.h), a source a format, so that
// both compile at once.

#ifndef CUDA_KERNELS_FEW_ROWS_PRODUCT_H_
#define CUDA_KERNELS_FEW_ROWS_PRODUCT_H_

#include "cuda/kernels/quant_product.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// Rows of w are of that many bits. With `rounded` dense rows are rounded where
// they are read, up to eight of them, and others there.
cudaError_t FewRowsInt4(const QuantProductArgs& args, __nv_bfloat16* rounded,
                        cudaStream_t stream);
cudaError_t FewRowsInt8(const QuantProductArgs& args, __nv_bfloat16* rounded,
                        cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_FEW_ROWS_PRODUCT_H_
