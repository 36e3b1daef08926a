#include "core/cpu/fused/slot_dot.h"

#include <cstdint>

#include "absl/status/status.h"
#include "core/cpu/row_chunks.h"
#include "core/cpu/vector_math.h"
#include "core/ops/slot_dot.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

template <typename T>
absl::Status RunSlotDot(const KernelContext& ctx) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const int64_t f = ctx.in(0).dim(1);
  const T* const dh = ctx.in(0).as<T>();                    // [rows, f]
  const T* const h = ctx.in(1).as<T>();                     // [rows, f]
  const int32_t* const slot_row = ctx.in(2).as<int32_t>();  // [t, k]
  const T* const weight = ctx.in(3).as<T>();                // [t, k]
  T* const dweight = ctx.out(0).as<T>();                    // [t, k]
  const int64_t slots = ctx.in(2).num_elements();
  ForRowChunks(ctx.pool, slots, f, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      const int64_t row = slot_row[s];
      dweight[s] = row < 0 || weight[s] == 0
                       ? T{0}
                       : vec.dot(dh + row * f, h + row * f, f) / weight[s];
    }
  });
  return absl::OkStatus();
}

}  // namespace

void RegisterSlotDotKernels(KernelRegistry& kernels) {
  kernels.Register(kSlotDot, DType::kF32, RunSlotDot<float>);
  kernels.Register(kSlotDot, DType::kF64, RunSlotDot<double>);
}

}  // namespace strata
