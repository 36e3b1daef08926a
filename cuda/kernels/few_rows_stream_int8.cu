#include "cuda/kernels/few_rows_stream.cuh"
#include "cuda/kernels/few_rows_stream.h"

namespace strata::gpu {

cudaError_t StreamedInt8(const QuantProductArgs& args, const StreamChoice& only,
                         float* sums, cudaStream_t stream) {
  return LaunchStreamed<8>(args, only, sums, stream);
}

}  // namespace strata::gpu
