// Fusion as far as a backend has kernels for it.

#ifndef CORE_RUNTIME_FUSE_FOR_H_
#define CORE_RUNTIME_FUSE_FOR_H_

#include "core/graph/graph.h"
#include "core/passes/fuse/fuse.h"
#include "core/runtime/backend.h"

namespace strata {

// `graph` fused (core/passes/fuse/fuse.h) by the operators that `backend` runs.
inline Graph FuseFor(const Graph& graph, const Backend& backend) {
  FuseOptions options;
  options.has_kernel = [&](const OpDef& op, DType dtype) {
    return backend.FindKernel(op.name, dtype) != nullptr;
  };
  return Fuse(graph, options);
}

}  // namespace strata

#endif  // CORE_RUNTIME_FUSE_FOR_H_
