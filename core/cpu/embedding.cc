#include "core/cpu/embedding.h"

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/cpu/bf16_product.h"
#include "core/cpu/row_chunks.h"
#include "core/cpu/vector_math.h"
#include "core/ops/embedding.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

// Columns of the table's gradient that one piece of work adds up, over all
// tokens and in their order.
constexpr int64_t kGradColumns = 64;

absl::Status CheckIds(const int32_t* ids, int64_t t, int64_t vocab) {
  for (int64_t i = 0; i < t; ++i) {
    if (ids[i] >= 0 && ids[i] < vocab) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "token ", i, " has id ", ids[i], "; want 0 to ", vocab - 1));
  }
  return absl::OkStatus();
}

template <typename T>
absl::Status RunEmbedding(const KernelContext& ctx) {
  const T* const table = ctx.in(0).as<T>();            // [vocab, d]
  const int32_t* const ids = ctx.in(1).as<int32_t>();  // [t]
  T* const rows = ctx.out(0).as<T>();                  // [t, d]
  const int64_t t = ctx.in(1).dim(0), d = ctx.in(0).dim(1);
  RETURN_IF_ERROR(CheckIds(ids, t, ctx.in(0).dim(0)));
  ForRowChunks(ctx.pool, t, d, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::copy_n(table + ids[i] * d, d, rows + i * d);
    }
  });
  return absl::OkStatus();
}

absl::Status RunNarrowEmbedding(const KernelContext& ctx) {
  const Bf16Product& bf16 = Bf16Product::Get();
  const BFloat16* const table = ctx.in(0).as<BFloat16>();  // [vocab, d]
  const int32_t* const ids = ctx.in(1).as<int32_t>();      // [t]
  float* const rows = ctx.out(0).as<float>();              // [t, d]
  const int64_t t = ctx.in(1).dim(0), d = ctx.in(0).dim(1);
  RETURN_IF_ERROR(CheckIds(ids, t, ctx.in(0).dim(0)));
  ForRowChunks(ctx.pool, t, d, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      bf16.widen(table + ids[i] * d, d, rows + i * d);
    }
  });
  return absl::OkStatus();
}

template <typename T>
absl::Status RunEmbeddingGrad(const KernelContext& ctx) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const T* const drows = ctx.in(0).as<T>();            // [t, d]
  const int32_t* const ids = ctx.in(1).as<int32_t>();  // [t]
  T* const dtable = ctx.out(0).as<T>();                // [vocab, d]
  const int64_t t = ctx.in(1).dim(0), d = ctx.in(0).dim(1);
  const int64_t vocab = ctx.out(0).dim(0);
  RETURN_IF_ERROR(CheckIds(ids, t, vocab));
  ForElementChunks(ctx.pool, vocab * d, [&](int64_t begin, int64_t end) {
    std::fill(dtable + begin, dtable + end, T{0});
  });
  ctx.pool.ParallelFor((d + kGradColumns - 1) / kGradColumns, [&](int64_t s) {
    const int64_t column = s * kGradColumns;
    const int64_t width = std::min(kGradColumns, d - column);
    for (int64_t i = 0; i < t; ++i) {
      T* const sum = dtable + ids[i] * d + column;
      vec.add(sum, drows + i * d + column, width, sum);
    }
  });
  return absl::OkStatus();
}

}  // namespace

void RegisterEmbeddingKernels(KernelRegistry& kernels) {
  kernels.Register(kEmbedding, DType::kF32, RunEmbedding<float>);
  kernels.Register(kEmbedding, DType::kF64, RunEmbedding<double>);
  kernels.Register(kEmbedding, DType::kBF16, RunNarrowEmbedding);
  kernels.Register(kEmbeddingGrad, DType::kF32, RunEmbeddingGrad<float>);
  kernels.Register(kEmbeddingGrad, DType::kF64, RunEmbeddingGrad<double>);
}

}  // namespace strata
