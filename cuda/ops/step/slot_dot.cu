#include <cstdint>

#include "cuda/ops/bf16/eight.cuh"
#include "cuda/ops/bf16/with_type.h"
#include "cuda/ops/device.cuh"
#include "cuda/ops/step/slot_dot.h"
#include "cuda/runtime/kernel.h"

namespace strata::gpu {
namespace {

// A warp a slot, eight columns a lane at a time. Bound by both rows' bytes.
template <typename D, typename H>
__global__ void __launch_bounds__(kBlock)
    SlotDotKernel(Extent tokens, int64_t k, int64_t f, const D* dh, const H* h,
                  const int32_t* slot_row, const float* weight,
                  float* dweight) {
  const int64_t slots = tokens.Get() * k;
  for (int64_t s = FirstRow(); s < slots; s += RowStride()) {
    const int64_t row = slot_row[s];
    float sum = 0;
    if (row >= 0 && weight[s] != 0) {
      const D* const a = dh + row * f;
      const H* const b = h + row * f;
      int64_t done = 0;
      if (f % 8 == 0) {
        for (int64_t j = Lane(); j < f / 8; j += kWarp) {
          float x[8], y[8];
          Load8(a + 8 * j, x);
          Load8(b + 8 * j, y);
#pragma unroll
          for (int i = 0; i < 8; ++i) sum = fmaf(x[i], y[i], sum);
        }
        done = f;
      }
      for (int64_t j = done + Lane(); j < f; j += kWarp) {
        sum = fmaf(static_cast<float>(a[j]), static_cast<float>(b[j]), sum);
      }
      sum = WarpSum(sum) / weight[s];
    }
    if (Lane() == 0) dweight[s] = sum;
  }
}

cudaError_t RunSlotDot(const KernelContext& ctx) {
  const Operand& dh = ctx.in(0);
  const Operand& h = ctx.in(1);
  const Operand& slot_row = ctx.in(2);
  if (slot_row.max_elements() == 0) return cudaSuccess;
  WithType(dh, [&](auto* dh_type) {
    WithType(h, [&](auto* h_type) {
      SlotDotKernel<<<BlocksForRows(slot_row.max_elements()), kBlock, 0,
                      ctx.stream>>>(
          slot_row.rows(), slot_row.dim(1), h.dim(1),
          dh.as<ElementOf<decltype(dh_type)>>(),
          h.as<ElementOf<decltype(h_type)>>(), slot_row.as<int32_t>(),
          ctx.in(3).as<float>(), ctx.out(0).as<float>());
    });
  });
  return cudaGetLastError();
}

}  // namespace

void RegisterSlotDotKernels(KernelRegistry& kernels) {
  kernels.Register("SlotDot", RunSlotDot);
}

}  // namespace strata::gpu
