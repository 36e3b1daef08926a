#include <cstdint>

#include "cuda/kernels/few_rows_product.h"
#include "cuda/kernels/quant_product.h"
#include "cuda/kernels/sm90_quant_product.h"
#include "cuda/kernels/tensor_map.h"
#include "cuda_bf16.h"

namespace strata::gpu {

PackedRows DescribePacked(const uint8_t* data, int64_t n, int64_t k, int bits,
                          int64_t group, bool symmetric) {
  PackedRows w;
  w.data = data;
  w.n = n;
  w.bits = bits;
  w.k = static_cast<int>(k);
  w.group_shift = group == 32 ? 5 : group == 64 ? 6 : group == 128 ? 7 : 31;
  w.num_groups = group == 0 ? 1 : static_cast<int>(k / group);
  w.code_bytes = static_cast<int>((k + 63) / 64 * 64 * bits / 8);
  w.symmetric = symmetric;
  w.row_bytes = w.code_bytes + int64_t{w.num_groups} * (symmetric ? 2 : 3);
  return w;
}

cudaError_t QuantProduct(const QuantProductArgs& args, __nv_bfloat16* rounded,
                         cudaStream_t stream) {
  if (args.rows.bound == 0 || args.w.n == 0) return cudaSuccess;
  if (rounded != nullptr && !IsHopper()) return cudaErrorNotSupported;
  return args.w.bits == 4 ? FewRowsInt4(args, rounded, stream)
                          : FewRowsInt8(args, rounded, stream);
}

cudaError_t QuantProductSm90(const QuantProductArgs& args,
                             __nv_bfloat16* rounded, cudaStream_t stream,
                             const ManyRowsChoice& only) {
  if (args.rows.bound == 0 || args.w.n == 0) return cudaSuccess;
  if (!IsHopper()) return cudaErrorNotSupported;
  return args.w.bits == 4 ? ManyRowsInt4(args, only, rounded, stream)
                          : ManyRowsInt8(args, only, rounded, stream);
}

}  // namespace strata::gpu
