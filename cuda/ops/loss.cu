#include <cstdint>

#include "cuda/ops/best.cuh"
#include "cuda/ops/bf16/with_type.h"
#include "cuda/ops/device.cuh"
#include "cuda/ops/loss.h"
#include "cuda/runtime/kernel.h"

namespace strata::gpu {
namespace {

// A block a row, which it reads twice.
__global__ void __launch_bounds__(kBlock)
    CrossEntropyKernel(Extent rows, int64_t vocab, const float* logits,
                       const int32_t* target, float* nll, float* lse,
                       uint8_t* hit, FaultSink fault) {
  const int64_t t = rows.Get();
  for (int64_t i = blockIdx.x; i < t; i += gridDim.x) {
    const float* const row = logits + i * vocab;
    Best best = {-INFINITY, vocab};
    for (int64_t j = threadIdx.x; j < vocab; j += kBlock) {
      best = Better(best, {row[j], j});
    }
    best = BlockBest(best);
    float sum = 0;
    for (int64_t j = threadIdx.x; j < vocab; j += kBlock) {
      sum += expf(row[j] - best.value);
    }
    sum = BlockSum(sum);
    if (threadIdx.x != 0) continue;
    const int64_t want = target[i];
    const bool bad = want < -1 || want >= vocab;
    if (bad) fault.Report(FaultKind::kTarget, i, want, vocab);
    lse[i] = best.value + logf(sum);
    nll[i] = want < 0 || bad ? 0.f : lse[i] - row[want];
    hit[i] = want >= 0 && want == best.index;
  }
}

// The mean of nll over the tokens that count, by one block.
__global__ void __launch_bounds__(kBlock)
    MeanLossKernel(Extent rows, const int32_t* target, const float* nll,
                   float* loss) {
  const int64_t t = rows.Get();
  double sum = 0;
  int count = 0;
  for (int64_t i = threadIdx.x; i < t; i += kBlock) {
    sum += nll[i];
    count += target[i] >= 0;
  }
  sum = BlockSum(sum);
  count = BlockSum(count);
  if (threadIdx.x == 0) {
    *loss = static_cast<float>(sum / max(1, count));
  }
}

cudaError_t RunCrossEntropy(const KernelContext& ctx) {
  const Operand& logits = ctx.in(0);
  const int32_t* const target = ctx.in(1).as<int32_t>();
  float* const nll = ctx.out(1).as<float>();
  const auto blocks =
      static_cast<unsigned>(std::clamp<int64_t>(logits.dim(0), 1, kMaxBlocks));
  CrossEntropyKernel<<<blocks, kBlock, 0, ctx.stream>>>(
      logits.rows(), logits.dim(1), logits.as<float>(), target, nll,
      ctx.out(2).as<float>(), ctx.out(3).as<uint8_t>(), ctx.fault);
  return MeanLoss(ctx.in(1), nll, ctx.out(0).as<float>(), ctx.stream);
}

// *share = dloss / the number of tokens that count, by one block.
__global__ void __launch_bounds__(kBlock)
    ShareKernel(Extent rows, const int32_t* target, const float* dloss,
                float* share) {
  const int64_t t = rows.Get();
  int count = 0;
  for (int64_t i = threadIdx.x; i < t; i += kBlock) count += target[i] >= 0;
  count = BlockSum(count);
  if (threadIdx.x == 0) *share = *dloss / static_cast<float>(max(1, count));
}

template <typename D>
__global__ void __launch_bounds__(kBlock)
    CrossEntropyGradKernel(Extent rows, int64_t vocab, const float* share,
                           const float* logits, const int32_t* target,
                           const float* lse, D* dlogits, FaultSink fault) {
  const int64_t t = rows.Get();
  const float factor = *share;
  for (int64_t i = blockIdx.x; i < t; i += gridDim.x) {
    const int64_t want = target[i];
    if (threadIdx.x == 0 && (want < -1 || want >= vocab)) {
      fault.Report(FaultKind::kTarget, i, want, vocab);
    }
    const float denominator = lse[i];
    for (int64_t j = threadIdx.x; j < vocab; j += kBlock) {
      float d = 0;
      if (want >= 0) {
        d = expf(logits[i * vocab + j] - denominator) * factor;
        if (j == want) d -= factor;
      }
      dlogits[i * vocab + j] = static_cast<D>(d);
    }
  }
}

cudaError_t RunCrossEntropyGrad(const KernelContext& ctx) {
  const Operand& logits = ctx.in(1);
  const int32_t* const target = ctx.in(2).as<int32_t>();
  float* const share = ctx.Take<float>(1);
  if (share == nullptr) return cudaErrorMemoryAllocation;
  if (const cudaError_t e =
          ShareOfTarget(ctx.in(2), ctx.in(0).as<float>(), share, ctx.stream)) {
    return e;
  }
  const auto blocks =
      static_cast<unsigned>(std::clamp<int64_t>(logits.dim(0), 1, kMaxBlocks));
  WithType(ctx.out(0), [&](auto* type) {
    CrossEntropyGradKernel<<<blocks, kBlock, 0, ctx.stream>>>(
        logits.rows(), logits.dim(1), share, logits.as<float>(), target,
        ctx.in(3).as<float>(), ctx.out(0).as<ElementOf<decltype(type)>>(),
        ctx.fault);
  });
  return cudaGetLastError();
}

__global__ void __launch_bounds__(kBlock)
    NextTargetKernel(Extent rows, const int32_t* target, int32_t* ids,
                     int32_t* next) {
  const int64_t t = rows.Get();
  for (int64_t i = FirstElement(); i < t; i += ElementStride()) {
    ids[i] = max(target[i], 0);
    next[i] = target[i] < 0 || i + 1 == t ? -1 : target[i + 1];
  }
}

// The last row of each sequence has none behind.
__global__ void __launch_bounds__(kBlock)
    EndSequencesKernel(Extent rows, int64_t starts, const int32_t* seq_start,
                       int32_t* next) {
  const int64_t t = rows.Get();
  for (int64_t s = 1 + FirstElement(); s < starts; s += ElementStride()) {
    const int64_t last = int64_t{seq_start[s]} - 1;
    if (last >= 0 && last < t) next[last] = -1;
  }
}

cudaError_t RunNextTarget(const KernelContext& ctx) {
  const Operand& target = ctx.in(0);
  const Operand& seq_start = ctx.in(1);
  int32_t* const next = ctx.out(1).as<int32_t>();
  NextTargetKernel<<<BlocksFor(target.dim(0)), kBlock, 0, ctx.stream>>>(
      target.rows(), target.as<int32_t>(), ctx.out(0).as<int32_t>(), next);
  EndSequencesKernel<<<BlocksFor(seq_start.dim(0)), kBlock, 0, ctx.stream>>>(
      target.rows(), seq_start.dim(0), seq_start.as<int32_t>(), next);
  return cudaGetLastError();
}

}  // namespace

cudaError_t MeanLoss(const Operand& target, const float* nll, float* loss,
                     cudaStream_t stream) {
  MeanLossKernel<<<1, kBlock, 0, stream>>>(target.rows(), target.as<int32_t>(),
                                           nll, loss);
  return cudaGetLastError();
}

cudaError_t ShareOfTarget(const Operand& target, const float* dloss,
                          float* share, cudaStream_t stream) {
  ShareKernel<<<1, kBlock, 0, stream>>>(target.rows(), target.as<int32_t>(),
                                        dloss, share);
  return cudaGetLastError();
}

void RegisterLossKernels(KernelRegistry& kernels) {
  kernels.Register("CrossEntropy", RunCrossEntropy);
  kernels.Register("CrossEntropyGrad", RunCrossEntropyGrad);
  kernels.Register("NextTarget", RunNextTarget);
}

}  // namespace strata::gpu
