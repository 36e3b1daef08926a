// Products with quantised weights as they lie in memory: packed rows
// (core/quant/packed_rows.h), of INT4 or INT8.
//
//   x [rows, k] F32 or BF16, w [n, bytes] or [E, n, bytes]
//       ->  y [rows, n] F32 = x w^T
//
//   offset [E + 1]   expert e has rows offset[e] .. offset[e + 1] - 1
//
//                        weights are        rows of x are       rows at a time
//   QuantProduct         exact, as codes    three BF16, exact,  8 or 16
//                        less their zero    or one
//   QuantProductSm90     rounded to BF16    one BF16            64, 128 or 256
//
// Nothing is packed anew: the only copy of a weight is the one that was loaded.
// Rows may have any length and any alignment; those that are a multiple of 8
// bytes are read faster. Offsets are read on the device; where they do not rise
// from 0 to the number of rows `fault` is told, and results are wrong, but no
// memory beyond the operands' is touched. A row's result depends on that row
// and on how many there are at the bound, not on what is in others. Functions
// only enqueue.

#ifndef CUDA_KERNELS_QUANT_PRODUCT_H_
#define CUDA_KERNELS_QUANT_PRODUCT_H_

#include <cstdint>

#include "cuda/kernels/few_rows_stream_plan.h"
#include "cuda/kernels/many_rows_plan.h"
#include "cuda/kernels/resident_plan.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// The weights of a product: every row has the same format.
struct PackedRows {
  const uint8_t* data = nullptr;  // [n, row_bytes], or [E, n, row_bytes]
  int64_t n = 0, row_bytes = 0;
  int bits = 4;          // 4 or 8.
  int k = 0;             // Columns.
  int group_shift = 31;  // Of a group: 1 << group_shift, or all.
  int num_groups = 1, code_bytes = 0;
  bool symmetric = true;
};

// Of rows of k columns, laid out as PackedRow (core/quant) says.
PackedRows DescribePacked(const uint8_t* data, int64_t n, int64_t k, int bits,
                          int64_t group, bool symmetric);

struct QuantProductArgs {
  Extent rows;
  const float* x = nullptr;  // [rows, k]
  // [rows, k], in place of x, of which nothing is rounded then. Aligned to 16
  // bytes.
  const __nv_bfloat16* x_bf16 = nullptr;
  PackedRows w;
  float* y = nullptr;  // [rows, n]
  // Of a product an expert; none where num_experts is 0.
  int num_experts = 0;
  const int32_t* offset = nullptr;
  FaultSink fault;
};

// How long `rounded` must be: rows of BF16 with what fills them up, or the sums
// of blocks that share columns.
int64_t RoundedElements(const QuantProductArgs& args);

// Whether QuantProduct with `rounded` keeps x in shared memory while it streams
// w (few_rows_stream.cuh), which is the fastest for up to 16 dense rows, and 64
// of weights of up to 2 MB: of w symmetric in groups, and whole pieces of 16
// bytes; not of one row by more than 32 times 128 bytes of codes (31 in groups
// of 32).
bool HasStreamedProduct(const QuantProductArgs& args);

// Integer products of each group are summed in F32 and scaled behind that.
// Without `rounded` x counts in three pieces, if it is F32, or as it is: the
// F32 product up to the order of its sums. With it, scratch aligned to 256
// bytes, x rounded to BF16 is all that is lost, if |x| is below 2^63 where the
// product is streamed (bare_codes.cuh); returns cudaErrorNotSupported then on
// GPUs other than Hopper. Bound by reading w once for up to 16 rows (of an
// expert). Dense weights are read before earlier kernels have ended
// (ahead.cuh), so no earlier kernel of the program may write them. Returns
// cudaErrorInvalidValue if the choice of a plan of a streamed product, for
// tests, cannot be.
cudaError_t QuantProduct(const QuantProductArgs& args, __nv_bfloat16* rounded,
                         cudaStream_t stream, const StreamChoice& only = {});

// What a product of small weights has besides y = x w^T, in its one launch.
struct ResidentMore {
  // [rows, n], added to y, and may be y; or null. Of x in BF16, by blocks of up
  // to 64 rows of x that keep all of their share.
  const float* add = nullptr;
  // A second product of x, [rows, its n] = x w^T, where w.data is not null: w
  // as the first in all but n. Then nothing is added.
  PackedRows w;
  float* y = nullptr;
};

// Whether QuantProductSm90 keeps a block's share in shared memory, all of it
// or, of INT4 by x in BF16, as much as finds room (sm90_quant_resident.cuh),
// which is the fastest for 17 to 256 dense rows, and more, of weights so small
// that all blocks run at once, and with `more`, or of INT4 by x in BF16, for 9
// and more; of w symmetric in groups, and whole pieces of 16 bytes. x in F32
// that has no such product is rounded before, if it then has.
bool HasResidentProduct(const QuantProductArgs& args,
                        const ResidentMore& more = {});

// The same in Hopper's wider products, in tiles of 8, 16, 64, 128 or 256 rows.
// Tiles of 8 and 16 keep weights exact, and have the products of 9 to 16 rows.
// For tiles of more, scales of symmetric rows must be below 2^63. x in BF16 is
// read as it lies in tiles of 256 rows of INT4 and by products of small
// weights, if k is a multiple of 8; else it is put in order in `rounded`.
// Returns cudaErrorInvalidValue if the choice of a tile, for tests, cannot be:
// of ManyRowsChoice always in the kernel for many rows.
cudaError_t QuantProductSm90(const QuantProductArgs& args,
                             __nv_bfloat16* rounded, cudaStream_t stream,
                             const ManyRowsChoice& only = {});

// Its products that HasResidentProduct(), or any of such weights by a choice,
// for tests: cudaErrorInvalidValue if that cannot be.
cudaError_t ResidentProduct(const QuantProductArgs& args,
                            const ResidentChoice& only, cudaStream_t stream,
                            const ResidentMore& more = {});

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_QUANT_PRODUCT_H_
