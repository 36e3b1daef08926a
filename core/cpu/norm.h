// CPU kernels of core/ops/norm.h, and how gains' gradients are summed.

#ifndef CORE_CPU_NORM_H_
#define CORE_CPU_NORM_H_

#include <algorithm>
#include <cstdint>

#include "core/cpu/vector_math.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"

namespace strata {

void RegisterNormKernels(KernelRegistry& kernels);

// Rows whose shares of a gain's gradient are added up by one piece of work.
inline constexpr int64_t kGainRows = 64;

// sum [n] = what add(row, worker, sum) adds for each of `rows` rows, by blocks
// of rows, then over blocks.
template <typename T, typename Fn>
void SumOverRows(const KernelContext& ctx, int64_t rows, int64_t n, T* sum,
                 Fn add) {
  const int64_t num_blocks = (rows + kGainRows - 1) / kGainRows;
  T* const partial = ctx.scratch.Take<T>(num_blocks * n);  // [num_blocks, n]
  ctx.pool.ParallelFor(num_blocks, [&](int64_t block, int worker) {
    T* const part = partial + block * n;
    std::fill_n(part, n, T{0});
    const int64_t end = std::min(rows, (block + 1) * kGainRows);
    for (int64_t i = block * kGainRows; i < end; ++i) add(i, worker, part);
  });
  std::fill_n(sum, n, T{0});
  for (int64_t block = 0; block < num_blocks; ++block) {
    VectorMath<T>::Get().add(sum, partial + block * n, n, sum);
  }
}

}  // namespace strata

#endif  // CORE_CPU_NORM_H_
