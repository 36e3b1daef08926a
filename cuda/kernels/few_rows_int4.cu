#include "cuda/kernels/few_rows_product.cuh"
#include "cuda/kernels/few_rows_product.h"

namespace strata::gpu {

cudaError_t FewRowsInt4(const QuantProductArgs& args, __nv_bfloat16* rounded,
                        cudaStream_t stream) {
  return LaunchBits<4>(args, rounded, stream);
}

}  // namespace strata::gpu
