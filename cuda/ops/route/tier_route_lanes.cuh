// What the kernels of a tier's gate in training share: a token's half warp, and
// its experts' affinities.

#ifndef CUDA_OPS_ROUTE_TIER_ROUTE_LANES_CUH_
#define CUDA_OPS_ROUTE_TIER_ROUTE_LANES_CUH_

#include <cstdint>

#include "cuda/ops/device.cuh"
#include "cuda/ops/gate_tokens.cuh"
#include "cuda/ops/tier_gate.h"

namespace strata::gpu {

// Lanes of a token, and experts of each: enough for TierRouteLimits::kExperts.
constexpr int kRouteLanes = kWarp / 2, kRoutePerLane = 4;

// Of a lane's experts, 0 where there is none: affinities, their sigmoids, and
// shares in a softmax over all experts.
struct Affinities {
  float coarse[kRoutePerLane], p[kRoutePerLane], share[kRoutePerLane];
};

// From a token's products with all experts and its coarse scores.
__device__ __forceinline__ Affinities AffinitiesOf(const TierGateArgs& a,
                                                   const float* product,
                                                   const float* coarse) {
  const int first = Lane() % kRouteLanes * kRoutePerLane;
  Affinities of;
  float z[kRoutePerLane], largest = -INFINITY, sum = 0;
  LoadPart(product, first, a.experts, z);
  LoadPart(coarse, first, a.experts, of.coarse);
#pragma unroll
  for (int j = 0; j < kRoutePerLane; ++j) {
    z[j] *= a.affinity_scale;
    if (a.add_coarse) z[j] += of.coarse[j];
    of.p[j] = ShareOf(z[j]);
    if (first + j < a.experts) largest = fmaxf(largest, z[j]);
  }
  largest = LanesMax<kRouteLanes>(largest);
#pragma unroll
  for (int j = 0; j < kRoutePerLane; ++j) {
    of.share[j] = first + j < a.experts ? expf(z[j] - largest) : 0.f;
    sum += of.share[j];
  }
  const float inverse = 1.f / LanesSum<kRouteLanes>(sum);
#pragma unroll
  for (int j = 0; j < kRoutePerLane; ++j) of.share[j] *= inverse;
  return of;
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_ROUTE_TIER_ROUTE_LANES_CUH_
