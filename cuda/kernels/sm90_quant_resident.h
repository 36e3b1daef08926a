// Products of 9 to some hundreds of rows by small dense weights with all of a
// block's share in shared memory (sm90_quant_resident.cuh), a source a format,
// so that both compile at once.

#ifndef CUDA_KERNELS_SM90_QUANT_RESIDENT_H_
#define CUDA_KERNELS_SM90_QUANT_RESIDENT_H_

#include "cuda/kernels/quant_product.h"
#include "cuda/kernels/resident_plan.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// Whether there is a plan, and the product by it. Rows of w are whole
// (packed_chunk.cuh), of that many bits; cudaErrorInvalidValue without a plan.
bool HasResidentInt4(const QuantProductArgs& args, const ResidentMore& more);
bool HasResidentInt8(const QuantProductArgs& args, const ResidentMore& more);
cudaError_t ResidentInt4(const QuantProductArgs& args, const ResidentMore& more,
                         const ResidentChoice& only, cudaStream_t stream);
cudaError_t ResidentInt8(const QuantProductArgs& args, const ResidentMore& more,
                         const ResidentChoice& only, cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_SM90_QUANT_RESIDENT_H_
