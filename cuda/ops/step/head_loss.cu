#include <algorithm>
#include <cstdint>

#include "cuda/ops/best.cuh"
#include "cuda/ops/bf16/convert.h"
#include "cuda/ops/blas.h"
#include "cuda/ops/device.cuh"
#include "cuda/ops/loss.h"
#include "cuda/ops/step/head_loss.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

namespace strata::gpu {
namespace {

// Words that a thread has of a row at a time.
constexpr int kTogether = 4;

struct RowsArgs {
  Extent rows;        // Of all chunks.
  int64_t first = 0;  // Of this one,
  int64_t bound = 0;  // and how many it may have.
  int64_t vocab = 0;
  float* logits = nullptr;          // [bound, vocab], later their gradient
  const int32_t* target = nullptr;  // Of all, and so are the next two.
  float* nll = nullptr;
  uint8_t* hit = nullptr;
  const float* share = nullptr;  // Null: no gradient is wanted.
  FaultSink fault;
};

// exp() of what a thread has seen of a row, as a sum relative to its largest.
struct Sum {
  Best best;
  float of_exp;

  __device__ __forceinline__ void Add(const float (&x)[kTogether], int64_t at) {
    float largest = x[0];
    int where = 0;
#pragma unroll
    for (int k = 1; k < kTogether; ++k) {
      if (x[k] > largest) largest = x[k], where = k;
    }
    if (largest > best.value) {
      of_exp *= expf(best.value - largest);
      best = {largest, at + where};
    }
    // They add nothing, and where all are so the difference is no number.
    if (largest == -INFINITY) return;
#pragma unroll
    for (int k = 0; k < kTogether; ++k) of_exp += expf(x[k] - best.value);
  }
};

__device__ __forceinline__ void LoadSome(const float* row, int64_t at,
                                         int64_t vocab, bool wide,
                                         float (&x)[kTogether]) {
  if (wide) {
    const float4 all = *reinterpret_cast<const float4*>(row + at);
    x[0] = all.x, x[1] = all.y, x[2] = all.z, x[3] = all.w;
    return;
  }
#pragma unroll
  for (int k = 0; k < kTogether; ++k) {
    x[k] = at + k < vocab ? row[at + k] : -INFINITY;
  }
}

__device__ __forceinline__ void StoreSome(const float (&x)[kTogether],
                                          float* row, int64_t at, int64_t vocab,
                                          bool wide) {
  if (wide) {
    *reinterpret_cast<float4*>(row + at) = {x[0], x[1], x[2], x[3]};
    return;
  }
#pragma unroll
  for (int k = 0; k < kTogether; ++k) {
    if (at + k < vocab) row[at + k] = x[k];
  }
}
__device__ __forceinline__ void StoreSome(const float (&x)[kTogether],
                                          __nv_bfloat16* row, int64_t at,
                                          int64_t vocab, bool wide) {
  if (wide) {
    const __nv_bfloat162 low = __floats2bfloat162_rn(x[0], x[1]);
    const __nv_bfloat162 high = __floats2bfloat162_rn(x[2], x[3]);
    uint2 bits;
    bits.x = *reinterpret_cast<const uint32_t*>(&low);
    bits.y = *reinterpret_cast<const uint32_t*>(&high);
    *reinterpret_cast<uint2*>(row + at) = bits;
    return;
  }
#pragma unroll
  for (int k = 0; k < kTogether; ++k) {
    if (at + k < vocab) row[at + k] = __float2bfloat16_rn(x[k]);
  }
}

// A block a row, which it reads twice, the second time from L2: 128 kB of each
// of some blocks at once. Bound by the first reading and the writing of what
// takes the row's place. That is of type D: where D is smaller, what is written
// covers what has been read, as all threads wait between a round's reading and
// its writing. Rows that are not there become zeros, which add nothing to dw.
template <typename D>
__global__ void __launch_bounds__(kBlock) LossRowsKernel(const RowsArgs args) {
  const int64_t there = args.rows.Get() - args.first;
  const int64_t vocab = args.vocab;
  const bool wide = vocab % kTogether == 0;
  const bool gradients = args.share != nullptr;
  const float share = gradients ? *args.share : 0.f;
  const int64_t rounds =
      (vocab + kTogether * kBlock - 1) / (kTogether * kBlock);
  for (int64_t i = blockIdx.x; i < args.bound; i += gridDim.x) {
    float* const row = args.logits + i * vocab;
    D* const gradient = reinterpret_cast<D*>(row);
    const int64_t t = args.first + i;
    const int64_t want = i < there ? args.target[t] : -1;
    const bool bad = want < -1 || want >= vocab;
    const bool counts = want >= 0 && !bad;
    float lse = 0;
    if (i < there) {
      Sum sum = {{-INFINITY, vocab}, 0};
      for (int64_t at = int64_t{threadIdx.x} * kTogether; at < vocab;
           at += kTogether * kBlock) {
        float x[kTogether];
        LoadSome(row, at, vocab, wide, x);
        sum.Add(x, at);
      }
      const Best best = BlockBest(sum.best);
      const float all =
          BlockSum(sum.best.value == -INFINITY
                       ? 0.f
                       : sum.of_exp * expf(sum.best.value - best.value));
      lse = best.value + logf(all);
      if (threadIdx.x == 0) {
        if (bad) args.fault.Report(FaultKind::kTarget, t, want, vocab);
        args.nll[t] = counts ? lse - row[want] : 0.f;
        args.hit[t] = counts && want == best.index;
      }
    }
    __syncthreads();  // row[want] is read.
    for (int64_t round = 0; gradients && round < rounds; ++round) {
      const int64_t at =
          (round * kBlock + static_cast<int64_t>(threadIdx.x)) * kTogether;
      float x[kTogether] = {};
      if (counts && at < vocab) {
        LoadSome(row, at, vocab, wide, x);
#pragma unroll
        for (int k = 0; k < kTogether; ++k) {
          x[k] = expf(x[k] - lse) * share;
          if (at + k == want) x[k] -= share;
        }
      }
      if (sizeof(D) < sizeof(float)) __syncthreads();
      if (at < vocab) StoreSome(x, gradient, at, vocab, wide);
    }
    __syncthreads();  // Before the next row's shared memory.
  }
}

// What a product after the first counts for, and what is there: one each.
__global__ void OnesKernel(float* ones) { ones[0] = ones[1] = 1; }

// Of a node, with operands as products take them.
struct Head {
  bool bf16 = false;  // Products are, and dlogits.
  int64_t d = 0, vocab = 0;
  const char* x = nullptr;
  const void* w = nullptr;
  char* dx = nullptr;
  bool bf16_dx = false;   // Products give it so;
  bool round_dx = false;  // or it is rounded behind them.
  float* dw = nullptr;
  float* logits = nullptr;
  const float* ones = nullptr;

