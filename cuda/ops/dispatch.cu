#include <cstdint>

#include "cuda/ops/bf16/rows.h"
#include "cuda/ops/bf16/with_type.h"
#include "cuda/ops/device.cuh"
#include "cuda/ops/dispatch.h"
#include "cuda/ops/dispatch_plan.h"
#include "cuda/ops/tier_gate.h"
#include "cuda/ops/vector16.cuh"
#include "cuda/runtime/kernel.h"

namespace strata::gpu {
namespace {

cudaError_t RunDispatchPlan(const KernelContext& ctx) {
  const Operand& expert = ctx.in(0);
  DispatchPlanArgs args;
  args.tokens = expert.rows();
  args.k = static_cast<int>(expert.dim(1));
  args.num_experts = static_cast<int>(ctx.Int("num_experts"));
  if (args.num_experts > kMaxPlannedExperts) {
    return ctx.Refuse("more than 1024 experts");
  }
  args.expert = expert.as<int32_t>();
  args.row_slot = ctx.out(0).as<int32_t>();
  args.slot_row = ctx.out(1).as<int32_t>();
  args.offset = ctx.out(2).as<int32_t>();
  args.rows = ctx.out(3).as<int32_t>();
  args.fault = ctx.fault;
  const auto* const counts = ctx.KeptByMaker<uint16_t>(0, kSlotCounts);
  if (counts != nullptr && args.num_experts <= kMaxGateExperts) {
    SlotCounts of_gate;
    of_gate.tile_slots = GateTileTokens(expert.dim(0)) * args.k;
    of_gate.tiles = GateTiles(expert.dim(0));
    of_gate.count = counts;
    if (HasPlanFromCounts(of_gate)) {
      return PlanDispatchFrom(of_gate, args, ctx.stream);
    }
  }
  args.scratch = ctx.Take<int32_t>(DispatchPlanScratch(args));
  if (args.scratch == nullptr) return cudaErrorMemoryAllocation;
  return PlanDispatch(args, ctx.stream);
}

// --- Rows ---

// Calls fn(c) for the vectors, or columns, of a row that are this lane's.
template <typename Fn>
__device__ __forceinline__ void ForColumns(int64_t n, Fn fn) {
  for (int64_t c = Lane(); c < n; c += kWarp) fn(c);
}

__device__ __forceinline__ float4 operator*(float a, float4 x) {
  return {a * x.x, a * x.y, a * x.z, a * x.w};
}
__device__ __forceinline__ void AddTo(float4& sum, float a, float4 x) {
  sum = {fmaf(a, x.x, sum.x), fmaf(a, x.y, sum.y), fmaf(a, x.z, sum.z),
         fmaf(a, x.w, sum.w)};
}
__device__ __forceinline__ void AddTo(float& sum, float a, float x) {
  sum = fmaf(a, x, sum);
}
__device__ __forceinline__ float Dot(float4 x, float4 y) {
  return fmaf(x.w, y.w, fmaf(x.z, y.z, fmaf(x.y, y.y, x.x * y.x)));
}
__device__ __forceinline__ float Dot(float x, float y) { return x * y; }

// out[r] = weight[row_slot[r]] * x[row_slot[r] / k], a warp a row. V is float4
// where rows are whole vectors, and `n` counts V.
template <typename V>
__global__ void __launch_bounds__(kBlock)
    DispatchRowsKernel(Extent rows, int64_t n, int64_t k, const V* x,
                       const int32_t* row_slot, const float* weight, V* out) {
  const int64_t count = rows.Get();
  for (int64_t r = FirstRow(); r < count; r += RowStride()) {
    const int32_t slot = row_slot[r];
    const V* const from = x + slot / k * n;
    V* const to = out + r * n;
    if (weight == nullptr) {
      ForColumns(n, [&](int64_t c) { to[c] = from[c]; });
    } else {
      const float w = weight[slot];
      ForColumns(n, [&](int64_t c) { to[c] = w * from[c]; });
    }
  }
}

// out[i] = sum over j, in order, of weight[i, j] * y[slot_row[i, j]], then a[i]
// and b[i] if they are there.
template <typename V>
__global__ void __launch_bounds__(kBlock)
    CombineRowsKernel(Extent tokens, int64_t n, int64_t k, const V* y,
                      const int32_t* slot_row, const float* weight, const V* a,
                      const V* b, V* out) {
  const int64_t t = tokens.Get();
  for (int64_t i = FirstRow(); i < t; i += RowStride()) {
    ForColumns(n, [&](int64_t c) {
      V sum = {};
      for (int64_t s = i * k; s < (i + 1) * k; ++s) {
        const int64_t row = slot_row[s];
        if (row < 0) continue;
        AddTo(sum, weight != nullptr ? weight[s] : 1.f, y[row * n + c]);
      }
      if (a != nullptr) AddTo(sum, 1.f, a[i * n + c]);
      if (b != nullptr) AddTo(sum, 1.f, b[i * n + c]);
      out[i * n + c] = sum;
    });
  }
}

// dweight[s] = dot(dout[s / k], y[slot_row[s]]), a warp a slot.
template <typename V>
__global__ void __launch_bounds__(kBlock)
    RowDotKernel(Extent tokens, int64_t n, int64_t k, const V* dout, const V* y,
                 const int32_t* slot_row, float* dweight) {
  const int64_t slots = tokens.Get() * k;
  for (int64_t s = FirstRow(); s < slots; s += RowStride()) {
    const int64_t row = slot_row[s];
    float sum = 0;
    if (row >= 0) {
      ForColumns(n, [&](int64_t c) {
        sum += Dot(dout[s / k * n + c], y[row * n + c]);
      });
    }
    sum = WarpSum(sum);
    if (Lane() == 0) dweight[s] = row >= 0 ? sum : 0.f;
  }
}

template <typename V>
__global__ void __launch_bounds__(kBlock)
    GatherRowsKernel(Extent rows, Extent from_rows, int64_t n, const V* x,
                     const int32_t* index, V* out, FaultSink fault) {
  const int64_t elements = rows.Get() * n, t = from_rows.Get();
  for (int64_t i = FirstElement(); i < elements; i += ElementStride()) {
    const int64_t row = i / n, c = i % n, from = index[row];
    if (from >= 0 && from < t) {
      out[i] = x[from * n + c];
    } else if (c == 0) {
      fault.Report(FaultKind::kRowIndex, row, from, t);
    }
  }
}

// out [t, n] = x, or zeros without it.
template <typename V>
__global__ void __launch_bounds__(kBlock)
    CopyRowsKernel(Extent rows, int64_t n, const V* x, V* out) {
  const int64_t size = rows.Get() * n;
  for (int64_t i = FirstElement(); i < size; i += ElementStride()) {
    out[i] = x != nullptr ? x[i] : V{};
  }
}

// Adds y[i] to row index[i] of out; an index names a row at most once.
template <typename V>
__global__ void __launch_bounds__(kBlock)
    AddAtRowsKernel(Extent rows, Extent to_rows, int64_t n, const V* y,
                    const int32_t* index, V* out, FaultSink fault) {
  const int64_t count = rows.Get(), t = to_rows.Get();
  for (int64_t i = FirstRow(); i < count; i += RowStride()) {
    const int64_t to = index[i];
    if (to < 0 || to >= t) {
      if (Lane() == 0) fault.Report(FaultKind::kRowIndex, i, to, t);
      continue;
    }
    ForColumns(n,
               [&](int64_t c) { AddTo(out[to * n + c], 1.f, y[i * n + c]); });
  }
}

// Calls launch(a null V*, columns in V) with V float4 where rows are whole
// vectors. Whole tensors are aligned.
template <typename Launch>
cudaError_t WithVectors(int64_t columns, Launch launch) {
  if (columns % 4 == 0) {
    launch(static_cast<float4*>(nullptr), columns / 4);
  } else {
    launch(static_cast<float*>(nullptr), columns);
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t RunDispatchRows(const KernelContext& ctx) {
  if (HasBf16(ctx)) return DispatchMixedRows(ctx);
  const Operand& out = ctx.out(0);
  const float* const weight = ctx.has(3) ? ctx.in(3).as<float>() : nullptr;
  return WithVectors(out.dim(1), [&](auto* v, int64_t n) {
    using V = std::remove_pointer_t<decltype(v)>;
    DispatchRowsKernel<V><<<BlocksForRows(out.dim(0)), kBlock, 0, ctx.stream>>>(
        ctx.in(1).rows(), n, ctx.in(2).dim(1), ctx.in(0).as<V>(),
        ctx.in(1).as<int32_t>(), weight, out.as<V>());
  });
}

cudaError_t RunCombineRows(const KernelContext& ctx) {
  if (HasBf16(ctx)) return CombineMixedRows(ctx);
  const Operand& out = ctx.out(0);
  const Operand& slot_row = ctx.in(2);
  const float* const weight = ctx.has(3) ? ctx.in(3).as<float>() : nullptr;
  constexpr int kAdd = 4;  // kCombineRowsAdd of core/ops/dispatch.h
  const auto added = [&](int i, auto* v) {
    return ctx.has(i) ? ctx.in(i).as<std::remove_pointer_t<decltype(v)>>()
                      : nullptr;
  };
  return WithVectors(out.dim(1), [&](auto* v, int64_t n) {
    using V = std::remove_pointer_t<decltype(v)>;
    CombineRowsKernel<V><<<BlocksForRows(out.dim(0)), kBlock, 0, ctx.stream>>>(
        slot_row.rows(), n, slot_row.dim(1), ctx.in(0).as<V>(),
        slot_row.as<int32_t>(), weight, added(kAdd, v), added(kAdd + 1, v),
        out.as<V>());
  });
}

namespace {

cudaError_t RunRowDot(const KernelContext& ctx) {
  if (HasBf16(ctx)) return RowDotMixed(ctx);
  const Operand& dout = ctx.in(0);
  const Operand& slot_row = ctx.in(2);
  return WithVectors(dout.dim(1), [&](auto* v, int64_t n) {
    using V = std::remove_pointer_t<decltype(v)>;
    RowDotKernel<V>
        <<<BlocksForRows(slot_row.max_elements()), kBlock, 0, ctx.stream>>>(
            slot_row.rows(), n, slot_row.dim(1), dout.as<V>(),
            ctx.in(1).as<V>(), slot_row.as<int32_t>(), ctx.out(0).as<float>());
  });
}

// --- Rows by index ---

constexpr int kChunk = 1024;  // Threads of a block that goes in order.
constexpr int kChunkWarps = kChunk / kWarp;

// By one block: 1024 tokens at a time, each behind those that stay before it.
__global__ void __launch_bounds__(kChunk)
    CompactRowsKernel(Extent tokens, const int32_t* index, const uint8_t* stay,
                      int32_t* out, int32_t* count) {
  __shared__ int32_t warp_count[kChunkWarps];
  const int64_t t = tokens.Get();
  const int warp = threadIdx.x / kWarp;
  int32_t total = 0;
  for (int64_t first = 0; first < t; first += kChunk) {
    const int64_t i = first + threadIdx.x;
    const bool stays = i < t && stay[i] != 0;
    const unsigned staying = __ballot_sync(kWholeWarp, stays);
    if (Lane() == 0) warp_count[warp] = __popc(staying);
    __syncthreads();
    int32_t at = total + __popc(staying & ((1u << Lane()) - 1));
    for (int w = 0; w < kChunkWarps; ++w) {
      if (w < warp) at += warp_count[w];
      total += warp_count[w];
    }
    if (stays) out[at] = index != nullptr ? index[i] : static_cast<int32_t>(i);
    __syncthreads();
  }
  if (threadIdx.x == 0) *count = total;
}

cudaError_t RunCompactRows(const KernelContext& ctx) {
  const Operand& stay = ctx.in(1);
  CompactRowsKernel<<<1, kChunk, 0, ctx.stream>>>(
      stay.rows(), ctx.has(0) ? ctx.in(0).as<int32_t>() : nullptr,
      stay.as<uint8_t>(), ctx.out(0).as<int32_t>(), ctx.out(1).as<int32_t>());
  return cudaGetLastError();
}

cudaError_t RunGatherRows(const KernelContext& ctx) {
  const Operand& x = ctx.in(0);
  const Operand& index = ctx.in(1);
  return WithVectors(x.dim(1), [&](auto* v, int64_t n) {
    using V = std::remove_pointer_t<decltype(v)>;
    GatherRowsKernel<V><<<BlocksFor(index.dim(0) * n), kBlock, 0, ctx.stream>>>(
        index.rows(), x.rows(), n, x.as<V>(), index.as<int32_t>(),
        ctx.out(0).as<V>(), ctx.fault);
  });
}

cudaError_t AddAtRows(const KernelContext& ctx, const float* x,
                      const Operand& y, const Operand& index) {
  const Operand& out = ctx.out(0);
  return WithVectors(out.dim(1), [&](auto* v, int64_t n) {
    using V = std::remove_pointer_t<decltype(v)>;
    CopyRowsKernel<V><<<BlocksFor(out.dim(0) * n), kBlock, 0, ctx.stream>>>(
        out.rows(), n, reinterpret_cast<const V*>(x), out.as<V>());
    AddAtRowsKernel<V><<<BlocksForRows(index.dim(0)), kBlock, 0, ctx.stream>>>(
        index.rows(), out.rows(), n, y.as<V>(), index.as<int32_t>(),
        out.as<V>(), ctx.fault);
  });
}

cudaError_t RunScatterRows(const KernelContext& ctx) {
  return AddAtRows(ctx, nullptr, ctx.in(0), ctx.in(1));
}

}  // namespace

cudaError_t RunAddRows(const KernelContext& ctx) {
  return AddAtRows(ctx, ctx.in(0).as<float>(), ctx.in(1), ctx.in(2));
}

void RegisterDispatchKernels(KernelRegistry& kernels) {
  kernels.Register("DispatchPlan", RunDispatchPlan);
  kernels.Register("DispatchRows", RunDispatchRows);
  kernels.Register("CombineRows", RunCombineRows);
  kernels.Register("RowDot", RunRowDot);
  kernels.Register("CompactRows", RunCompactRows);
  kernels.Register("GatherRows", RunGatherRows);
  kernels.Register("ScatterRows", RunScatterRows);
  kernels.Register("AddRows", RunAddRows);
}

}  // namespace strata::gpu
