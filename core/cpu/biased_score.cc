#include "core/cpu/biased_score.h"

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "core/cpu/row_chunks.h"
#include "core/ops/biased_score.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

// out(i, e) for every row i and expert e of operand `p`.
template <typename T, typename Out>
absl::Status ForEachScore(const KernelContext& ctx, int p, Out out) {
  const int64_t experts = ctx.in(p).dim(1);
  T* const result = ctx.out(0).as<T>();
  ForRowChunks(ctx.pool, ctx.in(p).dim(0), experts,
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i) {
                   for (int64_t e = 0; e < experts; ++e) {
                     result[i * experts + e] = out(i * experts + e, e);
                   }
                 }
               });
  return absl::OkStatus();
}

template <typename T>
absl::Status RunBiasedScore(const KernelContext& ctx) {
  const T* const p = ctx.in(0).as<T>();
  const T* const bias = ctx.in(1).as<T>();
  return ForEachScore<T>(ctx, 0, [=](int64_t at, int64_t e) {
    return std::max(p[at] + bias[e], T{0});
  });
}

template <typename T>
absl::Status RunBiasedScoreGrad(const KernelContext& ctx) {
  const T* const dout = ctx.in(0).as<T>();
  const T* const p = ctx.in(1).as<T>();
  const T* const bias = ctx.in(2).as<T>();
  return ForEachScore<T>(ctx, 1, [=](int64_t at, int64_t e) {
    return p[at] + bias[e] > 0 ? dout[at] : T{0};
  });
}

template <typename T>
void RegisterAll(KernelRegistry& kernels, DType dtype) {
  kernels.Register(kBiasedScore, dtype, RunBiasedScore<T>);
  kernels.Register(kBiasedScoreGrad, dtype, RunBiasedScoreGrad<T>);
}

}  // namespace

void RegisterBiasedScoreKernels(KernelRegistry& kernels) {
  RegisterAll<float>(kernels, DType::kF32);
  RegisterAll<double>(kernels, DType::kF64);
}

}  // namespace strata
