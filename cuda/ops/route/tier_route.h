// Kernels of the gate of a tier in training: core/ops/tier_route.h.

#ifndef CUDA_OPS_ROUTE_TIER_ROUTE_H_
#define CUDA_OPS_ROUTE_TIER_ROUTE_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterTierRouteKernels(KernelRegistry& kernels);

// Kernels of "TierRoute", and of "TierRouteGrad".
cudaError_t RunTierRoute(const KernelContext& ctx);
cudaError_t RunTierRouteGrad(const KernelContext& ctx);

}  // namespace strata::gpu

#endif  // CUDA_OPS_ROUTE_TIER_ROUTE_H_
