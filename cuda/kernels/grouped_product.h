// Products of an expert each, in BF16 with F32 sums, in Hopper's tensor cores.
//
//   GroupedProduct       y  [rows, n] = x [rows, k] w[e]^T, or x w[e];
//                        or the SwiGLU of that, [rows, n / 2]
//   GroupedWeightGrad    dw [E, n, k] : dw[e] = dy[rows of e]^T x[rows of e],
//                        added to what was there times *keep, if wanted
//
//   offset [E + 1]   expert e has rows offset[e] .. offset[e + 1] - 1
//
// Offsets are read on the device. Where they do not rise from 0 to the number
// of rows, results are wrong, but no memory beyond the operands' is touched.
// Expert e's result depends on its own rows alone, bit for bit.
//
// n and k are multiples of 8, and operands aligned to 16 bytes (HasTiles).
// Functions only enqueue; they return cudaErrorNotSupported where the GPU is
// no Hopper, and cudaErrorInvalidValue for other shapes.

#ifndef CUDA_KERNELS_GROUPED_PRODUCT_H_
#define CUDA_KERNELS_GROUPED_PRODUCT_H_

#include <cstdint>

#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

constexpr int kMaxGroupedExperts = 2047;

struct GroupedProductArgs {
  Extent rows;
  int num_experts = 0;
  int64_t n = 0, k = 0;
  const __nv_bfloat16* x = nullptr;  // [rows, k]
  const __nv_bfloat16* w = nullptr;  // [E, n, k] if transposed, else [E, k, n]
  bool transposed = true;
  const int32_t* offset = nullptr;  // [E + 1]
  void* y = nullptr;                // [rows, n], F32 or BF16
  bool bf16_y = false;
  // y [rows, n / 2] = silu(x w[e]^T's first half) times the second. Wants a
  // transposed w and n a multiple of 256 (HasSwiGluTiles).
  bool swiglu = false;
  // Blocks claim tiles as they come to them, so that one which finds no room
  // until others are done leaves its tiles to them; else each has a fixed
  // share. The bits are the same. False: as it is enqueued beside something or
  // not (cuda/runtime/side_lane_streams.h).
  bool claims = false;
  // Begins before the kernel ahead of it has ended (ahead.cuh), and lets the
  // one behind it do so.
  bool ahead = false;
  // With `ahead`, and without claims: the kernel ahead writes neither w nor
  // `offset` nor the number of rows, and has itself waited for what does before
  // it lets this one begin. Then the first weights come before it has ended.
  bool weights_ahead = false;
};

// Bound by the tensor cores for many rows an expert; for few, by reading once
// the weights of experts that have any.
cudaError_t GroupedProduct(const GroupedProductArgs& args, cudaStream_t stream);

struct GroupedWeightGradArgs {
  Extent rows;
  int num_experts = 0;
  int64_t n = 0, k = 0;
  const __nv_bfloat16* dy = nullptr;  // [rows, n]
  const __nv_bfloat16* x = nullptr;   // [rows, k]
  const int32_t* offset = nullptr;    // [E + 1]
  void* dw = nullptr;  // [E, n, k], F32 or BF16; zeros where there are no rows
  bool bf16_dw = false;
  // On the device: what the sum so far counts for; null, or 0: it is forgotten,
  // whatever it holds. Sums are rounded once, when they are stored.
  const float* keep = nullptr;
  // dw of experts without rows stays as it is.
  bool skips_empty = false;
  bool claims = false;  // As GroupedProductArgs'.
};

cudaError_t GroupedWeightGrad(const GroupedWeightGradArgs& args,
                              cudaStream_t stream);

// Whether these extents can be tiled at all; addresses are checked by the call.
inline bool HasTiles(int64_t n, int64_t k, int64_t num_experts) {
  return n > 0 && k > 0 && n % 8 == 0 && k % 8 == 0 &&
         num_experts <= kMaxGroupedExperts;
}

// Whether there are tiles that hold both halves of a SwiGLU.
inline bool HasSwiGluTiles(int64_t n, int64_t k, int64_t num_experts) {
  return HasTiles(n, k, num_experts) && n % 256 == 0;
}

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_GROUPED_PRODUCT_H_
