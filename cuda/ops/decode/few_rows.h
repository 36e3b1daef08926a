// Products of up to eight rows by weights in BF16, INT4 or INT8, in the tensor
// cores: what decoding a few sequences does, bound by reading the weights once.
//
//   x [t, k] F32, normalised where there is a gain --> rounded to BF16
//     |
//     +-- W0 [n0, k] --> y0 [t, n0] F32       up to three products of one x, in
//     +-- W1 [n1, k] --> y1 [t, n1]           one launch, a block 16 rows of a
//     +-- W2 [n2, k] --> y2 [t, n2]           weight; sums are F32
//
// A gain is multiplied by before x is rounded, its root mean square divides the
// sums. One weight of many rows goes to as many blocks as run at once.
//
// Packed weights count as the integers that they are, times their groups'
// scales: x is all that is rounded.
//
// Weights are loaded before earlier kernels have ended (ahead.cuh), so no
// earlier kernel of the program may write them.

#ifndef CUDA_OPS_DECODE_FEW_ROWS_H_
#define CUDA_OPS_DECODE_FEW_ROWS_H_

#include <cstdint>

#include "cuda/kernels/quant_product.h"
#include "cuda/ops/decode/weight_rows.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

constexpr int64_t kMaxFewRows = 8;

struct FewRowsProduct {
  PackedRows w;                // [n, k], n a multiple of 16.
  float* y = nullptr;          // [t, n]; of SwiGLU [t, n / 2]
  const float* add = nullptr;  // As y, added to it; or null.
  // y = silu(first half) * second half of the n columns.
  bool swiglu = false;
};

struct FewRowsArgs {
  Extent tokens;  // At most kMaxFewRows.
  int64_t k = 0;

  // Of token i, x + i * pitch. Where `rows_of_x` is not 0, each so many rows
  // of the weight have the next k columns of it.
  const float* x = nullptr;
  int64_t pitch = 0;
  int64_t rows_of_x = 0;
  const float* gain = nullptr;  // [k]: rows are normalised by their root mean
  float eps = 0;                // square, as RmsNorm does.
  __nv_bfloat16* normed = nullptr;  // [t, k], if wanted.

  // x in pieces of attention, which are joined (heads/decode_attention.h): x is
  // partial [t, pitch / k, splits, k].
  int splits = 1;
  const float* max = nullptr;
  const float* sum = nullptr;

  FewRowsProduct product[3];
  int num_products = 1;
};

// Of rows normalised by their root mean square, without products.
inline FewRowsArgs NormedRows(const Operand& x, const Operand& gain,
                              float eps) {
  FewRowsArgs args;
  args.tokens = x.rows();
  args.k = args.pitch = x.dim(1);
  args.x = x.as<float>();
  args.gain = gain.as<float>();
  args.eps = eps;
  return args;
}

// Whether there is a kernel: at most eight rows, k up to 8192 and of BF16 a
// multiple of 256, n of 16; pointers aligned to 16 bytes; a GPU with BF16
// tensor cores. Packed weights as HasTiles says.
bool HasFewRows(int64_t rows, const PackedRows& w);

// The same of all products: of the formats that are packed there is one.
// Pieces of attention are multiplied by BF16.
bool HasFewRowsProducts(const FewRowsArgs& args);

cudaError_t FewRowsProducts(const FewRowsArgs& args, cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_OPS_DECODE_FEW_ROWS_H_
