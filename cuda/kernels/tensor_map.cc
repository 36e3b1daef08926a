#include "cuda/kernels/tensor_map.h"

#include <algorithm>
#include <cstdint>

#include "cuda.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// From the driver that is here, so that programs start without one.
Encode FindEncode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result;
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                       /*cudaVersion=*/12000, cudaEnableDefault,
                                       &result) != cudaSuccess ||
      result != cudaDriverEntryPointSuccess) {
    return nullptr;
  }
  return reinterpret_cast<Encode>(function);
}

}  // namespace

cudaError_t MakeTensorMap(const BoxedTensor& tensor, CUtensorMap* map) {
  static const Encode encode = FindEncode();
  if (encode == nullptr) return cudaErrorNotSupported;
  const cuuint64_t size[3] = {static_cast<cuuint64_t>(tensor.columns),
                              static_cast<cuuint64_t>(tensor.rows),
                              static_cast<cuuint64_t>(tensor.depth)};
  // Of a single matrix the stride is not used, but must be a valid one.
  const int64_t stride =
      tensor.depth > 1 ? tensor.stride : tensor.pitch * tensor.rows;
  const cuuint64_t bytes[2] = {static_cast<cuuint64_t>(2 * tensor.pitch),
                               static_cast<cuuint64_t>(2 * stride)};
  const cuuint32_t box[3] = {64, static_cast<cuuint32_t>(tensor.box_rows), 1};
  const cuuint32_t step[3] = {1, 1, 1};
  const CUresult result = encode(
      map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, /*tensorRank=*/3,
      const_cast<void*>(tensor.data), size, bytes, box, step,
      CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t MakeByteMap(const BoxedBytes& tensor, CUtensorMap* map) {
  static const Encode encode = FindEncode();
  if (encode == nullptr) return cudaErrorNotSupported;
  const auto row_bytes = static_cast<cuuint64_t>(tensor.row_bytes);
  const auto rows = static_cast<cuuint64_t>(tensor.rows);
  const auto element = static_cast<cuuint32_t>(tensor.element_bytes);
  const cuuint64_t size[3] = {row_bytes / element, rows,
                              static_cast<cuuint64_t>(tensor.matrices)};
  const cuuint64_t bytes[2] = {row_bytes, row_bytes * rows};
  const cuuint32_t box[3] = {
      static_cast<cuuint32_t>(tensor.box_bytes) / element,
      static_cast<cuuint32_t>(tensor.box_rows),
      static_cast<cuuint32_t>(tensor.box_matrices)};
  const cuuint32_t step[3] = {1, 1, 1};
  const CUresult result =
      encode(map,
             element == 8 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT64
                          : CU_TENSOR_MAP_DATA_TYPE_UINT8,
             /*tensorRank=*/3, const_cast<void*>(tensor.data), size, bytes, box,
             step, CU_TENSOR_MAP_INTERLEAVE_NONE,
             tensor.box_bytes == 128 ? CU_TENSOR_MAP_SWIZZLE_128B
                                     : CU_TENSOR_MAP_SWIZZLE_NONE,
             tensor.l2_bytes == 128 ? CU_TENSOR_MAP_L2_PROMOTION_L2_128B
                                    : CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

bool IsHopper() {
  int device = 0, major = 0;
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor,
                                device) == cudaSuccess &&
         major == 9;
}

}  // namespace strata::gpu
