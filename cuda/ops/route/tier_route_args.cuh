// Operands of a tier's gate in training, as its kernels have them.

#ifndef CUDA_OPS_ROUTE_TIER_ROUTE_ARGS_CUH_
#define CUDA_OPS_ROUTE_TIER_ROUTE_ARGS_CUH_

#include <cstdint>

#include "cuda/ops/tier_gate.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"
#include "cuda_runtime.h"

namespace strata::gpu {

// Inputs and outputs as core/ops/tier_route.h numbers them.
enum RouteInput {
  kRouteToken,
  kRouteKey,
  kRouteBias,
  kRouteExperts,  // And two more.
};
enum RouteOutput {
  kRouteExpert,
  kRouteWeight,
  kRouteLeft,
  kRouteLoad,
  kRouteDistill,
  kRouteCost,
  kRouteBalance,
};

constexpr int kMaxRouteBytes = 227 << 10;

// TierRouteLimits, which whoever builds graphs keeps to.
constexpr char kRouteTooWide[] =
    "more than 64 experts, chosen ones or columns of queries, or 128 groups or "
    "columns of energies";
inline bool RouteFits(const TierGateArgs& a) {
  return a.experts <= 64 && a.k_max <= 64 && a.r <= 64 && a.groups <= 128 &&
         a.energies <= 128;
}

// What both directions read, at the places where they have it.
inline TierGateArgs ReadRouteArgs(const KernelContext& ctx, int token, int key,
                                  int experts) {
  TierGateArgs a;
  const Operand& of_token = ctx.in(token);
  a.tokens = of_token.rows();
  a.token = of_token.as<float>();
  a.projected = static_cast<int>(of_token.dim(1));
  a.d = a.projected;
  a.experts = static_cast<int>(ctx.in(key).dim(0));
  a.groups = static_cast<int>(ctx.in(key).dim(1));
  a.r = static_cast<int>(ctx.in(experts).dim(1));
  a.has_energies = true;
  a.energies = a.projected - a.r;
  if (ctx.in(key).element_size == sizeof(__nv_bfloat16)) {
    a.bf16_key = ctx.in(key).as<__nv_bfloat16>();
  } else {
    a.key = ctx.in(key).as<float>();
  }
  a.expert_embedding = ctx.in(experts).as<float>();
  a.expert_key = ctx.in(experts + 1).as<float>();
  a.expert_value = ctx.in(experts + 2).as<float>();
  a.keep = static_cast<int>(ctx.Int("keep"));
  a.k_max = static_cast<int>(ctx.Int("k_max"));
  a.attention_scale = ctx.Float("attention_scale");
  a.affinity_scale = ctx.Float("affinity_scale");
  a.add_coarse = ctx.Int("add_coarse") != 0;
  a.normalize = ctx.Int("normalize") != 0;
  a.floor = ctx.Float("floor");
  a.scale = ctx.Float("scale");
  return a;
}

// A captured launch finds what the last call allowed, so all of it each time.
template <typename Kernel>
cudaError_t AllowRouteBytes(Kernel* kernel) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              kMaxRouteBytes);
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_ROUTE_TIER_ROUTE_ARGS_CUH_
