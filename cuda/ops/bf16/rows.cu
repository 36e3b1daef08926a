#include <cstdint>

#include "cuda/ops/bf16/eight.cuh"
#include "cuda/ops/bf16/either_rows.h"
#include "cuda/ops/bf16/rows.h"
#include "cuda/ops/bf16/with_type.h"
#include "cuda/ops/device.cuh"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

// A warp a row, eight columns a lane at a time. Bound by the rows' bytes.

namespace strata::gpu {
namespace {

// Calls fn(c) for the first of each eight columns that are this lane's.
template <typename Fn>
__device__ __forceinline__ void ForEights(int64_t n, Fn fn) {
#pragma unroll 4
  for (int64_t c = Lane() * 8; c < n; c += kWarp * 8) fn(c);
}

// out[r] = weight[row_slot[r]] * x[row_slot[r] / k].
template <typename X, typename Out>
__global__ void __launch_bounds__(kBlock)
    DispatchKernel(Extent rows, int64_t n, int k, const X* __restrict__ x,
                   const int32_t* row_slot, const float* weight,
                   Out* __restrict__ out) {
  const int64_t count = rows.Get();
  for (int64_t r = FirstRow(); r < count; r += RowStride()) {
    const int32_t slot = row_slot[r];
    const X* const from = x + int64_t{slot / k} * n;
    const float w = weight != nullptr ? weight[slot] : 1.f;
    ForEights(n, [&](int64_t c) {
      float e[8];
      Load8(from + c, e);
#pragma unroll
      for (float& value : e) value *= w;
      Store8(e, out + r * n + c);
    });
  }
}

// The same, a warp a token whose row stays in registers: experts' rows are far
// more than tokens, so that those read again for each, and in experts' order,
// would be half of what is moved and more. A lane has kEights of eight columns.
template <int kEights, typename X, typename Out>
__global__ void __launch_bounds__(kBlock)
    DispatchTokensKernel(Extent tokens, int64_t n, int k,
                         const X* __restrict__ x, const int32_t* slot_row,
                         const float* weight, Out* __restrict__ out) {
  const int64_t t = tokens.Get();
  for (int64_t i = FirstRow(); i < t; i += RowStride()) {
    float e[kEights][8];
#pragma unroll
    for (int m = 0; m < kEights; ++m) {
      const int64_t c = (m * kWarp + Lane()) * 8;
      if (c < n) Load8(x + i * n + c, e[m]);
    }
    for (int j = 0; j < k; ++j) {
      const int64_t slot = i * k + j, row = slot_row[slot];
      if (row < 0) continue;
      const float w = weight != nullptr ? weight[slot] : 1.f;
#pragma unroll
      for (int m = 0; m < kEights; ++m) {
        const int64_t c = (m * kWarp + Lane()) * 8;
        if (c >= n) continue;
        float scaled[8];
#pragma unroll
        for (int v = 0; v < 8; ++v) scaled[v] = w * e[m][v];
        Store8(scaled, out + row * n + c);
      }
    }
  }
}

__device__ __forceinline__ void AddEight(const EitherRows& rows, int64_t at,
                                         float (&sum)[8]) {
  float e[8];
  Load8(rows, at, e);
#pragma unroll
  for (int m = 0; m < 8; ++m) sum[m] += e[m];
}

// out[i] = sum over j, in order, of weight[i, j] * y[slot_row[i, j]], then a[i]
// and b[i] if they are there.
template <typename Y, typename Out>
__global__ void __launch_bounds__(kBlock)
    CombineKernel(Extent tokens, int64_t n, int k, const Y* __restrict__ y,
                  const int32_t* slot_row, const float* weight, EitherRows a,
                  EitherRows b, Out* __restrict__ out) {
  const int64_t t = tokens.Get();
  for (int64_t i = FirstRow(); i < t; i += RowStride()) {
    for (int64_t c = Lane() * 8; c < n; c += kWarp * 8) {
      float sum[8] = {};
#pragma unroll 8
      for (int j = 0; j < k; ++j) {
        const int64_t slot = i * k + j, row = slot_row[slot];
        const float w = row < 0 ? 0.f : weight != nullptr ? weight[slot] : 1.f;
        float e[8] = {};
        if (row >= 0) Load8(y + row * n + c, e);
#pragma unroll
        for (int m = 0; m < 8; ++m) sum[m] = fmaf(w, e[m], sum[m]);
      }
      if (a.data != nullptr) AddEight(a, i * n + c, sum);
      if (b.data != nullptr) AddEight(b, i * n + c, sum);
      Store8(sum, out + i * n + c);
    }
  }
}

// dweight[s] = dot(dout[s / k], y[slot_row[s]]), a warp a slot.
template <typename DOut, typename Y>
__global__ void __launch_bounds__(kBlock)
    DotKernel(Extent tokens, int64_t n, int k, const DOut* __restrict__ dout,
              const Y* __restrict__ y, const int32_t* slot_row,
              float* dweight) {
  const int64_t slots = tokens.Get() * k;
  for (int64_t s = FirstRow(); s < slots; s += RowStride()) {
    const int64_t row = slot_row[s];
    float sum = 0;
    if (row >= 0) {
      ForEights(n, [&](int64_t c) {
        float a[8], b[8];
        Load8(dout + s / k * n + c, a);
        Load8(y + row * n + c, b);
#pragma unroll
        for (int m = 0; m < 8; ++m) sum = fmaf(a[m], b[m], sum);
      });
    }
    sum = WarpSum(sum);
    if (Lane() == 0) dweight[s] = row >= 0 ? sum : 0.f;
  }
}

// h [r, 2n] = [gate | up] -> y [r, n] = silu(gate) * up
template <typename H, typename Y>
__global__ void __launch_bounds__(kBlock)
    GluKernel(Extent rows, int64_t n, const H* __restrict__ h,
              Y* __restrict__ y) {
  const int64_t count = rows.Get();
  for (int64_t r = FirstRow(); r < count; r += RowStride()) {
    ForEights(n, [&](int64_t c) {
      float gate[8], up[8];
      Load8(h + r * 2 * n + c, gate);
      Load8(h + r * 2 * n + n + c, up);
#pragma unroll
      for (int m = 0; m < 8; ++m) up[m] *= gate[m] * SigmoidOf(gate[m]);
      Store8(up, y + r * n + c);
    });
  }
}

template <typename DY, typename H, typename DH>
__global__ void __launch_bounds__(kBlock)
    GluGradKernel(Extent rows, int64_t n, const DY* __restrict__ dy,
                  const H* __restrict__ h, DH* __restrict__ dh) {
  const int64_t count = rows.Get();
  for (int64_t r = FirstRow(); r < count; r += RowStride()) {
    ForEights(n, [&](int64_t c) {
      float gate[8], up[8], d[8];
      Load8(h + r * 2 * n + c, gate);
      Load8(h + r * 2 * n + n + c, up);
      Load8(dy + r * n + c, d);
#pragma unroll
      for (int m = 0; m < 8; ++m) {
        const float s = SigmoidOf(gate[m]), g = gate[m];
        gate[m] = d[m] * up[m] * s * (1.f + g * (1.f - s));
        up[m] = d[m] * g * s;
      }
      Store8(gate, dh + r * 2 * n + c);
      Store8(up, dh + r * 2 * n + n + c);
    });
  }
}

// y = x + z, eight at a time: rows lie one behind the other.
template <typename X, typename Z, typename Y>
__global__ void __launch_bounds__(kBlock)
    AddKernel(Extent rows, int64_t n, const X* __restrict__ x,
              const Z* __restrict__ z, Y* __restrict__ y) {
  const int64_t count = rows.Get() * n;
  for (int64_t i = 8 * FirstElement(); i < count; i += 8 * ElementStride()) {
    float a[8], b[8];
    Load8(x + i, a);
    Load8(z + i, b);
#pragma unroll
    for (int m = 0; m < 8; ++m) a[m] += b[m];
    Store8(a, y + i);
  }
}

cudaError_t RefuseColumns(const KernelContext& ctx) {
  return ctx.Refuse("BF16 rows whose columns are no multiple of 8");
}

}  // namespace

cudaError_t DispatchMixedRows(const KernelContext& ctx) {
  const Operand& x = ctx.in(0);
  const Operand& out = ctx.out(0);
  const int64_t n = out.dim(1);
  if (n % 8 != 0) return RefuseColumns(ctx);
  const float* const weight = ctx.has(3) ? ctx.in(3).as<float>() : nullptr;
  WithType(x, [&](auto* x_type) {
    WithType(out, [&](auto* out_type) {
      using X = ElementOf<decltype(x_type)>;
      using Out = ElementOf<decltype(out_type)>;
      constexpr int kEights = 4;
      if (sizeof(X) >= sizeof(Out) && n <= kEights * kWarp * 8) {
        const Operand& slot_row = ctx.in(2);
        DispatchTokensKernel<kEights>
            <<<BlocksForRows(slot_row.dim(0)), kBlock, 0, ctx.stream>>>(
                slot_row.rows(), n, static_cast<int>(slot_row.dim(1)),
                x.as<X>(), slot_row.as<int32_t>(), weight, out.as<Out>());
        return;
      }
      DispatchKernel<<<BlocksForRows(out.dim(0)), kBlock, 0, ctx.stream>>>(
          ctx.in(1).rows(), n, static_cast<int>(ctx.in(2).dim(1)), x.as<X>(),
          ctx.in(1).as<int32_t>(), weight, out.as<Out>());
    });
  });
  return cudaGetLastError();
}

cudaError_t CombineMixedRows(const KernelContext& ctx) {
  constexpr int kAdd = 4;  // kCombineRowsAdd of core/ops/dispatch.h
  const Operand& y = ctx.in(0);
  const Operand& slot_row = ctx.in(2);
  const Operand& out = ctx.out(0);
  const int64_t n = out.dim(1);
  if (n % 8 != 0) return RefuseColumns(ctx);
  const float* const weight = ctx.has(3) ? ctx.in(3).as<float>() : nullptr;
  WithType(y, [&](auto* y_type) {
    WithType(out, [&](auto* out_type) {
      using Y = ElementOf<decltype(y_type)>;
      using Out = ElementOf<decltype(out_type)>;
      CombineKernel<<<BlocksForRows(out.dim(0)), kBlock, 0, ctx.stream>>>(
          slot_row.rows(), n, static_cast<int>(slot_row.dim(1)), y.as<Y>(),
          slot_row.as<int32_t>(), weight, EitherRowsIn(ctx, kAdd),
          EitherRowsIn(ctx, kAdd + 1), out.as<Out>());
    });
  });
  return cudaGetLastError();
}

cudaError_t RowDotMixed(const KernelContext& ctx) {
  const Operand& dout = ctx.in(0);
  const Operand& y = ctx.in(1);
  const Operand& slot_row = ctx.in(2);
  const int64_t n = dout.dim(1);
  if (n % 8 != 0) return RefuseColumns(ctx);
  WithType(dout, [&](auto* dout_type) {
    WithType(y, [&](auto* y_type) {
      using DOut = ElementOf<decltype(dout_type)>;
      using Y = ElementOf<decltype(y_type)>;
      DotKernel<<<BlocksForRows(slot_row.max_elements()), kBlock, 0,
                  ctx.stream>>>(slot_row.rows(), n,
                                static_cast<int>(slot_row.dim(1)),
                                dout.as<DOut>(), y.as<Y>(),
                                slot_row.as<int32_t>(), ctx.out(0).as<float>());
    });
  });
  return cudaGetLastError();
}

cudaError_t SwiGluMixed(const KernelContext& ctx) {
  const Operand& h = ctx.in(0);
  const Operand& y = ctx.out(0);
  if (y.dim(1) % 8 != 0) return RefuseColumns(ctx);
  WithType(h, [&](auto* h_type) {
    WithType(y, [&](auto* y_type) {
      GluKernel<<<BlocksForRows(y.dim(0)), kBlock, 0, ctx.stream>>>(
          h.rows(), y.dim(1), h.as<ElementOf<decltype(h_type)>>(),
          y.as<ElementOf<decltype(y_type)>>());
    });
  });
  return cudaGetLastError();
}

cudaError_t SwiGluGradMixed(const KernelContext& ctx) {
  const Operand& dy = ctx.in(0);
  const Operand& h = ctx.in(1);
  const Operand& dh = ctx.out(0);
  if (dy.dim(1) % 8 != 0) return RefuseColumns(ctx);
  WithType(dy, [&](auto* dy_type) {
    WithType(h, [&](auto* h_type) {
      WithType(dh, [&](auto* dh_type) {
        GluGradKernel<<<BlocksForRows(dy.dim(0)), kBlock, 0, ctx.stream>>>(
            dy.rows(), dy.dim(1), dy.as<ElementOf<decltype(dy_type)>>(),
            h.as<ElementOf<decltype(h_type)>>(),
            dh.as<ElementOf<decltype(dh_type)>>());
      });
    });
  });
  return cudaGetLastError();
}

cudaError_t AddMixed(const KernelContext& ctx) {
  const Operand& x = ctx.in(0);
  const Operand& z = ctx.in(1);
  const Operand& y = ctx.out(0);
  if (y.columns() % 8 != 0) return RefuseColumns(ctx);
  WithType(x, [&](auto* x_type) {
    WithType(z, [&](auto* z_type) {
      WithType(y, [&](auto* y_type) {
        AddKernel<<<BlocksFor(y.max_elements(), 8), kBlock, 0, ctx.stream>>>(
            y.rows(), y.columns(), x.as<ElementOf<decltype(x_type)>>(),
            z.as<ElementOf<decltype(z_type)>>(),
            y.as<ElementOf<decltype(y_type)>>());
      });
    });
  });
  return cudaGetLastError();
}

}  // namespace strata::gpu
