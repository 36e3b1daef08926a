#include "core/cpu/dispatch.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/cpu/row_chunks.h"
#include "core/cpu/vector_math.h"
#include "core/ops/dispatch.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

// A counting sort, stable, in three sweeps over fixed chunks of slots:
//
//   count   [chunks, E]   how many of each expert a chunk has
//   prefix over experts, then chunks: where each chunk's rows of an expert
//   start fill    each chunk writes its own rows
//
// Chunks have at least 4 E slots, so that the middle sweep, which is serial,
// is a small part of the work.
absl::Status RunDispatchPlan(const KernelContext& ctx) {
  const TensorView& expert = ctx.in(0);
  const int64_t num_experts = ctx.attrs().Int("num_experts");
  const int64_t num_slots = expert.num_elements();
  const int64_t chunk = std::max<int64_t>(1024, 4 * num_experts);
  const int64_t num_chunks = (num_slots + chunk - 1) / chunk;
  const int32_t* const of_slot = expert.as<int32_t>();
  int32_t* const row_slot = ctx.out(0).as<int32_t>();
  int32_t* const slot_row = ctx.out(1).as<int32_t>();
  int32_t* const offset = ctx.out(2).as<int32_t>();
  int32_t* const rows = ctx.out(3).as<int32_t>();
  auto* const next = ctx.scratch.Take<int32_t>(num_chunks * num_experts);
  auto* const bad_slot = ctx.scratch.Take<int64_t>(num_chunks);

  ctx.pool.ParallelFor(num_chunks, [&](int64_t c) {
    const int64_t end = std::min(num_slots, (c + 1) * chunk);
    int32_t* const count = next + c * num_experts;
    std::fill_n(count, num_experts, 0);
    bad_slot[c] = -1;
    for (int64_t s = c * chunk; s < end; ++s) {
      const int32_t e = of_slot[s];
      if (e >= 0 && e < num_experts) {
        ++count[e];
      } else if (e != -1) {
        bad_slot[c] = s;
      }
    }
  });
  for (int64_t c = 0; c < num_chunks; ++c) {
    if (bad_slot[c] >= 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("slot ", bad_slot[c], " names expert ",
                       of_slot[bad_slot[c]], "; want -1 to ", num_experts - 1));
    }
  }
  int32_t row = 0;
  for (int64_t e = 0; e < num_experts; ++e) {
    offset[e] = row;
    for (int64_t c = 0; c < num_chunks; ++c) {
      const int32_t count = next[c * num_experts + e];
      next[c * num_experts + e] = row;
      row += count;
    }
  }
  offset[num_experts] = row;
  *rows = row;
  ctx.pool.ParallelFor(num_chunks, [&](int64_t c) {
    const int64_t end = std::min(num_slots, (c + 1) * chunk);
    int32_t* const at = next + c * num_experts;
    for (int64_t s = c * chunk; s < end; ++s) {
      const int32_t e = of_slot[s];
      slot_row[s] = e >= 0 ? at[e]++ : -1;
      if (e >= 0) row_slot[slot_row[s]] = static_cast<int32_t>(s);
    }
  });
  return absl::OkStatus();
}

template <typename T>
absl::Status RunDispatchRows(const KernelContext& ctx) {
  const int64_t columns = ctx.in(0).dim(1);
  const int64_t k = ctx.in(2).dim(1);
  const T* const x = ctx.in(0).as<T>();
  const int32_t* const row_slot = ctx.in(1).as<int32_t>();
  const T* const weight = ctx.has(3) ? ctx.in(3).as<T>() : nullptr;
  T* const out = ctx.out(0).as<T>();
  const VectorMath<T>& vec = VectorMath<T>::Get();
  ForRowChunks(
      ctx.pool, ctx.in(1).dim(0), columns, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
          const T* const from = x + row_slot[r] / k * columns;
          if (weight != nullptr) {
            vec.scale(weight[row_slot[r]], from, columns, out + r * columns);
          } else {
            std::copy_n(from, columns, out + r * columns);
          }
        }
      });
  return absl::OkStatus();
}

template <typename T>
absl::Status RunCombineRows(const KernelContext& ctx) {
  const int64_t columns = ctx.in(0).dim(1);
  const int64_t k = ctx.in(2).dim(1);
  const T* const y = ctx.in(0).as<T>();
  const int32_t* const slot_row = ctx.in(2).as<int32_t>();
  const T* const weight = ctx.has(3) ? ctx.in(3).as<T>() : nullptr;
  T* const out = ctx.out(0).as<T>();
  const VectorMath<T>& vec = VectorMath<T>::Get();
  ForRowChunks(
      ctx.pool, ctx.in(2).dim(0), columns * k, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          T* const sum = out + i * columns;
          std::fill_n(sum, columns, T{0});
          for (int64_t s = i * k; s < (i + 1) * k; ++s) {
            if (slot_row[s] < 0) continue;
            vec.axpy(weight != nullptr ? weight[s] : T{1},
                     y + slot_row[s] * columns, columns, sum);
          }
          for (const int add : {kCombineRowsAdd, kCombineRowsAdd + 1}) {
            if (!ctx.has(add)) break;
            vec.add(sum, ctx.in(add).as<T>() + i * columns, columns, sum);
          }
        }
      });
  return absl::OkStatus();
}

