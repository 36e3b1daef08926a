#include "cuda/ops/decode/weight_rows.h"

#include <cstdint>

#include "cuda/kernels/quant_product.h"

namespace strata::gpu {

bool HasTiles(const PackedRows& w) {
  if (w.data == nullptr || w.n <= 0 || w.k <= 0) return false;
  if (w.row_bytes % 16 != 0 || w.k % UnitColumns(w) != 0 ||
      reinterpret_cast<uintptr_t>(w.data) % 16 != 0) {
    return false;
  }
  if (w.bits == kBf16Bits) return true;
  return w.symmetric && w.group_shift >= 5 && w.group_shift <= 7;
}

}  // namespace strata::gpu
