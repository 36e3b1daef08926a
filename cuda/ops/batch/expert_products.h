// The experts of a batch by packed weights, rows being grouped by expert, and
// what each token has beside them, the shared expert, as one more of them:
//
//   x [rows, d], shared x [t, d] BF16
//     |  SwiGluProducts: by gate_up, SwiGLU in registers
//   hidden [rows, width], shared hidden [t, shared width] BF16
//     |  DownProducts
//   y [rows, d], shared y [t, d] F32
//
// Two launches of as many blocks as a Hopper GPU runs at once, each with as
// much of all weights as the others, wherever experts begin and end, so that
// memory is asked for weights from the first instruction to the last. Each
// weight is read once for eight rows of an expert. Weights count exactly, as
// codes less their zero (quant_product.h), and sums are F32, in an order that
// depends on nothing.

#ifndef CUDA_OPS_BATCH_EXPERT_PRODUCTS_H_
#define CUDA_OPS_BATCH_EXPERT_PRODUCTS_H_

#include <cstdint>

#include "cuda/kernels/quant_product.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// Rows and the weights that they meet.
struct ExpertRows {
  PackedRows w;                      // [E, n, bytes] or [n, bytes]
  const __nv_bfloat16* x = nullptr;  // [rows, w.k]
  const int32_t* index = nullptr;    // [rows]: which of x a row is; or null.
  // One of them: of SwiGLU, [rows, n / 2], the first half of n being gates; and
  // of other products [rows, n].
  __nv_bfloat16* hidden = nullptr;
  float* y = nullptr;
};

struct ExpertProductArgs {
  ExpertRows experts;
  int num_experts = 0;
  const int32_t* offset = nullptr;  // [E + 1], rising from 0.
  int64_t max_rows = 0;             // That offsets may say.
  // Of each token, if its w has data.
  ExpertRows shared;
  Extent tokens;
  // [ExpertProductParts()], for sums that warps pass to each other.
  float* parts = nullptr;
};

int64_t ExpertProductParts();

// Whether there are kernels for both products: Hopper; up to 64 tokens and 256
// experts; weights of one format that is symmetric in groups, and whole pieces
// of 16 bytes, of up to 4,608 columns, and rows multiples of 32.
bool HasExpertProducts(const ExpertProductArgs& args);

// Only enqueue. Offsets may be written by the kernel ahead of the first, and by
// none that runs later: the second reads them, and weights, before the first
// has ended (ahead.cuh). Return cudaErrorInvalidValue where there is no kernel.
cudaError_t SwiGluProducts(const ExpertProductArgs& args, cudaStream_t stream);
cudaError_t DownProducts(const ExpertProductArgs& args, cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_OPS_BATCH_EXPERT_PRODUCTS_H_
