// What the copy engine must know of a BF16 tensor in device memory.
//
//   tensor  [depth, rows, columns]   rows `pitch` apart, matrices `stride`
//     |
//     |  a box [1, box_rows, 64] at a time, beyond the tensor filled with zeros
//     v
//   tile    [box_rows, 64]           swizzled by 128 bytes, in shared memory

#ifndef CUDA_KERNELS_TENSOR_MAP_H_
#define CUDA_KERNELS_TENSOR_MAP_H_

#include <cstdint>

#include "cuda.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

struct BoxedTensor {
  const void* data = nullptr;                // Aligned to 16 bytes.
  int64_t columns = 1, rows = 1, depth = 1;  // Each at least 1.
  int64_t pitch = 1, stride = 1;             // In elements, multiples of 8.
  int box_rows = 64;                         // At most 256.
};

// Returns cudaErrorNotSupported if the driver does not know tensor maps, and
// cudaErrorInvalidValue if it takes no such tensor.
cudaError_t MakeTensorMap(const BoxedTensor& tensor, CUtensorMap* map);

// Bytes [matrices, rows, row_bytes] in boxes of [box_matrices, box_rows,
// box_bytes]: those of 128 bytes are swizzled as tiles of BF16 are, others lie
// as they are. A box has up to 256 elements of a row; what of it is beyond the
// tensor is filled with zeros.
struct BoxedBytes {
  const void* data = nullptr;        // Aligned to 16 bytes.
  int64_t matrices = 1;              // One behind the other.
  int64_t rows = 1, row_bytes = 16;  // Of a row a multiple of 16.
  int box_matrices = 1;              // Of these and of rows at most 256.
  int box_rows = 128, box_bytes = 128;
  int element_bytes = 1;  // Or 8.
  int l2_bytes = 256;     // Or 128: that come to L2 with any of them.
};

// As MakeTensorMap.
cudaError_t MakeByteMap(const BoxedBytes& tensor, CUtensorMap* map);

// Whether the current device runs code of sm_90a: what the kernels with tensor
// maps are.
bool IsHopper();

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_TENSOR_MAP_H_
