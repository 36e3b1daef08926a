// Fusion: rewrites of an inference graph in which a few composite operators
// stand for the basic ones of a block (C3; docs/fusion.md).
//
//   RmsNorm, MatMul x 3, Rope x 2, CacheWrite x 2            --> NormQkv
//                                        (or PackedCacheWrite)
//   RmsNorm .. LatentQuery and CacheWrite of latents         --> LatentQkv
//   attention over a cache, MatMul, Add                      --> AttendProject
//   RmsNorm, MatMul, SwiGlu, MatMul, Add                     --> NormMlp
//   RmsNorm, gate, choice, DispatchPlan, DispatchRows,
//     GroupedMatMul, SwiGlu, GroupedMatMul, CombineRows, Add --> RoutedExperts
//   DispatchRows .. CombineRows, Add or AddRows              -->
//   ExpertsResidual
//
// A pattern matches only where what lies between is read by nobody else and is
// no output of the graph; all else stays as it is. The graph that is fused
// stays runnable: it is what the fused one is held to.

#ifndef CORE_PASSES_FUSE_FUSE_H_
#define CORE_PASSES_FUSE_FUSE_H_

#include <functional>
#include <vector>

#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/tensor/dtype.h"

namespace strata {

struct FuseOptions {
  // Whether the backend has a kernel; operators that have none are not used.
  // Null: it has all.
  std::function<bool(const OpDef& op, DType dtype)> has_kernel;
  // Whether what would become `op` stays as it is, as a later pass could not
  // make of it what it has to: `inputs` are those of `op`, null where one is
  // absent. Null: nothing does.
  std::function<bool(const OpDef& op, const std::vector<const Value*>& inputs)>
      stays;
};

// `graph` fused as far as the patterns and the options allow. Names of inputs,
// state and outputs are the same.
Graph Fuse(const Graph& graph, const FuseOptions& options = {});

}  // namespace strata

#endif  // CORE_PASSES_FUSE_FUSE_H_
