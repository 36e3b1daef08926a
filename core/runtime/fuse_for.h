// Fusion as far as a backend has kernels for it.

#ifndef CORE_RUNTIME_FUSE_FOR_H_
#define CORE_RUNTIME_FUSE_FOR_H_

#include <string>

#include "core/graph/graph.h"
#include "core/passes/fuse/fuse.h"
#include "core/runtime/backend.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"

namespace strata {

// `graph` fused (core/passes/fuse/fuse.h) by the operators that `backend` runs.
// Weights that `state` holds in integers stay with the products that read them.
inline Graph FuseFor(const Graph& graph, const Backend& backend,
                     const StateStore& state) {
  FuseOptions options;
  options.has_kernel = [&](const OpDef& op, DType dtype) {
    return backend.FindKernel(op.name, dtype) != nullptr;
  };
  options.stays = [&](const std::string& parameter) {
    return state.Has(parameter) && state.Peek(parameter).dtype == DType::kU8;
  };
  return Fuse(graph, options);
}

}  // namespace strata

#endif  // CORE_RUNTIME_FUSE_FOR_H_
