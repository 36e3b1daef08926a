#include "cuda/kernels/sm90_quant_resident.cuh"
#include "cuda/kernels/sm90_quant_resident.h"

namespace strata::gpu {

bool HasResidentInt4(const QuantProductArgs& args) {
  return PlanOfResident<4>(args, {}).splits > 0;
}

cudaError_t ResidentInt4(const QuantProductArgs& args,
                         const ResidentChoice& only, cudaStream_t stream) {
  return RunResident<4>(args, only, stream);
}

}  // namespace strata::gpu
