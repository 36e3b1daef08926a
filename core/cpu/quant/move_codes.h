// CPU kernel of core/ops/move_codes.h.

#ifndef CORE_CPU_QUANT_MOVE_CODES_H_
#define CORE_CPU_QUANT_MOVE_CODES_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

void RegisterMoveCodesKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_QUANT_MOVE_CODES_H_
