// Fusion as far as a backend has kernels for it.

#ifndef CORE_RUNTIME_FUSE_FOR_H_
#define CORE_RUNTIME_FUSE_FOR_H_

#include <cstddef>
#include <vector>

#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/fed_norm.h"
#include "core/ops/fused_gate.h"
#include "core/ops/quant_fused.h"
#include "core/ops/tier_route.h"
#include "core/passes/fuse/fuse.h"
#include "core/runtime/backend.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"

namespace strata {

// `graph` fused (core/passes/fuse/fuse.h) by the operators that `backend` runs.
// Products by weights that `state` holds in integers stay, unless it also runs
// the fused operator's twin for packed weights (core/ops/quant_fused.h):
// Program::Compile makes them what they are (core/passes/quantize_weights.h).
inline Graph FuseFor(const Graph& graph, const Backend& backend,
                     const StateStore& state) {
  const auto runs = [&](const OpDef& op, DType dtype) {
    return backend.FindKernel(op.name, dtype) != nullptr;
  };
  FuseOptions options;
  options.has_kernel = runs;
  options.stays = [&](const OpDef& op,
                      const std::vector<const Value*>& inputs) {
    for (size_t i = 0; i < inputs.size(); ++i) {
      const Value* const value = inputs[i];
      if (value == nullptr || value->role != Role::kParameter ||
          !state.Has(value->name)) {
        continue;
      }
      const TensorView& here = state.Peek(value->name);
      if (here.dtype != DType::kU8) continue;
      const QuantFused* const twin = FindQuantFused(op);
      if (twin == nullptr || !twin->MayBePacked(static_cast<int>(i)) ||
          here.rank() != value->type.rank() || !runs(*twin->op, DType::kF32)) {
        return true;
      }
    }
    return false;
  };
  return Fuse(graph, options);
}

// Whether `backend` runs the operators of fused training graphs
// (DecoderOptions::fused) on values of that type.
inline bool FusesTraining(const Backend& backend, DType dtype) {
  for (const OpDef* const op :
       {&kExpertContext, &kExpertContextGrad, &kFedNorm, &kFedNormInputGrad,
        &kFedNormWeightGrad, &kTierRoute, &kTierRouteGrad}) {
    if (backend.FindKernel(op->name, dtype) == nullptr) return false;
  }
  return true;
}

}  // namespace strata

#endif  // CORE_RUNTIME_FUSE_FOR_H_
