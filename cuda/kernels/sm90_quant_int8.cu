#include "cuda/kernels/sm90_quant_product.cuh"
#include "cuda/kernels/sm90_quant_product.h"

namespace strata::gpu {

cudaError_t ManyRowsInt8(const QuantProductArgs& args,
                         const ManyRowsChoice& only, __nv_bfloat16* rounded,
                         cudaStream_t stream) {
  return LaunchManyRows<8>(args, only, rounded, stream);
}

}  // namespace strata::gpu