  const void* RowsOfX(int64_t first) const {
    return x + first * d * (bf16 ? 2 : 4);
  }

  GemmArgs Product() const {
    GemmArgs args;
    args.bf16 = bf16;
    return args;
  }

  cudaError_t MakeLogits(const KernelContext& ctx, int64_t first,
                         int64_t rows) const {
    GemmArgs args = Product();
    args.transpose_b = true;
    args.m = rows;
    args.n = args.ldc = vocab;
    args.k = args.lda = args.ldb = d;
    args.a = RowsOfX(first);
    args.b = w;
    args.c = logits;
    return Gemm(ctx, args);
  }

  cudaError_t MakeInputGrad(const KernelContext& ctx, int64_t first,
                            int64_t rows) const {
    GemmArgs args = Product();
    args.m = rows;
    args.n = args.ldb = args.ldc = d;
    args.k = vocab;
    args.a = logits;
    args.lda = bf16 ? 2 * vocab : vocab;
    args.b = w;
    args.c = reinterpret_cast<float*>(dx + first * d * (bf16_dx ? 2 : 4));
    args.bf16_c = bf16_dx;
    return Gemm(ctx, args);
  }

  cudaError_t AddWeightGrad(const KernelContext& ctx, int64_t first,
                            int64_t rows) const {
    GemmArgs args = Product();
    args.transpose_a = true;
    args.m = vocab;
    args.n = args.ldb = args.ldc = d;
    args.k = rows;
    args.a = logits;
    args.lda = bf16 ? 2 * vocab : vocab;
    args.b = RowsOfX(first);
    args.c = dw;
    if (first > 0) args.scalars = ones;
    return Gemm(ctx, args);
  }
};

template <typename T>
cudaError_t Convert(cudaError_t (*convert)(const KernelContext&, const Operand&,
                                           const T**),
                    const KernelContext& ctx, Head& head) {
  const T *x = nullptr, *w = nullptr;
  if (const cudaError_t e = convert(ctx, ctx.in(0), &x); e) return e;
  if (const cudaError_t e = convert(ctx, ctx.in(1), &w); e) return e;
  head.x = reinterpret_cast<const char*>(x);
  head.w = w;
  return cudaSuccess;
}

// Where gradients go, and what a chunk wants besides its logits.
cudaError_t PrepareGradients(const KernelContext& ctx, int64_t bound,
                             Head& head, RowsArgs& rows) {
  const Operand& dx = ctx.out(3);
  head.bf16_dx = head.bf16 && dx.element_size == 2;
  head.round_dx = !head.bf16 && dx.element_size == 2;
  head.dx = head.round_dx
                ? reinterpret_cast<char*>(ctx.Take<float>(bound * head.d))
                : dx.as<char>();
  head.dw = ctx.out(4).as<float>();
  auto* const share = ctx.Take<float>(1);
  auto* const ones = ctx.Take<float>(2);
  if (head.dx == nullptr || share == nullptr || ones == nullptr) {
    return cudaErrorMemoryAllocation;
  }
  head.ones = ones;
  rows.share = share;
  OnesKernel<<<1, 1, 0, ctx.stream>>>(ones);
  if (bound == 0) {
    if (const cudaError_t e = cudaMemsetAsync(
            head.dw, 0, head.vocab * head.d * sizeof(float), ctx.stream)) {
      return e;
    }
  }
  return ShareOfTarget(ctx.in(2), ctx.in(3).as<float>(), share, ctx.stream);
}

cudaError_t RunHead(const KernelContext& ctx, bool gradients) {
  const Operand& x = ctx.in(0);
  const Operand& target = ctx.in(2);
  const int64_t bound = x.dim(0);
  const int64_t chunk = std::min(bound, ctx.Int("chunk_rows"));
  Head head;
  head.bf16 = ctx.precision == Precision::kBf16;
  head.d = x.dim(1);
  head.vocab = ctx.in(1).dim(0);
  const cudaError_t converted =
      head.bf16 ? Convert(Rounded, ctx, head) : Convert(Widened, ctx, head);
  if (converted != cudaSuccess) return converted;
  head.logits = ctx.Take<float>(chunk * head.vocab);
  if (head.logits == nullptr) return cudaErrorMemoryAllocation;
  RowsArgs rows;
  if (gradients) {
    if (const cudaError_t e = PrepareGradients(ctx, bound, head, rows)) {
      return e;
    }
  }
  rows.rows = x.rows();
  rows.vocab = head.vocab;
  rows.logits = head.logits;
  rows.target = target.as<int32_t>();
  rows.nll = ctx.out(1).as<float>();
  rows.hit = ctx.out(2).as<uint8_t>();
  rows.fault = ctx.fault;
  for (int64_t first = 0; first < bound; first += chunk) {
    rows.first = first;
    rows.bound = std::min(chunk, bound - first);
    if (const cudaError_t e = head.MakeLogits(ctx, first, rows.bound)) return e;
    const auto blocks = static_cast<unsigned>(std::min(rows.bound, kMaxBlocks));
    if (head.bf16) {
      LossRowsKernel<__nv_bfloat16><<<blocks, kBlock, 0, ctx.stream>>>(rows);
    } else {
      LossRowsKernel<float><<<blocks, kBlock, 0, ctx.stream>>>(rows);
    }
    if (const cudaError_t e = cudaGetLastError()) return e;
    if (!gradients) continue;
    if (const cudaError_t e = head.MakeInputGrad(ctx, first, rows.bound)) {
      return e;
    }
    if (const cudaError_t e = head.AddWeightGrad(ctx, first, rows.bound)) {
      return e;
    }
  }
  if (head.round_dx) {
    if (const cudaError_t e =
            StoreRounded(ctx, reinterpret_cast<float*>(head.dx), ctx.out(3))) {
      return e;
    }
  }
  return MeanLoss(target, rows.nll, ctx.out(0).as<float>(), ctx.stream);
}

cudaError_t RunHeadLoss(const KernelContext& ctx) {
  return RunHead(ctx, /*gradients=*/true);
}

cudaError_t RunHeadScore(const KernelContext& ctx) {
  return RunHead(ctx, /*gradients=*/false);
}

}  // namespace

void RegisterHeadLossKernels(KernelRegistry& kernels) {
  kernels.Register("HeadLoss", RunHeadLoss);
  kernels.Register("HeadScore", RunHeadScore);
}

}  // namespace strata::gpu
