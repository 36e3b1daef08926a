#include "core/cpu/gate_select.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>

#include "absl/status/status.h"
#include "core/cpu/gate_rows.h"
#include "core/cpu/row_chunks.h"
#include "core/cpu/vector_math.h"
#include "core/ops/gate_select.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

// --- Kernels ---

template <typename T>
absl::Status RunCoarseFilter(const KernelContext& ctx) {
  const TensorView& score = ctx.in(0);
  const int64_t experts = score.dim(1);
  const int64_t keep = ctx.attrs().Int("keep");
  const T* const in = score.as<T>();
  uint8_t* const out = ctx.out(0).as<uint8_t>();
  T* const scratch = ctx.scratch.Take<T>(ctx.pool.num_threads() * experts);
  T* const no_bias = ctx.scratch.Take<T>(experts);
  std::fill_n(no_bias, experts, T{0});
  const T* const bias = ctx.has(1) ? ctx.in(1).as<T>() : no_bias;
  const VectorMath<T>& vec = VectorMath<T>::Get();
  ForEachRow(ctx.pool, score.dim(0), experts, [&](int64_t i, int worker) {
    vec.keep_largest(in + i * experts, bias, experts, keep,
                     scratch + worker * experts, out + i * experts);
  });
  return absl::OkStatus();
}

template <typename T>
absl::Status RunAdaptiveSelect(const KernelContext& ctx) {
  const TensorView& p = ctx.in(0);
  const int64_t experts = p.dim(1);
  const double tau = ctx.has(3) ? static_cast<double>(*ctx.in(3).as<T>())
                                : ctx.attrs().Float("tau");
  const AdaptiveRow<T> row(ctx.attrs(), experts, tau);
  const T* const in = p.as<T>();
  const uint8_t* const mask = ctx.has(1) ? ctx.in(1).as<uint8_t>() : nullptr;
  const T* const bias = ctx.has(2) ? ctx.in(2).as<T>() : nullptr;
  int32_t* const expert = ctx.out(0).as<int32_t>();
  uint8_t* const stay = ctx.out(1).as<uint8_t>();
  auto* const scratch =
      ctx.scratch.Take<Candidate<T>>(ctx.pool.num_threads() * row.list_size());
  ForEachRow(ctx.pool, p.dim(0), experts, [&](int64_t i, int worker) {
    stay[i] = row.Select(
        in + i * experts, mask != nullptr ? mask + i * experts : nullptr, bias,
        scratch + worker * row.list_size(), expert + i * row.k_max);
  });
  return absl::OkStatus();
}

template <typename T>
absl::Status RunTopKSelect(const KernelContext& ctx) {
  const TensorView& score = ctx.in(0);
  const TopKRow<T> row(ctx.attrs(), score.dim(1));
  const T* const in = score.as<T>();
  const T* const bias = ctx.has(1) ? ctx.in(1).as<T>() : nullptr;
  int32_t* const out = ctx.out(0).as<int32_t>();
  const auto scratch = row.TakeScratch(ctx.pool.num_threads(), ctx.scratch);
  ForEachRow(ctx.pool, score.dim(0), row.experts, [&](int64_t i, int worker) {
    row.Select(in + i * row.experts, bias, scratch, worker, out + i * row.k);
  });
  return absl::OkStatus();
}

// Each expert marks the tokens that it takes, then each token lists the experts
// that took it.
template <typename T>
absl::Status RunExpertChoice(const KernelContext& ctx) {
  const int64_t t = ctx.in(0).dim(0);
  const int64_t experts = ctx.in(0).dim(1);
  const int64_t k = ctx.attrs().Int("k");
  const int64_t capacity = (t * k + experts - 1) / experts;
  const T* const score = ctx.in(0).as<T>();
  int32_t* const out = ctx.out(0).as<int32_t>();
  auto* const taken = ctx.scratch.Take<uint8_t>(t * experts);
  const int64_t list_size = std::max(t, experts);
  auto* const scratch =
      ctx.scratch.Take<Candidate<T>>(ctx.pool.num_threads() * list_size);

  ctx.pool.ParallelFor(experts, [&](int64_t e, int worker) {
    Candidate<T>* const list = scratch + worker * list_size;
    for (int64_t i = 0; i < t; ++i) {
      list[i] = MakeCandidate(score[i * experts + e], i);
      taken[i * experts + e] = 0;
    }
    std::nth_element(list, list + std::max<int64_t>(capacity, 1) - 1, list + t,
                     std::greater<>());
    for (int64_t j = 0; j < capacity; ++j) {
      taken[IndexOf(list[j]) * experts + e] = 1;
    }
  });
  ForEachRow(ctx.pool, t, experts, [&](int64_t i, int worker) {
    Best<T> best(scratch + worker * list_size, experts);
    for (int64_t e = 0; e < experts; ++e) {
      if (taken[i * experts + e] == 0) continue;
      best.Offer(score[i * experts + e], e);
    }
    int32_t* const row = out + i * experts;
    std::fill_n(row, experts, -1);
    for (int64_t j = 0; j < best.size(); ++j) row[j] = best[j];
  });
  return absl::OkStatus();
}

absl::Status RunBalancedSelect(const KernelContext& ctx) {
  const int64_t experts = ctx.in(0).dim(1);
  const int64_t k = ctx.attrs().Int("k");
  int32_t* const out = ctx.out(0).as<int32_t>();
  const int64_t slots = ctx.in(0).dim(0) * k;
  for (int64_t s = 0; s < slots; ++s) {
    out[s] = static_cast<int32_t>(s % experts);
  }
  return absl::OkStatus();
}

template <typename T>
void RegisterFor(KernelRegistry& kernels) {
  const DType dtype = DTypeOf<T>();
  kernels.Register(kCoarseFilter, dtype, RunCoarseFilter<T>);
  kernels.Register(kAdaptiveSelect, dtype, RunAdaptiveSelect<T>);
  kernels.Register(kTopKSelect, dtype, RunTopKSelect<T>);
  kernels.Register(kExpertChoice, dtype, RunExpertChoice<T>);
  kernels.Register(kBalancedSelect, dtype, RunBalancedSelect);
}

}  // namespace

void RegisterGateSelectKernels(KernelRegistry& kernels) {
  RegisterFor<float>(kernels);
  RegisterFor<double>(kernels);
}

}  // namespace strata
