#include "cuda/kernels/sm90_quant_resident.cuh"
#include "cuda/kernels/sm90_quant_resident.h"

namespace strata::gpu {

bool HasResidentInt4(const QuantProductArgs& args, const ResidentMore& more) {
  return PlanOfResident<4>(args, more, {}).splits > 0;
}

cudaError_t ResidentInt4(const QuantProductArgs& args, const ResidentMore& more,
                         const ResidentChoice& only, cudaStream_t stream) {
  return RunResident<4>(args, more, only, stream);
}

}  // namespace strata::gpu
