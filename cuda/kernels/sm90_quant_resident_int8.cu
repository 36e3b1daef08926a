#include "cuda/kernels/sm90_quant_resident.cuh"
#include "cuda/kernels/sm90_quant_resident.h"

namespace strata::gpu {

bool HasResidentInt8(const QuantProductArgs& args) {
  return PlanOfResident<8>(args, {}).splits > 0;
}

cudaError_t ResidentInt8(const QuantProductArgs& args,
                         const ResidentChoice& only, cudaStream_t stream) {
  return RunResident<8>(args, only, stream);
}

}  // namespace strata::gpu
