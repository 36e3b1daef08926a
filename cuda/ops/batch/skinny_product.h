// Products of up to 64 rows by BF16 weights in Hopper's tensor cores: what
// decoding a batch of sequences does, bound by reading the weights once.
//
//   x [t, pitch] BF16
//     |
//     +-- W0 [n0, k] --> y0 [t, n0] F32, BF16 or both     up to two products of
//     +-- W1 [n1, k] --> y1 [t, n1]                       one x, in one launch
//
// Weights are loaded before earlier kernels have ended (ahead.cuh), so no
// earlier kernel of the program may write them. Sums are F32, in a fixed order
// that depends on the shapes and the bound alone.

#ifndef CUDA_OPS_BATCH_SKINNY_PRODUCT_H_
#define CUDA_OPS_BATCH_SKINNY_PRODUCT_H_

#include <cstdint>

#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

constexpr int64_t kMaxSkinnyRows = 64;

struct SkinnyWeights {
  const __nv_bfloat16* w = nullptr;  // [n, k]
  int64_t n = 0;
  // [t, y_pitch], one of them or both.
  float* y = nullptr;
  __nv_bfloat16* rounded = nullptr;
  const float* add = nullptr;  // As y, added to it; or null.
  int64_t y_pitch = 0;         // 0: as many as there are columns.
  // y = silu(first half) * second half of the n columns.
  bool swiglu = false;
};

struct SkinnyProductArgs {
  Extent tokens;  // At most kMaxSkinnyRows.
  int64_t k = 0;
  const __nv_bfloat16* x = nullptr;
  int64_t pitch = 0;

  // Where `rows_of_x` is not 0, group g of so many rows of a weight has the k
  // columns of x from g * x_step on, and goes to y from g * y_step on: a
  // product a head.
  int64_t rows_of_x = 0, x_step = 0, y_step = 0;

  SkinnyWeights product[2];
  int num_products = 1;

  // The kernel ahead writes neither x nor anything else that is read here, and
  // has itself waited for what does before it lets this one begin: then they
  // run beside each other, and only storing waits for it.
  bool x_ahead = false;
};

// Whether there is a kernel: 1 to 64 rows, n, k and what lies between rows
// multiples of 8, k and rows_of_x of 64 where there are groups; pointers
// aligned to 16 bytes; a Hopper GPU.
bool HasSkinnyProduct(const SkinnyProductArgs& args);

// Only enqueues. Returns cudaErrorInvalidValue where there is no kernel.
cudaError_t SkinnyProduct(const SkinnyProductArgs& args, cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_OPS_BATCH_SKINNY_PRODUCT_H_
