#include "core/cpu/loss.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/cpu/row_chunks.h"
#include "core/cpu/vector_math.h"
#include "core/ops/loss.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

template <typename T>
absl::Status RunCrossEntropy(const KernelContext& ctx) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const int64_t t = ctx.in(0).dim(0), vocab = ctx.in(0).dim(1);
  const T* const logits = ctx.in(0).as<T>();              // [t, vocab]
  const int32_t* const target = ctx.in(1).as<int32_t>();  // [t]
  T* const nll = ctx.out(1).as<T>();                      // [t]
  T* const lse = ctx.out(2).as<T>();                      // [t]
  uint8_t* const hit = ctx.out(3).as<uint8_t>();          // [t]
  ASSIGN_OR_RETURN(const int64_t count, CountTargets(target, t, vocab));
  ForRowChunks(ctx.pool, t, vocab, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* const row = logits + i * vocab;
      const T max = vec.max(row, vocab);
      lse[i] = max + std::log(vec.sum_exp(row, 1, max, vocab));
      nll[i] = target[i] < 0 ? T{0} : lse[i] - row[target[i]];
      hit[i] =
          target[i] >= 0 && std::find(row, row + vocab, max) == row + target[i];
    }
  });
  double sum = 0;
  for (int64_t i = 0; i < t; ++i) sum += nll[i];
  *ctx.out(0).as<T>() =
      static_cast<T>(sum / static_cast<double>(std::max<int64_t>(1, count)));
  return absl::OkStatus();
}

template <typename T>
absl::Status RunCrossEntropyGrad(const KernelContext& ctx) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const int64_t t = ctx.in(1).dim(0), vocab = ctx.in(1).dim(1);
  const T dloss = *ctx.in(0).as<T>();
  const T* const logits = ctx.in(1).as<T>();              // [t, vocab]
  const int32_t* const target = ctx.in(2).as<int32_t>();  // [t]
  const T* const lse = ctx.in(3).as<T>();                 // [t]
  T* const dlogits = ctx.out(0).as<T>();                  // [t, vocab]
  ASSIGN_OR_RETURN(const int64_t count, CountTargets(target, t, vocab));
  const T share = dloss / static_cast<T>(std::max<int64_t>(1, count));
  ForRowChunks(ctx.pool, t, vocab, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T* const row = dlogits + i * vocab;
      if (target[i] < 0) {
        std::fill_n(row, vocab, T{0});
      } else {
        vec.exp(logits + i * vocab, 1, lse[i], share, vocab, row);
        row[target[i]] -= share;
      }
    }
  });
  return absl::OkStatus();
}

absl::Status RunNextTarget(const KernelContext& ctx) {
  const int64_t t = ctx.in(0).dim(0), starts = ctx.in(1).dim(0);
  const int32_t* const target = ctx.in(0).as<int32_t>();     // [t]
  const int32_t* const seq_start = ctx.in(1).as<int32_t>();  // [n + 1]
  int32_t* const ids = ctx.out(0).as<int32_t>();             // [t]
  int32_t* const next = ctx.out(1).as<int32_t>();            // [t]
  for (int64_t i = 0; i < t; ++i) {
    ids[i] = std::max(target[i], 0);
    next[i] = target[i] < 0 || i + 1 == t ? -1 : target[i + 1];
  }
  // The last row of each sequence has none behind.
  for (int64_t s = 1; s < starts; ++s) {
    const int64_t last = int64_t{seq_start[s]} - 1;
    if (last >= 0 && last < t) next[last] = -1;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<int64_t> CountTargets(const int32_t* target, int64_t t,
                                     int64_t vocab) {
  int64_t count = 0;
  for (int64_t i = 0; i < t; ++i) {
    if (target[i] < -1 || target[i] >= vocab) {
      return absl::InvalidArgumentError(
          absl::StrCat("token ", i, " has target ", target[i],
                       "; want -1 (left out) to ", vocab - 1));
    }
    count += target[i] >= 0;
  }
  return count;
}

void RegisterLossKernels(KernelRegistry& kernels) {
  kernels.Register(kCrossEntropy, DType::kF32, RunCrossEntropy<float>);
  kernels.Register(kCrossEntropy, DType::kF64, RunCrossEntropy<double>);
  kernels.Register(kNextTarget, DType::kI32, RunNextTarget);
  kernels.Register(kCrossEntropyGrad, DType::kF32, RunCrossEntropyGrad<float>);
  kernels.Register(kCrossEntropyGrad, DType::kF64, RunCrossEntropyGrad<double>);
}

}  // namespace strata
