#include "core/cpu/rope.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/cpu/row_chunks.h"
#include "core/cpu/vector_math.h"
#include "core/ops/rope.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

// y[2j] and y[2j + 1] from x[2j] and x[2j + 1].
template <typename T>
void RotatePairs(const T* x, const T* cos, const T* sin, int64_t n, T* y) {
  for (int64_t j = 0; j < n; ++j) {
    const T a = x[2 * j], b = x[2 * j + 1];
    y[2 * j] = a * cos[j] - b * sin[j];
    y[2 * j + 1] = a * sin[j] + b * cos[j];
  }
}

template <typename T>
absl::Status RunRope(const KernelContext& ctx) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const int64_t t = ctx.in(0).dim(0), columns = ctx.in(0).dim(1);
  if (t == 0) return absl::OkStatus();
  const T* const x = ctx.in(0).as<T>();                     // [t, heads * d]
  const int32_t* const position = ctx.in(1).as<int32_t>();  // [t]
  const int32_t* const seq_len =                            // [t]
      ctx.has(2) ? ctx.in(2).as<int32_t>() : nullptr;
  T* const y = ctx.out(0).as<T>();  // [t, heads * d]
  const RopeOptions options = RopeOptionsOf(ctx.attrs());
  const int64_t num_heads = options.num_heads;
  const int64_t d = columns / num_heads;
  const int64_t r = options.rotary_dim;
  const int64_t half = r / 2;
  const double size = options.magnitude;
  const double turn = ctx.attrs().Int("inverse") != 0 ? -size : size;

  int32_t max_position = 0;
  for (int64_t i = 0; i < t; ++i) {
    if (position[i] < 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "token ", i, " has position ", position[i], "; want 0 or more"));
    }
    max_position = std::max(max_position, position[i]);
  }
  // Sines are slow, so each position's are made once, unless positions are
  // far apart, as in decoding, or of several frequencies: then each token's.
  const bool one_length =
      seq_len == nullptr || options.stretch != RopeStretch::kDynamic ||
      std::all_of(seq_len, seq_len + t,
                  [&](int32_t n) { return n == seq_len[0]; });
  const bool by_position = one_length && max_position < t;
  const int64_t table_rows = by_position ? max_position + 1 : t;
  T* const cos = ctx.scratch.Take<T>(table_rows * half);  // [table_rows, half]
  T* const sin = ctx.scratch.Take<T>(table_rows * half);  // [table_rows, half]
  // [1 or t, half]
  double* const frequencies =
      ctx.scratch.Take<double>((one_length ? 1 : t) * half);
  for (int64_t i = 0; i < (one_length ? 1 : t); ++i) {
    RopeFrequencies(options,
                    seq_len != nullptr ? seq_len[i] : int64_t{max_position} + 1,
                    frequencies + i * half);
  }
  // A sine costs about 32 times as much as what an element usually does.
  ForRowChunks(
      ctx.pool, table_rows, 32 * half, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
          const double at = by_position ? row : position[row];
          const double* const frequency =
              frequencies + (one_length ? 0 : row * half);
          for (int64_t j = 0; j < half; ++j) {
            const double angle = at * frequency[j];
            cos[row * half + j] = static_cast<T>(size * std::cos(angle));
            sin[row * half + j] = static_cast<T>(turn * std::sin(angle));
          }
        }
      });
  ForRowChunks(ctx.pool, t, columns, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = by_position ? position[i] : i;
      for (int64_t head = 0; head < num_heads; ++head) {
        const int64_t start = i * columns + head * d;
        const int64_t low = start + d - r, high = low + half;
        std::copy(x + start, x + low, y + start);
        if (options.interleaved) {
          RotatePairs(x + low, cos + row * half, sin + row * half, half,
                      y + low);
          continue;
        }
        vec.rotate(x + low, x + high, cos + row * half, sin + row * half, half,
                   y + low, y + high);
      }
    }
  });
  return absl::OkStatus();
}

}  // namespace

void RegisterRopeKernels(KernelRegistry& kernels) {
  kernels.Register(kRope, DType::kF32, RunRope<float>);
  kernels.Register(kRope, DType::kF64, RunRope<double>);
}

}  // namespace strata
