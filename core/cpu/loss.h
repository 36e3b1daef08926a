// CPU kernels of core/ops/loss.h.

#ifndef CORE_CPU_LOSS_H_
#define CORE_CPU_LOSS_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "core/runtime/kernel_registry.h"

namespace strata {

// How many of the `t` tokens count, which are those with a target; those
// without have -1.
//
// Returns INVALID_ARGUMENT if a target is not in [-1, vocab).
absl::StatusOr<int64_t> CountTargets(const int32_t* target, int64_t t,
                                     int64_t vocab);

void RegisterLossKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_LOSS_H_
