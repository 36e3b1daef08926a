// CPU kernels of core/ops/collective.h and core/ops/collective_rows.h.

#ifndef CORE_CPU_COLLECTIVE_H_
#define CORE_CPU_COLLECTIVE_H_

#include "absl/status/statusor.h"
#include "core/parallel/communicator.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"

namespace strata {

// The group that the node's attribute "group" names.
//
// Returns FAILED_PRECONDITION if the backend has none of that name, or one of
// other than "ranks" ranks if the node has that attribute.
absl::StatusOr<Communicator*> GroupOf(const KernelContext& ctx);

void RegisterCollectiveKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_COLLECTIVE_H_