template <typename T>
absl::Status RunRowDot(const KernelContext& ctx) {
  const int64_t columns = ctx.in(0).dim(1);
  const int64_t k = ctx.in(2).dim(1);
  const T* const dout = ctx.in(0).as<T>();
  const T* const y = ctx.in(1).as<T>();
  const int32_t* const slot_row = ctx.in(2).as<int32_t>();
  T* const dweight = ctx.out(0).as<T>();
  const VectorMath<T>& vec = VectorMath<T>::Get();
  ForRowChunks(
      ctx.pool, ctx.in(2).dim(0), columns * k, [&](int64_t begin, int64_t end) {
        for (int64_t s = begin * k; s < end * k; ++s) {
          dweight[s] = slot_row[s] < 0
                           ? T{0}
                           : vec.dot(dout + s / k * columns,
                                     y + slot_row[s] * columns, columns);
        }
      });
  return absl::OkStatus();
}

// Serial: a byte a token, next to rows of hundreds of floats elsewhere.
absl::Status RunCompactRows(const KernelContext& ctx) {
  const int32_t* const index = ctx.has(0) ? ctx.in(0).as<int32_t>() : nullptr;
  const uint8_t* const stay = ctx.in(1).as<uint8_t>();
  const int64_t t = ctx.in(1).dim(0);
  int32_t* const out = ctx.out(0).as<int32_t>();
  int32_t count = 0;
  for (int64_t i = 0; i < t; ++i) {
    if (stay[i] == 0) continue;
    out[count++] = index != nullptr ? index[i] : static_cast<int32_t>(i);
  }
  *ctx.out(1).as<int32_t>() = count;
  return absl::OkStatus();
}

// Returns INVALID_ARGUMENT if an index is not a row.
absl::Status CheckIndex(const TensorView& index, int64_t num_rows) {
  const int32_t* const row = index.as<int32_t>();
  for (int64_t i = 0; i < index.num_elements(); ++i) {
    if (row[i] < 0 || row[i] >= num_rows) {
      return absl::InvalidArgumentError(absl::StrCat(
          "index ", i, " is row ", row[i], "; want 0 to ", num_rows - 1));
    }
  }
  return absl::OkStatus();
}

template <typename T>
absl::Status RunGatherRows(const KernelContext& ctx) {
  const TensorView& x = ctx.in(0);
  const TensorView& index = ctx.in(1);
  if (absl::Status s = CheckIndex(index, x.dim(0)); !s.ok()) return s;
  const int64_t columns = x.dim(1);
  const T* const from = x.as<T>();
  const int32_t* const row = index.as<int32_t>();
  T* const out = ctx.out(0).as<T>();
  ForRowChunks(
      ctx.pool, index.dim(0), columns, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          std::copy_n(from + row[i] * columns, columns, out + i * columns);
        }
      });
  return absl::OkStatus();
}

// Rows of `x` [t, d], or zeros without it, to `out`; then `y`'s rows are added
// to those that `index` names. An index names a row at most once, so that no
// two pieces of work write the same place.
template <typename T>
absl::Status AddAtRows(const KernelContext& ctx, const T* x,
                       const TensorView& y, const TensorView& index) {
  const TensorView& out = ctx.out(0);
  if (absl::Status s = CheckIndex(index, out.dim(0)); !s.ok()) return s;
  const int64_t columns = out.dim(1);
  T* const to = out.as<T>();
  ForRowChunks(ctx.pool, out.dim(0), columns, [&](int64_t begin, int64_t end) {
    const int64_t n = (end - begin) * columns;
    if (x != nullptr) {
      std::copy_n(x + begin * columns, n, to + begin * columns);
    } else {
      std::fill_n(to + begin * columns, n, T{0});
    }
  });
  const T* const from = y.as<T>();
  const int32_t* const row = index.as<int32_t>();
  const VectorMath<T>& vec = VectorMath<T>::Get();
  ForRowChunks(ctx.pool, index.dim(0), columns,
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i) {
                   T* const at = to + row[i] * columns;
                   vec.add(at, from + i * columns, columns, at);
                 }
               });
  return absl::OkStatus();
}

template <typename T>
absl::Status RunScatterRows(const KernelContext& ctx) {
  return AddAtRows<T>(ctx, nullptr, ctx.in(0), ctx.in(1));
}

template <typename T>
absl::Status RunAddRows(const KernelContext& ctx) {
  return AddAtRows<T>(ctx, ctx.in(0).as<T>(), ctx.in(1), ctx.in(2));
}

template <typename T>
void RegisterFor(KernelRegistry& kernels) {
  const DType dtype = DTypeOf<T>();
  kernels.Register(kDispatchRows, dtype, RunDispatchRows<T>);
  kernels.Register(kCombineRows, dtype, RunCombineRows<T>);
  kernels.Register(kRowDot, dtype, RunRowDot<T>);
  kernels.Register(kGatherRows, dtype, RunGatherRows<T>);
  kernels.Register(kScatterRows, dtype, RunScatterRows<T>);
  kernels.Register(kAddRows, dtype, RunAddRows<T>);
}

}  // namespace

void RegisterDispatchKernels(KernelRegistry& kernels) {
  kernels.Register(kDispatchPlan, DType::kI32, RunDispatchPlan);
  kernels.Register(kCompactRows, DType::kI32, RunCompactRows);
  RegisterFor<float>(kernels);
  RegisterFor<double>(kernels);
}

}  // namespace strata
