#include <cstdint>

#include "cuda/ops/blas.h"
#include "cuda/ops/device.cuh"
#include "cuda/ops/fused_gate.h"
#include "cuda/ops/tier_gate.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

namespace strata::gpu {
namespace {

enum TierInput { kX, kToken, kKey, kBias, kExperts, kExpertKey, kExpertValue };

// What a gate keeps of its weights.
constexpr char kPieces[] = "projection's pieces";
constexpr char kWideToken[] = "projection";
constexpr char kWideKey[] = "keys";

// All but what is made of the weights.
TierGateArgs ReadArgs(const KernelContext& ctx) {
  const Operand& x = ctx.in(kX);
  TierGateArgs a;
  a.tokens = x.rows();
  a.tile_tokens = GateTileTokens(a.tokens.bound);
  a.d = x.dim(1);
  a.x = x.as<float>();
  a.experts = static_cast<int>(ctx.in(kKey).dim(0));
  a.groups = static_cast<int>(ctx.in(kKey).dim(1));
  a.r = static_cast<int>(ctx.in(kExperts).dim(1));
  a.projected = static_cast<int>(ctx.in(kToken).dim(0));
  a.has_energies = a.projected > a.r;
  a.energies = static_cast<int>(a.has_energies ? a.projected - a.r : a.d);
  a.key = ctx.in(kKey).as<float>();
  if (ctx.has(kBias)) a.bias = ctx.in(kBias).as<float>();
  a.expert_embedding = ctx.in(kExperts).as<float>();
  a.expert_key = ctx.in(kExpertKey).as<float>();
  a.expert_value = ctx.in(kExpertValue).as<float>();
  a.keep = static_cast<int>(ctx.Int("keep"));
  a.k_min = static_cast<int>(ctx.Int("k_min"));
  a.k_max = static_cast<int>(ctx.Int("k_max"));
  a.attention_scale = ctx.Float("attention_scale");
  a.affinity_scale = ctx.Float("affinity_scale");
  a.add_coarse = ctx.Int("add_coarse") != 0;
  a.tau = ctx.Double("tau");
  a.exit_threshold = ctx.Double("exit_threshold");
  a.normalize = ctx.Int("normalize") != 0;
  a.floor = ctx.Float("floor");
  a.scale = ctx.Float("scale");
  a.expert = ctx.out(0).as<int32_t>();
  a.stay = ctx.out(1).as<uint8_t>();
  a.weight = ctx.out(2).as<float>();
  return a;
}

__global__ void __launch_bounds__(kBlock)
    WidenKernel(int64_t n, const __nv_bfloat16* x, float* y) {
  for (int64_t i = FirstElement(); i < n; i += ElementStride()) {
    y[i] = __bfloat162float(x[i]);
  }
}

// A BF16 weight as floats that are kept; nothing for others.
cudaError_t KeepWide(const KernelContext& ctx, int input, const char* name) {
  const Operand& w = ctx.in(input);
  if (w.element_size != 2) return cudaSuccess;
  auto* const wide = ctx.Keep<float>(name, w.max_elements());
  if (wide == nullptr) return cudaErrorMemoryAllocation;
  WidenKernel<<<BlocksFor(w.max_elements()), kBlock, 0, ctx.stream>>>(
      w.max_elements(), w.as<__nv_bfloat16>(), wide);
  return cudaGetLastError();
}
const float* WideOf(const KernelContext& ctx, int input, const char* name) {
  const Operand& w = ctx.in(input);
  return w.element_size == 2 ? ctx.Keep<float>(name, w.max_elements())
                             : w.as<float>();
}

cudaError_t PrepareTierGate(const KernelContext& ctx) {
  const TierGateArgs a = ReadArgs(ctx);
  if (const cudaError_t e = KeepWide(ctx, kKey, kWideKey); e) return e;
  const int64_t pieces = ProjectionPieceElements(a, PiecesOf(ctx.precision));
  if (pieces == 0) return KeepWide(ctx, kToken, kWideToken);
  auto* const split = ctx.Keep<__nv_bfloat16>(kPieces, pieces);
  if (split == nullptr) return cudaErrorMemoryAllocation;
  const Operand& token = ctx.in(kToken);
  return SplitProjection(a, PiecesOf(ctx.precision), token.data,
                         token.element_size == 2, split, ctx.stream);
}

cudaError_t RunTierGate(const KernelContext& ctx) {
  TierGateArgs a = ReadArgs(ctx);
  if (a.experts > kMaxGateExperts) return ctx.Refuse("more than 512 experts");
  if (a.k_max > kMaxGateChosen) return ctx.Refuse("k_max of more than 64");
  a.key = WideOf(ctx, kKey, kWideKey);
  a.count =
      ctx.Keep<uint16_t>(kSlotCounts, GateTiles(a.tokens.bound) * a.experts);
  if (a.key == nullptr || a.count == nullptr) return cudaErrorMemoryAllocation;
  const int64_t pieces = ProjectionPieceElements(a, PiecesOf(ctx.precision));
  if (pieces > 0) {
    const auto* const split = ctx.Keep<__nv_bfloat16>(kPieces, pieces);
    if (split == nullptr) return cudaErrorMemoryAllocation;
    return ProjectAndChooseExperts(a, PiecesOf(ctx.precision), split,
                                   ctx.stream);
  }
  auto* const token = ctx.Take<float>(a.tokens.bound * a.projected);
  const float* const weight = WideOf(ctx, kToken, kWideToken);
  if (token == nullptr || weight == nullptr) return cudaErrorMemoryAllocation;
  GemmArgs product;
  product.transpose_b = true;
  product.m = a.tokens.bound;
  product.n = product.ldc = a.projected;
  product.k = product.lda = product.ldb = a.d;
  product.a = a.x;
  product.b = weight;
  product.c = token;
  if (const cudaError_t e = Gemm(ctx, product); e) return e;
  a.token = token;
  return ChooseExperts(a, ctx.stream);
}

}  // namespace

void RegisterFusedGateKernels(KernelRegistry& kernels) {
  kernels.Register("TierGate", RunTierGate, PrepareTierGate);
}

}  // namespace strata::gpu
