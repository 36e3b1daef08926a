#include <cstdint>

#include "cuda/ops/device.cuh"
#include "cuda/ops/gate_loss.h"
#include "cuda/runtime/kernel.h"

namespace strata::gpu {
namespace {

// --- Means over the survivors ---

// Blocks of a sum over all experts of all tokens; another adds up theirs.
constexpr int kPieces = 128;

// What is summed over the survivors: nothing, p, or BCE(sigmoid(c), p) in a
// form that never overflows.
struct CountOnly {
  __device__ double operator()(float, float) const { return 0; }
};
struct SecondTerm {
  __device__ double operator()(float, float p) const { return p; }
};
struct CrossEntropyTerm {
  __device__ double operator()(float c, float p) const {
    return fmaxf(c, 0.f) - c * p + log1pf(expf(-fabsf(c)));
  }
};

// sum [kPieces] and count [kPieces] over the survivors of a block's share.
template <typename Term>
__global__ void __launch_bounds__(kBlock)
    SurvivorSumKernel(Extent rows, int64_t experts, const float* c,
                      const float* p, const uint8_t* mask, Term term,
                      double* sum, int64_t* count) {
  const int64_t n = rows.Get() * experts;
  double local = 0;
  int64_t survivors = 0;
  for (int64_t i = FirstElement(); i < n; i += ElementStride()) {
    if (mask[i] == 0) continue;
    local += term(c[i], p[i]);
    ++survivors;
  }
  local = BlockSum(local);
  survivors = BlockSum(survivors);
  if (threadIdx.x != 0) return;
  sum[blockIdx.x] = local;
  count[blockIdx.x] = survivors;
}

// *mean of the sums and *share = factor / count (where either is wanted).
__global__ void __launch_bounds__(kBlock)
    SurvivorMeanKernel(const double* sum, const int64_t* count,
                       const float* factor, float* mean, float* share) {
  const bool mine = threadIdx.x < kPieces;
  const double total = BlockSum(mine ? sum[threadIdx.x] : 0.0);
  const int64_t survivors = BlockSum(mine ? count[threadIdx.x] : int64_t{0});
  if (threadIdx.x != 0) return;
  if (mean != nullptr) {
    *mean = survivors > 0 ? static_cast<float>(total / survivors) : 0.f;
  }
  if (share != nullptr) {
    *share = *factor / static_cast<float>(max(survivors, int64_t{1}));
  }
}

template <typename Term>
cudaError_t SumSurvivors(const KernelContext& ctx, const Operand& mask,
                         const float* c, const float* p, Term term,
                         const float* factor, float* mean, float* share) {
  auto* const sum = ctx.Take<double>(kPieces);
  auto* const count = ctx.Take<int64_t>(kPieces);
  if (sum == nullptr || count == nullptr) return cudaErrorMemoryAllocation;
  SurvivorSumKernel<<<kPieces, kBlock, 0, ctx.stream>>>(
      mask.rows(), mask.columns(), c, p, mask.as<uint8_t>(), term, sum, count);
  SurvivorMeanKernel<<<1, kBlock, 0, ctx.stream>>>(sum, count, factor, mean,
                                                   share);
  return cudaGetLastError();
}

cudaError_t RunCoarseDistill(const KernelContext& ctx) {
  return SumSurvivors(ctx, ctx.in(2), ctx.in(0).as<float>(),
                      ctx.in(1).as<float>(), CrossEntropyTerm(), nullptr,
                      ctx.out(0).as<float>(), nullptr);
}

cudaError_t RunExpectedCost(const KernelContext& ctx) {
  const float* const p = ctx.in(0).as<float>();
  return SumSurvivors(ctx, ctx.in(1), p, p, SecondTerm(), nullptr,
                      ctx.out(0).as<float>(), nullptr);
}

// dc = share * (sigmoid(c) - p) at the survivors; with c null, dp = share.
__global__ void __launch_bounds__(kBlock)
    SurvivorGradKernel(Extent rows, int64_t experts, const float* share,
                       const float* c, const float* p, const uint8_t* mask,
                       float* out) {
  const int64_t n = rows.Get() * experts;
  const float factor = *share;
  for (int64_t i = FirstElement(); i < n; i += ElementStride()) {
    float d = 0;
    if (mask[i] != 0) {
      d = c != nullptr ? factor * (SigmoidOf(c[i]) - p[i]) : factor;
    }
    out[i] = d;
  }
}

// Gradient by (dloss, c?, p, mask), mask being input `mask`.
cudaError_t SurvivorGrad(const KernelContext& ctx, const float* c,
                         const float* p, const Operand& mask) {
  float* const share = ctx.Take<float>(1);
  if (share == nullptr) return cudaErrorMemoryAllocation;
  const cudaError_t error = SumSurvivors(ctx, mask, p, p, CountOnly(),
                                         ctx.in(0).as<float>(), nullptr, share);
  if (error != cudaSuccess) return error;
  SurvivorGradKernel<<<BlocksFor(mask.max_elements()), kBlock, 0, ctx.stream>>>(
      mask.rows(), mask.columns(), share, c, p, mask.as<uint8_t>(),
      ctx.out(0).as<float>());
  return cudaGetLastError();
}

cudaError_t RunCoarseDistillGrad(const KernelContext& ctx) {
  return SurvivorGrad(ctx, ctx.in(1).as<float>(), ctx.in(2).as<float>(),
                      ctx.in(3));
}

cudaError_t RunExpectedCostGrad(const KernelContext& ctx) {
  return SurvivorGrad(ctx, nullptr, ctx.in(1).as<float>(), ctx.in(2));
}

// --- Balance loss ---

// Operands of a balance loss: p [t, E], expert [t, k], seq_start? [S + 1].
struct BalanceArgs {
  Extent tokens;
  int experts = 0;
  int64_t k = 0;
  int num_sequences = 1;
  const float* p = nullptr;
  const int32_t* expert = nullptr;
  const int32_t* seq_start = nullptr;  // Null: all tokens are one sequence.
  double* share = nullptr;             // [S, E], scratch
  double* of_row = nullptr;            // [t], scratch of the loss

