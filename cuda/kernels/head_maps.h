// Heads beside each other in a row, as tensors of the copy engine.

#ifndef CUDA_KERNELS_HEAD_MAPS_H_
#define CUDA_KERNELS_HEAD_MAPS_H_

#include <cstdint>

#include "cuda/kernels/tensor_map.h"
#include "cuda_bf16.h"

namespace strata::gpu {

// data [tokens, heads * dim] as [heads, tokens, dim], in boxes of `box_rows`.
inline cudaError_t MapHeads(const __nv_bfloat16* data, int64_t tokens,
                            int64_t heads, int64_t dim, int box_rows,
                            CUtensorMap* map) {
  BoxedTensor tensor;
  tensor.data = data;
  tensor.columns = dim;
  tensor.rows = tokens;
  tensor.depth = heads;
  tensor.pitch = heads * dim;
  tensor.stride = dim;
  tensor.box_rows = box_rows;
  return MakeTensorMap(tensor, map);
}

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_HEAD_MAPS_H_
