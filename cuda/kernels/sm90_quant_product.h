// The products of QuantProductSm90 (quant_product.h), a source a format, so
// that both compile at once.

#ifndef CUDA_KERNELS_SM90_QUANT_PRODUCT_H_
#define CUDA_KERNELS_SM90_QUANT_PRODUCT_H_

#include "cuda/kernels/many_rows_plan.h"
#include "cuda/kernels/quant_product.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// Rows of w are of that many bits; `rounded` is QuantProductSm90's.
cudaError_t ManyRowsInt4(const QuantProductArgs& args,
                         const ManyRowsChoice& only, __nv_bfloat16* rounded,
                         cudaStream_t stream);
cudaError_t ManyRowsInt8(const QuantProductArgs& args,
                         const ManyRowsChoice& only, __nv_bfloat16* rounded,
                         cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_SM90_QUANT_PRODUCT_H_
