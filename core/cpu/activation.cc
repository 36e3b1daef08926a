#include "core/cpu/activation.h"

#include <cstdint>

#include "absl/status/status.h"
#include "core/cpu/gate_rows.h"
#include "core/cpu/row_chunks.h"
#include "core/cpu/vector_math.h"
#include "core/ops/activation.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

template <typename T>
absl::Status RunSwiGlu(const KernelContext& ctx) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const int64_t r = ctx.out(0).dim(0), n = ctx.out(0).dim(1);
  const T* const h = ctx.in(0).as<T>();  // [r, 2n]
  T* const y = ctx.out(0).as<T>();       // [r, n]
  ForRowChunks(ctx.pool, r, n, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* const gate = h + i * 2 * n;
      vec.swiglu(gate, gate + n, n, y + i * n);
    }
  });
  return absl::OkStatus();
}

template <typename T>
absl::Status RunSwiGluGrad(const KernelContext& ctx) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const int64_t r = ctx.in(0).dim(0), n = ctx.in(0).dim(1);
  const T* const dy = ctx.in(0).as<T>();  // [r, n]
  const T* const h = ctx.in(1).as<T>();   // [r, 2n]
  T* const dh = ctx.out(0).as<T>();       // [r, 2n]
  ForRowChunks(ctx.pool, r, n, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* const gate = h + i * 2 * n;
      T* const dgate = dh + i * 2 * n;
      vec.swiglu_grad(dy + i * n, gate, gate + n, n, dgate, dgate + n);
    }
  });
  return absl::OkStatus();
}

template <typename T>
absl::Status RunSigmoid(const KernelContext& ctx) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const T* const x = ctx.in(0).as<T>();
  T* const y = ctx.out(0).as<T>();
  ForElementChunks(ctx.pool, ctx.in(0).num_elements(),
                   [&](int64_t begin, int64_t end) {
                     vec.sigmoid(x + begin, end - begin, y + begin);
                   });
  return absl::OkStatus();
}

template <typename T>
absl::Status RunSigmoidGrad(const KernelContext& ctx) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const T* const dy = ctx.in(0).as<T>();
  const T* const y = ctx.in(1).as<T>();
  T* const dx = ctx.out(0).as<T>();
  ForElementChunks(
      ctx.pool, ctx.in(0).num_elements(), [&](int64_t begin, int64_t end) {
        vec.sigmoid_grad(dy + begin, y + begin, end - begin, dx + begin);
      });
  return absl::OkStatus();
}

template <typename T>
absl::Status RunMaskedSoftmax(const KernelContext& ctx) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const int64_t t = ctx.in(0).dim(0), n = ctx.in(0).dim(1);
  const T* const x = ctx.in(0).as<T>();  // [t, n]
  const uint8_t* const mask =
      ctx.has(1) ? ctx.in(1).as<uint8_t>() : nullptr;  // [t, n]
  T* const y = ctx.out(0).as<T>();                     // [t, n]
  const T scale = static_cast<T>(ctx.attrs().Float("scale"));
  ForRowChunks(ctx.pool, t, n, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* from = x + i * n;
      if (mask != nullptr) {
        KeepMasked(from, mask + i * n, n, y + i * n);
        from = y + i * n;
      }
      vec.softmax(from, scale, n, y + i * n);
    }
  });
  return absl::OkStatus();
}

// Masked columns have y = 0, so their gradient is 0 without the mask.
template <typename T>
absl::Status RunMaskedSoftmaxGrad(const KernelContext& ctx) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const int64_t t = ctx.in(0).dim(0), n = ctx.in(0).dim(1);
  const T* const dy = ctx.in(0).as<T>();  // [t, n]
  const T* const y = ctx.in(1).as<T>();   // [t, n]
  T* const dx = ctx.out(0).as<T>();       // [t, n]
  const T scale = static_cast<T>(ctx.attrs().Float("scale"));
  ForRowChunks(ctx.pool, t, n, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * n; i < end * n; i += n) {
      const T delta = vec.dot(dy + i, y + i, n);
      vec.softmax_grad(dy + i, y + i, delta, scale, n, dx + i);
    }
  });
  return absl::OkStatus();
}

}  // namespace

void RegisterActivationKernels(KernelRegistry& kernels) {
  kernels.Register(kSwiGlu, DType::kF32, RunSwiGlu<float>);
  kernels.Register(kSwiGlu, DType::kF64, RunSwiGlu<double>);
  kernels.Register(kSwiGluGrad, DType::kF32, RunSwiGluGrad<float>);
  kernels.Register(kSwiGluGrad, DType::kF64, RunSwiGluGrad<double>);
  kernels.Register(kSigmoid, DType::kF32, RunSigmoid<float>);
  kernels.Register(kSigmoid, DType::kF64, RunSigmoid<double>);
  kernels.Register(kSigmoidGrad, DType::kF32, RunSigmoidGrad<float>);
  kernels.Register(kSigmoidGrad, DType::kF64, RunSigmoidGrad<double>);
  kernels.Register(kMaskedSoftmax, DType::kF32, RunMaskedSoftmax<float>);
  kernels.Register(kMaskedSoftmax, DType::kF64, RunMaskedSoftmax<double>);
  kernels.Register(kMaskedSoftmaxGrad, DType::kF32,
                   RunMaskedSoftmaxGrad<float>);
  kernels.Register(kMaskedSoftmaxGrad, DType::kF64,
                   RunMaskedSoftmaxGrad<double>);
}

}  // namespace strata
