#include "core/cpu/latent_key_value.h"

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "core/cpu/row_chunks.h"
#include "core/cpu/vector_math.h"
#include "core/ops/attention.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

template <typename T>
absl::Status RunLatentKeyValue(const KernelContext& ctx) {
  const int64_t t = ctx.in(0).dim(0), rope = ctx.in(1).dim(1);
  const int64_t num_heads = ctx.attrs().Int("num_heads");
  const int64_t nope = ctx.attrs().Int("nope");
  const int64_t value = ctx.attrs().Int("value");
  const T* const kv = ctx.in(0).as<T>();      // [t, heads * (nope + value)]
  const T* const k_rope = ctx.in(1).as<T>();  // [t, rope]
  T* const k = ctx.out(0).as<T>();            // [t, heads * (nope + rope)]
  T* const v = ctx.out(1).as<T>();            // [t, heads * value]
  const int64_t columns = num_heads * (nope + value);
  ForRowChunks(ctx.pool, t, columns, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin * num_heads; row < end * num_heads; ++row) {
      const T* const from = kv + row * (nope + value);
      T* const key = k + row * (nope + rope);
      std::copy_n(from, nope, key);
      std::copy_n(k_rope + row / num_heads * rope, rope, key + nope);
      std::copy_n(from + nope, value, v + row * value);
    }
  });
  return absl::OkStatus();
}

// An absent gradient of k or v counts as zero.
template <typename T>
absl::Status RunLatentKeyValueGrad(const KernelContext& ctx) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const int64_t t = ctx.out(0).dim(0), rope = ctx.out(1).dim(1);
  const int64_t num_heads = ctx.attrs().Int("num_heads");
  const int64_t nope = ctx.attrs().Int("nope");
  const int64_t value = ctx.attrs().Int("value");
  // [t, heads * (nope + rope)], [t, heads * value]
  const T* const dk = ctx.has(0) ? ctx.in(0).as<T>() : nullptr;
  const T* const dv = ctx.has(1) ? ctx.in(1).as<T>() : nullptr;
  T* const dkv = ctx.out(0).as<T>();      // [t, heads * (nope + value)]
  T* const dk_rope = ctx.out(1).as<T>();  // [t, rope]
  const auto copy_or_zero = [](const T* from, int64_t at, int64_t n, T* to) {
    if (from == nullptr) {
      std::fill_n(to, n, T{0});
    } else {
      std::copy_n(from + at, n, to);
    }
  };
  const int64_t columns = num_heads * (nope + value);
  ForRowChunks(ctx.pool, t, columns, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T* const sum = dk_rope + i * rope;
      std::fill_n(sum, rope, T{0});
      for (int64_t row = i * num_heads; row < (i + 1) * num_heads; ++row) {
        const int64_t key = row * (nope + rope);
        T* const to = dkv + row * (nope + value);
        copy_or_zero(dk, key, nope, to);
        copy_or_zero(dv, row * value, value, to + nope);
        if (dk != nullptr) vec.add(sum, dk + key + nope, rope, sum);
      }
    }
  });
  return absl::OkStatus();
}

}  // namespace

void RegisterLatentKeyValueKernels(KernelRegistry& kernels) {
  kernels.Register(kLatentKeyValue, DType::kF32, RunLatentKeyValue<float>);
  kernels.Register(kLatentKeyValue, DType::kF64, RunLatentKeyValue<double>);
  kernels.Register(kLatentKeyValueGrad, DType::kF32,
                   RunLatentKeyValueGrad<float>);
  kernels.Register(kLatentKeyValueGrad, DType::kF64,
                   RunLatentKeyValueGrad<double>);
}

}  // namespace strata
