// Fused operators whose weights are packed rows of quantised numbers
// (core/quant/packed_rows.h): a twin "Quant..." of each that some backend has a
// kernel for.
//
//   RoutedExperts, w F32 [n, k]   -->   QuantRoutedExperts, w U8 [n, bytes]
//
// The same inputs, outputs and attributes; some of its weights are packed, each
// in the format that the length of its rows says beside the columns that it
// must have. Defined by the operators that the fused one stands for, with the
// weights that the packed ones stand for; a kernel may round rows as those of
// QuantMatMul do. core/passes/quantize_weights makes them; no gradient.

#ifndef CORE_OPS_QUANT_FUSED_H_
#define CORE_OPS_QUANT_FUSED_H_

#include <cstdint>
#include <vector>

#include "core/graph/op_def.h"

namespace strata {

extern const OpDef kQuantRoutedExperts;
extern const OpDef kQuantNormMlp;
extern const OpDef kQuantNormQkv;
extern const OpDef kQuantCachedAttendProject;
extern const OpDef kQuantPagedAttendProject;
extern const OpDef kQuantPackedAttendProject;
extern const OpDef kQuantLatentQkv;
extern const OpDef kQuantCachedLatentAttendProject;
extern const OpDef kQuantPagedLatentAttendProject;
extern const OpDef kQuantPackedLatentAttendProject;

// An input that may be packed, and how many columns it has, as the others say.
struct QuantWeight {
  int input = 0;
  int64_t (*columns)(const OpView& op) = nullptr;
};

struct QuantFused {
  const OpDef* op = nullptr;
  const OpDef* plain = nullptr;  // What it is the twin of.
  std::vector<QuantWeight> weights;

  bool MayBePacked(int input) const;
};

// The twin of a fused operator; null if it has none.
const QuantFused* FindQuantFused(const OpDef& plain);

}  // namespace strata

#endif  // CORE_OPS_QUANT_FUSED_H_
