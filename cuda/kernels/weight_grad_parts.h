// A weight gradient by expert (grouped_product.h), with the rows of experts in
// parts that are summed up apart.
//
//   rows of expert e    part 0 | part 1 | ... | the rest      `rows` each
//                          |        |              |
//   room                [n, k]   [n, k]         [n, k]        F32
//                          \        |             /
//   dw[e]                    sum of them, in order
//
// Few experts with many rows have fewer tiles of dw than there are
// multiprocessors, and each tile sums over all rows of its expert: two experts
// of 14,000 rows each, as a rank of four has of eight, keep 6 to 8 of 132 busy,
// six times as long as eight experts of a quarter of the rows do.
//
// Where parts end depends on the shapes and on the expert's own rows alone, and
// so does dw[e], bit for bit.

#ifndef CUDA_KERNELS_WEIGHT_GRAD_PARTS_H_
#define CUDA_KERNELS_WEIGHT_GRAD_PARTS_H_

#include <cstddef>
#include <cstdint>

#include "cuda/kernels/grouped_product.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

struct WeightGradParts {
  int64_t rows = 0;  // Of a part, but for an expert's last.
  int count = 0;     // At most; 0: one part an expert, which needs no room.
  size_t room = 0;   // Bytes.
};

// Of these shapes; rows count at their bound.
WeightGradParts PartsOf(const GroupedWeightGradArgs& args);

// GroupedWeightGrad() by parts; `room` is aligned to 256 bytes, and null where
// there is none. Only enqueues.
cudaError_t GroupedWeightGradByParts(const GroupedWeightGradArgs& args,
                                     const WeightGradParts& parts, void* room,
                                     cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_WEIGHT_GRAD_PARTS_H_