  __device__ int64_t Begin(int s, int64_t t) const {
    return seq_start != nullptr ? min(int64_t{seq_start[s]}, t) : 0;
  }
  __device__ int64_t End(int s, int64_t t) const {
    return seq_start != nullptr ? min(int64_t{seq_start[s + 1]}, t) : t;
  }
};

constexpr int kMaxBalanced = 4096;  // Experts; their counts are shared memory.

// share[s, e]: E times the part of sequence s' choices that are e. A block a
// sequence.
__global__ void __launch_bounds__(kBlock) ShareKernel(const BalanceArgs args) {
  __shared__ int32_t count[kMaxBalanced];
  const int64_t t = args.tokens.Get();
  const int s = blockIdx.x;
  for (int e = threadIdx.x; e < args.experts; e += kBlock) count[e] = 0;
  __syncthreads();
  int choices = 0;
  const int64_t end = args.End(s, t) * args.k;
  for (int64_t i = args.Begin(s, t) * args.k + threadIdx.x; i < end;
       i += kBlock) {
    const int32_t e = args.expert[i];
    if (e < 0 || e >= args.experts) continue;
    atomicAdd(&count[e], 1);
    ++choices;
  }
  choices = BlockSum(choices);  // Ends with a barrier: counts are whole.
  for (int e = threadIdx.x; e < args.experts; e += kBlock) {
    args.share[int64_t{s} * args.experts + e] =
        count[e] * (static_cast<double>(args.experts) / max(1, choices));
  }
}

// Sequences that have tokens, which the mean is over.
__device__ int NumFilled(const BalanceArgs& args, int64_t t) {
  int filled = 0;
  for (int s = 0; s < args.num_sequences; ++s) {
    filled += args.End(s, t) > args.Begin(s, t);
  }
  return filled;
}

// The sequence of a row; -1 where it is in none.
__device__ int SequenceOf(const BalanceArgs& args, int64_t row, int64_t t) {
  for (int s = 0; s < args.num_sequences; ++s) {
    if (row >= args.Begin(s, t) && row < args.End(s, t)) return s;
  }
  return -1;
}

// Of a row: the sum of p, and the mean of `share` weighed by p; by a warp.
struct RowShare {
  double sum = 0, mean = 0;
};
__device__ RowShare RowShareOf(const float* p, const double* share,
                               int experts) {
  double sum = 0, dot = 0;
  for (int e = Lane(); e < experts; e += kWarp) {
    sum += p[e];
    dot += share[e] * p[e];
  }
  sum = WarpSum(sum);
  dot = WarpSum(dot);
  return {sum, sum > 0 ? dot / sum : 0.0};
}

// of_row[i] = what row i adds to the loss, a warp a row.
__global__ void __launch_bounds__(kBlock)
    BalanceRowKernel(const BalanceArgs args) {
  const int64_t t = args.tokens.Get();
  const int filled = NumFilled(args, t);
  for (int64_t i = FirstRow(); i < t; i += RowStride()) {
    const int s = SequenceOf(args, i, t);
    double value = 0;
    if (s >= 0) {
      const RowShare row =
          RowShareOf(args.p + i * args.experts,
                     args.share + int64_t{s} * args.experts, args.experts);
      value = row.mean /
              (static_cast<double>(args.End(s, t) - args.Begin(s, t)) * filled);
    }
    if (Lane() == 0) args.of_row[i] = value;
  }
}

__global__ void __launch_bounds__(kBlock)
    SumRowsKernel(Extent tokens, const double* of_row, float* loss) {
  const int64_t t = tokens.Get();
  double sum = 0;
  for (int64_t i = threadIdx.x; i < t; i += kBlock) sum += of_row[i];
  sum = BlockSum(sum);
  if (threadIdx.x == 0) *loss = static_cast<float>(sum);
}

// d(p_e / sum)/dp: of row i, (f_e - mean) / sum.
__global__ void __launch_bounds__(kBlock)
    BalanceGradKernel(const BalanceArgs args, const float* dloss, float* dp) {
  const int64_t t = args.tokens.Get();
  const int filled = NumFilled(args, t);
  for (int64_t i = FirstRow(); i < t; i += RowStride()) {
    const int s = SequenceOf(args, i, t);
    double factor = 0, mean = 0;
    const double* share = nullptr;
    if (s >= 0) {
      share = args.share + int64_t{s} * args.experts;
      const RowShare row =
          RowShareOf(args.p + i * args.experts, share, args.experts);
      if (row.sum > 0) {
        factor =
            *dloss /
            (static_cast<double>(args.End(s, t) - args.Begin(s, t)) * filled) /
            row.sum;
        mean = row.mean;
      }
    }
    for (int e = Lane(); e < args.experts; e += kWarp) {
      dp[i * args.experts + e] =
          factor != 0 ? static_cast<float>(factor * (share[e] - mean)) : 0.f;
    }
  }
}

// Operands from input `p` on, and the shares.
cudaError_t PrepareBalance(const KernelContext& ctx, int p, BalanceArgs& args) {
  args.tokens = ctx.in(p).rows();
  args.experts = static_cast<int>(ctx.in(p).dim(1));
  args.k = ctx.in(p + 1).dim(1);
  args.p = ctx.in(p).as<float>();
  args.expert = ctx.in(p + 1).as<int32_t>();
  if (args.experts > kMaxBalanced) return ctx.Refuse("more than 4096 experts");
  if (ctx.has(p + 2)) {
    args.seq_start = ctx.in(p + 2).as<int32_t>();
    args.num_sequences = static_cast<int>(ctx.in(p + 2).dim(0) - 1);
  }
  args.share = ctx.Take<double>(int64_t{args.num_sequences} * args.experts);
  if (args.share == nullptr) return cudaErrorMemoryAllocation;
  ShareKernel<<<static_cast<unsigned>(args.num_sequences), kBlock, 0,
                ctx.stream>>>(args);
  return cudaGetLastError();
}

cudaError_t RunBalanceLoss(const KernelContext& ctx) {
  BalanceArgs args;
  if (const cudaError_t e = PrepareBalance(ctx, 0, args); e) return e;
  args.of_row = ctx.Take<double>(args.tokens.bound);
  if (args.of_row == nullptr) return cudaErrorMemoryAllocation;
  BalanceRowKernel<<<BlocksForRows(args.tokens.bound), kBlock, 0, ctx.stream>>>(
      args);
  SumRowsKernel<<<1, kBlock, 0, ctx.stream>>>(args.tokens, args.of_row,
                                              ctx.out(0).as<float>());
  return cudaGetLastError();
}

cudaError_t RunBalanceLossGrad(const KernelContext& ctx) {
  BalanceArgs args;
  if (const cudaError_t e = PrepareBalance(ctx, 1, args); e) return e;
  BalanceGradKernel<<<BlocksForRows(args.tokens.bound), kBlock, 0,
                      ctx.stream>>>(args, ctx.in(0).as<float>(),
                                    ctx.out(0).as<float>());
  return cudaGetLastError();
}

// --- Router z-loss ---

__device__ float LogSumExp(const float* row, int64_t n) {
  float max = -INFINITY, sum = 0;
  for (int64_t e = Lane(); e < n; e += kWarp) max = fmaxf(max, row[e]);
  max = WarpMax(max);
  for (int64_t e = Lane(); e < n; e += kWarp) sum += expf(row[e] - max);
  return max + logf(WarpSum(sum));
}

__global__ void __launch_bounds__(kBlock)
    SquareKernel(Extent rows, int64_t experts, const float* logits,
                 double* square) {
  const int64_t t = rows.Get();
  for (int64_t i = FirstRow(); i < t; i += RowStride()) {
    const float lse = LogSumExp(logits + i * experts, experts);
    if (Lane() == 0) square[i] = lse * lse;
  }
}

__global__ void __launch_bounds__(kBlock)
    MeanKernel(Extent rows, const double* x, float* mean) {
  const int64_t t = rows.Get();
  double sum = 0;
  for (int64_t i = threadIdx.x; i < t; i += kBlock) sum += x[i];
  sum = BlockSum(sum);
  if (threadIdx.x == 0) {
    *mean = static_cast<float>(sum / static_cast<double>(max(t, int64_t{1})));
  }
}

cudaError_t RunZLoss(const KernelContext& ctx) {
  const Operand& logits = ctx.in(0);
  auto* const square = ctx.Take<double>(logits.dim(0));
  if (square == nullptr) return cudaErrorMemoryAllocation;
  SquareKernel<<<BlocksForRows(logits.dim(0)), kBlock, 0, ctx.stream>>>(
      logits.rows(), logits.dim(1), logits.as<float>(), square);
  MeanKernel<<<1, kBlock, 0, ctx.stream>>>(logits.rows(), square,
                                           ctx.out(0).as<float>());
  return cudaGetLastError();
}

// 2 lse softmax(logits) / t.
__global__ void __launch_bounds__(kBlock)
    ZLossGradKernel(Extent rows, int64_t experts, const float* dloss,
                    const float* logits, float* dlogits) {
  const int64_t t = rows.Get();
  const float share = *dloss * 2.f / static_cast<float>(max(t, int64_t{1}));
  for (int64_t i = FirstRow(); i < t; i += RowStride()) {
    const float* const row = logits + i * experts;
    const float lse = LogSumExp(row, experts);
    for (int64_t e = Lane(); e < experts; e += kWarp) {
      dlogits[i * experts + e] = share * lse * expf(row[e] - lse);
    }
  }
}

cudaError_t RunZLossGrad(const KernelContext& ctx) {
  const Operand& logits = ctx.in(1);
  ZLossGradKernel<<<BlocksForRows(logits.dim(0)), kBlock, 0, ctx.stream>>>(
      logits.rows(), logits.dim(1), ctx.in(0).as<float>(), logits.as<float>(),
      ctx.out(0).as<float>());
  return cudaGetLastError();
}

}  // namespace

void RegisterGateLossKernels(KernelRegistry& kernels) {
  kernels.Register("CoarseDistill", RunCoarseDistill);
  kernels.Register("CoarseDistillGrad", RunCoarseDistillGrad);
  kernels.Register("ExpectedCost", RunExpectedCost);
  kernels.Register("ExpectedCostGrad", RunExpectedCostGrad);
  kernels.Register("BalanceLoss", RunBalanceLoss);
  kernels.Register("BalanceLossGrad", RunBalanceLossGrad);
  kernels.Register("ZLoss", RunZLoss);
  kernels.Register("ZLossGrad", RunZLossGrad);
}

}  // namespace strata::gpu
