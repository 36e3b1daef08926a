#include "core/cpu/elementwise.h"

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "core/cpu/row_chunks.h"
#include "core/cpu/vector_math.h"
#include "core/ops/elementwise.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

template <typename T>
absl::Status RunAdd(const KernelContext& ctx) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const T* const x = ctx.in(0).as<T>();
  const T* const y = ctx.in(1).as<T>();
  T* const z = ctx.out(0).as<T>();
  ForElementChunks(ctx.pool, ctx.in(0).num_elements(),
                   [&](int64_t begin, int64_t end) {
                     vec.add(x + begin, y + begin, end - begin, z + begin);
                   });
  return absl::OkStatus();
}

template <typename T>
absl::Status RunAddBias(const KernelContext& ctx) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const int64_t t = ctx.in(0).dim(0), n = ctx.in(0).dim(1);
  const T* const x = ctx.in(0).as<T>();     // [t, n]
  const T* const bias = ctx.in(1).as<T>();  // [n]
  T* const y = ctx.out(0).as<T>();          // [t, n]
  ForRowChunks(ctx.pool, t, n, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      vec.add(x + i * n, bias, n, y + i * n);
    }
  });
  return absl::OkStatus();
}

// Each piece of work adds up some columns, row after row.
template <typename T>
absl::Status RunSumRows(const KernelContext& ctx) {
  constexpr int64_t kColumns = 256;
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const int64_t t = ctx.in(0).dim(0), n = ctx.in(0).dim(1);
  const T* const x = ctx.in(0).as<T>();  // [t, n]
  T* const y = ctx.out(0).as<T>();       // [n]
  ctx.pool.ParallelFor((n + kColumns - 1) / kColumns, [&](int64_t index) {
    const int64_t first = index * kColumns;
    const int64_t width = std::min(kColumns, n - first);
    std::fill_n(y + first, width, T{0});
    for (int64_t i = 0; i < t; ++i) {
      vec.add(y + first, x + i * n + first, width, y + first);
    }
  });
  return absl::OkStatus();
}

template <typename T>
absl::Status RunScale(const KernelContext& ctx) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const T factor = static_cast<T>(ctx.attrs().Float("factor"));
  const T* const x = ctx.in(0).as<T>();
  T* const y = ctx.out(0).as<T>();
  ForElementChunks(ctx.pool, ctx.in(0).num_elements(),
                   [&](int64_t begin, int64_t end) {
                     vec.scale(factor, x + begin, end - begin, y + begin);
                   });
  return absl::OkStatus();
}

template <typename T>
absl::Status RunFill(const KernelContext& ctx) {
  *ctx.out(0).as<T>() = static_cast<T>(ctx.attrs().Float("value"));
  return absl::OkStatus();
}

template <typename T>
absl::Status RunSliceColumns(const KernelContext& ctx) {
  const int64_t t = ctx.in(0).dim(0), n = ctx.in(0).dim(1);
  const int64_t width = ctx.out(0).dim(1);
  const T* const x = ctx.in(0).as<T>() + ctx.attrs().Int("begin");  // [t, n]
  T* const y = ctx.out(0).as<T>();  // [t, width]
  ForRowChunks(ctx.pool, t, width, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::copy_n(x + i * n, width, y + i * width);
    }
  });
  return absl::OkStatus();
}

template <typename T>
absl::Status RunPlaceColumns(const KernelContext& ctx) {
  const int64_t t = ctx.in(0).dim(0), width = ctx.in(0).dim(1);
  const int64_t n = ctx.out(0).dim(1);
  const int64_t first = ctx.attrs().Int("begin");
  const T* const x = ctx.in(0).as<T>();  // [t, width]
  T* const y = ctx.out(0).as<T>();       // [t, n]
  ForRowChunks(ctx.pool, t, n, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T* const row = y + i * n;
      std::fill_n(row, first, T{0});
      std::copy_n(x + i * width, width, row + first);
      std::fill(row + first + width, row + n, T{0});
    }
  });
  return absl::OkStatus();
}

}  // namespace

void RegisterElementwiseKernels(KernelRegistry& kernels) {
  kernels.Register(kAdd, DType::kF32, RunAdd<float>);
  kernels.Register(kAdd, DType::kF64, RunAdd<double>);
  kernels.Register(kAddBias, DType::kF32, RunAddBias<float>);
  kernels.Register(kAddBias, DType::kF64, RunAddBias<double>);
  kernels.Register(kSumRows, DType::kF32, RunSumRows<float>);
  kernels.Register(kSumRows, DType::kF64, RunSumRows<double>);
  kernels.Register(kScale, DType::kF32, RunScale<float>);
  kernels.Register(kScale, DType::kF64, RunScale<double>);
  kernels.Register(kFill, DType::kF32, RunFill<float>);
  kernels.Register(kFill, DType::kF64, RunFill<double>);
  kernels.Register(kSliceColumns, DType::kF32, RunSliceColumns<float>);
  kernels.Register(kSliceColumns, DType::kF64, RunSliceColumns<double>);
  kernels.Register(kPlaceColumns, DType::kF32, RunPlaceColumns<float>);
  kernels.Register(kPlaceColumns, DType::kF64, RunPlaceColumns<double>);
}

}  // namespace strata
