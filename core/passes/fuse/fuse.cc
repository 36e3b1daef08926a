#include "core/passes/fuse/fuse.h"

#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/passes/fuse/patterns.h"
#include "core/passes/fuse/rewriter.h"
#include "core/tensor/dtype.h"

namespace strata {

Graph Fuse(const Graph& graph, const FuseOptions& options) {
  Rewriter rewriter(graph, [&](const OpDef& op, DType dtype) {
    return !options.has_kernel || options.has_kernel(op, dtype);
  });
  if (options.stays) rewriter.KeepReadersOf(options.stays);
  FuseAttentionInputs(rewriter);
  FuseLatentInputs(rewriter);
  FuseAttentionOutputs(rewriter);
  FuseDenseLayers(rewriter);
  FuseRoutedExperts(rewriter);
  FuseTierGates(rewriter);
  FuseExperts(rewriter);
  return rewriter.Finish();
}

}  // namespace strata
